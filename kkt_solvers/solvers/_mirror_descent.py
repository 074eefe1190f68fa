"""Mirror descent, on jaxopt, in the entropic geometry of the box."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.residuals import default_tolerance
from kkt_solvers.data.entropy import entropy, mirror
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.solution import Dual
from kkt_solvers.numerics.batches import one_by_one
from kkt_solvers.solvers._base import Solver
from kkt_solvers.solvers._rounds import in_rounds
from kkt_solvers.solvers._sets import minimise, project


@dataclass(frozen=True)
class MirrorDescent(Solver):
    """Mirror descent, `jaxopt.MirrorDescent`, with the entropy of the box as its mirror map, in rounds.

    A step is `argmin_y <grad f, y> + D(y, y_old) / stepsize` over the box and the equality, `D` the Bregman
    divergence of: the binary entropy where both bounds are finite, the entropy where one is, half the square where
    none is. Iterates stay strictly inside finite bounds. A round that does not lower the objective is taken back and
    repeated with a quarter of the step.

    For objectives that are smooth relative to that entropy (on LML itself it takes one step), over any box and
    equality. Slow where the solution sits on bounds of a quadratic.

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
        # In step every projection of a batch would take as many iterations as the longest one, in every step.
        return one_by_one(self._run)(problem, init)

    def _run(self, problem: FlatProblem, init: jax.Array) -> tuple[jax.Array, Dual, jax.Array, jax.Array]:
        from kkt_solvers.solvers._jaxopt import mirror_descent

        objective, box = problem.objective, problem.box
        tol = default_tolerance(init.dtype) if self.tol is None else self.tol
        eps = jnp.finfo(init.dtype).eps

        def one_round(y: jax.Array, carry: Any) -> Any:
            value, stepsize = carry
            following, steps = mirror_descent(
                _value,
                _mirror_step,
                y,
                (stepsize, problem),
                (objective,),
                max_iterations=self.round_iterations,
                tol=float(0.01 * tol),
            )
            new_value = objective(following)
            accept = new_value <= value + 8 * eps * (1 + jnp.abs(value))
            y, value = jnp.where(accept, following, y), jnp.where(accept, new_value, value)
            stepsize = jnp.where(accept, 1.5, 0.25) * stepsize
            return y, (value, stepsize), steps, stepsize <= eps

        y, proof, empty = project(init, jnp.ones_like(init), problem)
        y = _inside(y, box.lower, box.upper)
        carry = objective(y), jnp.asarray(self.stepsize, init.dtype)
        return in_rounds(one_round, problem, y, carry, empty, proof, self.tol, self.max_iterations)


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
    stepsize, problem = data
    lower, upper = problem.box.lower, problem.box.upper
    z = mirror(y, lower, upper) - stepsize * gradient
    y, _, _ = minimise(FlatProblem(entropy(z, lower, upper), problem.equality, problem.box))
    return _inside(y, lower, upper)
