"""The root of a sum of sigmoids: `t = x - nu w` with `sum w sigmoid(t) = k`, row by row.

For any shares 0 <= p <= 1 with `sum w p = k` the equation is the same as

    E = D,    E = sum w (1 - p) sigmoid(t),    D = sum w p sigmoid(-t),

where all terms are positive and nothing cancels. The shares taken here are one for the points `x / w` above a narrow
band, zero below the band, and the same for all points in it. For w = 1 and a band of width d, log(E / D) then grows
with a shift of all t at a rate between 1 - d / 4 and 2: the rate is the mean of sigmoid(-t) over the terms of E plus
the mean of sigmoid(t) over the terms of D, and t is larger in these than in those, but for d. So from any point, and
for any scores, the distance to the root is known within that factor. Chords whose slope is kept in that range find it
in two to five sweeps. With other weights the range is wider by their ratio.

The band is found by bisection on the weight of the points above a threshold, which costs a comparison and a sum. If
exactly k are above a threshold, the band is empty and the root lies in a gap. If the gap is wide, both sums are small
beyond any number; then both sides are moved towards each other by the same length, which scales E and D alike.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.numerics.arrays import where
from kkt_solvers.solvers._logistic_kernel import LONGEST_ROW, fused

_BAND = 1.5  # its width
_RATES = 0.6, 2.0  # of log(E / D): 1 - _BAND / 4, and 2
_FIRST_RATE, _RATE_IN_GAP = 1.25, 2.0  # before there is a chord
_VARIANCE = 4.0  # of points, beyond which they are not taken for a normal distribution
_CACHED = 2**18  # entries


class Root(NamedTuple):
    """`t` and `odds` have the shape of `x`, the others that of a row's sum, `(..., 1)`."""

    t: jax.Array  # without the rounding of nu
    odds: jax.Array  # exp(t), but where the root is in a wide gap exp(t + far) below and exp(t - far) above it
    far: jax.Array
    nu: jax.Array
    sweeps: jax.Array  # how often sums of sigmoids were taken


def logistic_root(
    x: jax.Array, k: jax.Array, w: jax.Array | None = None, *, row_sum: Any = None, most_sweeps: int = 100
) -> Root:
    """The root for scores `x (..., n)`, which may be infinite, `k (..., 1)` and weights like `x`, or `None` for ones.

    Where there is no choice (`k` is not positive, or no less than what may be chosen), `t` is infinite. If scores of
    +inf outweigh `k`, they share it. A row with a NaN is NaN.
    """
    step, row_sum = (max(1, x.shape[-1] // 256), row_sums) if row_sum is None else (1, row_sum)
    dtype, info = x.dtype, jnp.finfo(x.dtype)
    top = 0.5 * math.log(info.max)  # exp(top) stands for infinite odds
    one = jnp.ones((), dtype)
    height, points = (one, x) if w is None else (w, x / w)
    least_unit, unit = (
        (one, one) if w is None else (extreme(w, axis=-1, keepdims=True) for extreme in (jnp.min, jnp.max))
    )

    def scaled(value: jax.Array) -> jax.Array:
        return value if w is None else value * w

    limits = _limits(points, height, row_sum)
    # The differences are what is shared out below: where they are rounded to the same number all of it is.
    everything, nothing = k - limits.above >= limits.below - limits.above, (k <= 0) | (k <= limits.above)
    settled = everything | nothing
    band = _narrow(points, height, k, limits, settled, _BAND / unit, row_sum)
    part = where(band.below > band.above, (k - band.above) / (band.below - band.above), 0.0)
    part = jnp.clip(part, 0.0, 1.0)  # beyond it only where it is settled
    gap = (band.low == band.high) & ~settled
    reach = 10.0 - 0.5 * math.log(info.eps)  # from where on a sigmoid is an exponential
    under, over = _around(points, band, gap & ((limits.high - limits.low) * unit > 2 * reach), _BAND / unit)
    middle = 0.5 * under + 0.5 * over
    half = where(under < over, (0.5 * over - 0.5 * under) * least_unit, 0.0)
    left = jnp.minimum(half, reach)  # of the half of the gap

    edge = where(everything, -jnp.inf, where(nothing, jnp.inf, jnp.nan * k))
    shared = where(everything | (k <= 0), -jnp.inf, jnp.log(k) - jnp.log(limits.above - k))
    t = where(settled, where(x == edge, shared, x - edge), x - scaled(middle))
    above = points > band.high
    near = x - scaled(where(above, over, under)) + where(above, left, -left)
    near = where(settled, t, near)
    share = where(above, 1.0, where(points > band.low, part, 0.0))
    start = jnp.exp(jnp.minimum(near, top))

    def odds(shift: jax.Array) -> jax.Array:
        if w is None:
            return start * jnp.exp(jnp.minimum(shift, 0.9 * top))
        return jnp.exp(jnp.minimum(near + w * shift, top))

    def log_ratio(shift: jax.Array) -> jax.Array:
        r = odds(shift)
        E = row_sum(height * (1 - share) * r / (1 + r))
        D = row_sum(height * share / (1 + r))
        return jnp.log(E + info.tiny) - jnp.log(D + info.tiny)

    rate = where(gap, _RATE_IN_GAP * unit, _FIRST_RATE * unit)
    first = jnp.zeros_like(rate) if w is not None else _guess(t[..., ::step], k / (limits.below - k))
    shift, sweeps = _chords(log_ratio, first, rate, (_RATES[0] * least_unit, _RATES[1] * unit), settled, most_sweeps)
    # Also where it is settled a sweep has been made, which tells of a NaN.
    shift = where(jnp.isnan(shift) | jnp.isnan(k), jnp.nan, where(settled, 0.0, shift))
    end = odds(shift) if w is not None else where(near > top, math.exp(top), odds(shift))
    return Root(t + scaled(shift), end, half - left, where(settled, edge, middle) - shift, sweeps)


def logistic_rows(x: jax.Array, k: jax.Array, w: jax.Array | None = None) -> Root:
    """`logistic_root` of a matrix `x`, at most so many rows at a time that they stay in the cache of a CPU; on a GPU by
    one kernel where a row fits into a block. (Not in float64, in which it has not been measured.)"""
    if jax.default_backend() == "gpu" and x.dtype == jnp.float32 and x.shape[1] <= LONGEST_ROW:
        return jax.lax.platform_dependent(x, k, w, cuda=functools.partial(fused, logistic_root), default=logistic_root)
    rows = next(
        rows for rows in range(len(x), 0, -1) if len(x) % rows == 0 and (rows * x.shape[1] <= _CACHED or rows == 1)
    )
    if jax.default_backend() != "cpu" or rows == len(x) or rows * x.shape[1] < _CACHED // 8:
        return logistic_root(x, k, w)
    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, rows, leaf.shape[1]), (x, k, w))
    return jax.tree.map(
        lambda leaf: leaf.reshape(-1, leaf.shape[2]), jax.lax.map(lambda part: logistic_root(*part), parts)
    )


