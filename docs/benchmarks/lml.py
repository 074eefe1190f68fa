"""What `lml` costs, forward and backward, as ratios to `jax.nn.softmax` in the same process, in turns.

Run it, on an idle machine, with

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python docs/benchmarks/lml.py

All in float32, on normally distributed scores. First `lml` at every standard deviation of the scores, those of a
network at its start and after training; then, at a deviation of 3, beside it

| column | what it is |
|---|---|
| bisection | 26 halvings of a bracket that holds the root; the gradient in closed form |
| jaxopt | `jaxopt.Bisection` with that bracket, through `DualBisection(accelerate=False)` |
| box_section | `jaxopt.projection.projection_box_section`: the Euclidean projection onto the same set |
| entmax | `entmax.budget_bisect` of PyTorch, where entmax is installed; forward and backward |
| paper | the PyTorch layer of the paper at its default tolerance: `--paper` and the file lml.py of locuslab/lml |
| torch | `torch.softmax`, where PyTorch is installed |

The last column is the memory that `lml` needs beside its input and output, in arrays of the size of x, as XLA reports
it. On a GPU a timing is of twenty calls in a row. With `--plot FILE.svg` the ratios are drawn instead, against the
length of a row.
"""

import argparse
import contextlib
import importlib.util
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

import kkt_solvers as kkt
from kkt_solvers.problems import LML, lml

SHAPES = [
    (128, 1000, 5),
    (128, 1000, 500),
    (4096, 100, 5),
    (4096, 10, 2),
    (32, 100_000, 5),
    (1, 1_000_000, 100),
    (1, 1_000_000, 500_000),
]
DEVIATIONS = (0.1, 1, 3, 10, 100)
DEVIATION_OF_PEERS = 3
COLUMNS = ("softmax", "lml", "bisection", "jaxopt", "box_section", "entmax", "paper", "torch")


@jax.custom_vjp
def bisection(x, k):
    """LML by halving, and its closed-form gradient."""
    return bisection_forward(x, k)[0]


def bisection_forward(x, k):
    odds = jnp.log(k) - jnp.log(x.shape[-1] - k)
    low, high = odds - x.max(-1, keepdims=True), odds - x.min(-1, keepdims=True)

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        above = jnp.sum(jax.nn.sigmoid(x + middle), -1, keepdims=True) > k
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, 26, halve, (low, high))
    t = x + 0.5 * (low + high)
    return jax.nn.sigmoid(t), t


def bisection_backward(t, g):
    D = jax.nn.sigmoid(t) * jax.nn.sigmoid(-t)
    mean = jnp.sum(D * g, -1, keepdims=True) / jnp.sum(D, -1, keepdims=True)
    return D * (g - mean), None


bisection.defvjp(bisection_forward, bisection_backward)


def softmax(x, k):
    return jax.nn.softmax(x, -1)


def with_jaxopt(x, k):
    return jax.vmap(lambda x: kkt.solve(LML(x, k), solver=kkt.DualBisection(accelerate=False)).primal)(x)


def box_section(x, k):
    from jaxopt.projection import projection_box_section

    one = jnp.ones_like(x[0])
    return jax.vmap(lambda x: projection_box_section(x, (0 * one, one, one, k), check_feasible=False))(x)


def jax_call(function, x, g, k):
    """Forward and backward, compiled; `k` is a constant, as the number of labels to choose is."""

    @jax.jit
    def both(x, g):
        y, pullback = jax.vjp(lambda x: function(x, jnp.float32(k)), x)
        return y, pullback(g)[0]

    compiled = both.lower(x, g).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes / x.nbytes

    def call(times):
        for _ in range(times):
            out = compiled(x, g)
        jax.block_until_ready(out)

    return call, memory


