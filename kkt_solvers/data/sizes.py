"""Sizes of what a problem is made of, from its data alone: what residuals are measured beside."""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.data.constraints import Curved, Operator
from kkt_solvers.data.matrices import as_matrix
from kkt_solvers.data.objectives import Quadratic, is_linear
from kkt_solvers.data.problem import Box, FlatProblem
from kkt_solvers.numerics.arrays import largest, relative, where

MANY = 100.0  # times the natural size: a larger `y` is far out, perhaps on its way to infinity


def _inverse(size: jax.Array) -> jax.Array:
    """`1 / |size|`, and zero for zero."""
    size = jnp.abs(size)
    return 1 / where(size > 0, size, jnp.inf)


def sizes_of_data(problem: FlatProblem) -> tuple[jax.Array, jax.Array]:
    """The inverse of the nearest bound of each coordinate that is not zero, zero where there is none; and the least
    size of `y` that can meet each row of the equality, zero where `b = 0`."""
    box, equality = problem.box, problem.equality
    equality = equality.affine if isinstance(equality, Curved) else equality
    target = jnp.ravel(equality.target)
    if isinstance(equality, Operator):
        terms = jnp.ravel(equality.terms(jnp.ones_like(box.lower)))
    else:
        terms = as_matrix(equality.rows(box.lower.size)).sums(1)
    rows = relative(where(terms > 0, jnp.abs(target), 0.0), terms)
    return jnp.maximum(_inverse(box.lower), _inverse(box.upper)), rows


def natural_sizes(problem: FlatProblem) -> tuple[jax.Array, jax.Array]:
    """Sizes of `y` and of each of its coordinates, from the data alone, whatever the units of the variables.

    The size of `y` is the smallest one that can satisfy the equality. If `b = 0`, it is the size of the unconstrained
    minimiser of a quadratic objective or the nearest bound, whichever is smaller, and one if there is neither. The size
    of a coordinate is its nearest nonzero bound, or else the smallest value that satisfies a row of the equality by
    itself; zero if there is none.
    """
    if problem.natural is not None:
        return problem.natural
    objective, equality = problem.objective, problem.equality
    nearest, rows = sizes_of_data(problem)
    by_rows, closest = jnp.max(rows, initial=0), jnp.max(nearest)
    if isinstance(objective, Quadratic) and not is_linear(objective):
        closest = jnp.maximum(closest, largest(objective.matrix.diagonal_entries()) * _inverse(largest(objective.q)))
    size = where(by_rows > 0, by_rows, where(closest > 0, 1 / closest, 1.0))
    if not isinstance(equality, Operator) and equality.target.size:
        # A right-hand side that is rounding beside the others is none.
        kept = rows > float(jnp.finfo(rows.dtype).eps) ** 0.5 * by_rows
        target = where(kept, jnp.ravel(equality.target), 0.0)
        nearest = where(nearest > 0, nearest, problem.rows.largest(0, _inverse(target)))
    return size, _inverse(nearest)


def is_far_out(problem: FlatProblem, y: jax.Array) -> jax.Array:
    """Whether the vector `y` is many times the natural size."""
    return largest(y) > MANY * natural_sizes(problem)[0]


def unit_of_data(problem: FlatProblem) -> jax.Array:
    """A unit of `y` to solve a problem in: the larger of the size that can meet the equality and the nearest bound that
    is not zero; one where there is neither."""
    nearest, rows = sizes_of_data(problem)
    unit = jnp.maximum(jnp.max(rows, initial=0), _inverse(jnp.max(nearest)))
    return where(unit > 0, unit, 1.0)


def middle_of_box(box: Box, unit: Any = 1.0) -> jax.Array:
    """A point inside the box: its middle where it is bounded, else one within a unit of its bound and of zero."""
    lower, upper = box.lower, box.upper
    below = where(jnp.isfinite(lower), lower, jnp.minimum(upper, unit) - unit)
    above = where(jnp.isfinite(upper), upper, jnp.maximum(lower, -unit) + unit)
    return 0.5 * (below + above)
