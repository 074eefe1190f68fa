"""The phases of the interior point, its state, and what it needs besides the scaled problem: see `_loop.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.solution import Dual
from kkt_solvers.solvers.interior_point._iterate import Bounds, Iterate

START, NEWTON, ACTIVE, DONE = np.arange(4, dtype=np.int32)
NONE, HELD, ELASTIC = np.arange(3, dtype=np.int32)


class Active(NamedTuple):
    """An active set and the point it is solved from."""

    held: jax.Array  # shape (2, n): at the lower bound, at the upper one
    y: jax.Array
    nu: jax.Array
    wrong: jax.Array  # how many coordinates were in the wrong set before it
    rounds: jax.Array  # zero: not identified yet


class State(NamedTuple):
    phase: jax.Array
    back: jax.Array  # the phase that ACTIVE leads back to
    recovery: jax.Array
    iterations: jax.Array  # rounds of NEWTON
    now: Iterate
    active: Active
    best: tuple[jax.Array, Dual]  # in the terms of the problem that is not scaled
    smallest: jax.Array  # its largest KKT residual
    due: jax.Array  # the residual at which the active set is solved for next
    mark: jax.Array  # the residual when it last fell by a tenth, and the iterations since
    since: jax.Array
    claim: jax.Array


class Setting(NamedTuple):
    """Everything the loop needs besides the scaled problem."""

    measured: Callable[..., Any]  # (iterate, held, solving) -> its point in the terms of the problem, largest residual
    scaled: Callable[..., Iterate]  # the way back: a point in the terms of the problem as an iterate
    proves: Callable[..., Any]  # (y, nu, rays) -> whether nu, at y, and which rays prove that there is no solution
    told: Callable[..., None]
    moves: jax.Array  # the coordinates whose bounds differ
    tol: float
    max_iterations: int
    polish: bool
    left: jax.Array | int  # how many instances of a batch in lockstep may be left unfinished
    repairs: bool  # whether a wrong active set is worth another round
    holds: bool  # whether free coordinates can be held


class Method(NamedTuple):
    """The functions below share these."""

    problem: FlatProblem
    bounds: Bounds
    setting: Setting

    @property
    def quadratic(self) -> bool:
        return self.problem.is_quadratic

    @property
    def recovers(self) -> bool:
        """Whether it looks for a proof that there is no solution, if it gets stuck."""
        return self.quadratic or self.problem.slacks > 0
