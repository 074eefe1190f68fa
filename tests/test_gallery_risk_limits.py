"""Portfolios within limits of risk against Clarabel (second-order cones, 1e-6 in float64), and the tangency portfolio
by Newton's method on the limit."""

import functools

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from scipy.stats import norm
from test_gallery_portfolio import market

import kkt_solvers as kkt
from kkt_solvers.problems import RiskLimited, risk_limited

UPPER = 0.25


def limited(mean, root, limits, benchmark, confidence=0.95):
    """Clarabel's weights for the limits that are finite, and the multipliers of those limits as it writes them:
    of `|root'w| <= limit`."""
    n = len(mean)
    eye, zero = np.eye(n), np.zeros(n)
    blocks = [
        (np.ones((1, n)), [1.0], clarabel.ZeroConeT(1)),
        (np.r_[-eye, eye], np.r_[zero, np.full(n, UPPER)], clarabel.NonnegativeConeT(2 * n)),
    ]
    risk, tracking, loss = limits
    cone, r = clarabel.SecondOrderConeT(1 + root.shape[1]), np.zeros(root.shape[1])
    if np.isfinite(risk):
        blocks.append((np.r_[zero[None], -root.T], np.r_[risk, r], cone))
    if np.isfinite(tracking):
        blocks.append((np.r_[zero[None], -root.T], np.r_[tracking, -root.T @ benchmark], cone))
    if np.isfinite(loss):
        blocks.append((np.r_[-mean[None] / norm.ppf(confidence), -root.T], np.r_[loss / norm.ppf(confidence), r], cone))
    w, multipliers = references.cone_program(None, -mean, *blocks)
    return w, [each[0] for each in multipliers[2:]]


@functools.partial(jax.jit, static_argnames="low_rank")
def _limited(mean, specific, loadings, limits, benchmark, *, low_rank):
    """Weights, multipliers, and the derivative in the expected returns and the limits."""
    S = kkt.LowRank(specific, loadings) if low_rank else jnp.diag(specific) + loadings @ loadings.T

    def weights(mean, limits):
        risk, tracking, loss = limits
        solution = kkt.solve(RiskLimited(mean, S, risk, benchmark=benchmark, tracking=tracking, loss=loss, upper=UPPER))
        return solution.primal, (solution.primal, solution.dual.inequality, solution.status)

    jacobian, (w, prices, status) = jax.vmap(jax.jacobian(weights, (0, 1), has_aux=True), in_axes=(None, 0))(
        mean, limits
    )
    return w, prices, status, jacobian


@pytest.mark.parametrize("low_rank", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["factors", "dense"])
def test_limits_and_their_sensitivity(low_rank, rng, x64):
    n = 12
    mean, specific, loadings = market(rng, n, 3)
    root = np.c_[np.diag(np.sqrt(specific)), loadings]
    benchmark = rng.dirichlet(np.full(n, 5.0))
    # The volatility binds, the tracking error, the value at risk, the first two; and no weights meet the last.
    limits = np.array([[0.09, 0.5, 1.0], [0.5, 0.06, 1.0], [0.5, 0.5, 0.08], [0.082, 0.06, 1.0], [0.01, 0.5, 1.0]])
    w, prices, status, (by_mean, by_limits) = _limited(mean, specific, loadings, limits, benchmark, low_rank=low_rank)
    assert np.all(np.isnan(by_mean[-1]))
    assert status.tolist() == [0, 0, 0, 0, kkt.Status.PRIMAL_INFEASIBLE]

    error, h = 0.01 * rng.normal(size=n), 1e-2
    for row, limit in enumerate(limits[:-1]):
        expected, shares = limited(mean, root, limit, benchmark)
        np.testing.assert_allclose(w[row], expected, atol=1e-6)
        # Of |root'w| <= risk and of its square: d/d risk = 2 risk d/d risk^2. Of the loss: q |root'w| - mean'w <= loss.
        scales = np.r_[1 / (2 * limit[:2]), 1 / norm.ppf(0.95)]
        found = [prices[name][row] for name in ("risk", "tracking", "loss")]
        np.testing.assert_allclose(found, scales * shares, atol=1e-5 * np.max(found))
        up, down = (limited(mean + s * error, root, limit, benchmark)[0] for s in (h, -h))
        moved = (up - down) / (2 * h)
        np.testing.assert_allclose(by_mean[row] @ error, moved, atol=1e-3 * np.abs(moved).max())
        for k, step in enumerate(1e-4 * np.eye(3)):
            up, down = (limited(mean, root, limit + s * step, benchmark)[0] for s in (1, -1))
            np.testing.assert_allclose(
                by_limits[row][:, k], (up - down) / 2e-4, atol=3e-3 * np.abs(by_limits[row]).max()
            )
    assert [np.flatnonzero([prices[name][row] > 1e-6 for name in prices]).size for row in range(4)] == [1, 1, 1, 2]


@pytest.mark.slow
def test_the_tangency_portfolio_by_newton(rng, x64):
    # The portfolio of the largest Sharpe ratio is where the frontier return(risk) has its tangent through the riskless
    # rate: return - rate = risk return'(risk). Newton's method on the limit takes the second derivative too.
    n, rate = 12, 0.02
    mean, specific, loadings = market(rng, n, 3)
    S = np.diag(specific) + loadings @ loadings.T

    def gap(risk):
        solution = kkt.solve(RiskLimited(mean, S, risk))
        worth = 2 * risk * solution.dual.inequality["risk"]  # the derivative of the return in the limit
        return -solution.objective - rate - risk * worth

    step = jax.jit(lambda risk: risk - gap(risk) / jax.grad(gap)(risk))
    risk = 0.08  # the least volatility is about 0.06
    for _ in range(6):
        risk = step(risk)
    assert abs(step(risk) - risk) < 1e-9
    # The same portfolio by a quadratic program: min x'S x, (mean - rate)'x = 1, x >= 0, and w = x / sum x.
    x, _ = references.box_program(S, np.zeros(n), (mean - rate)[None], [1.0], 0.0, np.inf)
    np.testing.assert_allclose(risk_limited(mean, S, risk), x / x.sum(), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "without a limit the return has no trade-off"),
        ({"risk": -0.1}, "risk must be positive"),
        ({"tracking": 0.1}, "benchmark and tracking go together"),
        ({"benchmark": [0.5, 0.5]}, "benchmark and tracking go together"),
        ({"benchmark": [0.5, 0.5], "tracking": 0.0}, "tracking must be positive"),
        ({"benchmark": np.ones(3), "tracking": 0.1}, r"benchmark .* shape \(2,\) of mean"),
        ({"loss": 0.1, "confidence": 0.5}, "confidence must lie above 0.5 and below 1"),
        ({"risk": 0.1, "budget": 3.0, "upper": 1.0}, "budget 3.0 is out of reach"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        RiskLimited([0.1, 0.2], np.eye(2), **options)