def torch_call(function, x, g):
    torch = importlib.import_module("torch")
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    x, g = (torch.tensor(np.asarray(value), device=device) for value in (x, g))
    x.requires_grad_()

    def call(times):
        for _ in range(times):
            x.grad = None
            function(x).backward(g)
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def module_at(path):
    spec = importlib.util.spec_from_file_location("paper", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def calls(x, g, k, paper):
    functions = {
        "softmax": softmax,
        "lml": lml,
        "bisection": bisection,
        "jaxopt": with_jaxopt,
        "box_section": box_section,
    }
    found, memory = {}, 0.0
    for name, function in functions.items():
        found[name], used = jax_call(function, x, g, k)
        memory = used if name == "lml" else memory
    with contextlib.suppress(ImportError):
        torch = importlib.import_module("torch")
        found["torch"] = torch_call(lambda x: torch.softmax(x, -1), x, g)
        if paper is not None:
            found["paper"] = torch_call(paper.LML(N=k, verbose=-1), x, g)
        entmax = importlib.import_module("entmax")
        found["entmax"] = torch_call(lambda x: entmax.budget_bisect(x, budget=k), x, g)
    return found, memory


def scores(rng, batch, n, deviation):
    return (jnp.asarray(rng.normal(size=(batch, n)) * size, jnp.float32) for size in (deviation, 1))


def medians(found, options):
    """Seconds for each, in turns."""
    times = {name: [] for name in found}
    times_each = 1 if jax.default_backend() == "cpu" else 20
    for repeat in range(options.repeats + 2):
        for name, call in found.items():
            begin = time.perf_counter()
            call(times_each)
            if repeat >= 2:
                times[name].append((time.perf_counter() - begin) / times_each)
    return {name: np.median(values) for name, values in times.items()}


def plotted(path, options, paper):
    """Ratios to softmax against the length of a row, for 2^17 scores of which a twentieth is chosen."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    rng, curves = np.random.default_rng(0), {}
    for n in (32, 128, 512, 2048, 8192, 32768, 131072):
        found, _ = calls(*scores(rng, 2**17 // n, n, DEVIATION_OF_PEERS), max(1, n // 20), paper)
        seconds = medians(found, options)
        for name, taken in seconds.items():
            curves.setdefault(name, []).append((n, taken / seconds["softmax"]))
        print(n, {name: f"{points[-1][1]:.1f}" for name, points in curves.items()}, flush=True)
    for name in COLUMNS:
        if name in curves:
            style = "o-" if name == "lml" else "s--"
            axes.loglog(*zip(*curves[name], strict=True), style, label=name, ms=4)
    axes.set(title="forward and backward, 131072 scores in all", xlabel="scores in a row", ylabel="time, in softmaxes")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.savefig(path)


def main(argv=None):
    """Print the table, or draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="of which the median is taken (default 15)")
    parser.add_argument("--small", action="store_true", help="the first shape only")
    parser.add_argument("--paper", help="the path of lml.py of github.com/locuslab/lml, which needs PyTorch")
    parser.add_argument("--plot", help="draw the ratios into this file instead")
    options = parser.parse_args(argv)
    paper = None if options.paper is None else module_at(options.paper)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    rng = np.random.default_rng(0)
    if options.plot:
        plotted(options.plot, options, paper)
        return
    shapes = SHAPES[: 1 if options.small else None]
    print(f"{jax.devices()[0].device_kind}; forward + backward of lml, as ratios to softmax")
    print(f"{'shape':<18} | {'k':>6} | " + " | ".join(f"{deviation:>5}" for deviation in DEVIATIONS))
    for batch, n, k in shapes:
        cells = []
        for deviation in DEVIATIONS:
            x, g = scores(rng, batch, n, deviation)
            seconds = medians({"softmax": jax_call(softmax, x, g, k)[0], "lml": jax_call(lml, x, g, k)[0]}, options)
            cells.append(f"{seconds['lml'] / seconds['softmax']:>5.1f}")
        print(f"{batch:>6} x {n:<9} | {k:>6} | " + " | ".join(cells), flush=True)
    print(f"\nat a deviation of {DEVIATION_OF_PEERS}; softmax in ms, the others as ratios to it")
    print(f"{'shape':<18} | {'k':>6} | " + " | ".join(f"{name:>11}" for name in COLUMNS) + " | memory")
    for batch, n, k in shapes:
        found, memory = calls(*scores(rng, batch, n, DEVIATION_OF_PEERS), k, paper)
        seconds = medians(found, options)
        cells = [f"{1e3 * seconds['softmax']:>11.3f}"]
        cells += [
            f"{seconds[name] / seconds['softmax']:>11.1f}" if name in seconds else f"{'-':>11}" for name in COLUMNS[1:]
        ]
        print(f"{batch:>6} x {n:<9} | {k:>6} | " + " | ".join(cells) + f" | {memory:>6.1f}", flush=True)


if __name__ == "__main__":
    main()
