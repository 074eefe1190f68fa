"""Iterates of the interior point, and the steps from one to the next."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.residuals import gradient_and_terms
from kkt_solvers.data.objectives import is_linear
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.numerics.arrays import is_finite, largest, signs, tree_where, where

_INFINITE = 1e15  # bounds beyond this are none
_TO_BOUNDARY = 0.99  # the part of the way to the nearest bound that a step may go, at least
_SHORT = 0.8  # shorter steps are corrected,
_CORRECTORS = 3  # up to so many times
_BACKTRACKS = 30
_CURVED = 10.0  # the logarithm of the largest part of a slack that a curved step may take


class Iterate(NamedTuple):
    """A point, or a step. Slacks and multipliers of the bounds have the shape `(2, n)`: lower bounds, upper bounds."""

    y: jax.Array
    nu: jax.Array
    slack: jax.Array  # y - l and u - y; one where there is no bound
    z: jax.Array


Solve = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def both(v: jax.Array) -> jax.Array:
    """`(v, -v)`: a vector as seen from the lower bounds and from the upper bounds."""
    return jnp.stack([v, -v])


class Bounds(NamedTuple):
    """The box of a scaled problem, as the method sees it."""

    lower: jax.Array
    upper: jax.Array
    moves: jax.Array  # one where lower < upper, else zero
    has: jax.Array  # shape (2, n): whether there is a bound
    number: jax.Array  # of them, at least one

    def distances(self, y: jax.Array) -> jax.Array:
        return jnp.stack([y - self.lower, self.upper - y])

    def gap(self, p: Iterate) -> jax.Array:
        """The mean of the products of slack and multiplier."""
        return jnp.vdot(p.slack, p.z) / self.number


def bounds_of(problem: FlatProblem, moves: jax.Array) -> Bounds:
    """`moves` is told by bounds as they were given: equal ones may differ once they are scaled, where the compiler
    forms them in different places."""
    lower, upper = problem.box.lower, problem.box.upper
    has = jnp.stack([lower > -_INFINITE, upper < _INFINITE]) & moves
    return Bounds(lower, upper, moves.astype(lower.dtype), has, jnp.maximum(jnp.sum(has), 1).astype(lower.dtype))


# ---------------------------------------------------------------------------------------------- the start
def unbounded_start(problem: FlatProblem, bounds: Bounds) -> Iterate:
    """From which one step with `D = I` leads to the least-squares point of the equality: see `shifted`."""
    y = where(bounds.moves > 0, 0.0, bounds.lower)
    halves = jnp.full(bounds.has.shape, 0.5, y.dtype)
    return Iterate(y, jnp.zeros_like(problem.equality.target), jnp.ones_like(halves), halves)


def shifted(bounds: Bounds, p: Iterate, step: Iterate) -> Iterate:
    """Mehrotra's start: the least-squares point of the equality, slacks and multipliers shifted to be positive."""
    has, y = bounds.has, p.y + step.y
    # After a step with D = I what is left of grad f + A'nu is -dy.
    pair = jnp.stack([bounds.distances(y), both(-0.5 * step.y)])
    least = jnp.min(where(has, pair, jnp.inf), axis=(1, 2), initial=jnp.inf, keepdims=True)
    slack, z = pair + jnp.maximum(-1.5 * least, 0.0)
    product, of_slack, of_z = jnp.sum(where(has, jnp.stack([slack * z, slack, z]), 0.0), axis=(1, 2))
    more_slack = jnp.clip(0.5 * product / jnp.maximum(of_z, 1e-10), 1e-2, 1e10)
    more_z = jnp.clip(0.5 * product / jnp.maximum(of_slack, 1e-10), 1e-2, 1e10)
    return Iterate(y, p.nu + step.nu, where(has, slack + more_slack, 1.0), where(has, z + more_z, 0.0))


def inside(problem: FlatProblem, bounds: Bounds, init: jax.Array) -> Iterate:
    """Strictly inside the box; where `init` is not, a tenth of its width or a unit away from the bound."""
    lower, upper, has = bounds.lower, bounds.upper, bounds.has
    gap = jnp.minimum(where(has[0] & has[1], 0.1 * (upper - lower), 1.0), 1.0)
    y = where(has[0] & ~(init - lower > 1e-2 * gap), lower + gap, init)
    y = where(has[1] & ~(upper - y > 1e-2 * gap), upper - gap, y)
    # A start on a kink, as of a norm at the origin, is left by an irregular little step.
    slope, terms = gradient_and_terms(problem.objective, y, problem.box, 1.0)
    y = where(is_finite(*terms), y, y + 1e-3 * gap * (2 + signs(y)))
    y = where(bounds.moves > 0, y, lower)
    size = largest(slope)
    size = where(jnp.isfinite(size), jnp.clip(size, 1e-3, 1e8), 1.0)
    slack = where(has, bounds.distances(y), 1.0)
    return Iterate(y, jnp.zeros_like(problem.equality.target), slack, where(has, size / jnp.maximum(slack, 0.1), 0.0))


