"""How long a differentiable quadratic program takes, beside other packages, in one process and in turns.

Run it, on an idle machine, with

    pip install piqp proxsuite qpax clarabel
    OPENBLAS_NUM_THREADS=1 taskset -c 0 python docs/benchmarks/solvers.py [--plot FILE.svg]

on one core for all: on two XLA hands parts of a solve from thread to thread, which at n = 100 makes it a third slower.

Each problem `min y'Py/2 + q'y  s.t.  A y = b, l <= y <= u` comes in float64, compiled; a time is a median of runs that
alternate. `gradient` is that of `w'y` in `q`, forward pass included; its error is measured against the KKT system of
the active set, solved by numpy. Packages without a derivative have the forward time only; one that is not installed is
left out. Their tolerance is 1e-9, or their default where that is said. With `--plot` the time is drawn instead, of
dense problems against their size and of a batch against its own.
"""

import argparse
import contextlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

import kkt_solvers as kkt

jax.config.update("jax_enable_x64", True)
REPEATS = 9


# ------------------------------------------------------------------------------------------- the problems
def dense_qp(n, m, rng):
    """A random strictly convex quadratic program, about a third of whose bounds are active."""
    factor = rng.normal(size=(n, n))
    A, inside = rng.normal(size=(m, n)), rng.uniform(0.2, 0.8, n)
    return factor @ factor.T / n + 0.1 * np.eye(n), rng.normal(size=n), A, A @ inside, np.zeros(n), np.ones(n)


def portfolio(n, rng):
    """Long-only mean-variance with a covariance of few factors, weights of at most a twentieth."""
    loadings = rng.normal(size=(n, 20)) / 5
    P = loadings @ loadings.T + np.diag(rng.uniform(0.05, 0.2, n))
    return P, -0.1 * rng.normal(size=n), np.ones((1, n)), np.ones(1), np.zeros(n), np.full(n, 0.05)


def svm_dual(n, rng):
    """The dual of a support vector machine with a Gaussian kernel."""
    points, labels = rng.normal(size=(n, 5)), np.sign(rng.normal(size=n))
    points += 0.5 * labels[:, None]
    distances = np.sum((points[:, None] - points) ** 2, axis=2)
    P = labels[:, None] * np.exp(-distances / 5) * labels + 1e-6 * np.eye(n)
    return P, -np.ones(n), labels[None, :], np.zeros(1), np.zeros(n), np.ones(n)


# ------------------------------------------------------------------------------------------- the solvers
def ours(P, q, A, b, lower, upper, w):
    """Forward and gradient of this library."""
    P, A, b, lower, upper, w = map(jnp.asarray, (P, A, b, lower, upper, w))

    def primal(q):
        return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(lower, upper))).primal

    forward, gradient = jax.jit(primal), jax.jit(jax.grad(lambda q: jnp.vdot(w, primal(q))))
    q = jnp.asarray(q)
    return lambda: forward(q), lambda: gradient(q)


def piqp(P, q, A, b, lower, upper, w):
    """PIQP: dense interior point in C++, no derivative."""
    import piqp

    n = q.size
    nothing = np.zeros((0, n)), np.zeros(0), np.zeros(0)

    def forward():
        solver = piqp.DenseSolver()
        solver.settings.eps_abs = solver.settings.eps_rel = 1e-9
        solver.setup(P, q, A, b, *nothing, lower, upper)
        solver.solve()
        return solver.result.x

    return forward, None


def clarabel(P, q, A, b, lower, upper, w):
    """Clarabel: interior point in Rust, no derivative."""
    import clarabel

    n, m = q.size, b.size
    upper_triangle = scipy.sparse.csc_matrix(np.triu(P))
    rows = scipy.sparse.csc_matrix(np.concatenate([A, np.eye(n), -np.eye(n)]))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-9
    cones = [clarabel.ZeroConeT(m), clarabel.NonnegativeConeT(2 * n)]

    def forward():
        right = np.concatenate([b, upper, -lower])
        return np.asarray(clarabel.DefaultSolver(upper_triangle, q, rows, right, cones, settings).solve().x)

    return forward, None


