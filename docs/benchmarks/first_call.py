"""How long the first call takes, compilation included, by kind of problem: each in a fresh process.

Run it with

    OPENBLAS_NUM_THREADS=1 taskset -c 0 python docs/benchmarks/first_call.py

| column | what it is |
|---|---|
| first | the first call of the jitted function, in a process of its own whose persistent cache is empty |
| to softmax | that, as a ratio to the first call of the gradient through a softmax |
| from cache | the first call in a second process, which finds there what the first one compiled |
| later | a later call of the same function: the median of 20, in ms |
| eager | a later call of the same function without `jax.jit`: the median of 20, in ms |
| clock | seconds on the clock for the first column; more than those of the CPU where others use it too |

All but the last are time of the CPU, which is that of the clock on one core that is idle. The import and the start of
JAX, about the same in all processes, are printed apart. `--x64` computes in float64, and names of rows as arguments
measure these only. The last rows are other packages, qpax where it is installed.

`--ahead` prints the parts of the first call instead, and what another process pays that is handed its result:

| column | what it is |
|---|---|
| trace | trace the function and lower it |
| compile | compile it |
| loaded | load the compiled executable in a second process, and call it |
| exported | call in a second process what `jax.export` has written, compilation included; NaN without flatbuffers |

Its last rows are the `init` of a flax module that solves a quadratic program, eager and jitted.
"""

import argparse
import functools
import importlib
import importlib.util
import math
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

N, M, BATCH = 20, 5, 64
COLUMNS = "first, s", "to softmax", "from cache, s", "later, ms", "eager, ms", "clock, s"
AHEAD = "trace, s", "compile, s", "loaded, s", "exported, s"


def energy(y, q):
    import jax.numpy as jnp

    return jnp.sum(jnp.cosh(y)) + jnp.vdot(q, y)


def ball(y, q):
    return (y @ y) - 1.0


def functions():
    """By name: a function and its argument."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import kkt_solvers as kkt
    from kkt_solvers import projections
    from kkt_solvers.problems import lml

    rng = np.random.default_rng(0)
    F, A, G = rng.normal(size=(N, N)), rng.normal(size=(M, N)), rng.normal(size=(2 * N, N))
    P, A, G = (jnp.asarray(matrix) for matrix in (F @ F.T / N + 0.1 * np.eye(N), A, G))
    b, h, box = A @ jnp.asarray(rng.uniform(size=N)), jnp.ones(2 * N), kkt.Box(0.0, 1.0)
    q, qs = jnp.asarray(rng.normal(size=N)), jnp.asarray(rng.normal(size=(BATCH, N)))
    scores = jnp.asarray(rng.normal(size=(128, 1000)))
    cost, masses = jnp.asarray(rng.uniform(size=(10, 10))), jnp.full(10, 0.1)

    def qp(q, solver=None):
        return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), box), solver=solver).primal

    def linear(q):
        return kkt.solve_qp(P, q, G, h, lb=-1.0, ub=1.0).primal

    def diagonal(q):
        return kkt.solve(kkt.Problem(kkt.Quadratic(jnp.ones(N), q), kkt.Sum(1.0), box)).primal

    def general(q, inequality=None):
        return kkt.solve(kkt.Problem(energy, kkt.Sum(1.0), box, (q,), inequality), jnp.zeros(N)).primal

    def gradient(function):
        return jax.grad(lambda *args: jnp.sum(function(*args) ** 2))

    def batch(function):
        return gradient(jax.vmap(function))

    curved = functools.partial(general, inequality=ball)
    products = functools.partial(qp, solver=kkt.PrimalDual())

    def plan(cost):
        return projections.optimal_transport(cost, masses, masses, 0.1)

    def choose(scores):
        return lml(scores, 5)

    eye, zero, one = jnp.eye(N), jnp.zeros(N), jnp.ones(N)

    def box_osqp(q):
        ends = jnp.concatenate([b, zero]), jnp.concatenate([b, one])
        solver = importlib.import_module("jaxopt").BoxOSQP(tol=1e-6)
        return solver.run(params_obj=(P, q), params_eq=jnp.concatenate([A, eye]), params_ineq=ends).params.primal[0]

    def qpax(q):
        G, h = jnp.concatenate([eye, -eye]), jnp.concatenate([one, zero])
        return importlib.import_module("qpax").solve_qp_primal(P, q, A, b, G, h)

    peers = {"QP by jaxopt's BoxOSQP": box_osqp} | ({"QP by qpax": qpax} if importlib.util.find_spec("qpax") else {})
    return {
        "softmax, gradient": (gradient(jax.nn.softmax), scores),
        "lml": (choose, scores),
        "lml, gradient": (gradient(choose), scores),
        "diagonal QP (DualBisection)": (diagonal, q),
        "diagonal QP, gradient": (gradient(diagonal), q),
        "transport (DualNewton)": (plan, cost),
        "transport, gradient": (gradient(plan), cost),
        "QP (InteriorPoint)": (qp, q),
        "QP, gradient": (gradient(qp), q),
        "QP, gradient of a batch": (batch(qp), qs),
        "QP with AtMost": (linear, q),
        "QP with AtMost, gradient": (gradient(linear), q),
        "QP by PrimalDual": (products, q),
        "QP by PrimalDual, gradient": (gradient(products), q),
        "function": (general, q),
        "function, gradient": (gradient(general), q),
        "function, gradient of a batch": (batch(general), qs),
        "curved inequality": (curved, q),
        "curved inequality, gradient": (gradient(curved), q),
        "curved inequality, gradient of a batch": (batch(curved), qs),
        **{f"{name}, gradient": (gradient(peer), q) for name, peer in peers.items()},
        **{f"{name}, gradient of a batch": (batch(peer), qs) for name, peer in peers.items()},
    }


def seconds(call):
    """The time of the CPU that a call takes, and that on the clock."""
    import jax

    cpu, clock = time.process_time(), time.perf_counter()
    jax.block_until_ready(call())
    return time.process_time() - cpu, time.perf_counter() - clock


def start(x64):
    """The functions, and the time to import and start JAX and this library."""
    import jax

    jax.config.update("jax_enable_x64", x64)
    return functions(), time.process_time()


def median(call):
    return statistics.median(seconds(call)[0] for _ in range(20))


def measure(name, x64):
    """In a process of its own: prints the start, the first call, later ones, eager ones, and the first on the clock."""
    import jax

    table, begun = start(x64)
    function, argument = table[name]
    compiled = jax.jit(function)
    first, clock = seconds(lambda: compiled(argument))
    later = median(lambda: compiled(argument))
    seconds(lambda: function(argument))
    print(begun, first, later, median(lambda: function(argument)), clock)


def again(name, x64):
    """In a second process: prints the first call."""
    import jax

    table, _ = start(x64)
    function, argument = table[name]
    print(seconds(lambda: jax.jit(function)(argument))[0])


def ahead(name, x64, folder):
    """In a process of its own: prints the parts of the first call; leaves the executable and the export in `folder`."""
    import jax
    from jax import export
    from jax.experimental.serialize_executable import serialize

    table, _ = start(x64)
    function, argument = table[name]
    begin = time.process_time()
    lowered = jax.jit(function).lower(argument)
    middle = time.process_time()
    compiled = lowered.compile()
    print(middle - begin, time.process_time() - middle)
    (Path(folder) / "executable").write_bytes(pickle.dumps(serialize(compiled)))
    if importlib.util.find_spec("flatbuffers"):
        (Path(folder) / "exported").write_bytes(export.export(jax.jit(function))(argument).serialize())


def loaded(name, x64, folder):
    """In a second process: prints what the executable costs, and what the export does."""
    import jax.numpy as jnp
    from jax import export
    from jax.experimental.serialize_executable import deserialize_and_load

    table, _ = start(x64)
    _, argument = table[name]
    executable, exported = Path(folder) / "executable", Path(folder) / "exported"

    def load():
        # JAX bug (0.10.2): an executable that calls LAPACK crashes in a process that has lowered no such call itself.
        jnp.linalg.cholesky(jnp.eye(1))
        return deserialize_and_load(*pickle.loads(executable.read_bytes()))(argument)

    first = seconds(load)[0]
    second = math.nan
    if exported.exists():
        second = seconds(lambda: export.deserialize(bytearray(exported.read_bytes())).call(argument))[0]
    print(first, second)


def init(jitted):
    """In a process of its own: prints what the `init` of a flax module costs that solves a quadratic program."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    import kkt_solvers as kkt

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            q = nn.Dense(N)(x)
            return kkt.solve(kkt.Problem(kkt.Quadratic(jnp.eye(N) + 0.1, q), kkt.Sum(1.0), kkt.Box(0.0, 1.0))).primal

    start = jax.jit(Layer().init) if jitted else Layer().init
    print(seconds(lambda: start(jax.random.key(0), jnp.ones(3)))[0])


