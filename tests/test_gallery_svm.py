"""Support vector machines against Clarabel (1e-6 in float64) and scikit-learn (1e-5 of C: libsvm keeps the kernel in
float32)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.svm import SVC
from sklearn.svm import OneClassSVM as Reference

import kkt_solvers as kkt
from kkt_solvers.problems import SVM, one_class_svm, rbf, svm


def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return ((X - X.mean(0)) / X.std(0))[order], (2.0 * y - 1)[order]


def digits(first, second):
    X, y = load_digits(return_X_y=True)
    chosen = (y == first) | (y == second)
    return X[chosen] / 16, np.where(y[chosen] == first, 1.0, -1.0)


@functools.partial(jax.jit, static_argnames="train")
def _validation(logs, X, y, train):
    """The logistic loss on the points after the first `train`, its gradient in log C and log gamma, and what was
    trained."""

    def loss(logs):
        C, gamma = jnp.exp(logs)
        old, new = X[:train], X[train:]
        decide = svm(rbf(old, old, gamma), y[:train], C)
        return jnp.mean(jax.nn.softplus(-2 * y[train:] * decide(rbf(new, old, gamma)))), decide

    (value, decide), gradient = jax.value_and_grad(loss, has_aux=True)(logs)
    return value, gradient, decide


def scikit_learn(X, y, C, gamma):
    machine = SVC(C=C, gamma=gamma, tol=1e-10).fit(X, y)
    coefficients = np.zeros(len(y))
    coefficients[machine.support_] = machine.dual_coef_[0]
    return coefficients, machine.intercept_[0], machine


def test_breast_cancer_and_tuning_by_gradient(x64):
    X, y = cancer()
    train = 300
    logs = jnp.log(jnp.array([1.0, 0.03]))
    value, gradient, decide = _validation(logs, X, y, train)
    coefficients, intercept, _ = scikit_learn(X[:train], y[:train], 1.0, 0.03)
    np.testing.assert_allclose(decide.coefficients, coefficients, atol=1e-5)
    np.testing.assert_allclose(decide.intercept, intercept, atol=1e-5)
    K = np.exp(-0.03 * np.sum((X[:train, None] - X[None, :train]) ** 2, axis=-1))
    labels = y[:train]
    a, nu = references.box_program(labels[:, None] * K * labels, -np.ones(train), labels[None], [0.0], 0.0, 1.0)
    np.testing.assert_allclose(decide.coefficients, labels * a, atol=1e-6)
    np.testing.assert_allclose(decide.intercept, nu[0], atol=1e-6)

    for i in range(2):
        step = 1e-5 * jnp.eye(2)[i]
        moved = _validation(logs + step, X, y, train)[0] - _validation(logs - step, X, y, train)[0]
        np.testing.assert_allclose(gradient[i], moved / 2e-5, rtol=1e-5)

    def by_scikit_learn(C, gamma):
        machine = scikit_learn(X[:train], y[:train], C, gamma)[2]
        return np.mean(np.logaddexp(0, -2 * y[train:] * machine.decision_function(X[train:])))

    # From the best of a grid by scikit-learn onwards: descent whose step is halved on failure.
    grid = [
        (by_scikit_learn(C, gamma), C, gamma) for C in 10.0 ** np.arange(-1, 4) for gamma in 10.0 ** np.arange(-4, 1)
    ]
    best, *start = min(grid)
    logs, size = jnp.log(jnp.array(start)), 4.0
    value, gradient, _ = _validation(logs, X, y, train)
    np.testing.assert_allclose(value, best, rtol=1e-4)
    for _ in range(20):
        other = _validation(logs - size * gradient, X, y, train)
        better = other[0] < value
        logs, value, gradient = (logs - size * gradient, *other[:2]) if better else (logs, value, gradient)
        size = 1.5 * size if better else 0.5 * size

    assert value < 0.97 * best
    np.testing.assert_allclose(value, by_scikit_learn(*np.exp(logs)), rtol=1e-4)


def test_digits_in_float32(rng):
    X, y = digits(3, 8)
    X, y = X.astype(np.float32), y.astype(np.float32)
    value, gradient, decide = _validation(jnp.log(jnp.array([1.0, 0.1])), X, y, 200)
    coefficients, intercept, machine = scikit_learn(X[:200].astype(float), y[:200], 1.0, 0.1)
    assert decide.coefficients.dtype == value.dtype == gradient.dtype == np.float32
    np.testing.assert_allclose(decide.coefficients, coefficients, atol=2e-4)
    np.testing.assert_allclose(decide.intercept, intercept, atol=2e-4)
    decisions = machine.decision_function(X[200:])
    np.testing.assert_allclose(decide(rbf(X[200:], X[:200], 0.1)), decisions, atol=2e-4)
    assert np.mean((decisions > 0) == (y[200:] > 0)) > 0.9


def test_support_of_a_distribution(x64):
    X = cancer()[0][:100]
    K = rbf(X, X, 1 / 30)
    machine = Reference(gamma=1 / 30, nu=0.1, tol=1e-12).fit(X)
    decide = jax.jit(one_class_svm)(K, 0.1)
    np.testing.assert_allclose(decide(K), machine.decision_function(X) / (0.1 * len(X)), atol=1e-6)
    assert np.mean(decide(K) < -1e-9) <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("weights", [False, True], ids=["plain", "weighted"])
def test_1797_digits(weights, x64):
    X, y = load_digits(return_X_y=True)
    X, y = X / 16, np.where(y % 2 == 0, 1.0, -1.0)
    C = np.where(y > 0, 4.0, 1.0) if weights else 1.0
    decide = jax.jit(svm)(rbf(X, X, 0.1), y, C)
    machine = SVC(gamma=0.1, tol=1e-10, class_weight={1: 4.0} if weights else None).fit(X, y)
    coefficients = np.zeros(len(y))
    coefficients[machine.support_] = machine.dual_coef_[0]
    np.testing.assert_allclose(decide.coefficients, coefficients, atol=1e-4)
    np.testing.assert_allclose(decide.intercept, machine.intercept_[0], atol=1e-5)


@pytest.mark.slow
def test_linear_kernel_of_few_features(x64):
    X, y = cancer()
    decide = jax.jit(svm)(kkt.LowRank(jnp.zeros(len(y)), X), y, 1.0)
    machine = SVC(kernel="linear", tol=1e-10).fit(X, y)
    np.testing.assert_allclose(X.T @ decide.coefficients, machine.coef_[0], atol=1e-5)
    np.testing.assert_allclose(decide.intercept, machine.intercept_[0], atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SVM(np.ones((2, 3)), [1, -1]), "kernel must be square"),
        (lambda: SVM(np.eye(3), [1, -1]), r"kernel must have shape \(2, 2\) to go with labels"),
        (lambda: SVM([[1.0, 0.5], [0.0, 1.0]], [1, -1]), "kernel must be symmetric"),
        (lambda: SVM(np.eye(2), [0, 1]), "labels must be \\+1 and -1"),
        (lambda: SVM(np.eye(2), [1, 1]), "with both present"),
        (lambda: svm(np.eye(2), [1, -1], 0.0), "C must be positive"),
        (lambda: one_class_svm(np.eye(2), 0.0), r"nu must lie in \(0, 1\]"),
        (lambda: one_class_svm(np.eye(2)[0]), "kernel must be square"),
        (lambda: rbf(np.eye(2), np.eye(3), 1.0), "as many columns"),
        (lambda: rbf(np.eye(2), np.eye(2), -1.0), "gamma must be nonnegative"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
