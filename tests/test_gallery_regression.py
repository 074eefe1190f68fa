"""Constrained regression against SciPy and scikit-learn (1e-6 or better in float64), and derivatives against closed
forms on the active set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import scipy.optimize
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.isotonic import isotonic_regression as scikit_learn_isotonic
from sklearn.linear_model import QuantileRegressor

import kkt_solvers as kkt
from kkt_solvers.problems import (
    BoundedLeastSquares,
    IsotonicRegression,
    LogisticRegression,
    QuantileRegression,
    bounded_least_squares,
    isotonic_regression,
    logistic_regression,
    quantile_regression,
)


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X * len(X) ** 0.5, (y - y.mean()) / y.std()


_least_squares = jax.jit(references.value_and_jacobian(bounded_least_squares, 1))


def test_bounded_least_squares_and_leaving_one_out(x64):
    X, y = diabetes()
    b, J = _least_squares(X, y, 0.0, 0.3)
    expected = scipy.optimize.lsq_linear(X, y, (0.0, 0.3), tol=1e-15)
    np.testing.assert_allclose(b, expected.x, atol=1e-9)
    # Degrees of freedom: the trace of the hat matrix is the number of coefficients between their bounds.
    hat = X @ J
    free = (expected.x > 1e-6) & (expected.x < 0.3 - 1e-6)
    np.testing.assert_allclose(np.trace(hat), free.sum(), rtol=1e-10)
    # Its diagonal gives the errors of prediction without an observation, wherever that changes no bound.
    for i in range(5):
        rest = np.arange(len(y)) != i
        without = scipy.optimize.lsq_linear(X[rest], y[rest], (0.0, 0.3), tol=1e-15).x
        assert np.array_equal((without > 1e-6) & (without < 0.3 - 1e-6), free)
        np.testing.assert_allclose((y - X @ b)[i] / (1 - hat[i, i]), y[i] - X[i] @ without, rtol=1e-8)


@pytest.mark.slow
def test_more_features_than_observations(rng, x64):
    X, truth = rng.normal(size=(30, 60)), np.where(np.arange(60) < 5, 1.0, 0.0)
    y = X @ truth + 0.1 * rng.normal(size=30)
    fit = jax.jit(lambda y: bounded_least_squares(X, y, 0.0, equality=kkt.Sum(5.0), ridge=0.1))
    rows = np.concatenate([X, np.sqrt(0.1) * np.eye(60), 1e5 * np.ones((1, 60))])
    expected = scipy.optimize.nnls(rows, np.concatenate([y, np.zeros(60), [5e5]]))[0]
    np.testing.assert_allclose(fit(y), expected, atol=1e-6)


@jax.jit
def _logistic(X, labels, lower, upper, ridge):
    b, pullback = jax.vjp(lambda ridge: logistic_regression(X, labels, lower, upper, ridge=ridge), ridge)
    return b, jax.vmap(lambda g: pullback(g)[0])(jnp.eye(b.size, dtype=b.dtype))


def test_logistic_regression(x64):
    X, labels = load_breast_cancer(return_X_y=True)
    X, labels = np.c_[np.ones(len(X)), ((X - X.mean(0)) / X.std(0))[:, :10]], 2.0 * labels - 1
    ridge = np.r_[0.0, np.ones(10)]
    lower, upper = np.r_[-np.inf, np.full(10, -1.0)], np.r_[np.inf, np.zeros(10)]
    b, by_ridge = _logistic(X, labels, lower, upper, ridge)

    def loss(b):
        return np.sum(np.logaddexp(0, -labels * (X @ b))) + 0.5 * b @ (ridge * b)

    def slope(b):
        return -X.T @ (labels / (1 + np.exp(labels * (X @ b)))) + ridge * b

    bounds = np.stack([lower, upper], 1)
    settings = {"ftol": 1e-16, "gtol": 1e-10, "maxiter": 10_000, "maxfun": 100_000}
    answer = scipy.optimize.minimize(loss, np.zeros(11), jac=slope, method="L-BFGS-B", bounds=bounds, options=settings)
    np.testing.assert_allclose(b, answer.x, atol=1e-6)
    free = (b > lower + 1e-6) & (b < upper - 1e-6)
    assert 3 <= free.sum() <= 9
    odds = 1 / (1 + np.exp(-X @ b))
    H = (X[:, free].T * (odds * (1 - odds))) @ X[:, free] + np.diag(ridge[free])
    expected = np.zeros((11, 11))
    expected[np.ix_(free, free)] = -np.linalg.solve(H, np.diag(np.asarray(b)[free]))
    np.testing.assert_allclose(by_ridge, expected, atol=1e-9)
    # A plane that separates the classes: no finite coefficients without a ridge.
    separated, everything = np.where(X[:, 1] > 0, 1.0, -1.0), np.full(11, np.inf)
    assert np.all(np.isnan(_logistic(X, separated, -everything, everything, 0 * ridge)[0]))


_isotonic = jax.jit(references.value_and_jacobian(isotonic_regression))


def test_isotonic_regression(rng, x64):
    n = 40
    y, weights = np.linspace(0, 1, n) + 0.3 * rng.normal(size=n), rng.uniform(0.5, 2, n)
    b, J = _isotonic(y, weights, 0.1, 0.9)
    expected = scikit_learn_isotonic(y, sample_weight=weights, y_min=0.1, y_max=0.9)
    np.testing.assert_allclose(b, expected, atol=1e-12)
    # Each level is the weighted mean of its block; those at a bound stay there.
    same = np.abs(expected[:, None] - expected) < 1e-9
    inside = (expected > 0.1) & (expected < 0.9)
    np.testing.assert_allclose(J, inside[:, None] * same * weights / (same @ weights)[:, None], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1000, 5000])
def test_isotonic_regression_is_sparse(n, rng, x64):
    y = np.linspace(0, 1, n) + 0.3 * rng.normal(size=n)
    b, pullback = jax.vjp(jax.jit(isotonic_regression), y)
    expected = scikit_learn_isotonic(y)
    np.testing.assert_allclose(b, expected, atol=1e-10)
    g = rng.normal(size=n)
    _, block = np.unique(np.round(expected, 9), return_inverse=True)
    np.testing.assert_allclose(pullback(g)[0], (np.bincount(block, g) / np.bincount(block))[block], atol=1e-8)


_quantiles = jax.jit(
    jax.vmap(references.value_and_jacobian(quantile_regression, 1), in_axes=(None, None, 0, None, None))
)


@pytest.mark.parametrize("bounded", [False, True], ids=["free", "bounded"])
def test_quantile_regression(bounded, x64):
    X, y = diabetes()
    X, y = X[:90], y[:90]
    Z, p, taus = np.c_[np.ones(len(X)), X], 11, np.array([0.25, 0.5, 0.9])
    lower, upper = (np.r_[-np.inf, np.zeros(10)], np.r_[np.inf, np.full(10, 0.2)]) if bounded else (-np.inf, np.inf)
    lower, upper = np.broadcast_to(lower, p), np.broadcast_to(upper, p)
    found, J = _quantiles(Z, y, taus, lower, upper)
    for tau, b, jacobian in zip(taus, found, J, strict=True):
        if bounded:
            m, eye = len(y), np.eye(len(y))
            answer = scipy.optimize.linprog(
                np.r_[np.zeros(p), np.full(m, tau), np.full(m, 1 - tau)],
                A_eq=np.c_[Z, eye, -eye],
                b_eq=y,
                bounds=[*zip(lower, upper, strict=True), *[(0, None)] * (2 * m)],
            )
            expected = answer.x[:p]
        else:
            model = QuantileRegressor(quantile=tau, alpha=0).fit(X, y)
            expected = np.r_[model.intercept_, model.coef_]
        np.testing.assert_allclose(b, expected, atol=1e-9)
        # The fit goes through as many observations as there are free coefficients, and moves with them.
        free = (b > lower + 1e-9) & (b < upper - 1e-9)
        through = np.abs(y - Z @ b) < 1e-9
        assert through.sum() == free.sum()
        expected = np.zeros((p, len(y)))
        expected[np.ix_(free, through)] = np.linalg.inv(Z[np.ix_(through, free)])
        np.testing.assert_allclose(jacobian, expected, atol=1e-8)


@pytest.mark.slow
def test_quantile_regression_of_many_observations(rng, x64):
    m, p, tau = 100_000, 20, 0.9
    X = rng.normal(size=(m, p))
    y = X @ rng.normal(size=p) + rng.normal(size=m)
    b, pullback = jax.vjp(jax.jit(lambda y: quantile_regression(X, y, tau)), y)
    # It goes through p observations, and the slope of the others is theirs with weights between tau - 1 and tau: that
    # alone makes it the best.
    rest = y - X @ np.asarray(b)
    through = np.argsort(np.abs(rest))[:p]
    np.testing.assert_allclose(rest[through], 0, atol=1e-10)
    rest[through] = 0
    weights = np.linalg.solve(X[through].T, -X.T @ (np.where(rest > 0, tau, tau - 1) * (rest != 0)))
    assert np.all((weights > tau - 1) & (weights < tau))
    g, expected = rng.normal(size=p), np.zeros(m)
    expected[through] = np.linalg.solve(X[through].T, g)
    np.testing.assert_allclose(pullback(g)[0], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BoundedLeastSquares(np.eye(2), [1.0, 2.0, 3.0]), r"y must have shape \(2,\)"),
        (lambda: BoundedLeastSquares(np.ones(2), [1.0, 2.0]), "X must be a matrix, an observation in each row"),
        (lambda: bounded_least_squares(np.eye(2), [1.0, 2.0], 1.0, 0.0), "lower is above upper"),
        (lambda: bounded_least_squares(np.eye(2), [1.0, 2.0], ridge=-1.0), "ridge must be nonnegative"),
        (lambda: LogisticRegression(np.eye(2), [0, 1]), "labels must be \\+1 or -1"),
        (lambda: LogisticRegression(np.eye(2), [1, -1], np.zeros(3)), r"lower .* shape \(2,\) of the columns of X"),
        (lambda: IsotonicRegression([1.0, 2.0], [1.0, 0.0]), "weights must be positive"),
        (lambda: isotonic_regression([[1.0, 2.0]]), "y must be a vector of observations, in order"),
        (lambda: QuantileRegression(np.eye(2), [1.0, 2.0], 1.0), "quantile must lie strictly between 0 and 1"),
        (lambda: quantile_regression(np.eye(2), [1.0, 2.0], [0.1, 0.5]), "quantile must be a scalar"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
