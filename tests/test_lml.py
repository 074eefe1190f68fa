"""The flagship against extended precision, in both dtypes, value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import kkt_solvers as kkt
from kkt_solvers.problems import LML, lml
from kkt_solvers.solvers._logistic import logistic_root

SIZES = [2, 10, 1000, 100_000]


@jax.jit
def _value_and_gradient(x, k, g):
    y, pullback = jax.vjp(lml, x, k)
    return y, *pullback(g)


def _scores(kind, n, rng):
    if kind == "normal":
        return rng.normal(size=n)
    if kind == "tied":
        return np.zeros(n)
    if kind == "offset":
        return 1e6 + rng.normal(size=n)
    if kind == "near_one_hot":
        return np.where(np.arange(n) == n // 2, 30.0, 0.0)
    if kind == "two_clusters":  # the gap at k = 1: y is within 1e-9 of a corner, and its gradient of that size
        return np.where(np.arange(n) == n // 2, 20.0, -20.0) + rng.normal(size=n)
    if kind == "wide":
        return 6 * rng.normal(size=n)
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["normal", "tied", "offset", "near_one_hot", "two_clusters", "wide"])
@pytest.mark.parametrize("n", SIZES)
def test_value_and_gradient(kind, n, dtype, rng):
    bound = {"float64": 1e-9, "float32": 1e-5}[dtype.name]
    x, g = _scores(kind, n, rng).astype(dtype), rng.normal(size=n).astype(dtype)
    for k in (1,) if kind != "normal" else (1, n // 2, n - 1, 0.3)[: 2 if n > 1000 else 4]:
        y, dx, dk = _value_and_gradient(jnp.asarray(x), jnp.asarray(k, dtype), jnp.asarray(g))
        assert y.dtype == dx.dtype == dtype
        k = float(dtype.type(k))
        expected, _ = references.lml(x, k)
        expected_dx, expected_dk = references.lml_gradient(x, k, g)
        np.testing.assert_allclose(y, expected.astype(float), rtol=0, atol=bound * float(expected.max()))
        np.testing.assert_allclose(dx, expected_dx.astype(float), rtol=0, atol=bound * float(np.abs(expected_dx).max()))
        np.testing.assert_allclose(dk, float(expected_dk), rtol=0, atol=bound * np.abs(g).max())


def test_2000_tied_scores_with_k_1(dtype):
    # The bracket of the k-th and (k+1)-th largest score -/+ 7 misses this root: it gives a sum of 1998.
    y = lml(jnp.full(2000, 3.5, dtype), 1)
    np.testing.assert_allclose(y, 1 / 2000, rtol=1e-6)


@pytest.mark.parametrize("k", [0, 4, 0.0, 4.0])
def test_ends_of_the_range(k, dtype):
    x = jnp.asarray([2.0, -1.0, 0.5, 0.0], dtype)
    y, dx, dk = _value_and_gradient(x, jnp.asarray(k, dtype), jnp.arange(4, dtype=dtype))
    np.testing.assert_array_equal(y, k / 4)
    np.testing.assert_array_equal(dx, 0)
    assert np.isfinite(dk)
    np.testing.assert_array_equal(lml(x, k), k / 4)


def test_batches_and_k_per_row(rng, x64):
    x = rng.normal(size=(2, 3, 7))
    k = np.array([[1, 2, 3], [4, 5, 0]])
    y = lml(x, k)
    assert y.shape == x.shape
    np.testing.assert_allclose(y.sum(-1), k, atol=1e-13)
    np.testing.assert_allclose(y[1, 0], lml(x[1, 0], 4), atol=1e-15)
    np.testing.assert_allclose(jax.vmap(lml, in_axes=(0, None))(x[0], 2), lml(x[0], 2), atol=1e-15)
    np.testing.assert_allclose(jax.jit(lml, static_argnums=1)(x[0], 2), lml(x[0], 2), atol=1e-15)


def test_dtypes():
    x = np.arange(5)
    assert lml(x, 2).dtype == np.float32  # integers are promoted, as in jax.nn.softmax
    np.testing.assert_allclose(lml(x, 2), lml(x.astype(np.float32), 2))
    for half in (jnp.bfloat16, jnp.float16):
        y = lml(jnp.asarray(x, half), 2)
        assert y.dtype == half
        np.testing.assert_allclose(y.astype(np.float32), lml(x, 2), atol=4e-3)
    with jax.enable_x64(True):
        assert lml(x.astype(np.float32), 2).dtype == np.float32
        assert lml(x.astype(np.float32), jnp.asarray(2.0)).dtype == np.float32


def test_one_bad_row_harms_no_other():
    x = np.array([[1.0, 2.0, 3.0], [1.0, np.nan, 3.0], [3.0, 2.0, 1.0]], np.float32)
    y, gradient = jax.value_and_grad(lambda x: jnp.sum(lml(x, 2) * jnp.arange(3.0)))(x)
    gradient_of_good = jax.grad(lambda x: jnp.sum(lml(x, 2) * jnp.arange(3.0)))(x[::2])
    assert np.isnan(y)
    assert np.isnan(gradient[1]).all()
    np.testing.assert_array_equal(gradient[::2], gradient_of_good)
    traced_k = jax.jit(lml)(x[::2], jnp.asarray([-1.0, 2.0]))
    assert np.isnan(traced_k[0]).all()
    np.testing.assert_array_equal(traced_k[1], lml(x[2], 2))
    # And keeps no other waiting.
    assert np.max(logistic_root(jnp.asarray(x), jnp.full((3, 1), 2.0)).sweeps) < 10


def test_weights_that_sum_to_k_but_for_rounding(rng, dtype):
    """All there is but an ulp, also beside a score of +inf, whose weight is taken off both."""
    rows, n = 2000, 12
    weights = np.exp(rng.normal(size=(rows, n))).astype(dtype)
    x = np.zeros((rows, n), dtype)
    x[::2, 0] = np.inf
    k = np.sum(weights, axis=1, dtype=np.float64).astype(dtype)
    y = np.asarray(
        jax.jit(lambda x, k, weights: lml(x, k, weights=weights))(x, np.nextafter(k, np.zeros_like(k)), weights)
    )
    assert np.all((y >= 0) & (y <= 1))
    np.testing.assert_allclose(np.sum(weights * (1 - y), axis=1) / k, 0.0, atol=8 * np.finfo(dtype).eps)


def test_forbidden_entries(x64):
    x = jnp.asarray([1.0, -jnp.inf, 0.0, 2.0])
    y, dx, _ = _value_and_gradient(x, 2.0, jnp.arange(4.0))
    np.testing.assert_allclose(y[jnp.asarray([0, 2, 3])], lml(x[jnp.asarray([0, 2, 3])], 2), atol=1e-14)
    assert y[1] == 0
    assert dx[1] == 0
    assert np.isfinite(dx).all()


@pytest.mark.parametrize(
    ("x", "k", "message"),
    [
        ([1.0, 2.0], -1, "k must be a nonnegative number"),
        ([1.0, 2.0], float("nan"), "k must be a nonnegative number"),
        (1.0, 1, "x must have at least one axis"),
        ([[1.0, 2.0], [3.0, 4.0]], [1, 1, 1], "k must be a scalar or broadcast"),
    ],
)
def test_bad_input(x, k, message):
    with pytest.raises(ValueError, match=message):
        lml(x, k)
    with pytest.raises(ValueError, match=r"k must|x must"):
        LML(x, k)


def test_a_problem_with_too_large_a_k():
    with pytest.raises(ValueError, match="k must lie between 0 and"):
        LML([1.0, 2.0], 3)
    with pytest.raises(ValueError, match="k must lie between 0 and"):
        LML([1.0, 2.0], 3, weights=[1.0, 1.5])


def test_complex_and_text_are_refused():
    with pytest.raises(TypeError, match="x must be real"):
        lml(np.array([1j, 2.0]), 1)
    with pytest.raises(TypeError, match="x must be a number"):
        lml("scores", 1)


def test_status_of_a_traced_k_out_of_range():
    statuses = jax.vmap(lambda k: kkt.solve(LML(jnp.arange(3.0), k)).status)(jnp.asarray([-1.0, 1.0, 3.0, 4.0]))
    assert [kkt.Status(int(s)).name for s in statuses] == ["INVALID", "SOLVED", "SOLVED", "INVALID"]


SOLVERS = [
    kkt.DualBisection(),
    kkt.DualBisection(accelerate=False),
    kkt.ProjectedGradient(),
    kkt.MirrorDescent(),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize(("n", "k", "scale"), [(10, 3, 1.0), (300, 20, 3.0)])
def test_same_answer_and_gradient_from_every_solver(solver, n, k, scale, dtype, rng):
    x, g = (scale * rng.normal(size=n)).astype(dtype), rng.normal(size=n).astype(dtype)

    @jax.jit
    def run(problem):
        def loss(problem):
            solution = kkt.solve(problem, solver=solver)
            return jnp.vdot(g, solution.primal), solution

        return jax.grad(loss, has_aux=True)(problem)

    gradient, solution = run(LML(x, jnp.asarray(k, dtype)))
    expected, _ = references.lml(x, k)
    expected_dx, expected_dk = references.lml_gradient(x, k, g)
    bound = {"float64": 1e-7, "float32": 2e-5}[dtype.name]
    assert kkt.Status(int(solution.status)).name == "SOLVED"
    np.testing.assert_allclose(solution.primal, expected.astype(float), atol=bound)
    np.testing.assert_allclose(gradient.objective.theta, expected_dx.astype(float), atol=bound)
    np.testing.assert_allclose(gradient.equality.total, float(expected_dk), atol=bound)
    np.testing.assert_allclose(
        jax.nn.sigmoid(x - solution.dual.equality), expected.astype(float), atol=bound
    )  # the sign of the multiplier
