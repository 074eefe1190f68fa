"""The root of a smooth sum of steep functions, from plain sums at few points.

See `_steep.py` for the equation. The sum is smooth where its steps are dense: then it is nearly that of a normal
distribution of steps, and its logit nearly a line.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.data.objectives import Separable
from kkt_solvers.numerics.arrays import block_sum, tree_where
from kkt_solvers.numerics.batches import in_any

_NEAR = 0.25  # what two interpolations may differ by
_FAR = 2.0  # the step from the second point to the third, from which on they are not trusted
_SPARSE = 2.0  # the spread of the steps, for each that is to be passed, from which on the sum is no smooth function
_SAMPLE = 256
_SUMS = 3


class Row(NamedTuple):
    """One equality over a bounded box; `weights` is a vector, or a scalar where all are the same."""

    objective: Separable
    weights: jax.Array
    lower: jax.Array
    upper: jax.Array
    total: jax.Array
    above_least: jax.Array  # the total less the smallest sum over the box, and the largest sum less the total
    below_most: jax.Array


def guess(row: Row, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The root for normally distributed steps of the same mean and variance, psi being near to logistic; a sample of
    them will do. And whether the steps are so dense that it is near, and the sum smooth there."""
    n = row.lower.size
    stride = n // _SAMPLE if n >= 2 * _SAMPLE else 1
    some = jax.tree.map(lambda leaf: leaf[::stride] if leaf.ndim else leaf, row)
    mean_scale = jnp.mean(jnp.abs(some.weights))

    def steps() -> jax.Array:
        return some.objective.gradient(0.5 * (some.lower + some.upper)) / some.weights

    def moments(steps: jax.Array, usable: jax.Array, count: Any, total: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean = total / count
        rest = jnp.where(usable, steps - mean, 0)
        return mean, block_sum(rest * rest) / count

    def of_usable() -> tuple[jax.Array, jax.Array]:
        usable = jnp.isfinite(steps())
        count = jnp.maximum(block_sum(usable.astype(total.dtype)), 1)
        return moments(steps(), usable, count, block_sum(jnp.where(usable, steps(), 0)))

    total = block_sum(steps())
    mean, variance = jax.lax.cond(
        in_any(~jnp.isfinite(total)),
        of_usable,
        lambda: moments(steps(), jnp.ones((), bool), some.lower.size, total),
    )
    odds = jnp.log(row.above_least) - jnp.log(row.below_most)
    deviation = mean_scale * jnp.sqrt(variance)
    start = mean + odds * jnp.sqrt(1 + jnp.pi / 8 * deviation**2) / mean_scale
    smooth = deviation <= _SPARSE * jnp.maximum(jnp.minimum(row.above_least, row.below_most) / scale, 1)
    return jnp.where(jnp.isfinite(start), start, 0.0), smooth


class _Sums(NamedTuple):
    """Plain sums `c` at the last points, and where interpolation says that the root is: by all, and by the last two."""

    points: tuple[jax.Array, ...]
    residuals: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]  # log(c / (h - c)), less that of the total
    s: jax.Array
    coarse: jax.Array


def interpolate(row: Row, s: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Inverse interpolation of `log(c / (h - c))` of the plain sums `c`: one sum a sweep, two to four sweeps.

    Returns `(s, found, near, sweeps)`, `near` where Newton's method may start there. Plain sums know s only to rounding
    of the total: it is `found` only where the slope is large enough for that not to matter, and where interpolation of
    one order less says the same.
    """

    def further(sums: _Sums) -> _Sums:
        assert row.objective.minimiser is not None
        y = row.objective.minimiser(row.weights * sums.s, row.objective.theta)
        residual = block_sum(row.weights * y) - row.total
        value = jnp.log1p(residual / row.above_least) - jnp.log1p(-residual / row.below_most)
        points, residuals, values = (
            (*old, new)[-_SUMS:] for old, new in zip(sums, (sums.s, residual, value), strict=False)
        )
        coarse, s = _inverse(points, values, scale)
        return _Sums(points, residuals, values, s, coarse)

    def closely() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        sums = further(two)
        settled, near, exact = _trusted(row, sums, scale)
        once_more = near & exact & ~settled
        more = jax.lax.cond(in_any(once_more), lambda: further(sums), lambda: sums)
        settled |= once_more & _trusted(row, more, scale)[0]
        s = jnp.where(once_more, more.s, sums.s)
        return s, settled & exact, near, jnp.where(once_more, _SUMS + 1, _SUMS).astype(jnp.int32)

    two = further(further(_Sums((), (), (), s, s)))
    # After a long step, or from a plateau, a third sum does not bring it near.
    first, second = two.values
    plateau = (first == second) & (second != 0)
    hopeful = (scale * jnp.abs(two.s - two.points[-1]) <= _FAR) & ~plateau
    rough = two.s, jnp.zeros((), bool), jnp.zeros((), bool), jnp.full((), 2, jnp.int32)
    return tree_where(hopeful, jax.lax.cond(in_any(hopeful), closely, lambda: rough), rough)


def _trusted(row: Row, sums: _Sums, scale: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Whether interpolation is settled, whether it is near, and whether plain sums are exact enough."""
    (points, residuals, _, s, coarse), eps = sums, float(jnp.finfo(sums.s.dtype).eps)
    # The last two points may be the same but for rounding.
    apart = scale * jnp.abs(points[-1] - points[-2]) > eps**0.5
    way = points[-1] - jnp.where(apart, points[-2], points[0])
    rise = residuals[-1] - jnp.where(apart, residuals[-2], residuals[0])
    slope = 16 * rise / jnp.where(way == 0, 1, way) / scale
    settled = jnp.abs(s - coarse) <= 4 * eps * jnp.maximum(jnp.abs(s), 1 / scale)
    exact = slope > jnp.abs(row.total) + row.above_least
    step = jnp.maximum(jnp.abs(s - coarse), 0.5 * jnp.abs(s - points[-1]))
    near = scale * step <= _NEAR
    return settled, near & (slope > 0.1 * jnp.minimum(row.above_least, row.below_most)), exact


def _inverse(
    points: tuple[jax.Array, ...], values: tuple[jax.Array, ...], scale: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Where the value is zero, by the last two points, and by all (up to three); of one point, with slope `scale`."""
    if len(points) == 1:
        s = points[0] - values[0] / scale
        return s, s
    (b, c), (fb, fc) = points[-2:], values[-2:]
    line = c - fc * (c - b) / jnp.where(fc == fb, 1.0, fc - fb)
    if len(points) == 2:
        return line, line
    a, fa = points[0], values[0]
    curved = (fa != fb) & (fb != fc) & (fa != fc)
    first, second = (c - b) / jnp.where(curved, fc - fb, 1.0), (b - a) / jnp.where(curved, fb - fa, 1.0)
    bend = (first - second) / jnp.where(curved, fc - fa, 1.0)
    return line, jnp.where(curved, line + fb * fc * bend, line)
