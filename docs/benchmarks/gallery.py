"""Times of the problems of the gallery, at the sizes of its table: the value, and the value with its gradient in the
first argument that is named; and the time of the field's own tool, from `field.py`, in the same run.

    OPENBLAS_NUM_THREADS=1 python docs/benchmarks/gallery.py [words of the names wanted]

Compiled, in float64, medians of five runs, or one run that takes more than ten seconds. Needs the test extra.
"""

import statistics
import sys
import time

import cantera
import jax
import jax.numpy as jnp
import numpy as np
import pypower.api as pypower
from field import TOOLS
from sklearn.datasets import load_digits

import kkt_solvers as kkt
from kkt_solvers import problems
from kkt_solvers.problems import Network, Regulator

# Each case gives a function and its arguments. It is differentiated in the first.


def top_k(verb):
    def case(rng):
        return lambda x: verb(x, 100), rng.normal(size=1_000_000)

    return case


def market(rng, n=5000, factors=30):
    loadings = 0.05 * rng.normal(size=(n, factors)) * np.linspace(1, 0.2, factors)
    return 0.05 + 0.03 * rng.normal(size=n), rng.uniform(0.1, 0.3, n) ** 2, loadings


def portfolio(rng):
    def weights(mean, specific, loadings):
        return problems.portfolio(mean, kkt.LowRank(specific, loadings), 5.0, upper=0.02)

    return weights, *market(rng)


def rebalance(rng):
    def weights(mean, specific, loadings, holdings):
        return problems.rebalance(mean, kkt.LowRank(specific, loadings), holdings, 0.5, 5.0, upper=0.02, cost=0.002)

    mean, specific, loadings = market(rng)
    return weights, mean, specific, loadings, rng.dirichlet(np.ones(len(mean)))


def risk_limited(rng):
    def weights(mean, specific, loadings, risk):
        return problems.risk_limited(mean, kkt.LowRank(specific, loadings), risk, upper=0.1)

    return weights, *market(rng, 200, 10), 0.05


def trust_region(rng):
    M = rng.normal(size=(200, 200))
    return problems.trust_region, rng.normal(size=200), M + M.T, 1.0


def geometric_program(rng):
    def variables(objective, limits):
        return problems.geometric_program(objective, limits)

    n, terms = 20, 5
    limits = [problems.Posynomial(rng.uniform(0.1, 0.2, terms), rng.normal(size=(terms, n))) for _ in range(10)]
    limits += [problems.Posynomial(np.array([0.1]), row[None]) for row in np.r_[np.eye(n), -np.eye(n)]]
    return variables, problems.Posynomial(np.ones(terms), rng.normal(size=(terms, n))), limits


def robust_least_squares(rng):
    X, y = regression(rng, 1000, 50)
    return lambda y, X: problems.robust_least_squares(X, y, 5.0), y, X


def fair_logistic_regression(rng):
    X = rng.normal(size=(1000, 20))
    minority = (np.arange(1000) < 200) + 0.0
    slopes = rng.normal(size=20) + rng.normal(size=20) * minority[:, None]
    labels = np.where(rng.random(1000) < 1 / (1 + np.exp(-np.sum(X * slopes, 1))), 1.0, -1.0)

    def coefficients(limit, X, labels, members):
        return problems.fair_logistic_regression(X, labels, members, limit, ridge=1.0)

    return coefficients, np.array([0.4]), X, labels, minority[None]


def network_utility(rng):
    links, flows = 50, 200
    routing = (rng.random((links, flows)) < 0.1) + 0.0
    routing[np.arange(flows) % links, np.arange(flows)] = 1.0
    return (
        lambda capacity, routing: problems.network_utility(routing, capacity).rates,
        rng.uniform(1, 2, size=links),
        routing,
    )


def optimal_design(rng):
    return lambda points: problems.optimal_design(points), rng.normal(size=(200, 5))


def qcqp(rng):
    n, limits = 100, 10
    roots = rng.normal(size=(limits, n, n)) / np.sqrt(n)

    def solved(q, Ps, qs, rs):
        return problems.qcqp(jnp.ones(n), q, Ps, qs, rs, lower=-1.0, upper=1.0)

    Ps = np.einsum("pij,pkj->pik", roots, roots)
    return solved, 3 * rng.normal(size=n), Ps, rng.normal(size=(limits, n)), rng.uniform(5, 10, size=limits)


def svm(rng):
    X, digit = load_digits(return_X_y=True)
    X = X / 16
    return lambda C, X, y: problems.svm(problems.rbf(X, X, 0.1), y, C), 1.0, X, np.where(digit % 2 == 0, 1.0, -1.0)


def one_class_svm(rng):
    X = load_digits().data / 16
    return lambda gamma, X: problems.one_class_svm(problems.rbf(X, X, gamma), 0.1), 0.1, X


def water_filling(rng):
    return lambda noise: problems.water_filling(noise, 1e5), rng.uniform(0.1, 3, 1_000_000)


def channel_capacity(rng):
    return lambda T: problems.channel_capacity(T)[0], rng.dirichlet(np.ones(200), size=200).T


def maximum_entropy(rng):
    x = np.linspace(-1, 1, 100_000)
    return problems.maximum_entropy, x ** np.arange(1, 5)[:, None], np.array([0.1, 0.3, 0.05, 0.15])


def regression(rng, m, p):
    X = rng.normal(size=(m, p))
    return X, X @ rng.normal(size=p) + rng.normal(size=m)


def bounded_least_squares(rng):
    X, y = regression(rng, 100_000, 200)
    return lambda y, X: problems.bounded_least_squares(X, y, 0.0, 0.5), y, X


def logistic_regression(rng):
    X, y = regression(rng, 10_000, 50)
    return lambda X, labels: problems.logistic_regression(X, labels, -0.1, 0.1), X, np.sign(y)