def process(*options, cache=None):
    """What a fresh process prints. Its persistent cache is `cache`, with no threshold, or none."""
    own = {"JAX_COMPILATION_CACHE_DIR": cache} if cache else {}
    own |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")} | own
    command = [sys.executable, __file__, *options]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def table_of_first_calls(rows, options):
    print(f"{'':<40} | " + " | ".join(f"{column:>13}" for column in COLUMNS), flush=True)
    begins, softmax = [], math.nan
    for name in rows:
        with tempfile.TemporaryDirectory() as cache:
            begun, first, later, eager, clock = numbers("measure", name, *options, cache=cache)
            (second,) = numbers("again", name, *options, cache=cache)
        begins.append(begun)
        softmax = first if name.startswith("softmax") else softmax
        row(name, first, first / softmax, second, 1e3 * later, 1e3 * eager, clock)
    print(f"\nimport and start, not in these: {statistics.median(begins):.2f} s")


def table_ahead(rows, options):
    print(f"{'':<40} | " + " | ".join(f"{column:>13}" for column in AHEAD), flush=True)
    for name in rows:
        with tempfile.TemporaryDirectory() as folder:
            row(name, *numbers("ahead", name, folder, *options), *numbers("loaded", name, folder, *options))
    row("init of a flax module", *numbers("init", ""))
    row("the same, jitted", *numbers("init", "jitted"))


def row(name, *values):
    print(f"{name:<40} | " + " | ".join(f"{value:13.2f}" for value in values), flush=True)


def numbers(kind, *options, cache=None):
    return map(float, process("--one", kind, *options, cache=cache).split())


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", help="names of rows; all by default")
    parser.add_argument("--x64", action="store_true")
    parser.add_argument("--ahead", action="store_true")
    parser.add_argument("--one", choices=("measure", "again", "ahead", "loaded", "init"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    name, *folder = options.rows or [""]
    if options.one == "init":
        init(bool(name))
    elif options.one:
        {"measure": measure, "again": again, "ahead": ahead, "loaded": loaded}[options.one](name, options.x64, *folder)
    else:
        table = table_ahead if options.ahead else table_of_first_calls
        table(options.rows or list(functions()), ["--x64"] * options.x64)


if __name__ == "__main__":
    main()
