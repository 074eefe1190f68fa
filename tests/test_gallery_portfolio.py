"""Portfolios against Clarabel (1e-6 in float64), given another formulation: with weights and their absolute changes, or
with factors, as variables."""

import functools

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import scipy.sparse as sp
from test_derivative import largest_array

import kkt_solvers as kkt
from kkt_solvers.problems import Portfolio, Rebalancing, portfolio, rebalance

GAMMAS = np.array([0.5, 2.0, 10.0])


def market(rng, n, r):
    loadings = 0.05 * rng.normal(size=(n, r)) * np.linspace(1, 0.2, r)
    specific = rng.uniform(0.1, 0.3, n) ** 2
    return 0.05 + 0.03 * rng.normal(size=n), specific, loadings


@functools.partial(jax.jit, static_argnames="low_rank")
def _frontier(mean, specific, loadings, gammas, upper, *, low_rank):
    """Weights of several risk aversions, and the derivative in the expected returns."""
    S = kkt.LowRank(specific, loadings) if low_rank else jnp.diag(specific) + loadings @ loadings.T

    def weights(mean, gamma):
        return portfolio(mean, S, gamma, upper=upper)

    return jax.vmap(references.value_and_jacobian(weights), in_axes=(None, 0))(mean, gammas)


@pytest.mark.parametrize("low_rank", [True, False], ids=["factors", "dense"])
def test_frontier_and_its_sensitivity(low_rank, rng, x64):
    n, upper = 20, 0.25
    mean, specific, loadings = market(rng, n, 3)
    S = np.diag(specific) + loadings @ loadings.T
    w, J = _frontier(mean, specific, loadings, GAMMAS, upper, low_rank=low_rank)

    def reference(mean, gamma):
        return references.box_program(gamma * S, -mean, np.ones((1, n)), [1.0], 0.0, upper)[0]

    # By how much do the weights move with an error of the expected returns?
    error, h = 0.01 * rng.normal(size=n), 1e-3
    for gamma, weights, jacobian in zip(GAMMAS, w, J, strict=True):
        np.testing.assert_allclose(weights, reference(mean, gamma), atol=1e-6)
        moved = (reference(mean + h * error, gamma) - reference(mean - h * error, gamma)) / (2 * h)
        np.testing.assert_allclose(jacobian @ error, moved, atol=1e-5)
        assert gamma < 2 or np.abs(moved).max() > 1e-3, "the bolder one sits on its bounds"
        np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-12)
        np.testing.assert_allclose(jacobian.sum(0), 0, atol=1e-12)


@functools.partial(jax.jit, static_argnames="low_rank")
def _rebalanced(mean, specific, loadings, holdings, turnover, cost, *, low_rank):
    S = kkt.LowRank(specific, loadings) if low_rank else jnp.diag(specific) + loadings @ loadings.T

    def weights(holdings, turnover):
        return rebalance(mean, S, holdings, turnover, 3.0, lower=0.0, upper=0.25, cost=cost)

    return jax.vmap(references.value_and_jacobian(weights, (0, 1)), in_axes=(None, 0))(holdings, turnover)


