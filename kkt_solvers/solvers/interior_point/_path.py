"""Steps along the central path of a problem whose constraints are curved.

The start has `g(y) + s = r > 0` where an inequality is violated. A step aims at the same problem with `(1 - sigma)`
less of all that is left of the KKT conditions: `r`, the slope, and the products `z s`, so they vanish together. The
slack variables are not moved along a straight line but to where exactly the intended part of `r` is left:
`s = r_new - g(y_new)`. So a convex `g` shortens the step and never violates more [andersen1999].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.data.constraints import Curved
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.numerics.arrays import largest, where
from kkt_solvers.solvers.interior_point._iterate import Bounds, Direction, Iterate, Solve, advance, both

_CENTRED = 1e-3  # the least product of slack and multiplier, relative to their mean, that a step may lead to
_LEAST = 1e-3  # the least part of the mean product that a step aims at
_TO_BOUNDARY = 0.9  # the part of the way to the nearest bound that a step may go, at least
_GAPS = 10.0  # what is left of the slope may be so many gaps
_LAG = 0.3  # the mean product may not fall below this part of what a step aims at while the slope is larger
_TRIES = 30


class Follower(NamedTuple):
    """A problem and what is left of its constraints at an iterate."""

    problem: FlatProblem
    bounds: Bounds
    rows: Callable[[Iterate], jax.Array]
    elastic: jax.Array

    def at(self, p: Iterate, d: Iterate, rest: jax.Array, size: jax.Array, eta: jax.Array) -> Iterate:
        """A part of the step, after which `1 - size eta` of the residual `rest` of the inequalities is left: slack
        variables see to that, or, in the elastic problem, the multipliers, which are what is violated."""
        q, equality, slacks = advance(self.bounds, p, d, size, size), self.problem.equality, self.problem.slacks
        if not isinstance(equality, Curved):
            return q
        change = ((1 - size * eta) * rest - self.rows(q))[-slacks:] / equality.slack
        of_nu, change = where(self.elastic, -change, 0.0), where(self.elastic, 0.0, change)
        y, slack = q.y.at[-slacks:].add(change), q.slack.at[0, -slacks:].add(change)
        return q._replace(y=y, slack=slack, nu=q.nu.at[-slacks:].add(of_nu))

    def longest(self, p: Iterate, d: Iterate) -> jax.Array:
        """The largest part of the step, at most one, that keeps slacks and multipliers nonnegative."""
        ratio = jnp.stack([where(step < 0, -step / now, 0.0) for now, step in ((p.slack, d.slack), (p.z, d.z))])
        return 1 / jnp.max(where(self.bounds.has, ratio, 0.0), initial=1.0)

    def products(self, p: Iterate) -> jax.Array:
        return where(self.bounds.has, p.slack * p.z, jnp.inf)


def centred(problem: FlatProblem, bounds: Bounds, p: Iterate) -> Iterate:
    """The start `p`, with slack variables of one at least, products of slacks and multipliers of one, and each
    inequality's row priced like its slack variable's bound."""
    own = jnp.s_[-problem.slacks :]
    violation = jnp.abs(problem.equality.residual(p.y.at[own].set(0))[own])
    slack = p.slack.at[0, own].max(jnp.maximum(1.0, where(jnp.isfinite(violation), violation, 1.0)))
    z = where(bounds.has, 1 / jnp.maximum(slack, 0.1), 0.0)
    s = where(bounds.has[0, own], bounds.lower[own] + slack[0, own], p.y[own])  # free where h is infinite
    return Iterate(p.y.at[own].set(s), p.nu.at[own].set(z[0, own]), slack, z)


def path_direction(
    follower: Follower, p: Iterate, rest: tuple[jax.Array, jax.Array], solve: Solve, plain: jax.Array
) -> tuple[Direction, jax.Array]:
    """A predictor, which goes as far as slacks and multipliers stay nonnegative on its curved way, and a corrector for
    what that shows of curvature; and the part of the residuals that the step is to remove. `plain` asks for the
    predictor alone."""
    bounds = follower.bounds
    has, mu = bounds.has, bounds.gap(p)

    def once(state: Any) -> Any:
        d, sigma, second, bend, count = state
        predictor = count == 0
        product = where(predictor, -p.slack * p.z, where(has, sigma * mu - second, 0.0))
        part, push = where(predictor, -1.0, sigma).astype(mu.dtype), product / p.slack
        dy, dnu = solve(part * rest[0] + push[0] - push[1], part * rest[1] - bend, predictor)
        ds = where(has, both(dy), 0.0)
        d = jax.tree.map(jnp.add, d, Iterate(dy, dnu, ds, where(has, (product - p.z * ds) / p.slack, 0.0)))

        def tried(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            size, _ = state
            slack = follower.at(p, d, rest[1], size, jnp.ones_like(size)).slack
            too_long = ~jnp.all(where(has, slack, 0.0) >= 0) & (size > 1e-4)
            return where(too_long, 0.7 * size, size), too_long

        asked = predictor & ~plain
        begin = where(asked, 0.999 * follower.longest(p, d), 0.0), asked
        size, _ = jax.lax.while_loop(lambda state: state[1], tried, begin)
        q = advance(bounds, p, d, size, size)
        bend = follower.rows(q) - (1 - size) * rest[1]
        sigma = where(predictor, jnp.clip((1 - size) ** 2, _LEAST, 1.0), sigma)
        return d, sigma, d.slack * d.z, bend, count + 1

    zero = jnp.zeros_like(mu)
    start = jax.tree.map(jnp.zeros_like, p), zero, jnp.zeros_like(p.z), jnp.zeros_like(rest[1]), jnp.int32(0)
    d, sigma, *_ = jax.lax.while_loop(lambda state: state[-1] < where(plain, 1, 2), once, start)
    longest = follower.longest(p, d)
    return Direction(d, longest, longest, sigma * mu), 1 - sigma


def followed(
    follower: Follower,
    conditions: Callable[[Iterate], Any],
    p: Iterate,
    rest: tuple[jax.Array, jax.Array],
    d: Direction,
    eta: jax.Array,
    skip: jax.Array,
) -> Iterate:
    """The largest of the parts 1, 1/2, 1/4 ... of the step from `p` that keeps slacks positive, the products of slacks
    and multipliers near their mean, and what is left of the slope in bounds. The search is left out where `skip`."""
    bounds = follower.bounds
    has, mu = bounds.has, bounds.gap(p)
    keep = jnp.maximum(_TO_BOUNDARY, 1 - mu)
    centred = jnp.minimum(_CENTRED, 0.5 * jnp.min(follower.products(p)) / mu)
    # A slope counts as much as the coordinate can move: so it is of the size of the objective, like the products.
    room = bounds.moves * jnp.minimum(jnp.minimum(*p.slack), 1.0)
    slope = largest(room * rest[0])

    def at(size: jax.Array) -> Iterate:
        return follower.at(p, d.step, rest[1], size, eta)

    def tried(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        size, tries, _ = state
        q = at(size)
        left, gap = largest(room * conditions(q)[0]), bounds.gap(q)
        good = jnp.all(where(has, q.slack - (1 - keep) * p.slack, 0.0) >= 0)
        good &= jnp.min(follower.products(q)) >= centred * gap
        good &= left <= jnp.maximum((1 - 0.1 * size * eta) * slope, _GAPS * gap)
        # Where curvature takes a slack variable before the slope is gone, the iterates would crawl along the bound.
        good &= (gap >= _LAG * (1 - size * eta) * mu) | (left <= _GAPS * gap)
        more = ~good & (tries + 1 < _TRIES)
        return where(good, size, where(more, 0.5 * size, 0.0)), tries + 1, more

    start = where(skip, 0.0, keep * d.primal), jnp.zeros((), jnp.int32), ~skip
    return at(jax.lax.while_loop(lambda state: state[2], tried, start)[0])
