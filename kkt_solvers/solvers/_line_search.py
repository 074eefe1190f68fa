"""The step of the interior point on an objective that is not quadratic."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers._problem import Box, FlatProblem

TO_BOUNDARY = 0.99  # the part of the way to the nearest bound that a step may go, at least
_BACKTRACKS = 30
_CURVED = 10.0  # the logarithm of the largest part of a slack that a curved step may take


class Iterate(NamedTuple):
    y: jax.Array
    nu: jax.Array
    below: jax.Array  # slacks y - l and u - y; one where there is no bound
    above: jax.Array
    zl: jax.Array
    zu: jax.Array


def _moved(box: Box, has: Any, p: Iterate, d: Iterate, size: jax.Array, curved: jax.Array) -> Iterate:
    """A part of the step, in which every slack for itself keeps a hundredth of what it has: no coordinate is to
    wait for another that overshoots.

    A curved step multiplies a slack s by exp(ds / s) where it shrinks: to first order the same, and where the
    slope of the objective is a logarithm of the slack exactly what the Newton step means.
    """
    lower, upper = box.lower, box.upper

    def shorter(slack: jax.Array, step: jax.Array) -> jax.Array:
        part = size * step / slack
        bent = jnp.exp(jnp.maximum(part, -_CURVED))
        straight = jnp.maximum(1 + part, 1 - TO_BOUNDARY)
        return slack * jnp.where(curved & (part < 0), bent, straight)

    below, above = shorter(p.below, d.below), shorter(p.above, d.above)
    # What grows on one side of the box shrinks on the other.
    width = jnp.where(has[0] & has[1], upper - lower, jnp.inf)
    below, above = (
        jnp.minimum(new, width - (1 - TO_BOUNDARY) * other) for new, other in ((below, p.above), (above, p.below))
    )
    near_lower = has[0] & (~has[1] | (p.below <= p.above))
    near_upper = has[1] & ~near_lower
    y = p.y + size * d.y
    y = jnp.where(near_lower & (below != p.below + size * d.below), lower + below, y)
    y = jnp.where(near_upper & (above != p.above + size * d.above), upper - above, y)
    below = jnp.where(has[0], jnp.where(near_upper, upper - lower - above, below), 1.0)
    above = jnp.where(has[1], jnp.where(near_lower, upper - lower - below, above), 1.0)

    def followed(z: jax.Array, dz: jax.Array, slack: jax.Array, step: jax.Array) -> jax.Array:
        # As if the slack had gone to zero and not beyond: the step of the multiplier counts on where it goes.
        beyond = jnp.minimum(1 + size * step / slack, 0.0)
        return jnp.maximum(z + size * dz + z * beyond, (1 - TO_BOUNDARY) * z)

    zl, zu = followed(p.zl, d.zl, p.below, d.below), followed(p.zu, d.zu, p.above, d.above)
    return Iterate(y, p.nu + size * d.nu, below, above, zl, zu)


def backtracked(
    problem: FlatProblem, has: Any, conditions: Callable[[Iterate], Any], p: Iterate, d: Iterate, centre: jax.Array
) -> Iterate:
    """The largest of the parts 1, 1/2, 1/4 ... of the step `d` from `p`, straight or curved, for which the norm of the
    KKT conditions, relaxed to `z (y - l) = centre`, falls; `has` says which bounds there are."""
    dtype, eps, target = p.y.dtype, float(jnp.finfo(p.y.dtype).eps), problem.equality.target
    # A slope counts as much as the coordinate can move: so all parts are of the size of the objective.
    room = jnp.minimum(jnp.minimum(p.below, p.above), 1.0)

    def merit(q: Iterate) -> jax.Array:
        rd, rp = conditions(q)
        rd = room * rd
        low = jnp.where(has[0], q.below * q.zl - centre, 0.0)
        high = jnp.where(has[1], q.above * q.zu - centre, 0.0)
        return jnp.sqrt(sum(jnp.vdot(part, part) for part in (rd, rp, low, high)))

    def moved(size: jax.Array, curved: jax.Array) -> Iterate:
        return _moved(problem.box, has, p, d, size, curved)

    before, whole = merit(p), jnp.ones((), dtype)
    floor = 10 * eps * (1 + jnp.max(jnp.abs(target), initial=0))  # below it the merit is rounding
    curved = merit(moved(whole, jnp.ones((), bool))) < merit(moved(whole, jnp.zeros((), bool)))

    def too_long(state: Any) -> jax.Array:
        size, tries = state
        after = merit(moved(size, curved))
        return ~(after <= jnp.maximum((1 - 0.01 * size) * before * (1 + 10 * eps), floor)) & (tries < _BACKTRACKS)

    start = whole, jnp.zeros((), jnp.int32)
    size, _ = jax.lax.while_loop(too_long, lambda s: (0.5 * s[0], s[1] + 1), start)
    return moved(size, curved)
