"""Economic dispatch and DC optimal power flow [wood2014].

Generators `g` produce `p_g` at the cost `quadratic_g p_g^2 + linear_g p_g` per hour. On one bus they meet the demand
together,

    min_p  sum_g quadratic_g p_g^2 + linear_g p_g    s.t.  sum_g p_g = demand,   lower <= p <= upper,

and in a network at every bus `i`, over lines `l` from `i` to `j` whose flow follows the voltage angles,

    min_{p, f}  sum_g quadratic_g p_g^2 + linear_g p_g
    s.t.  sum_{g at i} p_g - sum_{l from i} f_l + sum_{l to i} f_l = demand_i,
          f_l = susceptance_l (a_from - a_to - shift_l)  for some angles a,
          lower <= p <= upper,   -limit <= f <= limit.

The angles are eliminated [horsch2018]: they exist if and only if their differences, `f_l / susceptance_l + shift_l`,
sum to zero around every loop that a line closes with a spanning tree.

The price at a bus is what one more unit of demand there costs: minus the multiplier of its balance.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from kkt_solvers import Affine, Box, Problem, Quadratic, Sum, solve
from kkt_solvers.numerics.arrays import cast, float_dtype, floating, full_precision
from kkt_solvers.problems import _checks
from kkt_solvers.problems.network import Network

# ---------------------------------------------------------------------------------------------- one bus


def EconomicDispatch(demand: Any, quadratic: Any, linear: Any, lower: Any, upper: Any) -> Problem:
    """Economic dispatch on one bus as a `Problem`.

    Arguments:
        demand: a scalar.
        quadratic, linear: cost coefficients, shape `(generators,)`; `quadratic` nonnegative, or a scalar.
        lower, upper: limits of each generator, scalars or like `linear`.

    Raises `ValueError` for a negative `quadratic`, for `lower` above `upper`, and for a demand that the generators
    cannot meet.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import EconomicDispatch
    >>> solution = kkt.solve(EconomicDispatch(100.0, [0.01, 0.02], [10.0, 12.0], 0.0, 80.0))
    >>> solution.primal.tolist(), -solution.dual.equality
    ([80.0, 20.0], Array(12.8, dtype=float32))
    """
    linear = _checks.vector(linear, "linear", "costs, one a generator")
    generators = _checks.generators(linear.size, quadratic=quadratic, linear=linear, lower=lower, upper=upper)
    quadratic, lower, upper = (generators[name] for name in ("quadratic", "lower", "upper"))
    demand = _checks.scalar(demand, "demand")
    demand = _checks.within_capacity(demand, demand, lower, upper)
    return Problem(Quadratic(2 * quadratic, linear), Sum(demand), Box(lower, upper))


class Dispatch(NamedTuple):
    """What every generator produces, and the price of one more unit of demand."""

    generation: jax.Array
    price: jax.Array


def economic_dispatch(demand: Any, quadratic: Any, linear: Any, lower: Any, upper: Any) -> Dispatch:
    """The cheapest way to meet a demand on one bus.

    Arguments: as for `EconomicDispatch`; `demand` may have any shape, hours of a day for instance.

    Returns a `Dispatch`: `generation` of shape `(*demand.shape, generators)` and `price` like `demand`; NaN where a
    traced demand is out of reach. Raises `ValueError` as `EconomicDispatch` does.

    >>> from kkt_solvers.problems import economic_dispatch
    >>> day = economic_dispatch([50.0, 100.0, 150.0], [0.01, 0.02], [10.0, 12.0], 0.0, 80.0)
    >>> day.generation.tolist(), day.price.tolist()
    ([[50.0, 0.0], [80.0, 20.0], [80.0, 70.0]], [11.0, 12.8, 14.8])
    """
    demand, linear = floating(demand, "demand"), _checks.vector(linear, "linear", "costs, one a generator")
    generators = _checks.generators(linear.size, quadratic=quadratic, linear=linear, lower=lower, upper=upper)
    demand = _checks.within_capacity(demand, demand, generators["lower"], generators["upper"])

    def one(demand: jax.Array) -> Dispatch:
        solution = solve(EconomicDispatch(demand, **generators))
        return _checks.solved(solution, Dispatch(solution.primal, -solution.dual.equality))

    return _checks.over_leading(demand.ndim, one)(demand)


# ---------------------------------------------------------------------------------------------- a network
def OptimalPowerFlow(network: Network, demand: Any) -> Problem:
    """DC optimal power flow as a `Problem` in `y = (generation, flow)`.

    Arguments:
        network: a `Network`.
        demand: at every bus, shape `(buses,)`; a negative one feeds in.

    Raises `ValueError` for a total demand that the generators cannot meet.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import Network, OptimalPowerFlow
    >>> network = Network(2, [0, 1], 0.01, [10.0, 30.0], 0.0, 100.0, [0], [1], 500.0, limit=40.0)
    >>> solution = kkt.solve(OptimalPowerFlow(network, [10.0, 60.0]))
    >>> solution.primal.tolist(), (-solution.dual.equality[:2]).tolist()
    ([50.0, 20.0, 40.0], [11.0, 30.4])
    """
    demand = floating(demand, "demand")
    if demand.shape != (network.buses,):
        raise ValueError(
            f"demand must have one entry a bus, ({network.buses},), got {demand.shape}; "
            "optimal_power_flow takes batches"
        )
    demand = _checks.within_capacity(demand, jnp.sum(demand), network.lower, network.upper)
    generators, lines = len(network.generator_bus), len(network.from_bus)
    dtype = float_dtype(network, demand)
    # The rows of the balances, then of the loops.
    loops = network.loops()
    loop, line = np.nonzero(loops)
    sign = loops[loop, line].astype(float)
    flow = generators + np.arange(lines)
    row = [network.generator_bus, network.from_bus, network.to_bus, network.buses + loop]
    column = [np.arange(generators), flow, flow, flow[line]]
    value = [np.ones(generators), -np.ones(lines), np.ones(lines), sign / network.susceptance[line]]
    index = np.stack([np.concatenate(row), np.concatenate(column)], axis=1).astype(int)
    A = BCOO(
        (jnp.concatenate([jnp.asarray(part, dtype) for part in value]), jnp.asarray(index)),
        shape=(network.buses + len(loops), generators + lines),
    )
    shifts = jnp.zeros(len(loops), dtype).at[loop].add(sign * network.shift[line])
    free = jnp.zeros(lines, dtype)
    return Problem(
        Quadratic(jnp.concatenate([2 * network.quadratic, free]), jnp.concatenate([network.linear, free])),
        Affine(A, jnp.concatenate([demand, -shifts])),
        Box(jnp.concatenate([network.lower, -network.limit]), jnp.concatenate([network.upper, network.limit])),
    )


class PowerFlow(NamedTuple):
    """A dispatch of a network: `generation`, `flow` along every line, voltage `angle` and `price` at every bus, and
    the `congestion` of every line, what one more unit of its limit would save."""

    generation: jax.Array
    flow: jax.Array
    angle: jax.Array
    price: jax.Array
    congestion: jax.Array


@full_precision
def optimal_power_flow(network: Network, demand: Any) -> PowerFlow:
    """The cheapest way to meet the demand at every bus of a network, and the prices there.

    Arguments:
        network: a `Network`.
        demand: shape `(..., buses)`.

    Returns a `PowerFlow`, each of whose fields has the leading axes of `demand`. All NaN where the lines cannot carry
    what is asked for. Raises `ValueError` for a demand that the generators cannot meet.

    >>> from kkt_solvers.problems import Network, optimal_power_flow
    >>> network = Network(2, [0, 1], 0.01, [10.0, 30.0], 0.0, 100.0, [0], [1], 500.0, limit=40.0)
    >>> power = optimal_power_flow(network, [10.0, 60.0])
    >>> power.price.tolist(), power.congestion.tolist()
    ([11.0, 30.4], [19.4])
    """
    demand = floating(demand, "demand")
    if demand.ndim == 0:
        raise ValueError("demand must have an axis of buses, its last; got a scalar")
    demand = _checks.within_capacity(demand, jnp.sum(demand, axis=-1, keepdims=True), network.lower, network.upper)
    generators, path = len(network.generator_bus), network.paths()

    def one(demand: jax.Array) -> PowerFlow:
        solution = solve(OptimalPowerFlow(network, demand))
        generation, flow = jnp.split(solution.primal, [generators])
        angle = -jnp.asarray(path, flow.dtype) @ (flow / network.susceptance + network.shift)
        # Of the multipliers of both bounds one at most is not zero.
        held = (solution.dual.lower + solution.dual.upper)[generators:]
        power = PowerFlow(generation, flow, angle, -solution.dual.equality[: network.buses], held)
        return _checks.solved(solution, power)

    return _checks.over_leading(demand.ndim - 1, one)(cast(demand, float_dtype(network, demand)))
