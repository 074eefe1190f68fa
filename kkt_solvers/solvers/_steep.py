"""The scalar dual of a steep objective, `sum_i w_i psi_i(w_i s) = total`, in few sweeps and without a sort.

With c_i(s) in [0, h_i] the distance of `w_i psi_i(w_i s)` from its smallest value and T the total less the smallest
sum, the equation is `sum c_i = T`. For any shares 0 <= p_i <= 1 with `sum p_i h_i = T` it is the same as

    E = D,    E = sum (1 - p_i) c_i,    D = sum p_i (h_i - c_i),

where all terms are positive and nothing cancels. The shares here are one (or the same p) where c_i is beyond the
middle of its range, and the same p (or zero) elsewhere. E grows with s and D falls; `log(E / D)` is close to linear,
whatever the scores: exactly so where all are equal, and where they fall into two groups.

As |psi''| and |psi'''| are at most psi', a step m of Halley's method on it, in the scale of w, leaves an error of less
than m^3 / 2: that tells when the root is found without another sweep. Where the scores are dense the sum is smooth, and
three plain sums, interpolated, most often find the root already; two of them tell where they do not. They are left away
where the scores spread far. There most psi are at an end of their range and the sum is a step function: bisection on
that costs a comparison and a sum, no exponential, and tells where to begin.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.elementwise import slope_of_minimiser
from kkt_solvers.data.objectives import Separable
from kkt_solvers.data.solution import Status
from kkt_solvers.numerics.arrays import block_sum
from kkt_solvers.numerics.batches import in_any
from kkt_solvers.numerics.hoist import elementwise_derivative
from kkt_solvers.solvers._interpolate import Row, guess, interpolate

_WIDE = 12.0  # of a bracket, in the scale of w, for the step function to be looked at first
_NARROW = 0.5  # of the bracket in which the step function is left
_FAR = 4.0  # how far beyond the steps the root may be taken to be
_BISECTIONS = 200


class Search(NamedTuple):
    """A root between `low` and `high`, from `s` on."""

    low: jax.Array
    high: jax.Array
    s: jax.Array
    last: jax.Array  # the length of the last step, and of the one before it
    before: jax.Array
    done: jax.Array
    iterations: jax.Array


def steep_dual(
    objective: Separable, weights: jax.Array, total: jax.Array, lower: jax.Array, upper: jax.Array, max_iterations: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """`(y, s, sweeps, claim)` with `y = psi(w s)` and `w'y = total`."""
    ends = _range_of_minimiser(objective, lower, upper)
    least, most = (block_sum(weights * jnp.where(weights >= 0, *pair)) for pair in (ends, ends[::-1]))
    row = Row(objective, weights, lower, upper, total, total - least, most - total)
    scale = jnp.max(jnp.abs(weights))
    start, smooth = guess(row, scale)
    never, none = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
    s, found, near, sweeps = jax.lax.cond(
        in_any(smooth), lambda: interpolate(row, start, scale), lambda: (start, never, never, none)
    )
    s, found, near = jnp.where(smooth & jnp.isfinite(s), s, start), smooth & found, smooth & near
    sweeps = jnp.where(smooth, sweeps, none)
    s, sweeps = jax.lax.cond(
        in_any(~found), lambda: _search(row, s, found, near, scale, sweeps, max_iterations), lambda: (s, sweeps)
    )
    eps = jnp.finfo(s.dtype).eps
    short = jnp.maximum(-row.above_least, -row.below_most)
    infeasible = short > 4 * eps * (1 + jnp.abs(total) + jnp.abs(least) + jnp.abs(most))
    claim = jnp.where(infeasible, Status.PRIMAL_INFEASIBLE, Status.SOLVED)
    ray = jnp.where(total > most, 1.0, -1.0).astype(s.dtype)
    assert objective.minimiser is not None
    s = jnp.where(infeasible, ray, s)
    return objective.minimiser(weights * s, objective.theta), s, sweeps, claim


def _range_of_minimiser(objective: Separable, lower: jax.Array, upper: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The box, but both ends the same for an entry that its theta fixes there: phi' is infinite inside."""
    slope = objective.gradient(0.5 * (lower + upper))
    return jnp.where(slope == -jnp.inf, upper, lower), jnp.where(slope == jnp.inf, lower, upper)


