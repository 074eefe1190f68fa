"""DualNewton, and the gradient methods that project with it, against solvers that are not ours and closed forms."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import scipy.optimize
import scipy.sparse as sp
from jax.experimental.sparse import BCOO

import kkt_solvers as kkt
from kkt_solvers.data.entropy import sigmoid, xlogx


def names(status):
    return [kkt.Status(int(code)).name for code in jnp.ravel(status)]


def entropy(y, c):
    return xlogx(y) + c * y


def entropy_minimiser(z, c):
    return jnp.exp(z - c - 1)


def plan(y, theta):
    cost, epsilon = theta
    return cost * y + epsilon * (xlogx(y) - y)


def plan_minimiser(z, theta):
    cost, epsilon = theta
    return jnp.exp((z - cost) / epsilon)


def rate(y, noise):
    return -jnp.log(noise + y)


def rate_minimiser(z, noise):
    return -1 / z - noise


def bernoulli(y, x):
    return xlogx(y) + xlogx(1 - y) - x * y


def bernoulli_minimiser(z, x):
    return sigmoid(z + x)


def cubic(y, c):
    return jnp.abs(y) ** 3 / 3 - c * y


def square(y, v):
    return (y - v) ** 2 / 2


def square_minimiser(z, v):
    return v + z


@jax.jit
def solved(problem):
    return kkt.solve(problem, solver=kkt.DualNewton())


def by_clarabel(P, q, A, b, lower, upper):
    n = len(q)
    rows = sp.vstack([sp.csc_matrix(A), -sp.eye(n), sp.eye(n)], format="csc")
    cones = [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(2 * n)]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    right = np.concatenate([b, np.full(n, -lower), np.full(n, upper)])
    return np.array(clarabel.DefaultSolver(sp.csc_matrix(np.triu(P)), q, rows, right, cones, settings).solve().x)


def marginals(a, b):
    return np.vstack([np.repeat(np.eye(a), b, axis=1), np.tile(np.eye(b), a)])


def sinkhorn(cost, rows, columns, epsilon):
    """In the log domain, to the last digit."""
    f, g = np.zeros(len(rows)), np.zeros(len(columns))
    for _ in range(5000):
        f = epsilon * (np.log(rows) - scipy.special.logsumexp((g - cost) / epsilon, axis=1))
        g = epsilon * (np.log(columns) - scipy.special.logsumexp((f[:, None] - cost) / epsilon, axis=0))
    return np.exp((f[:, None] + g - cost) / epsilon)


BOUND = {"float64": 1e-8, "float32": 2e-4}


# -------------------------------------------------------------------------------------- known solutions
def test_capped_projection_against_clarabel(dtype, rng):
    n, m = 40, 6
    A, v = rng.normal(size=(m, n)), 2 * rng.normal(size=n)
    A[5] = A[0] - 2 * A[1]  # dependent
    A = 10.0 ** rng.integers(-2, 3, size=m)[:, None] * A
    b = A @ rng.uniform(size=n)
    expected = by_clarabel(np.eye(n), -v, A, b, 0.0, 1.0)
    assert 5 < np.sum((expected > 1e-6) & (expected < 1 - 1e-6)) < 35
    v, A, b = (a.astype(dtype) for a in (v, A, b))
    separable, diagonal = kkt.Separable(square, v, square_minimiser), kkt.Quadratic(np.ones(n, dtype), -v)
    kinds = [(separable, A), (diagonal, sp.csr_matrix(A))]
    for objective, rows in kinds if dtype == np.float64 else kinds[:1]:
        solution = solved(kkt.Problem(objective, kkt.Affine(rows, b), kkt.Box(0.0, 1.0)))
        assert names(solution.status) == ["SOLVED"]
        assert solution.primal.dtype == dtype
        assert int(solution.iterations) <= 20
        np.testing.assert_allclose(solution.primal, expected, atol=BOUND[dtype.name])


@pytest.mark.parametrize("offset", [0.0, 5.0, -5.0])  # exp(offset / epsilon) underflows, or overflows
def test_optimal_transport_against_sinkhorn(offset, dtype, rng):
    size, epsilon = 12, 0.02
    cost = rng.uniform(size=(size, size))
    rows, columns = rng.dirichlet(np.ones(size)), rng.dirichlet(np.ones(size))
    expected = sinkhorn(cost, rows, columns, epsilon)
    theta = (cost.ravel() + offset).astype(dtype), np.asarray(epsilon, dtype)
    equality = kkt.Affine(marginals(size, size).astype(dtype), np.concatenate([rows, columns]).astype(dtype))
    solution = solved(kkt.Problem(kkt.Separable(plan, theta, plan_minimiser), equality, kkt.Box(0.0)))
    assert names(solution.status) == ["SOLVED"]
    assert int(solution.iterations) <= 60
    np.testing.assert_allclose(solution.primal.reshape(size, size), expected, atol=BOUND[dtype.name])


def test_water_filling_with_budgets_against_scipy(x64, rng):
    n = 12
    noise, A = rng.uniform(0.1, 2, size=n), np.zeros((3, n))
    A[0, :6], A[1, 6:] = rng.uniform(0.5, 2, size=6), rng.uniform(0.5, 2, size=6)
    A[2] = rng.uniform(0.5, 2, size=n)
    b = A @ np.where(rng.uniform(size=n) < 0.5, 0.0, rng.uniform(0.2, 2, size=n))
    expected = scipy.optimize.minimize(
        lambda y: -np.log(noise + y).sum(),
        np.full(n, 0.5),
        jac=lambda y: -1 / (noise + y),
        bounds=[(0, None)] * n,
        constraints={"type": "eq", "fun": lambda y: A @ y - b, "jac": lambda y: A},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    ).x
    solution = solved(kkt.Problem(kkt.Separable(rate, noise, rate_minimiser), kkt.Affine(A, b), kkt.Box(0.0)))
    assert names(solution.status) == ["SOLVED"]
    np.testing.assert_allclose(solution.primal, expected, atol=2e-6)
    assert np.sum(expected < 1e-7) > 1


def test_moments_of_a_known_exponential_family(dtype):
    x = np.linspace(-1, 1, 50)
    A = np.stack([x**0, x, x**2, x**3])
    nu = np.array([0.3, -1.0, 4.0, 2.0])
    y = np.exp(-1 - nu @ A)
    problem = kkt.Problem(
        kkt.Separable(entropy, np.zeros(50, dtype), entropy_minimiser),
        kkt.Affine(A.astype(dtype), (A @ y).astype(dtype)),
        kkt.Box(0.0),
    )
    cold = solved(problem)
    assert names(cold.status) == ["SOLVED"]
    np.testing.assert_allclose(cold.primal, y, atol=BOUND[dtype.name])
    np.testing.assert_allclose(cold.dual.equality, nu, rtol=1e3 * BOUND[dtype.name] ** 1.2)
    if dtype == np.float32:
        return
    # Its multipliers are a start for a neighbour.
    near = kkt.Problem(problem.objective, kkt.Affine(problem.equality.A, 1.001 * problem.equality.b), kkt.Box(0.0))
    warm = jax.jit(lambda p, s: kkt.solve(p, s, solver=kkt.DualNewton()))(near, cold)
    assert names(warm.status) == ["SOLVED"]
    assert int(warm.iterations) <= 4 < int(cold.iterations)
    np.testing.assert_allclose(warm.primal, solved(near).primal, atol=BOUND[dtype.name])


def test_saturated_groups_against_extended_precision(dtype, rng):
    x = np.round(300 * rng.normal(size=(3, 20)), 2).astype(dtype)  # D underflows almost everywhere
    totals = np.array([1.0, 3.0, 7.0], dtype)
    A = np.repeat(np.eye(3, dtype=dtype), 20, axis=1)
    solution = solved(
        kkt.Problem(kkt.Separable(bernoulli, x.ravel(), bernoulli_minimiser), kkt.Affine(A, totals), kkt.Box(0.0, 1.0))
    )
    assert names(solution.status) == ["SOLVED"]
    expected = np.concatenate([references.lml(row, k)[0] for row, k in zip(x, totals, strict=True)])
    np.testing.assert_allclose(solution.primal, expected.astype(float), atol=BOUND[dtype.name])


def test_without_a_minimiser_against_scipy(x64, rng):
    n = 8
    A, c = rng.normal(size=(2, n)), 3 * rng.normal(size=n)
    b = A @ rng.uniform(-1, 1, size=n)
    expected = scipy.optimize.minimize(
        lambda y: np.sum(np.abs(y) ** 3 / 3 - c * y),
        np.zeros(n),
        jac=lambda y: y * np.abs(y) - c,
        bounds=[(-2, 1.5)] * n,
        constraints={"type": "eq", "fun": lambda y: A @ y - b, "jac": lambda y: A},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    ).x
    solution = solved(kkt.Problem(kkt.Separable(cubic, c), kkt.Affine(A, b), kkt.Box(-2.0, 1.5)))
    assert names(solution.status) == ["SOLVED"]
    np.testing.assert_allclose(solution.primal, expected, atol=1e-6)


def test_no_row_and_one_row():
    objective = kkt.Separable(square, [0.6, 0.5, -1.0], square_minimiser)
    np.testing.assert_allclose(solved(kkt.Problem(objective, box=kkt.Box(0.0, 0.55))).primal, [0.55, 0.5, 0])
    problem = kkt.Problem(objective, kkt.Sum(1.0, [1.0, 2.0, -1.0]), kkt.Box(0.0, 1.0))
    bisected = kkt.solve(problem, solver=kkt.DualBisection())
    np.testing.assert_allclose(solved(problem).primal, bisected.primal, atol=1e-6)
    np.testing.assert_allclose(bisected.primal, [0.48, 0.26, 0], atol=1e-6)
    np.testing.assert_allclose(solved(problem).dual.equality, bisected.dual.equality, atol=1e-6)


# --------------------------------------------------------------------------------------------- infeasible
def test_each_instance_of_a_batch_ends_on_its_own(x64, rng):
    n = 10
    A = rng.uniform(size=(3, n))
    inside = A @ np.full(n, 0.4)
    b = np.stack([inside, inside + np.array([0, 0, 30]), 0.9 * inside, -inside])

    def one(b):
        def value(b):
            problem = kkt.Problem(
                kkt.Separable(entropy, np.arange(n) / n, entropy_minimiser),
                kkt.Affine(A, b),
                kkt.Box(0.0, 1.0),
            )
            solution = kkt.solve(problem, solver=kkt.DualNewton())
            return solution.primal[0], solution

        return jax.grad(value, has_aux=True)(b)

    gradient, solution = jax.jit(jax.vmap(one))(b)
    assert names(solution.status) == ["SOLVED", "PRIMAL_INFEASIBLE", "SOLVED", "PRIMAL_INFEASIBLE"]
    for i in (1, 3):  # Farkas: nu'(A y - b) > 0 on the whole box
        nu = np.asarray(solution.dual.equality[i], float)
        w = nu @ A
        assert np.minimum(w, 0).sum() - nu @ b[i] > 1e-3
        assert np.isnan(gradient[i]).all()
    alone = jax.jit(one)(b[2])
    np.testing.assert_allclose(solution.primal[2], alone[1].primal, atol=1e-9)
    np.testing.assert_allclose(gradient[2], alone[0], atol=1e-7)


def test_inconsistent_rows_without_bounds(x64, rng):
    A = rng.normal(size=(3, 8))
    A[2] = A[0] + A[1]
    problem = kkt.Problem(kkt.Separable(square, np.zeros(8), square_minimiser), kkt.Affine(A, [1.0, 2.0, 3.5]))
    solution = solved(problem)
    assert names(solution.status) == ["PRIMAL_INFEASIBLE"]
    nu = np.asarray(solution.dual.equality)
    np.testing.assert_allclose(nu @ A, 0, atol=1e-9)
    assert nu @ [1.0, 2.0, 3.5] < -0.1


def test_a_ray_whose_small_entries_would_prove_it_does_not(x64):
    class Liar:
        def run(self, problem, init):
            nu = jnp.array([1.0, -1e-10])
            return init + 9, kkt.Dual(nu, None, None), 1, jnp.asarray(kkt.Status.PRIMAL_INFEASIBLE)

    objective = kkt.Separable(square, [1.0, 1.0], square_minimiser)
    problem = kkt.Problem(objective, kkt.Affine(np.eye(2), [0.0, 1.0]), kkt.Box(0.0))
    assert names(kkt.solve(problem, solver=Liar()).status) != ["PRIMAL_INFEASIBLE"]
    np.testing.assert_allclose(solved(problem).primal, [0, 1], atol=1e-9)  # (0, 1) is feasible, and all there is


def test_it_refuses_what_is_not_separable():
    with pytest.raises(ValueError, match=r"DualNewton needs a separable .* InteriorPoint"):
        kkt.solve(kkt.Problem(kkt.Quadratic(np.eye(2), [1.0, 1.0]), kkt.Sum(1.0)), solver=kkt.DualNewton())


# --------------------------------------------------------------------------------------------- derivatives
def test_derivatives_against_finite_differences(x64, rng):
    n, m = 9, 3
    v, A = rng.uniform(0.2, 2, size=n), rng.normal(size=(m, n))
    b = A @ rng.uniform(0.2, 0.45, size=n)
    point = (np.log(v), A, b, np.asarray(0.5))
    steps = [rng.normal(size=(2, *p.shape)) for p in point]

    def at(t, step):
        c, A, b, upper = (p + t * d for p, d in zip(point, step, strict=True))
        objective = kkt.Separable(entropy, -c, entropy_minimiser)
        solution = kkt.solve(kkt.Problem(objective, kkt.Affine(A, b), kkt.Box(0.15, upper)))
        return jnp.concatenate([solution.primal, solution.dual.equality])

    value = jax.jit(jax.vmap(at, in_axes=(None, 0)))
    y = np.asarray(value(0.0, steps))[0, :n]
    assert 0 < np.sum((y > 0.15) & (y < 0.5)) < n
    h = 1e-5
    expected = (value(h, steps) - value(-h, steps)) / (2 * h)
    forward = jax.jit(jax.vmap(lambda step: jax.jvp(lambda t: at(t, step), (0.0,), (1.0,))[1]))(steps)
    reverse = jax.jit(jax.vmap(lambda step: jax.jacrev(lambda t: at(t, step))(0.0)))(steps)
    np.testing.assert_allclose(forward, expected, atol=1e-7)
    np.testing.assert_allclose(reverse, expected, atol=1e-7)


# --------------------------------------------------------------------------------------- gradient methods
@pytest.mark.parametrize("solver", [kkt.ProjectedGradient(), kkt.MirrorDescent(max_iterations=20000)])
def test_gradient_methods_with_several_equalities(solver, x64, rng):
    n = 8
    F = rng.normal(size=(n, n))
    P, q = F @ F.T / n + 0.1 * np.eye(n), rng.normal(size=n)
    A = rng.normal(size=(2, n))
    b = A @ rng.uniform(0.2, 0.8, size=n)
    expected = by_clarabel(P, q, A, b, 0.0, 1.0)
    rows, sparse = [], BCOO.fromdense(A)
    run = jax.jit(
        lambda b: kkt.solve(
            kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(sparse, b), kkt.Box(0.0, 1.0)),
            solver=solver,
            progress=lambda *row: rows.append([float(x) for x in row]),
        )
    )
    solution = run(b)
    assert names(solution.status) == ["SOLVED"]
    np.testing.assert_allclose(solution.primal, expected, atol=2e-6)
    jax.effects_barrier()
    # One row a round, in order, and none of the projections'.
    iterations = [row[0] for row in sorted(rows)]
    assert iterations[0] == 0
    assert iterations[-1] == int(solution.iterations)
    assert len(set(iterations)) == len(iterations) <= 2 + int(solution.iterations) / 2
    np.testing.assert_allclose(sorted(rows)[-1][1], solution.objective, atol=1e-6)
    assert names(run(b + 100).status) == ["PRIMAL_INFEASIBLE"]


def test_progress_of_dual_newton(x64):
    rows = []
    problem = kkt.Problem(
        kkt.Separable(entropy, np.zeros(4), entropy_minimiser),
        kkt.Affine([[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 3.0]], [1.0, 0.7]),
        kkt.Box(0.0),
    )
    solution = kkt.solve(problem, solver=kkt.DualNewton(), progress=lambda *row: rows.append([float(x) for x in row]))
    rows.sort()
    assert [row[0] for row in rows] == list(range(int(solution.iterations) + 1))
    np.testing.assert_allclose(rows[-1][1], solution.objective, rtol=1e-8)
    assert rows[-1][2] < 1e-12 < rows[0][2]
