"""Capped simplex, water-filling, channel capacity and maximum entropy against Clarabel (1e-6 in float64) and closed
forms."""

import functools
import itertools

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from sklearn.datasets import load_diabetes

from kkt_solvers.problems import (
    ChannelCapacity,
    MaximumEntropy,
    WaterFilling,
    channel_capacity,
    entropic_top_k,
    maximum_entropy,
    soft_top_k,
    sparsemax,
    water_filling,
)


@functools.partial(jax.jit, static_argnums=0)
def _value_and_jacobian(choose, x, k):
    return jax.vmap(references.value_and_jacobian(choose))(x, k)


def _exponential(x, columns, rows):
    """`sum of t` maximised, `(t_i, y_i, z_i)` in the exponential cone: the blocks for Clarabel. Each of `columns` is
    `(matrix, vector)` of an affine function of the variables `(x, t)`."""
    parts = [np.stack([part[i] for part in columns]) for i in (0, 1)]
    A, b = (np.moveaxis(part, 0, 1).reshape(-1, *part.shape[2:]) for part in parts)
    return -A, b, [clarabel.ExponentialConeT()] * rows


# --------------------------------------------------------------------------------------------- the simplex
@pytest.mark.parametrize("choose", [soft_top_k, entropic_top_k], ids=["euclidean", "entropic"])
def test_top_k(choose, dtype, rng):
    n, k = 40, np.array([1.0, 7.0, 2.5, 39.0, 41.0])
    x = (2 * rng.normal(size=(5, n))).astype(dtype)
    y, J = _value_and_jacobian(choose, x, k.astype(dtype))
    assert y.dtype == dtype
    assert np.all(np.isnan(y[-1])), "a traced k above n is NaN in its row alone"
    eye, zero, one = np.eye(n), np.zeros((n, n)), np.ones(n)
    for row, total, found, jacobian in zip(x[:-1].astype(float), k, y, J, strict=False):
        if choose is soft_top_k:
            expected, _ = references.box_program(eye, -row, one[None], [total], 0.0, 1.0)
            slope = np.where((expected > 1e-7) & (expected < 1 - 1e-7), 1.0, 0.0)
        else:  # (t, y, 1) in the cone is t <= -y log y
            cone = _exponential(
                n, [(np.c_[zero, eye], 0 * one), (np.c_[eye, zero], 0 * one), (np.c_[zero, zero], one)], n
            )
            expected = references.cone_program(
                None,
                np.concatenate([-row, -one]),
                (np.concatenate([one, 0 * one])[None], [total], clarabel.ZeroConeT(1)),
                (np.c_[eye, zero], one, clarabel.NonnegativeConeT(n)),
                cone,
            )[0][:n]
            slope = np.where(expected < 1 - 1e-7, expected, 0.0)
        bound = 1e-6 if dtype == np.float64 else 1e-5
        np.testing.assert_allclose(found, expected, atol=bound)
        np.testing.assert_allclose(jacobian, np.diag(slope) - np.outer(slope, slope) / slope.sum(), atol=10 * bound)
    if choose is entropic_top_k:
        np.testing.assert_allclose(y[0], jax.nn.softmax(x[0]), rtol=1e-12 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("choose", [soft_top_k, entropic_top_k], ids=["euclidean", "entropic"])
def test_forbidden_tied_and_huge_scores(choose, x64):
    x = jnp.array(
        [[1.0, -jnp.inf, 2.0, 0.0], [1e6, 1e6, 1e6, 1e6], [0.0, 0.0, 5.0, -jnp.inf], [0.0, 0.0, 0.0, -jnp.inf]]
    )
    y, pullback = jax.vjp(choose, x, jnp.array([2.0, 3.0, 0.0, 4.0]))
    assert y[0, 1] == 0
    np.testing.assert_allclose(y[:3].sum(1), [2, 3, 0], rtol=1e-15)
    np.testing.assert_allclose(y[1:3], [[0.75] * 4, [0.0] * 4], atol=1e-15)
    assert np.all(np.isnan(y[3])), "only three are allowed"
    by_score, _ = pullback(jnp.array([[1.0, 2.0, 3.0, 4.0]] * 3 + [[0.0] * 4]))
    assert by_score[0, 1] == 0
    assert np.all(np.isfinite(by_score[:3]))


def test_features_chosen_by_gradient(x64):
    # Which 3 of 10 features explain most? Gradient descent through the gates against all 120 subsets.
    X, y = load_diabetes(return_X_y=True)
    X, y = X * len(X) ** 0.5, (y - y.mean()) / y.std()

    def unexplained(gates):
        Z = X * gates
        return 1 - y @ Z @ jnp.linalg.solve(Z.T @ Z / len(y) + jnp.eye(10), Z.T @ y) / len(y) ** 2

    @jax.jit
    def descend(scores):
        step = jax.grad(lambda scores: unexplained(soft_top_k(scores, 3)))
        return jax.lax.fori_loop(0, 300, lambda _, scores: scores - 3.0 * step(scores), scores)

    gates = soft_top_k(descend(jnp.zeros(10)), 3)
    np.testing.assert_allclose(gates, np.round(gates), atol=1e-12)
    subsets = [np.isin(np.arange(10), chosen).astype(float) for chosen in itertools.combinations(range(10), 3)]
    best = min(subsets, key=lambda gates: float(unexplained(gates)))
    np.testing.assert_allclose(gates, best, atol=1e-12)


# ---------------------------------------------------------------------------------------------- the channels
@jax.jit
def _powers_and_level(noise, power, upper):
    def rate(noise, power):
        p = water_filling(noise, power, upper)
        return jnp.sum(jnp.log1p(p / noise)), p

    (by_noise, by_power), p = jax.vmap(jax.grad(rate, (0, 1), has_aux=True))(noise, power)
    return p, by_noise, by_power


def test_water_filling(dtype, rng):
    n, upper, power = 30, 0.5, np.array([0.1, 3.0, 14.0, -1.0])
    noise = rng.uniform(0.1, 3, size=(4, n)).astype(dtype)
    p, by_noise, by_power = _powers_and_level(noise, power.astype(dtype), upper)
    assert p.dtype == dtype
    assert np.all(np.isnan(p[-1])), "a traced power below zero is NaN in its row alone"
    bound = 1e-6 if dtype == np.float64 else 1e-5
    eye, zero, one = np.eye(n), np.zeros((n, n)), np.ones(n)
    for i in range(3):  # (t, 1, 1 + p / noise) in the cone is t <= log(1 + p / noise)
        inverse = 1 / noise[i].astype(float)
        parts = [(np.c_[zero, eye], 0 * one), (np.c_[zero, zero], one), (np.c_[np.diag(inverse), zero], one)]
        x, (nu, _, _) = references.cone_program(
            None,
            np.concatenate([0 * one, -one]),
            (np.concatenate([one, 0 * one])[None], power[i : i + 1], clarabel.ZeroConeT(1)),
            (np.r_[np.c_[eye, zero], np.c_[-eye, zero]], np.r_[upper * one, 0 * one], clarabel.NonnegativeConeT(2 * n)),
            _exponential(n, parts, n),
        )
        np.testing.assert_allclose(p[i], x[:n], atol=bound)
        np.testing.assert_allclose(by_power[i], nu[0], rtol=1e-5)  # a unit of power is worth 1 / level
        np.testing.assert_allclose(by_noise[i], 1 / (noise[i] + x[:n]) - inverse, atol=100 * bound)


def test_dead_channels_and_ends(x64):
    noise = [[1.0, np.inf, 2.0], [1.0, 2.0, 4.0], [1e-8, 1e8, 1.0], [1.0, 2.0, 4.0]]
    p = water_filling(noise, [4.0, 6.0, 1.0, 0.0], upper=[[9.0], [2.0], [9.0], [9.0]])
    np.testing.assert_allclose(p, [[2.5, 0.0, 1.5], [2, 2, 2], [1 - 5e-9, 0.0, 5e-9], [0, 0, 0]], atol=1e-14)


def test_two_users_share_power_by_gradient(rng, x64):
    # Each fills its own channels; the split at which a unit is worth the same to both is the joint solution's.
    noise = rng.uniform(0.5, 2, size=(2, 30))

    def rates(share):
        p = water_filling(noise, jnp.stack([share, 3.0 - share]))
        return jnp.sum(jnp.log1p(p / noise))

    slope, curvature = jax.jit(jax.grad(rates)), jax.jit(jax.grad(jax.grad(rates)))
    share = 1.5
    for _ in range(6):
        share = share - slope(share) / curvature(share)
    joint = water_filling(noise.ravel(), 3.0)
    np.testing.assert_allclose(share, joint[:30].sum(), rtol=1e-12)


def test_channel_capacity(rng, x64):
    @jax.jit
    def capacity_and_slope(T, dT):
        (capacity, inputs), (slope, _) = jax.jvp(channel_capacity, (T,), (dT,))
        return capacity, inputs, slope

    T = rng.dirichlet(np.ones(10), size=8).T
    capacity, inputs, slope = capacity_and_slope(T, T[:, ::-1] - T)
    x = np.full(8, 1 / 8)
    for _ in range(5000):  # Blahut and Arimoto
        x = x * np.exp(np.sum(T * np.log(T / (T @ x)[:, None]), axis=0))
        x = x / x.sum()
    information = np.sum(T * np.log2(T / (T @ x)[:, None]), axis=0)
    np.testing.assert_allclose(capacity, information @ x, atol=1e-8)
    np.testing.assert_allclose(inputs, x, atol=1e-6)
    # With T moved, inputs held: sum_ij x_j dT_ij log2(T_ij / (T x)_i).
    np.testing.assert_allclose(slope, np.sum((T[:, ::-1] - T) * np.log2(T / (T @ x)[:, None]) @ x), atol=1e-6)


# ---------------------------------------------------------------------------------------------- the moments
@jax.jit
def _distribution_and_jacobian(features, moments, prior):
    return jax.vmap(references.value_and_jacobian(lambda m: maximum_entropy(features, m, prior)))(moments)


def test_option_prices(dtype, rng):
    """The risk-neutral density of least relative entropy that meets quoted option prices, and the hedge of another
    payoff by the quoted ones: the derivative of its price in theirs, which is its regression on their payoffs."""
    S, strikes = np.linspace(40, 180, 71) / 100, np.array([0.8, 0.9, 1.0, 1.1, 1.25])
    payoffs = np.concatenate([S[None], np.maximum(S - strikes[:, None], 0)])

    def density(drift, volatility):
        p = np.exp(-0.5 * ((np.log(S) - drift) / volatility) ** 2) / S
        return p / p.sum()

    prior, market = density(-0.02, 0.2), density(-0.03, 0.25)
    quotes = np.stack([payoffs @ market, payoffs @ prior, payoffs @ market + np.eye(6)[2] * 0.2])
    p, J = _distribution_and_jacobian(*(a.astype(dtype) for a in (payoffs, quotes, prior)))
    assert p.dtype == dtype
    tight = dtype == np.float64
    np.testing.assert_allclose(payoffs @ p[0], quotes[0], atol=1e-12 if tight else 1e-6)
    np.testing.assert_allclose(p[1], prior, atol=1e-12 if tight else 1e-6)
    assert np.all(np.isnan(p[2])), "prices with an arbitrage have no density"
    n, one, eye, zero = len(S), np.ones(len(S)), np.eye(len(S)), np.zeros((len(S), len(S)))
    parts = [(np.c_[zero, eye], 0 * one), (np.c_[eye, zero], 0 * one), (np.c_[zero, zero], one)]
    rows = np.concatenate([one[None], payoffs])
    expected, _ = references.cone_program(
        None,
        np.concatenate([-np.log(prior), -one]),
        (np.c_[rows, 0 * rows], np.r_[1.0, quotes[0]], clarabel.ZeroConeT(len(rows))),
        _exponential(n, parts, n),
    )
    np.testing.assert_allclose(p[0], expected[:n], atol=1e-6)
    digital = (S > 1.05).astype(float)
    root = np.sqrt(expected[:n])
    hedge = np.linalg.lstsq((rows * root).T, digital * root, rcond=None)[0][1:]
    np.testing.assert_allclose(digital @ J[0], hedge, rtol=1e-4 if tight else 2e-2)


# ------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_top_k([1.0, 2.0], 3), "k must lie between 0 and the number of scores, 2"),
        (lambda: soft_top_k([1.0, 2.0], [1, 1]), r"k must be a scalar or have the shape \(\)"),
        (lambda: sparsemax(1.0), "x must have at least one axis"),
        (lambda: WaterFilling([1.0, 0.0], 1.0), "noise must be positive"),
        (lambda: water_filling([1.0, 2.0], 3.0, upper=1.0), "at most what the channels may take"),
        (lambda: water_filling([1.0, 2.0], -1.0), "power must be nonnegative"),
        (lambda: ChannelCapacity([[0.5, 0.5], [0.6, 0.5]]), "columns that sum to one"),
        (lambda: ChannelCapacity([0.5, 0.5]), "transition must be a matrix"),
        (lambda: MaximumEntropy([[1.0, 2.0]], [2.5]), "strictly between the least and the largest"),
        (lambda: MaximumEntropy([[1.0, 2.0]], [1.5, 1.5]), r"moments must have shape \(1,\)"),
        (lambda: maximum_entropy([[1.0, 2.0]], [1.5], [1.0, -1.0]), "prior must be nonnegative"),
        (lambda: maximum_entropy([[1.0, 2.0]], [1.5], [0.0, 0.0]), "prior must be nonnegative, and not all zero"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
