"""Model predictive control of a linear system [rawlings2017].

From the state `x_0`, over a horizon of N steps,

    min_{u, x}  sum_{t=0}^{N-1} (x_t'Q x_t + u_t'R u_t) / 2 + x_N'S x_N / 2
    s.t.  x_{t+1} = A x_t + B u_t,   u_t in a box (t = 0 .. N-1),   x_t in a box (t = 1 .. N).

The first input of the plan is applied, and the rest planned again from where that led to. Without boxes, and with the
`S` of the discrete Riccati equation, `u_0 = -K x_0`: the linear quadratic regulator.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers import Affine, BlockBidiagonal, BlockDiagonal, Box, Problem, Quadratic, Solution, solve
from kkt_solvers.numerics import lapack
from kkt_solvers.numerics.arrays import float_dtype, floating, full_precision
from kkt_solvers.numerics.pytree import pytree
from kkt_solvers.problems import _checks


@pytree(static=("horizon",))
@dataclass(frozen=True, eq=False)
class Regulator:
    """A linear system, what its states and inputs cost, and their boxes. All but the horizon can be differentiated.

    Arguments:
        A, B: shape `(n, n)` and `(n, m)`, for n states and m inputs: `x_{t+1} = A x_t + B u_t`.
        Q, R: shape `(n, n)` and `(m, m)`, positive semidefinite; without a definite `R` the inputs may not be unique.
        horizon: N, how many steps the plan has.
        terminal: S, the cost of the last state, like `Q` and by default `Q` itself.
        inputs, states: a `Box` each, of scalars or vectors; unbounded by default.

    Raises `ValueError` for shapes that do not fit, a cost that is not convex, an empty box or horizon.
    """

    A: jax.Array
    B: jax.Array
    Q: jax.Array
    R: jax.Array
    horizon: int
    terminal: jax.Array
    inputs: Box
    states: Box

    def __init__(
        self,
        A: Any,
        B: Any,
        Q: Any,
        R: Any,
        horizon: int,
        terminal: Any = None,
        inputs: Box | None = None,
        states: Box | None = None,
    ):
        A, B, Q, R = (floating(value, name) for name, value in (("A", A), ("B", B), ("Q", Q), ("R", R)))
        if A.ndim != 2 or A.shape[0] != A.shape[1]:
            raise ValueError(f"A must be a square matrix, of one row a state, got shape {A.shape}")
        if B.ndim != 2 or B.shape[0] != len(A):
            raise ValueError(f"B must have shape ({len(A)}, inputs) to go with A, got {B.shape}")
        n, m = B.shape
        terminal = Q if terminal is None else floating(terminal, "terminal")
        for name, cost, size in (("Q", Q, n), ("R", R, m), ("terminal", terminal, n)):
            if cost.shape != (size, size):
                raise ValueError(f"{name} must have shape ({size}, {size}), got {cost.shape}; write jnp.diag(weights)")
        convex = "{} must be positive semidefinite"
        Q, R, terminal = (
            _checks.where_valid(cost, convex.format(name), _semidefinite, jax.lax.stop_gradient(cost))
            for name, cost in (("Q", Q), ("R", R), ("terminal", terminal))
        )
        if not isinstance(horizon, int) or horizon < 1:
            raise ValueError(f"horizon must be a whole number of steps, at least one; got {horizon}")
        boxes = {}
        for name, box, size in (("inputs", inputs, m), ("states", states, n)):
            box = Box() if box is None else box
            for bound in (box.lower, box.upper):
                if bound.shape not in ((), (size,)):
                    raise ValueError(f"the bounds of {name} must be scalars or vectors ({size},), got {bound.shape}")
            lower = _checks.in_order(box.lower, box.upper, f"in the box of {name}, which is empty")
            boxes[name] = Box(jnp.broadcast_to(lower, (size,)), jnp.broadcast_to(box.upper, (size,)))
        fields = {"A": A, "B": B, "Q": Q, "R": R, "horizon": horizon, "terminal": terminal, **boxes}
        for name, value in fields.items():
            object.__setattr__(self, name, value)


@full_precision
def PredictiveControl(regulator: Regulator, state: Any) -> Problem:
    """The plan from a state as a `Problem` in `y = (u_0, x_1, u_1, x_2, .., u_{N-1}, x_N)`, by stages.

    Arguments:
        regulator: a `Regulator` of n states.
        state: `x_0`, shape `(n,)`.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import PredictiveControl, Regulator
    >>> regulator = Regulator([[1.0]], [[1.0]], [[1.0]], [[1.0]], 2, inputs=kkt.Box(-1.0, 1.0))
    >>> kkt.solve(PredictiveControl(regulator, [3.0])).primal.tolist()
    [-1.0, 2.0, -1.0, 1.0]
    """
    state = floating(state, "state")
    (n, m), N = regulator.B.shape, regulator.horizon
    if state.shape != (n,):
        raise ValueError(f"state must have shape ({n},), got {state.shape}; predictive_control takes batches")
    dtype = float_dtype(regulator, state)
    A, B, Q, R, S = (M.astype(dtype) for M in (regulator.A, regulator.B, regulator.Q, regulator.R, regulator.terminal))
    # Rows t of the dynamics, for the variables (u_t, x_{t+1}): -B u_t + x_{t+1} - A x_t = 0, with x_0 on the right.
    now = jnp.concatenate([-B, jnp.eye(n, dtype=dtype)], axis=1)
    before = jnp.concatenate([jnp.zeros_like(B), -A], axis=1)
    dynamics = BlockBidiagonal(jnp.broadcast_to(now, (N, n, m + n)), jnp.broadcast_to(before, (N - 1, n, m + n)))
    cost, last = (jax.scipy.linalg.block_diag(R, of_state) for of_state in (Q, S))
    costs = BlockDiagonal(jnp.broadcast_to(cost, (N, m + n, m + n)).at[-1].set(last))
    start = jnp.zeros(N * n, dtype).at[:n].set(A @ state.astype(dtype))

    def bounds(of_inputs: jax.Array, of_states: jax.Array) -> jax.Array:
        return jnp.tile(jnp.concatenate([of_inputs, of_states]), N)

    box = Box(
        bounds(regulator.inputs.lower, regulator.states.lower), bounds(regulator.inputs.upper, regulator.states.upper)
    )
    return Problem(Quadratic(costs, jnp.zeros(N * (m + n), dtype)), Affine(dynamics, start), box)


class Plan(NamedTuple):
    """`inputs`, u_0 to u_{N-1}, and the `states` that they lead to, x_1 to x_N, along the last axis but one."""

    inputs: jax.Array
    states: jax.Array


def predictive_control(regulator: Regulator, state: Any) -> Plan:
    """The best inputs over the horizon from a state: `plan.inputs[0]` is the one to apply.

    Arguments:
        regulator: a `Regulator` of n states.
        state: shape `(..., n)`.

    Returns a `Plan`, whose fields have the leading axes of `state`, then that of time; NaN where no inputs keep the
    states in their box. The derivative of the first input in the state is the gain of the controller there.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import Regulator, predictive_control
    >>> regulator = Regulator([[1.0]], [[1.0]], [[1.0]], [[1.0]], 2, inputs=kkt.Box(-1.0, 1.0))
    >>> predictive_control(regulator, [0.5]).inputs.tolist()
    [[-0.3], [-0.1]]
    """
    state = floating(state, "state")
    if state.ndim == 0:
        raise ValueError("state must be a vector, or have such vectors along its last axis; got a scalar")

    def one(state: jax.Array) -> Plan:
        return _plan(regulator, solve(PredictiveControl(regulator, state)))

    return _checks.over_leading(state.ndim - 1, one)(state)


class ClosedLoop(NamedTuple):
    """The `inputs` that were applied, the `states` that they led to, and the `iterations` that each plan took."""

    inputs: jax.Array
    states: jax.Array
    iterations: jax.Array


@full_precision
def receding_horizon(regulator: Regulator, state: Any, disturbance: Any) -> ClosedLoop:
    """Predictive control in closed loop: plan, apply the first input, see where that led to, plan again.

    Each plan starts from the one before it, a step later; where the bounds that hold are the same, it takes no
    iterations at all.

    Arguments:
        regulator: a `Regulator` of n states and m inputs.
        state: where the system is, shape `(n,)`.
        disturbance: what is added to the state in every step, unknown to the plan, shape `(steps, n)`.

    Returns a `ClosedLoop`: of shape `(steps, m)`, `(steps, n)` and `(steps,)`; NaN from where there is no plan.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import Regulator, receding_horizon
    >>> regulator = Regulator([[1.0]], [[1.0]], [[1.0]], [[1.0]], 2, inputs=kkt.Box(-1.0, 1.0))
    >>> receding_horizon(regulator, [2.5], jnp.zeros((3, 1))).states.tolist()
    [[1.5], [0.6], [0.24]]
    """
    state, disturbance = floating(state, "state"), floating(disturbance, "disturbance")
    n, _ = regulator.B.shape
    if disturbance.ndim != 2 or disturbance.shape[1] != n:
        raise ValueError(f"disturbance must have shape (steps, {n}), got {disturbance.shape}; jnp.zeros for none")
    dtype = float_dtype(regulator, state, disturbance)
    state, disturbance = state.astype(dtype), disturbance.astype(dtype)

    return _closed_loop(regulator, state, disturbance)


# Jitted here, so that compiled code is found again on the next call.
@jax.jit
def _closed_loop(regulator: Regulator, state: jax.Array, disturbance: jax.Array) -> ClosedLoop:
    def step(now: tuple[jax.Array, Solution], disturbance: jax.Array) -> Any:
        state, previous = now
        solution = solve(PredictiveControl(regulator, state), _later(previous, regulator.horizon))
        first = _plan(regulator, solution).inputs[0]
        following = regulator.A @ state + regulator.B @ first + disturbance
        return (following, solution), ClosedLoop(first, following, solution.iterations)

    first = jax.eval_shape(lambda state: solve(PredictiveControl(regulator, state)), state)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
    return jax.lax.scan(step, (state, nothing), disturbance)[1]


def _semidefinite(xp: Any, _: Any, cost: Any) -> Any:
    eigenvalues = np.linalg.eigvalsh if xp is np else lapack.eigvalsh
    curvature = eigenvalues((cost + cost.T) / 2)
    return curvature[0] >= -1e-5 * xp.maximum(curvature[-1], 0)


def _plan(regulator: Regulator, solution: Solution) -> Plan:
    m = regulator.B.shape[1]
    y = _checks.solved(solution).reshape(regulator.horizon, -1)
    return Plan(y[:, :m], y[:, m:])


def _later(solution: Solution, stages: int) -> Solution:
    """A plan one stage later, its last stage taken twice: a start for the next one."""

    def shifted(values: jax.Array) -> jax.Array:
        size = values.size // stages
        return jnp.concatenate([values[size:], values[-size:]])

    return replace(solution, primal=shifted(solution.primal), dual=jax.tree.map(shifted, solution.dual))
