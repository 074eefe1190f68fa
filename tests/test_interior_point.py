"""The interior point against Clarabel, HiGHS and closed forms, and its certificates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import scipy.optimize
import scipy.sparse
from test_derivative import clarabel_qp, data, largest_array, problem_of

import kkt_solvers as kkt


def name(solution):
    return kkt.Status(int(solution.status)).name


def test_quadratic_programs_against_clarabel(rng, x64):
    solve = jax.jit(kkt.solve)
    for _ in range(5):
        d = data(rng)
        y, dual = clarabel_qp(*(d[key] for key in ("P", "q", "A", "b", "l", "u")))
        solution = solve(problem_of(d))
        assert name(solution) == "SOLVED"
        assert solution.residuals.largest < 1e-12
        np.testing.assert_allclose(solution.primal, y, atol=1e-7)
        np.testing.assert_allclose(solution.dual.equality, dual.equality, atol=1e-6)
        np.testing.assert_allclose(solution.dual.lower - solution.dual.upper, dual.lower - dual.upper, atol=1e-6)


@pytest.mark.parametrize("P", ["none", "flat"])
def test_linear_programs_against_highs(P, rng, x64):
    n, m = 30, 12
    for _ in range(3):
        A, c = rng.normal(size=(m, n)), rng.normal(size=n)
        lower = np.where(np.arange(n) % 7 == 0, -np.inf, 0.0)
        upper = np.where(np.arange(n) % 3 == 0, 2.0, np.inf)
        c = A.T @ rng.normal(size=m) + np.where(np.isfinite(upper), c, np.where(np.isfinite(lower), np.abs(c), 0.0))
        b = A @ np.clip(rng.normal(size=n), lower, upper)
        answer = scipy.optimize.linprog(c, A_eq=A, b_eq=b, bounds=np.stack([lower, upper], 1), method="highs")
        quadratic = kkt.Quadratic(None if P == "none" else np.zeros((n, n)), c)
        solution = kkt.solve(kkt.Problem(quadratic, kkt.Affine(A, b), kkt.Box(lower, upper)))
        assert name(solution) == "SOLVED"
        np.testing.assert_allclose(solution.objective, answer.fun, rtol=1e-9)
        np.testing.assert_allclose(solution.primal, answer.x, atol=1e-7)
        np.testing.assert_allclose(-solution.dual.equality, answer.eqlin.marginals, atol=1e-7)


def power(y, c):
    return jnp.sum(jnp.abs(y - c) ** 3) + jnp.sum(jnp.exp(y))


def log_utility(y, R):
    return -jnp.sum(jnp.log(R @ y))


def test_smooth_objectives_and_their_derivatives(rng, dtype):
    R = rng.uniform(0.5, 1.5, size=(12, 6)).astype(dtype)
    R[:, 0] += 0.2
    A = rng.normal(size=(2, 6)).astype(dtype)
    cases = [
        (log_utility, kkt.Sum(1.0), kkt.Box(0.0, 1.0), R),
        (power, kkt.Affine(A, A @ np.full(6, 0.3, dtype)), kkt.Box(-1.0, 1.0), rng.normal(size=6).astype(dtype)),
    ]
    bound = {"float64": 1e-6, "float32": 2e-3}[dtype.name]
    for f, equality, box, given in cases:
        init = jnp.full(6, 0.2, dtype)

        @jax.jit
        def run(problem, init=init):
            return kkt.solve(problem, init, solver=kkt.InteriorPoint())

        problem = kkt.Problem(f, equality, box, args=(given,))
        solution = run(problem)
        assert name(solution) == "SOLVED"
        assert solution.iterations <= 30
        rows = np.ones((1, 6)) if isinstance(equality, kkt.Sum) else A
        target = np.atleast_1d(np.asarray(equality.target, float))
        expected = scipy.optimize.minimize(
            lambda y, f=f, given=given: float(f(y, given)),
            np.full(6, 0.2),
            jac=lambda y, f=f, given=given: np.asarray(jax.grad(f)(y, given), float),
            bounds=[(float(box.lower), float(box.upper))] * 6,
            constraints={"type": "eq", "fun": lambda y, r=rows, t=target: r @ y - t, "jac": lambda y, r=rows: r},
            method="SLSQP",
            options={"ftol": 1e-13, "maxiter": 500},
        )
        np.testing.assert_allclose(solution.objective, expected.fun, rtol=bound)
        np.testing.assert_allclose(solution.primal, expected.x, atol=30 * bound)
        if dtype == np.float64:
            step, h = rng.normal(size=given.shape), 1e-5
            moved = [run(kkt.Problem(f, equality, box, args=(given + s * h * step,))).primal for s in (1, -1)]
            tangent = jax.jvp(
                lambda t, p=problem, d=given, s=step: (
                    run(kkt.Problem(p.objective, p.equality, p.box, (d + t * s,))).primal
                ),
                (0.0,),
                (1.0,),
            )[1]
            np.testing.assert_allclose(tangent, (moved[0] - moved[1]) / (2 * h), atol=1e-6)


def test_certificates_in_a_batch(x64):
    def status(total, slope, upper):
        problem = kkt.Problem(
            kkt.Quadratic(np.zeros((2, 2)), jnp.stack([slope, 1.0])),
            kkt.Affine([[1.0, 1.0], [1.0, -1.0]], jnp.stack([total, total])),
            kkt.Box([0.0, -1.0], jnp.stack([upper, 1.0])),
        )
        solution = kkt.solve(problem)
        return solution.status, jax.grad(
            lambda q: kkt.solve(kkt.Problem(kkt.Quadratic(None, q), problem.equality, problem.box)).primal[0]
        )(problem.objective.q)

    statuses, gradients = jax.vmap(status)(jnp.array([1.0, 9.0, jnp.nan]), jnp.ones(3), jnp.full(3, 5.0))
    assert [kkt.Status(int(s)).name for s in statuses] == ["SOLVED", "PRIMAL_INFEASIBLE", "INVALID"]
    np.testing.assert_array_equal(np.isnan(gradients).all(axis=1), [False, True, True])


def test_unbounded_and_infeasible(x64):
    ray = kkt.Problem(kkt.Quadratic(None, [-1.0, 0.0]), kkt.Affine([[1.0, -1.0]], [0.0]), kkt.Box(0.0, np.inf))
    solution = kkt.solve(ray)
    assert name(solution) == "DUAL_INFEASIBLE"
    np.testing.assert_allclose(solution.primal, [1.0, 1.0], atol=1e-6)
    assert solution.objective == -np.inf
    apart = kkt.Affine([[1.0, 1.0, 0.0], [1e-3, 1e-3, 0.0]], [1.0, 0.002])
    solution = kkt.solve(kkt.Problem(kkt.Quadratic(np.eye(3), np.ones(3)), apart))
    assert name(solution) == "PRIMAL_INFEASIBLE"
    np.testing.assert_allclose(solution.dual.equality, [1e-3, -1.0], atol=1e-9)  # A'nu = 0 and b'nu < 0
    assert solution.objective == np.inf
    # One row: the box reaches 3 at most.
    solution = kkt.solve(kkt.Problem(kkt.Quadratic(np.ones(3), np.ones(3)), kkt.Sum(4.0), kkt.Box(0.0, 1.0)))
    assert name(solution) == "PRIMAL_INFEASIBLE"
    np.testing.assert_allclose(solution.dual.equality, -1.0)
    np.testing.assert_allclose(solution.dual.upper, 1.0)


def double_well(y):
    return jnp.sum((y**2 - 1) ** 2)


def test_infeasible_programs_that_are_nearly_feasible(x64):
    m, n, count = 20, 40, 24
    data = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        nu, A = rng.normal(size=m), rng.integers(-9, 10, size=(m, n)).astype(float)
        A = np.where(A.T @ nu < 0, -A, A)  # A'nu >= 0, and zero on the most of the columns
        flat = rng.random(n) < 0.6
        A[:, flat] -= np.outer(nu, A[:, flat].T @ nu) / (nu @ nu)
        b = A @ rng.random(n)
        b -= nu * (b @ nu + 10.0 ** -rng.integers(4)) / (nu @ nu)  # b'nu < 0 <= nu'A y for all y >= 0
        data.append((10.0 ** rng.integers(-3, 3), rng.normal(size=n), A, b))
    scale, q, A, b = (jnp.asarray(np.stack(part)) for part in zip(*data, strict=True))

    def solution(scale, q, A, b):
        objective = kkt.Quadratic(scale * jnp.eye(n), q)
        return kkt.solve(kkt.Problem(objective, kkt.Affine(A, b), kkt.Box(0.0, jnp.inf)))

    solutions = jax.jit(jax.vmap(solution))(scale, q, A, b)
    assert np.all(solutions.status == kkt.Status.PRIMAL_INFEASIBLE)
    ray = np.asarray(solutions.dual.equality)
    w, value = np.einsum("imn,im->in", A, ray), np.sum(np.asarray(b) * ray, axis=1)
    # b'ray = ray'A y for no y >= 0 of up to a thousand times the size of b.
    assert np.all(value < 1e3 * np.sum(np.minimum(w, 0), axis=1))


def test_nonconvex_objectives_are_not_called_solved(x64):
    saddle = kkt.Quadratic([[1.0, 0.0], [0.0, -5.0]], [0.0, 0.3])
    assert name(kkt.solve(kkt.Problem(saddle, kkt.Sum(0.1)))) == "INVALID"
    opaque = kkt.solve(kkt.Problem(double_well, box=kkt.Box(-2.0, 2.0)), jnp.array([1e-3, 0.0]))
    assert name(opaque) == "INVALID"  # it would otherwise end on the hill between the wells, where the slope is zero


def test_dependent_rows_fixed_variables_and_no_constraints(x64, rng):
    A = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1e6, 1e6, 1e6], [0.0, 0.0, 0.0]])
    problem = kkt.Problem(kkt.Quadratic(np.eye(3), [0.0, 1.0, 2.0]), kkt.Affine(A, A @ [1.0, 0.0, 0.5]))
    solution = kkt.solve(problem)
    assert name(solution) == "SOLVED"
    np.testing.assert_allclose(solution.primal, [1.5, 0.5, -0.5], atol=1e-9)
    fixed = kkt.Box([0.2, 0.0, 0.1], [0.2, 1.0, 0.1])
    solution = kkt.solve(kkt.Problem(kkt.Quadratic(np.eye(3), [0.0, -3.0, 2.0]), box=fixed))
    assert name(solution) == "SOLVED"
    np.testing.assert_allclose(solution.primal, [0.2, 1.0, 0.1], atol=1e-9)
    all_fixed = kkt.solve(
        kkt.Problem(kkt.Quadratic(np.eye(2), [1.0, 1.0]), kkt.Sum(0.5), kkt.Box([0.2, 0.3], [0.2, 0.3])),
        solver=kkt.InteriorPoint(),
    )
    assert name(all_fixed) == "SOLVED"


def test_low_rank_covariance_is_never_formed(rng, x64):
    # A long-only portfolio of a factor model; the reference is the same problem with its matrix written out.
    def portfolio(n, P, mean):
        return kkt.Problem(kkt.Quadratic(P, -mean), kkt.Sum(1.0), kkt.Box(0.0, 0.1))

    n, r = 60, 4
    diagonal, V, mean = rng.uniform(0.1, 0.3, size=n), rng.normal(size=(n, r)) / 5, rng.normal(size=n) / 10
    low_rank = kkt.solve(portfolio(n, kkt.LowRank(diagonal, V), mean))
    written_out = kkt.solve(portfolio(n, np.diag(diagonal) + V @ V.T, mean))
    assert name(low_rank) == name(written_out) == "SOLVED"
    np.testing.assert_allclose(low_rank.primal, written_out.primal, atol=1e-9)

    n = 5000
    P = kkt.LowRank(rng.uniform(0.1, 0.3, size=n), rng.normal(size=(n, 20)) / 5)

    def value(mean):
        solution = kkt.solve(portfolio(n, P, mean))
        return solution.primal[0], solution.status

    mean = rng.normal(size=n) / 10
    assert largest_array(jax.grad(value, has_aux=True), mean) <= 20 * n
    gradient, status = jax.jit(jax.grad(value, has_aux=True))(mean)
    assert kkt.Status(int(status)).name == "SOLVED"
    assert np.isfinite(gradient).all()


def test_float32(rng):
    d = jax.tree.map(lambda a: a.astype(np.float32), data(rng))
    solution = kkt.solve(problem_of(d))
    assert solution.primal.dtype == np.float32
    assert name(solution) == "SOLVED"
    y, _ = clarabel_qp(*(np.asarray(d[key], float) for key in ("P", "q", "A", "b", "l", "u")))
    np.testing.assert_allclose(solution.primal, y, atol=1e-4)


def guarded_entropy(y):
    return jnp.sum(jnp.where(y == 0, 0.0, y * jnp.log(jnp.where(y == 0, 1.0, y))))


def test_tiny_components_of_an_entropy(x64):
    # The loaded die of Jaynes: y_i ~ r^i with mean 1.001, down to 1e-15.
    faces = np.arange(1, 7)

    def mean(log_ratio):
        weight = np.exp(log_ratio * (faces - 1))
        return weight @ faces / weight.sum()

    log_ratio = scipy.optimize.brentq(lambda t: mean(t) - 1.001, -20, 0, xtol=1e-15, rtol=1e-14)
    exact = np.exp(log_ratio * (faces - 1))
    exact /= exact.sum()
    # A finite slope at zero, which is what automatic differentiation makes of it, is not to be believed.
    problem = kkt.Problem(guarded_entropy, kkt.Affine([np.ones(6), faces], [1.0, 1.001]), kkt.Box(0.0, np.inf))
    solution = kkt.solve(problem, jnp.full(6, 1 / 6))
    assert name(solution) == "SOLVED"
    assert solution.iterations <= 30
    np.testing.assert_allclose(solution.primal, exact, rtol=1e-6, atol=5e-16)
    assert exact[-1] < 1e-14


def test_saturated_binary_entropy_as_an_opaque_function(x64, rng):
    def objective(y, x):
        return jnp.sum(y * jnp.log(y) + (1 - y) * jnp.log1p(-y)) - x @ y

    x = 10 * rng.normal(size=40)
    problem = kkt.Problem(objective, kkt.Sum(3.0), kkt.Box(0.0, 1.0), args=(x,))
    solution = kkt.solve(problem, jnp.full(40, 0.1))
    assert name(solution) == "SOLVED"
    assert solution.iterations <= 40
    exact, _ = references.lml(x, 3)
    np.testing.assert_allclose(solution.primal, exact.astype(float), rtol=1e-6, atol=1e-15)
    assert np.all((solution.primal > 0) & (solution.primal < 1))


def sparse_program(rng, n, m):
    """A feasible bounded linear program with a banded matrix: of a random pattern the factors would be full."""
    bands = {offset: rng.normal(size=m) for offset in (-1, 0, 1, 3, n // 2)}
    A = scipy.sparse.diags_array(list(bands.values()), offsets=list(bands), shape=(m, n)).tocsr()
    inside = np.where(rng.uniform(size=n) < 0.5, 0.0, rng.uniform(0.5, 1.5, n))
    multiplier = np.where(inside > 0, 0.0, rng.uniform(0.1, 1.0, n))
    return A, A @ inside, multiplier - A.T @ rng.normal(size=m)


def test_sparse_linear_program_against_highs(x64, rng):
    n, m = 700, 300
    A, b, q = sparse_program(rng, n, m)
    answer = scipy.optimize.linprog(q, A_eq=A, b_eq=b, bounds=(0, None), method="highs")

    @jax.jit
    def solve(q):
        return kkt.solve(kkt.Problem(kkt.Quadratic(None, q), kkt.Affine(A, b), kkt.Box(0.0, np.inf)))

    solution = solve(q)
    assert name(solution) == "SOLVED"
    np.testing.assert_allclose(solution.objective, answer.fun, rtol=1e-10)
    # A batch goes through the same callbacks, and each instance has its own answer.
    both = jax.vmap(solve)(jnp.stack([q, 2 * q]))
    np.testing.assert_allclose(both.objective, [answer.fun, 2 * answer.fun], rtol=1e-9)


@pytest.mark.slow
def test_large_sparse_quadratic_program(x64, rng):
    n, m = 20000, 8000
    A, b, q = sparse_program(rng, n, m)
    P = scipy.sparse.diags_array(rng.uniform(0.5, 1.0, n))
    solution = kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(0.0, np.inf)))
    assert name(solution) == "SOLVED"
    y, dual = np.asarray(solution.primal), solution.dual
    np.testing.assert_allclose(A @ y, b, atol=1e-8)
    np.testing.assert_allclose(P @ y + q + A.T @ dual.equality - dual.lower, 0, atol=1e-8)
    assert np.abs(np.asarray(dual.lower) * y).max() < 1e-8


def test_linear_program_with_variables_of_very_different_size(x64, rng):
    n, m = 60, 25
    d = 10.0 ** rng.uniform(-3, 5, n)
    A = rng.normal(size=(m, n))
    inside = np.where(np.arange(n) % 2, 0.0, rng.uniform(0.5, 1.5, n))
    q = np.where(inside > 0, 0.0, rng.uniform(0.1, 1.0, n)) - A.T @ rng.normal(size=m)
    problem = kkt.Problem(kkt.Quadratic(None, q / d), kkt.Affine(A / d, A @ inside), kkt.Box(0.0, np.inf))
    solution = kkt.solve(problem)
    assert name(solution) == "SOLVED"
    np.testing.assert_allclose(solution.objective, q @ inside, rtol=1e-8)


def test_progress_and_history(x64, capsys):
    problem = kkt.Problem(kkt.Quadratic([[2.0, 0.5], [0.5, 1.0]], [-3.0, 0.0]), kkt.Sum(1.0), kkt.Box(0.0, 2.0))
    rows = []

    def record(iteration, objective, residual):
        rows.append((int(iteration), float(objective), float(residual)))

    solution = kkt.solve(problem, progress=record)
    assert [row[0] for row in sorted(rows)] == list(range(int(solution.iterations) + 1))
    assert sorted(rows)[-1][2] < 1e-8 < sorted(rows)[0][2]
    np.testing.assert_allclose(sorted(rows)[-1][1], solution.objective)
    kkt.solve(problem, solver=kkt.ProjectedGradient(), progress=True)
    table = capsys.readouterr().out.splitlines()
    assert "iteration" in table[0]
    assert len(table) >= 3
    with pytest.raises(TypeError, match="progress must be"):
        kkt.solve(problem, progress="yes")


def test_warm_start_from_a_failed_solution(x64):
    def problem(total):
        return kkt.Problem(
            kkt.Quadratic(np.eye(3), [0.0, -1.0, 1.0]), kkt.Affine(np.ones((1, 3)), [total]), kkt.Box(0, 1)
        )

    failed = kkt.solve(problem(9.0), solver=kkt.InteriorPoint())
    assert name(failed) == "PRIMAL_INFEASIBLE"
    cold = kkt.solve(problem(1.0), solver=kkt.InteriorPoint())
    for start in (failed, cold):
        solution = kkt.solve(problem(1.0), start, solver=kkt.InteriorPoint())
        assert name(solution) == "SOLVED"
        np.testing.assert_allclose(solution.primal, cold.primal, atol=1e-9)
    assert solution.iterations == 0


def smooth_dispatch(y, prices):
    return prices @ y + 0.8 * jnp.sum(jnp.diff(y) ** 2) + 0.01 * jnp.sum(y**2)


def test_a_quadratic_as_an_opaque_function(x64):
    # From the lower bounds, with slopes and products of quite different sizes.
    prices = jnp.array([32, 34, 33, 30, 26, 22, 18, 15, 13, 12, 13, 16, 22, 28.0])
    P = jax.hessian(smooth_dispatch)(jnp.zeros(14), prices)
    rest = kkt.Sum(30.0), kkt.Box(0.0, 7.0)
    expected = kkt.solve(kkt.Problem(kkt.Quadratic(P, prices), *rest))
    for start in (0.0, 2.0, 7.0):
        solution = kkt.solve(kkt.Problem(smooth_dispatch, *rest, args=(prices,)), jnp.full(14, start))
        assert name(solution) == "SOLVED"
        assert solution.iterations <= 20
        np.testing.assert_allclose(solution.primal, expected.primal, atol=1e-9)


@pytest.mark.parametrize("repeated", ["jit", "map", "scan"])
def test_without_an_equality_inside_other_functions(repeated):
    # XLA mistakes calls of LAPACK in a program with arrays without entries, such as an equality of no rows.
    H = np.array([[2.0, 0.5], [0.5, 1.0]])

    def first(q):
        return kkt.solve(kkt.Problem(kkt.Quadratic(H, q), box=kkt.Box(0.0, 1.0))).primal[0]

    def total(q):
        if repeated == "jit":
            return 2 * jax.jit(first)(q)
        if repeated == "map":
            return jnp.sum(jax.lax.map(first, jnp.stack([q, q])))
        return jax.lax.scan(lambda sum, _: (sum + first(q), None), 0.0, None, length=2)[0]

    value, slope = jax.jit(lambda q: (total(q), jax.grad(total)(q)))(jnp.array([-1.0, 0.0]))
    np.testing.assert_allclose(value, 1.0, atol=1e-6)
    np.testing.assert_allclose(slope, [-1.0, 0.0], atol=1e-6)


def test_a_batch_of_larger_dense_problems(x64, rng):
    # Batched LAPACK calls on a CPU once waited for each other for ever, at sizes like this one.
    n, m = 100, 20
    F, A, q = rng.normal(size=(4, n, n)), rng.normal(size=(4, m, n)), rng.normal(size=(4, n))
    P, b = F @ F.transpose(0, 2, 1) / n + 0.1 * np.eye(n), A @ rng.uniform(0.2, 0.8, n)

    def primal(q, P, A, b):
        return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(0.0, 1.0))).primal

    def both(*data):
        return primal(*data), jax.jacobian(primal)(*data)

    y, jacobian = jax.jit(jax.vmap(both))(q, P, A, b)
    for i in range(4):
        expected = kkt.solve(kkt.Problem(kkt.Quadratic(P[i], q[i]), kkt.Affine(A[i], b[i]), kkt.Box(0.0, 1.0)))
        np.testing.assert_allclose(y[i], expected.primal, atol=1e-9)
        free = (expected.primal > 1e-9) & (expected.primal < 1 - 1e-9)
        K = np.block([[P[i][np.ix_(free, free)], A[i][:, free].T], [A[i][:, free], np.zeros((m, m))]])
        np.testing.assert_allclose(jacobian[i][np.ix_(free, free)], -np.linalg.inv(K)[:-m, :-m], atol=1e-8)


def test_flat_directions_do_not_delay_the_active_set(x64):
    # Power flow in a network: the angles have no curvature, and pivots on them are all zero.
    n, lines = 20, 40
    solve = jax.jit(kkt.solve)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        ends = [(i, i + 1) for i in range(n - 1)] + [rng.choice(n, 2, replace=False) for _ in range(lines - n + 1)]
        incidence = np.zeros((lines, n))
        incidence[np.arange(lines)[:, None], np.array(ends)] = 1, -1
        laplacian = incidence.T @ (rng.uniform(1, 10, lines)[:, None] * incidence)
        A = np.block([[-laplacian, np.eye(n)], [np.eye(1, 2 * n)]])
        P, q = np.diag(np.r_[np.zeros(n), rng.uniform(0.5, 2, n)]), np.r_[np.zeros(n), rng.normal(size=n)]
        b, infinite = np.r_[rng.uniform(0, 1, n), 0.0], np.full(n, np.inf)
        box = kkt.Box(np.r_[-infinite, np.zeros(n)], np.r_[infinite, np.full(n, 1.2)])
        solution = solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), box))
        assert solution.status == kkt.Status.SOLVED
        assert solution.iterations <= 5  # 6 and 7 where a pivoted factorisation is waited for
        y, nu, dual = solution.primal, solution.dual.equality, solution.dual
        np.testing.assert_allclose(A @ y, b, atol=1e-13)
        np.testing.assert_allclose(P @ y + q + A.T @ nu, dual.lower - dual.upper, atol=1e-12)
        free = (y > 1e-12) & (y < 1.2 - 1e-12) | (np.arange(2 * n) < n)
        np.testing.assert_array_equal(np.asarray(dual.lower + dual.upper)[free], 0)
        assert np.min(dual.lower) >= 0
        assert np.min(dual.upper) >= 0


def in_float32(problem):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), problem)


def flow_network(rng, buses=30, more=12, plants=6, limit=0.3):
    """Least cost of a direct-current network: angles are free and cost nothing, flows are bounded."""
    ends = [(i, (i + 1) % buses) for i in range(buses)] + [
        tuple(rng.choice(buses, 2, replace=False)) for _ in range(more)
    ]
    susceptance, load = rng.uniform(1, 90, len(ends)), rng.uniform(0, 0.1, buses)
    flows = plants + buses + np.arange(len(ends))
    A = np.zeros((buses + len(ends), flows[-1] + 1))
    A[rng.choice(buses, plants, replace=False), np.arange(plants)] = 1
    for line, (start, end) in enumerate(ends):
        A[[start, end], flows[line]] = -1, 1
        A[buses + line, [flows[line], plants + start, plants + end]] = -1, susceptance[line], -susceptance[line]
    P, q, u = np.zeros(A.shape[1]), np.zeros(A.shape[1]), np.full(A.shape[1], np.inf)
    P[:plants], q[:plants] = rng.uniform(166, 1250, plants), rng.uniform(100, 325, plants)
    u[:plants], u[flows] = load.sum() / 2, limit
    lower, target = np.where(np.arange(len(u)) < plants, 0.0, -u), np.append(load, np.zeros(len(ends)))
    return kkt.Problem(kkt.Quadratic(np.diag(P), q), kkt.Affine(A, target), kkt.Box(lower, u))


@pytest.mark.parametrize("seed", range(20))
def test_free_coordinates_that_cost_nothing_in_float32(seed):
    solution = jax.jit(kkt.solve)(in_float32(flow_network(np.random.default_rng(seed))))
    assert name(solution) == "SOLVED"
    assert solution.residuals.largest < 1e-6


@pytest.mark.parametrize("seed", [1, 2, 4, 5, 7, 8, 9, 12])
def test_congested_networks_in_float32(seed):
    # Prices differ from bus to bus, and with tight limits there may be no way to serve the load.
    with jax.enable_x64(True):
        problem = flow_network(np.random.default_rng(seed), limit=0.15)
        exact = name(jax.jit(kkt.solve)(problem))
    assert exact in ("SOLVED", "PRIMAL_INFEASIBLE")
    assert name(jax.jit(kkt.solve)(in_float32(problem))) == exact


@pytest.mark.parametrize("seed", range(10))
def test_degenerate_linear_programs_in_float32(seed):
    # Fewer coordinates are off their bounds than there are rows.
    rng, (m, n) = np.random.default_rng(seed), (40, 80)
    A = rng.normal(size=(m, n)) * (rng.random((m, n)) < 0.1)
    A[np.arange(m), np.arange(m)] = 1
    y = np.where(rng.random(n) < 0.3, rng.uniform(0, 10, n), 0)
    z = np.where(y == 0, rng.uniform(0, 1, n) * (rng.random(n) < 0.8), 0)
    q = A.T @ rng.normal(size=m) + z
    problem = kkt.Problem(kkt.Quadratic(None, q), kkt.Affine(A, A @ y), kkt.Box(0.0, np.inf))
    solution = jax.jit(kkt.solve)(in_float32(problem))
    assert name(solution) == "SOLVED"
    np.testing.assert_allclose(solution.objective, q @ y, rtol=1e-4)


def test_tiny_totals_of_an_entropy_in_float32(rng):
    # The Schur complement is the total, less than what it is regularised by.
    def objective(y, x):
        return jnp.sum(y * jnp.log(y) + (1 - y) * jnp.log1p(-y)) - x @ y

    x, solve = rng.normal(size=100), jax.jit(kkt.solve)
    for total in (1e-3, 1e-5, 3e-6, 1e-6, 1e-9):
        problem = in_float32(kkt.Problem(objective, kkt.Sum(total), kkt.Box(0.0, 1.0), args=(x,)))
        solution = solve(problem, jnp.full(100, total / 100, jnp.float32))
        assert name(solution) == "SOLVED"
        np.testing.assert_allclose(np.sum(solution.primal), total, rtol=1e-4)


def test_a_start_at_which_no_term_has_a_size(dtype, rng):
    """The point nearest to zero with `1 <= M x <= 1e4`: at the start x is zero, and with it all terms of the value."""
    n, m = 20, 40
    M = (rng.normal(size=(20, m, n)) + 1).astype(dtype)
    P, q = np.diag(np.repeat([1, 0], [n, m])).astype(dtype), np.zeros(n + m, dtype)
    lower, upper = (np.repeat([end, bound], [n, m]).astype(dtype) for end, bound in ((-np.inf, 1), (np.inf, 1e4)))

    @jax.jit
    @jax.vmap
    def solve(M):
        equality = kkt.Affine(jnp.hstack([M, -jnp.eye(m, dtype=dtype)]), jnp.zeros(m, dtype))
        return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), equality, kkt.Box(lower, upper)))

    solution = solve(M)
    assert np.all(np.asarray(solution.status) == kkt.Status.SOLVED)
    for M_i, x in zip(M.astype(float), np.asarray(solution.primal, float)[:, :n], strict=True):
        # Its dual: min |M'v|^2 / 2 - sum(v) over v >= 0, which is nonnegative least squares.
        stacked = np.vstack([M_i.T, np.ones((1, m))])
        v = scipy.optimize.nnls(stacked, np.append(np.zeros(n), 1.0))[0]
        expected = M_i.T @ v / (1 - v.sum())
        np.testing.assert_allclose(x, expected, atol=1e-9 if dtype == np.float64 else 1e-4)
