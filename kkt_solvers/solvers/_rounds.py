"""What the gradient methods share: they run in rounds, and the KKT residuals at the end of each decide on the next."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.multipliers import complete_dual
from kkt_solvers.conditions.residuals import default_tolerance, residuals
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.solution import Dual, Status
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

    def measure(y: jax.Array) -> jax.Array:
        largest = residuals(problem, y, complete_dual(problem, y, None)).largest
        return jnp.where(jnp.isnan(largest), jnp.inf, largest)

    def step(state: Any) -> Any:
        y, carry, best, smallest, iterations, _ = state
        y, carry, steps, stuck = one_round(y, carry)
        largest, iterations = measure(y), iterations + steps
        report(iterations, problem.objective(y), largest)
        better = largest < smallest
        stuck = stuck | ~jnp.isfinite(largest)
        return y, carry, jnp.where(better, y, best), jnp.where(better, largest, smallest), iterations, stuck

    def unfinished(state: Any) -> jax.Array:
        *_, smallest, iterations, stuck = state
        return (smallest > max(0.1 * tol, 4 * eps)) & (iterations < max_iterations) & ~stuck

    none, first = jnp.zeros((), jnp.int32), measure(y)
    report(none, problem.objective(y), first)
    start = (y, carry, y, first, none, empty)
    y, _, best, smallest, iterations, _ = jax.lax.while_loop(unfinished, step, start)
    best = jnp.where(jnp.isfinite(smallest), best, y)
    claim = jnp.where(smallest <= tol, Status.SOLVED, Status.MAX_ITERATIONS)
    dual = complete_dual(problem, best, None)
    nu = jnp.where(empty, proof, dual.equality)
    return best, Dual(nu, dual.lower, dual.upper), iterations, jnp.where(empty, Status.PRIMAL_INFEASIBLE, claim)
