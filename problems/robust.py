"""Least squares with data that are not exact [elghaoui1997].

The worst residual of coefficients b, for data in a ball of errors, is a sum of two norms:

    max { |(X + E) b - (y + ratio e)| : |[E, e]|_F <= radius }  =  |X b - y| + radius |(b, ratio)|.

The robust coefficients make it smallest. Each norm is bounded by a variable, in the smooth form of a cone:

    min_{b, t, s}  t + radius s      s.t.  |X b - y|^2 / t <= t,   (|b|^2 + ratio^2) / s <= s,   t, s >= 0.

A positive ratio rounds the tip of the second cone, so that `b = 0` is a point like any other. With `ratio = 0` the
solution is zero for every radius from `|X'y| / |y|` on. The tip of the first cone is an exact fit. With at least as
many coefficients as observations it is the solution for every radius up to some size.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers import Box, Problem, solve
from kkt_solvers.numerics.arrays import cast, float_dtype, floating, full_precision
from kkt_solvers.problems import _checks


def RobustLeastSquares(X: Any, y: Any, radius: Any, ratio: Any = 1.0) -> Problem:
    """Robust least squares as a `Problem` in a dictionary: `"coefficients"`, `(p,)`, and two scalars, the norms
    `"residual"`, `|X b - y|`, and `"size"`, `|(b, ratio)|`.

    Arguments:
        X: shape `(m, p)`, an observation in each row.
        y: `(m,)`.
        radius: of the ball of errors of `[X, y]`, in the Frobenius norm; positive, a scalar.
        ratio: of the errors of y to those of X, nonnegative, a scalar; zero for an exact y.

    The optimal value is the worst residual, and its gradient in X and y points to the worst errors.

    Raises `ValueError` for shapes that do not fit, a radius that is not positive and a negative ratio. At a tip (see
    above) a solution has few digits, and its status may be `INACCURATE`; `robust_least_squares` treats tips apart.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import RobustLeastSquares
    >>> solution = kkt.solve(RobustLeastSquares([[1.0], [0.0]], [5.0, 4.0], 0.75, ratio=1.5))
    >>> solution.primal["coefficients"].tolist(), solution.objective.item()
    ([2.000], 6.875)
    """
    X, y, radius, ratio = _arguments(X, y, radius, ratio)
    infinite, zero = jnp.full(X.shape[1], -jnp.inf, X.dtype), jnp.zeros((), X.dtype)
    box = Box({"coefficients": infinite, "residual": zero, "size": zero})
    return Problem(_worst_residual, None, box, (X, y, radius, ratio), _cones)


@full_precision
def robust_least_squares(X: Any, y: Any, radius: Any, ratio: Any = 1.0) -> jax.Array:
    """The coefficients whose worst residual is smallest, `(p,)`, differentiable in every argument.

    Arguments: as for `RobustLeastSquares`. Batches go through `jax.vmap`. Where a tip is the solution, it is returned:
    zeros, or the exact fit of least norm. NaN where the problem was not solved, and so where fewer coefficients than
    observations fit exactly.

    >>> from kkt_solvers.problems import robust_least_squares
    >>> X, y = [[1.0], [0.0]], [5.0, 4.0]
    >>> [robust_least_squares(X, y, radius, ratio=0.0).item() for radius in (0.6, 0.8)]
    [2.00, 0.00]

    Source: [elghaoui1997].
    """
    X, y, radius, ratio = _arguments(X, y, radius, ratio)
    at_tip, tip = _tip(X, y, radius, ratio)
    # At a tip, a problem without data is solved instead; its solution is zero.
    X, y, ratio = (jnp.where(at_tip, value, array) for value, array in ((0.0, X), (1.0, y), (1.0, ratio)))
    return tip + _checks.solved(solve(RobustLeastSquares(X, y, radius, ratio)))["coefficients"]


def _worst_residual(v: Any, X: jax.Array, y: jax.Array, radius: jax.Array, ratio: jax.Array) -> jax.Array:
    return v["residual"] + radius * v["size"]


@full_precision
def _cones(v: Any, X: jax.Array, y: jax.Array, radius: jax.Array, ratio: jax.Array) -> dict[str, jax.Array]:
    """`|u|^2 / t - t` of each norm."""
    b, residual = v["coefficients"], X @ v["coefficients"] - y
    return {
        "residual": jnp.vdot(residual, residual) / v["residual"] - v["residual"],
        "size": (jnp.vdot(b, b) + ratio**2) / v["size"] - v["size"],
    }


def _tip(X: jax.Array, y: jax.Array, radius: jax.Array, ratio: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether the solution is at a tip, and the solution there, else zeros."""
    (m, p), norm = X.shape, jnp.linalg.norm
    # A subgradient of |X b - y| at zero is -X'y / |y|, and those of radius |b| fill a ball.
    at_zero = (ratio == 0) & (norm(X.T @ y) <= radius * norm(y))
    if m > p:
        return at_zero, jnp.zeros(p, X.dtype)
    # The exact fit of least norm is b = X'a with X X'a = y. It is optimal if X'u = -radius b / |(b, ratio)| for some
    # |u| <= 1; the smallest such u is -radius a / |(b, ratio)|.
    normal = X @ X.T
    a = jnp.linalg.solve(normal, y)
    exact = radius * norm(a) <= norm(jnp.append(X.T @ a, ratio))
    fit = X.T @ jnp.linalg.solve(jnp.where(exact, normal, jnp.eye(m, dtype=X.dtype)), y)
    return at_zero | exact, jnp.where(exact, fit, 0.0)


def _arguments(X: Any, y: Any, radius: Any, ratio: Any) -> Any:
    X, y = _checks.matrix_of(X, "X", "an observation in each row"), floating(y, "y")
    if y.shape != X.shape[:1]:
        raise ValueError(f"y must have shape ({len(X)},), one for each row of X, got {y.shape}")
    radius, ratio = _checks.scalar(radius, "radius"), _checks.scalar(ratio, "ratio")
    X, y, radius, ratio = cast((X, y, radius, ratio), float_dtype(X, y, radius, ratio))
    radius = _checks.where_valid(radius, f"radius must be positive, got {radius}", lambda xp, radius: radius > 0)
    message = f"ratio must be nonnegative, got {ratio}; zero is for an exact y"
    return X, y, radius, _checks.where_valid(ratio, message, lambda xp, ratio: ratio >= 0)
