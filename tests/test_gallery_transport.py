"""Entropic transport against Sinkhorn's iteration in ott-jax (1e-9) and, for a small epsilon, HiGHS (1e-6)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from ott.geometry import geometry, pointcloud
from ott.solvers import linear
from ott.tools.sinkhorn_divergence import sinkhorn_divergence as ott_divergence

from kkt_solvers.problems import OptimalTransport, optimal_transport, sinkhorn_divergence

_EXACT = {"threshold": 1e-13, "max_iterations": 100_000}


def squares(x, y):
    return jnp.sum((x[:, None] - y[None]) ** 2, axis=-1)


def cost_of(x, y, source, target, epsilon):
    return optimal_transport(squares(x, y), source, target, epsilon).cost


value_and_slopes = jax.jit(jax.value_and_grad(cost_of, argnums=(0, 2, 3, 4)))
planned = jax.jit(optimal_transport)
divergence_and_slope = jax.jit(jax.value_and_grad(sinkhorn_divergence))


@jax.jit
def by_ott(x, y, source, target, epsilon):
    def cost(x, source):
        return linear.solve(geometry.Geometry(squares(x, y), epsilon=epsilon), source, target, **_EXACT).kl_reg_cost

    return jax.value_and_grad(cost, argnums=(0, 1))(x, source)


def clouds(rng, a=12, b=9):
    source, target = rng.dirichlet(np.ones(a)), rng.dirichlet(np.ones(b))
    source[3] = 0.0  # a point without mass
    return rng.normal(size=(a, 2)), rng.normal(size=(b, 2)) + 0.5, source / source.sum(), target


def test_cost_and_its_slopes_against_ott(x64, rng):
    x, y, source, target = clouds(rng)
    for epsilon in (1.0, 0.05):
        cost, (dx, ds, dt, de) = value_and_slopes(x, y, source, target, epsilon)
        expected, (expected_dx, expected_ds) = by_ott(x, y, source, target, epsilon)
        np.testing.assert_allclose(cost, expected, atol=1e-9)
        np.testing.assert_allclose(dx, expected_dx, atol=1e-9)
        # Masses move within the sum: potentials up to a constant, of the points that have mass.
        some = source > 0
        np.testing.assert_allclose((ds - ds[0])[some], (expected_ds - expected_ds[0])[some], atol=1e-7)
        assert np.isfinite(ds).all()
        # The other slopes by finite differences of ours.
        h, move = 1e-5, rng.normal(size=9) * target
        move -= target * move.sum()
        difference = (
            value_and_slopes(x, y, source, target + h * move, epsilon)[0]
            - value_and_slopes(x, y, source, target - h * move, epsilon)[0]
        )
        np.testing.assert_allclose(dt @ move, difference / (2 * h), atol=1e-7)
        wider, narrower = (value_and_slopes(x, y, source, target, epsilon + s * h)[0] for s in (1, -1))
        np.testing.assert_allclose(de, (wider - narrower) / (2 * h), atol=1e-6)


def test_a_small_epsilon_is_the_linear_program(x64, rng):
    x, y, source, target = clouds(rng)
    C = np.asarray(squares(x, y))
    sums = np.concatenate([np.repeat(np.eye(12), 9, axis=1), np.tile(np.eye(9), 12)])
    masses = np.concatenate([source, target])
    expected = scipy.optimize.linprog(C.ravel(), A_eq=sums, b_eq=masses, method="highs")
    plan, cost = planned(C, source, target, 1e-3)
    np.testing.assert_allclose(plan, expected.x.reshape(12, 9), atol=1e-6)
    np.testing.assert_allclose(np.sum(C * plan), expected.fun, atol=1e-6)
    assert 0 < cost - expected.fun < 1e-3 * np.log(12 * 9)  # epsilon times the entropy of the plan


def test_batches_in_float32(x64, rng):
    x, y, source, target = clouds(rng)
    C = np.stack([squares(x, y), squares(x + 1, y), squares(x, y)])
    epsilon, expected = np.array([0.05, 1.0, 1.0]), by_ott(x + 1, y, source, target, 1.0)[0]
    C, source, target, epsilon = (value.astype(np.float32) for value in (C, source, target, epsilon))
    # The masses of the last do not balance.
    plan, cost = planned(C, source, np.stack([target, target, 2 * target]), epsilon)
    assert plan.dtype == np.float32
    np.testing.assert_allclose(plan[:2].sum(axis=-1), [source, source], atol=1e-5)
    np.testing.assert_allclose(plan[:2].sum(axis=-2), [target, target], atol=1e-5)
    np.testing.assert_allclose(cost[1], expected, rtol=1e-5)
    assert np.isnan(cost[2])
    assert np.isnan(plan[2]).all()


def test_divergence_moves_a_cloud_onto_another(x64, rng):
    x, y = rng.normal(size=(12, 2)), rng.normal(size=(10, 2)) + 2
    epsilon = 0.5
    value, slope = divergence_and_slope(x, y, epsilon)

    def ott(x):
        return ott_divergence(pointcloud.PointCloud, x, y, epsilon=epsilon, solve_kwargs=_EXACT)[0]

    expected, expected_slope = jax.jit(jax.value_and_grad(ott))(x)
    np.testing.assert_allclose(value, expected, atol=1e-9)
    np.testing.assert_allclose(slope, expected_slope, atol=1e-8)
    np.testing.assert_allclose(divergence_and_slope(y, y, epsilon)[0], 0, atol=1e-12)
    for _ in range(60):
        x = x - 6 * divergence_and_slope(x, y, epsilon)[1]  # each point has a twelfth of the mass
    assert divergence_and_slope(x, y, epsilon)[0] < 1e-3 * value
    np.testing.assert_allclose(x.mean(axis=0), y.mean(axis=0), atol=1e-2)


_HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    ("cost", "source", "target", "epsilon", "message"),
    [
        (np.eye(2), _HALF, [0.5, 0.6], 1.0, "source and target must carry the same mass"),
        (np.eye(2), [1.5, -0.5], _HALF, 1.0, "source must hold nonnegative masses"),
        (np.eye(2), _HALF, _HALF, 0.0, "epsilon must be positive"),
        (np.ones((2, 3)), _HALF, _HALF, 1.0, "target must have shape|the leading axes must broadcast"),
        (np.ones(2), _HALF, _HALF, 1.0, "cost must be a matrix|cost must have at least 2 axes"),
    ],
)
def test_bad_input(cost, source, target, epsilon, message):
    for verb in (OptimalTransport, optimal_transport):
        with pytest.raises(ValueError, match=message):
            verb(cost, source, target, epsilon)


def test_bad_clouds_and_axes():
    with pytest.raises(ValueError, match="x and y must be points of one dimension"):
        sinkhorn_divergence(np.ones((3, 2)), np.ones((3, 3)), 1.0)
    with pytest.raises(ValueError, match="the leading axes must broadcast"):
        optimal_transport(np.ones((3, 2, 2)), np.ones((2, 2)) / 2, _HALF, 1.0)
    with pytest.raises(ValueError, match="optimal_transport takes batches"):
        OptimalTransport(np.ones((3, 2, 2)), _HALF, _HALF, 1.0)
    with pytest.raises(ValueError, match="source must have the mass of each of 3 points"):
        sinkhorn_divergence(np.ones((3, 2)), np.ones((2, 2)), 1.0, _HALF)
