"""The door and the certificate: what is accepted, what is refused, and what a status is worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
from jax.experimental.sparse import BCOO
from test_derivative import clarabel_qp

import kkt_solvers as kkt
from kkt_solvers.problems import LML


def names(status):
    return [kkt.Status(int(code)).name for code in jnp.ravel(status)]


# --------------------------------------------------------------------------------------- every solver, one table
def quadratic(n, rng, dtype):
    F = rng.normal(size=(n, n))
    P, q = (F @ F.T / n + 0.1 * np.eye(n)).astype(dtype), rng.normal(size=n).astype(dtype)
    weights = rng.choice([-1.0, 1.0], size=n).astype(dtype)
    return kkt.Problem(kkt.Quadratic(P, q), kkt.Sum(np.asarray(0.5, dtype), weights), kkt.Box(0.0, 1.0))


def by_scipy(problem):
    P, q = (np.asarray(a, float) for a in (problem.objective.P, problem.objective.q))
    w, total = np.asarray(problem.equality.weights, float), float(problem.equality.total)
    return scipy.optimize.minimize(
        lambda y: 0.5 * y @ P @ y + q @ y,
        np.full(len(q), 0.5),
        jac=lambda y: P @ y + q,
        bounds=[(0, 1)] * len(q),
        constraints={"type": "eq", "fun": lambda y: w @ y - total, "jac": lambda y: w},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    ).x


class AugmentedLagrangian:
    """A user's solver, and not one of ours: ten lines."""

    def run(self, problem, init):
        def residual(y):
            return problem.equality.product(y) - problem.equality.target

        def step(_, state):
            y, nu = state
            slope = problem.objective.gradient(y) + problem.equality.adjoint(nu + residual(y))
            y = jnp.clip(y - 0.1 * slope, problem.box.lower, problem.box.upper)
            return y, nu + 0.1 * residual(y)

        y, nu = jax.lax.fori_loop(0, 6000, step, (init, problem.equality.target))
        return y, kkt.Dual(nu, None, None), 6000, True


@pytest.mark.parametrize(
    "solver",
    [
        None,
        kkt.InteriorPoint(polish=False),
        kkt.ProjectedGradient(),
        kkt.ProjectedGradient(acceleration=False),
        kkt.MirrorDescent(max_iterations=20000),
        AugmentedLagrangian(),
    ],
    ids=lambda solver: str(solver)[:40],
)
def test_quadratic_by_every_solver(solver, dtype, rng):
    problem = quadratic(8, rng, dtype)
    expected = by_scipy(problem)
    bound = {"float64": 2e-6, "float32": 1e-3}[dtype.name]

    @jax.jit
    def run(problem):
        def value(problem):
            solution = kkt.solve(problem, solver=solver)
            return solution.objective, solution

        return jax.grad(value, has_aux=True)(problem)

    gradient, solution = run(problem)
    assert names(solution.status) == ["SOLVED"]
    assert solution.primal.dtype == dtype
    np.testing.assert_allclose(solution.primal, expected, atol=bound)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), problem)
    np.testing.assert_allclose(jax.vmap(lambda p: kkt.solve(p, solver=solver))(batch).primal[1], expected, atol=bound)

    # The certificate, once more, by hand.
    y, dual = np.asarray(solution.primal, float), jax.tree.map(lambda a: np.asarray(a, float), solution.dual)
    P, q, w = (np.asarray(a, float) for a in (problem.objective.P, problem.objective.q, problem.equality.weights))
    stationarity = P @ y + q + dual.equality * w - dual.lower + dual.upper
    assert np.abs(stationarity).max() < 10 * bound
    assert min(dual.lower.min(), dual.upper.min()) >= 0
    assert abs(w @ y - 0.5) < bound
    np.testing.assert_allclose(gradient.objective.q, y, atol=1e-5)
    np.testing.assert_allclose(gradient.equality.total, -dual.equality, atol=1e-5)


