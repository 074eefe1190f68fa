"""Whether what a user gave as an affine or a linear function is one, as far as a few points tell.

The engine solves the problem that `flatten` made: the function's slope at zero, or its values at the unit vectors, as a
matrix. So the functions themselves are called once more, beside that matrix.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from kkt_solvers.data.constraints import Curved, Equality
from kkt_solvers.data.flatten import flatten, structure_of_y
from kkt_solvers.data.matrices import Map
from kkt_solvers.data.objectives import Quadratic
from kkt_solvers.data.problem import FlatProblem, Problem
from kkt_solvers.numerics.arrays import cast, is_concrete, is_finite, largest, signs

_NOT_AFFINE = (
    "equality is not affine in y: its slope changes from point to point. An equality must be h(y, *args) = A y - b; a "
    "nonlinear one makes the problem nonconvex. An inequality g(y) <= 0 with a convex g is Problem(inequality=g)"
)
_NOT_LINEAR = (
    "P, a function, is not linear and symmetric: P(2 u + v) must be 2 P(u) + P(v), and u'P(v) must be v'P(u). Write "
    "the objective as a function f(y, *args) instead, or pass the symmetric part"
)


def _probe(n: int, dtype: Any, which: int) -> jax.Array:
    """A point without a pattern, its entries of the size of one."""
    fractions = (0.37 * which + 0.61 * np.arange(n)) % 1
    return signs(jnp.ones(n, dtype)) * jnp.asarray(1 + fractions, dtype)


def _given(problem: Problem) -> tuple[Any, Any]:
    """The equality and `P`, each where it is a function, else `None`."""
    equality, objective = problem.equality, problem.objective
    P = objective.P if isinstance(objective, Quadratic) else None
    return None if isinstance(equality, Equality) else equality, P.function if isinstance(P, Map) else None


def _affine(problem: Problem, init: Any, flat: FlatProblem, *points: jax.Array) -> jax.Array:
    equality, _ = _given(problem)
    if equality is None:
        return jnp.ones((), bool)
    y = structure_of_y(problem, init)
    dtype, n = flat.box.lower.dtype, flat.box.lower.size - flat.slacks
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), y))
    args, known = cast(problem.args, dtype), flat.equality
    known = known.affine if isinstance(known, Curved) else known

    def agrees(x: jax.Array) -> jax.Array:
        y, x = x[:n], x if x.size == n else x.at[n:].set(0)
        value = ravel_pytree(equality(unravel(y), *args))[0]
        expected, terms = (jnp.ravel(of_rows)[: value.size] for of_rows in (known.residual(x), known.terms(x)))
        size = largest(jnp.maximum(terms, jnp.abs(jnp.ravel(known.target)[: value.size])))
        off = largest(value - expected) > float(jnp.finfo(dtype).eps) ** 0.5 * size
        return ~off | ~is_finite(y)

    return functools.reduce(jnp.logical_and, [agrees(point) for point in points])


def _linear(problem: Problem, dtype: Any) -> jax.Array:
    _, function = _given(problem)
    if function is None:
        return jnp.ones((), bool)
    assert isinstance(problem.objective, Quadratic)
    n = problem.objective.q.size
    u, v = _probe(n, dtype, 0), _probe(n, dtype, 1)[::-1]
    Pu, Pv, both = function(u), function(v), function(2 * u + v)
    small = float(jnp.finfo(dtype).eps) ** 0.5
    size = largest(Pu, Pv)
    additive = largest(both - 2 * Pu - Pv) <= 10 * small * size
    symmetric = jnp.abs(jnp.vdot(u, Pv) - jnp.vdot(v, Pu)) <= small * jnp.sum(jnp.abs(u * Pv) + jnp.abs(v * Pu))
    return additive & symmetric


def functions_hold(problem: Problem, init: Any, flat: FlatProblem, point: jax.Array) -> jax.Array:
    """Traced: `equality` at the point and at another one agrees with its matrix, and `P` is linear and symmetric."""
    if _given(problem) == (None, None):
        return jnp.ones((), bool)
    dtype = flat.box.lower.dtype
    return _affine(problem, init, flat, _probe(point.size, dtype, 0), point) & _linear(problem, dtype)


@jax.jit
def _flags(problem: Problem, init: Any) -> tuple[jax.Array, jax.Array]:
    flat, _, _ = flatten(problem, init)
    dtype = flat.box.lower.dtype
    return _affine(problem, init, flat, _probe(flat.box.lower.size, dtype, 0)), _linear(problem, dtype)


def check_functions(problem: Problem, init: Any) -> None:
    """Raise for a function that can be seen not to be what it should; with tracers the status is `INVALID`."""
    if _given(problem) == (None, None) or not is_concrete((problem, init)):
        return
    with jax.ensure_compile_time_eval():
        affine, linear = _flags(problem, init)
        if not bool(affine):
            raise ValueError(_NOT_AFFINE)
        if not bool(linear):
            raise ValueError(_NOT_LINEAR)
