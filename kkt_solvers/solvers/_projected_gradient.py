"""Projected gradient, on jaxopt, with the true projection."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers._conditions import complete_dual, default_tolerance, residuals
from kkt_solvers._linear import diagonal_curvature
from kkt_solvers._objectives import Separable
from kkt_solvers._problem import FlatProblem
from kkt_solvers._solution import Dual
from kkt_solvers.solvers._base import Solver, single_row
from kkt_solvers.solvers._sets import project

# Where phi' is infinite at a bound, a round may close this part of the distance to it, and no more.
_APPROACH = 0.95


@dataclass(frozen=True)
class ProjectedGradient(Solver):
    """Projected gradient descent with backtracking, `jaxopt.ProjectedGradient`, in rounds.

    Each round runs in coordinates scaled by the curvature at its start (the diagonal of the Hessian where the
    objective's type gives it), stays inside the domain of a separable objective whose slope is infinite at a bound,
    and ends with the KKT residuals of its last point, which decide whether there is another. The set is a box with
    at most one equality of any weights, projected onto exactly.

    For smooth objectives of moderate conditioning and modest accuracy. A separable objective is better served by
    `DualBisection`.

    Arguments:
        tol: largest relative KKT residual of a `SOLVED` point; `None` for the default of the dtype.
        max_iterations: gradient steps in all rounds together.
        acceleration: Nesterov's extrapolation (FISTA). It can leave the box, and so the domain of an objective like
            a logarithm; then switch it off. It is never used for separable objectives, which do not need it.
        round_iterations: gradient steps in a round.

    Source: [beck2009] for the acceleration.
    """

    tol: float | None = None
    max_iterations: int = 5000
    acceleration: bool = True
    round_iterations: int = 50

    def run(
        self, problem: FlatProblem, init: jax.Array, dual: Dual | None = None
    ) -> tuple[jax.Array, Dual, jax.Array, jax.Array]:
        from kkt_solvers.solvers._jaxopt import projected_gradient

        weights, total = single_row(problem, "ProjectedGradient")
        objective = problem.objective
        separable = isinstance(objective, Separable)
        tol = default_tolerance(init.dtype) if self.tol is None else self.tol
        eps = jnp.finfo(init.dtype).eps

        def measure(y: jax.Array) -> tuple[Dual, jax.Array]:
            dual = complete_dual(problem, y, None)
            return dual, residuals(problem, y, dual).largest

        def one_round(state: Any) -> Any:
            y, best, smallest, iterations, _ = state
            value = objective(y)
            # f is shifted and scaled so that its rounding errors are of the size the line search allows for.
            size = 1 + jnp.abs(value)
            curvature = diagonal_curvature(problem, y) / size
            c = jax.lax.rsqrt(jnp.where(curvature > 0, curvature, 1.0))
            lower, upper = _inner_box(problem, y) if separable else (problem.box.lower, problem.box.upper)
            u, steps = projected_gradient(
                _scaled_objective,
                _scaled_projection,
                y / c,
                (c, weights, total, lower, upper),
                (objective, c, value, size),
                max_iterations=self.round_iterations,
                tol=float(0.1 * tol),
                acceleration=self.acceleration and not separable,
            )
            y = c * u
            _, largest = measure(y)
            better = largest < smallest
            stuck = ~jnp.isfinite(largest)
            return y, jnp.where(better, y, best), jnp.where(better, largest, smallest), iterations + steps, stuck

        def unfinished(state: Any) -> jax.Array:
            _, _, smallest, iterations, stuck = state
            return (smallest > max(0.1 * tol, 4 * eps)) & (iterations < self.max_iterations) & ~stuck

        y = project(init, jnp.ones_like(init), weights, total, problem.box.lower, problem.box.upper)
        if separable:
            middle = project(_middle(problem), jnp.ones_like(y), weights, total, problem.box.lower, problem.box.upper)
            y = 0.9 * y + 0.1 * middle  # off the bounds, where the slope may be infinite
        _, first = measure(y)
        first = jnp.where(jnp.isnan(first), jnp.inf, first)
        start = (y, y, first, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        y, best, smallest, iterations, _ = jax.lax.while_loop(unfinished, one_round, start)
        best = jnp.where(jnp.isfinite(smallest), best, y)
        dual, _ = measure(best)
        return best, dual, iterations, jnp.asarray(smallest <= tol)


def _middle(problem: FlatProblem) -> jax.Array:
    lower, upper = problem.box.lower, problem.box.upper
    below = jnp.where(jnp.isfinite(lower), lower, jnp.minimum(upper, 1.0) - 1)
    above = jnp.where(jnp.isfinite(upper), upper, jnp.maximum(lower, -1.0) + 1)
    return 0.5 * (below + above)


def _inner_box(problem: FlatProblem, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    lower, upper = problem.box.lower, problem.box.upper
    at_lower, at_upper = (problem.objective.gradient(bound) for bound in (lower, upper))
    inner_lower = jnp.where(jnp.isfinite(at_lower), lower, y + _APPROACH * (lower - y))
    inner_upper = jnp.where(jnp.isfinite(at_upper), upper, y + _APPROACH * (upper - y))
    return jnp.where(jnp.isfinite(lower), inner_lower, lower), jnp.where(jnp.isfinite(upper), inner_upper, upper)


def _scaled_objective(u: jax.Array, objective: Any, c: jax.Array, value: jax.Array, size: jax.Array) -> jax.Array:
    return (objective(c * u) - value) / size


def _scaled_projection(u: jax.Array, data: Any) -> jax.Array:
    c, weights, total, lower, upper = data
    return project(c * u, c, weights, total, lower, upper) / c