def test_separable_without_a_minimiser(dtype, rng):
    # An elementwise power has no handy inverse derivative here: the scalar Newton iteration finds it.
    c = rng.normal(size=6).astype(dtype)

    def solve(c, minimiser):
        objective = kkt.Separable(lambda y, c: jnp.abs(y) ** 3 / 3 - c * y, c, minimiser)
        return kkt.solve(kkt.Problem(objective, kkt.Sum(1.0), kkt.Box(-2.0, 2.0)))

    def inverse(z, c):
        return jnp.sign(z + c) * jnp.sqrt(jnp.abs(z + c))

    found, known = solve(c, None), solve(c, inverse)
    bound = {"float64": 1e-9, "float32": 1e-4}[dtype.name]
    assert names(found.status) == names(known.status) == ["SOLVED"]
    np.testing.assert_allclose(found.primal, known.primal, atol=bound)
    jacobians = [jax.jacrev(lambda c, m=m: solve(c, m).primal)(c) for m in (None, inverse)]
    np.testing.assert_allclose(jacobians[0], jacobians[1], atol=10 * bound)


def test_box_only_and_no_bounds():
    solution = kkt.solve(kkt.Problem(kkt.Quadratic([1.0, 2.0], [-3.0, 1.0]), box=kkt.Box(0.0, 1.0)))
    np.testing.assert_allclose(solution.primal, [1, 0])
    np.testing.assert_allclose(solution.dual.upper, [2, 0])
    np.testing.assert_allclose(solution.dual.lower, [0, 1])
    assert solution.dual.equality is None
    free = kkt.solve(kkt.Problem(kkt.Quadratic(np.eye(2) * 2, [-3.0, 1.0])))
    np.testing.assert_allclose(free.primal, [1.5, -0.5], atol=1e-5)


def test_sparse_dense_and_diagonal_are_one(x64, rng):
    P, q = np.diag([1.0, 2.0, 3.0]), rng.normal(size=3)
    A, b = np.array([[1.0, 0.0, 2.0]]), [1.0]
    answers = [
        kkt.solve(kkt.Problem(kkt.Quadratic(kind, q), kkt.Affine(rows, b), kkt.Box(-1.0, 1.0))).primal
        for kind, rows in (
            (P, A),
            (np.diag(P), A),
            (sp.csr_matrix(P), sp.coo_matrix(A)),
            (BCOO.fromdense(P), BCOO.fromdense(A)),
            (kkt.LowRank(np.diag(P), np.zeros((3, 1))), A),
        )
    ]
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=1e-7)


def test_pytrees_integers_and_lists():
    def f(y, c):
        return jnp.sum((y["a"] - c) ** 2) + jnp.sum(y["b"] ** 2)

    init = {"a": jnp.zeros(2, int), "b": jnp.zeros(())}
    problem = kkt.Problem(f, lambda y, c: y["a"].sum() + y["b"] - 3, kkt.Box({"a": 0, "b": 0.5}, 2), args=(1.0,))
    solution = kkt.solve(problem, init)
    assert names(solution.status) == ["SOLVED"]
    np.testing.assert_allclose(solution.primal["a"], [1.25, 1.25], atol=1e-3)
    np.testing.assert_allclose(solution.primal["b"], 0.5, atol=1e-3)
    integers = kkt.solve(kkt.Problem(kkt.Quadratic([1, 1], [0, 0]), kkt.Sum(1), kkt.Box([0, 0], [1, 1])))
    np.testing.assert_allclose(integers.primal, 0.5)


