"""Certificates in plain numpy and float64: what a `Solution` claims, checked on the data and functions of the user.

Nothing here calls the library: neither its flattening nor its residuals. Every residual is relative to the size of the
terms that cancel in it, without a constant beside them, so that no unit changes a verdict:

    stationarity      |grad f + A'nu - zl + zu|      against the largest entry of |terms of grad f|, |A|'|nu|, zl, zu
    equality          |A y - b|, row by row          against |A||y| + |b| and, for a row of zeros, its entries times |y|
    box               l - y and y - u                against the largest of |y| and the bound itself
    complementarity   zl'(y - l) + zu'(u - y)        against the size of the Lagrangian's terms
    sign              -zl, -zu                       as stationarity; a multiplier of an infinite bound counts too
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp


class Conditions(NamedTuple):
    """A problem at a point, flat: all that the KKT conditions need.

    `gradient` is that of the objective and `terms` the sizes of what it is the sum of, entry by entry. `A` is the
    matrix of the equality (dense or scipy.sparse) and `rest` the value `A y - b`, `target` the constant part of that.
    `slope`, of a separable objective only, is the derivative of the objective in every coordinate as a function of y.
    """

    y: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    gradient: np.ndarray
    terms: np.ndarray
    A: Any
    rest: np.ndarray
    target: np.ndarray
    slope: Callable[[np.ndarray], np.ndarray] | None = None


class Multipliers(NamedTuple):
    """Flat, with the signs of `kkt.Dual`."""

    equality: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def vector(tree: Any) -> np.ndarray:
    """The leaves of a pytree of arrays as one float64 vector."""
    import jax

    leaves = [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves) if leaves else np.zeros(0)


def conditions(y, P, q, A, b, lower, upper) -> Conditions:
    """Those of a linear or quadratic program. `P` is a matrix, a vector (its diagonal), a pair `(diagonal, factor)`, or
    `None`; matrices may be scipy.sparse."""
    y, q, b = (np.asarray(part, np.float64) for part in (y, q, b))
    if P is None:
        product, size = np.zeros_like(y), np.zeros_like(y)
    elif isinstance(P, tuple):
        diagonal, factor = (np.asarray(part, np.float64) for part in P)
        product = diagonal * y + factor @ (factor.T @ y)
        size = np.abs(diagonal * y) + np.abs(factor) @ (np.abs(factor).T @ np.abs(y))
    elif np.ndim(P) == 1:
        product = np.asarray(P, np.float64) * y
        size = np.abs(product)
    else:
        P = P if sp.issparse(P) else np.asarray(P, np.float64)
        product, size = 0.5 * (P @ y + P.T @ y), 0.5 * (abs(P) @ np.abs(y) + abs(P).T @ np.abs(y))
    A = A if sp.issparse(A) else np.asarray(A, np.float64).reshape(b.size, y.size)
    bounds = (np.broadcast_to(np.asarray(bound, np.float64), y.shape) for bound in (lower, upper))
    return Conditions(y, *bounds, product + q, size + np.abs(q), A, A @ y - b, b)


def with_slacks(
    at: Conditions, dual: Multipliers, G, h, inequality, ray: bool = False
) -> tuple[Conditions, Multipliers]:
    """The same with `G x <= h` too, as equalities with slack variables `h - G x`, every row in units of its entries.
    For a ray `y`, along which they change by `-G y`, too."""
    G, h, inequality = (np.asarray(part, np.float64) for part in (G, h, inequality))
    rows = _row_sizes(G)
    scale = np.where(rows > 0, rows, 1.0)
    G, h, inequality = G / scale[:, None], h / scale, inequality * scale
    free = np.isinf(h)
    slack, zero = np.where(free | ray, 0.0, h) - G @ at.y, np.zeros(h.size)
    A = np.block([[at.A, np.zeros((len(at.target), h.size))], [G, np.eye(h.size)]])
    at = Conditions(
        np.append(at.y, slack),
        np.append(at.lower, np.where(free, -np.inf, 0.0)),
        np.append(at.upper, zero + np.inf),
        np.append(at.gradient, zero),
        np.append(at.terms, zero),
        A,
        np.append(at.rest, zero),
        np.append(at.target, np.where(free, 0.0, h)),
    )
    equality = np.append(dual.equality, inequality)
    return at, Multipliers(equality, np.append(dual.lower, inequality), np.append(dual.upper, zero))


def _largest(*vectors: np.ndarray) -> float:
    return max((float(np.max(np.abs(v))) for v in vectors if np.size(v)), default=0.0)


def _ratio(residual: Any, size: Any) -> float:
    """The largest of the residuals relative to the sizes; nothing is nothing of anything."""
    residual, size = np.broadcast_arrays(np.asarray(residual, np.float64), np.asarray(size, np.float64))
    if not np.all(np.isfinite(residual)):
        return np.inf
    if not residual.size:
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(residual == 0, 0.0, np.abs(residual) / size)))


def _product(multiplier: np.ndarray, slack: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.where(multiplier == 0, 0.0, multiplier * slack)


def _row_sizes(A: Any) -> np.ndarray:
    if not A.shape[1]:
        return np.zeros(A.shape[0])
    return np.ravel(abs(A).max(axis=1).todense() if sp.issparse(A) else np.max(np.abs(A), axis=1, initial=0))


def _near_its_minimiser(at: Conditions, shift: np.ndarray, width: float) -> np.ndarray:
    """Where the minimiser over the box of `phi_i(y) + shift_i y` is within `width`: by the sign of the slope on either
    side of y, which stays meaningful where the slope at y is infinite."""
    assert at.slope is not None
    with np.errstate(all="ignore"):
        left, right = at.slope(np.maximum(at.y - width, at.lower)), at.slope(np.minimum(at.y + width, at.upper))
        falls_before = (at.y - width <= at.lower) | (left + shift <= 0)
        rises_after = (at.y + width >= at.upper) | (right + shift >= 0)
    return falls_before & rises_after


def residuals(at: Conditions, dual: Multipliers, tol: float = 0.0, floor: float = 0.0) -> dict[str, float]:
    """The relative KKT residuals, by name. A coordinate of a separable objective within `tol` times the largest |y| of
    its minimiser counts as stationary. `floor` is the least size that a residual is relative to."""
    y, (nu, lower, upper) = at.y, dual
    named = {"y": y, "equality multiplier": nu, "lower multiplier": lower, "upper multiplier": upper}
    broken = {f"{name} is not finite": np.inf for name, part in named.items() if not np.all(np.isfinite(part))}
    if broken:
        return broken
    shift, sizes = at.A.T @ nu, abs(at.A).T @ np.abs(nu)
    slope = at.gradient + shift - lower + upper
    terms = at.terms
    if at.slope is not None:
        settled = _near_its_minimiser(at, shift, tol * _largest(y))
        slope = np.where(settled, 0.0, slope)
        terms = np.where(settled & ~np.isfinite(terms), 0.0, terms)
    scale = max(_largest(terms, sizes, lower, upper), floor)
    width, bounds, multipliers = _largest(y), np.stack([at.lower, at.upper]), np.stack([lower, upper])
    wrong = np.where(np.isfinite(bounds), np.minimum(multipliers, 0), multipliers)
    bounds, multipliers = np.where(np.isfinite(bounds), bounds, 0.0), np.where(np.isfinite(bounds), multipliers, 0.0)
    gap = np.sum(np.abs(multipliers * (y - bounds)))
    size = np.sum(np.abs(y) * terms) + np.sum(np.abs(nu) * np.abs(at.target)) + np.sum(np.abs(multipliers * bounds))
    rows = abs(at.A) @ np.abs(y) + np.abs(at.target)
    outside = np.maximum([at.lower - y, y - at.upper], 0)
    return {
        "stationarity": _ratio(slope, scale),
        "equality": _ratio(at.rest, np.maximum(np.maximum(rows, _row_sizes(at.A) * width), floor)),
        "box": _ratio(outside, np.maximum(np.maximum(np.abs(bounds), width), floor)),
        "complementarity": _ratio(gap, max(size, floor)),
        "sign": _ratio(wrong, scale),
    }


def is_proof_of_infeasibility(at: Conditions, dual: Multipliers, tol: float) -> str:
    """Farkas: `A'nu = zl - zu`, `zl, zu >= 0`, and `l'zl - u'zu - b'nu > 0`. Why the ray is none, or nothing.

    A multiplier of a bound that is infinite, and what is left of the first equation, prove nothing for large y: both
    must be rounding, and less than the value for all y of the size of the point that `b` and the bounds suggest.
    """
    nu, lower, upper = dual
    if not all(np.all(np.isfinite(part)) for part in dual):
        return "the ray is not finite"
    if min(np.min(lower, initial=0), np.min(upper, initial=0)) < -tol * _largest(lower, upper):
        return "a multiplier of a bound is negative"
    lower, upper = np.maximum(lower, 0), np.maximum(upper, 0)
    kept = np.where(np.isfinite(at.lower), lower, 0), np.where(np.isfinite(at.upper), upper, 0)
    left = np.abs(at.A.T @ nu - kept[0] + kept[1])
    # Rows in units of their largest entries: `columns` are the largest entries left.
    rows = _row_sizes(at.A)
    units = np.where(rows > 0, rows, 1.0)
    entries = abs(at.A.toarray() if sp.issparse(at.A) else at.A) / units[:, None]
    columns = np.max(entries, axis=0, initial=0)
    level = np.maximum(abs(at.A).T @ np.abs(nu), _largest(nu * rows) * columns)
    if _ratio(left, level) > tol:
        return f"A'nu - zl + zu is {_ratio(left, level):.1e} of its terms"
    parts = [_product(kept[0], at.lower), -_product(kept[1], at.upper), -at.target * nu]
    value, size = sum(float(part.sum()) for part in parts), sum(float(np.abs(part).sum()) for part in parts)
    if not value > 1e-14 * size:
        return f"l'zl - u'zu - b'nu is {value:.1e}, of terms of size {size:.1e}"
    # The size of y_i that b suggests, or that its bounds suggest.
    reach = _largest(at.target / units) / np.where(columns > 0, columns, np.inf)
    for bound in (at.lower, at.upper):
        reach = np.maximum(reach, np.where(np.isfinite(bound), np.abs(bound), 0.0))
    if not value > left @ reach:
        return f"what is left of A'nu, {np.sum(left):.1e}, outweighs the value {value:.1e}"
    return ""


def is_proof_of_unboundedness(at: Conditions, P: Any, q: np.ndarray, tol: float) -> str:
    """`y` as a ray: a direction of the box with `A d = 0`, `P d = 0` and `q'd < 0`. Why it is none, or nothing."""
    d, q = at.y, np.asarray(q, np.float64)
    if not np.all(np.isfinite(d)) or not np.any(d):
        return "the ray is not finite or zero"
    least = tol * _largest(d)
    if np.any(np.isfinite(at.lower) & (d < -least)) or np.any(np.isfinite(at.upper) & (d > least)):
        return "the ray leaves the box"
    off = _ratio(at.A @ d, np.maximum(abs(at.A) @ np.abs(d), _row_sizes(at.A) * _largest(d)))
    if off > tol:
        return f"A d is {off:.1e} of its terms"
    curved, most = (
        conditions(direction, P, 0 * q, np.zeros((0, d.size)), np.zeros(0), -np.inf, np.inf)
        for direction in (d, np.full_like(d, _largest(d)))
    )
    if _ratio(curved.gradient, _largest(most.terms)) > tol:
        return f"P d is {_ratio(curved.gradient, _largest(most.terms)):.1e} of the size of P"
    if not q @ d < -1e-14 * (np.abs(q) @ np.abs(d)):
        return f"q'd is {q @ d:.1e}"
    return ""
