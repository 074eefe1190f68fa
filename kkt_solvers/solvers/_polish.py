"""The exact solution on the active set of a nearly solved problem."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from kkt_solvers._arrays import tree_where
from kkt_solvers._conditions import bound_multipliers, held_by, residuals
from kkt_solvers._linear import MatrixFreeKKT, choose
from kkt_solvers._objectives import Quadratic
from kkt_solvers._problem import FlatProblem
from kkt_solvers._solution import Dual


def polished(problem: FlatProblem, y: jax.Array, dual: Dual, smallest: jax.Array) -> tuple[jax.Array, Dual, jax.Array]:
    """One Newton step on the active set of the point, kept if the largest KKT residual is no larger for it."""
    below, above = held_by(problem, y, dual.equality, dual.lower, dual.upper)
    lower, upper = problem.box.lower, problem.box.upper
    below = below | (lower == upper)
    start, _ = off_steep_bounds(problem, jnp.where(below, lower, jnp.where(above, upper, y)))
    mask = (~(below | above)).astype(y.dtype)
    nu = dual.equality
    gradient = problem.objective.gradient(start) + problem.equality.adjoint(nu)
    right = -gradient, problem.equality.target - problem.equality.product(start)
    system = choose(problem)
    if isinstance(system, MatrixFreeKKT):  # the active set may be wrong, and the system then without a solution
        system = replace(system, warn=False)
    dy, dnu = system.solve(problem, start, mask, right)
    candidate, _ = off_steep_bounds(problem, jnp.clip(start + mask * dy, lower, upper))
    new_dual = Dual(nu + dnu, *bound_multipliers(problem, candidate, nu + dnu))
    largest = residuals(problem, candidate, new_dual).largest
    better = largest <= smallest
    chosen = tree_where(better, (candidate, new_dual), (y, dual))
    return *chosen, jnp.where(better, largest, smallest)


_NEAR = 1e-6  # nearer to a bound than this a step of rounding may be felt


def off_steep_bounds(problem: FlatProblem, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A bound where the slope is infinite is not reached, though rounding may say so, and beside it the slope changes
    with the last digit of y. There y goes inward by two digits, so that what is left of the slope is for the
    multiplier of the bound; also where that is. On the bound itself automatic differentiation may say anything."""
    (lower, upper), objective = (problem.box.lower, problem.box.upper), problem.objective
    if isinstance(objective, Quadratic):
        return y, jnp.zeros(y.shape, bool)
    info = jnp.finfo(y.dtype)
    sizes = (jnp.where(jnp.isfinite(bound), jnp.abs(bound), 0) for bound in (lower, upper))
    digit_low, digit_high = (2 * jnp.maximum(info.tiny, info.eps * size) for size in sizes)
    room = upper - lower > 2 * (digit_low + digit_high)
    near_low, near_high = (gap <= _NEAR * (1 + jnp.abs(y)) for gap in (y - lower, upper - y))
    beside = jnp.where(room & near_high, y - digit_high, jnp.where(room & near_low, y + digit_low, y))
    there, here = objective.gradient(beside), objective.gradient(y)
    steep = (beside != y) & ~(jnp.abs(there - here) <= 1e-4 * jnp.sqrt(info.eps) * (1 + jnp.abs(here)))
    return jnp.where(steep, beside, y), steep
