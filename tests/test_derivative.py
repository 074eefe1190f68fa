"""The engine against finite differences in float64, on points from somebody else's solver."""

import clarabel
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import references
import scipy.optimize
import scipy.sparse as sp
import scipy.sparse.linalg
from jax.experimental.sparse import BCOO

import kkt_solvers as kkt
import kkt_solvers.problems

pytestmark = pytest.mark.usefixtures("x64")


def clarabel_qp(P, q, A, b, lower, upper):
    """Primal and dual of a QP by Clarabel, which knows nothing of this library."""
    n, m = len(q), len(b)
    has_lower, has_upper = np.isfinite(lower), np.isfinite(upper)
    eye = sp.eye(n, format="csr")
    rows = sp.vstack([sp.csr_matrix(A), eye[has_upper], -eye[has_lower]]).tocsc()
    right = np.concatenate([b, upper[has_upper], -lower[has_lower]])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-14
    cones = [clarabel.ZeroConeT(m), clarabel.NonnegativeConeT(len(right) - m)]
    answer = clarabel.DefaultSolver(sp.triu(sp.csc_matrix(P)).tocsc(), q, rows, right, cones, settings).solve()
    z = np.array(answer.z)
    zl, zu = np.zeros(n), np.zeros(n)
    zu[has_upper], zl[has_lower] = z[m : m + has_upper.sum()], z[m + has_upper.sum() :]
    net = zl - zu  # of a fixed variable only the difference is unique
    return np.array(answer.x), kkt.Dual(z[:m], np.maximum(net, 0), np.maximum(-net, 0))


def data(rng, n=12, m=3):
    F = rng.normal(size=(n, n))
    y0 = rng.uniform(size=n)
    A = rng.normal(size=(m, n))
    lower = np.where(np.arange(n) % 5 == 4, -np.inf, 0.0)
    upper = np.where(np.arange(n) % 4 == 3, np.inf, 0.9)
    lower[0] = upper[0] = 0.3  # a fixed variable
    y0 = np.clip(y0, lower, upper)
    return {
        "P": F @ F.T / n + 0.1 * np.eye(n),
        "q": 0.3 * rng.normal(size=n),
        "A": A,
        "b": A @ y0,
        "l": lower,
        "u": upper,
    }


def problem_of(d):
    return kkt.Problem(kkt.Quadratic(d["P"], d["q"]), kkt.Affine(d["A"], d["b"]), kkt.Box(d["l"], d["u"]))


def flat(solution):
    dual = solution.dual
    return jnp.concatenate([solution.primal, dual.equality, dual.lower, dual.upper, solution.objective[None]])


def solved_elsewhere(d):
    return clarabel_qp(*(np.asarray(d[name]) for name in ("P", "q", "A", "b", "l", "u")))


def direction(d, name, rng):
    step = rng.normal(size=d[name].shape)
    if name == "P":
        step = step + step.T
    if name in ("l", "u"):
        step[0] = 1.0  # l == u stays so
    return np.where(np.isfinite(d[name]), step, 0.0)


@pytest.mark.parametrize(
    "names", [("P",), ("q",), ("A",), ("b",), ("l", "u"), ("P", "q", "A", "b", "l", "u")], ids="".join
)
@pytest.mark.parametrize("given", ["dual", "no dual"])
def test_against_finite_differences(names, given, rng):
    d = data(rng)
    steps = {name: direction(d, name, rng) for name in names}

    def moved(t):
        return {name: value + t * steps.get(name, 0.0) for name, value in d.items()}

    point, dual = solved_elsewhere(d)
    dual = dual if given == "dual" else None

    def attached(t):
        return kkt.differentiable(problem_of(moved(t)), point, dual)

    assert kkt.Status(int(attached(0.0).status)).name == "SOLVED"
    assert np.sum((point > d["l"] + 1e-6) & (point < d["u"] - 1e-6)) == 7  # a mix of free and held coordinates
    _, tangent = jax.jvp(lambda t: flat(attached(t)), (0.0,), (1.0,))

    def elsewhere(t):
        y, dual = solved_elsewhere(moved(t))
        P, q = (np.asarray(moved(t)[name]) for name in ("P", "q"))
        return np.concatenate([y, dual.equality, dual.lower, dual.upper, [0.5 * y @ P @ y + q @ y]])

    h = 1e-4
    expected = (8 * (elsewhere(h) - elsewhere(-h)) - (elsewhere(2 * h) - elsewhere(-2 * h))) / (12 * h)
    np.testing.assert_allclose(tangent, expected, atol=1e-6 * np.abs(expected).max())

    # Reverse mode is the transpose of forward mode.
    weights = rng.normal(size=tangent.shape)
    gradient = jax.grad(lambda problem: jnp.vdot(weights, flat(kkt.differentiable(problem, point, dual))))(
        problem_of(d)
    )
    zero = {name: np.zeros_like(value) for name, value in d.items()}
    change = problem_of(zero | steps)
    total = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(change), strict=True))
    np.testing.assert_allclose(total, jnp.vdot(weights, tangent), rtol=1e-9)