def test_bad_rows_of_a_batch(x64):
    lower = jnp.array([[0.0, 0.0], [0.5, 0.0], [jnp.nan, 0.0], [jnp.inf, 0.0]])
    upper = jnp.array([[1.0, 1.0], [0.2, 1.0], [1.0, 1.0], [jnp.inf, 1.0]])

    def value(lower, upper):
        problem = kkt.Problem(kkt.Quadratic([1.0, 1.0], [1.0, -1.0]), kkt.Sum(1.2), kkt.Box(lower, upper))
        solution = kkt.solve(problem)
        return solution.primal[0], solution

    gradient, solution = jax.vmap(jax.grad(value, argnums=(0, 1), has_aux=True))(lower, upper)
    assert names(solution.status) == ["SOLVED", "INVALID", "INVALID", "INVALID"]
    np.testing.assert_allclose(solution.primal[0], [0.2, 1.0])
    np.testing.assert_allclose(gradient[1][0], [0, -1])
    assert np.isnan(solution.primal[1:]).all()
    assert np.isnan(gradient[0][1:]).all()


def test_a_solver_never_grades_its_own_work():
    class Liar:
        def run(self, problem, init):
            return init + 7.0, None, 1, True

    class Modest:
        def run(self, problem, init):
            return jnp.array([0.5, 0.5]), None, 1, False

    problem = kkt.Problem(kkt.Quadratic([1.0, 1.0], [0.0, 0.0]), kkt.Sum(1.0))
    assert names(kkt.solve(problem, solver=Liar()).status) == ["NUMERICAL_ERROR"]
    assert names(kkt.solve(problem, solver=Modest()).status) == ["SOLVED"]


def test_max_iterations_differentiates_the_best_point_and_says_so(rng):
    problem = quadratic(30, rng, np.float32)
    solver = kkt.ProjectedGradient(max_iterations=1, round_iterations=1)

    def value(problem):
        solution = kkt.solve(problem, solver=solver)
        return solution.primal[0], solution

    gradient, solution = jax.grad(value, has_aux=True)(problem)
    assert names(solution.status) == ["MAX_ITERATIONS"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    with pytest.raises(RuntimeError, match=r"MAX_ITERATIONS: stopped before"):
        solution.raise_if_failed()
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), problem)
    with pytest.raises(RuntimeError, match="2 of 2 instances, first at 0"):
        jax.vmap(lambda p: kkt.solve(p, solver=solver))(batch).raise_if_failed()
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(lambda p: kkt.solve(p).raise_if_failed())(problem)
    good = kkt.solve(LML([1.0, 2.0], 1))
    assert good.raise_if_failed() is good


def test_a_concrete_problem_inside_a_trace(rng):
    # jax.numpy makes tracers of concrete arrays there; looking at their values must not fail.
    problem = kkt.Problem(kkt.Quadratic(np.eye(2), jnp.ones(2)), kkt.Sum(1.0), kkt.Box(jnp.zeros(2), 1.0))
    np.testing.assert_allclose(jax.jit(lambda t: t * kkt.solve(problem).primal)(2.0), [1, 1], atol=1e-6)


def f(y, *args):
    return jnp.sum(y**2)


def vector_valued(y):
    return y


def weighed(y, weights):
    return jnp.sum(weights * y**2)