def _search(
    row: Row, s: jax.Array, found: jax.Array, near: jax.Array, scale: jax.Array, sweeps: jax.Array, max_iterations: int
) -> tuple[jax.Array, jax.Array]:
    """The root for whatever scores; `s` where it is `found` already, and from there on where it is `near`."""
    steps = row.objective.gradient(0.5 * (row.lower + row.upper)) / jnp.where(row.weights == 0, jnp.inf, row.weights)
    # Taken again, not handed on: arrays that go into a branch are written out, 15 % of the time of lml on a CPU.
    lower, upper = _range_of_minimiser(row.objective, row.lower, row.upper)
    row = row._replace(weights=jnp.broadcast_to(row.weights, lower.shape), lower=lower, upper=upper)
    least, most = jnp.where(row.weights >= 0, row.lower, row.upper), jnp.where(row.weights >= 0, row.upper, row.lower)
    low, high = _bracket(row, least, most)
    # At an end of the reach every y is at a bound: s is any number far beyond the bracket, and `w s` still a number.
    huge = 0.25 * jnp.finfo(s.dtype).max / jnp.maximum(scale, 1.0)
    low, high = jnp.where(jnp.isfinite(low), low, -huge), jnp.where(jnp.isfinite(high), high, huge)
    end = jnp.where(row.below_most <= 0, huge, -huge)
    at_end = (row.above_least <= 0) | (row.below_most <= 0)
    heights = jnp.abs(row.weights) * (row.upper - row.lower)
    unbounded = (low <= -huge) | (high >= huge)
    wide = ~found & ~near & ~at_end & ~unbounded & ((high - low) * scale > _WIDE)
    s = jnp.where(found, s, jnp.clip(s, low, high))
    s = step_root(steps, heights, row.above_least, low, high, s, wide, _NARROW / scale)
    s = jax.lax.cond(
        in_any(wide), lambda: jnp.where(wide, _shifted(steps, heights, row.above_least, s, scale), s), lambda: s
    )
    s, sweeps_now = _newton(row, low, high, s, found | at_end, scale, sweeps, max_iterations)
    return jnp.where(at_end, end, s), sweeps_now


