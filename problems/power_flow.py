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

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from kkt_solvers._arrays import cast, float_dtype, floating, is_concrete
from kkt_solvers._objectives import Quadratic
from kkt_solvers._problem import Affine, Box, Problem, Sum
from kkt_solvers._pytree import pytree
from kkt_solvers._solve import solve
from kkt_solvers.problems import _checks

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
    linear, quadratic = floating(linear, "linear"), floating(quadratic, "quadratic")
    if linear.ndim != 1:
        raise ValueError(f"linear must be a vector, one entry a generator, got shape {linear.shape}")
    demand, lower, upper = floating(demand, "demand"), floating(lower, "lower"), floating(upper, "upper")
    if demand.shape != ():
        raise ValueError(f"demand must be a scalar, got shape {demand.shape}; economic_dispatch takes batches")
    for name, value in (("quadratic", quadratic), ("lower", lower), ("upper", upper)):
        if value.shape not in ((), linear.shape):
            raise ValueError(f"{name} must be a scalar or one entry a generator, {linear.shape}; got {value.shape}")
    _check_generators(quadratic, lower, upper, demand, linear.size)
    curvature = jnp.broadcast_to(2 * quadratic, linear.shape)
    return Problem(Quadratic(curvature, linear), Sum(demand), Box(lower, upper))


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
    demand = floating(demand, "demand")
    if demand.size and is_concrete(demand):
        for extreme in (np.min(demand), np.max(demand)):
            EconomicDispatch(extreme, quadratic, linear, lower, upper)

    def one(demand: jax.Array) -> Dispatch:
        solution = solve(EconomicDispatch(demand, quadratic, linear, lower, upper))
        bad = _checks.unless_solved(solution)
        return Dispatch(solution.primal + bad, bad - solution.dual.equality)

    return _over(demand.ndim, one)(demand)


# ---------------------------------------------------------------------------------------------- a network
@pytree(static=("buses", "generator_bus", "from_bus", "to_bus", "reference"))
@dataclass(frozen=True, eq=False)
class Network:
    """Generators and lines between `buses` buses, numbered from 0. Any units of power and of money, MW and $ per hour
    say. Who is connected to whom is static; all else can be differentiated and batched.

    Arguments:
        buses: how many.
        generator_bus: the bus of each generator.
        quadratic, linear, lower, upper: of each generator, shape `(generators,)` or scalars: cost and limits.
        from_bus, to_bus: the ends of each line.
        susceptance: power per radian, shape `(lines,)`: the base power by reactance and tap ratio. Not zero.
        limit: the largest flow either way, `(lines,)` or a scalar; default infinite.
        shift: of a phase-shifting transformer, in radians; default zero.
        reference: the bus whose angle is zero. In an island without it the first bus stands in.

    Raises `ValueError` for a bus that is not there, shapes that do not fit, limits that are not.
    """

    buses: int
    generator_bus: tuple[int, ...]
    quadratic: jax.Array
    linear: jax.Array
    lower: jax.Array
    upper: jax.Array
    from_bus: tuple[int, ...]
    to_bus: tuple[int, ...]
    susceptance: jax.Array
    limit: jax.Array
    shift: jax.Array
    reference: int

    def __init__(
        self,
        buses: int,
        generator_bus: Any,
        quadratic: Any,
        linear: Any,
        lower: Any,
        upper: Any,
        from_bus: Any,
        to_bus: Any,
        susceptance: Any,
        limit: Any = jnp.inf,
        shift: Any = 0.0,
        reference: int = 0,
    ):
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("buses", int(buses))
        put("reference", int(reference))
        for name, value in (("generator_bus", generator_bus), ("from_bus", from_bus), ("to_bus", to_bus)):
            put(name, tuple(int(bus) for bus in np.ravel(value)))
        for name in ("generator_bus", "from_bus", "to_bus", "reference"):
            if not all(0 <= bus < self.buses for bus in np.ravel(getattr(self, name))):
                raise ValueError(f"{name} must hold numbers of buses, 0 to {self.buses - 1}")
        generators, lines = len(self.generator_bus), len(self.from_bus)
        if len(self.to_bus) != lines:
            raise ValueError(f"from_bus and to_bus must be of equal length, got {lines} and {len(self.to_bus)}")
        units = {"quadratic": quadratic, "linear": linear, "lower": lower, "upper": upper}
        ties = {"susceptance": susceptance, "limit": limit, "shift": shift}
        for values, size, what in ((units, generators, "generator"), (ties, lines, "line")):
            for name, value in values.items():
                value = floating(value, name)
                if value.shape not in ((), (size,)):
                    raise ValueError(f"{name} must be a scalar or one entry a {what}, ({size},); got {value.shape}")
                put(name, jnp.broadcast_to(value, (size,)))
        _check_generators(self.quadratic, self.lower, self.upper, None, generators)
        _see(self.susceptance, lambda b: b != 0, "susceptance must not be zero: leave out a line that is open")
        _see(self.limit, lambda limit: limit >= 0, "limit must be nonnegative: it holds for both directions")

    @classmethod
    def from_case(cls, case: Any) -> tuple["Network", np.ndarray]:
        """A network and the demand at its buses from a case in the format of MATPOWER [zimmerman2011], as pypower has
        it: a mapping with `baseMVA`, `bus`, `gen`, `branch` and `gencost`, polynomial up to the square. In MW.

        What is out of service is left out, and of the cost the part that does not depend on the generation.
        """
        bus, gen, branch, cost = (np.asarray(case[name], float) for name in ("bus", "gen", "branch", "gencost"))
        running, closed = gen[:, 7] > 0, branch[:, 10] > 0
        gen, cost, branch = gen[running], cost[: len(gen)][running], branch[closed]
        if np.any(cost[:, 0] != 2) or np.any(cost[:, 3] > 3):
            raise ValueError("gencost must be polynomial (model 2) with at most three coefficients")
        number = {int(name): index for index, name in enumerate(bus[:, 0])}
        at = np.vectorize(lambda name: number[int(name)])
        # The coefficients begin with that of the highest power.
        padded = np.stack([np.concatenate([np.zeros(3 - int(row[3])), row[4 : 4 + int(row[3])]]) for row in cost])
        ratio = np.where(branch[:, 8] == 0, 1.0, branch[:, 8])
        network = cls(
            len(bus),
            at(gen[:, 0]),
            padded[:, 0],
            padded[:, 1],
            gen[:, 9],
            gen[:, 8],
            at(branch[:, 0]),
            at(branch[:, 1]),
            case["baseMVA"] / (branch[:, 3] * ratio),
            np.where(branch[:, 5] == 0, np.inf, branch[:, 5]),
            np.deg2rad(branch[:, 9]),
            int(np.argmax(bus[:, 1] == 3)),
        )
        return network, bus[:, 2] + bus[:, 4]  # a shunt's conductance draws its power at the nominal voltage


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
    _check_generators(network.quadratic, network.lower, network.upper, jnp.sum(demand), len(network.generator_bus))
    generators, lines = len(network.generator_bus), len(network.from_bus)
    dtype = float_dtype(network, demand)
    # The rows of the balances, then of the loops.
    loops = _loops(network)
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


