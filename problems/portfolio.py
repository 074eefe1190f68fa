"""The mean-variance portfolio [markowitz1952].

    min_w  (gamma / 2) w'S w - mean'w                   s.t.  1'w = budget,  lower <= w <= upper,

and the portfolio that is traded into from given holdings h,

    min_w  (gamma / 2) w'S w - mean'w + cost'|w - h|    s.t.  the same and  sum_i |w_i - h_i| <= turnover.

The covariance of a factor model, `S = diag(specific) + loadings loadings'`, is a `LowRank`, and never formed.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers import Affine, Box, LowRank, Problem, Quadratic, Sum, solve
from kkt_solvers.numerics import lapack
from kkt_solvers.numerics.arrays import cast, float_dtype, floating
from kkt_solvers.problems import _checks


def Portfolio(
    mean: Any, covariance: Any, risk_aversion: Any = 1.0, *, budget: Any = 1.0, lower: Any = 0.0, upper: Any = jnp.inf
) -> Problem:
    """The mean-variance portfolio as a `Problem` in the weights.

    Arguments:
        mean: expected returns, shape `(n,)`.
        covariance: of the returns: `(n, n)`, or a `LowRank(specific, loadings)`, or `(n,)` if diagonal.
        risk_aversion: gamma > 0, a scalar.
        budget: the sum of the weights, a scalar.
        lower, upper: scalars or `(n,)`; `lower=-inf` allows short sales without limit.

    Raises `ValueError` for shapes that do not fit, unsorted bounds and a budget out of their reach; of traced values
    these end in the status.

    >>> from kkt_solvers.problems import Portfolio
    >>> Portfolio([0.10, 0.06], [[0.04, 0.01], [0.01, 0.02]], 2.0).objective(jnp.array([0.5, 0.5])).item()
    -0.06
    """
    mean, S, budget, lower, upper = _arguments(mean, covariance, risk_aversion, budget, lower, upper)
    return Problem(Quadratic(S, -mean), Sum(budget), Box(lower, upper))


def Rebalancing(
    mean: Any,
    covariance: Any,
    holdings: Any,
    turnover: Any,
    risk_aversion: Any = 1.0,
    *,
    budget: Any = 1.0,
    lower: Any = 0.0,
    upper: Any = jnp.inf,
    cost: Any = 0.0,
) -> Problem:
    """The portfolio within a turnover as a `Problem` in `(buys, sales, slack)`, a vector of `2 n + 1` entries. The
    weights are `holdings + buys - sales`; `slack` is what is left of the turnover.

    Arguments: as for `Portfolio`, and
        holdings: the weights before trading, `(n,)`; need not meet the budget and the bounds.
        turnover: the largest sum of all buys and sales, a scalar.
        cost: of buying or selling one unit, a scalar or `(n,)`, nonnegative.

    Raises `ValueError` as `Portfolio` does, for a turnover that does not reach the budget and the bounds, and for a
    negative cost.

    >>> from kkt_solvers.problems import Rebalancing
    >>> problem = Rebalancing([0.1, 0.0], [1.0, 1.0], [0.5, 0.5], 0.08)
    >>> problem.equality.A.tolist(), problem.equality.b.tolist()
    ([[1.0, 1.0, -1.0, -1.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]], [0.00, 0.08])
    """
    mean, S, budget, lower, upper = _arguments(mean, covariance, risk_aversion, budget, lower, upper)
    n = mean.size
    h = _checks.like(holdings, (n,), "holdings", "mean")
    turnover, cost = _checks.scalar(turnover, "turnover"), _checks.like(cost, (n,), "cost", "mean")
    h, turnover, cost = cast((jnp.broadcast_to(h, n), turnover, jnp.broadcast_to(cost, n)), mean.dtype)
    cost = _checks.where_valid(cost, f"cost must be nonnegative, got {cost}", lambda xp, cost: cost >= 0)
    message = (
        f"turnover {turnover} does not reach from the holdings to the budget and the bounds; raise it or widen them"
    )
    turnover = _checks.where_valid(turnover, message, _reaches, h, budget, lower, upper)

    # w = h + b - s, where at a solution b_i s_i = 0. So the bounds of w are bounds of b and s, and a trade that w needs
    # to come within its own is a lower one.
    slope, zero = Quadratic(S, -mean).gradient(h), jnp.zeros(1, mean.dtype)
    q = jnp.concatenate([cost + slope, cost - slope, zero])
    ones = jnp.ones(n, mean.dtype)
    A = jnp.stack([jnp.concatenate([ones, -ones, zero]), jnp.concatenate([ones, ones, zero + 1])])
    low = jnp.concatenate([_needed(lower - h), _needed(h - upper), zero])
    high = jnp.concatenate([_room(upper - h), _room(h - lower), zero + jnp.inf])
    b = jnp.stack([budget - jnp.sum(h), turnover])
    return Problem(Quadratic(_of_trades(S), q), Affine(A, b), Box(low, high))


def portfolio(
    mean: Any, covariance: Any, risk_aversion: Any = 1.0, *, budget: Any = 1.0, lower: Any = 0.0, upper: Any = jnp.inf
) -> jax.Array:
    """The weights of the mean-variance portfolio, `(n,)`, differentiable in every argument.

    Arguments: as for `Portfolio`. Batches go through `jax.vmap`. NaN where no weights meet budget and bounds.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import portfolio
    >>> factors = kkt.LowRank([0.04, 0.04, 0.01], [[0.2], [0.1], [0.0]])
    >>> portfolio([0.12, 0.08, 0.01], factors, upper=0.6).tolist()
    [0.600, 0.400, 0.000]

    Source: [markowitz1952].
    """
    return _checks.solved(solve(Portfolio(mean, covariance, risk_aversion, budget=budget, lower=lower, upper=upper)))


def rebalance(
    mean: Any,
    covariance: Any,
    holdings: Any,
    turnover: Any,
    risk_aversion: Any = 1.0,
    *,
    budget: Any = 1.0,
    lower: Any = 0.0,
    upper: Any = jnp.inf,
    cost: Any = 0.0,
) -> jax.Array:
    """The weights of the portfolio that is reached from `holdings` within the turnover, `(n,)`.

    Arguments: as for `Rebalancing`; otherwise like `portfolio`.

    >>> from kkt_solvers.problems import rebalance
    >>> rebalance([0.1, 0.0], [1.0, 1.0], [0.5, 0.5], 0.08).tolist()
    [0.54, 0.46]
    """
    problem = Rebalancing(
        mean, covariance, holdings, turnover, risk_aversion, budget=budget, lower=lower, upper=upper, cost=cost
    )
    trades = _checks.solved(solve(problem))
    n = trades.size // 2
    return floating(holdings, "holdings") + trades[:n] - trades[n : 2 * n]


def with_budget(mean: Any, covariance: Any, budget: Any, lower: Any, upper: Any) -> Any:
    """The arguments of a portfolio, checked and of one dtype."""
    mean = _checks.vector(mean, "mean", "expected returns")
    n = mean.size
    S = covariance if isinstance(covariance, LowRank) else floating(covariance, "covariance")
    if S.shape not in ((n, n), (n,)):
        raise ValueError(f"covariance must be square, ({n}, {n}), a LowRank of that shape or ({n},), got {S.shape}")
    budget = _checks.scalar(budget, "budget")
    lower, upper = (_checks.like(value, (n,), name, "mean") for name, value in (("lower", lower), ("upper", upper)))
    mean, S, budget, lower, upper = cast((mean, S, budget, lower, upper), float_dtype(mean, S, budget, lower, upper))
    lower, upper = jnp.broadcast_to(lower, n), jnp.broadcast_to(upper, n)
    lower = _checks.in_order(lower, upper, "for some asset")
    message = f"budget {budget} is out of reach: weights within the bounds sum to less, or to more; widen the bounds"
    budget = _checks.where_valid(budget, message, _attainable, lower, upper)
    return mean, _variances(S), budget, lower, upper


def _arguments(mean: Any, covariance: Any, risk_aversion: Any, budget: Any, lower: Any, upper: Any) -> Any:
    arguments = with_budget(mean, covariance, budget, lower, upper)
    gamma = _checks.scalar(risk_aversion, "risk_aversion")
    gamma = _checks.where_valid(gamma, f"risk_aversion must be positive, got {gamma}", lambda xp, gamma: gamma > 0)
    dtype = float_dtype(gamma, *arguments)
    gamma, mean, S, budget, lower, upper = cast((gamma, *arguments), dtype)
    S = LowRank(gamma * S.diagonal, jnp.sqrt(gamma) * S.factor) if isinstance(S, LowRank) else gamma * S
    return mean, S, budget, lower, upper


def _variances(S: Any) -> Any:
    """The covariance where it may be one."""
    if not isinstance(S, LowRank) and S.ndim == 2:
        return _checks.symmetric(S, "covariance")
    message = "covariance must have nonnegative variances on its diagonal"
    diagonal = S.diagonal if isinstance(S, LowRank) else S
    diagonal = _checks.where_valid(diagonal, message, lambda xp, variances: variances >= 0)
    return LowRank(diagonal, S.factor) if isinstance(S, LowRank) else diagonal


def _attainable(xp: Any, budget: Any, lower: Any, upper: Any) -> Any:
    rounding = 100 * float(jnp.finfo(budget.dtype).eps) * (1 + abs(budget))
    return (xp.sum(lower) <= budget + rounding) & (budget - rounding <= xp.sum(upper))


def _reaches(xp: Any, turnover: Any, h: Any, budget: Any, lower: Any, upper: Any) -> Any:
    rounding = 100 * float(jnp.finfo(h.dtype).eps) * (1 + xp.sum(abs(h)))
    within = xp.clip(h, lower, upper)
    return turnover + rounding >= xp.sum(abs(within - h)) + abs(budget - xp.sum(within))


@jax.jit  # so that compiled code is found again
def _least_eigenvalue(S: jax.Array) -> jax.Array:
    return jnp.maximum(lapack.eigvalsh(S)[0], 0.0)


def _of_trades(S: Any) -> Any:
    """The matrix of `(buys, sales, slack)`: as `b_i s_i = 0`, any part D of the diagonal with `S >= D / 2` may go
    without its cross terms, and then no multiplier of the b or s that is zero vanishes."""
    if isinstance(S, LowRank):
        d, V = S.diagonal, S.factor
        return LowRank(jnp.concatenate([d, d, jnp.zeros_like(d[:1])]), jnp.concatenate([V, -V, jnp.zeros_like(V[:1])]))
    if S.ndim == 1:
        return jnp.concatenate([S, S, jnp.zeros_like(S[:1])])
    least = _least_eigenvalue(jax.lax.stop_gradient(S))
    cross = least * jnp.eye(len(S), dtype=S.dtype) - S
    return jnp.pad(jnp.block([[S, cross], [cross, S]]), (0, 1))


# Differentiable from the right at zero: an asset held at its bound can be traded away from it, and need not be.
def _needed(gap: jax.Array) -> jax.Array:
    return jnp.where(gap > 0, gap, 0.0)


def _room(gap: jax.Array) -> jax.Array:
    return jnp.where(gap >= 0, gap, 0.0)
