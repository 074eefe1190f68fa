"""Dispatch and optimal power flow on the IEEE cases of pypower, against its own solver (1e-6) and HiGHS (1e-6)."""

import jax
import jax.numpy as jnp
import numpy as np
import pypower.api as pypower
import pytest
import scipy.optimize

from kkt_solvers.problems import EconomicDispatch, Network, OptimalPowerFlow, economic_dispatch, optimal_power_flow

_OPTIONS = pypower.ppoption(
    VERBOSE=0, OUT_ALL=0, PDIPM_FEASTOL=1e-10, PDIPM_GRADTOL=1e-8, PDIPM_COMPTOL=1e-10, PDIPM_COSTTOL=1e-12
)


def congested():
    """Case 30, of 30 buses, with two limits that hold."""
    case = pypower.case30()
    case["branch"][[0, 5], 5] = 20.0  # MW
    case["branch"][7, 8:10] = 0.97, 1.5  # a transformer that shifts
    case["bus"][4, 4] = 3.0  # and a shunt
    case["gen"][3, 7] = 0  # and a generator that is out
    return case


def by_pypower(case, demand=None):
    if demand is not None:
        case["bus"][:, 2] = demand - case["bus"][:, 4]
    result = pypower.rundcopf(case, _OPTIONS)
    assert result["success"]
    running = result["gen"][:, 7] > 0
    bus, branch = result["bus"], result["branch"]
    generation, flow, angle, price = result["gen"][running, 1], branch[:, 13], np.deg2rad(bus[:, 8]), bus[:, 13]
    return generation, flow, angle, price, branch[:, 17] + branch[:, 18]


def _price(network, demand):
    return optimal_power_flow(network, demand).price


@jax.jit
def flow_and_slopes(network, demand):
    return optimal_power_flow(network, demand), jax.vmap(jax.jacrev(_price, argnums=1), (None, 0))(network, demand)


def test_optimal_power_flow_against_pypower(x64):
    network, demand = Network.from_case(congested())
    demands = np.stack([demand, 0.95 * demand, 1.4 * demand])  # the last is more than the lines carry
    power, slope = flow_and_slopes(network, demands)
    for hour in range(2):
        expected = by_pypower(congested(), demands[hour])
        for found, wanted in zip(power, expected, strict=True):
            np.testing.assert_allclose(found[hour], wanted, atol=1e-6)
        assert np.ptp(power.price[hour]) > 0.1  # the lines tell the buses apart
        assert np.max(power.congestion[hour]) > 0.1
    assert np.isnan(power.price[2]).all()
    assert np.isnan(slope[2]).all()

    # The sensitivity of every price to the demand at a bus: finite differences of pypower's prices.
    def price(demand):
        return by_pypower(congested(), demand)[3]

    h = 1e-2  # the prices are piecewise linear
    for bus in (7, 20):
        step = h * (np.arange(demand.size) == bus)
        wanted = (price(demands[1] + step) - price(demands[1] - step)) / (2 * h)
        np.testing.assert_allclose(slope[1, :, bus], wanted, atol=1e-6)
        assert np.max(np.abs(wanted)) > 1e-2
    np.testing.assert_allclose(slope[1], slope[1].T, atol=1e-9)  # a Hessian, of the cost in the demand


def tightened(case):
    """A case without limits of its lines, with some that hold; of two in a row, of the same flow, only one has one."""
    network, demand = Network.from_case(case)
    flow = np.abs(optimal_power_flow(network, demand).flow)
    busiest = np.unique(np.round(flow, 6), return_index=True)[1][:-7:-1]
    # Rounded: with some limits the reference does not converge, and that is not to hang on our last digits.
    case["branch"][busiest, 5] = np.round(np.linspace(0.86, 0.94, 6) * flow[busiest], 2)
    return case


@pytest.mark.parametrize("name", ["case118", pytest.param("case300", marks=pytest.mark.slow)])
def test_a_batch_of_demands_on_a_large_network(name, x64, rng):
    case = tightened(getattr(pypower, name)())
    network, demand = Network.from_case(case)
    demands = demand * np.r_[np.ones((1, demand.size)), rng.uniform(0.9, 1.02, (3, demand.size))]
    demands = np.r_[demands, 1.2 * demands[:1] * np.sum(network.upper) / np.sum(demand)]  # the last is out of reach
    power = jax.jit(jax.vmap(optimal_power_flow, (None, 0)))(network, demands)
    for hour in range(4):
        generation, flow, _, price, congestion = by_pypower(case, demands[hour])
        np.testing.assert_allclose(power.generation[hour], generation, atol=1e-4)
        np.testing.assert_allclose(power.flow[hour], flow, atol=1e-4)
        np.testing.assert_allclose(power.price[hour], price, rtol=1e-6)
        np.testing.assert_allclose(power.congestion[hour], congestion, atol=1e-4)
        assert np.max(power.congestion[hour]) > 0.1
    assert all(np.isnan(field[4]).all() for field in power)


