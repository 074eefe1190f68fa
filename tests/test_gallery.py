"""Every verb of the gallery under jit, vmap and grad, in both precisions: a batch is what its rows are alone; float32
is float64 up to its digits; a bad argument that is traced makes its own row NaN, gradient and all, and no other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kkt_solvers as kkt
from kkt_solvers import problems

_LABELS = np.array([1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
_ROWS = 3  # in a batch, the last of which is bad


def covariance(loadings):
    return 0.04 * jnp.eye(len(loadings)) + 0.01 * loadings @ loadings.T


def portfolio(mean, loadings, gamma, upper):
    return problems.portfolio(mean, covariance(loadings), gamma, upper=upper)


def rebalance(mean, loadings, holdings, turnover):
    return problems.rebalance(mean, covariance(loadings), holdings, turnover, 3.0, cost=0.01)


def risk_limited(mean, loadings, risk):
    return problems.risk_limited(
        mean, covariance(loadings), risk, benchmark=np.full(6, 1 / 6), tracking=0.05, upper=0.6
    )


def trust_region(gradient, M, radius):
    return problems.trust_region(gradient, M + M.T, radius)


def geometric_program(areas):
    walls = problems.Posynomial(jnp.array([2.0, 2.0]) / areas[0], jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]))
    floor = problems.Posynomial(1 / areas[1:], jnp.array([[0.0, 1.0, 1.0]]))
    wide = problems.Posynomial(jnp.ones(1), jnp.array([[0.0, 1.0, -1.0]]))
    return problems.geometric_program(problems.Posynomial(jnp.ones(1), -jnp.ones((1, 3))), [walls, floor, wide])


def svm(X, gamma, C):
    return problems.svm(problems.rbf(X, X, gamma), _LABELS, C)


def one_class_svm(X, nu):
    return problems.one_class_svm(problems.rbf(X, X, 0.5), nu)


def bounded_least_squares(X, y, upper):
    return problems.bounded_least_squares(X, y, 0.0, upper, ridge=0.1)


def logistic_regression(X, ridge):
    return problems.logistic_regression(X, _LABELS, -0.6, 0.6, ridge=ridge)


def economic_dispatch(demand, linear):
    return problems.economic_dispatch(demand, 0.01, linear, 0.0, 80.0)


def optimal_power_flow(demand, limit):
    lines = {"from_bus": [0, 1, 2], "to_bus": [1, 2, 0], "susceptance": [500.0, 400.0, 300.0], "limit": limit}
    network = problems.Network(3, [0, 1], [0.1, 0.2], [10.0, 30.0], 0.0, 100.0, **lines)
    return problems.optimal_power_flow(network, demand)


def regulator(R):
    force = kkt.Box(-1.0, 1.0)
    return problems.Regulator([[1.0, 0.2], [0.0, 1.0]], [[0.02], [0.2]], np.eye(2), R[None, None], 4, inputs=force)


def predictive_control(state, R):
    return problems.predictive_control(regulator(R), state)


def receding_horizon(R, disturbance):
    loop = problems.receding_horizon(regulator(R), [2.0, 0.0], disturbance)
    return loop.inputs, loop.states


def optimal_transport(cost, source, epsilon):
    return problems.optimal_transport(cost, source, np.full(3, 1 / 3), epsilon)


def chemical_equilibrium(gibbs, abundance):
    return problems.chemical_equilibrium(gibbs, [[1.0, 2.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]], abundance)


def normal(*shape):
    return lambda rng: rng.normal(size=(_ROWS, *shape))


def uniform(low, high, *shape):
    return lambda rng: rng.uniform(low, high, size=(_ROWS, *shape))


def masses(n):
    return lambda rng: rng.dirichlet(np.ones(n), size=_ROWS)


def channel(rng):
    return np.swapaxes(rng.dirichlet(np.ones(5), size=(_ROWS, 4)), 1, 2)


# The verb, how each of its arguments is drawn, and what makes the last row bad: which argument, and its value.
_VERBS = [
    (portfolio, [uniform(0.0, 0.1, 6), normal(6, 2), uniform(1, 4), uniform(0.3, 0.5)], 3, 0.1),
    (risk_limited, [uniform(0.0, 0.1, 6), normal(6, 2), uniform(0.12, 0.14)], 2, -1.0),
    (trust_region, [normal(4), normal(4, 4), uniform(0.3, 0.5)], 2, -1.0),
    (geometric_program, [uniform(10, 20, 2)], 0, -1.0),
    (svm, [normal(8, 2), uniform(0.3, 0.6), uniform(5, 10)], 2, -1.0),
    (problems.water_filling, [uniform(0.2, 2, 6), uniform(2, 4)], 1, -1.0),
    (problems.channel_capacity, [channel], 0, 0.5),
    (bounded_least_squares, [normal(8, 4), normal(8), uniform(0.2, 0.6, 4)], 2, -1.0),
    (logistic_regression, [normal(8, 3), uniform(0.5, 1)], 1, -1.0),
    (problems.isotonic_regression, [normal(8), uniform(0.5, 2, 8)], 1, -1.0),
    (problems.total_variation, [normal(8), uniform(0.2, 0.4, 7)], 1, -1.0),
    (problems.quantile_regression, [normal(9, 2), normal(9), uniform(0.3, 0.6)], 2, 2.0),
    (problems.soft_top_k, [normal(6), uniform(1, 3)], 1, 7.0),
    (problems.sparsemax, [normal(6)], 0, np.nan),
    (problems.entropic_top_k, [normal(6), uniform(1, 3)], 1, 7.0),
    (problems.lml, [normal(6), uniform(1, 3)], 0, np.nan),
    (rebalance, [uniform(0.0, 0.1, 6), normal(6, 2), masses(6), uniform(0.2, 0.4)], 3, -1.0),
    (one_class_svm, [normal(8, 2), uniform(0.3, 0.6)], 1, 2.0),
    (problems.maximum_entropy, [uniform(-1, 1, 2, 20), uniform(-0.1, 0.1, 2)], 1, 9.0),
    (economic_dispatch, [uniform(50, 150), uniform(10, 12, 3)], 0, 900.0),
    (optimal_power_flow, [uniform(10, 30, 3), uniform(30, 40)], 1, -1.0),
    (predictive_control, [normal(2), uniform(0.1, 1)], 1, -1.0),
    (receding_horizon, [uniform(0.1, 1), uniform(-0.1, 0.1, 3, 2)], 0, -1.0),
    (optimal_transport, [uniform(0, 1, 4, 3), masses(4), uniform(0.1, 0.3)], 2, -1.0),
    (problems.sinkhorn_divergence, [normal(4, 2), normal(3, 2), uniform(0.5, 1)], 2, -1.0),
    (chemical_equilibrium, [normal(4), uniform(1, 2, 2)], 1, -1.0),
]
_FAST = (svm, problems.water_filling)


def _case(verb, draws, which, value):
    marks = [] if verb in _FAST else [pytest.mark.slow]
    return pytest.param(verb, draws, which, value, id=verb.__name__, marks=marks)


def value_and_gradients(verb, *args):
    def weighed(*args):
        leaves = jax.tree.leaves(verb(*args))
        weights = [np.random.default_rng(1).normal(size=leaf.shape) for leaf in leaves]
        return sum(jnp.vdot(w.astype(leaf.dtype), leaf) for w, leaf in zip(weights, leaves, strict=True)), leaves

    gradients, value = jax.grad(weighed, tuple(range(len(args))), has_aux=True)(*args)
    return value, gradients


@pytest.mark.parametrize(("verb", "draws", "which", "value"), [_case(*row) for row in _VERBS])
def test_batches_and_precisions(verb, draws, which, value, rng, request):
    args = [draw(rng) for draw in draws]
    args[which][-1] = value
    both = functools.partial(value_and_gradients, verb)
    alone = jax.jit(both)
    singles = [alone(*(arg[row].astype(np.float32) for arg in args)) for row in range(_ROWS - 1)]
    request.getfixturevalue("x64")
    found = jax.jit(jax.vmap(both))(*args)
    for row, single in enumerate(singles):
        for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(single), strict=True):
            assert (leaf.dtype, other.dtype) == (np.float64, np.float32)
            np.testing.assert_allclose(other, leaf[row], atol=1e-4 * max(1, np.abs(leaf[row]).max()))
    values, gradients = found
    for leaf in values:
        assert np.isfinite(leaf[:-1]).all()
        assert np.isnan(leaf[-1]).all()
    assert max(np.abs(leaf[:-1]).max() for leaf in gradients) > 1e-2
    assert not np.isfinite(gradients[which][-1]).any()
