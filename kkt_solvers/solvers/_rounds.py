"""What the gradient methods share: they run in rounds, and the KKT residuals at the end of each decide on the next."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.multipliers import complete_dual
from kkt_solvers.conditions.residuals import default_tolerance, residuals
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.solution import Dual, Status
from kkt_solvers.numerics.arrays import tree_where
from kkt_solvers.numerics.batches import when_any
from kkt_solvers.numerics.progress import report

Round = Callable[[jax.Array, Any], tuple[jax.Array, Any, jax.Array, jax.Array]]


def in_rounds(
    one_round: Round,
    problem: FlatProblem,
    y: jax.Array,
    carry: Any,
    empty: jax.Array,
    proof: jax.Array,
    tol: float | None,
    max_iterations: int,
) -> tuple[jax.Array, Dual, jax.Array, jax.Array]:
    """`one_round(y, carry) -> (y, carry, steps, stuck)` until the residuals are small, `stuck` holds or
    `max_iterations` steps are taken. Returns the best point at the end of a round as a solver's `run` does; where the
    set is `empty`, that claim and its `proof`."""
    eps = jnp.finfo(y.dtype).eps
    tol = default_tolerance(y.dtype) if tol is None else tol

    def step(state: Any) -> Any:
        y, carry, best, smallest, iterations, stuck = state
        dual = complete_dual(problem, y, None)
        largest = residuals(problem, y, dual).largest
        largest = jnp.where(jnp.isnan(largest), jnp.inf, largest)
        report(iterations, problem.objective(y), largest)
        best = tree_where((largest < smallest) | ~jnp.isfinite(smallest), (y, dual), best)
        # The first point may be outside the domain of the objective.
        stuck = stuck | (~jnp.isfinite(largest) & (iterations > 0))
        smallest = jnp.minimum(largest, smallest)
        goes_on = (smallest > max(0.1 * tol, 4 * eps)) & (iterations < max_iterations) & ~stuck

        def following() -> Any:
            after, carried, steps, stopped = one_round(y, carry)
            return after, carried, iterations + steps, stopped, jnp.zeros((), bool)

        over = jnp.ones((), bool)
        y, carry, iterations, stuck, over = when_any(goes_on, following, (y, carry, iterations, stuck, over))
        return (y, carry, best, smallest, iterations, stuck), over

    zero, none, infinite = jnp.zeros_like(y), jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, y.dtype)
    best = y, Dual(jnp.zeros_like(problem.equality.target), zero, zero)
    start = (y, carry, best, infinite, none, empty), jnp.zeros((), bool)
    (y, _, (best, dual), smallest, iterations, _), _ = jax.lax.while_loop(
        lambda state: ~state[1], lambda state: step(state[0]), start
    )
    claim = jnp.where(smallest <= tol, Status.SOLVED, Status.MAX_ITERATIONS)
    nu = jnp.where(empty, proof, dual.equality)
    return best, Dual(nu, dual.lower, dual.upper), iterations, jnp.where(empty, Status.PRIMAL_INFEASIBLE, claim)
