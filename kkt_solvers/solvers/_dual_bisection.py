"""One equality and a separable objective: a root of a monotone function of one variable."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.elementwise import minimise_elementwise, slope_of_minimiser
from kkt_solvers.data.constraints import Sum
from kkt_solvers.data.entropy import is_logistic, sigmoid
from kkt_solvers.data.objectives import Quadratic, Separable
from kkt_solvers.data.problem import Box, FlatProblem
from kkt_solvers.data.sizes import middle_of_box, natural_sizes
from kkt_solvers.data.solution import Dual, Status
from kkt_solvers.numerics.arrays import block_sum, largest
from kkt_solvers.numerics.batches import when_any
from kkt_solvers.solvers._base import Solver, separable, single_row
from kkt_solvers.solvers._logistic import logistic_root


@dataclass(frozen=True)
class DualBisection(Solver):
    """Solve `min sum_i phi(y_i) s.t. w'y = k, l <= y <= u` by its scalar dual.

    The solution is `y_i = psi_i(w_i s)` with `psi` the elementwise minimiser over the box and `s = -nu` the root of
    the nondecreasing `sum_i w_i psi_i(w_i s) - k`. The bracket of the root is valid by construction: take any point
    of the box with `w'y = k`; where `s >= phi_i'(y_i) / w_i` for all i, the sum is at least k, where `<=`, at most.
    No sort and no selection. Inside the bracket Newton or Halley steps, safeguarded by bisection.

    Prefer it for any separable objective with one equality; other structures raise a `ValueError`.

    Arguments:
        tol: largest relative KKT residual of a `SOLVED` point; `None` for the default of the dtype. The root itself
            is always found to rounding.
        max_iterations: of the root finder.
        accelerate: `False` for plain bisection by `jaxopt.Bisection`.
    """

    tol: float | None = None
    max_iterations: int = 100
    accelerate: bool = True

    def run(
        self, problem: FlatProblem, init: jax.Array, dual: Dual | None = None
    ) -> tuple[jax.Array, Dual, jax.Array, jax.Array]:
        objective = separable(problem, "DualBisection", "ProjectedGradient and MirrorDescent take any smooth objective")
        weights, total = single_row(problem, "DualBisection")
        lower, upper = problem.box.lower, problem.box.upper
        if weights is None or total is None:
            y = minimise_elementwise(objective, jnp.zeros_like(lower), lower, upper)
            claim = _claim(problem, y, jnp.asarray(Status.SOLVED))
            return y, Dual(problem.equality.target, None, None), _count(0), claim
        general = functools.partial(scalar_dual, objective, weights, total, lower, upper, self.max_iterations)
        if is_logistic(objective) and self.accelerate:
            alike = isinstance(problem.equality, Sum) and problem.equality.weights is None
            row = objective.theta[None], total[None, None], None if alike else weights[None]
            root = logistic_root(*row, most_sweeps=self.max_iterations)
            found = sigmoid(root.t[0]), -root.nu[0, 0], root.sweeps[0, 0], jnp.asarray(Status.SOLVED)
            holds = jnp.all((lower == 0) & (upper == 1) & (weights > 0)) & jnp.isfinite(root.nu[0, 0])
            y, s, iterations, claim = when_any(~holds, general, found)
        else:
            y, s, iterations, claim = general(plain=not self.accelerate)
        if isinstance(problem.objective, Quadratic):
            y = _shared(objective, weights, total, lower, upper, s, y)
            claim = _claim(problem, y, claim)
        return y, Dual(-s.reshape(problem.equality.target.shape), None, None), iterations, claim


def _claim(problem: FlatProblem, y: jax.Array, claim: jax.Array) -> jax.Array:
    """A flat coordinate without a bound goes as far as its curvature of rounding lets it: then `y` may be a ray."""
    far = largest(y) * float(jnp.finfo(y.dtype).eps) ** 0.6 > natural_sizes(problem)[0]
    return jnp.where(far & (claim == Status.SOLVED), Status.DUAL_INFEASIBLE, claim)


def _count(value: Any) -> jax.Array:
    return jnp.asarray(value, jnp.int32)


def scalar_dual(
    objective: Separable,
    weights: jax.Array,
    total: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    max_iterations: int,
    *,
    plain: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """`(y, s, iterations, claim)` with `y = psi(w s)` and `w'y = total`."""
    dtype, eps = lower.dtype, jnp.finfo(lower.dtype).eps
    least = jnp.where(weights >= 0, lower, upper)  # where w'y is smallest over the box, and where largest
    most = jnp.where(weights >= 0, upper, lower)
    moves = weights != 0
    reach_least = block_sum(jnp.where(moves, weights * jnp.where(moves, least, 0), 0))
    reach_most = block_sum(jnp.where(moves, weights * jnp.where(moves, most, 0), 0))

    low, high = _bracket(objective, weights, total, lower, upper, least, most)
    at_least, at_most = total <= reach_least, total >= reach_most
    huge = jnp.sqrt(jnp.finfo(dtype).max)
    low = jnp.where(jnp.isfinite(low), low, -huge)
    high = jnp.where(jnp.isfinite(high), high, huge)
    # At an end of the reach y is a corner of the box, and s any number beyond the whole bracket.
    low, high = jnp.where(at_most, high, low), jnp.where(at_least, low, high)

    if plain:
        from kkt_solvers.solvers._jaxopt import bisect

        s, iterations = bisect(_plain_residual, low, high, (objective, weights, total, lower, upper), max_iterations)
    else:
        s, iterations = _newton(objective, weights, total, lower, upper, low, high, max_iterations)

    y = minimise_elementwise(objective, weights * s, lower, upper)
    y = jnp.where(at_most & moves, most, jnp.where(at_least & moves, least, y))
    ends = (jnp.abs(weights * jnp.where(moves & jnp.isfinite(end), end, 0)) for end in (least, most))
    scale = jnp.abs(total) + block_sum(jnp.maximum(*ends))
    short = jnp.maximum(reach_least - total, total - reach_most)
    # Beyond rounding of the sums themselves no point of the box meets the equality.
    infeasible = short > 4 * eps * scale
    claim = jnp.where(infeasible, Status.PRIMAL_INFEASIBLE, Status.SOLVED)
    s = jnp.where(infeasible, jnp.where(total > reach_most, 1.0, -1.0), s)  # the ray that proves it
    return y, s, iterations, claim


def _bracket(
    objective: Separable,
    weights: jax.Array,
    total: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    least: jax.Array,
    most: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Both ends from the slopes beside one point of the box with `w'y = total`.

    The slopes are taken half way from that point to either end of the box (one unit away, where that is infinite):
    so the bracket does not hang on the rounding of the point.
    """
    moves = weights != 0
    bounded = jnp.isfinite(lower) & jnp.isfinite(upper)
    # In a bounded box, the same part of the way from the least to the most, measured from the nearer end.
    room = jnp.where(bounded & moves, most - least, 0.0)
    reach = block_sum(weights * room)
    from_least = total - block_sum(jnp.where(bounded & moves, weights * least, 0))
    part = jnp.clip(from_least / jnp.where(reach == 0, 1.0, reach), 0.0, 1.0)
    rest = jnp.clip(1 - part, 0.0, 1.0)
    inside = jnp.where(part < 0.5, least + part * room, most - rest * room)
    # Else coordinates that can go without end share what is missing, in proportion to their weights.
    centre = middle_of_box(Box(lower, upper))
    need = total - block_sum(weights * centre)
    end = jnp.where(need >= 0, most, least)
    share = jnp.where(jnp.isfinite(end), 0.0, weights)
    shares = block_sum(share * share)
    way = jnp.where(jnp.isfinite(end) & moves, end - centre, 0.0)
    length = block_sum(weights * way)
    limited = centre + jnp.clip(need / jnp.where(length == 0, 1.0, length), 0.0, 1.0) * way
    shared = centre + share * need / jnp.where(shares == 0, 1.0, shares)
    y = jnp.where(jnp.all(bounded), inside, jnp.where(shares > 0, shared, limited))

    def slopes(bound: jax.Array) -> jax.Array:
        beside = jnp.where(jnp.isfinite(bound), 0.5 * (y + bound), jnp.where(bound > 0, y + 1, y - 1))
        return objective.gradient(beside) / jnp.where(moves, weights, 1.0)

    low, high = slopes(least), slopes(most)
    moves &= lower < upper  # what cannot move says nothing
    low = jnp.min(jnp.where(moves & jnp.isfinite(low), low, jnp.inf))
    high = jnp.max(jnp.where(moves & jnp.isfinite(high), high, -jnp.inf))
    margin = 8 * jnp.finfo(lower.dtype).eps * (jnp.abs(low) + jnp.abs(high)) + jnp.finfo(lower.dtype).tiny
    return low - margin, high + margin