@pytest.mark.parametrize("low_rank", [True, False], ids=["factors", "dense"])
def test_rebalancing(low_rank, rng, x64):
    n, cost = 20, 0.002
    mean, specific, loadings = market(rng, n, 3)
    S = np.diag(specific) + loadings @ loadings.T
    holdings = rng.dirichlet(np.ones(n))
    holdings[0] += 0.3  # above the bound, and the sum above the budget: so much has to be sold
    turnovers = np.array([0.6, 0.8, 5.0, 0.1])  # the third does not bind, the last is too little
    w, (by_holdings, by_turnover) = _rebalanced(mean, specific, loadings, holdings, turnovers, cost, low_rank=low_rank)
    assert np.all(np.isnan(w[-1]))

    def reference(holdings, turnover):  # variables (w, a) with a >= |w - holdings|
        eye, zero, one = np.eye(n), np.zeros((n, n)), np.ones(n)
        return references.cone_program(
            3.0 * np.block([[S, zero], [zero, zero]]),
            np.concatenate([-mean, cost * one]),
            (np.r_[one, 0 * one][None], [1.0], clarabel.ZeroConeT(1)),
            (
                np.block([[eye, -eye], [-eye, -eye], [-eye, zero], [eye, zero], [0 * one, one]]),
                np.r_[holdings, -holdings, 0 * one, 0.25 * one, turnover],
                clarabel.NonnegativeConeT(4 * n + 1),
            ),
        )[0][:n]

    move, h = 0.1 * rng.normal(size=n), 1e-3
    for turnover, weights, in_holdings, in_turnover in zip(turnovers[:3], w, by_holdings, by_turnover, strict=False):
        np.testing.assert_allclose(weights, reference(holdings, turnover), atol=1e-6)
        moved = (reference(holdings + h * move, turnover) - reference(holdings - h * move, turnover)) / (2 * h)
        np.testing.assert_allclose(in_holdings @ move, moved, atol=1e-5)
        moved = (reference(holdings, turnover + h) - reference(holdings, turnover - h)) / (2 * h)
        np.testing.assert_allclose(in_turnover, moved, atol=1e-5)
    assert np.abs(w[0] - w[1]).max() > 1e-2
    assert np.abs(np.asarray(w[2]) - holdings).sum() < 4


def test_no_trade_is_worth_its_cost(rng, x64):
    # Nothing is traded: the weights are the holdings and move with them, also those at their bounds.
    mean, specific, loadings = market(rng, 20, 3)
    holdings = np.r_[0.25, 0.25, np.full(5, 0.1), np.zeros(13)]
    w, (by_holdings, by_turnover) = _rebalanced(
        mean, specific, loadings, holdings, np.array([0.1, 0.5, 1.0, 2.0]), 1.0, low_rank=True
    )
    np.testing.assert_allclose(w, np.tile(holdings, (4, 1)), atol=1e-12)
    np.testing.assert_allclose(by_turnover, 0, atol=1e-12)
    np.testing.assert_allclose(by_holdings, np.tile(np.eye(20), (4, 1, 1)), atol=1e-12)


def test_a_factor_model_is_never_formed(rng):
    n, r = 5000, 30
    mean, specific, loadings = market(rng, n, r)

    def weights(mean):
        S = kkt.LowRank(specific, loadings)
        return rebalance(mean, S, np.full(n, 1 / n), 0.5)[0] + portfolio(mean, S)[0]

    assert largest_array(jax.grad(weights), mean) < 3 * n * r


@pytest.mark.slow
def test_5000_assets(rng, x64):
    n, r, gamma, upper = 5000, 30, 5.0, 0.02
    mean, specific, loadings = market(rng, n, r)
    w, pullback = jax.vjp(
        jax.jit(lambda mean: portfolio(mean, kkt.LowRank(specific, loadings), gamma, upper=upper)), mean
    )
    A = sp.bmat([[np.ones((1, n)), None], [loadings.T, -sp.eye(r)]])

    def reference(mean):  # the factors loadings'w as variables
        lower, most = np.r_[np.zeros(n), np.full(r, -np.inf)], np.r_[np.full(n, upper), np.full(r, np.inf)]
        P, q = gamma * sp.diags(np.r_[specific, np.ones(r)]), np.r_[-mean, np.zeros(r)]
        return references.box_program(P, q, A, np.r_[1.0, np.zeros(r)], lower, most)[0][:n]

    np.testing.assert_allclose(w, reference(mean), atol=1e-6)
    error, g, h = 0.01 * rng.normal(size=n), rng.normal(size=n), 1e-4
    moved = g @ (reference(mean + h * error) - reference(mean - h * error)) / (2 * h)
    np.testing.assert_allclose(pullback(g)[0] @ error, moved, rtol=1e-4)