def test_second_derivatives(rng):
    d = data(rng)
    point, dual = solved_elsewhere(d)
    dq, db = rng.normal(size=12), rng.normal(size=3)

    def value(t):
        moved = d | {"q": d["q"] + t[0] * dq, "b": d["b"] + t[1] * db}
        solution = kkt.differentiable(problem_of(moved), point, dual)
        return jnp.sum(solution.primal**3) + jnp.sum(solution.dual.equality**2) + solution.objective

    hessian = jax.hessian(value)(jnp.zeros(2))
    reverse = jax.jacrev(jax.jacrev(value))(jnp.zeros(2))

    def slope(t):
        moved = d | {"q": d["q"] + t[0] * dq, "b": d["b"] + t[1] * db}
        y, dual = solved_elsewhere(moved)

        def value(s):
            problem = problem_of(moved | {"q": moved["q"] + s[0] * dq, "b": moved["b"] + s[1] * db})
            solution = kkt.differentiable(problem, y, dual)
            return jnp.sum(solution.primal**3) + jnp.sum(solution.dual.equality**2) + solution.objective

        return jax.grad(value)(jnp.zeros(2))

    h = 1e-4
    expected = np.stack([(slope(h * e) - slope(-h * e)) / (2 * h) for e in np.eye(2)])
    np.testing.assert_allclose(hessian, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(reverse, hessian, rtol=1e-9)


# --------------------------------------------------------------------------- objectives given as functions
def power(y, theta):
    return jnp.sum(theta["w"] * jnp.abs(theta["X"] @ y - theta["t"]) ** 3) + 0.1 * jnp.sum(y**4)


def test_function_objective_function_equality_and_pytree(rng):
    theta = {"w": rng.uniform(1, 2, size=8), "X": rng.normal(size=(8, 5)), "t": rng.normal(size=8)}
    A, b = rng.normal(size=(2, 5)), rng.normal(size=2)
    init = {"first": jnp.zeros(2), "second": jnp.zeros((3, 1))}

    def vector(y):
        return jnp.concatenate([y["first"], y["second"].ravel()])

    def best(theta, b):
        def objective(y):
            return float(power(jnp.asarray(y), theta))

        gradient = jax.jit(jax.grad(lambda y: power(y, theta)))
        constraint = {"type": "eq", "fun": lambda y: A @ y - b, "jac": lambda y: A}
        return scipy.optimize.minimize(
            objective, np.zeros(5), jac=lambda y: np.asarray(gradient(y)), constraints=constraint, method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        ).x  # fmt: skip

    y = best(theta, b)
    like = {"first": jnp.asarray(y[:2]), "second": jnp.asarray(y[2:, None])}

    def attached(theta, b):
        problem = kkt.Problem(
            lambda y, theta: power(vector(y), theta),
            equality=lambda y, theta: {"rows": A @ vector(y) - b},  # closes over b
            args=(theta,),
        )
        return kkt.differentiable(problem, like, tol=1e-6)

    solution = attached(theta, b)
    assert kkt.Status(int(solution.status)).name == "SOLVED"
    assert jax.tree.structure(solution.primal) == jax.tree.structure(init)
    assert solution.dual.equality["rows"].shape == (2,)
    step = {"w": rng.normal(size=8), "X": rng.normal(size=(8, 5)), "t": rng.normal(size=8)}, rng.normal(size=2)
    _, tangent = jax.jvp(lambda *p: vector(attached(*p).primal), (theta, b), step)
    h = 1e-4
    after = best(*jax.tree.map(lambda p, s: p + h * s, (theta, b), step))
    before = best(*jax.tree.map(lambda p, s: p - h * s, (theta, b), step))
    np.testing.assert_allclose(tangent, (after - before) / (2 * h), atol=2e-5 * np.abs(tangent).max())
    assert solution.objective.shape == ()


# ----------------------------------------------------------------------------------- every linear system
def quadratic_cases(rng, n=40):
    V, diagonal = rng.normal(size=(n, 3)), rng.uniform(1, 2, size=n)
    dense = rng.normal(size=(n, n))
    dense = sp.random(n, n, 0.1, random_state=0).toarray() + np.diag(rng.uniform(2, 3, n))
    dense = dense @ dense.T
    yield "diagonal", diagonal, np.diag(diagonal), kkt.linear.DiagonalKKT()
    yield "low_rank", kkt.LowRank(diagonal, V), np.diag(diagonal) + V @ V.T, kkt.linear.LowRankKKT()
    yield "sparse", BCOO.fromdense(dense), dense, kkt.linear.SparseKKT()
    yield "matrix_free", dense, dense, kkt.linear.MatrixFreeKKT()


@pytest.mark.parametrize("kind", ["diagonal", "low_rank", "sparse", "matrix_free"])
def test_linear_systems_agree_with_the_dense_one(kind, rng):
    P, dense, system = next(case[1:] for case in quadratic_cases(rng) if case[0] == kind)
    n = len(dense)
    q, A = rng.normal(size=n), rng.normal(size=(2, n))
    b, lower, upper = A @ np.full(n, 0.4), np.zeros(n), np.ones(n)
    y, dual = clarabel_qp(dense, q, A, b, lower, upper)
    weights = rng.normal(size=n)
    sparse_A = BCOO.fromdense(A) if kind == "sparse" else A

    def gradients(P, A, system):
        def value(q, b, P):
            problem = kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(lower, upper))
            solution = kkt.differentiable(problem, y, dual, linear=system)
            return jnp.vdot(weights, solution.primal) + jnp.sum(solution.dual.equality)

        hessian = jax.jacrev(jax.grad(value))(q, b, P)
        return jax.grad(value, argnums=(0, 1))(q, b, P), hessian

    jitted = jax.jit(gradients, static_argnums=2)
    got, expected = jitted(P, sparse_A, system), jitted(dense, A, kkt.linear.DenseKKT())
    chosen = jitted(P, sparse_A, None)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for a, b, c in zip(*(jax.tree.leaves(t) for t in (got, expected, chosen)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9 * scale)
        np.testing.assert_allclose(c, b, atol=1e-9 * scale)


def test_unconverged_adjoint_is_nan_with_a_warning(rng):
    d = data(rng)
    point, dual = solved_elsewhere(d)

    def value(q):
        system = kkt.linear.MatrixFreeKKT(max_iterations=1)
        return kkt.differentiable(problem_of(d | {"q": q}), point, dual, linear=system).primal.sum()

    with pytest.warns(RuntimeWarning, match="did not converge"):
        gradient = jax.block_until_ready(jax.grad(value)(d["q"]))
    assert np.isnan(gradient).all()


# --------------------------------------------------------------------------------------- degenerate points
def tangent_in_q(problem, point, dq, dual=None):
    def primal(t):
        objective = kkt.Quadratic(problem.objective.P, problem.objective.q + t * dq)
        moved = kkt.Problem(objective, problem.equality, problem.box)
        return kkt.differentiable(moved, point, dual)

    solution, tangent = jax.jvp(primal, (0.0,), (1.0,))
    return solution, tangent.primal, tangent.dual.equality


def test_weakly_active_bound_counts_as_free():
    problem = kkt.Problem(kkt.Quadratic([1.0, 1.0], [0.0, -1.0]), box=kkt.Box(0.0, jnp.inf))
    _, tangent, _ = tangent_in_q(problem, jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0]))
    np.testing.assert_allclose(tangent, [-1.0, -1.0])