class _Band(NamedTuple):
    """Thresholds, and the weight of all points above the lower and above the upper one."""

    low: jax.Array
    high: jax.Array
    below: jax.Array
    above: jax.Array


def _limits(points: jax.Array, height: jax.Array, row_sum: Any) -> _Band:
    """A band that holds all finite points."""
    low, high = jnp.min(points, axis=-1, keepdims=True), jnp.max(points, axis=-1, keepdims=True)

    def of_finite_ones() -> _Band:
        return _Band(
            jnp.min(where(points == -jnp.inf, jnp.inf, points), axis=-1, keepdims=True),
            jnp.max(where(points == jnp.inf, -jnp.inf, points), axis=-1, keepdims=True),
            row_sum(where(points == -jnp.inf, 0.0, height)),
            row_sum(where(points == jnp.inf, height, 0.0)),
        )

    def of_all() -> _Band:
        total = jnp.full_like(low, points.shape[-1]) if height.ndim == 0 else row_sum(height)
        return _Band(low, high, total, jnp.zeros_like(low))

    band = jax.lax.cond(_any(jnp.isinf(low) | jnp.isinf(high)), of_finite_ones, of_all)
    info = jnp.finfo(points.dtype)
    return band._replace(low=band.low - 4 * info.eps * jnp.abs(band.low) - info.tiny)


def _narrow(
    points: jax.Array, height: jax.Array, k: jax.Array, band: _Band, done: jax.Array, width: jax.Array, row_sum: Any
) -> _Band:
    """Halve the band, at least k above the lower threshold and at most k above the upper one."""

    def open_at(band: _Band) -> tuple[jax.Array, jax.Array]:
        middle = 0.5 * band.low + 0.5 * band.high
        return middle, ~done & (band.high - band.low > width) & (band.low < middle) & (middle < band.high)

    def halve(state: Any) -> Any:
        band, middle, unfinished = state
        count = row_sum(where(points > middle, height, 0.0))
        up, down = unfinished & (count >= k), unfinished & ~(count > k)  # one of them, also for a NaN
        band = _Band(
            where(up, middle, band.low),
            where(down, middle, band.high),
            where(up, count, band.below),
            where(down, count, band.above),
        )
        return band, *open_at(band)

    return jax.lax.while_loop(lambda state: _any(state[2]), halve, (band, *open_at(band)))[0]