EYE = np.eye(3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: kkt.Problem(3.0), TypeError, "objective must be"),
        (lambda: kkt.Problem(f, equality=3.0), TypeError, "equality must be"),
        (lambda: kkt.Problem(f, box=(0, 1)), TypeError, "box must be a Box"),
        (lambda: kkt.Problem(f, args=1.0), TypeError, "args must be a tuple"),
        (
            lambda: kkt.Problem(vector_valued, args=(1.0,)),
            TypeError,
            r"objective must take y and each of the 1 args.* of \(y\)",
        ),
        (lambda: kkt.Problem(weighed, inequality=vector_valued, args=(1.0,)), TypeError, "inequality must take y and"),
        (lambda: kkt.Problem(weighed, vector_valued, args=(1.0,)), TypeError, "equality must take y and"),
        (lambda: kkt.Box([0.0, None], 1.0), TypeError, "lower must be .* where there is no bound write -inf or inf"),
        (lambda: kkt.Affine(lambda y: y, [0.0]), TypeError, "A must be a matrix"),
        (lambda: kkt.Separable(3.0), TypeError, "phi must be"),
        (lambda: kkt.Separable(f, complement=f), ValueError, "complement needs a minimiser"),
        (lambda: kkt.Quadratic("P", [1.0]), TypeError, "P must be a number"),
        (lambda: kkt.solve(3.0), TypeError, "problem must be a Problem"),
        (lambda: kkt.solve(kkt.Problem(f)), ValueError, "init is needed"),
        (lambda: kkt.solve(kkt.Problem(f), [jnp.nan, 0.0]), ValueError, "init has a NaN"),
        (lambda: kkt.solve(kkt.Problem(vector_valued), jnp.zeros(2)), ValueError, "objective must return a scalar"),
        (lambda: kkt.solve(kkt.Problem(f), jnp.zeros(2), solver="pg"), TypeError, "solver must have a method run"),
        (lambda: kkt.solve(kkt.Problem(f), jnp.zeros(2), linear="dense"), TypeError, "linear must be a KKTSystem"),
        (lambda: kkt.solve(kkt.Problem(kkt.Quadratic(EYE, [1.0] * 4))), ValueError, "shapes disagree about y"),
        (lambda: kkt.solve(kkt.Problem(kkt.Quadratic(EYE[:2], [1.0] * 3))), ValueError, "P must have shape"),
        (
            lambda: kkt.solve(kkt.Problem(kkt.Quadratic(EYE, [1.0] * 3), kkt.Affine([[1.0] * 4], [1.0]))),
            ValueError,
            "A",
        ),
        (
            lambda: kkt.solve(kkt.Problem(kkt.Quadratic(EYE, [1.0] * 3), kkt.Affine(EYE[:1], [1.0, 1.0]))),
            ValueError,
            "b must",
        ),
        (
            lambda: kkt.solve(kkt.Problem(kkt.Quadratic(EYE, [1.0] * 3), kkt.Sum([1.0, 2.0]))),
            ValueError,
            "total must be",
        ),
        (lambda: kkt.solve(kkt.Problem(f, box=kkt.Box([0.0, 0.0], 1.0)), jnp.zeros(3)), ValueError, "lower has shape"),
        (  # named before the function meets an array of the wrong shape
            lambda: kkt.solve(kkt.Problem(weighed, box=kkt.Box(0.0, np.ones(3)), args=(np.ones(3),)), jnp.zeros(4)),
            ValueError,
            r"upper has shape \(3,\)",
        ),
        (lambda: kkt.solve(kkt.Problem(f, box=kkt.Box(1.0, 0.0)), jnp.zeros(3)), ValueError, "lower is above upper"),
        (lambda: kkt.solve(kkt.Problem(f, box=kkt.Box(np.nan, 0.0)), jnp.zeros(3)), ValueError, "lower has a NaN"),
        (
            lambda: kkt.solve(kkt.Problem(f, box=kkt.Box(0.0, -np.inf)), jnp.zeros(3)),
            ValueError,
            "upper has a NaN or inf",
        ),
        (lambda: kkt.solve(kkt.Problem(kkt.Quadratic(EYE, [np.nan] * 3))), ValueError, "q has a NaN"),
        (lambda: kkt.solve(kkt.Problem(kkt.Quadratic(np.full((3, 3), np.inf), [0.0] * 3))), ValueError, "P has a NaN"),
        (lambda: kkt.solve(LML([1.0, 2.0], 1), {"a": 1.0}), TypeError, "Separable objective needs y"),
        (
            lambda: kkt.solve(
                kkt.Problem(kkt.Quadratic([1.0] * 3, [1.0] * 3), kkt.Affine(EYE[:2], [1.0, 1.0])),
                solver=kkt.DualBisection(),
            ),
            ValueError,
            "at most one",
        ),
        (lambda: kkt.solve(kkt.Problem(f), jnp.zeros(2), solver=kkt.DualBisection()), ValueError, "needs a separable"),
        (
            lambda: kkt.differentiable(kkt.Problem(f), [0.0, 0.0], kkt.Dual(None, [0.0], None)),
            ValueError,
            "dual.lower must",
        ),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_flat_coordinates_of_a_diagonal_objective(dtype, rng):
    # Where flat coordinates jump from bound to bound at the root of the dual, they share what is missing.
    bound = 1e-8 if dtype == np.float64 else 1e-3
    solve = jax.jit(kkt.solve)
    for _ in range(40):
        P, q = np.where(rng.random(7) < 0.6, 0, rng.uniform(0.1, 2, 7)), rng.integers(-2, 3, 7) * 1.0
        weights, upper = rng.uniform(0.5, 2, 7) * rng.choice([-1, 1], 7), rng.choice([0.7, 2.0, np.inf], 7)
        q = np.where(np.isinf(upper), np.abs(q) + 0.1, q)
        total = weights @ np.minimum(rng.uniform(size=7), upper)
        P, q, weights, total, upper = (np.asarray(part, dtype) for part in (P, q, weights, total, upper))
        problem = kkt.Problem(kkt.Quadratic(P, q), kkt.Sum(total, weights), kkt.Box(0.0, upper))
        solution = solve(problem)
        y, _ = clarabel_qp(np.diag(P).astype(float), q.astype(float), weights[None], total[None], np.zeros(7), upper)
        assert names(solution.status) == ["SOLVED"]
        np.testing.assert_allclose(solution.objective, P @ (y * y) / 2 + q @ y, rtol=bound, atol=bound)
    unbounded = kkt.Problem(kkt.Quadratic([1.0, 0.0], [0.0, -1.0]), box=kkt.Box(0.0, np.inf))
    assert names(kkt.solve(unbounded).status) == ["DUAL_INFEASIBLE"]