def proxsuite(P, q, A, b, lower, upper, w):
    """proxsuite: augmented Lagrangian in C++, differentiated in C++. Bounds as inequalities, as its backward needs."""
    from proxsuite import proxqp

    n, m = q.size, b.size

    def forward():
        solver = proxqp.dense.QP(n, m, n)
        solver.settings.eps_abs, solver.settings.eps_rel = 1e-9, 0.0
        solver.init(P, q, A, b, np.eye(n), lower, upper)
        solver.solve()
        return solver

    def gradient():
        solver = forward()
        proxqp.dense.compute_backward(solver, np.concatenate([w, np.zeros(m + n)]), 1e-9, 1e-9, 1e-9)
        return np.asarray(solver.model.backward_data.dL_dg)

    return lambda: forward().results.x, gradient


def qpax(P, q, A, b, lower, upper, w):
    """qpax at its default tolerance: interior point in JAX."""
    import qpax

    n = q.size
    P, A, b, w = map(jnp.asarray, (P, A, b, w))
    G, h = jnp.concatenate([jnp.eye(n), -jnp.eye(n)]), jnp.concatenate([jnp.asarray(upper), -jnp.asarray(lower)])
    forward = jax.jit(lambda q: qpax.solve_qp_primal(P, q, A, b, G, h))
    gradient = jax.jit(jax.grad(lambda q: jnp.vdot(w, qpax.solve_qp_primal(P, q, A, b, G, h))))
    q = jnp.asarray(q)
    return lambda: forward(q), lambda: gradient(q)


SOLVERS = {"kkt_solvers": ours, "PIQP": piqp, "Clarabel": clarabel, "proxsuite": proxsuite, "qpax (default)": qpax}


# ----------------------------------------------------------------------------------------------- measure
def true_gradient(P, A, y, lower, upper, w):
    """Of `w'y` in `q`, from the KKT system of the active set of `y`."""
    free = (y > lower + 1e-9) & (y < upper - 1e-9)
    m = len(A)
    K = np.block([[P[np.ix_(free, free)], A[:, free].T], [A[:, free], np.zeros((m, m))]])
    result = np.zeros_like(w)
    result[free] = -np.linalg.lstsq(K, np.concatenate([w[free], np.zeros(m)]), rcond=None)[0][: free.sum()]
    return result


def seconds(call):
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def in_turns(calls, repeats):
    """Seconds of the forward passes and of the gradients of each solver."""
    times = {solver: ([], []) for solver in calls}
    for turn in range(repeats + 1):
        for solver, pair in calls.items():
            for call, record in zip(pair, times[solver], strict=True):
                if call is not None:
                    record.append(seconds(call)) if turn else call()
    return times


def show(name, solver, records, error=""):
    medians = [f"{1e3 * np.median(record):9.2f}" if record else " " * 9 for record in records]
    print(f"{name:<22} | {solver:<15} | {medians[0]} | {medians[1]} | {error}", flush=True)


def compared(data, w, name):
    """Forward and gradient of each solver that is installed."""
    calls = {}
    for solver, make in SOLVERS.items():
        try:
            calls[solver] = make(*data, w)
        except ImportError:
            print(f"{name:<22} | {solver:<15} | not installed")
    return calls


def compare(name, data, rng):
    """Print the rows of one problem."""
    P, _, A, _, lower, upper = data
    w = rng.normal(size=len(P))
    calls = compared(data, w, name)
    exact = None
    for solver, records in in_turns(calls, REPEATS).items():
        forward, gradient = calls[solver]
        y = np.asarray(forward())
        exact = true_gradient(P, A, y, lower, upper, w) if exact is None else exact
        error = "" if gradient is None else f"{np.linalg.norm(gradient() - exact) / np.linalg.norm(exact):.0e}"
        show(name, solver, records, error)