def isotonic_regression(rng):
    n = 100_000
    return problems.isotonic_regression, np.linspace(0, 1, n) + 0.3 * rng.normal(size=n)


def total_variation(rng):
    n = 10_000
    x = np.repeat(rng.normal(size=n // 100), 100) + 0.3 * rng.normal(size=n)
    return lambda x: problems.total_variation(x, 1.0), x


def quantile_regression(rng):
    X, y = regression(rng, 100_000, 20)
    return lambda y, X: problems.quantile_regression(X, y, 0.9), y, X


def economic_dispatch(rng):
    network, demand = Network.from_case(pypower.case300())
    units = network.quadratic, network.linear, network.lower, network.upper
    return lambda demand, *units: problems.economic_dispatch(demand, *units), np.sum(demand), *units


def optimal_power_flow(rng):
    network, demand = Network.from_case(pypower.case300())
    return lambda demand, network: problems.optimal_power_flow(network, demand), demand, network


def predictive_control(rng):
    n, m = 12, 4
    A, B = rng.normal(size=(n, n)), rng.normal(size=(n, m))
    A /= np.max(np.abs(np.linalg.eigvals(A)))
    state = rng.normal(size=n)
    inputs, states = kkt.Box(-0.5, 0.5), kkt.Box(-10.0, 10.0)
    regulator = Regulator(A, B, np.eye(n), 0.1 * np.eye(m), 50, inputs=inputs, states=states)
    return lambda state, regulator: problems.predictive_control(regulator, state), state, regulator


def optimal_transport(epsilon):
    def case(rng):
        size = 128
        x, y = rng.normal(size=(size, 1, 2)), rng.normal(size=(1, size, 2)) + 1
        masses = np.full(size, 1 / size)
        return problems.optimal_transport, np.sum((x - y) ** 2, axis=-1), masses, masses, epsilon

    return case


def chemical_equilibrium(rng):
    gas = cantera.Solution("gri30.yaml")
    gas.TPX = 2000.0, gas.reference_pressure, "CH4:1, O2:2.2, N2:8, AR:0.1"
    formula = np.array([[gas.n_atoms(k, e) for k in range(gas.n_species)] for e in range(gas.n_elements)])
    return problems.chemical_equilibrium, gas.standard_gibbs_RT, formula.astype(float), formula @ gas.X


CASES = {
    "soft_top_k, n = 1e6, k = 100": top_k(problems.soft_top_k),
    "entropic_top_k, n = 1e6, k = 100": top_k(problems.entropic_top_k),
    "portfolio, 5000 assets, 30 factors": portfolio,
    "rebalance, 5000 assets, 30 factors": rebalance,
    "risk_limited, 200 assets, 10 factors": risk_limited,
    "trust_region, n = 200, indefinite": trust_region,
    "geometric_program, 20 variables, 10 posynomials": geometric_program,
    "robust_least_squares, 1000 x 50": robust_least_squares,
    "fair_logistic_regression, 1000 x 20": fair_logistic_regression,
    "network_utility, 50 links, 200 flows": network_utility,
    "optimal_design, 200 candidates, 5 parameters": optimal_design,
    "qcqp, n = 100, 10 constraints": qcqp,
    "svm, digits, n = 1797": svm,
    "one_class_svm, digits, n = 1797": one_class_svm,
    "water_filling, n = 1e6": water_filling,
    "channel_capacity, 200 x 200": channel_capacity,
    "maximum_entropy, 4 moments, n = 1e5": maximum_entropy,
    "bounded_least_squares, 1e5 x 200": bounded_least_squares,
    "logistic_regression, 1e4 x 50": logistic_regression,
    "isotonic_regression, n = 1e5": isotonic_regression,
    "total_variation, n = 1e4": total_variation,
    "quantile_regression, 1e5 x 20": quantile_regression,
    "economic_dispatch, 69 generators": economic_dispatch,
    "optimal_power_flow, 300 buses, 411 lines": optimal_power_flow,
    "predictive_control, 12 states, 4 inputs, 50 steps": predictive_control,
    "optimal_transport, 128 x 128, epsilon 0.1": optimal_transport(0.1),
    "optimal_transport, 128 x 128, epsilon 0.01": optimal_transport(0.01),
    "chemical_equilibrium, 53 species, 5 elements": chemical_equilibrium,
}


def weights_like(leaf):
    return np.random.default_rng(1).normal(size=leaf.shape)


def median_ms(function, *args):
    """Of five runs, or of one that takes more than ten seconds, after one that compiles."""
    jax.block_until_ready(function(*args))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - start)
        if times[0] > 10:
            break
    return 1e3 * statistics.median(times)


def main(words):
    jax.config.update("jax_enable_x64", True)
    tools = {tool.__name__: tool for tool in TOOLS}
    for name, case in CASES.items():
        if words and not any(word in name for word in words):
            continue
        verb, *args = case(np.random.default_rng(0))
        peer, theirs = tools[name.split(",")[0]](*args)

        @jax.jit
        def value_and_gradient(weights, x, *others, verb=verb):
            value, pullback = jax.vjp(lambda x: verb(x, *others), x)
            return value, pullback(weights)

        weights = jax.tree.map(weights_like, jax.eval_shape(verb, *args))
        args = jax.tree.map(jnp.asarray, args)
        solved = all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(value_and_gradient(weights, *args)))
        times = median_ms(jax.jit(verb), *args), median_ms(value_and_gradient, weights, *args)
        verdict = "solved" if solved else "FAILED"
        print(
            f"{name:50} | {times[0]:9.4g} ms | {times[1]:9.4g} ms | {verdict} | {peer} {median_ms(theirs):.4g} ms",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
