"""Bounds on which the objective's slope is infinite."""

import jax
import jax.numpy as jnp

from kkt_solvers.data.objectives import Quadratic
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.numerics.arrays import where

_NEAR = 1e-6  # nearer to a bound than this a step of rounding may be felt


def off_steep_bounds(problem: FlatProblem, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A bound where the slope is infinite is not reached, though rounding may say so, and beside it the slope changes
    with the last digit of y. There y goes inward by two digits, so that what is left of the slope is for the
    multiplier of the bound; also where that is. On the bound itself automatic differentiation may say anything."""
    (lower, upper), objective = (problem.box.lower, problem.box.upper), problem.objective
    if isinstance(objective, Quadratic):
        return y, jnp.zeros(y.shape, bool)
    info = jnp.finfo(y.dtype)
    sizes = (where(jnp.isfinite(bound), jnp.abs(bound), 0) for bound in (lower, upper))
    digit_low, digit_high = (2 * jnp.maximum(info.tiny, info.eps * size) for size in sizes)
    room = upper - lower > 2 * (digit_low + digit_high)
    near_low, near_high = (gap <= _NEAR * (1 + jnp.abs(y)) for gap in (y - lower, upper - y))
    beside = where(room & near_high, y - digit_high, where(room & near_low, y + digit_low, y))
    there, here = objective.gradient(beside), objective.gradient(y)
    steep = (beside != y) & ~(jnp.abs(there - here) <= 1e-4 * jnp.sqrt(info.eps) * (1 + jnp.abs(here)))
    return where(steep, beside, y), steep