def batch(count, n, m, rng):
    """Forward and gradient of a batch: under vmap, or one after the other where a package has no batches."""
    problems = [dense_qp(n, m, rng) for _ in range(count)]
    data = [jnp.stack([problem[i] for problem in problems]) for i in range(6)]
    w = rng.normal(size=n)

    def our_primal(P, q, A, b, lower, upper):
        return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(lower, upper))).primal

    def under_vmap(primal):
        forward = jax.jit(jax.vmap(primal))
        gradient = jax.jit(jax.vmap(jax.grad(lambda *one: jnp.vdot(w, primal(*one)), argnums=1)))
        return lambda: forward(*data), lambda: gradient(*data)

    calls = {"kkt_solvers": under_vmap(our_primal)}
    for name, make in (("PIQP", piqp), ("proxsuite", proxsuite)):
        with contextlib.suppress(ImportError):
            forwards, gradients = zip(*(make(*problem, w) for problem in problems), strict=True)
            forward = lambda forwards=forwards: [one() for one in forwards]  # noqa: E731
            gradient = lambda gradients=gradients: [one() for one in gradients]  # noqa: E731
            calls[name] = forward, gradient if gradients[0] else None
    with contextlib.suppress(ImportError):
        import qpax as package

        def their_primal(P, q, A, b, lower, upper):
            G, h = jnp.concatenate([jnp.eye(n), -jnp.eye(n)]), jnp.concatenate([upper, -lower])
            return package.solve_qp_primal(P, q, A, b, G, h)

        calls["qpax (default)"] = under_vmap(their_primal)
    return calls


# -------------------------------------------------------------------------------------------------- plot
SIZES, COUNTS = (5, 10, 20, 50, 100, 200, 500, 1000), (1, 10, 100, 1000)
COLOURS = {"kkt_solvers": "C0", "PIQP": "C1", "Clarabel": "C2", "proxsuite": "C3", "qpax (default)": "C4"}


def plotted(path, rng):
    """Milliseconds against the size of a dense problem, and for each problem of a batch."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    panels = (
        ("one dense problem", "variables", SIZES, lambda n: (compared(dense_qp(n, n // 5, rng), np.ones(n), n), 1)),
        ("a batch, n = 8, m = 2: each problem of it", "problems", COUNTS, lambda N: (batch(N, 8, 2, rng), N)),
    )
    for panel, (title, label, sizes, case) in zip(axes, panels, strict=True):
        curves = {}
        for size in sizes:
            calls, count = case(size)
            for solver, records in in_turns(calls, 5).items():
                show(f"{title[:11]} {size}", solver, records)
                for kind, taken in zip(("forward", "gradient"), records, strict=True):
                    if taken:
                        curves.setdefault((solver, kind), []).append((size, 1e3 * np.median(taken) / count))
        for (solver, kind), points in curves.items():
            both = (solver, "gradient") in curves
            if kind == "gradient" or not both or solver == "kkt_solvers":
                style = "o-" if kind == "gradient" else "s--"
                panel.loglog(*zip(*points, strict=True), style, color=COLOURS[solver], label=f"{solver}, {kind}", ms=4)
        panel.set(title=title, xlabel=label, ylabel="ms")
        panel.legend(fontsize=7)
        panel.grid(alpha=0.3)
    figure.savefig(path)


def main(argv=None):
    """Print the table, or draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", help="draw time against size into this file instead")
    options = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    print(
        f"{'problem':<22} | {'solver':<15} | {'forward':>9} | {'gradient':>9} | error of the gradient     (times in ms)"
    )
    if options.plot:
        plotted(options.plot, rng)
        return
    compare("dense n=100, m=20", dense_qp(100, 20, rng), rng)
    compare("dense n=500, m=50", dense_qp(500, 50, rng), rng)
    compare("portfolio n=500", portfolio(500, rng), rng)
    compare("SVM dual n=500", svm_dual(500, rng), rng)
    for count, n, m in ((1000, 4, 1), (1000, 8, 2), (1000, 20, 5), (64, 100, 20)):
        for solver, records in in_turns(batch(count, n, m, rng), 5).items():
            show(f"{count} dense n={n}, m={m}", solver, records)


if __name__ == "__main__":
    main()