def _around(points: jax.Array, band: _Band, wide: jax.Array, width: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The points on either side of a wide gap; elsewhere the middle of the band, twice."""
    # A band that is wider than it should be is one number wide: its points are all the same.
    middle = where(band.high - band.low > width, band.high, 0.5 * band.low + 0.5 * band.high)

    def found() -> tuple[jax.Array, jax.Array]:
        under = jnp.max(where(points > band.high, -jnp.inf, points), axis=-1, keepdims=True)
        over = jnp.min(where(points > band.high, points, jnp.inf), axis=-1, keepdims=True)
        return where(wide, under, middle), where(wide, over, middle)

    return jax.lax.cond(_any(wide), found, lambda: (middle, middle))


def _guess(t: jax.Array, odds: jax.Array) -> jax.Array:
    """The root for normally distributed points, for which a sum of sigmoids is close to one sigmoid, wider than they by
    their variance. Where they spread far that is wrong, and the guess is near zero."""
    finite = jnp.abs(t) < jnp.inf
    t = where(finite, t, 0.0)
    count, total, square = (jnp.sum(v, axis=-1, keepdims=True) for v in (finite.astype(t.dtype), t, t * t))
    mean, logit = total / count, jnp.log(odds)
    variance = jnp.maximum(square / count - mean * mean, 0.0)
    guess = (jnp.sqrt(1 + math.pi / 8 * variance) * logit - mean) / (1 + (variance / _VARIANCE) ** 2)
    most = jnp.abs(logit) + 1.0
    return where(jnp.abs(guess) < jnp.inf, jnp.clip(guess, -most, most), 0.0)  # a NaN where it is settled


def _chords(
    h: Callable[[jax.Array], jax.Array],
    first: jax.Array,
    rate: jax.Array,
    rates: tuple[jax.Array, jax.Array],
    settled: jax.Array,
    most: int,
) -> tuple[jax.Array, jax.Array]:
    """The root of the increasing `h`, NaN if it is not found, and the number of evaluations, from `first` on. A chord
    goes through the last two points; a parabola through three, of the inverse function, improves it where the two
    agree."""
    info, ratio = jnp.finfo(rate.dtype), rates[1] / rates[0] * (_RATES[0] / _RATES[1])

    def sweep(state: Any) -> Any:
        (s, low, high), (s_1, h_1, h_2, root_1), (error_1, error_2), done, sweeps = state
        now = h(s)
        low, high = where(now < 0, s, low), where(now < 0, high, s)
        slope = (now - h_1) / (s - s_1)
        root = s - now / slope
        step = -now / where(sweeps == 0, rate, jnp.clip(slope, *rates))
        curved = (h_2 * root - now * root_1) / (h_2 - now) - s
        step = where((sweeps > 1) & (jnp.abs(curved - step) < 0.3 * jnp.abs(step)), curved, step)
        beyond = where(now < 0, s + step >= high, s + step <= low)
        step = where(beyond & (low < high), 0.5 * (low + high) - s, step)
        # What is left of the error is of the size of the product of the last three, each of which h bounds.
        error = jnp.abs(now) * ratio
        close = (error * error_1 * error_2 <= 32 * info.eps) | (jnp.abs(now) <= 8 * info.eps) | (s + step == s)
        finished = done | settled | close | (now != now)  # a row with a NaN keeps no other waiting
        s_new = where(done, s, s + step)  # all else follows from it
        return (s_new, low, high), (s, now, h_1, root), (error, error_1), finished, where(done, sweeps, sweeps + 1)

    zero = jnp.zeros_like(rate)
    one, infinite = zero + 1, zero + jnp.inf
    state = ((first, -infinite, infinite), (zero, zero, zero, zero), (one, one), zero > 0, zero.astype(jnp.int32))
    final = jax.lax.while_loop(lambda s: _any(~s[3] & (s[4] < most)), sweep, state)
    return where(final[3], final[0][0], jnp.nan), final[4]


def _any(flag: jax.Array) -> jax.Array:
    return jnp.max(flag.astype(jnp.int32)) > 0  # kernels for a GPU have no other reduction for it


def row_sums(x: jax.Array) -> jax.Array:
    """Sums over the last axis, kept. On a CPU they are products with ones, which takes half the time of a reduction,
    in parts, so that the rounding error does not grow with the length."""
    if jax.default_backend() != "cpu":
        return jnp.sum(x, axis=-1, keepdims=True)
    n = x.shape[-1]
    if n <= 1024:
        return jnp.matmul(x, jnp.ones(n, x.dtype), precision="highest")[..., None]
    length = next((length for length in range(128, 256) if n % length == 0), 128)
    whole = n - n % length
    parts = x[..., :whole].reshape(*x.shape[:-1], -1, length)
    rest = jnp.sum(x[..., whole:], axis=-1, keepdims=True)
    return row_sums(jnp.matmul(parts, jnp.ones(length, x.dtype), precision="highest")) + rest


def spread(value: jax.Array, like: jax.Array) -> jax.Array:
    """`value (b, 1)` for every entry of its row; its transpose are `row_sums`."""
    return jax.linear_transpose(row_sums, like)(value)[0]
