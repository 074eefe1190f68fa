"""Total variation of a sequence [rudin1992], and the fused lasso [tibshirani2005].

    min_y  sum_i (y_i - x_i)^2 / 2 + sum_i strength_i |y_{i+1} - y_i| + sparsity sum_i |y_i|

Without the last term, let `force_i` be the multiplier of the difference `y_{i+1} - y_i`. The KKT conditions are

    y_i - x_i = force_i - force_{i-1},    force_0 = force_n = 0,
    |force_i| <= strength_i,              force_i = strength_i sign(y_{i+1} - y_i) at a jump.

The verb finds the jumps by dynamic programming, checks these conditions, and differentiates them: with the jumps fixed,
their sum between two jumps says that y is the mean of x there, moved by the forces at both ends. The last term moves
every entry of that solution towards zero by `sparsity` [friedman2007].
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers import Affine, BlockBidiagonal, Box, Problem, Quadratic
from kkt_solvers.conditions.residuals import default_tolerance
from kkt_solvers.numerics.arrays import cast, float_dtype, largest, stored, where
from kkt_solvers.problems import _checks
from kkt_solvers.problems._taut_string import jumps


def TotalVariation(x: Any, strength: Any) -> Problem:
    """Total variation as a `Problem` in `(y_1, up_1, down_1, y_2, up_2, down_2, ..)`, by stages, with
    `y_(i+1) - y_i = up_i - down_i`, both nonnegative; `up_n` and `down_n` are zero.

    Arguments:
        x: shape `(n,)`.
        strength: positive, a scalar or `(n - 1,)`, one for each difference.

    Raises `ValueError` for shapes that do not fit and a strength that is not positive.

    >>> from kkt_solvers.problems import TotalVariation
    >>> TotalVariation([2.0, 1.0], 0.1).equality.A.dense().tolist()
    [[0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [-1.0, -1.0, 1.0, 1.0, 0.0, 0.0]]
    """
    x, strength, _ = _arguments(x, strength, 0.0)
    n, zero = x.size, jnp.zeros_like(x)
    # Row i + 1: y_(i+1) - y_i - up_i + down_i = 0. Row 0 is empty.
    now = jnp.zeros((n, 1, 3), x.dtype).at[1:, 0, 0].set(1)
    before = jnp.broadcast_to(jnp.array([-1, -1, 1], x.dtype), (n - 1, 1, 3))
    cost, infinite = jnp.append(strength, zero[:1]), zero + jnp.inf
    most = jnp.append(infinite[1:], zero[:1])

    def in_turn(*parts: jax.Array) -> jax.Array:
        return jnp.ravel(jnp.stack(parts, axis=1))

    box = Box(in_turn(-infinite, zero, zero), in_turn(infinite, most, most))
    objective = Quadratic(in_turn(zero + 1, zero, zero), in_turn(-x, cost, cost))
    return Problem(objective, Affine(BlockBidiagonal(now, before), zero), box)


def total_variation(x: Any, strength: Any, sparsity: Any = 0.0) -> jax.Array:
    """The sequence of least squared distance from x and least total variation, `(n,)`, differentiable in every
    argument.

    Arguments: as for `TotalVariation`, and
        sparsity: nonnegative, a scalar: the weight of `sum_i |y_i|`, for the fused lasso.

    Batches go through `jax.vmap`. NaN where the problem was not solved. O(n) time whatever the data, entry after
    entry. Where two levels merge or part, the derivative is one of the limits of derivatives nearby.

    >>> from kkt_solvers.problems import total_variation
    >>> total_variation([1.0, 1.5, 4.0, 5.0], 0.5).tolist()
    [1.5, 1.5, 4.0, 4.5]
    >>> total_variation([1.0, 1.5, 4.0, 5.0], 0.5, sparsity=2.0).tolist()
    [0.0, 0.0, 2.0, 2.5]

    Source: [johnson2013].
    """
    return _fused_lasso(*_arguments(x, strength, sparsity))


@functools.partial(jax.jit, inline=True)  # so that compiled code is found again
def _fused_lasso(x: jax.Array, strength: jax.Array, sparsity: jax.Array) -> jax.Array:
    dtype = x.dtype
    x, strength, sparsity = cast((x, strength, sparsity), jnp.promote_types(dtype, jnp.float32))
    frozen = jax.lax.stop_gradient((x, strength))
    centre = frozen[0][x.size // 2]  # precision does not suffer from a large offset
    signs = jumps(frozen[0] - centre, frozen[1])
    y, force = _between_jumps(signs, x - centre, strength)
    good = _satisfies_conditions(signs, *jax.lax.stop_gradient((force, y, x - centre)), frozen[1])
    y = (y + centre) * where(good, jnp.ones((), x.dtype), jnp.nan)
    return (jnp.sign(y) * jnp.maximum(jnp.abs(y) - sparsity, 0)).astype(dtype)


def _between_jumps(signs: jax.Array, x: jax.Array, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The solution as a function of the data while the jumps stay, and the forces that belong to it."""
    block = stored(jnp.pad(jnp.cumsum(jnp.abs(signs).astype(jnp.int32)), (1, 0)))

    def mean(v: jax.Array) -> jax.Array:
        total = jax.ops.segment_sum(v, block, num_segments=v.size, indices_are_sorted=True)
        size = jax.ops.segment_sum(jnp.ones_like(v), block, num_segments=v.size, indices_are_sorted=True)
        return stored((total / jnp.maximum(size, 1))[block])

    at_jumps = signs * strength
    pull = jnp.pad(at_jumps, (0, 1)) - jnp.pad(at_jumps, (1, 0))
    # Twice, as the deviations from a mean have a more precise mean.
    first = jax.lax.stop_gradient(mean(x + pull))
    y = first + mean(x + pull - first)
    # The rounding of y would add up along a block.
    return y, jnp.cumsum(y - x - mean(y - x - pull))[:-1]


def _satisfies_conditions(
    signs: jax.Array, force: jax.Array, y: jax.Array, x: jax.Array, strength: jax.Array
) -> jax.Array:
    """Whether the relative residuals of the KKT conditions are within the tolerance of `solve`; false for a NaN."""
    tol, step = default_tolerance(y.dtype), y[1:] - y[:-1]
    scale = largest(x, y, force)
    rest = y - x - jnp.pad(force, (0, 1)) + jnp.pad(force, (1, 0))
    at_jumps = jnp.abs(signs) * (force - signs * strength)
    return (
        (largest(rest) <= tol * scale)
        & (largest(jnp.maximum(jnp.abs(force) - strength, 0), at_jumps) <= tol * scale)
        & (largest(jnp.minimum(signs * step, 0)) <= tol * largest(y))
        & jnp.all(jnp.isfinite(y))
    )


def _arguments(x: Any, strength: Any, sparsity: Any) -> Any:
    x = _checks.vector(x, "x", "values, in order")
    n = x.size
    if n == 0:
        raise ValueError("x has no entries: nothing to solve for")
    strength = _checks.like(strength, (n - 1,), "strength", "the differences of x")
    sparsity = _checks.scalar(sparsity, "sparsity")
    x, strength, sparsity = cast((x, strength, sparsity), float_dtype(x, strength, sparsity))
    x = _checks.where_valid(x, "x has a NaN or infinite entry", lambda xp, x: xp.isfinite(x))
    message = "strength must be positive"
    strength = _checks.where_valid(strength, message, lambda xp, strength: (strength > 0) & (strength < xp.inf))
    sparsity = _checks.where_valid(sparsity, "sparsity must be nonnegative", lambda xp, sparsity: sparsity >= 0)
    return x, jnp.broadcast_to(strength, n - 1), sparsity
