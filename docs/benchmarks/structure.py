"""Time against size for each structure that a problem can state: with the structure, as a dense matrix, and by the
tool of the field. Then what warm starts and batches of controllers take.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python docs/benchmarks/structure.py [words of the names] [--plot FILE.svg]

Compiled, in float64, on one core where the process is pinned to it (`taskset -c 0`): medians of three runs in turns, or
one run that takes more than two seconds. Slopes are those of the last two sizes, in a double logarithmic plot. Needs
the test extra.
"""

import argparse
import statistics
import time

import field
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

import kkt_solvers as kkt
from kkt_solvers import problems

LONG = 2.0  # seconds: a structure gets no larger sizes after that


def solution_of(P, q, A, b, lower, upper):
    run = jax.jit(lambda q: kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(lower, upper))).primal)
    return lambda: run(q)


def controller(N, rng):
    """A regulator with a horizon of N steps, and the number of its states."""
    n, m = 12, 4
    A, B = rng.normal(size=(n, n)), rng.normal(size=(n, m))
    A /= np.max(np.abs(np.linalg.eigvals(A)))
    inputs, states = kkt.Box(-0.5, 0.5), kkt.Box(-10.0, 10.0)
    return problems.Regulator(A, B, np.eye(n), 0.1 * np.eye(m), N, inputs=inputs, states=states), n


# Each case gives, for a size: with the structure, the same as a dense matrix or `None`, and the tool of the field.
def stages(N, rng):
    regulator, n = controller(N, rng)
    state = rng.normal(size=n)
    problem = problems.PredictiveControl(regulator, state)
    P, q, equality, box = problem.objective.P, problem.objective.q, problem.equality, problem.box
    data = q, equality.b, box.lower, box.upper
    ours, (_, peer) = solution_of(P, q, equality.A, *data[1:]), field.predictive_control(state, regulator)
    return ours, solution_of(P.dense(), q, equality.A.dense(), *data[1:]) if N <= 50 else None, peer


def marginals(size, rng, epsilon=0.01):
    x, y = rng.normal(size=(size, 1, 2)), rng.normal(size=(1, size, 2)) + 0.5
    cost = np.sum((x - y) ** 2, axis=-1)
    cost, source, target = jnp.asarray(cost / cost.max()), *(rng.dirichlet(np.full(size, 5.0)) for _ in range(2))

    def plan(cost, of_matrix):
        problem = problems.OptimalTransport(cost, source, target, epsilon)
        equality = kkt.Affine(of_matrix(problem.equality.A), problem.equality.b)
        return kkt.solve(kkt.Problem(problem.objective, equality, problem.box)).primal

    ours, dense = (jax.jit(lambda cost, f=f: plan(cost, f)) for f in (lambda A: A, lambda A: A.dense()))
    _, peer = field.optimal_transport(cost, source, target, epsilon)
    return lambda: ours(cost), (lambda: dense(cost)) if size <= 64 else None, peer


def chains(n, rng):
    y = np.linspace(0, 1, n) + 0.3 * rng.normal(size=n)
    ours, at = jax.jit(problems.isotonic_regression), jnp.asarray(y)
    problem = problems.IsotonicRegression(at)
    P, q, equality, box = problem.objective.P, problem.objective.q, problem.equality, problem.box
    dense = solution_of(P, q, equality.A.dense(), equality.b, box.lower, box.upper) if n <= 300 else None
    return lambda: ours(at), dense, field.isotonic_regression(y)[1]


