"""Marginals of a plan against the same problems with dense matrices, Clarabel, HiGHS, Sinkhorn and differences."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from test_derivative import clarabel_qp
from test_dual_newton import sinkhorn
from test_stages import check_the_same

import kkt_solvers as kkt
from kkt_solvers.data.entropy import gibbs
from kkt_solvers.problems import OptimalTransport, optimal_transport
from kkt_solvers.systems.normal import normal, solve_semidefinite

PLANS = [(3, 5), (5, 3), (4, 4), (1, 6), (6, 1), (40, 36)]


def written_out(a, b):
    return np.vstack([np.kron(np.eye(a), np.ones(b)), np.kron(np.ones(a), np.eye(b))])


def masses(rng, a, b):
    return rng.dirichlet(np.ones(a)), rng.dirichlet(np.ones(b))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("scaled", [False, True])
def test_the_same_matrix(scaled, plan, rng, x64):
    M, D = kkt.Marginals(*plan), written_out(*plan)
    m, n = D.shape
    if scaled:
        e, d = rng.normal(size=m), rng.normal(size=n)
        M, D = M.scaled(jnp.asarray(e), jnp.asarray(d)), e[:, None] * D * d
    assert M.shape == D.shape
    check_the_same(M, D, rng)
    w = rng.normal(size=m)
    # The normal matrix and its inverse on its range.
    c = jnp.asarray(rng.uniform(0.1, 2.0, n))
    N, expected = normal(M, c), (D * np.asarray(c)) @ D.T
    np.testing.assert_allclose(N.diagonal, np.diag(expected))
    np.testing.assert_allclose(N.product(w), expected @ w, atol=1e-12)
    r = jnp.asarray(expected @ w)
    np.testing.assert_allclose(expected @ solve_semidefinite(N, r), r, atol=1e-11)
    shift = rng.uniform(0.1, 1.0, m)
    shifted = N.factor(jnp.ones(m), jnp.asarray(shift))
    assert bool(shifted.is_definite())
    np.testing.assert_allclose(shifted.solve(jnp.asarray(w)), np.linalg.solve(expected + np.diag(shift), w), atol=1e-10)


def euclidean(y, v):
    return 0.5 * (y - v) ** 2


def nearest(z, v):
    return v + z


@pytest.mark.parametrize("kind", ["entropic", "euclidean", "quadratic", "linear"])
def test_derivatives_are_those_of_the_dense_matrix(kind, rng, x64):
    a, b = 5, 4
    cost, (source, target) = rng.uniform(size=a * b), masses(rng, a, b)
    weights, row = rng.normal(size=a * b), rng.normal(size=a + b)
    row[a:] -= row[a:].sum() / b + (row[:a] @ np.ones(a) - row[:a].sum()) / b  # any multipliers, up to the constant

    def value(cost, sums, A):
        sums = sums - jnp.concatenate([jnp.zeros(a), jnp.full(b, (sums[a:].sum() - sums[:a].sum()) / b)])
        objective = {
            "entropic": lambda: gibbs(cost, 1.0, 0.1),
            "euclidean": lambda: kkt.Separable(euclidean, -cost, nearest),
            "quadratic": lambda: kkt.Quadratic(jnp.ones(a * b), cost),
            "linear": lambda: kkt.Quadratic(None, cost),
        }[kind]()
        solution = kkt.solve(kkt.Problem(objective, kkt.Affine(A, sums), kkt.Box(0.0)))
        nu = solution.dual.equality
        spread = jnp.sum(jnp.sin(nu[:a, None] + nu[a:]))  # multipliers are unique up to a constant
        return jnp.vdot(weights, solution.primal) + (0.0 if kind == "linear" else spread)

    data, step = (cost, np.concatenate([source, target])), (rng.normal(size=a * b), rng.normal(size=a + b))
    slopes = jax.jit(jax.grad(value, (0, 1)))
    ours, theirs = slopes(*data, kkt.Marginals(a, b)), slopes(*data, jnp.asarray(written_out(a, b)))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-8 * max(1.0, np.abs(other).max()))

    @jax.jit
    def slope(t):
        at = tuple(leaf + t * d for leaf, d in zip(data, step, strict=True))
        return jax.jvp(lambda *x: value(*x, kkt.Marginals(a, b)), at, step)[1]

    np.testing.assert_allclose(slope(0.0), sum(g @ d for g, d in zip(ours, step, strict=True)), rtol=1e-8, atol=1e-10)
    if kind == "entropic":
        curvature = jax.jit(lambda t: jax.jvp(slope, (t,), (1.0,))[1])(0.0)
        np.testing.assert_allclose(curvature, (slope(1e-6) - slope(-1e-6)) / 2e-6, rtol=1e-5)


def test_quadratic_transport_against_clarabel(rng, x64):
    a, b = 7, 9
    cost, sums = rng.normal(size=a * b), np.concatenate(masses(rng, a, b))
    problem = kkt.Problem(kkt.Quadratic(jnp.ones(a * b), cost), kkt.Affine(kkt.Marginals(a, b), sums), kkt.Box(0.0))
    solution = jax.jit(kkt.solve)(problem)
    assert kkt.Status(int(solution.status)).name == "SOLVED"
    y, _ = clarabel_qp(np.eye(a * b), cost, written_out(a, b), sums, np.zeros(a * b), np.full(a * b, np.inf))
    np.testing.assert_allclose(solution.primal, y, atol=1e-7)
    projected = kkt.projections.transport(-cost.reshape(a, b), sums[:a], sums[a:])
    np.testing.assert_allclose(projected, y.reshape(a, b), atol=1e-7)


def test_the_linear_program_against_highs(rng, x64):
    a, b = 8, 6
    cost, sums = rng.uniform(size=a * b), np.concatenate(masses(rng, a, b))
    problem = kkt.Problem(kkt.Quadratic(None, cost), kkt.Affine(kkt.Marginals(a, b), sums), kkt.Box(0.0))
    solution = jax.jit(kkt.solve)(problem)
    expected = scipy.optimize.linprog(cost, A_eq=written_out(a, b), b_eq=sums, method="highs")
    assert kkt.Status(int(solution.status)).name == "SOLVED"
    np.testing.assert_allclose(solution.primal, expected.x, atol=1e-9)


@pytest.mark.parametrize(("a", "b", "epsilon"), [(30, 50, 0.1), (50, 30, 0.01), (20, 20, 1e-3)])
def test_plans_against_sinkhorn(a, b, epsilon, rng, x64):
    cost, (source, target) = rng.uniform(size=(a, b)), masses(rng, a, b)
    plan = jax.jit(optimal_transport)(cost, source, target, epsilon).plan
    np.testing.assert_allclose(plan.sum(1), source, atol=1e-15)
    np.testing.assert_allclose(plan.sum(0), target, atol=1e-15)
    if epsilon >= 0.01:
        np.testing.assert_allclose(plan, sinkhorn(cost, source, target, epsilon), atol=1e-10)
    solution = kkt.solve(OptimalTransport(cost, source, target, epsilon))
    assert kkt.Status(int(solution.status)).name == "SOLVED"
    assert int(solution.iterations) <= 15
    # The potentials are those of the plan.
    f, g = -solution.dual.equality[:a], -solution.dual.equality[a:]
    again = source[:, None] * target * np.exp((f[:, None] + g - cost) / epsilon)
    np.testing.assert_allclose(again, plan, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [0.0, 1e3, -1e3])
def test_costs_that_overflow(shift, dtype, rng, x64):
    """`exp(-cost / epsilon)` is infinite or zero; masses of zero; rounding of the shifted costs is that of the plan."""
    cost, (source, target) = rng.uniform(size=(12, 9)), masses(rng, 12, 9)
    source[3], target[5] = 0.0, 0.0
    source, target = source / source.sum(), target / target.sum()
    cost = (cost + shift).astype(dtype)
    arguments = [part.astype(dtype) for part in (source, target)]
    plan = jax.jit(optimal_transport)(cost, *arguments, dtype(0.05)).plan
    assert plan.dtype == dtype
    with np.errstate(divide="ignore"):
        expected = sinkhorn(np.asarray(cost, float) - shift, source, target, 0.05)
    np.testing.assert_allclose(plan, expected, atol=1e-10 if dtype == np.float64 else 1e-4)


def test_a_batch_with_bad_instances(rng, x64):
    a, b = 6, 5
    cost, (source, target) = rng.uniform(size=(4, a, b)), masses(rng, a, b)
    cost[2, 0, 0] = np.nan
    totals = np.array([1.0, 1.1, 1.0, 1.0])

    def one(cost, total):
        sums = jnp.concatenate([source, total * target])
        return kkt.solve(kkt.Problem(gibbs(cost, 1.0, 0.02), kkt.Affine(kkt.Marginals(a, b), sums), kkt.Box(0.0)))

    batch = jax.jit(jax.vmap(one))(cost, totals)
    names = [kkt.Status(int(status)).name for status in batch.status]
    assert names == ["SOLVED", "PRIMAL_INFEASIBLE", "INVALID", "SOLVED"]
    for i in (0, 3):
        np.testing.assert_allclose(batch.primal[i], one(cost[i], 1.0).primal, atol=1e-12)


def test_no_array_larger_than_the_plan(x64):
    """The dense matrix would have `a b (a + b)` entries."""
    a, b = 60, 40

    def value(cost):
        return optimal_transport(cost, jnp.ones(a) / a, jnp.ones(b) / b, 0.1).plan[0, 0]

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars if hasattr(v.aval, "size"))
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from sizes(inner)

    assert max(sizes(jax.make_jaxpr(jax.grad(value))(jnp.ones((a, b))).jaxpr)) <= 4 * a * b


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: kkt.Marginals(0, 3), "a must be a positive integer"),
        (lambda: kkt.Marginals(2, 3.0), "b must be a positive integer"),
        (lambda: kkt.Affine(kkt.Marginals(2, 3), np.ones(5)) and kkt.solve(
            kkt.Problem(kkt.Quadratic(None, np.ones(5)), kkt.Affine(kkt.Marginals(2, 3), np.ones(5)), kkt.Box(0.0))
        ), r"A must have shape \(m, 5\)"),
        (lambda: kkt.solve(
            kkt.Problem(kkt.Quadratic(None, np.ones(6)), kkt.Affine(kkt.Marginals(2, 3), np.ones(6)), kkt.Box(0.0))
        ), r"b must have shape \(5,\)"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(build, message):
    with pytest.raises(ValueError, match=message):
        build()