def test_float32_and_case_39():
    network, demand = Network.from_case(pypower.case39())
    power = jax.jit(optimal_power_flow)(network, jnp.asarray(demand, jnp.float32))
    expected = by_pypower(pypower.case39())
    assert power.price.dtype == jnp.float32
    np.testing.assert_allclose(power.price, expected[3], rtol=1e-4)
    np.testing.assert_allclose(power.generation, expected[0], rtol=1e-3, atol=1e-1)


def test_economic_dispatch_against_pypower_and_merit_order(x64):
    # No line of case 118 has a limit: its optimal power flow is the dispatch of one bus.
    network, demand = Network.from_case(pypower.case118())
    units = network.quadratic, network.linear, network.lower, network.upper
    generation, _, _, price, _ = by_pypower(pypower.case118())
    total = float(np.sum(demand))
    day = economic_dispatch(np.array([0.7, 1.0]) * total, *units)
    np.testing.assert_allclose(day.generation[1], generation, atol=1e-6)
    np.testing.assert_allclose(day.price[1], price[0], atol=1e-6)
    slope = jax.grad(lambda total: economic_dispatch(total, *units).price)(total)
    inside = (day.generation[1] > network.lower + 1e-6) & (day.generation[1] < network.upper - 1e-6)
    np.testing.assert_allclose(slope, 1 / np.sum(inside / (2 * network.quadratic)), rtol=1e-9)

    # Constant marginal costs: the cheapest first.
    linear, upper = np.array([30.0, 10.0, 20.0, 40.0]), np.array([50.0, 40.0, 30.0, 80.0])
    merit = economic_dispatch(100.0, 0.0, linear, 0.0, upper)
    expected = scipy.optimize.linprog(
        linear, A_eq=np.ones((1, 4)), b_eq=[100.0], bounds=np.stack([0 * upper, upper], 1)
    )
    np.testing.assert_allclose(merit.generation, expected.x, atol=1e-6)
    np.testing.assert_allclose(merit.price, expected.eqlin.marginals[0], atol=1e-6)


_TWO = {"generator_bus": [0, 1], "quadratic": 0.01, "linear": [10.0, 30.0], "lower": 0.0, "upper": 100.0}
_LINE = {"from_bus": [0], "to_bus": [1], "susceptance": 500.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator_bus": [0, 2]}, "generator_bus must hold numbers of buses, 0 to 1"),
        ({"reference": 5}, "reference must hold numbers of buses"),
        ({"linear": [1.0, 2.0, 3.0]}, r"linear must be a scalar or have the shape \(2,\) of the generators"),
        ({"susceptance": [1.0, 2.0]}, r"susceptance must be a scalar or have the shape \(1,\) of the lines"),
        ({"susceptance": 0.0}, "susceptance must not be zero: leave out"),
        ({"quadratic": -1.0}, "quadratic must be nonnegative"),
        ({"lower": 200.0}, "lower is above upper for some generator"),
        ({"limit": -1.0}, "limit must be nonnegative"),
        ({"to_bus": [1, 0]}, "from_bus and to_bus must be of equal length"),
    ],
)
def test_bad_networks(change, message):
    with pytest.raises(ValueError, match=message):
        Network(2, **{**_TWO, **_LINE, **change})


def test_bad_demands():
    network = Network(2, **_TWO, **_LINE)
    for verb in (OptimalPowerFlow, optimal_power_flow):
        with pytest.raises(ValueError, match="demand must lie between the sums of lower and upper, 0 and 200"):
            verb(network, [150.0, 60.0])
    with pytest.raises(ValueError, match="demand must have one entry a bus"):
        optimal_power_flow(network, [1.0, 2.0, 3.0])
    for verb in (EconomicDispatch, economic_dispatch):
        with pytest.raises(ValueError, match="add capacity, or shed load"):
            verb(300.0, 0.01, [1.0, 2.0], 0.0, 100.0)
        with pytest.raises(ValueError, match="linear must be a vector"):
            verb(300.0, 0.01, 1.0, 0.0, 100.0)
        with pytest.raises(ValueError, match=r"upper must be a scalar or have the shape \(2,\) of the generators"):
            verb(300.0, 0.01, [1.0, 2.0], 0.0, [1.0, 2.0, 3.0])
    case = pypower.case9()
    case["gencost"][0, 0] = 1
    with pytest.raises(ValueError, match="gencost must be polynomial"):
        Network.from_case(case)