@pytest.mark.slow
def test_rebalancing_5000_assets(rng, x64):
    n, r, gamma, upper, cost, turnover = 5000, 30, 5.0, 0.02, 0.002, 0.5
    mean, specific, loadings = market(rng, n, r)
    holdings = rng.dirichlet(np.ones(n))

    def weights(mean):
        S = kkt.LowRank(specific, loadings)
        return rebalance(mean, S, holdings, turnover, gamma, upper=upper, cost=cost)

    w, pullback = jax.vjp(jax.jit(weights), mean)
    # Weights w, absolute changes a >= |w - holdings|, and the factors loadings'w as variables.
    eye, none, one = sp.eye(n), sp.csr_matrix((n, r)), np.ones((1, n))
    equalities = sp.bmat([[one, np.zeros((1, n)), np.zeros((1, r))], [loadings.T, np.zeros((r, n)), -sp.eye(r)]])
    blocks = [[eye, -eye, none], [-eye, -eye, none], [-eye, 0 * eye, none], [eye, 0 * eye, none]]
    inequalities = sp.bmat([*blocks, [0 * one, one, np.zeros((1, r))]])
    most = np.r_[holdings, -holdings, np.zeros(n), np.full(n, upper), turnover]

    def reference(mean):
        return references.cone_program(
            gamma * sp.diags(np.r_[specific, np.zeros(n), np.ones(r)]),
            np.r_[-mean, np.full(n, cost), np.zeros(r)],
            (equalities, np.r_[1.0, np.zeros(r)], clarabel.ZeroConeT(1 + r)),
            (inequalities, most, clarabel.NonnegativeConeT(4 * n + 1)),
        )[0][:n]

    np.testing.assert_allclose(w, reference(mean), atol=1e-6)
    assert np.abs(np.asarray(w) - holdings).sum() > turnover - 1e-9
    error, g, h = 0.01 * rng.normal(size=n), rng.normal(size=n), 1e-4
    moved = g @ (reference(mean + h * error) - reference(mean - h * error)) / (2 * h)
    np.testing.assert_allclose(pullback(g)[0] @ error, moved, rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Portfolio([0.1, 0.2], np.eye(3)), r"covariance must be square, \(2, 2\)"),
        (lambda: Portfolio([0.1, 0.2], np.ones((2, 3))), "covariance must be square"),
        (lambda: Portfolio(0.1, [[1.0]]), "mean must be a vector of expected returns"),
        (lambda: Portfolio([0.1, 0.2], np.eye(2), upper=0.4), "budget 1.0 is out of reach"),
        (lambda: portfolio([0.1, 0.2], np.eye(2), lower=0.6), "budget 1.0 is out of reach"),
        (lambda: Portfolio([0.1, 0.2], np.eye(2), lower=0.6, upper=0.5), "lower is above upper for some asset"),
        (lambda: Portfolio([0.1, 0.2], np.eye(2), -1.0), "risk_aversion must be positive"),
        (lambda: Portfolio([0.1, 0.2], np.eye(2), GAMMAS), "risk_aversion must be a scalar"),
        (lambda: Portfolio([0.1, 0.2], [[1.0, 0.5], [0.0, 1.0]]), "covariance must be symmetric"),
        (lambda: Portfolio([0.1, 0.2], [1.0, -1.0]), "covariance must have nonnegative variances"),
        (lambda: portfolio([0.1, 0.2], kkt.LowRank([1.0, -1.0], np.ones((2, 1)))), "covariance must have nonnegative"),
        (lambda: Rebalancing([0.1, 0.2], np.eye(2), [0.2, 0.2], [0.5, 0.5]), "turnover must be a scalar"),
        (lambda: Rebalancing([0.1, 0.2], np.eye(2), [0.2, 0.2], 0.5), "turnover 0.5 does not reach"),
        (lambda: Rebalancing([0.1, 0.2], np.eye(2), [0.2, 0.8], -0.5), "turnover -0.5 does not reach"),
        (lambda: Rebalancing([0.1, 0.2], np.eye(2), np.ones(3), 0.5), r"holdings .* shape \(2,\) of mean"),
        (lambda: rebalance([0.1, 0.2], np.eye(2), [0.5, 0.5], 0.5, cost=-1.0), "cost must be nonnegative"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
