"""The network of an optimal power flow: generators, buses and the lines between them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers.numerics.pytree import pytree
from kkt_solvers.problems import _checks


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
        for name, value in _checks.generators(
            generators, quadratic=quadratic, linear=linear, lower=lower, upper=upper
        ).items():
            put(name, value)

        def tie(name: str, value: Any, message: str, holds: Callable[..., Any]) -> None:
            value = _checks.where_valid(_checks.like(value, (lines,), name, "the lines"), message, holds)
            put(name, jnp.broadcast_to(value, (lines,)))

        message = "susceptance must not be zero: leave out a line that is open"
        tie("susceptance", susceptance, message, lambda xp, susceptance: susceptance != 0)
        message = "limit must be nonnegative: it holds for both directions"
        tie("limit", limit, message, lambda xp, limit: limit >= 0)
        tie("shift", shift, "shift must be finite", lambda xp, shift: xp.isfinite(shift))

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

    def paths(self) -> np.ndarray:
        """For every bus the lines of a spanning tree on the way to it, +1 along and -1 against: `(buses, lines)`."""
        beside: list[list[tuple[int, int, int]]] = [[] for _ in range(self.buses)]
        for line, (i, j) in enumerate(zip(self.from_bus, self.to_bus, strict=True)):
            beside[i].append((j, line, 1))
            beside[j].append((i, line, -1))
        path, seen = np.zeros((self.buses, len(self.from_bus)), np.int8), set()
        for root in (self.reference, *range(self.buses)):  # breadth first, island by island
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

    def loops(self) -> np.ndarray:
        """The loops that the other lines close with the tree, shape `(loops, lines)`."""
        path = self.paths()
        loops = path[list(self.to_bus)] - path[list(self.from_bus)] - np.eye(len(self.from_bus), dtype=np.int8)
        return loops[np.any(loops, axis=1)]
