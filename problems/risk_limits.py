"""Portfolios that earn most within limits of risk.

    max_w  mean'w       s.t.   1'w = budget,   lower <= w <= upper,

                               w'S w <= risk^2                                      volatility
                               (w - benchmark)'S (w - benchmark) <= tracking^2      tracking error
                               quantile sqrt(w'S w) - mean'w <= loss                value at risk

The last is the chance constraint `P(return < -loss) <= 1 - confidence` of normal returns, with `quantile` the normal
quantile of `confidence` [boyd2004, section 4.4.2]. Each limit is a smooth convex inequality, and its multiplier is a
price: the expected return that one more unit of the right-hand side (a variance, or a loss) would bring.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from kkt_solvers import Box, LowRank, Problem, Quadratic, Sum, solve
from kkt_solvers.numerics.arrays import cast, float_dtype, floating
from kkt_solvers.problems import _checks
from kkt_solvers.problems.portfolio import with_budget


def RiskLimited(
    mean: Any,
    covariance: Any,
    risk: Any = None,
    *,
    benchmark: Any = None,
    tracking: Any = None,
    loss: Any = None,
    confidence: Any = 0.95,
    budget: Any = 1.0,
    lower: Any = 0.0,
    upper: Any = jnp.inf,
) -> Problem:
    """The portfolio of the largest expected return within limits of risk as a `Problem` in the weights.

    Arguments:
        mean, covariance, budget, lower, upper: as for `Portfolio`.
        risk: the largest standard deviation of the return, positive, a scalar; or `None`.
        benchmark: weights to be tracked, `(n,)`.
        tracking: the largest standard deviation of the difference from the benchmark, positive, a scalar; or `None`.
        loss: the largest value at risk, a scalar; or `None`.
        confidence: of the value at risk, above 0.5 and below 1, a scalar.

    `dual.inequality` is a dictionary of the multipliers: `"risk"` of the variance, `"tracking"` of that of the
    difference, and `"loss"`; it has the keys of the limits that are given.

    Raises `ValueError` as `Portfolio` does, and for a limit or a confidence out of range, for a benchmark without
    `tracking`, and for no limit at all. Limits that no weights meet end in the status `PRIMAL_INFEASIBLE`.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import RiskLimited
    >>> solution = kkt.solve(RiskLimited([0.10, 0.05], [0.04, 0.01], 0.1, upper=2.0))
    >>> solution.primal.tolist(), solution.dual.inequality["risk"].tolist()
    ([0.40, 0.60], 2.50)
    """
    mean, S, budget, lower, upper = with_budget(mean, covariance, budget, lower, upper)
    if (benchmark is None) != (tracking is None):
        raise ValueError("benchmark and tracking go together: pass both or neither")
    given = {"risk": risk, "tracking": tracking, "loss": loss}
    limits = {name: _checks.scalar(value, name) for name, value in given.items() if value is not None}
    if not limits:
        raise ValueError("without a limit the return has no trade-off; pass risk, tracking or loss")
    for name in limits.keys() & {"risk", "tracking"}:
        value = limits[name]
        message = f"{name} must be positive, got {value}"
        limits[name] = _checks.where_valid(value, message, lambda xp, value: value > 0)
    benchmark = None if benchmark is None else _checks.like(benchmark, mean.shape, "benchmark", "mean")
    quantile = _quantile(confidence)
    dtype = float_dtype(mean, *limits.values())
    limits, benchmark, quantile = cast((limits, benchmark, quantile), dtype)
    args = (mean, S, limits, benchmark, quantile)
    return Problem(Quadratic(None, -mean), Sum(budget), Box(lower, upper), args, _beyond)


def risk_limited(
    mean: Any,
    covariance: Any,
    risk: Any = None,
    *,
    benchmark: Any = None,
    tracking: Any = None,
    loss: Any = None,
    confidence: Any = 0.95,
    budget: Any = 1.0,
    lower: Any = 0.0,
    upper: Any = jnp.inf,
) -> jax.Array:
    """The weights of the portfolio of the largest expected return within limits of risk, `(n,)`.

    Arguments: as for `RiskLimited`. Batches go through `jax.vmap`. NaN where no weights meet the limits.

    >>> from kkt_solvers.problems import risk_limited
    >>> risk_limited([0.10, 0.05], [0.04, 0.01], benchmark=[0.5, 0.5], tracking=0.0447213595).tolist()
    [0.700, 0.300]
    """
    limits = {"benchmark": benchmark, "tracking": tracking, "loss": loss, "confidence": confidence}
    return _checks.solved(solve(RiskLimited(mean, covariance, risk, **limits, budget=budget, lower=lower, upper=upper)))


def _beyond(w: jax.Array, mean: Any, S: Any, limits: Any, benchmark: Any, quantile: Any) -> dict[str, jax.Array]:
    """By how much each limit is exceeded."""
    values = {
        "risk": lambda limit: _variance(S, w) - limit**2,
        "tracking": lambda limit: _variance(S, w - benchmark) - limit**2,
        "loss": lambda limit: quantile * jnp.sqrt(_variance(S, w)) - jnp.vdot(mean, w) - limit,
    }
    return {name: values[name](limit) for name, limit in limits.items()}


def _variance(S: Any, w: jax.Array) -> jax.Array:
    if isinstance(S, LowRank):
        return jnp.vdot(S.diagonal * w, w) + jnp.sum((S.factor.T @ w) ** 2)
    return jnp.vdot(w, S @ w if S.ndim == 2 else S * w)


def _quantile(confidence: Any) -> jax.Array:
    confidence = _checks.scalar(confidence, "confidence")
    message = f"confidence must lie above 0.5 and below 1, got {confidence}"
    confidence = _checks.where_valid(confidence, message, lambda xp, value: (value > 0.5) & (value < 1))
    return ndtri(floating(confidence, "confidence"))