def sparse(n, rng):
    A = sp.random(n // 3, n, density=4 / n, random_state=1, format="csc") + sp.eye(n // 3, n, format="csc")
    D = sp.random(n, n, density=2 / n, random_state=2)
    P, q, b = (D @ D.T + 0.1 * sp.eye(n)).tocsc(), rng.normal(size=n), A @ rng.uniform(size=n)
    data = q, b, np.zeros(n), np.ones(n)
    ours = solution_of(P, data[0], A, *data[1:])
    dense = solution_of(P.toarray(), data[0], A.toarray(), *data[1:]) if n <= 1000 else None
    return ours, dense, field.by_clarabel(P, data[0], A, *data[1:])[1]


def low_rank(n, rng, factors=20):
    loadings, specific, mean = rng.normal(size=(n, factors)), rng.uniform(0.5, 1.0, n), rng.normal(size=n)
    one, data = np.ones((1, n)), (np.array([1.0]), np.zeros(n), np.full(n, 0.1))
    ours = solution_of(kkt.LowRank(specific, loadings), mean, one, *data)
    dense = solution_of(np.diag(specific) + loadings @ loadings.T, mean, one, *data) if n <= 2000 else None
    return ours, dense, field.with_factors(-mean, specific, loadings, 1.0, 0.1)[1]


CASES = {
    "stages: predictive control, 12 states, 4 inputs": ("horizon", stages, (10, 50, 200, 1000, 3000, 10_000)),
    "marginals: transport, epsilon .01": ("plan squared", marginals, (16, 32, 64, 128, 256, 512)),
    "chain: isotonic regression": ("n", chains, (100, 300, 1000, 10_000, 100_000, 1_000_000)),
    "sparse: quadratic program": ("n", sparse, (100, 300, 1000, 3000)),
    "low rank: portfolio, 20 factors": ("n", low_rank, (100, 300, 1000, 2000, 10_000)),
}
KINDS = ("as stated", "as a dense matrix", "the field's tool")


def medians_ms(functions):
    """Of each, in turns; NaN for `None`."""
    times = [[] for _ in functions]
    for function in functions:
        if function is not None:
            jax.block_until_ready(function())
    for _ in range(3):
        for function, taken in zip(functions, times, strict=True):
            if function is None or (taken and taken[0] > LONG):
                continue
            start = time.perf_counter()
            jax.block_until_ready(function())
            taken.append(time.perf_counter() - start)
    return [1e3 * statistics.median(taken) if taken else float("nan") for taken in times]


def warm_starts(steps=20):
    """The closed loop of 50 steps ahead, in which each plan starts from the one before, against plans from nothing."""
    rng = np.random.default_rng(0)
    regulator, n = controller(50, rng)
    state, disturbance = rng.normal(size=n), np.zeros((steps, n))
    loop = problems.receding_horizon(regulator, state, disturbance)
    states = jnp.concatenate([state[None], loop.states[:-1]])
    cold = jax.jit(lambda states: jax.lax.map(lambda state: problems.predictive_control(regulator, state), states))
    warm, cold = medians_ms([lambda: problems.receding_horizon(regulator, state, disturbance), lambda: cold(states)])
    idle = int(jnp.sum(loop.iterations == 0))
    print(
        f"warm starts: {idle} of {steps} plans take no iteration | {warm / steps:.3g} ms a plan, {cold / steps:.3g} ms "
        f"from nothing, ratio {warm / cold:.2f}",
        flush=True,
    )


def batches(sizes=(1, 100, 1000)):
    """Controllers of 50 steps in a batch: the time of each of them."""
    regulator, n = controller(50, np.random.default_rng(0))
    plan = jax.jit(lambda states: problems.predictive_control(regulator, states).inputs[:, 0])
    for size in sizes:
        states = np.random.default_rng(2).normal(size=(size, n))
        (time_of_all,) = medians_ms([lambda states=states: plan(states)])
        print(f"batches: {size:5d} controllers | {time_of_all:9.4g} ms | {time_of_all / size:9.4g} ms each", flush=True)


FIGURES = {"warm starts": warm_starts, "batches": batches}


def slope(sizes, times):
    known = [(n, t) for n, t in zip(sizes, times, strict=True) if t == t]
    (n, t), (n2, t2) = known[-2:]
    return np.log(t2 / t) / np.log(n2 / n)


def measured(name):
    axis, case, sizes = CASES[name]
    rows, done = [], []
    for size in sizes:
        rows.append(medians_ms(case(size, np.random.default_rng(0))))
        done.append(size)
        print(f"{name:50} | {axis} {size:8d} | " + " | ".join(f"{t:9.4g} ms" for t in rows[-1]), flush=True)
        if max(t for t in rows[-1] if t == t) > 5e3 * LONG:
            break
    columns = list(zip(*rows, strict=True))
    slopes = [slope(done, column) for column in columns]
    print(f"{name:50} | {'slope':>{len(axis) + 9}} | " + " | ".join(f"{s:12.2f}" for s in slopes), flush=True)
    return axis, done, columns, slopes


def plotted(found, path):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 3.4 * rows), squeeze=False, layout="constrained")
    for panel in axes.flat[len(found) :]:
        panel.remove()
    for panel, (name, (axis, sizes, times, slopes)) in zip(axes.flat, found.items(), strict=False):
        for kind, of_kind, rate, style in zip(KINDS, times, slopes, ("o-", "s--", "^:"), strict=True):
            panel.loglog(sizes, of_kind, style, label=f"{kind}, slope {rate:.1f}", markersize=4)
        panel.set(title=name.replace(": ", "\n"), xlabel=axis, ylabel="ms")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.legend(fontsize=7)
        panel.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--plot")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    def wanted(name):
        return not options.words or any(word in name for word in options.words)

    found = {name: measured(name) for name in CASES if wanted(name)}
    for name, figure in FIGURES.items():
        if wanted(name):
            figure()
    if options.plot:
        plotted(found, options.plot)
