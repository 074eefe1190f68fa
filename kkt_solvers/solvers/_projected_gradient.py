"""Projected gradient, on jaxopt, with the true projection."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.residuals import default_tolerance
from kkt_solvers.data.objectives import Separable
from kkt_solvers.data.problem import Box, FlatProblem
from kkt_solvers.data.sizes import middle_of_box
from kkt_solvers.data.solution import Dual
from kkt_solvers.numerics.arrays import inverse_root
from kkt_solvers.numerics.batches import one_by_one
from kkt_solvers.solvers._base import Solver
from kkt_solvers.solvers._rounds import in_rounds
from kkt_solvers.solvers._sets import project
from kkt_solvers.systems.kkt import diagonal_curvature

# Where phi' is infinite at a bound, a round may close this part of the distance to it, and no more.
_APPROACH = 0.95


@dataclass(frozen=True)
class ProjectedGradient(Solver):
    """Projected gradient descent with backtracking, `jaxopt.ProjectedGradient`, in rounds.

    Each round runs in coordinates scaled by the curvature at its start (the diagonal of the Hessian where the
    objective's type gives it), stays inside the domain of a separable objective whose slope is infinite at a bound,
    and ends with the KKT residuals of its last point, which decide whether there is another. The set is projected
    onto exactly: by `DualBisection` with one equality, by `DualNewton` with several, which costs O(n m^2) a step.

    For smooth objectives of moderate conditioning and modest accuracy. A separable objective is better served by
    `DualBisection` and `DualNewton`.

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
        # In step every projection of a batch would take as many iterations as the longest one, in every step. And the
        # condition of jaxopt's line search computes.
        return one_by_one(self._run, everywhere=True)(problem, init)

    def _run(self, problem: FlatProblem, init: jax.Array) -> tuple[jax.Array, Dual, jax.Array, jax.Array]:
        from kkt_solvers.solvers._jaxopt import projected_gradient

        objective, equality, box = problem.objective, problem.equality, problem.box
        separable = isinstance(objective, Separable)
        tol = default_tolerance(init.dtype) if self.tol is None else self.tol

        def one_round(y: jax.Array, carry: Any) -> Any:
            value = objective(y)
            # f is shifted and scaled so that its rounding errors are of the size the line search allows for.
            size = 1 + jnp.abs(value)
            curvature = diagonal_curvature(problem, y) / size
            c = inverse_root(curvature)
            u, steps = projected_gradient(
                _scaled_objective,
                _scaled_projection,
                y / c,
                (c, FlatProblem(objective, equality, _inner_box(problem, y) if separable else box)),
                (objective, c, value, size),
                max_iterations=self.round_iterations,
                tol=float(0.1 * tol),
                acceleration=self.acceleration and not separable,
            )
            return c * u, carry, steps, jnp.zeros((), bool)

        y, proof, empty = project(init, jnp.ones_like(init), problem)
        if separable:
            middle, _, _ = project(middle_of_box(box), jnp.ones_like(y), problem)
            y = 0.9 * y + 0.1 * middle  # off the bounds, where the slope may be infinite
        return in_rounds(one_round, problem, y, (), empty, proof, self.tol, self.max_iterations)


def _inner_box(problem: FlatProblem, y: jax.Array) -> Box:
    lower, upper = problem.box.lower, problem.box.upper
    at_lower, at_upper = (problem.objective.gradient(bound) for bound in (lower, upper))
    inner_lower = jnp.where(jnp.isfinite(at_lower), lower, y + _APPROACH * (lower - y))
    inner_upper = jnp.where(jnp.isfinite(at_upper), upper, y + _APPROACH * (upper - y))
    return Box(jnp.where(jnp.isfinite(lower), inner_lower, lower), jnp.where(jnp.isfinite(upper), inner_upper, upper))


def _scaled_objective(u: jax.Array, objective: Any, c: jax.Array, value: jax.Array, size: jax.Array) -> jax.Array:
    return (objective(c * u) - value) / size


def _scaled_projection(u: jax.Array, data: Any) -> jax.Array:
    c, problem = data
    y, _, _ = project(c * u, c, problem)
    return y / c
