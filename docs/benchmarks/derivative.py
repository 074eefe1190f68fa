"""What the derivative costs, as ratios to a yardstick measured in the same process, alternating.

Run it, on an idle machine, with

    OPENBLAS_NUM_THREADS=1 python docs/benchmarks/derivative.py

| row | yardstick |
|---|---|
| `lml`, forward and backward, and the pullback alone | a hand-written closed-form `custom_vjp` around the same solve |
| dense QP, gradient less forward | one LU factorisation of its KKT matrix |
| dense QP, Jacobian of all outputs | three vector-Jacobian products, plus n back-substitutions |
| low-rank QP, n = 10000, r = 20, forward and gradient | one solve by Woodbury's formula |

Then the time of the first call, compilation included, through `lml` and through a dense QP.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

import kkt_solvers as kkt
from kkt_solvers.problems import LML, lml

jax.config.update("jax_enable_x64", True)
REPEATS = 15


def medians(*calls):
    """The median seconds of each call, measured in turns."""
    for call in calls:
        jax.block_until_ready(call())
    times = np.empty((REPEATS, len(calls)))
    for row in times:
        for index, call in enumerate(calls):
            begin = time.perf_counter()
            jax.block_until_ready(call())
            row[index] = time.perf_counter() - begin
    return np.median(times, axis=0)


def row(name, ours, yardstick):
    """Print one line of the table."""
    print(f"{name:<44} | {1e3 * ours:>10.3f} | {1e3 * yardstick:>10.3f} | {ours / yardstick:>6.2f}", flush=True)


@jax.custom_vjp
def closed_form(x, k):
    """`engine`, with the gradient typed in."""
    return engine(x, k)


def closed_form_forward(x, k):
    # From t = x - nu, so that y (1 - y) is right where y rounds to one; the engine's is, too.
    solution = jax.vmap(lambda x: kkt.solve(LML(x, k)))(x)
    return solution.primal, x - solution.dual.equality[:, None]


def closed_form_backward(t, g):
    H = jax.nn.sigmoid(t) * jax.nn.sigmoid(-t)
    w = H / jnp.sum(H, axis=-1, keepdims=True)
    return H * (g - jnp.sum(w * g, axis=-1, keepdims=True)), None


closed_form.defvjp(closed_form_forward, closed_form_backward)


def engine(x, k):
    """`lml` less its shift of the scores, which the closed form does without."""
    return jax.vmap(lambda x: kkt.solve(LML(x, k)).primal)(x)


def bench_lml(rows, n, k, rng):
    x = jnp.asarray(rng.normal(size=(rows, n)), jnp.float32)
    g = jnp.asarray(rng.normal(size=(rows, n)), jnp.float32)
    functions = [lambda x, f=f: f(x, k) for f in (engine, closed_form)]
    both = [jax.jit(lambda x, g, f=f: jax.vjp(f, x)[1](g)) for f in functions]
    row(f"lml {rows} x {n}, k = {k}: forward + backward", *medians(*(lambda f=f: f(x, g) for f in both)))
    pullbacks = [jax.jit(lambda x, f=f: jax.vjp(f, x)[1])(x) for f in functions]
    backward = jax.jit(lambda pullback, g: pullback(g))
    row(f"lml {rows} x {n}, k = {k}: backward", *medians(*(lambda p=p: backward(p, g) for p in pullbacks)))


def dense_qp(n, m, rng):
    F, A = rng.normal(size=(n, n)), rng.normal(size=(m, n))
    P = F @ F.T / n + 0.01 * np.eye(n)
    problem = kkt.Problem(
        kkt.Quadratic(P, rng.normal(size=n)), kkt.Affine(A, A @ rng.uniform(size=n)), kkt.Box(0.0, 1.0)
    )
    return problem, jnp.asarray(np.block([[P, A.T], [A, np.zeros((m, m))]]))


def bench_qp(n, m, rng):
    problem, K = dense_qp(n, m, rng)
    solution = jax.jit(kkt.solve)(problem)
    g = jnp.asarray(rng.normal(size=n))

    def attached(problem):
        return kkt.differentiable(problem, solution.primal, solution.dual).primal

    forward = jax.jit(attached)
    gradient = jax.jit(jax.grad(lambda p: jnp.vdot(g, attached(p))))
    seconds = medians(lambda: forward(problem), lambda: gradient(problem), lambda: factorise(K))
    row(f"dense QP n = {n}, m = {m}: backward", seconds[1] - seconds[0], seconds[2])

    q = problem.objective.q

    def primal(q):
        return attached(kkt.Problem(kkt.Quadratic(problem.objective.P, q), problem.equality, problem.box))

    jacobian, one = jax.jit(jax.jacrev(primal)), jax.jit(lambda q: jax.vjp(primal, q)[1](g)[0])
    factor = factorise(K)
    substitute = jax.jit(lambda: jax.scipy.linalg.lu_solve(factor, jnp.eye(n + m)[:, :n]))
    seconds = medians(lambda: jacobian(q), lambda: one(q), substitute)
    row(f"dense QP n = {n}, m = {m}: all of the Jacobian", seconds[0], 3 * seconds[1] + seconds[2])


factorise = jax.jit(jax.scipy.linalg.lu_factor)


def bench_low_rank(n, r, rng):
    V, q = jnp.asarray(rng.normal(size=(n, r)) / 100), jnp.asarray(rng.normal(size=n))
    problem = kkt.Problem(kkt.Quadratic(kkt.LowRank(jnp.ones(n), V), q), kkt.Sum(1.0))

    def inverse(v):
        return v - V @ jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(jnp.eye(r) + V.T @ V), V.T @ v)

    one = jnp.ones(n)
    y = -inverse(q - (1.0 + inverse(q) @ one) / (inverse(one) @ one))
    gradient = jax.jit(jax.grad(lambda p: kkt.differentiable(p, y).primal[0]))
    yardstick = jax.jit(inverse)
    seconds = medians(lambda: gradient(problem), lambda: yardstick(q))
    row(f"low-rank QP n = {n}, r = {r}: gradient", *seconds)


def first_call(name, function, *args):
    begin = time.perf_counter()
    jax.block_until_ready(jax.jit(function)(*args))
    print(f"{name:<44} | {time.perf_counter() - begin:>8.2f} s")


def main():
    """Print the table."""
    rng = np.random.default_rng(0)
    # First, while nothing is compiled yet.
    x = jnp.asarray(rng.normal(size=(128, 1000)), jnp.float32)
    problem, _ = dense_qp(100, 20, rng)
    first_call("first call: gradient through lml", jax.grad(lambda x: jnp.sum(lml(x, 5) ** 2)), x)
    first_call(
        "first call: gradient through a dense QP", jax.grad(lambda p: jnp.sum(kkt.solve(p).primal ** 2)), problem
    )
    print(f"\n{'':<44} | {'ours [ms]':>10} | {'yardstick':>10} | {'ratio':>6}")
    bench_lml(128, 1000, 5, rng)
    bench_lml(1, 1_000_000, 100, rng)
    bench_qp(500, 50, rng)
    bench_low_rank(10_000, 20, rng)


if __name__ == "__main__":
    main()
