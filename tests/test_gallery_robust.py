"""Robust least squares against Clarabel (second-order cones) and its form as a ridge regression (1e-8 in float64), the
worst errors, and the tips."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import scipy.optimize

import kkt_solvers as kkt
from kkt_solvers.problems import RobustLeastSquares, robust_least_squares


def reference(X, y, radius, ratio):
    """Clarabel's coefficients and value, with a variable for each norm."""
    m, p = X.shape
    row = np.zeros((1, p + 2))
    first, second = row.copy(), row.copy()
    first[0, p] = second[0, p + 1] = -1
    blocks = [
        (np.r_[first, -np.c_[X, np.zeros((m, 2))]], np.r_[0.0, -y], clarabel.SecondOrderConeT(1 + m)),
        (np.r_[second, -np.eye(p, p + 2), row], np.r_[np.zeros(1 + p), ratio], clarabel.SecondOrderConeT(2 + p)),
    ]
    v, _ = references.cone_program(None, np.r_[np.zeros(p), 1.0, radius], *blocks)
    return v[:p], v[p] + radius * v[p + 1]


def ridge(X, y, radius, ratio):
    """Away from the tips the coefficients are those of the ridge `radius |X b - y| / |(b, ratio)|` [elghaoui1997]."""

    def coefficients(strength):
        return np.linalg.solve(X.T @ X + strength * np.eye(X.shape[1]), X.T @ y)

    def excess(strength):
        b = coefficients(strength)
        return strength * np.linalg.norm(np.r_[b, ratio]) - radius * np.linalg.norm(X @ b - y)

    return coefficients(scipy.optimize.brentq(excess, 1e-9, 1e6, xtol=1e-14, rtol=1e-14))


def test_sensitivity_and_the_worst_errors(rng, x64):
    m, p = 12, 4
    X = rng.normal(size=(m, p))
    y = X @ rng.normal(size=p) + rng.normal(size=m)

    @jax.jit
    @jax.vmap
    def solved(radius, ratio):
        def parts(X, y, radius):
            solution = kkt.solve(RobustLeastSquares(X, y, radius, ratio))
            b = solution.primal["coefficients"]
            return (b, solution.objective), (b, solution.objective, solution.status)

        slopes, found = jax.jacobian(parts, (0, 1, 2), has_aux=True)(X, y, radius)
        return slopes, found

    radii, ratios = np.array([1.0, 0.5, 3.0]), np.array([1.0, 0.0, 2.0])
    (of_b, of_value), (b, value, status) = solved(radii, ratios)
    assert np.all(status == kkt.Status.SOLVED)
    change, h = rng.normal(size=m), 1e-4
    for row, (radius, ratio) in enumerate(zip(radii, ratios, strict=True)):
        expected, worst = reference(X, y, radius, ratio)
        np.testing.assert_allclose(b[row], expected, atol=1e-5)
        np.testing.assert_allclose(value[row], worst, rtol=1e-8)
        np.testing.assert_allclose(b[row], ridge(X, y, radius, ratio), atol=1e-8)
        up, down = (ridge(X, y + s * change, radius, ratio) for s in (h, -h))
        np.testing.assert_allclose(of_b[1][row] @ change, (up - down) / (2 * h), rtol=1e-5, atol=1e-6)
        up, down = (ridge(X, y, radius + s, ratio) for s in (h, -h))
        np.testing.assert_allclose(of_b[2][row], (up - down) / (2 * h), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(of_value[2][row], np.linalg.norm(np.r_[b[row], ratio]), rtol=1e-6)

        # The gradient in the data points to the errors that attain the worst residual, and no others are as bad.
        E, e = of_value[0][row], of_value[1][row] * ratio
        size = radius / np.sqrt(np.sum(E**2) + np.sum(e**2))

        def residual(E, e, row=row, ratio=ratio):
            return np.linalg.norm((X + E) @ b[row] - (y + ratio * e))

        assert abs(residual(size * E, size * e) - worst) < 1e-6
        drawn = rng.normal(size=(100, m, p + 1))
        drawn *= radius / np.linalg.norm(drawn, axis=(1, 2), keepdims=True)
        assert max(residual(each[:, :p], each[:, p]) for each in drawn) < worst


def test_tips(rng, x64):
    m, p = 4, 6
    X, y = rng.normal(size=(m, p)), rng.normal(size=m)
    smallest = np.linalg.norm(X.T @ y) / np.linalg.norm(y)  # from this radius on, the solution is zero
    fit = np.linalg.pinv(X) @ y
    a = np.linalg.solve(X @ X.T, y)
    largest = np.linalg.norm(fit) / np.linalg.norm(a)  # up to this radius, the fit is exact
    radii = np.array([0.5 * largest, 0.99 * largest, 0.5 * (smallest + largest), 1.01 * smallest, 2 * smallest, -1.0])

    def coefficients(y, radius):
        return robust_least_squares(X, y, radius, 0.0)

    both = references.value_and_jacobian(coefficients, (0, 1))
    b, (by_y, by_radius) = jax.jit(jax.vmap(both, in_axes=(None, 0)))(y, radii)
    for row in (0, 1):
        np.testing.assert_allclose(b[row], fit, atol=1e-10)
        np.testing.assert_allclose(by_y[row], np.linalg.pinv(X), atol=1e-10)
        assert not np.any(by_radius[row])
    for row in (3, 4):
        assert not np.any(b[row])
        assert not np.any(by_y[row])
    for row in range(4):
        np.testing.assert_allclose(b[row], reference(X, y, radii[row], 0.0)[0], atol=1e-5)
    h, middle = 1e-4, radii[2]
    np.testing.assert_allclose(b[2], ridge(X, y, middle, 0.0), atol=1e-8)
    up, down = (ridge(X, y, middle + s, 0.0) for s in (h, -h))
    np.testing.assert_allclose(by_radius[2], (up - down) / (2 * h), rtol=1e-5, atol=1e-6)
    assert np.all(np.isnan(b[-1]))
    assert np.all(np.isfinite(b[:-1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"X": [1.0, 2.0]}, "X must be a matrix"),
        ({"y": [1.0]}, r"y must have shape \(2,\), one for each row of X"),
        ({"radius": 0.0}, "radius must be positive"),
        ({"radius": [1.0]}, "radius must be a scalar"),
        ({"ratio": -1.0}, "ratio must be nonnegative"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        RobustLeastSquares(**{"X": np.eye(2), "y": jnp.ones(2), "radius": 1.0} | options)