def _bracket(row: Row, least: jax.Array, most: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From the slopes at two points of the box, the same part of the way from where the sum is smallest to where it
    is largest; the sum at the one is below the total, at the other above it."""
    part = row.above_least / (row.above_least + row.below_most)

    def slopes(part: jax.Array, rest: jax.Array) -> jax.Array:
        y = jnp.where(part < 0.5, least + part * (most - least), most - rest * (most - least))
        return row.objective.gradient(y) / jnp.where(row.weights == 0, jnp.inf, row.weights)

    rest = row.below_most / (row.above_least + row.below_most)
    low, high = slopes(0.5 * part, 1 - 0.5 * part), slopes(1 - 0.5 * rest, 0.5 * rest)
    low = jnp.min(jnp.where(jnp.isfinite(low), low, jnp.inf))
    high = jnp.max(jnp.where(jnp.isfinite(high), high, -jnp.inf))
    margin = 8 * jnp.finfo(low.dtype).eps * (jnp.abs(low) + jnp.abs(high))
    return low - margin, high + margin


def step_root(
    steps: jax.Array,
    heights: jax.Array,
    total: jax.Array,
    low: jax.Array,
    high: jax.Array,
    start: jax.Array,
    wanted: jax.Array,
    width: jax.Array,
) -> jax.Array:
    """Where the step function `sum of heights of the steps below s` passes `total`: the step, if that is found to
    within `width`, or the middle of the gap on which it is equal to it. `start` where it is not `wanted`."""

    def unfinished(state: tuple[jax.Array, ...]) -> jax.Array:
        *_, done, iterations = state
        return ~done & (iterations < _BISECTIONS)

    def halve(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        low, high, s, _, iterations = state
        level = block_sum(jnp.where(steps < s, heights, 0))
        low, high = jnp.where(level < total, s, low), jnp.where(level > total, s, high)
        middle = 0.5 * low + 0.5 * high
        done = (level == total) | (high - low <= width) | (middle == s)
        return low, high, jnp.where(level == total, s, middle), done, iterations + 1

    middle = 0.5 * low + 0.5 * high
    state = low, high, jnp.where(wanted, middle, start), ~wanted, jnp.zeros((), jnp.int32)
    low, _, s, _, _ = jax.lax.while_loop(unfinished, halve, state)

    def snapped() -> jax.Array:
        on_gap = block_sum(jnp.where(steps < s, heights, 0)) == total
        below = jnp.max(jnp.where(steps < s, steps, -jnp.inf))
        above = jnp.min(jnp.where(steps < jnp.where(on_gap, s, low), jnp.inf, steps))
        at = jnp.where(on_gap & jnp.isfinite(below), 0.5 * below + 0.5 * above, above)
        return jnp.where(jnp.isfinite(at), at, s)

    return jnp.where(wanted, jax.lax.cond(in_any(wanted), snapped, lambda: s), start)


def _shifted(steps: jax.Array, heights: jax.Array, total: jax.Array, s: jax.Array, scale: jax.Array) -> jax.Array:
    """Where the steps beside `s`, taken as one that is logistic, pass what is wanted of them."""
    off = scale * (steps - s)
    beside = jnp.abs(off) <= _NARROW
    below, size = block_sum(jnp.where(off < -_NARROW, heights, 0)), block_sum(jnp.where(beside, heights, 0))
    part = (total - below) / jnp.where(size > 0, size, 1.0)
    part = jnp.where((part > 0) & (part < 1), part, 0.5)
    return s + jnp.clip(jnp.log(part) - jnp.log1p(-part), -_FAR, _FAR) / scale


def _newton(
    row: Row,
    low: jax.Array,
    high: jax.Array,
    start: jax.Array,
    done: jax.Array,
    scale: jax.Array,
    sweeps: jax.Array,
    max_iterations: int,
) -> tuple[jax.Array, jax.Array]:
    """Halley's method on `log(E / D)` from `start`; a step that leaves the bracket, or is not half as long as the one
    before the last, is replaced by bisection."""
    objective, weights = row.objective, row.weights
    assert objective.minimiser is not None
    assert objective.complement is not None
    minimiser, complement = objective.minimiser, objective.complement
    eps = jnp.finfo(low.dtype).eps
    heights = jnp.abs(weights) * (row.upper - row.lower)

    def slope(z: jax.Array) -> jax.Array:
        return slope_of_minimiser(objective, z, row.lower, row.upper)

    def parts(s: jax.Array) -> tuple[jax.Array, ...]:
        z = weights * s
        down, up = minimiser(z, objective.theta) - row.lower, complement(z, objective.theta)
        first, second = weights**2 * slope(z), weights**3 * elementwise_derivative(slope, z)
        c, rest = (jnp.abs(weights) * jnp.where(weights >= 0, *pair) for pair in ((down, up), (up, down)))
        beyond = c > rest
        return tuple(
            jnp.where(beyond, *pair)
            for pair in ((heights, 0), (0, c), (rest, 0), (0, first), (first, 0), (0, second), (second, 0))
        )

    def step(state: Search) -> Search:
        s, sums = state.s, []
        for i in range(7):
            sums.append(block_sum(parts(s)[i]))
            s = s + 0 * sums[-1]  # or XLA computes all before it sums the first, and memory holds seven vectors
        full, *pairs = sums
        (N, P), slopes, bends = pairs[:2], pairs[2:4], pairs[4:]
        over = full - row.above_least
        residual = N - P + over
        # Too few are beyond the middle: the rest share what is missing. Too many: they share what there is.
        room = row.above_least + row.below_most - full
        p = jnp.where(over < 0, jnp.clip(-over / jnp.where(room > 0, room, 1.0), 0, 1), 0.0)
        q = jnp.where(over > 0, jnp.clip(over / jnp.where(full > 0, full, 1.0), 0, 1), 0.0)
        E, D = (1 - p) * N + jnp.maximum(over, 0) - q * P, (1 - q) * P + jnp.maximum(-over, 0) - p * N
        both = (E > 0) & (D > 0)
        E, D = jnp.where(both, E, 1.0), jnp.where(both, D, 1.0)
        # E' and -D', E'' and -D'', relative to E and D, and with them the derivatives of h = log(E / D).
        e, e_bend = (((1 - p) * down + q * up) / E for down, up in (slopes, bends))
        d, d_bend = ((p * down + (1 - q) * up) / D for down, up in (slopes, bends))
        first, second = e + d, e_bend - e * e + d_bend + d * d
        newton = jnp.where(both, -(jnp.log(E) - jnp.log(D)) / first, -residual / (slopes[0] + slopes[1]))
        bend = jnp.where(both, -0.5 * newton * second / first, 0.0)
        move = newton / (1 - jnp.clip(bend, -0.5, 0.5))
        low, high = jnp.where(residual <= 0, s, state.low), jnp.where(residual >= 0, s, state.high)
        there = s + move
        rounding = 8 * eps * jnp.maximum(jnp.abs(s), 1 / scale)  # by which E - D and log(E / D) may disagree
        inside = (there >= low - rounding) & (there <= high + rounding)
        slow = 2 * jnp.abs(move) > state.before
        following = jnp.where(inside & ~slow, jnp.clip(there, low, high), 0.5 * (low + high))
        converged = both & inside & (jnp.abs(scale * move) ** 3 <= 4 * eps)
        # Where s or the scores are large it is their rounding that ends the search.
        settled = converged | (jnp.abs(move) <= 2 * eps * jnp.abs(s))
        exact = residual == 0
        following = jnp.where(exact, s, jnp.where(settled, jnp.clip(there, low, high), following))
        narrow = (high - low) <= 2 * eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
        done = exact | settled | narrow | ~jnp.isfinite(residual)
        return Search(low, high, following, jnp.abs(following - s), state.last, done, state.iterations + 1)

    def unfinished(state: Search) -> jax.Array:
        return ~state.done & (state.iterations < max_iterations)

    width = high - low
    state = Search(low, high, start, width, width, done, sweeps)
    final = jax.lax.while_loop(unfinished, step, state)
    return final.s, final.iterations
