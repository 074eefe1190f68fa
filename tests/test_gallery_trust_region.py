"""Trust-region steps against Clarabel (a second-order cone) and the secular equation; a radius by its derivative."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import scipy.optimize
from verb_families import draw_step

import kkt_solvers as kkt
from kkt_solvers.problems import TrustRegion, trust_region


def secular(gradient, B, radius):
    """The step on the sphere and its shift, from the eigenvalues: `|(B + lam I)^-1 gradient| = radius`."""
    values, vectors = np.linalg.eigh(B)
    g = vectors.T @ gradient
    low = max(0.0, -values[0])
    high = low + np.linalg.norm(gradient) / radius + 1
    lam = scipy.optimize.brentq(
        lambda lam: 1 / np.linalg.norm(g / (values + lam)) - 1 / radius, low + 1e-14, high, xtol=1e-15, rtol=1e-14
    )
    return -vectors @ (g / (values + lam)), lam


@jax.jit
def _steps(gradient, hessians, radius):
    def step(gradient, B, radius):
        p = trust_region(gradient, B, radius)
        return p, p

    return jax.vmap(jax.jacobian(step, (0, 1, 2), has_aux=True), in_axes=(None, 0, None))(gradient, hessians, radius)


def test_steps_and_their_derivative(rng, x64):
    n, radius, h = 6, 0.4, 1e-6
    M = rng.normal(size=(n, n))
    hessians = np.array([M @ M.T, M + M.T])  # the second has eigenvalues of both signs
    assert np.linalg.eigvalsh(hessians[1])[0] < -1
    gradient = rng.normal(size=n)
    (by_gradient, by_hessian, by_radius), steps = _steps(gradient, hessians, radius)
    ball = (np.r_[np.zeros((1, n)), -np.eye(n)], np.r_[radius, np.zeros(n)], clarabel.SecondOrderConeT(n + 1))
    np.testing.assert_allclose(steps[0], references.cone_program(hessians[0], gradient, ball)[0], atol=1e-6)
    move, turn = rng.normal(size=n), rng.normal(size=(n, n))
    turn += turn.T
    for B, step, in_gradient, in_hessian, in_radius in zip(
        hessians, steps, by_gradient, by_hessian, by_radius, strict=True
    ):
        np.testing.assert_allclose(step, secular(gradient, B, radius)[0], atol=1e-9)

        def slope(vary, B=B):
            return (secular(*vary(h, B))[0] - secular(*vary(-h, B))[0]) / (2 * h)

        np.testing.assert_allclose(in_gradient @ move, slope(lambda t, B: (gradient + t * move, B, radius)), atol=1e-6)
        np.testing.assert_allclose(in_radius, slope(lambda t, B: (gradient, B, radius + t)), atol=1e-6)
        found = np.einsum("ijk,jk->i", in_hessian, turn)
        np.testing.assert_allclose(found, slope(lambda t, B: (gradient, B + t * turn, radius)), atol=1e-6)


def test_inside_and_the_hard_case(x64):
    B = np.array([[[1.0, 0.0], [0.0, 2.0]], [[-1.0, 0.0], [0.0, 2.0]]])
    steps = jax.jit(jax.vmap(trust_region, in_axes=(None, 0, None)))(np.array([0.0, 1.0]), B, 5.0)
    np.testing.assert_allclose(steps[0], [0.0, -0.5], atol=1e-9)
    assert np.all(np.isnan(steps[1]))  # (-t, -1/3) and (t, -1/3) are as good


def test_ridge_regression_of_a_given_norm(rng, x64):
    # A radius learned by the gradient of a validation loss: |b| <= radius instead of a ridge of unknown size.
    true = rng.normal(size=8)
    X, V = rng.normal(size=(12, 8)), rng.normal(size=(200, 8))
    y, v = X @ true + 2.0 * rng.normal(size=12), V @ true

    def loss(radius):
        return jnp.mean((V @ trust_region(-X.T @ y, X.T @ X, radius) - v) ** 2)

    both = jax.jit(jax.value_and_grad(loss))
    radii = np.linspace(0.5, np.linalg.norm(np.linalg.lstsq(X, y)[0]) * 0.99, 30)
    coarse = radii[np.argmin([both(radius)[0] for radius in radii])]
    best = scipy.optimize.brentq(lambda radius: float(both(radius)[1]), coarse - radii[1] + radii[0], coarse + 0.2)
    assert radii[0] < best < radii[-1]
    assert both(best)[0] <= both(coarse)[0]
    # There a ridge of the size of the multiplier gives the same coefficients.
    shift = kkt.solve(TrustRegion(-X.T @ y, X.T @ X, best)).dual.inequality
    np.testing.assert_allclose(
        trust_region(-X.T @ y, X.T @ X, best), np.linalg.solve(X.T @ X + shift * np.eye(8), X.T @ y), atol=1e-8
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TrustRegion([1.0, 2.0], np.eye(3), 1.0), r"hessian must be square, \(2, 2\)"),
        (lambda: TrustRegion(1.0, [[1.0]], 1.0), "gradient must be a vector of slopes"),
        (lambda: TrustRegion([1.0, 2.0], np.eye(2), 0.0), "radius must be positive"),
        (lambda: trust_region([1.0, 2.0], np.eye(2), [1.0, 2.0]), "radius must be a scalar"),
        (lambda: trust_region([1.0, 2.0], [[1.0, 0.5], [0.0, 1.0]], 1.0), "hessian must be symmetric"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_sphere_that_is_met_early(x64):
    """Iterates must not get to the sphere long before the slope is gone: from there steps are short."""
    drawn = {name: value[1403] for name, value in draw_step(np.random.default_rng(0), 10_000).items()}
    gradient, B, radius = drawn["gradient"], drawn["factor"] @ drawn["factor"].T, drawn["radius"]
    solution = kkt.solve(TrustRegion(gradient, B, radius))
    assert solution.status == kkt.Status.SOLVED
    assert solution.iterations <= 20
    expected, price = secular(gradient, B, radius)
    np.testing.assert_allclose(solution.primal, expected, atol=1e-9)
    np.testing.assert_allclose(solution.dual.inequality, price, rtol=1e-8)
