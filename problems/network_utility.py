"""Flows that share the links of a network fairly [kelly1998].

    max_x  sum_i weights_i log x_i        s.t.  sum_i routing_li x_i <= capacity_l,   x >= 0.

The rates are proportionally fair: in a change to other rates that the links can carry, the weighted sum of the relative
changes is at most zero. The multiplier of a link is its price. The rate of a flow is its weight over the sum of the
prices along its route.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers import AtMost, Box, Problem, solve
from kkt_solvers.numerics.arrays import cast, float_dtype, floating
from kkt_solvers.problems import _checks


def NetworkUtility(routing: Any, capacity: Any, weights: Any = 1.0) -> Problem:
    """The proportionally fair rates of flows as a `Problem`.

    Arguments:
        routing: shape `(links, flows)`, one where a flow takes a link and zero elsewhere, or any nonnegative number of
            units of capacity for a unit of the rate.
        capacity: of each link, positive, `(links,)`; `inf` for a link without a limit.
        weights: of each flow, positive, a scalar or `(flows,)`.

    Raises `ValueError` for shapes that do not fit, for values out of range, and for a flow that takes no link with a
    limit.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import NetworkUtility
    >>> solution = kkt.solve(NetworkUtility([[1, 1, 0], [1, 0, 1]], [3.0, 3.0]))  # one flow takes both links
    >>> solution.primal.tolist(), solution.dual.inequality.tolist()
    ([1.00, 2.00, 2.00], [0.50, 0.50])
    """
    routing, capacity = _checks.matrix_of(routing, "routing", "links by flows"), floating(capacity, "capacity")
    links, flows = routing.shape
    if capacity.shape != (links,):
        raise ValueError(f"capacity must have shape ({links},), one for each row of routing, got {capacity.shape}")
    weights = jnp.broadcast_to(_checks.like(weights, (flows,), "weights", "the columns of routing"), (flows,))
    routing, capacity, weights = cast((routing, capacity, weights), float_dtype(routing, capacity, weights))
    capacity = _checks.where_valid(capacity, "capacity must be positive", lambda xp, capacity: capacity > 0)
    weights = _checks.where_valid(weights, "weights must be positive", lambda xp, weights: weights > 0)
    routing = _checks.where_valid(routing, "routing must be nonnegative", lambda xp, routing: routing >= 0)
    message = "routing must take each flow over a link of finite capacity: without one its rate has no limit"
    routing = _checks.where_valid(routing, message, _are_limited, capacity)
    return Problem(_negative_utility, None, Box(jnp.zeros_like(weights)), (weights,), AtMost(routing, capacity))


class Rates(NamedTuple):
    """The rate of every flow, and the price of every link: what one more unit of its capacity is worth."""

    rates: jax.Array
    prices: jax.Array


def network_utility(routing: Any, capacity: Any, weights: Any = 1.0) -> Rates:
    """The proportionally fair rates of flows, and the prices of links.

    Arguments: as for `NetworkUtility`. Batches go through `jax.vmap`.

    Returns `Rates`: `rates`, `(flows,)`, and `prices`, `(links,)`, differentiable in every argument; NaN where the
    problem was not solved.

    >>> from kkt_solvers.problems import network_utility
    >>> found = network_utility([[1, 1, 0], [1, 0, 1]], [3.0, 3.0], [4.0, 1.0, 1.0])
    >>> found.rates.tolist(), found.prices.tolist()
    ([2.00, 1.00, 1.00], [1.00, 1.00])

    Source: [kelly1998].
    """
    solution = solve(NetworkUtility(routing, capacity, weights))
    return _checks.solved(solution, Rates(solution.primal, solution.dual.inequality))


def _negative_utility(x: jax.Array, weights: jax.Array) -> jax.Array:
    return -jnp.vdot(weights, jnp.log(x))


def _are_limited(xp: Any, routing: Any, capacity: Any) -> Any:
    return xp.any((routing > 0) & (capacity < xp.inf)[:, None], axis=0)
