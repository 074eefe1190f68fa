"""The exact solution on the active set of a nearly solved problem."""

import jax
import jax.numpy as jnp

from kkt_solvers._conditions import bound_multipliers, held_by, residuals
from kkt_solvers._linear import choose
from kkt_solvers._problem import FlatProblem
from kkt_solvers._solution import Dual


def polished(problem: FlatProblem, y: jax.Array, dual: Dual, smallest: jax.Array) -> tuple[jax.Array, Dual]:
    """One Newton step on the active set of the point, kept if the KKT residuals are no larger for it."""
    below, above = held_by(problem, y, dual.equality, dual.lower, dual.upper)
    lower, upper = problem.box.lower, problem.box.upper
    below = below | (lower == upper)
    start = jnp.where(below, lower, jnp.where(above, upper, y))
    mask = (~(below | above)).astype(y.dtype)
    nu = dual.equality
    gradient = problem.objective.gradient(start) + problem.equality.adjoint(nu)
    right = -gradient, problem.equality.target - problem.equality.product(start)
    dy, dnu = choose(problem).solve(problem, start, mask, right)
    candidate = jnp.clip(start + mask * dy, lower, upper)
    new_dual = Dual(nu + dnu, *bound_multipliers(problem, candidate, nu + dnu))
    largest = residuals(problem, candidate, new_dual).largest
    better = largest <= smallest
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), (candidate, new_dual), (y, dual))