def test_dependent_rows(rng):
    A = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    problem = kkt.Problem(kkt.Quadratic(np.eye(3), np.zeros(3)), kkt.Affine(A, A @ np.ones(3)))
    dq = rng.normal(size=3)
    solution, tangent, d_nu = tangent_in_q(problem, jnp.ones(3), dq)
    assert kkt.Status(int(solution.status)).name == "SOLVED"
    np.testing.assert_allclose(tangent, dq.mean() - dq, atol=1e-10)
    assert np.isfinite(d_nu).all()


def test_linear_program_at_a_vertex():
    # min -y1 - 2 y2 over y1 + y2 = b, 0 <= y <= (5, 0.4): the vertex (b - 0.4, 0.4) moves with b
    def primal(b):
        problem = kkt.Problem(kkt.Quadratic(None, [-1.0, -2.0]), kkt.Affine([[1.0, 1.0]], b), kkt.Box(0.0, [5.0, 0.4]))
        return kkt.differentiable(problem, [0.6, 0.4]).primal

    np.testing.assert_allclose(jax.jacfwd(primal)(jnp.array([1.0])), [[1.0], [0.0]], atol=1e-12)


def test_no_free_coordinate():
    def primal(lower):
        problem = kkt.Problem(kkt.Quadratic([1.0, 1.0], [3.0, 3.0]), kkt.Sum(0.0), kkt.Box(lower, 1.0))
        return kkt.differentiable(problem, [0.0, 0.0], kkt.Dual(0.0, [3.0, 3.0], [0.0, 0.0])).primal

    np.testing.assert_array_equal(jax.jacfwd(primal)(jnp.zeros(2)), np.eye(2))


