"""Isotonic regression against scikit-learn and SciPy on data of all kinds, and its derivative against the block means,
differences and the interior point on the problem by stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import scipy.optimize
from sklearn.isotonic import isotonic_regression as scikit_learn_isotonic

import kkt_solvers as kkt
from kkt_solvers.problems import IsotonicRegression, isotonic_regression


def data(rng, n):
    i = np.arange(n)
    kinds = {
        "noisy": i / n + 0.3 * rng.normal(size=n),
        "shuffled": rng.normal(size=n),
        "sorted": np.sort(rng.normal(size=n)),
        "reversed": -np.sort(rng.normal(size=n)),
        "constant": np.full(n, 0.7),
        "low last": np.append(i[:-1] / n, -100.0),
        "high first": np.append(100.0, i[1:] / n),
        "sawtooth": i % 7 + 0.01 * i,
        "walk": np.cumsum(rng.normal(size=n)),
        "geometric": 1.5 ** np.minimum(i, 60) * rng.choice([1.0, 0.1], n),
        "ties": np.round(5 * i / n + rng.normal(size=n)),
        "offset": 1e8 + rng.normal(size=n),
    }
    return np.stack(list(kinds.values()))


fit = jax.jit(jax.vmap(isotonic_regression, in_axes=(0, 0, None, None)))


def scikit_learn(y, weights, lower=None, upper=None):
    rows = zip(np.asarray(y, float), np.asarray(weights, float), strict=True)
    return np.stack([scikit_learn_isotonic(a, sample_weight=w, y_min=lower, y_max=upper) for a, w in rows])


@pytest.mark.parametrize("n", [1, 2, 3, 16, 300])
def test_all_kinds_of_data(n, rng, x64):
    y = data(rng, n)
    for weights in (np.ones(y.shape), 10 ** rng.uniform(-6, 6, y.shape)):
        b = np.asarray(fit(y, weights, -np.inf, np.inf))
        size = np.maximum(np.max(np.abs(y), axis=1, keepdims=True), 1e-3)
        np.testing.assert_allclose(b / size, scikit_learn(y, weights) / size, atol=1e-13)
        others = [scipy.optimize.isotonic_regression(a, weights=w).x for a, w in zip(y, weights, strict=True)]
        np.testing.assert_allclose(b / size, np.stack(others) / size, atol=1e-13)
        assert np.all(np.diff(b) >= -1e-14 * size)
        np.testing.assert_allclose(fit(y, weights, -0.2, 0.5), np.clip(scikit_learn(y, weights), -0.2, 0.5), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("n", [4095, 4096, 100_000])
def test_long_chains(n, rng, x64):
    one, y = jax.jit(isotonic_regression), data(rng, n)
    for weights in (np.ones(y.shape), 10 ** rng.uniform(-6, 6, y.shape)):
        expected = scikit_learn(y, weights)
        for a, w, e in zip(y, weights, expected, strict=True):
            np.testing.assert_allclose(one(a, w), e, atol=1e-12 * np.abs(a).max())


def test_single_precision(rng):
    y = data(rng, 300).astype(np.float32)
    # Weights of 1e-6 beside 1e6 are below the rounding of the objective.
    for reach, atol in ((0, 2e-6), (2, 2e-6), (6, 2e-2)):
        weights = (10 ** rng.uniform(-reach, reach, y.shape)).astype(np.float32)
        b = fit(y, weights, -np.inf, np.inf)
        assert b.dtype == jnp.float32
        size = np.maximum(np.max(np.abs(y), axis=1, keepdims=True), 1e-3)
        np.testing.assert_allclose(b / size, scikit_learn(y, weights) / size, atol=atol)
    half = isotonic_regression(jnp.asarray(y[0], jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(float), scikit_learn_isotonic(y[0]), atol=0.02)


def _by_blocks(expected, weights, lower, upper):
    """The Jacobian in y: the weighted means of the blocks between the bounds."""
    same = np.abs(expected[:, None] - expected) < 1e-9
    inside = (expected > lower) & (expected < upper)
    return inside[:, None] * same * weights / (same @ weights)[:, None]


def test_derivatives(rng, x64):
    n = 16
    y, weights = np.linspace(0, 1, n) + 0.3 * rng.normal(size=n), rng.uniform(0.5, 2, n)
    lower, upper = 0.15, 0.85
    expected = scikit_learn_isotonic(y, sample_weight=weights, y_min=lower, y_max=upper)
    blocks = len(np.unique(expected))
    assert 3 < blocks < n
    args, c = tuple(map(jnp.asarray, (y, weights, lower, upper))), jnp.asarray(rng.normal(size=n))

    @jax.jit
    def all_of(*args):
        forward = jax.jacfwd(isotonic_regression, (0, 1, 2, 3))(*args)
        backward = jax.jacrev(isotonic_regression, (0, 1, 2, 3))(*args)
        second = jax.hessian(lambda *args: jnp.vdot(c, isotonic_regression(*args)), (0, 1))(*args)
        return forward, backward, second

    forward, backward, second = all_of(*args)
    by_stages = jax.jit(jax.jacrev(lambda *args: kkt.solve(IsotonicRegression(*args)).primal[::2], (0, 1, 2, 3)))(*args)
    for a, b, other in zip(forward, backward, by_stages, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)
        np.testing.assert_allclose(a, other, atol=1e-6)
    np.testing.assert_allclose(forward[0], _by_blocks(expected, weights, lower, upper), atol=1e-12)
    np.testing.assert_allclose(forward[2], expected == lower, atol=1e-14)
    np.testing.assert_allclose(forward[3], expected == upper, atol=1e-14)

    def differences(f, x, step=1e-6):
        rows = [(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(n)]
        return np.stack(rows, axis=-1)

    of_weights = differences(lambda w: scikit_learn_isotonic(y, sample_weight=w, y_min=lower, y_max=upper), weights)
    np.testing.assert_allclose(forward[1], of_weights, atol=1e-8)
    # b is linear in y; its second derivatives in y and w, and in w and w, are those of the weighted means.
    gradient = jax.jit(jax.grad(lambda y, w: jnp.vdot(c, isotonic_regression(y, w, lower, upper)), (0, 1)))
    for row in range(2):
        for column in range(2):
            at = [y, weights]

            def moved(x, at=at, row=row, column=column):
                return gradient(*(x if i == column else old for i, old in enumerate(at)))[row]

            np.testing.assert_allclose(second[row][column], differences(moved, at[column]), atol=1e-7)


def test_ties(rng, x64):
    """Where arithmetic is exact a constraint without force ties nobody; the derivative is always finite."""
    J = jax.jit(jax.jacobian(isotonic_regression))
    np.testing.assert_array_equal(J(np.full(16, 3.0)), np.eye(16))
    y = np.array([1.0, 1.0, 3.0, 1.0, 2.0, 2.0, 5.0, 5.0])
    expected = np.eye(8)
    expected[2:4, 2:4] = 0.5
    np.testing.assert_allclose(J(y), expected, atol=1e-15)
    at_bound = jax.jit(jax.jacobian(lambda y: isotonic_regression(y, upper=2.0)))(np.array([1.0, 3.0, 1.0]))
    assert np.all(np.isfinite(at_bound))
    y = np.round(np.linspace(0, 5, 300) + rng.normal(size=300))
    pulled = jax.jit(lambda y: jax.vjp(isotonic_regression, y)[1](jnp.ones(300))[0])(y)
    np.testing.assert_allclose(pulled, 1.0, atol=1e-12)


def test_bounds_of_each(rng, x64):
    np.testing.assert_allclose(isotonic_regression([2.0, 0.0], lower=[-np.inf, 1.5]), [1.5, 1.5], atol=1e-8)
    n = 12
    y, weights = rng.normal(size=n), rng.uniform(0.5, 2, n)
    lower, upper = rng.uniform(-2, 0, n), rng.uniform(0, 2, n)
    P, q = np.diag(np.append(weights, np.zeros(n - 1))), np.append(-weights * y, np.zeros(n - 1))
    A = np.hstack([np.diff(np.eye(n), axis=0), -np.eye(n - 1)])
    low, high = np.append(lower, np.zeros(n - 1)), np.append(upper, np.full(n - 1, np.inf))
    b, _ = references.box_program(P, q, A, np.zeros(n - 1), low, high)
    np.testing.assert_allclose(jax.jit(isotonic_regression)(y, weights, lower, upper), b[:n], atol=1e-6)


def test_bad_rows_leave_the_others_alone(rng, x64):
    y, weights = rng.normal(size=(5, 16)), np.ones((5, 16))
    lower, upper = np.full(5, -1.0), np.full(5, 1.0)
    y[1, 3], weights[2, 4], lower[3] = np.nan, -1.0, 2.0
    one = jax.vmap(isotonic_regression)
    b, pullback = jax.jit(lambda *args: jax.vjp(one, *args))(y, weights, lower, upper)
    gradients = pullback(jnp.ones_like(b))
    for row in range(5):
        if row in (1, 2, 3):
            assert np.all(np.isnan(b[row]))
            assert np.all(np.isnan(gradients[0][row]))
        else:
            np.testing.assert_allclose(b[row], scikit_learn_isotonic(y[row], y_min=-1, y_max=1), atol=1e-14)
            assert all(np.all(np.isfinite(g[row])) for g in gradients)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: isotonic_regression([1.0, np.nan]), "y has a NaN or infinite entry"),
        (lambda: isotonic_regression([1.0, 2.0], [1.0, -1.0]), "weights must be positive"),
        (lambda: isotonic_regression([1.0, 2.0], lower=1.0, upper=0.0), "lower is above upper"),
        (lambda: isotonic_regression([1.0, 2.0], lower=[0.0] * 3), r"lower must be a scalar or have the shape \(2,\)"),
        (lambda: isotonic_regression([]), "y has no entries"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