def _paths(network: Network) -> np.ndarray:
    """For every bus the lines of a spanning tree on the way to it, +1 along and -1 against, shape `(buses, lines)`."""
    beside: list[list[tuple[int, int, int]]] = [[] for _ in range(network.buses)]
    for line, (i, j) in enumerate(zip(network.from_bus, network.to_bus, strict=True)):
        beside[i].append((j, line, 1))
        beside[j].append((i, line, -1))
    path, seen = np.zeros((network.buses, len(network.from_bus)), np.int8), set()
    for root in (network.reference, *range(network.buses)):  # breadth first, island by island
        queue = [] if root in seen else [root]
        seen.add(root)
        for i in queue:
            for j, line, sign in beside[i]:
                if j not in seen:
                    path[j] = path[i]
                    path[j, line] = sign
                    seen.add(j)
                    queue.append(j)
    return path


def _loops(network: Network) -> np.ndarray:
    """The loops that the other lines close with the tree, shape `(loops, lines)`."""
    path = _paths(network)
    loops = path[list(network.to_bus)] - path[list(network.from_bus)] - np.eye(len(network.from_bus), dtype=np.int8)
    return loops[np.any(loops, axis=1)]


class PowerFlow(NamedTuple):
    """A dispatch of a network: `generation`, `flow` along every line, voltage `angle` and `price` at every bus, and
    the `congestion` of every line, what one more unit of its limit would save."""

    generation: jax.Array
    flow: jax.Array
    angle: jax.Array
    price: jax.Array
    congestion: jax.Array


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
    if is_concrete(demand):
        for total in np.ravel(np.sum(demand, axis=-1)):
            _check_generators(network.quadratic, network.lower, network.upper, total, len(network.generator_bus))
    generators, path = len(network.generator_bus), _paths(network)

    def one(demand: jax.Array) -> PowerFlow:
        solution = solve(OptimalPowerFlow(network, demand))
        bad = _checks.unless_solved(solution)
        generation, flow = jnp.split(solution.primal + bad, [generators])
        angle = -jnp.asarray(path, flow.dtype) @ (flow / network.susceptance + network.shift)
        # Of the multipliers of both bounds one at most is not zero.
        held = (solution.dual.lower + solution.dual.upper)[generators:]
        return PowerFlow(generation, flow, angle, bad - solution.dual.equality[: network.buses], held + bad)

    return _over(demand.ndim - 1, one)(cast(demand, float_dtype(network, demand)))


def _over(axes: int, function: Any) -> Any:
    """`function` over so many leading axes."""
    for _ in range(axes):
        function = jax.vmap(function)
    return function


def _see(value: Any, good: Any, message: str) -> None:
    if is_concrete(value) and not np.all(good(np.asarray(value))):
        raise ValueError(message)


def _check_generators(quadratic: Any, lower: Any, upper: Any, demand: Any, generators: int) -> None:
    _see(quadratic, lambda c: c >= 0, "quadratic must be nonnegative: the cost of a generator is convex")
    if is_concrete((lower, upper)):
        low, high = (np.broadcast_to(np.asarray(bound, float), generators) for bound in (lower, upper))
        if not np.all(low <= high):
            raise ValueError("lower is above upper for some generator; exchange or widen its limits")
        least, most = low.sum(), high.sum()
        room = 1e-6 * (1 + np.abs(demand) if demand is not None and is_concrete(demand) else 1)
        if demand is not None and is_concrete(demand) and not least - room <= np.asarray(demand) <= most + room:
            raise ValueError(
                f"demand must lie between the sums of lower and upper, {least:g} and {most:g}, to be met by the "
                f"generators; got {np.asarray(demand):g}: add capacity, or shed load"
            )