# ------------------------------------------------------------------------------------------------- guards
def test_a_point_that_is_no_solution_has_no_derivative(rng):
    d = data(rng)
    point, _ = solved_elsewhere(d)

    def value(q, check=True):
        solution = kkt.differentiable(problem_of(d | {"q": q}), point + 0.3, check=check)
        return solution.primal.sum(), solution.status

    gradient, status = jax.grad(value, has_aux=True)(d["q"])
    assert kkt.Status(int(status)).name == "NUMERICAL_ERROR"
    assert np.isnan(gradient).all()
    gradient, status = jax.grad(value, has_aux=True)(d["q"], False)
    assert kkt.Status(int(status)).name == "MAX_ITERATIONS"
    assert np.isfinite(gradient).all()


def test_infeasible_and_invalid_rows_of_a_batch():
    totals = jnp.array([1.0, 9.0, jnp.nan, 2.0])

    def value(total):
        problem = kkt.Problem(kkt.Quadratic([1.0, 2.0, 1.0], [0.0, 1.0, -1.0]), kkt.Sum(total), kkt.Box(0.0, 1.0))
        solution = kkt.solve(problem)
        return solution.primal[1] + solution.objective, solution.status

    gradient, status = jax.vmap(jax.grad(value, has_aux=True))(totals)
    assert [kkt.Status(int(s)).name for s in status] == ["SOLVED", "PRIMAL_INFEASIBLE", "INVALID", "SOLVED"]
    np.testing.assert_array_equal(np.isnan(gradient), [False, True, True, False])


def test_strict_promotion_and_debug_nans(rng):
    from kkt_solvers.problems import lml

    x = jnp.asarray(rng.normal(size=5))
    with jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        gradient = jax.jit(jax.grad(lambda x: lml(x, 2)[0]))(x)
        assert np.isfinite(gradient).all()
        d = data(rng)
        point, dual = solved_elsewhere(d)
        gradient = jax.grad(lambda q: kkt.differentiable(problem_of(d | {"q": q}), point, dual).primal[1])(
            jnp.asarray(d["q"])
        )
        assert np.isfinite(gradient).all()


# ------------------------------------------------------------------------------------- diagnosis, and size
def test_degeneracy_report():
    problem = kkt.Problem(
        kkt.Quadratic([1.0, 1.0, 1.0, 1.0], [0.0, -0.5, 2.0, -0.3]),
        box=kkt.Box([0.0, 0.0, 0.0, 0.4], [np.inf, 1.0, 1.0, 0.4]),
    )
    report = kkt.degeneracy(problem, kkt.solve(problem))
    np.testing.assert_array_equal(report.weakly_active, [True, False, False, False])
    np.testing.assert_allclose(report.margin, [0, 1, 1, np.inf], rtol=1e-6)
    assert report.smallest_pivot > 0.1

    repeated = kkt.Problem(kkt.Quadratic(np.eye(2), [0.0, 0.0]), kkt.Affine([[1.0, 1.0], [2.0, 2.0]], [1.0, 2.0]))
    solution = kkt.differentiable(repeated, [0.5, 0.5])
    assert kkt.degeneracy(repeated, solution).smallest_pivot < 1e-12

    lml = kkt.problems.LML(np.array([50.0, -50.0, 0.0]), 1)  # saturated, and yet differentiable
    report = kkt.degeneracy(lml, kkt.solve(lml))
    assert not report.weakly_active.any()