# --------------------------------------------------------------------------------------------- directions
class Direction(NamedTuple):
    step: Iterate
    primal: jax.Array  # the largest parts of the step, at most one, that keep slacks and multipliers nonnegative
    dual: jax.Array
    centre: jax.Array  # the product of slack and multiplier that the step aims at


def advance(bounds: Bounds, p: Iterate, d: Iterate, primal: jax.Array, dual: jax.Array) -> Iterate:
    return Iterate(p.y + primal * d.y, p.nu + dual * d.nu, p.slack + primal * d.slack, p.z + dual * d.z)


def direction(
    problem: FlatProblem, bounds: Bounds, p: Iterate, rest: tuple[jax.Array, jax.Array], solve: Solve, plain: Any
) -> Direction:
    """Mehrotra's predictor and corrector, then Gondzio's correctors while the step is short: each one more solve with
    the same factors, whose right-hand side is what the products `z slack` are to change by. `plain` asks for the
    predictor alone. The slacks need not be those of y before the end."""
    quadratic = problem.is_quadratic
    linear = quadratic and is_linear(problem.objective)
    has, mu = bounds.has, bounds.gap(p)
    off = where(has, bounds.distances(p.y) - p.slack, 0.0)

    def longest(d: Iterate) -> tuple[jax.Array, jax.Array]:
        ratios = [where(step < 0, -step / now, 0.0) for now, step in ((p.slack, d.slack), (p.z, d.z))]
        ratios = ratios if linear else [jnp.maximum(*ratios)]
        parts = [1 / jnp.max(ratio, initial=1.0) for ratio in ratios]
        return parts[0], parts[-1]

    def once(state: Any) -> Any:
        (d, ap, ad, centre), count, _ = state
        predictor = count == 0
        # z ds + s dz = product, with ds = (dy, -dy) + rs.
        far = jnp.minimum(1.0, 1.2 * jnp.stack([ap, ad]) + 0.2)
        ahead = advance(bounds, p, d, far[0], far[1])
        product = ahead.slack * ahead.z
        wanted = jnp.maximum(jnp.clip(product, 0.1 * centre, 10 * centre) - product, -10 * centre)
        second = d.slack * d.z if quadratic else 0.0
        product = where(predictor, -p.slack * p.z, where(has, where(count == 1, centre - second, wanted), 0.0))
        first = where(predictor, 1.0, 0.0).astype(mu.dtype)
        rs = where(plain, 0.0, first) * off
        push = (product - p.z * rs) / p.slack
        dy, dnu = solve(-first * rest[0] + push[0] - push[1], -first * rest[1], predictor)
        ds = where(has, both(dy) + rs, 0.0)
        new = jax.tree.map(jnp.add, d, Iterate(dy, dnu, ds, (product - p.z * ds) / p.slack))
        new_ap, new_ad = longest(new)
        better = (count < 2) | (new_ap + new_ad >= ap + ad + 0.02)
        reached = bounds.gap(advance(bounds, p, new, new_ap, new_ad))
        sigma = where(mu > 0, jnp.clip((reached / where(mu > 0, mu, 1.0)) ** 3, 0.0, 1.0), 0.0)
        if not quadratic:
            sigma = jnp.maximum(sigma, 0.05)  # the step is not to outrun the curvature of the objective
        centre = where(predictor, sigma * mu, centre)
        new, new_ap, new_ad = tree_where(better, (new, new_ap, new_ad), (d, ap, ad))
        go = predictor & ~plain
        if quadratic:
            short = better & (jnp.minimum(new_ap, new_ad) < _SHORT) & (count < 1 + _CORRECTORS)
            go = go | (~predictor & short)
        return Direction(new, new_ap, new_ad, centre), count + 1, go

    zero = jnp.zeros_like(mu)
    start = Direction(jax.tree.map(jnp.zeros_like, p), zero, zero, zero), jnp.zeros((), jnp.int32), jnp.ones((), bool)
    return jax.lax.while_loop(lambda state: state[2], once, start)[0]


