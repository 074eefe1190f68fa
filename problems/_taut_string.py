"""Where the solution of total variation jumps, by dynamic programming [johnson2013].

Let `m_k(t)` be the least cost of the entries before k and of the difference behind the last of them, given `y_k = t`.
Its derivative is nondecreasing and piecewise linear, and

    m_{k+1}'(t) = clip(m_k'(t) + t - x_k, -strength_k, strength_k),    y_k = clip(y_{k+1}, low_k, high_k),

with `low_k` and `high_k` the places where the derivative reaches the two bounds. A queue with two ends holds the knots:
the place, and the changes of slope and intercept there. For each k, first from the left (side 1), then from the right
(side -1), knots beyond the bound are dropped and a new one is added where the bound is reached.

A knot is added 2n times and dropped at most as often, so that 4n moves always suffice: O(n) work. The number of moves
does not depend on the data: a loop that ended earlier would copy the queue in every move of a batch.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.numerics.arrays import stored


def jumps(x: jax.Array, strength: jax.Array) -> jax.Array:
    """The sign of each jump, 1 upwards, -1 downwards and 0 for none, `(n - 1,)`."""
    n = x.size
    before, bounds = jnp.pad(strength, (1, 0)), jnp.pad(strength, (0, 1))
    # Intercepts of the first and of the last piece of the derivative, before knots are dropped.
    intercepts = jnp.ravel(jnp.stack([-x - before, before - x], axis=1))
    one, trash = jnp.ones((), x.dtype), 2 * n

    def move(_: Any, state: Any) -> Any:
        side, ends, count, slope, intercept, knots, places = state
        now = jnp.minimum(side, trash - 1)
        from_right = now % 2
        sign = 1 - 2 * from_right
        at, bound = ends[from_right], bounds[now // 2]
        knot = stored(knots.at[at].get(mode="promise_in_bounds"))
        # XLA may compute this twice, with and without fused multiply-add: no product here is rounded, so both agree.
        place = (-sign * bound - intercept) / slope
        drops = (count > 0) & (sign * knot[0] <= sign * place)
        adds = ~drops & (side < trash)
        new = jnp.stack([place, sign * slope, sign * intercept + bound])
        knots = knots.at[jnp.where(adds, at - sign, trash)].set(new, mode="promise_in_bounds")
        places = places.at[jnp.where(adds, now, trash)].set(place, mode="promise_in_bounds")
        ends = ends.at[from_right].add(jnp.where(drops, sign, jnp.where(adds, -sign, 0)))
        count = count - drops + 2 * (adds & (from_right == 1))
        slope = jnp.where(drops, slope + sign * knot[1], one)
        intercept = jnp.where(drops, intercept + sign * knot[2], intercepts[jnp.minimum(now + 1, trash - 1)])
        return side + adds, ends, count, slope, intercept, knots, places

    zero = jnp.zeros((), jnp.int32)
    queue, places = jnp.zeros((2 * n + 1, 3), x.dtype), jnp.zeros(2 * n + 1, x.dtype)
    start = zero, jnp.array([n, n - 1], jnp.int32), zero, one, intercepts[0], queue, places
    *_, places = jax.lax.fori_loop(0, 4 * n, move, start)
    low, high = places[:trash].reshape(n, 2).T

    def backwards(y: jax.Array, bounds: Any) -> Any:
        low, high = bounds
        return jnp.clip(y, low, high), jnp.where(y > high, one, jnp.where(y < low, -one, 0 * one))

    return jax.lax.scan(backwards, low[-1], (low[:-1], high[:-1]), reverse=True)[1]