def test_lml_gradient_is_exact_where_an_iterative_solver_fails(rng):
    for scale in (3.0, 6.0):
        x, g = scale * rng.normal(size=1000), rng.normal(size=1000)
        gradient = jax.jit(jax.grad(lambda x: jnp.vdot(g, kkt.problems.lml(x, 5))))(x)  # noqa: B023
        expected = references.lml_gradient(x, 5, g)[0].astype(float)
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def largest_array(function, *args):
    """The number of elements of the largest array in the computation."""
    largest = 0

    def walk(jaxpr):
        nonlocal largest
        for equation in jaxpr.eqns:
            for variable in equation.outvars:
                largest = max(largest, int(np.prod(variable.aval.shape, dtype=float)))
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                walk(inner)

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return largest


def test_low_rank_never_forms_a_square_matrix(rng):
    n, r = 10_000, 20
    V, q, one, first = rng.normal(size=(n, r)) / 100, rng.normal(size=n), np.ones(n), np.eye(1, n)[0]

    def inverse(v):  # of I + V V', by Woodbury's formula
        return v - V @ np.linalg.solve(np.eye(r) + V.T @ V, V.T @ v)

    nu = -(1.0 + inverse(q) @ one) / (inverse(one) @ one)
    y = -inverse(q + nu)

    def value(q):
        problem = kkt.Problem(kkt.Quadratic(kkt.LowRank(one, V), q), kkt.Sum(1.0))
        return kkt.differentiable(problem, y).primal[0]

    expected = -(inverse(first) - inverse(one) * (one @ inverse(first)) / (one @ inverse(one)))
    np.testing.assert_allclose(jax.jit(jax.grad(value))(q), expected, atol=1e-12)
    assert largest_array(jax.grad(value), q) <= n * r


def test_lml_of_a_million_scores_in_linear_memory():
    n = 1_000_000
    assert largest_array(jax.grad(lambda x: kkt.problems.lml(x, 10)[0]), jnp.zeros(n)) < 1.001 * n