# ------------------------------------------------------------------------------------------- on an accelerator
def low_rank(n, rng, dtype):
    factor, diagonal = rng.normal(size=(n, 2)).astype(dtype), np.ones(n, dtype)
    A, b = rng.normal(size=(2, n)).astype(dtype), np.zeros(2, dtype)
    return kkt.Problem(kkt.Quadratic(kkt.LowRank(diagonal, factor), np.ones(n, dtype)), kkt.Affine(A, b))


def rows_apart(n, rng, dtype):
    theta = rng.normal(size=n).astype(dtype)
    A = rng.normal(size=(2, n)).astype(dtype)
    objective = kkt.Separable(lambda y, c: 0.5 * y * y - c * y, theta, lambda z, c: z + c)
    return kkt.Problem(objective, kkt.Affine(A, A @ np.full(n, 0.5, dtype)), kkt.Box(0.0, 1.0))


@pytest.mark.parametrize(
    ("problem", "solver", "linear"),
    [
        (quadratic, kkt.InteriorPoint(), None),
        (quadratic, kkt.PrimalDual(), kkt.linear.MatrixFreeKKT()),
        (quadratic, kkt.ProjectedGradient(), kkt.linear.DenseKKT()),
        (low_rank, kkt.InteriorPoint(), None),
        (rows_apart, kkt.DualNewton(), None),
    ],
)
def test_every_product_of_matrices_is_at_full_precision(rng, problem, solver, linear):
    # A GPU rounds the factors of float32 products to eleven bits, unless a program says otherwise. What JAX calls after
    # `solve` has returned, for derivatives and for batches, has to say so too.
    problem = problem(5, rng, np.float32)

    @jax.jit
    def value(scale):
        scaled = jax.tree.map(lambda leaf: leaf * scale if jnp.ndim(leaf) else leaf, problem)
        solution = kkt.solve(scaled, solver=solver, linear=linear)
        return jnp.sum(solution.primal) + solution.objective

    program = str(jax.make_jaxpr(jax.vmap(jax.value_and_grad(value)))(jnp.ones(3)))
    products = program.count("dot_general[")
    assert products == program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") > 3
