"""The primal-dual method against HiGHS and Clarabel, on every structure that it takes, and its certificates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
from test_derivative import clarabel_qp, data, largest_array, problem_of

import kkt_solvers as kkt
from kkt_solvers.data import flatten as _flatten
from kkt_solvers.solvers import default_solver

PLAIN = kkt.PrimalDual(polish=False)


def name(solution):
    return kkt.Status(int(solution.status)).name


def linear_program(rng, n=30, m=12):
    """Free, one-sided, two-sided and fixed variables, with a feasible point and a feasible dual."""
    i = np.arange(n)
    lower = np.where(i % 7 == 0, -np.inf, 0.0)
    upper = np.where(i % 3 == 0, 2.0, np.inf)
    lower[5] = upper[5] = 0.3
    A, c = rng.normal(size=(m, n)), rng.normal(size=n)
    slope = np.where(np.isfinite(lower), np.abs(c), np.where(np.isfinite(upper), -np.abs(c), 0.0))
    c = A.T @ rng.normal(size=m) + np.where(np.isfinite(lower) & np.isfinite(upper), c, slope)
    return c, A, A @ np.clip(rng.normal(size=n), lower, upper), lower, upper


def sparse_program(rng, n, m, per_column=4):
    """A linear program whose only solution and multipliers are known, and these."""
    nonzeros = per_column * n
    A = sp.coo_matrix(
        (rng.normal(size=nonzeros), (rng.integers(m, size=nonzeros), np.repeat(np.arange(n), per_column)))
    )
    basic = np.arange(n) < m  # a basis, well conditioned by the identity
    A = (sp.csr_matrix(A, shape=(m, n)) + 5 * sp.eye(m, n)).tocsr()
    y, nu = np.where(basic, rng.uniform(0.5, 1.5, size=n), 0.0), rng.normal(size=m)
    reduced = np.where(basic, 0.0, rng.uniform(0.5, 1.5, size=n))
    problem = kkt.Problem(kkt.Quadratic(None, reduced - A.T @ nu), kkt.Affine(A, A @ y), kkt.Box(0.0, np.inf))
    return problem, y, nu


@pytest.mark.parametrize("solver", [kkt.PrimalDual(), PLAIN], ids=["polish", "plain"])
def test_linear_programs_against_highs(solver, rng, x64):
    solve = jax.jit(lambda problem: kkt.solve(problem, solver=solver))
    for _ in range(3):
        c, A, b, lower, upper = linear_program(rng)
        answer = scipy.optimize.linprog(c, A_eq=A, b_eq=b, bounds=np.stack([lower, upper], 1), method="highs")
        solution = solve(kkt.Problem(kkt.Quadratic(None, c), kkt.Affine(A, b), kkt.Box(lower, upper)))
        assert name(solution) == "SOLVED"
        bound = 1e-9 if solver.polish else 1e-6
        np.testing.assert_allclose(solution.objective, answer.fun, rtol=bound)
        np.testing.assert_allclose(solution.primal, answer.x, atol=10 * bound)
        np.testing.assert_allclose(-solution.dual.equality, answer.eqlin.marginals, atol=10 * bound)
        net = solution.dual.lower - solution.dual.upper
        np.testing.assert_allclose(net, answer.lower.marginals + answer.upper.marginals, atol=10 * bound)


def test_quadratic_programs_against_clarabel(rng, x64):
    n, m = 40, 4
    q, F, A = rng.normal(size=n), rng.normal(size=(n, 3)), rng.normal(size=(m, n))
    weights = rng.uniform(0.5, 2.0, size=n)
    D = sp.diags([np.ones(n), -np.ones(n - 1)], [0, 1])
    flat = np.diag(np.arange(n) % 3 > 0) @ (F @ F.T + np.eye(n)) @ np.diag(np.arange(n) % 3 > 0)
    lower, upper = np.where(np.arange(n) % 5, -1.0, -np.inf), np.full(n, 1.0)
    lower[7] = upper[7] = 0.3
    cases = [
        (flat, kkt.Affine(sp.csr_matrix(A), np.ones(m)), flat, A),
        (kkt.LowRank(np.full(n, 0.1), F), kkt.Sum(1.0, weights), 0.1 * np.eye(n) + F @ F.T, weights[None]),
        (sp.csr_matrix(D.T @ D), None, D.T @ D, np.zeros((0, n))),
    ]
    for P, equality, matrix, rows in cases:
        solution = kkt.solve(kkt.Problem(kkt.Quadratic(P, q), equality, kkt.Box(lower, upper)), solver=PLAIN)
        assert name(solution) == "SOLVED"
        y, dual = clarabel_qp(matrix, q, rows, np.ones(len(rows)), lower, upper)
        np.testing.assert_allclose(solution.primal, y, atol=1e-6)
        net = solution.dual.lower - solution.dual.upper
        np.testing.assert_allclose(net, dual.lower - dual.upper, atol=1e-5)
        if equality is not None:
            np.testing.assert_allclose(np.ravel(solution.dual.equality), dual.equality, atol=1e-5)


def test_each_of_a_batch_stops_on_its_own(rng, x64):
    c, A, b, lower, upper = linear_program(rng)
    lower, upper = np.maximum(lower, -5.0), np.minimum(upper, 5.0)

    def solve(c, b):
        return kkt.solve(kkt.Problem(kkt.Quadratic(None, c), kkt.Affine(A, b), kkt.Box(lower, upper)), solver=PLAIN)

    far = 1e3 * np.sign(A @ np.ones(len(c)))
    batch = jax.vmap(solve)(np.stack([c, c, np.nan * c, 0 * c]), np.stack([b, far, b, b]))
    names = [kkt.Status(int(s)).name for s in batch.status]
    assert names == ["SOLVED", "PRIMAL_INFEASIBLE", "INVALID", "SOLVED"]
    alone = solve(c, b)
    assert batch.iterations[0] == alone.iterations > batch.iterations[3]
    np.testing.assert_allclose(batch.primal[0], alone.primal, atol=1e-8)


def test_rays(rng, x64):
    n, m = 20, 8
    A, nu = rng.normal(size=(m, n)), rng.normal(size=m)
    A -= np.outer(nu, np.minimum(A.T @ nu, 0)) / (nu @ nu)  # now A'nu >= 0, and with b'nu < 0 there is no y >= 0
    b = A @ rng.uniform(size=n)
    b -= nu * (b @ nu + 1) / (nu @ nu)
    problem = kkt.Problem(kkt.Quadratic(np.eye(n) + 0.1, np.ones(n)), kkt.Affine(A, b), kkt.Box(0.0, np.inf))
    solution = kkt.solve(problem, solver=PLAIN)
    assert name(solution) == "PRIMAL_INFEASIBLE"
    ray = np.asarray(solution.dual.equality)
    assert np.abs(ray).max() == pytest.approx(1)
    assert (A.T @ ray).min() >= -1e-9
    assert b @ ray < -1e-3

    d = np.where(np.arange(n) % 2, rng.uniform(0.5, 1.0, size=n), 0.0)
    A = rng.normal(size=(m, n))
    A -= np.outer(A @ d, d) / (d @ d)
    q = rng.normal(size=n)
    q -= d * (q @ d + 1) / (d @ d)
    F = rng.normal(size=(n, 3))
    F -= np.outer(d, d @ F) / (d @ d)
    for P in (None, F @ F.T):
        problem = kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, A @ np.ones(n)), kkt.Box(0.0, np.inf))
        solution = kkt.solve(problem, solver=PLAIN)
        assert name(solution) == "DUAL_INFEASIBLE"
        ray = np.asarray(solution.primal)
        assert ray.min() >= 0
        np.testing.assert_allclose(A @ ray, 0, atol=1e-7)
        np.testing.assert_allclose(0.0 if P is None else P @ ray, 0, atol=1e-6)
        assert q @ ray < -1e-3


def test_warm_start(rng, x64):
    problem, y, _ = sparse_program(rng, 400, 150)
    cold = kkt.solve(problem, solver=PLAIN)
    assert name(cold) == "SOLVED"
    assert kkt.solve(problem, cold, solver=PLAIN).iterations == 0
    # Other prices: without the polish the digits that are right need not be found again; with it the basis is enough.
    nearby = kkt.Problem(kkt.Quadratic(None, problem.objective.q * 1.0001), problem.equality, problem.box)
    warm, again = kkt.solve(nearby, cold, solver=PLAIN), kkt.solve(nearby, solver=PLAIN)
    assert name(warm) == name(again) == "SOLVED"
    assert 0 < warm.iterations < 0.8 * again.iterations
    polished = kkt.solve(nearby, cold, solver=kkt.PrimalDual())
    assert name(polished) == "SOLVED"
    assert polished.iterations == 0
    np.testing.assert_allclose(polished.primal, y, atol=1e-10)


def test_derivative(rng, x64):
    d = data(rng)
    step = {key: rng.normal(size=d[key].shape) for key in ("P", "q", "A", "b")}
    step["P"] = step["P"] + step["P"].T

    def moved(t):
        return d | {key: d[key] + t * step[key] for key in step}

    def elsewhere(t):
        return clarabel_qp(*(moved(t)[key] for key in ("P", "q", "A", "b", "l", "u")))

    solution, tangent = jax.jvp(lambda t: kkt.solve(problem_of(moved(t)), solver=kkt.PrimalDual()), (0.0,), (1.0,))
    h = 1e-5
    (y_plus, dual_plus), (y_minus, dual_minus) = elsewhere(h), elsewhere(-h)
    np.testing.assert_allclose(solution.primal, elsewhere(0.0)[0], atol=1e-7)
    np.testing.assert_allclose(tangent.primal, (y_plus - y_minus) / (2 * h), atol=1e-5)
    np.testing.assert_allclose(tangent.dual.equality, (dual_plus.equality - dual_minus.equality) / (2 * h), atol=1e-4)


def test_float32(rng, dtype):  # with and without JAX's switch to double precision
    c, A, b, lower, upper = (part.astype(np.float32) for part in linear_program(rng))
    answer = scipy.optimize.linprog(c, A_eq=A, b_eq=b, bounds=np.stack([lower, upper], 1), method="highs")
    solution = kkt.solve(kkt.Problem(kkt.Quadratic(None, c), kkt.Affine(A, b), kkt.Box(lower, upper)), solver=PLAIN)
    assert solution.primal.dtype == np.float32
    assert name(solution) == "SOLVED"
    np.testing.assert_allclose(solution.primal, answer.x, atol=1e-3)


def test_what_is_refused(rng, x64):
    with pytest.raises(ValueError, match="PrimalDual takes a Quadratic"):
        kkt.solve(kkt.Problem(jnp.sum), jnp.zeros(2), solver=PLAIN)
    saddle = sp.csr_matrix(np.diag([1.0, -5.0]) + 0.5)
    problem = kkt.Problem(kkt.Quadratic(saddle, [0.0, 0.3]), kkt.Sum(0.1), kkt.Box(-1.0, 1.0))
    assert name(kkt.solve(problem, solver=PLAIN)) == "INVALID"


def test_reports(rng, x64):
    rows = []
    problem, _, _ = sparse_program(rng, 40, 15)
    solution = kkt.solve(problem, solver=PLAIN, progress=lambda *row: rows.append([float(x) for x in row]))
    assert [row[0] for row in rows] == list(range(0, int(solution.iterations) + 1, 64))
    np.testing.assert_allclose(rows[-1][1:], [solution.objective, solution.residuals.largest])
    assert rows[0][2] > 1e-2


def test_sparse_matrices_stay_sparse(rng, x64):
    problem, y, _ = sparse_program(rng, 6000, 2000)
    assert largest_array(lambda problem: kkt.solve(problem, solver=kkt.PrimalDual(polish=True)).primal, problem) < 1e6
    solution = kkt.solve(problem, solver=PLAIN)
    assert name(solution) == "SOLVED"
    np.testing.assert_allclose(solution.primal, y, atol=1e-4)


def blurred(y, b):
    return jnp.convolve(y, jnp.array([1.0, 2.0, 0.5]), mode="valid")[::4] - b


def test_an_affine_function_too_large_to_form(rng, x64, monkeypatch):
    n = 60
    q, b = rng.normal(size=n), blurred(rng.uniform(size=n), 0.0)
    A = jax.jacfwd(blurred)(jnp.zeros(n), 0.0)
    monkeypatch.setattr(_flatten, "_FORM_UP_TO", 0)

    def solved(q, b, P):
        return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), blurred, kkt.Box(0.0, 2.0), args=(b,)))

    def elsewhere(q, b, P):
        y, dual = clarabel_qp(np.diag(P), q, A, b, np.zeros(n), np.full(n, 2.0))
        return np.concatenate([y, dual.equality])

    weights = rng.normal(size=n + len(b))
    for P in (None, np.full(n, 0.5)):

        @jax.jit
        def gradient(q, b, P=P):
            def loss(q, b):
                solution = solved(q, b, P)
                return jnp.vdot(jnp.concatenate([solution.primal, solution.dual.equality]), weights), solution

            return jax.grad(loss, (0, 1), has_aux=True)(q, b)

        (dq, db), solution = gradient(q, b)
        assert name(solution) == "SOLVED"
        assert largest_array(gradient, q, b) < A.size
        full = np.zeros(n) if P is None else P
        point = np.concatenate([solution.primal, solution.dual.equality])
        np.testing.assert_allclose(point, elsewhere(q, b, full), atol=1e-6)
        h, (q_step, b_step) = 1e-4, (rng.normal(size=n), rng.normal(size=len(b)))
        plus, minus = (elsewhere(q + s * h * q_step, b + s * h * b_step, full) for s in (1, -1))
        np.testing.assert_allclose(dq @ q_step + db @ b_step, weights @ (plus - minus) / (2 * h), rtol=1e-4)
    assert name(solved(q, 1e3 + b, None)) == "PRIMAL_INFEASIBLE"


@pytest.mark.slow
def test_large_sparse_program(rng, x64):
    problem, y, nu = sparse_program(rng, 20000, 8000)
    solution = kkt.solve(problem, solver=kkt.PrimalDual())
    assert name(solution) == "SOLVED"
    np.testing.assert_allclose(solution.primal, y, atol=1e-4)
    np.testing.assert_allclose(solution.dual.equality, nu, atol=1e-4)


def test_a_hessian_given_as_a_function(rng, x64):
    # Small: its matrix is formed. Large: it is not, and the answer is that of the same matrix as a `LowRank`.
    for n, form in ((30, kkt.InteriorPoint), (6000, kkt.PrimalDual)):
        factor, q = jnp.asarray(rng.normal(size=(n, 3)) / np.sqrt(n)), jnp.asarray(rng.normal(size=n))

        def primal(scale, n=n, factor=factor, q=q, low_rank=False):
            V = scale * factor
            P = kkt.LowRank(jnp.ones(n), V) if low_rank else lambda v: v + V @ (V.T @ v)
            return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Sum(1.0), kkt.Box(0.0, 1.0))).primal

        problem = kkt.Problem(kkt.Quadratic(lambda v: 2 * v, q), kkt.Sum(1.0), kkt.Box(0.0, 1.0))
        assert isinstance(default_solver(_flatten.flatten(problem, None)[0]), form)
        y, dy = jax.jvp(primal, (1.5,), (1.0,))
        exact, d_exact = jax.jvp(lambda scale: primal(scale, low_rank=True), (1.5,), (1.0,))
        np.testing.assert_allclose(y, exact, atol=1e-8)
        np.testing.assert_allclose(dy, d_exact, atol=1e-8)
    with pytest.raises(ValueError, match="P, a function, must return P v"):
        kkt.solve(kkt.Problem(kkt.Quadratic(lambda v: v[:1], [1.0, 2.0])))
