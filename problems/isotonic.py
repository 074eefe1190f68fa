"""Isotonic regression.

    min_b  sum_i weights_i (b_i - y_i)^2 / 2    s.t.  b_1 <= b_2 <= ... <= b_n,  lower <= b <= upper

With multipliers `force_i >= 0` of `b_i <= b_{i+1}` and `zl, zu >= 0` of the bounds, the KKT conditions are

    weights (b - y) + force - (0, force_1, .., force_{n-1}) - zl + zu = 0,    force_n = 0,
    force_i (b_{i+1} - b_i) = 0,    zl (b - lower) = 0,    zu (upper - b) = 0.

The verb finds the blocks and the forces by the greatest convex minorant, checks these conditions, and differentiates
them: with the active set fixed, their sum over a block, at whose ends no force acts, says that b is the weighted mean
of y there, or a bound.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers import Affine, BlockBidiagonal, Box, Problem, Quadratic, solve
from kkt_solvers.conditions.residuals import default_tolerance
from kkt_solvers.numerics.arrays import cast, float_dtype, largest, stored, where
from kkt_solvers.problems import _checks
from kkt_solvers.problems._minorant import convex_minorant


def IsotonicRegression(y: Any, weights: Any = None, lower: Any = -jnp.inf, upper: Any = jnp.inf) -> Problem:
    """Isotonic regression as a `Problem` in `(b_1, step_1, b_2, step_2, ..)`, by stages, with `step_i = b_(i+1) - b_i`
    nonnegative; `step_n` is zero.

    Arguments:
        y: shape `(n,)`.
        weights: positive, `(n,)`; default ones.
        lower, upper: bounds of b, scalars or `(n,)`.

    Raises `ValueError` for shapes that do not fit, weights that are not positive and unsorted bounds.

    >>> from kkt_solvers.problems import IsotonicRegression
    >>> IsotonicRegression([2.0, 1.0]).equality.A.dense().tolist()
    [[0.0, 0.0, 0.0, 0.0], [-1.0, -1.0, 1.0, 0.0]]
    """
    y, weights, lower, upper = _arguments(y, weights, lower, upper)
    n = y.size
    lower, upper = jnp.broadcast_to(lower, n), jnp.broadcast_to(upper, n)
    # Row i + 1: b_(i+1) - b_i - step_i = 0. Row 0 is empty.
    now = jnp.zeros((n, 1, 2), y.dtype).at[1:, 0, 0].set(1)
    A, zero = BlockBidiagonal(now, jnp.full((n - 1, 1, 2), -1, y.dtype)), jnp.zeros_like(y)

    def in_turn(of_b: jax.Array, of_steps: jax.Array) -> jax.Array:
        return jnp.ravel(jnp.stack([of_b, of_steps], axis=1))

    box = Box(in_turn(lower, zero), in_turn(upper, jnp.append(zero[1:] + jnp.inf, zero[:1])))
    return Problem(Quadratic(in_turn(weights, zero), in_turn(-weights * y, zero)), Affine(A, zero), box)


def isotonic_regression(y: Any, weights: Any = None, lower: Any = -jnp.inf, upper: Any = jnp.inf) -> jax.Array:
    """The nearest nondecreasing sequence within bounds, `(n,)`, differentiable in every argument.

    Arguments: as for `IsotonicRegression`. Batches go through `jax.vmap`. NaN where the problem was not solved.

    Scalar bounds clip the sequence without bounds, which takes O(n) time whatever the data. A bound for each b takes
    the interior point. The derivative is that of the block means; where a block could be split without
    a change of b, an exact tie, it is one of the limits of derivatives nearby: finite, and the same from run to run.

    >>> from kkt_solvers.problems import isotonic_regression
    >>> isotonic_regression([1.0, 3.0, 2.0, 4.0]).tolist()
    [1.0, 2.5, 2.5, 4.0]

    Source: [barlow1972].
    """
    y, weights, lower, upper = _arguments(y, weights, lower, upper)
    if lower.size > 1 or upper.size > 1:
        return _checks.solved(solve(IsotonicRegression(y, weights, lower, upper)))[::2]
    return _by_minorant(y, weights, lower, upper)


@functools.partial(jax.jit, inline=True)  # so that compiled code is found again
def _by_minorant(y: jax.Array, weights: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    dtype = y.dtype
    computed = jnp.promote_types(dtype, jnp.float32)
    y, weights, lower, upper = (value.astype(computed) for value in (y, weights, lower.ravel(), upper.ravel()))
    frozen = jax.lax.stop_gradient((y, weights))
    means, gaps, tied = convex_minorant(*frozen)
    b, below, above = _on_active_set(tied, means, y, weights, lower, upper)
    multipliers = gaps, below, above
    good = _satisfies_conditions(*jax.lax.stop_gradient((b, *multipliers)), *frozen)
    return (b * where(good, jnp.ones((), computed), jnp.nan)).astype(dtype)


def _on_active_set(
    tied: jax.Array, means: jax.Array, y: jax.Array, weights: jax.Array, lower: jax.Array, upper: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The solution as a function of the data while the active set stays, and the multipliers of its bounds. `tied`
    entries belong to the block of the entry before; `means` are those of the blocks."""
    block = stored(jax.lax.associative_scan(jnp.add, where(tied, 0, 1).astype(jnp.int32))) - 1

    def total(v: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(v, block, num_segments=v.size, indices_are_sorted=True)

    of_block = total(weights)
    # Deviations keep the precision of y where its offset is large.
    deviation = total(weights * (y - means)) / where(of_block > 0, of_block, 1.0)
    mean = stored(deviation[block]) + means
    below, above = (weights * jnp.maximum(gap, 0) for gap in (lower - mean, mean - upper))
    return where(below > 0, lower, where(above > 0, upper, mean)), below, above


def _satisfies_conditions(
    b: jax.Array, gaps: jax.Array, below: jax.Array, above: jax.Array, y: jax.Array, weights: jax.Array
) -> jax.Array:
    """Whether the relative residuals of the KKT conditions are within the tolerance of `solve`; false for a NaN."""
    force, steps = gaps[1:], b[1:] - b[:-1]
    terms = jnp.maximum(jnp.abs(weights * b), jnp.abs(weights * y))
    rest = weights * (b - y) + jnp.pad(force, (0, 1)) - jnp.pad(force, (1, 0)) - below + above
    scale, tol = largest(terms, gaps), default_tolerance(b.dtype)
    return (
        (largest(rest) <= tol * scale)
        & (largest(jnp.minimum(steps, 0)) <= tol * largest(b))
        & (largest(jnp.minimum(force, 0)) <= tol * scale)
        & (jnp.abs(jnp.vdot(force, steps)) <= tol * jnp.vdot(terms, jnp.abs(b)))
        & jnp.all(jnp.isfinite(b))
    )


def _arguments(y: Any, weights: Any, lower: Any, upper: Any) -> Any:
    y = _checks.vector(y, "y", "observations, in order")
    n = y.size
    if n == 0:
        raise ValueError("y has no entries: nothing to solve for")
    weights = _checks.like(1.0 if weights is None else weights, (n,), "weights", "y")
    lower, upper = (_checks.like(value, (n,), name, "y") for name, value in (("lower", lower), ("upper", upper)))
    y, weights, lower, upper = cast((y, weights, lower, upper), float_dtype(y, weights, lower, upper))
    y = _checks.where_valid(y, "y has a NaN or infinite entry", lambda xp, y: xp.isfinite(y))
    weights = _checks.where_valid(
        weights, "weights must be positive", lambda xp, weights: (weights > 0) & (weights < xp.inf)
    )
    return y, jnp.broadcast_to(weights, n), _checks.in_order(lower, upper), upper
