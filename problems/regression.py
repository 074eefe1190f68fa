"""Regression with constraints.

    bounded least squares    min_b  |X b - y|^2 / 2 + ridge |b|^2 / 2          s.t.  A b = c,  lower <= b <= upper
    logistic                 min_b  sum_i log(1 + exp(-y_i x_i'b)) + ...        s.t.  the same
    quantile                 min_b  sum_i max(tau r_i, (tau - 1) r_i), r = y - X b    s.t.  box

An intercept is a column of ones in X.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers import Affine, Box, LowRank, Problem, Quadratic, Sum, solve
from kkt_solvers.numerics.arrays import cast, float_dtype, floating, full_precision
from kkt_solvers.problems import _checks


@full_precision
def BoundedLeastSquares(
    X: Any,
    y: Any,
    lower: Any = -jnp.inf,
    upper: Any = jnp.inf,
    *,
    equality: Affine | Sum | None = None,
    ridge: Any = 0.0,
) -> Problem:
    """Least squares within bounds as a `Problem` in the coefficients; its objective leaves out `|y|^2 / 2`.

    Arguments:
        X: shape `(m, p)`, an observation in each row.
        y: `(m,)`.
        lower, upper: bounds of the coefficients, scalars or `(p,)`.
        equality: of the coefficients, an `Affine` or `Sum`: `Sum(1.0)` with `lower=0` for a convex combination.
        ridge: nonnegative, a scalar or `(p,)`.

    Raises `ValueError` for shapes that do not fit, unsorted bounds and a negative ridge. The normal matrix `X'X` is
    formed, or kept as a `LowRank` where there are more features than observations.

    >>> from kkt_solvers.problems import BoundedLeastSquares
    >>> BoundedLeastSquares([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], [1.0, 0.5, 0.3], lower=0.0).objective.P.tolist()
    [[3.0, 3.0], [3.0, 5.0]]
    """
    X, y, lower, upper, ridge = _arguments(X, y, lower, upper, ridge)
    if X.shape[0] < X.shape[1]:
        normal: Any = LowRank(ridge, X.T)
    else:
        normal = X.T @ X + jnp.diag(ridge)
    return Problem(Quadratic(normal, -X.T @ y), equality, Box(lower, upper))


def bounded_least_squares(
    X: Any,
    y: Any,
    lower: Any = -jnp.inf,
    upper: Any = jnp.inf,
    *,
    equality: Affine | Sum | None = None,
    ridge: Any = 0.0,
) -> jax.Array:
    """The coefficients of least squares within bounds, `(p,)`, differentiable in every argument.

    Arguments: as for `BoundedLeastSquares`. Batches go through `jax.vmap`. NaN where the problem was not solved.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import bounded_least_squares
    >>> donors = [[1.0, 3.0, 0.0], [2.0, 3.0, 1.0], [4.0, 2.0, 2.0]]
    >>> bounded_least_squares(donors, [2.0, 2.5, 3.0], 0.0, equality=kkt.Sum(1.0)).tolist()  # a synthetic control
    [0.5, 0.5, 0.0]
    """
    return _checks.solved(solve(BoundedLeastSquares(X, y, lower, upper, equality=equality, ridge=ridge)))


def LogisticRegression(
    X: Any,
    labels: Any,
    lower: Any = -jnp.inf,
    upper: Any = jnp.inf,
    *,
    equality: Affine | Sum | None = None,
    ridge: Any = 0.0,
) -> Problem:
    """Logistic regression within bounds as a `Problem` in the coefficients.

    Arguments: as for `BoundedLeastSquares`, and
        labels: `(m,)`, each +1 or -1.

    Classes that a plane separates need a ridge or bounds: without, there is no solution.

    >>> from kkt_solvers.problems import LogisticRegression
    >>> problem = LogisticRegression([[1.0, 0.0], [1.0, 1.0]], [-1, 1])
    >>> problem.objective(jnp.zeros(2), *problem.args).item() / jnp.log(2.0).item()
    2.0
    """
    X, labels, lower, upper, ridge = _arguments(X, labels, lower, upper, ridge, "labels")
    message = "labels must be +1 or -1; map the two classes to them"
    labels = _checks.where_valid(labels, message, lambda xp, labels: abs(labels) == 1)
    return Problem(_logistic_loss, equality, Box(lower, upper), args=(X, labels, ridge))


def logistic_regression(
    X: Any,
    labels: Any,
    lower: Any = -jnp.inf,
    upper: Any = jnp.inf,
    *,
    equality: Affine | Sum | None = None,
    ridge: Any = 0.0,
) -> jax.Array:
    """The coefficients of logistic regression within bounds, `(p,)`: those of `sigmoid(x'b)`, the odds of a +1.

    Arguments: as for `LogisticRegression`; otherwise like `bounded_least_squares`.

    >>> from kkt_solvers.problems import logistic_regression
    >>> X = [[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]
    >>> logistic_regression(X, [-1, 1, -1, 1], upper=0.5).tolist()
    [-0.75, 0.50]
    """
    return _checks.solved(solve(LogisticRegression(X, labels, lower, upper, equality=equality, ridge=ridge)))


def QuantileRegression(X: Any, y: Any, quantile: Any = 0.5, lower: Any = -jnp.inf, upper: Any = jnp.inf) -> Problem:
    """The dual of quantile regression within bounds as a `Problem`: a linear program whose equality has a row for each
    feature, and whose multipliers `dual.equality` are the coefficients,

        min  -y'd + upper'v - lower'w    s.t.  X'd - v + w = 0,   quantile - 1 <= d <= quantile,   v, w >= 0.

    Arguments: as for `BoundedLeastSquares`, and
        quantile: strictly between 0 and 1, a scalar.

    Raises `ValueError` as that does, and for a quantile outside (0, 1).

    >>> from kkt_solvers.problems import QuantileRegression
    >>> problem = QuantileRegression([[1.0], [1.0]], [3.0, 4.0], 0.75, lower=0.0)
    >>> problem.box.lower.tolist(), problem.box.upper.tolist()
    ([-0.25, -0.25, 0.00, 0.00], [0.75, 0.75, 0.00, inf])
    """
    X, y, lower, upper, _ = _arguments(X, y, lower, upper, 0.0)
    tau = _checks.scalar(quantile, "quantile")
    message = f"quantile must lie strictly between 0 and 1, got {tau}"
    tau = cast(_checks.where_valid(tau, message, lambda xp, tau: (tau > 0) & (tau < 1)), y.dtype)
    # L = -y'd + upper'v - lower'w + b'(X'd - v + w) is stationary in v and w where lower <= b <= upper.
    has_lower, has_upper = jnp.isfinite(lower), jnp.isfinite(upper)
    (m, p), zero = X.shape, jnp.zeros_like(lower)
    q = jnp.concatenate([-y, jnp.where(has_upper, upper, 0.0), jnp.where(has_lower, -lower, 0.0)])
    eye = jnp.eye(p, dtype=y.dtype)
    low = jnp.concatenate([jnp.broadcast_to(tau - 1, m), zero, zero])
    high = jnp.concatenate(
        [jnp.broadcast_to(tau, m), jnp.where(has_upper, jnp.inf, 0.0), jnp.where(has_lower, jnp.inf, 0.0)]
    )
    return Problem(Quadratic(None, q), Affine(jnp.concatenate([X.T, -eye, eye], 1), zero), Box(low, high))


def quantile_regression(X: Any, y: Any, quantile: Any = 0.5, lower: Any = -jnp.inf, upper: Any = jnp.inf) -> jax.Array:
    """The coefficients of quantile regression within bounds, `(p,)`: `argmin_b sum_i max(tau r_i, (tau - 1) r_i)`,
    `r = y - X b`.

    Arguments: as for `QuantileRegression`; otherwise like `bounded_least_squares`. The fit goes through p observations
    or bounds, and moves with them.

    >>> from kkt_solvers.problems import quantile_regression
    >>> quantile_regression([[1.0], [1.0], [1.0], [1.0], [1.0]], [1.0, 2.0, 3.0, 4.0, 100.0]).tolist()
    [3.0]

    Source: [koenker1978], and [portnoy1997] for the dual.
    """
    solution = solve(QuantileRegression(X, y, quantile, lower, upper))
    return _checks.solved(solution, solution.dual.equality)


def _arguments(X: Any, y: Any, lower: Any, upper: Any, ridge: Any, name: str = "y") -> Any:
    X, y = _checks.matrix_of(X, "X", "an observation in each row"), floating(y, name)
    m, p = X.shape
    if y.shape != (m,):
        raise ValueError(f"{name} must have shape ({m},), one for each row of X, got {y.shape}")
    lower, upper, ridge = (
        _checks.like(value, (p,), label, "the columns of X")
        for label, value in (("lower", lower), ("upper", upper), ("ridge", ridge))
    )
    dtype = float_dtype(X, y, lower, upper, ridge) if name == "y" else float_dtype(X, lower, upper, ridge)
    X, y, lower, upper, ridge = cast((X, y, lower, upper, ridge), dtype)
    lower, upper, ridge = _broadcast(p, lower, upper, ridge)
    ridge = _checks.where_valid(
        ridge, lambda ridge: f"ridge must be nonnegative, got {ridge.min():g}", lambda xp, ridge: ridge >= 0
    )
    return X, y, _checks.in_order(lower, upper), upper, ridge


def _broadcast(n: int, *vectors: jax.Array) -> list[jax.Array]:
    dtype = float_dtype(*vectors)
    return [jnp.broadcast_to(cast(value, dtype), n) for value in vectors]


@full_precision
def _logistic_losses(b: jax.Array, X: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of each observation."""
    return jax.nn.softplus(-labels * (X @ b))


def _logistic_loss(b: jax.Array, X: jax.Array, labels: jax.Array, ridge: jax.Array, *_: Any) -> jax.Array:
    return jnp.sum(_logistic_losses(b, X, labels)) + 0.5 * jnp.vdot(ridge * b, b)
