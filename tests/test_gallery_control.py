"""Predictive control against the Riccati equation of SciPy (1e-9) and Clarabel (1e-6)."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp

import kkt_solvers as kkt
from kkt_solvers.problems import PredictiveControl, Regulator, predictive_control, receding_horizon

# A double integrator in steps of 0.2: position and speed, moved by a force.
_A, _B = np.array([[1.0, 0.2], [0.0, 1.0]]), np.array([[0.02], [0.2]])
_Q, _R, _N = np.diag([1.0, 0.1]), np.array([[0.05]]), 12
_FORCE, _SPEED = 1.0, 0.7


def regulator(weights=(1.0, 0.1, 0.05), force=_FORCE, speed=_SPEED):
    """The regulator of three weights; its last state costs what the endless rest would, with the first ones."""
    weights = jnp.asarray(weights)
    terminal = scipy.linalg.solve_discrete_are(_A, _B, _Q, _R)
    states = kkt.Box(jnp.stack([-jnp.inf, -jnp.asarray(speed)]), jnp.stack([jnp.inf, jnp.asarray(speed)]))
    inputs = kkt.Box(-jnp.asarray(force), jnp.asarray(force))
    return Regulator(_A, _B, jnp.diag(weights[:2]), weights[2:, None], _N, terminal, inputs, states)


def by_clarabel(state, first_only=True):
    """The plan by a program written out independently, with all states and inputs as variables."""
    n, m = 2, 1
    terminal = scipy.linalg.solve_discrete_are(_A, _B, _Q, _R)
    x, u = n * (_N + 1), m * _N
    P = sp.block_diag([sp.csc_matrix(part) for part in [_Q] * _N + [terminal] + [_R] * _N])
    shift = sp.kron(sp.eye(_N, _N + 1, 1), np.eye(n)) - sp.kron(sp.eye(_N, _N + 1), _A)
    dynamics = sp.hstack([shift, -sp.kron(sp.eye(_N), _B)])
    start = sp.hstack([sp.eye(n, x), sp.csc_matrix((n, u))])
    picked = sp.vstack([sp.hstack([sp.csc_matrix((u, x)), sp.eye(u)]), sp.eye(x + u, format="csr")[n + 1 : x : n]])
    bound = np.concatenate([np.full(u, _FORCE), np.full(_N, _SPEED)])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    found = clarabel.DefaultSolver(
        sp.csc_matrix(sp.triu(P)),
        np.zeros(x + u),
        sp.vstack([start, dynamics, picked, -picked], format="csc"),
        np.concatenate([state, np.zeros(n * _N), bound, bound]),
        [clarabel.ZeroConeT(n + n * _N), clarabel.NonnegativeConeT(2 * len(bound))],
        settings,
    ).solve()
    assert found.status == clarabel.SolverStatus.Solved
    return np.array(found.x)[x:].reshape(_N, m), np.array(found.x)[n:x].reshape(_N, n)


@jax.jit
def plans_and_slopes(regulator, states):
    """The plans, and the slopes of their first input in the state and in the regulator."""

    def first(state, regulator):
        plan = predictive_control(regulator, state)
        return plan.inputs[0, 0], plan

    slopes, plans = jax.vmap(jax.grad(first, argnums=(0, 1), has_aux=True), (0, None))(states, regulator)
    return plans, *slopes


# The last is too fast to be stopped.
_STATES = np.array(
    [[0.3, -0.1], [2.0, 0.0], [-1.0, 0.65], [-0.1, 0.5], [0.2, 0.2], [0.0, -0.6], [0.1, 0.0], [0.0, 3.0]]
)


def test_without_bounds_it_is_the_linear_quadratic_regulator(x64):
    terminal = scipy.linalg.solve_discrete_are(_A, _B, _Q, _R)
    gain = np.linalg.solve(_R + _B.T @ terminal @ _B, _B.T @ terminal @ _A)
    plans, gains, _ = plans_and_slopes(regulator(force=jnp.inf, speed=jnp.inf), _STATES)
    np.testing.assert_allclose(plans.inputs[:, 0], -_STATES @ gain.T, atol=1e-9)
    np.testing.assert_allclose(gains, np.broadcast_to(-gain, gains.shape), atol=1e-9)


def test_plans_and_gains_against_clarabel(x64):
    plans, gains, _ = plans_and_slopes(regulator(), _STATES)
    for i, state in enumerate(_STATES[:3]):
        inputs, states = by_clarabel(state)
        np.testing.assert_allclose(plans.inputs[i], inputs, atol=1e-6)
        np.testing.assert_allclose(plans.states[i], states, atol=1e-6)
        h = 1e-4  # the first input is piecewise linear in the state
        wanted = [(by_clarabel(state + h * e)[0][0] - by_clarabel(state - h * e)[0][0]) / (2 * h) for e in np.eye(2)]
        np.testing.assert_allclose(gains[i], np.concatenate(wanted), atol=1e-6)
    np.testing.assert_allclose(gains[1], 0, atol=1e-12)  # at full force
    assert np.max(plans.states[1, :, 1]) <= _SPEED + 1e-12
    assert np.isnan(plans.inputs[-1]).all()
    assert np.isnan(gains[-1]).all()


def test_receding_horizon_in_float32(rng):
    disturbance = 0.01 * rng.normal(size=(40, 2)).astype(np.float32)
    loop = jax.jit(receding_horizon)(
        jax.tree.map(lambda a: a.astype(jnp.float32), regulator()), [2.0, 0.0], disturbance
    )
    assert loop.inputs.dtype == jnp.float32
    state = np.array([2.0, 0.0])
    for t in range(40):
        wanted = by_clarabel(state)[0][0]
        np.testing.assert_allclose(loop.inputs[t], wanted, atol=2e-4)
        state = np.asarray(loop.states[t], float)
    # From the plan before it, a plan whose bounds are the same needs no iteration.
    assert np.mean(np.asarray(loop.iterations) == 0) > 0.5
    assert np.abs(state[0]) < 0.1


def test_the_weights_of_a_controller_are_learned_from_what_it_does(x64):
    states = np.concatenate([0.5 * _STATES[:-1], [[-0.2, 0.1]]])
    expert = np.array([by_clarabel(state)[0][0, 0] for state in states])
    assert 0 < np.sum(np.abs(expert) > _FORCE - 1e-6) < 4  # which tell nothing
    log_weights, history = np.log([0.5, 0.5]), []
    for _ in range(12):  # Gauss and Newton's method, with short steps; what force costs is known
        weights = np.exp(log_weights)
        plans, _, slopes = plans_and_slopes(regulator((*weights, 0.05)), states)
        J = weights * np.stack([slopes.Q[:, 0, 0], slopes.Q[:, 1, 1]], axis=1)
        error = plans.inputs[:, 0, 0] - expert
        log_weights = log_weights - np.clip(np.linalg.lstsq(J, error)[0], -0.5, 0.5)
        history.append(np.max(np.abs(error)))
    assert history[0] > 1e-2
    assert history[-1] < 1e-9
    np.testing.assert_allclose(np.exp(log_weights), [1.0, 0.1], rtol=1e-6)


_GOOD = {"A": _A, "B": _B, "Q": _Q, "R": _R, "horizon": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": np.ones((2, 3))}, "A must be a square matrix, of one row a state"),
        ({"B": np.ones((3, 1))}, r"B must have shape \(2, inputs\)"),
        ({"Q": np.ones(2)}, r"Q must have shape \(2, 2\).*jnp.diag"),
        ({"R": [[-1.0]]}, "R must be positive semidefinite"),
        ({"horizon": 0}, "horizon must be a whole number of steps"),
        ({"inputs": kkt.Box(1.0, -1.0)}, "lower is above upper in the box of inputs"),
        ({"states": kkt.Box(jnp.zeros(3), 1.0)}, "the bounds of states must be scalars or vectors"),
    ],
)
def test_bad_regulators(change, message):
    with pytest.raises(ValueError, match=message):
        Regulator(**{**_GOOD, **change})


def test_bad_states():
    for verb in (PredictiveControl, predictive_control):
        with pytest.raises(ValueError, match=r"state must have shape \(2,\)"):
            verb(Regulator(**_GOOD), [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"disturbance must have shape \(steps, 2\)"):
        receding_horizon(Regulator(**_GOOD), [1.0, 2.0], np.zeros(2))
