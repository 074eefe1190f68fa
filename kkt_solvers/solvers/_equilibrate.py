"""Scaling of a problem so that the entries of its KKT matrix are of the same size."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from kkt_solvers._arrays import dense, largest, largest_entries, scaled_matrix
from kkt_solvers._objectives import LowRank, Quadratic, Smooth, SymmetricMap
from kkt_solvers._problem import Affine, Box, FlatProblem
from kkt_solvers._residuals import gradient_and_terms, unit_of_data

_ROUNDS = 10


class Scales(NamedTuple):
    """`y = variables v`, rows of the equality times `rows`, objective times `objective`. So the multipliers of the
    scaled problem, times `rows / objective` and `1 / (variables objective)`, are those of the problem."""

    variables: jax.Array
    rows: jax.Array
    objective: jax.Array


def equilibrated(problem: FlatProblem, init: jax.Array, *, sparse: bool) -> tuple[FlatProblem, Scales]:
    """The problem, scaled: Ruiz's iteration [ruiz2001] on `[[P, A'], [A, 0]]`, and the objective by `P` and `q`.

    Of a function the rows of the equality are scaled, and all variables alike, to about one, and the objective by
    its curvature beside `init`; of a separable objective the rows only. The equality becomes an `Affine`; matrices
    become dense unless `sparse`.
    """
    objective = problem.objective
    A = problem.equality.rows(init.size)
    P = objective.P if isinstance(objective, Quadratic) else None
    if not sparse:
        A, P = dense(A), dense(P) if isinstance(P, BCOO) else P
    quadratic = isinstance(objective, Quadratic)

    def sizes(d: jax.Array, e: jax.Array) -> tuple[jax.Array, jax.Array]:
        columns = jnp.maximum(d * largest_entries(A, 0, e), column_sizes(P, d))
        size = e * largest_entries(A, 1, d)
        columns = columns if quadratic else jnp.ones_like(columns)
        return jnp.where(columns > 0, columns, 1.0), jnp.where(size > 0, size, 1.0)

    def once(state: Any) -> Any:
        d, e, columns, size, count = state
        d, e = d * jax.lax.rsqrt(columns), e * jax.lax.rsqrt(size)
        return d, e, *sizes(d, e), count + 1

    def uneven(state: Any) -> jax.Array:
        _, _, columns, size, count = state
        return (largest(columns - 1, size - 1) > 0.1) & (count < _ROUNDS)

    d, e = jnp.ones_like(init), jnp.ones(A.shape[0], init.dtype)
    d, e, *_ = jax.lax.while_loop(uneven, once, (d, e, *sizes(d, e), jnp.zeros((), jnp.int32)))
    target = jnp.ravel(problem.equality.target)
    c, scaled = jnp.ones((), init.dtype), objective
    if isinstance(objective, Quadratic):
        # Variables of the size of the right-hand side: a proximal term counts in that unit. Where that is small, they
        # may be as large as the unconstrained minimiser, but no larger than one, which needs no other unit.
        curvature, slope = largest(column_sizes(P, d)), largest(d * objective.q)
        free = jnp.where(curvature > 0, slope / jnp.where(curvature > 0, curvature, 1.0), 1.0)
        unit = jnp.maximum(largest(e * target), jnp.clip(free, 0.0, 1.0))
        unit = jnp.where(unit > 0, unit, 1.0)
        d, e = unit * d, e / unit
        size = largest(d * objective.q, column_sizes(P, d))
        c = 1 / jnp.where(size > 0, size, 1.0)
        scaled = Quadratic(scaled_hessian(P, d, c), c * d * objective.q)
    elif isinstance(objective, Smooth):
        unit = jnp.exp2(jnp.round(jnp.log2(unit_of_data(problem))))  # a power of two
        d, e = unit * d, e / unit
        at = jnp.clip(jnp.clip(init, -unit, unit), problem.box.lower, problem.box.upper)
        _, terms = gradient_and_terms(objective, at, problem.box)
        slope, bend = (largest(jnp.where(jnp.isfinite(term), term, 0)) for term in terms)
        # By the curvature, if there is any: a slope that is the same for all may be of any size.
        size = unit * jnp.where(bend > float(jnp.finfo(init.dtype).eps) ** 0.5 * slope, bend, slope)
        c = jnp.exp2(-jnp.round(jnp.log2(jnp.where((size > 0) & jnp.isfinite(size), size, 1.0))))
        scaled = Smooth(_scaled_function, (c, unit, objective), _same)
    box = Box(problem.box.lower / d, problem.box.upper / d)
    return FlatProblem(scaled, Affine(scaled_matrix(e, A, d), e * target), box), Scales(d, e, c)


def _scaled_function(v: jax.Array, c: jax.Array, unit: jax.Array, objective: Smooth) -> jax.Array:
    return c * objective(unit * v)


def _same(v: jax.Array) -> jax.Array:
    return v


def column_sizes(P: Any, d: jax.Array) -> jax.Array:
    """The largest absolute entry of each column of `diag(d) P diag(d)`, or a bound of it."""
    if P is None or isinstance(P, SymmetricMap):  # whose entries are not to be seen
        return jnp.zeros_like(d)
    if isinstance(P, LowRank):  # positive semidefinite: |P_ij|^2 <= P_ii P_jj
        root = d * jnp.sqrt(jnp.abs(P.diagonal) + jnp.sum(P.factor**2, axis=1))
        return root * jnp.max(root, initial=0)
    return jnp.abs(P) * d * d if P.ndim == 1 else d * largest_entries(P, 0, d)


def scaled_hessian(P: Any, d: jax.Array, c: jax.Array) -> Any:
    """`c diag(d) P diag(d)`, of the same structure as `P`."""
    if P is None:
        return None
    if isinstance(P, LowRank):
        return LowRank(c * d * d * P.diagonal, jnp.sqrt(c) * d[:, None] * P.factor)
    if isinstance(P, SymmetricMap):
        return SymmetricMap(lambda v: c * d * (P @ (d * v)))
    return c * d * d * P if P.ndim == 1 else scaled_matrix(c * d, P, d)