def test_all_rows_of_a_jacobian_share_one_factorisation(rng):
    d = data(rng)
    point, dual = solved_elsewhere(d)

    def primal(q):
        return kkt.differentiable(problem_of(d | {"q": q}), point, dual).primal

    def shapes_factorised(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "cholesky":
                yield equation.invars[0].aval.shape
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from shapes_factorised(inner)

    # One of the Hessian, one of the Schur complement.
    for jacobian in (jax.jacrev(primal), jax.jacfwd(primal)):
        assert list(shapes_factorised(jax.make_jaxpr(jacobian)(d["q"]).jaxpr)) == [(12, 12), (3, 3)]


# ---------------------------------------------------------------------------------- independent KKT systems
def test_against_an_independently_solved_kkt_system(rng):
    d = data(rng)
    point, dual = solved_elsewhere(d)
    held = (dual.lower > 1e-6) | (dual.upper > 1e-6) | (d["l"] == d["u"])
    E = ~held
    m, n_free = len(d["b"]), int(E.sum())
    K = np.block([[d["P"][np.ix_(E, E)], d["A"][:, E].T], [d["A"][:, E], np.zeros((m, m))]])
    dq, db = rng.normal(size=12), rng.normal(size=m)
    expected = np.linalg.solve(K, np.concatenate([-dq[E], db]))

    def moved(t):
        solution = kkt.differentiable(problem_of(d | {"q": d["q"] + t * dq, "b": d["b"] + t * db}), point, dual)
        return solution.primal[E], solution.dual.equality

    _, (dy, dnu) = jax.jvp(moved, (0.0,), (1.0,))
    np.testing.assert_allclose(np.concatenate([dy, dnu]), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    assert n_free == 7


def plan_entropy(y, theta):
    cost, size = theta
    return cost * y + size * y * (jnp.log(y) - 1)


def plan_inverse(z, theta):
    cost, size = theta
    return jnp.exp((z - cost) / size)


def test_separable_with_several_equalities(rng):
    # Entropic optimal transport: 4 x 5, one of the 9 marginals is redundant. Reference: Sinkhorn's iteration.
    cost = rng.uniform(size=(4, 5))
    a, b = np.full(4, 1 / 4), np.full(5, 1 / 5)
    rows = np.zeros((9, 4, 5))
    for i in range(4):
        rows[i, i] = 1
    for j in range(5):
        rows[4 + j, :, j] = 1
    rows = rows.reshape(9, 20)

    def sinkhorn(cost):
        kernel, u, v = np.exp(-cost / 0.1), np.ones(4), np.ones(5)
        for _ in range(5000):
            u = a / (kernel @ v)
            v = b / (kernel.T @ u)
        return u[:, None] * kernel * v

    @jax.jit
    def plan(cost):
        objective = kkt.Separable(plan_entropy, (cost, 0.1), plan_inverse)
        problem = kkt.Problem(objective, kkt.Affine(rows, np.concatenate([a, b])), kkt.Box(0.0, np.inf))
        return kkt.solve(problem)

    solution = plan(cost)
    assert kkt.Status(int(solution.status)).name == "SOLVED"
    np.testing.assert_allclose(solution.primal, sinkhorn(cost), atol=1e-9)
    step, h = rng.normal(size=cost.shape), 1e-4
    tangent = jax.jvp(lambda c: plan(c).primal, (cost,), (step,))[1]
    np.testing.assert_allclose(tangent, (sinkhorn(cost + h * step) - sinkhorn(cost - h * step)) / (2 * h), atol=1e-6)


def test_sparse_system_of_some_size(rng):
    n = 3000
    band = sp.diags([np.full(n - 1, -1.0), np.full(n, 2.5), np.full(n - 1, -1.0)], [-1, 0, 1], format="csr")
    A = sp.random(300, n, 0.002, random_state=0, format="csr") + sp.eye(300, n, format="csr")
    q, b = rng.normal(size=n), rng.normal(size=300)
    K = sp.bmat([[band, A.T], [A, None]], format="csc")
    y = sp.linalg.spsolve(K, np.concatenate([-q, b]))[:n]

    def value(q, b):
        return kkt.differentiable(kkt.Problem(kkt.Quadratic(band, q), kkt.Affine(A, b)), y).primal[7]

    assert largest_array(jax.grad(value), q, b) < 400 * n  # nothing n x n
    gradient = jax.jit(jax.grad(value, argnums=(0, 1)))(q, b)
    expected = sp.linalg.spsolve(K, np.eye(1, n + 300, 7)[0])
    np.testing.assert_allclose(gradient[0], -expected[:n], atol=1e-10)
    np.testing.assert_allclose(gradient[1], expected[n:], atol=1e-10)


def test_large_smooth_problem_without_a_matrix(rng):
    n = 5000
    c = rng.normal(size=n)

    def cost(y, c):
        return jnp.sum(jnp.cosh(y - c)) + 0.5 * jnp.sum(jnp.diff(y) ** 2)

    def gradient(y):
        d = np.diff(y, prepend=y[:1], append=y[-1:])
        return np.sinh(y - c) + d[:-1] - d[1:]

    def hessian(y):
        return sp.diags(
            [-np.ones(n - 1), np.cosh(y - c) + np.r_[1.0, np.full(n - 2, 2.0), 1.0], -np.ones(n - 1)], [-1, 0, 1]
        )

    one = np.ones((1, n))
    y, nu = np.zeros(n), 0.0
    for _ in range(30):  # Newton's method in scipy, for the point
        K = sp.bmat([[hessian(y), one.T], [one, None]], format="csc")
        step = sp.linalg.spsolve(K, -np.concatenate([gradient(y) + nu, [y.sum() - 1.0]]))
        y, nu = y + step[:n], nu + step[n]

    def value(total):
        return kkt.differentiable(kkt.Problem(cost, kkt.Sum(total), args=(c,)), y).primal[:3]

    expected = sp.linalg.spsolve(K, np.eye(1, n + 1, n)[0])[:3]
    np.testing.assert_allclose(jax.jit(jax.jacfwd(value))(1.0), expected, rtol=1e-8)
    assert largest_array(jax.jacfwd(value), 1.0) < 10 * n


def test_value_and_jacobian_in_one_program(x64, rng):
    factor, q = rng.normal(size=(20, 5)), jnp.asarray(rng.normal(size=5))

    def primal(q):
        return kkt.solve(kkt.Problem(kkt.Quadratic(factor.T @ factor, q), box=kkt.Box(-0.05, 0.05))).primal

    y, jacobian = jax.jit(lambda q: (primal(q), jax.jacobian(primal)(q)))(q)
    free = np.abs(y) < 0.05
    expected = np.zeros((5, 5))
    expected[np.ix_(free, free)] = -np.linalg.inv((factor.T @ factor)[np.ix_(free, free)])
    assert 0 < free.sum() < 5
    np.testing.assert_allclose(jacobian, expected, atol=1e-12)
