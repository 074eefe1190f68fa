"""What once came back wrong and called SOLVED, or failed with somebody else's message: one test for each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kkt_solvers as kkt
from kkt_solvers import projections
from kkt_solvers.problems import (
    LML,
    bounded_least_squares,
    channel_capacity,
    entropic_top_k,
    lml,
    lml_binary_cross_entropy,
    lml_loss,
    logistic_regression,
    soft_top_k,
)


def names(solution):
    return {kkt.Status(int(code)).name for code in np.ravel(solution.status)}


# ------------------------------------------------------------------------------ functions that are not affine
def cost(y, *args):
    return y[0] + y[1]


def disc(y, radius=1.0):
    return y[0] ** 2 + y[1] ** 2 + y[2] - radius


def test_a_nonlinear_equality_is_refused():
    problem = kkt.Problem(cost, disc, kkt.Box([-5.0, -5.0, 0.0], 5.0))
    with pytest.raises(ValueError, match="equality is not affine"):
        kkt.solve(problem)
    assert names(jax.jit(kkt.solve)(problem)) == {"INVALID"}
    traced = jax.jit(lambda r: kkt.solve(kkt.Problem(cost, lambda y: disc(y, r), problem.box)).status)
    assert int(traced(1.0)) == kkt.Status.INVALID


def test_a_nonlinear_inequality_is_not_ignored(x64):
    solution = kkt.solve(kkt.Problem(cost, box=kkt.Box([-5.0, -5.0, 0.0], 5.0), inequality=disc))
    assert names(solution) == {"SOLVED"}
    np.testing.assert_allclose(solution.primal, [-(0.5**0.5), -(0.5**0.5), 0.0], atol=1e-8)
    np.testing.assert_allclose(solution.dual.inequality, 0.5**0.5, rtol=1e-8)


@pytest.mark.parametrize("P", [lambda v: v**3, lambda v: jnp.array([[2.0, 1.0], [0.0, 2.0]]) @ v])
def test_a_map_that_is_not_linear_or_not_symmetric_is_refused(P):
    problem = kkt.Problem(kkt.Quadratic(P, jnp.ones(2)), box=kkt.Box(-1.0, 1.0))
    with pytest.raises(ValueError, match="not linear and symmetric"):
        kkt.solve(problem)
    assert names(jax.jit(kkt.solve)(problem)) == {"INVALID"}


# ---------------------------------------------------------------------------------------------- finite numbers
def test_a_value_that_is_not_finite_is_never_solved(x64):
    problem = kkt.Problem(lambda y: -jnp.sum(jnp.log(y)), box=kkt.Box(-2.0, -1.0))
    assert names(kkt.solve(problem, jnp.full(3, -1.5))) == {"NUMERICAL_ERROR"}


@pytest.mark.parametrize("n", [10, 5000, 100_000])
def test_a_nan_is_seen_however_long_the_array(n):
    y = np.zeros(n, np.float32)
    y[n // 2] = np.nan
    problem = kkt.Problem(kkt.Quadratic(np.ones(n, np.float32), np.zeros(n, np.float32)))
    assert names(kkt.differentiable(problem, y)) == {"NUMERICAL_ERROR"}
    if n < 100_000:
        found = lml(np.stack([np.zeros_like(y), y]), 5)
        assert np.isfinite(found[0]).all()
        assert np.isnan(found[1]).all()


def test_a_nan_in_a_batch():
    q = np.zeros((1500, 4), np.float32)
    q[700] = np.nan
    solutions = jax.jit(jax.vmap(lambda q: kkt.solve(kkt.Problem(kkt.Quadratic(jnp.ones(4), q), kkt.Sum(1.0)))))(q)
    assert int(solutions.status[700]) == kkt.Status.INVALID
    assert np.isnan(solutions.primal[700]).all()
    assert int(np.sum(solutions.status == kkt.Status.SOLVED)) == 1499


# -------------------------------------------------------------------------------------------------- derivatives
@pytest.mark.parametrize("P", [[1.0, 1.0, 0.0], kkt.LowRank([1.0, 1.0, 0.0], [[0.5], [0.2], [0.0]])])
def test_flat_coordinates_in_the_derivative(P, x64):
    A = np.array([[1.0, 0.0, 10.0], [0.0, 1.0, 10.0]])

    def y(b):
        return kkt.solve(kkt.Problem(kkt.Quadratic(P, [-1.0, -2.0, -3.0]), kkt.Affine(A, b))).primal

    np.testing.assert_allclose(A @ jax.jacobian(y)(jnp.array([1.0, 2.0])), np.eye(2), atol=1e-12)


def test_rows_of_different_scale_in_the_derivative():
    A = np.array([[300, -100, 200], [1e-5, 2e-5, -1e-5]], np.float32)

    def y(b):
        return kkt.solve(kkt.Problem(kkt.Quadratic(jnp.ones(3), jnp.zeros(3)), kkt.Affine(A, b))).primal

    relative = np.diag([1, 1e5]) @ (A @ jax.jacobian(y)(jnp.array([1.0, 1e-5]))) @ np.diag([1, 1e-5])
    np.testing.assert_allclose(relative, np.eye(2), atol=1e-4)


def test_vertices_with_tiny_curvature(rng):
    @jax.jit
    def jacobians(A, b, q):
        def y(b):
            curvature = 1e-12 * jnp.eye(6)
            return kkt.solve(kkt.Problem(kkt.Quadratic(curvature, q), kkt.Affine(A, b), kkt.Box(0.0, 2.0))).primal

        return jax.jacfwd(y)(b), jax.jacrev(y)(b)

    for _ in range(6):
        A, q = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 6), 6))
        forward, reverse = jacobians(A, A @ rng.uniform(size=6).astype(np.float32), q)
        np.testing.assert_allclose(A @ forward, np.eye(3), atol=1e-4)
        np.testing.assert_allclose(forward, reverse, atol=1e-4 * np.abs(forward).max())


def test_bounds_of_an_objective_without_minimiser(rng, x64):
    def y(lower, c):
        box = kkt.Box(1.1 * lower - 0.3, lower + 1)
        return kkt.solve(kkt.Problem(kkt.Separable(lambda y, c: (y - c) ** 2 / 2 + 0.1 * y**4, c), kkt.Sum(1.0), box))

    c, lower, d = rng.normal(size=(30, 5)), rng.uniform(-0.1, 0.1, size=(30, 5)), rng.normal(size=(30, 5))
    batch = jax.jit(jax.vmap(lambda lower, c, d: jax.jvp(lambda lower: y(lower, c).primal, (lower,), (d,))))
    tangent, h = batch(lower, c, d)[1], 1e-6
    differences = (batch(lower + h * d, c, d)[0] - batch(lower - h * d, c, d)[0]) / (2 * h)
    np.testing.assert_allclose(tangent, differences, atol=1e-7)


# -------------------------------------------------------------------------------------------------------- units
@pytest.mark.parametrize("c", [1e-12, 1e-6, 1.0, 1e3, 1e12])
def test_units_change_no_verdict(c, dtype, rng):
    """Objective in units of `c`, dense and diagonal; then the variables."""
    F, A = rng.normal(size=(20, 10, 10)), rng.normal(size=(20, 3, 10))
    P, q = F @ F.transpose(0, 2, 1) / 10, rng.normal(size=(20, 10))
    b = np.einsum("bij,bj->bi", A, rng.uniform(-0.5, 0.5, size=(20, 10)))

    @jax.jit
    @jax.vmap
    def solve(P, q, A, b, size):
        return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(-size, size)))

    def by(f, y):
        size = np.full(20, y, dtype)
        return solve(*(v.astype(dtype) for v in (f / y**2 * P, f / y * q, A, y * b)), size)

    small = {"float32": 1e-4, "float64": 1e-9}[dtype.name]
    reference = by(1.0, 1.0).primal
    in_units = [by(c, 1.0)] if dtype == np.float32 else [by(c, 1.0), by(1.0, c)]
    for solution, unit in zip(in_units, (1.0, c), strict=False):
        assert names(solution) == {"SOLVED"}
        np.testing.assert_allclose(solution.primal / unit, reference, atol=small)


def test_small_data_and_rows(dtype):
    c = 1e-9 if dtype == np.float32 else 1e-12
    P = np.asarray([[2, 1], [1, 2]], dtype)
    solution = kkt.solve(kkt.Problem(kkt.Quadratic(c * P, np.asarray([-3 * c, 0], dtype))))
    np.testing.assert_allclose(solution.primal, [2, -1], atol=1e-4)


def test_least_squares_in_single_precision(rng):
    X, z = (rng.normal(size=shape).astype(np.float32) for shape in ((50, 300, 5), (50, 300)))
    found = jax.jit(jax.vmap(lambda X, z: bounded_least_squares(X, z, lower=0.0, upper=1.0)))(X, z)
    assert np.isfinite(found).all()


# --------------------------------------------------------------------------------------------------- objectives
@pytest.mark.parametrize("power", [1.5, 1.2])
def test_a_start_without_curvature(power, rng, x64):
    q = rng.normal(size=(20, 4))
    solve = jax.jit(
        jax.vmap(
            lambda q: kkt.solve(
                kkt.Problem(lambda y, q: jnp.sum(jnp.abs(y) ** power) + q @ y, box=kkt.Box(-50.0, 50.0), args=(q,)),
                jnp.zeros(4),
            )
        )
    )
    expected = np.clip(-np.sign(q) * (np.abs(q) / power) ** (1 / (power - 1)), -50, 50)
    solution = solve(q)
    assert names(solution) == {"SOLVED"}
    np.testing.assert_allclose(solution.primal, expected, atol=1e-6)


def flat(y, R, q):
    return jnp.sum((R @ y) ** 2) + q @ y


def soft(y, R, q):
    return jnp.sum(jax.nn.softplus(R @ y)) + q @ y


def round_cone(y, R, q):
    return 0.1 * jnp.sqrt(1 + jnp.sum((R @ y) ** 2)) + q @ y


def strip(y, R, q):
    return (R[0] @ y) ** 2 - 1.0


@pytest.mark.parametrize(("objective", "inequality"), [(flat, None), (soft, strip), (round_cone, None)])
def test_functions_that_fall_for_ever_are_not_solved(objective, inequality, dtype, rng):
    """`q'd < 0` with `A d = 0` and `R d = 0`: an iterate may go so far that nothing seems left beside it."""
    count, n = 50, 6
    R, A, q = (rng.normal(size=(count, *shape)).astype(dtype) for shape in ((2, n), (1, n), (n,)))

    def solved(R, A, q):
        problem = kkt.Problem(objective, kkt.Affine(A, jnp.ones(1)), args=(R, q), inequality=inequality)
        return kkt.solve(problem, jnp.zeros(n)).status

    status = jax.jit(jax.vmap(solved))(R, A, q)
    assert not np.any((status == kkt.Status.SOLVED) | (status == kkt.Status.INVALID))
    assert np.mean(status == kkt.Status.NUMERICAL_ERROR) > (0.9 if dtype == np.float64 else 0.4)


def test_an_infimum_that_is_not_attained_is_not_solved(x64):
    solution = kkt.solve(kkt.Problem(lambda y: jnp.sum(jnp.exp(-y)), box=kkt.Box(0.0, jnp.inf)), jnp.zeros(2))
    # Not for want of iterations: it stopped as rounding allows no more.
    assert names(solution) == {"INACCURATE"}
    assert int(solution.iterations) < kkt.InteriorPoint().max_iterations
    assert "float64" in kkt.Status.INACCURATE.message
    assert np.isnan(logistic_regression([[1.0], [-1.0]], [1, -1])).all()


# ------------------------------------------------------------------------------------------------ DualBisection
def test_fixed_variables_that_are_not_zero(x64):
    problem = kkt.Problem(kkt.Quadratic(np.ones(4), np.zeros(4)), kkt.Sum(2.2), kkt.Box([0.0, 0.0, 1.0, 1.0], 1.0))
    np.testing.assert_allclose(kkt.solve(problem).primal, [0.1, 0.1, 1, 1], atol=1e-12)
    found = projections.euclidean([0.3, 0.4, 0.5, 0.6], 2.2, lower=[0.0, 0.0, 1.0, 1.0], upper=1.0)
    np.testing.assert_allclose(found, [0.05, 0.15, 1, 1], atol=1e-12)


def test_some_infinite_bounds_in_an_entropy(x64):
    w = np.array([0.2, 1.39, 1.58, 0.23, 0.51, 0.65])
    t = np.array([-0.46, 1.22, -0.86, 1.25, -0.27, -1.49])
    upper = np.array([np.inf, np.inf, 1.98, np.inf, 1.35, np.inf])
    objective = kkt.Separable(lambda y, t: jax.scipy.special.xlogy(y, y) - t * y, t, lambda z, t: jnp.exp(z + t - 1))
    solution = kkt.solve(kkt.Problem(objective, kkt.Sum(1.67, w), kkt.Box(0.0, upper)))
    assert names(solution) == {"SOLVED"}
    np.testing.assert_allclose(w @ solution.primal, 1.67, rtol=1e-12)


# ---------------------------------------------------------------------------------------------------------- LML
def test_masked_rows_sum_to_k(dtype, rng):
    small = {"float32": 1e-5, "float64": 1e-12}[dtype.name]
    np.testing.assert_allclose(lml(jnp.zeros(8, dtype), 2, where=jnp.arange(8) < 3)[:3], 2 / 3, rtol=small)
    for n in (3, 100):
        x, mask = (3 * rng.normal(size=(1000, n))).astype(dtype), rng.random((1000, n)) < 0.6
        mask[:, 0] = True
        for w in (np.ones((1000, n), dtype), np.exp(rng.normal(size=(1000, n))).astype(dtype)):
            k = (np.sum(mask * w, 1) * rng.choice([0.01, 0.1, 0.5, 0.9, 0.999], size=1000)).astype(dtype)
            y = np.asarray(lml(x, k, where=mask, weights=w), float)
            assert np.all(y[~mask] == 0)
            assert y.max() <= 1
            np.testing.assert_allclose(np.sum(w * y, 1), k, rtol=small)


def test_temperature_beside_infinite_scores(x64):
    def loss(temperature, x):
        return jnp.sum(lml(x, 2, temperature=temperature) * jnp.arange(4.0))

    for end in (-jnp.inf, jnp.inf):
        x, h = jnp.array([1.0, end, 0.0, 2.0]), 1e-6
        difference = (loss(1 + h, x) - loss(1 - h, x)) / (2 * h)
        np.testing.assert_allclose(jax.grad(loss)(1.0, x), difference, atol=1e-8)
    x = jnp.array([1.0, 0.5, 0.0, 2.0])
    assert jax.grad(loss)(1e-30, x) == 0
    assert jax.jvp(lambda t: loss(t, x), (jnp.float32(1e-30),), (jnp.float32(1.0),))[1] == 0


def test_one_hot_rows_are_no_labels():
    with pytest.raises(ValueError, match="one-hot"):
        lml_loss(jnp.ones((1, 4)), jnp.array([[0, 1, 0, 0]]), 2)
    traced = jax.jit(lambda labels: lml_loss(jnp.ones((1, 4)), labels, 2))
    assert np.isnan(traced(jnp.array([[0, 1, 0, 0]])))
    assert np.isfinite(traced(jnp.array([[0, 1, 2, -1]])))
    with pytest.raises(ValueError, match="targets must lie"):
        lml_binary_cross_entropy(jnp.ones(3), [0.0, 2.0, 0.0], 1)


def test_no_scores():
    assert lml(jnp.zeros((3, 0)), 0).shape == (3, 0)
    assert lml(jnp.zeros(0), 0).shape == (0,)
    for choose in (soft_top_k, entropic_top_k):
        assert choose(jnp.zeros((3, 0)), 0).shape == (3, 0)
    with pytest.raises(TypeError, match="axis must be an integer"):
        lml(jnp.zeros(3), 1, axis=1.0)


def test_more_than_there_is_to_choose():
    x = jnp.array([1.0, -jnp.inf, jnp.inf, 0.0])
    for k in (0.5, 3.5):  # one is certain, and one forbidden
        with pytest.raises(ValueError, match="k must lie between 1 and"):
            LML(x, k)
        assert names(jax.jit(lambda k: kkt.solve(LML(x, k)))(k)) == {"INVALID"}
    assert names(kkt.solve(LML(x, 2))) == {"SOLVED"}


def test_second_derivatives_where_slopes_underflow(dtype):
    x = jnp.asarray([0.0, 60.0, -70.0, 200.0], dtype)
    for k in (1, 2):
        assert np.isfinite(jax.hessian(lambda x: jnp.sum(lml(x, k) * jnp.arange(4.0)))(x)).all()  # noqa: B023


@pytest.mark.parametrize("choose", [soft_top_k, entropic_top_k])
def test_a_nan_among_scores(choose):
    x = jnp.array([[1.0, jnp.nan, 2.0], [1.0, 0.0, 2.0]])
    assert np.isnan(choose(x[0], 1)).all()
    assert np.isnan(choose(x, 1)[0]).all()
    np.testing.assert_array_equal(choose(x, 1)[1], choose(x[1], 1))


def test_an_output_that_never_occurs(x64):
    T = jnp.array([[0.75, 0.25], [0.25, 0.75]])
    wide = jnp.concatenate([T, jnp.zeros((1, 2))])
    np.testing.assert_allclose(channel_capacity(wide)[0], channel_capacity(T)[0], rtol=1e-9)
    gradients = (jax.grad(lambda T: channel_capacity(T)[0])(matrix) for matrix in (wide, T))
    np.testing.assert_allclose(next(gradients)[:2], next(gradients), rtol=1e-6)


def test_projections_of_what_is_far_apart():
    v = jnp.array([300.0, 299.999, -50.0])
    np.testing.assert_allclose(jnp.sum(projections.simplex(v, 0.01)), 0.01, rtol=1e-5)
    # An entry of zero stays zero, and the others are as many as the sum wants.
    y = projections.entropic(jnp.array([1.0, 0.0, 0.2, 0.0]), 1.9, upper=1.0)
    np.testing.assert_allclose(y, [1.0, 0.0, 0.9, 0.0], rtol=1e-5)


# ----------------------------------------------------------------------------------------------------- the door
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kkt.solve(kkt.Problem(kkt.Quadratic(None, jnp.zeros(0)))), "no entries"),
        (lambda: kkt.solve(kkt.Problem(cost, args=(jnp.nan,)), jnp.zeros(2)), "args has a NaN"),
        (lambda: kkt.Problem(cost, inequality=kkt.Affine([[1.0, 1.0]], [1.0])), r"pass AtMost\(G, h\)"),
        (lambda: kkt.Problem(cost, inequality=(disc, 1.0)), "inequality must be None, an AtMost or a convex function"),
        (lambda: kkt.solve(kkt.Problem(cost, inequality=lambda y: y[0] <= 1), jnp.zeros(2)), "not whether it holds"),
        (lambda: kkt.Problem(cost, args=("text",)), "args must hold numbers"),
        (lambda: kkt.solve(kkt.Problem(cost, lambda y: y[0] == 1), jnp.zeros(2)), "real numbers"),
        (lambda: kkt.solve(kkt.Problem(cost), jnp.zeros(2), solver=kkt.InteriorPoint), "instance"),
        (lambda: kkt.differentiable(kkt.Problem(cost), jnp.zeros(2), (0.0, None, None)), "dual must be a Dual"),
        (lambda: kkt.solve_qp(None, [1.0], [[1.0]], [-jnp.inf]), "h has a NaN or infinite entry"),
        (lambda: projections.entropic([-1.0, 1.0], 1.0), "v must be nonnegative"),
        (lambda: projections.optimal_transport(jnp.ones((2, 2)), [0.5, 0.5], [0.5, 0.5], 0.0), "epsilon must be"),
    ],
)
def test_messages_name_the_argument(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_a_list_is_an_array():
    solution = kkt.solve(kkt.Problem(lambda y: jnp.sum((y - 1) ** 2)), [0.0, 0.0])
    np.testing.assert_allclose(solution.primal, 1.0, atol=1e-5)


def test_where_there_is_no_point_there_is_none_to_apply():
    solution = kkt.solve_qp(jnp.eye(2), jnp.zeros(2), [[1.0, 1.0], [-1.0, -1.0]], [1.0, -2.0])
    assert names(solution) == {"PRIMAL_INFEASIBLE"}
    assert np.isnan(solution.primal).all()
    assert np.isposinf(solution.objective)


def test_rows_without_a_condition_have_no_price(x64):
    problem = kkt.Problem(kkt.Quadratic(np.eye(2), [-1.0, -2.0]), kkt.Affine([[1.0, 1.0], [0.0, 0.0]], [1.0, 0.0]))
    np.testing.assert_array_equal(kkt.solve(problem).dual.equality[1], 0.0)
    solution = kkt.solve_qp(np.eye(2), [-1.0, -2.0], [[1.0, 0.0], [0.0, 1.0]], [np.inf, 1.0])
    np.testing.assert_allclose(solution.dual.inequality, [0.0, 1.0], atol=1e-9)
    assert solution.dual.inequality[0] == 0


@pytest.mark.parametrize("shape", ["diagonal", "dense", "vector"])
def test_rounding_is_not_curvature(shape, rng, x64):
    Q = np.eye(3) if shape != "dense" else np.linalg.qr(rng.normal(size=(3, 3)))[0]
    P = Q @ np.diag([1.0, 0.5, -1e-9]) @ Q.T
    P, q = np.diag(P) if shape == "vector" else 0.5 * (P + P.T), np.array([-1.0, 2.0, -0.3])
    solution = kkt.solve(kkt.Problem(kkt.Quadratic(P, q), box=kkt.Box(0.0, 1.0)), solver=kkt.InteriorPoint())
    assert names(solution) == {"SOLVED"}
    dense = np.diag(P) if shape == "vector" else P
    best = min(
        0.5 * y @ dense @ y + q @ y for y in np.stack(np.meshgrid(*3 * [np.linspace(0, 1, 21)]), -1).reshape(-1, 3)
    )
    assert solution.objective <= best + 1e-8
    worse = kkt.Problem(kkt.Quadratic(P - 1e-6 * np.eye(3) if P.ndim == 2 else P - 1e-6, q), box=kkt.Box(0.0, 1.0))
    assert names(kkt.solve(worse, solver=kkt.InteriorPoint())) == {"INVALID"}


@pytest.mark.parametrize("row", [[0.0, 0.0], [[0.0, 0.0]]])
def test_a_row_of_zeros_that_cannot_hold(row, x64):
    equality = kkt.Sum(1.0, row) if np.ndim(row) == 1 else kkt.Affine(row, [1.0])
    for P in (np.eye(2), np.ones(2)):
        assert names(kkt.solve(kkt.Problem(kkt.Quadratic(P, [-1.0, -2.0]), equality))) == {"PRIMAL_INFEASIBLE"}


def test_multipliers_of_one_side(x64):
    problem = kkt.Problem(kkt.Quadratic(np.eye(2), [1.0, -2.0]), box=kkt.Box(0.0, 1.0))
    found = kkt.differentiable(problem, [0.0, 1.0], kkt.Dual(None, [5.0, 0.0], None))
    np.testing.assert_allclose(found.dual.lower, [5, 0])  # wrong as it is, it is what was given
    assert "SOLVED" not in names(found)
    found = kkt.differentiable(problem, [0.0, 1.0], kkt.Dual(None, [1.0, 0.0], None))
    np.testing.assert_allclose(found.dual.upper, [0, 1])
    assert names(found) == {"SOLVED"}


def test_weighted_scores_of_any_size():
    x, w = jnp.array([1e33, 3e32, -2e33, 0.0]), jnp.array([1.0, 2.0, 0.5, 1.0])
    y = lml(x, 1.5, weights=w)
    np.testing.assert_allclose(w @ y, 1.5, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: lml(x, 1.5, weights=w)[1])(x)).all()


def test_a_nan_in_traced_args():
    solve = jax.jit(lambda a: kkt.solve(kkt.Problem(lambda y, a: a * jnp.sum(y**2), args=(a,)), jnp.ones(2)))
    assert names(solve(1.0)) == {"SOLVED"}
    assert names(solve(jnp.nan)) == {"INVALID"}


def test_a_system_without_a_solution_has_a_small_derivative(rng, x64):
    # Three rows, and two coordinates that are free: no derivative in b, but the nearest to one, and finite.
    A, bounds = rng.normal(size=(3, 4)), kkt.Box([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0])

    def primal(b):
        problem = kkt.Problem(kkt.Quadratic(np.ones(4), np.zeros(4)), kkt.Affine(A, b), bounds)
        return kkt.differentiable(problem, [0.5, 0.4, 0.0, 0.0], kkt.Dual(None, None, None)).primal[:2]

    b = A @ np.array([0.5, 0.4, 0.0, 0.0])
    slope = jax.jacfwd(primal)(b)
    scale = 1 / np.max(np.abs(A[:, :2]), axis=1)  # the rows in units of their own
    expected = np.linalg.lstsq(scale[:, None] * A[:, :2], np.diag(scale), rcond=None)[0]
    np.testing.assert_allclose(slope, expected, atol=1e-8)
    # In reverse the system has solutions, and not one only: any of them will do, but not one of size 1e11.
    assert np.max(np.abs(jax.jacrev(primal)(b))) < 10


def test_a_minimum_where_every_term_of_the_gradient_vanishes(dtype):
    B = np.array([[1, 1, 0], [0, 1, 1]], dtype)  # HS28: the minimum, zero, is where B y = 0
    problem = kkt.Problem(kkt.Quadratic(2 * B.T @ B, np.zeros(3, dtype)), kkt.Affine([[1.0, 2.0, 3.0]], [1.0]))
    solution = kkt.solve(problem)
    assert names(solution) == {"SOLVED"}
    np.testing.assert_allclose(solution.primal, [0.5, -0.5, 0.5], atol=20 * np.finfo(dtype).eps)


def test_nothing_chosen_of_heavy_scores(dtype):
    x, weights = np.array([4.0, -3.0, 8.0], dtype), np.array([5.0, 0.1, 100.0], dtype)
    np.testing.assert_array_equal(lml(x, 0.0, weights=weights), np.zeros(3))
    np.testing.assert_array_equal(lml(x, np.sum(weights), weights=weights), np.ones(3))


# --------------------------------------------------------------------------------------------------- precision
def test_single_precision_beside_double(rng, x64):
    """Float32 data while JAX's switch stands on float64: numbers in the code do not widen them."""
    F, A = rng.normal(size=(6, 6)), rng.normal(size=(2, 6))
    P, q, A, b, one = (np.asarray(v, np.float32) for v in (F @ F.T, A.sum(0), A, A.sum(1) / 9, np.ones(6)))
    vectors = [
        kkt.solve(problem).primal
        for problem in (
            kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(-one, one)),
            kkt.Problem(kkt.Quadratic(one, q), kkt.Affine(A, b), kkt.Box(-one, one)),
            kkt.Problem(kkt.Quadratic(None, q), kkt.Affine(A, b), kkt.Box(-one, one)),
            kkt.Problem(quartic, kkt.Affine(A, b), kkt.Box(-one, one), args=(q,)),
            kkt.Problem(kkt.Separable(quartic_terms, q), kkt.Affine(A, b), kkt.Box(-one, one)),
        )
    ]
    vectors += [kkt.solve_qp(P, q, G=A, h=b).primal, lml(q, 2), lml(q, 2, weights=one + one), projections.simplex(q)]
    for y in vectors:
        assert y.dtype == np.float32
        assert np.isfinite(y).all()


def quartic(y, c):
    return jnp.sum(y**4 + y**2 + c * y)


def quartic_terms(y, c):
    return y**4 + y**2 + c * y
