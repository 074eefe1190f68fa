"""Scaling of a problem so that the entries of its KKT matrix are of the same size."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.residuals import gradient_and_terms
from kkt_solvers.data.constraints import Affine, Curved
from kkt_solvers.data.inequality import linearised
from kkt_solvers.data.matrices import Sparse, Zero
from kkt_solvers.data.objectives import Quadratic, Smooth, as_it_is
from kkt_solvers.data.problem import Box, FlatProblem
from kkt_solvers.data.sizes import unit_of_data
from kkt_solvers.data.slacks import WithSlacks
from kkt_solvers.data.stages import BlockDiagonal
from kkt_solvers.numerics.arrays import largest, power_of_two, tree_where, where

_ROUNDS = 10


class Scales(NamedTuple):
    """`y = variables v`, rows of the equality times `rows`, objective times `objective`. So the multipliers of the
    scaled problem, times `rows / objective` and `1 / (variables objective)`, are those of the problem."""

    variables: jax.Array
    rows: jax.Array
    objective: jax.Array


def equilibrated(problem: FlatProblem, init: jax.Array, *, structured: bool) -> tuple[FlatProblem, Scales]:
    """The problem, scaled: Ruiz's iteration [ruiz2001] on `[[P, A'], [A, 0]]`, and the objective by `P` and `q`.

    For a general function the rows of the equality are scaled to one, all variables by one unit, and the objective by
    its curvature near `init`. For a separable objective only the rows are scaled. The equality becomes an `Affine`, or
    stays a `Curved`, whose rows are scaled by their size at `init`; matrices become dense unless `structured`.
    """
    objective, linear = problem.objective, linearised(problem, init)
    A = linear.rows
    P = objective.matrix if isinstance(objective, Quadratic) else Zero(init)
    if not structured:
        A, P = A.densified(), P.densified() if isinstance(P, (Sparse, BlockDiagonal)) else P

    def sizes(d: jax.Array, e: jax.Array) -> tuple[jax.Array, jax.Array]:
        columns = jnp.maximum(d * A.largest(0, e), P.column_sizes(d))
        size = e * A.largest(1, d)
        return where(columns > 0, columns, 1.0), where(size > 0, size, 1.0)

    def once(state: Any) -> Any:
        d, e, _, count = state
        columns, rows = sizes(d, e)
        uneven = largest(columns - 1, rows - 1) > 0.1
        d, e = tree_where(uneven, (d * jax.lax.rsqrt(columns), e * jax.lax.rsqrt(rows)), (d, e))
        return d, e, uneven, count + 1

    start = jnp.ones_like(init), jnp.ones(A.shape[0], init.dtype), jnp.ones((), bool), jnp.zeros((), jnp.int32)
    if problem.is_quadratic:
        d, e, *_ = jax.lax.while_loop(lambda state: state[2] & (state[3] < _ROUNDS), once, start)
    else:
        rows = A.rows if isinstance(A, WithSlacks) else A
        size = rows.largest(1)
        d, e = start[0], 1 / where(size > 0, size, 1.0)
    target = jnp.ravel(linear.equality.target)
    c, scaled = jnp.ones((), init.dtype), objective
    if isinstance(objective, Quadratic):
        # The unit of the variables is the size of the right-hand side: a proximal term counts in that unit. If the
        # right-hand side is small, it is the size of the unconstrained minimiser, up to one.
        curvature, slope = largest(P.column_sizes(d)), largest(d * objective.q)
        free = where(curvature > 0, slope / where(curvature > 0, curvature, 1.0), 1.0)
        affine = target.size - (problem.slacks if isinstance(problem.equality, Curved) else 0)
        unit = jnp.maximum(largest((e * target)[:affine]), jnp.clip(free, 0.0, 1.0))
        unit = _no_less_than_init(problem, init, where(unit > 0, unit, 1.0))
        d, e = unit * d, e / unit
        size = largest(d * objective.q, P.column_sizes(d))
        c = 1 / where(size > 0, size, 1.0)
        scaled = Quadratic(P.congruent(d, c), c * d * objective.q)
    elif isinstance(objective, Smooth):
        unit = _no_less_than_init(problem, init, unit_of_data(problem))
        unit = power_of_two(unit)
        d, e = unit * d, e / unit
        at = jnp.clip(jnp.clip(init, -unit, unit), problem.box.lower, problem.box.upper)
        _, terms = gradient_and_terms(objective, at, problem.box, unit)
        slope, bend = (largest(where(jnp.isfinite(term), term, 0)) for term in terms)
        # By the curvature, if there is any: a slope that is the same for all may be of any size.
        size = unit * where(bend > float(jnp.finfo(init.dtype).eps) ** 0.5 * slope, bend, slope)
        c = 1 / power_of_two(where((size > 0) & jnp.isfinite(size), size, 1.0))
        scaled = Smooth(_scaled_function, (c, unit, objective), as_it_is, objective.size)
    if not problem.is_quadratic and problem.slacks:
        d, e = _with_slacks(problem, init, d, e)
    box = Box(problem.box.lower / d, problem.box.upper / d)
    rows: Any = Affine(A.scaled(e, d), e * target)
    if isinstance(problem.equality, Curved):
        rows = problem.equality.scaled(e, d)
    return FlatProblem(scaled, rows, box, slacks=problem.slacks), Scales(d, e, c)


def _no_less_than_init(problem: FlatProblem, init: jax.Array, unit: jax.Array) -> jax.Array:
    """With inequalities that are functions, whose data are not to be seen, the start tells the size of `y` too."""
    if problem.is_quadratic or not problem.slacks:
        return unit
    return jnp.maximum(unit, largest(init[: init.size - problem.slacks]))


def _with_slacks(problem: FlatProblem, init: jax.Array, d: jax.Array, e: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The scales, those of slack variables such that their entries are one. A curved row that is flat at `init`, as a
    ball's in its middle, has the size of its value there."""
    p, y = problem.slacks, init.size - problem.slacks
    own = e[-p:]
    if isinstance(problem.equality, Curved):
        size = jnp.abs(problem.equality.values(init[:y]))
        own = where(jnp.isfinite(size), jnp.minimum(own, 1 / where(size > 0, size, 1.0)), own)
    return d.at[y:].set(1 / own), e.at[-p:].set(own)


def _scaled_function(v: jax.Array, c: jax.Array, unit: jax.Array, objective: Smooth) -> jax.Array:
    return c * objective(unit * v)
