"""Mirror descent, on jaxopt, in the entropic geometry of the box."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers._conditions import complete_dual, default_tolerance, residuals
from kkt_solvers._mirror import entropy, mirror
from kkt_solvers._problem import FlatProblem
from kkt_solvers._solution import Dual
from kkt_solvers.solvers._base import Solver, single_row
from kkt_solvers.solvers._sets import minimise, project


@dataclass(frozen=True)
class MirrorDescent(Solver):
    """Mirror descent, `jaxopt.MirrorDescent`, with the entropy of the box as its mirror map, in rounds.

    A step is `argmin_y <grad f, y> + D(y, y_old) / stepsize` over the box and the equality, `D` the Bregman
    divergence of: the binary entropy where both bounds are finite, the entropy where one is, half the square where
    none is. Iterates stay strictly inside finite bounds. A round that does not lower the objective is taken back and
    repeated with a quarter of the step.

    For objectives that are smooth relative to that entropy (on LML itself it takes one step), over boxes with at
    most one equality of any weights. Slow where the solution sits on bounds of a quadratic.

    Arguments:
        tol: largest relative KKT residual of a `SOLVED` point; `None` for the default of the dtype.
        max_iterations: steps in all rounds together.
        stepsize: of the first round.
        round_iterations: steps in a round.

    Source: [beck2003].
    """

    tol: float | None = None
    max_iterations: int = 5000
    stepsize: float = 1.0
    round_iterations: int = 20

    def run(
        self, problem: FlatProblem, init: jax.Array, dual: Dual | None = None
    ) -> tuple[jax.Array, Dual, jax.Array, jax.Array]:
        from kkt_solvers.solvers._jaxopt import mirror_descent

        weights, total = single_row(problem, "MirrorDescent")
        objective, (lower, upper) = problem.objective, (problem.box.lower, problem.box.upper)
        tol = default_tolerance(init.dtype) if self.tol is None else self.tol
        eps = jnp.finfo(init.dtype).eps

        def measure(y: jax.Array) -> tuple[Dual, jax.Array]:
            dual = complete_dual(problem, y, None)
            return dual, residuals(problem, y, dual).largest

        def one_round(state: Any) -> Any:
            y, value, _, stepsize, iterations = state
            data = (stepsize, weights, total, lower, upper)
            following, steps = mirror_descent(
                _value, _mirror_step, y, data, (objective,), max_iterations=self.round_iterations, tol=float(0.01 * tol)
            )
            new_value = objective(following)
            accept = new_value <= value + 8 * eps * (1 + jnp.abs(value))
            y = jnp.where(accept, following, y)
            _, largest = measure(y)
            return (
                y,
                jnp.where(accept, new_value, value),
                largest,
                jnp.where(accept, 1.5, 0.25) * stepsize,
                iterations + steps,
            )

        def unfinished(state: Any) -> jax.Array:
            _, _, largest, stepsize, iterations = state
            return ~(largest <= max(0.1 * tol, 4 * eps)) & (iterations < self.max_iterations) & (stepsize > eps)

        y = _inside(project(init, jnp.ones_like(init), weights, total, lower, upper), lower, upper)
        stepsize = jnp.asarray(self.stepsize, init.dtype)
        start = (y, objective(y), jnp.asarray(jnp.inf, init.dtype), stepsize, jnp.zeros((), jnp.int32))
        y, _, largest, _, iterations = jax.lax.while_loop(unfinished, one_round, start)
        dual, _ = measure(y)
        return y, dual, iterations, jnp.asarray(largest <= tol)


def _value(y: jax.Array, objective: Any) -> jax.Array:
    return objective(y)


def _inside(y: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """`y` strictly between its finite bounds, by as little as the dtype allows; a fixed variable stays."""
    info = jnp.finfo(y.dtype)
    room = upper - lower
    low = lower + jnp.minimum(4 * jnp.maximum(info.tiny, info.eps * jnp.abs(lower)), 0.25 * room)
    high = upper - jnp.minimum(4 * jnp.maximum(info.tiny, info.eps * jnp.abs(upper)), 0.25 * room)
    return jnp.where(room == 0, lower, jnp.clip(y, low, high))


def _mirror_step(y: jax.Array, gradient: jax.Array, _: Any, data: Any) -> jax.Array:
    stepsize, weights, total, lower, upper = data
    z = mirror(y, lower, upper) - stepsize * gradient
    return _inside(minimise(entropy(z, lower, upper), weights, total, lower, upper), lower, upper)
