"""The step of the interior point on an objective that is not quadratic."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers._arrays import largest
from kkt_solvers._problem import Box, FlatProblem

TO_BOUNDARY = 0.99  # the part of the way to the nearest bound that a step may go, at least
_BACKTRACKS = 30
_CURVED = 10.0  # the logarithm of the largest part of a slack that a curved step may take


class Iterate(NamedTuple):
    """A point, or a step. Slacks and multipliers of the bounds have the shape `(2, n)`: lower bounds, upper bounds."""

    y: jax.Array
    nu: jax.Array
    slack: jax.Array  # y - l and u - y; one where there is no bound
    z: jax.Array


def _moved(box: Box, has: jax.Array, p: Iterate, d: Iterate, size: jax.Array, curved: jax.Array) -> Iterate:
    """A part of the step, in which every slack for itself keeps a hundredth of what it has: no coordinate is to
    wait for another that overshoots.

    A curved step multiplies a slack s by exp(ds / s) where it shrinks: to first order the same, and where the
    slope of the objective is a logarithm of the slack exactly what the Newton step means.
    """
    part = size * d.slack / p.slack
    bent = jnp.exp(jnp.maximum(part, -_CURVED))
    straight = jnp.maximum(1 + part, 1 - TO_BOUNDARY)
    slack = p.slack * jnp.where(curved & (part < 0), bent, straight)
    # What grows on one side of the box shrinks on the other.
    width = box.upper - box.lower
    slack = jnp.minimum(slack, jnp.where(has[0] & has[1], width, jnp.inf) - (1 - TO_BOUNDARY) * p.slack[::-1])
    bent_back = slack != p.slack + size * d.slack
    near_lower = has[0] & (~has[1] | (p.slack[0] <= p.slack[1]))
    near_upper = has[1] & ~near_lower
    y = p.y + size * d.y
    y = jnp.where(near_lower & bent_back[0], box.lower + slack[0], y)
    y = jnp.where(near_upper & bent_back[1], box.upper - slack[1], y)
    far = jnp.stack([near_upper, near_lower])
    slack = jnp.where(has, jnp.where(far, width - slack[::-1], slack), 1.0)
    # As if a slack had gone to zero and not beyond: the step of the multiplier counts on where it goes.
    z = jnp.maximum(p.z + size * d.z + p.z * jnp.minimum(1 + part, 0.0), (1 - TO_BOUNDARY) * p.z)
    return Iterate(y, p.nu + size * d.nu, slack, z)


def backtracked(
    problem: FlatProblem,
    has: jax.Array,
    conditions: Callable[[Iterate], Any],
    p: Iterate,
    d: Iterate,
    centre: jax.Array,
) -> Iterate:
    """The largest of the parts 1, 1/2, 1/4 ... of the step `d` from `p`, straight or curved, for which the norm of the
    KKT conditions, relaxed to `z (y - l) = centre`, falls; `has` says which bounds there are."""
    dtype, eps, target = p.y.dtype, float(jnp.finfo(p.y.dtype).eps), problem.equality.target
    # A slope counts as much as the coordinate can move: so all parts are of the size of the objective.
    room = jnp.minimum(jnp.minimum(*p.slack), 1.0)

    def merit(q: Iterate) -> jax.Array:
        rd, rp = conditions(q)
        parts = room * rd, rp, jnp.where(has, q.slack * q.z - centre, 0.0)
        return jnp.sqrt(sum(jnp.vdot(part, part) for part in parts))

    def moved(size: jax.Array, curved: jax.Array) -> Iterate:
        return _moved(problem.box, has, p, d, size, curved)

    before, whole = merit(p), jnp.ones((), dtype)
    floor = 10 * eps * (1 + largest(target))  # below it the merit is rounding
    curved = merit(moved(whole, jnp.ones((), bool))) < merit(moved(whole, jnp.zeros((), bool)))

    def too_long(state: Any) -> jax.Array:
        size, tries = state
        after = merit(moved(size, curved))
        return ~(after <= jnp.maximum((1 - 0.01 * size) * before * (1 + 10 * eps), floor)) & (tries < _BACKTRACKS)

    start = whole, jnp.zeros((), jnp.int32)
    size, _ = jax.lax.while_loop(too_long, lambda s: (0.5 * s[0], s[1] + 1), start)
    return moved(size, curved)