def _shared(
    objective: Separable,
    weights: jax.Array,
    total: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    s: jax.Array,
    y: jax.Array,
) -> jax.Array:
    """`y`, or the point between the minimisers just below and just above `s` that meets the equality: where flat
    coordinates jump from bound to bound at the root, they share what is missing."""
    _, slopes = objective.theta
    size = largest(slopes) / jnp.max(jnp.abs(weights), initial=jnp.finfo(s.dtype).tiny)
    step = 32 * jnp.finfo(s.dtype).eps * jnp.maximum(jnp.abs(s), size)
    below, above = (minimise_elementwise(objective, weights * (s + d), lower, upper) for d in (-step, step))
    low, high = block_sum(weights * below), block_sum(weights * above)
    part = (total - low) / jnp.where(high > low, high - low, 1.0)
    return jnp.where((low < high) & (part >= 0) & (part <= 1), below + part * (above - below), y)


def _plain_residual(s: jax.Array, objective: Separable, weights: Any, total: Any, lower: Any, upper: Any) -> jax.Array:
    return block_sum(weights * minimise_elementwise(objective, weights * s, lower, upper)) - total


def _signed_parts(
    objective: Separable, weights: jax.Array, total: jax.Array, lower: jax.Array, upper: jax.Array, s: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """`E, D >= 0` with `E - D = sum w psi(w s) - total`, and their slopes in `s`.

    Without a complement that is the plain sum, split by sign. With one, each coordinate is measured from the end of
    its range that is nearer: E sums the distances from the lower ends, D those from the upper ends, and the ends
    themselves are counted apart. Near a root that count cancels exactly, and what is left are sums of positive
    terms: the root is found to rounding even where every y is at an end of its range up to rounding.
    """
    z = weights * s
    psi = minimise_elementwise(objective, z, lower, upper)
    slope = weights * weights * slope_of_minimiser(objective, z, lower, upper)
    if objective.complement is None:
        from_end, ends = weights * psi, -total
    else:
        start = jnp.where(jnp.isfinite(lower), lower, 0.0)
        rest = jnp.maximum(objective.complement(z, objective.theta), 0)
        near_upper = rest < jnp.abs(psi - start)
        from_end = weights * jnp.where(near_upper, -rest, psi - start)
        ends = block_sum(weights * jnp.where(near_upper, upper, start)) - total
    up = from_end >= 0
    E = block_sum(jnp.where(up, from_end, 0)) + jnp.maximum(ends, 0)
    D = -block_sum(jnp.where(up, 0, from_end)) + jnp.maximum(-ends, 0)
    return E, D, block_sum(jnp.where(up, slope, 0)), block_sum(jnp.where(up, 0, slope))


class _Search(NamedTuple):
    """A root between `low` and `high`, from `s` on."""

    low: jax.Array
    high: jax.Array
    s: jax.Array
    last: jax.Array  # the length of the last step, and of the one before it
    before: jax.Array
    done: jax.Array
    iterations: jax.Array


def _newton(
    objective: Separable,
    weights: jax.Array,
    total: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    low: jax.Array,
    high: jax.Array,
    max_iterations: int,
) -> tuple[jax.Array, jax.Array]:
    """The root in `[low, high]`: Newton on `log(E / D)`, or on `E - D` where there is no complement. A step that
    leaves the bracket, or is not half as long as the one before the last, is replaced by bisection."""
    eps, largest = jnp.finfo(low.dtype).eps, jnp.sqrt(jnp.finfo(low.dtype).max)

    def step(state: _Search) -> _Search:
        s = state.s
        E, D, E_slope, D_slope = _signed_parts(objective, weights, total, lower, upper, s)
        residual = E - D
        low = jnp.where(residual <= 0, s, state.low)
        high = jnp.where(residual >= 0, s, state.high)
        move = -residual / (E_slope + D_slope)
        if objective.complement is not None:
            # d log E = E_slope / E and, as D falls with s, d log D = - D_slope / D.
            both = (E > 0) & (D > 0)
            E, D = jnp.where(both, E, 1.0), jnp.where(both, D, 1.0)
            move = jnp.where(both, -(jnp.log(E) - jnp.log(D)) / (E_slope / E + D_slope / D), move)
        newton = s + move
        slow = 2 * jnp.abs(move) > state.before
        bisect = ~((newton > low) & (newton < high)) | slow
        still = jnp.abs(move) <= 2 * eps * jnp.abs(s)
        # On a steep piece that ends before the root the step is tiny, and the root far away.
        close = (objective.complement is not None) | (jnp.abs(residual) <= 64 * eps * (E + D))
        bisect |= still & ~close
        middle = 0.5 * (low + high)
        following = jnp.where(bisect, middle, newton)
        # Rounding of the scores, not of s, may be what keeps the steps from shrinking.
        settled = close & (still | (slow & (jnp.abs(move) <= 32 * eps * scale)))
        narrow = (high - low) <= 2 * eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
        exact = residual == 0
        following = jnp.where(exact, s, jnp.where(settled, jnp.clip(newton, low, high), following))
        done = exact | settled | narrow | jnp.isnan(residual)  # an infinite one has a sign
        return _Search(low, high, following, jnp.abs(following - s), state.last, done, state.iterations + 1)

    def unfinished(state: _Search) -> jax.Array:
        return ~state.done & (state.iterations < max_iterations)

    # An end at the largest number stands for an unbounded range: start near zero, not half way to it.
    unbounded = (low <= -largest) | (high >= largest)
    start = jnp.where(unbounded, jnp.clip(jnp.zeros_like(low), low, high), 0.5 * (low + high))
    empty = ~(low < high)
    start = jnp.where(empty, low, start)
    width = high - low
    scale = jnp.minimum(jnp.maximum(jnp.abs(low), jnp.abs(high)), 1 / eps)
    final = jax.lax.while_loop(unfinished, step, _Search(low, high, start, width, width, empty, _count(0)))
    return final.s, final.iterations