def straight(bounds: Bounds, p: Iterate, d: Direction) -> Iterate:
    """Nearly all of the way to the boundary."""
    keep = jnp.clip(1 - bounds.gap(p), _TO_BOUNDARY, 1.0 - 1e-6)
    q = advance(bounds, p, d.step, keep * d.primal, keep * d.dual)
    return q._replace(slack=where(bounds.has, jnp.maximum(q.slack, jnp.finfo(q.y.dtype).tiny), 1.0))


# ------------------------------------------------------------------------------- objectives that are not quadratic
def _moved(bounds: Bounds, p: Iterate, d: Iterate, size: jax.Array, curved: jax.Array) -> Iterate:
    """A part of the step, in which every slack for itself keeps a hundredth of what it has: no coordinate is to
    wait for another that overshoots.

    A curved step multiplies a slack s by exp(ds / s) where it shrinks: to first order the same, and where the
    slope of the objective is a logarithm of the slack exactly what the Newton step means.
    """
    has, part = bounds.has, size * d.slack / p.slack
    bent = jnp.exp(jnp.maximum(part, -_CURVED))
    slack = p.slack * where(curved & (part < 0), bent, jnp.maximum(1 + part, 1 - _TO_BOUNDARY))
    # The two slacks of a coordinate add up to the width of the box.
    width = bounds.upper - bounds.lower
    slack = jnp.minimum(slack, where(has[0] & has[1], width, jnp.inf) - (1 - _TO_BOUNDARY) * p.slack[::-1])
    bent_back = slack != p.slack + size * d.slack
    near_lower = has[0] & (~has[1] | (p.slack[0] <= p.slack[1]))
    near_upper = has[1] & ~near_lower
    y = p.y + size * d.y
    y = where(near_lower & bent_back[0], bounds.lower + slack[0], y)
    y = where(near_upper & bent_back[1], bounds.upper - slack[1], y)
    far = jnp.stack([near_upper, near_lower])
    slack = where(has, where(far, width - slack[::-1], slack), 1.0)
    # As if a slack had gone to zero and not beyond: the step of the multiplier counts on where it goes.
    z = jnp.maximum(p.z + size * d.z + p.z * jnp.minimum(1 + part, 0.0), (1 - _TO_BOUNDARY) * p.z)
    return Iterate(y, p.nu + size * d.nu, slack, z)


def backtracked(
    bounds: Bounds,
    conditions: Callable[[Iterate], Any],
    p: Iterate,
    rest: Any,
    d: Direction,
    target: jax.Array,
    skip: jax.Array,
) -> Iterate:
    """The largest of the parts 1, 1/2, 1/4 ... of the step from `p`, curved or straight (whichever is better at full
    length), for which the norm of the KKT conditions, relaxed to `z (y - l) = centre`, falls. At `p` what is left of
    those is `rest`. The search is left out where `skip`."""
    eps = float(jnp.finfo(p.y.dtype).eps)
    # A slope counts as much as the coordinate can move: so all parts are of the size of the objective.
    room = bounds.moves * jnp.minimum(jnp.minimum(*p.slack), 1.0)

    def merit(q: Iterate, rest: Any) -> jax.Array:
        parts = room * rest[0], rest[1], where(bounds.has, q.slack * q.z - d.centre, 0.0)
        return jnp.sqrt(sum(jnp.vdot(part, part) for part in parts))

    before = merit(p, rest)
    floor = 10 * eps * (1 + largest(target))  # below it the merit is rounding

    def tried(state: Any) -> Any:
        *now, tries, _ = state
        size, curved, after, _ = now
        size, curved = where(tries < 2, 1.0, 0.5 * size), where(tries < 2, tries == 0, curved)
        q = _moved(bounds, p, d.step, size, curved)
        reached = merit(q, conditions(q))
        keep = (tries == 1) & ~(reached <= after)
        size, curved, after, q = tree_where(keep, now, [size, curved, reached, q])
        enough = after <= jnp.maximum((1 - 0.01 * size) * before * (1 + 10 * eps), floor)
        return size, curved, after, q, tries + 1, (tries < 1) | (~enough & (tries + 1 < _BACKTRACKS))

    start = (
        jnp.ones_like(before),
        jnp.ones((), bool),
        jnp.full_like(before, jnp.inf),
        p,
        jnp.zeros((), jnp.int32),
        ~skip,
    )
    return jax.lax.while_loop(lambda state: state[5], tried, start)[3]
