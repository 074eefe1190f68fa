"""Times of the field problems of the gallery, at the largest sizes tried there, without compilation.

`python docs/benchmarks/gallery.py`, with `OPENBLAS_NUM_THREADS=1`, in float64; needs the test extra.
"""

import statistics
import time

import cantera
import jax
import jax.numpy as jnp
import numpy as np
import pypower.api as pypower

import kkt_solvers as kkt
from kkt_solvers.problems import (
    ChemicalEquilibrium,
    EconomicDispatch,
    ElementPotentials,
    Network,
    OptimalPowerFlow,
    OptimalTransport,
    PredictiveControl,
    Regulator,
)

solve = jax.jit(kkt.solve, static_argnames="solver")


def dispatch(rng):
    network, demand = Network.from_case(pypower.case300())
    units = network.quadratic, network.linear, network.lower, network.upper
    return EconomicDispatch(np.sum(demand), *units)


def power_flow(rng):
    return OptimalPowerFlow(*Network.from_case(pypower.case300()))


def control(rng):
    n, m = 12, 4
    A, B = rng.normal(size=(n, n)), rng.normal(size=(n, m))
    A /= np.max(np.abs(np.linalg.eigvals(A)))
    state = rng.normal(size=n)
    inputs, states = kkt.Box(-0.5, 0.5), kkt.Box(-10.0, 10.0)
    regulator = Regulator(A, B, np.eye(n), 0.1 * np.eye(m), 50, inputs=inputs, states=states)
    return PredictiveControl(regulator, state)


def transport(rng, epsilon):
    size = 128
    x, y = rng.normal(size=(size, 1, 2)), rng.normal(size=(1, size, 2)) + 1
    masses = np.full(size, 1 / size)
    return OptimalTransport(np.sum((x - y) ** 2, axis=-1), masses, masses, epsilon)


def equilibrium(rng):
    gas = cantera.Solution("gri30.yaml")
    gas.TPX = 2000.0, gas.reference_pressure, "CH4:1, O2:2.2, N2:8, AR:0.1"
    formula = np.array([[gas.n_atoms(k, e) for k in range(gas.n_species)] for e in range(gas.n_elements)])
    return ChemicalEquilibrium(gas.standard_gibbs_RT, formula, formula @ gas.X)


def main():
    jax.config.update("jax_enable_x64", True)
    rows = {
        "economic dispatch, 69 generators": dispatch,
        "optimal power flow, 300 buses": power_flow,
        "predictive control, 12 states, 4 inputs, 50 steps": control,
        "transport, 128 x 128, epsilon 0.1": lambda rng: transport(rng, 0.1),
        "transport, 128 x 128, epsilon 0.01": lambda rng: transport(rng, 0.01),
        "equilibrium, 53 species, 5 elements": equilibrium,
    }
    for name, build in rows.items():
        problem = build(np.random.default_rng(0))
        solver = ElementPotentials() if build is equilibrium else None
        solution = jax.block_until_ready(solve(problem, solver=solver))
        times = []
        for _ in range(7):
            start = time.perf_counter()
            jax.block_until_ready(solve(problem, solver=solver))
            times.append(time.perf_counter() - start)
        size = jnp.size(solution.primal), jnp.size(solution.dual.equality)
        print(
            f"{name:52} | {size[0]:6} variables, {size[1]:4} equalities | {int(solution.iterations):3} iterations | "
            f"{kkt.Status(int(solution.status)).name} | {1e3 * statistics.median(times):8.2f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
