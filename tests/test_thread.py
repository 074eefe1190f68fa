"""The three programs of the discussion that started this project, which fail on jaxopt alone."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import kkt_solvers as kkt
from kkt_solvers import projections
from kkt_solvers.problems import LML, lml


# ------------------------------------------------------------------ (a) LML as a function and as a flax layer
class Layer(nn.Module):
    k: int

    @nn.compact
    def __call__(self, features):
        return lml(nn.Dense(6)(features), self.k)


def test_function_unbatched_and_vmapped(rng, x64):
    x, g = rng.normal(size=(4, 6)), rng.normal(size=6)
    gradient = jax.grad(lambda x: jnp.vdot(g, lml(x, 2)))
    expected = np.stack([references.lml_gradient(row, 2, g)[0] for row in x]).astype(float)
    np.testing.assert_allclose(gradient(x[0]), expected[0], atol=1e-12)
    np.testing.assert_allclose(jax.vmap(gradient)(x), expected, atol=1e-12)
    with pytest.raises(TypeError, match="scalar-output"):
        jax.grad(lambda x: lml(x, 2))(x[0])


def test_flax_layer(rng):
    layer, features = Layer(2), rng.normal(size=(5, 3)).astype(np.float32)
    params = layer.init(jax.random.key(0), features)
    out = layer.apply(params, features)
    np.testing.assert_allclose(out.sum(-1), 2, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda f: layer.apply(params, f))(features), out, rtol=1e-5)

    def loss(params):
        return jnp.sum(layer.apply(params, features)[:, 0] ** 2)

    gradient = jax.jit(jax.grad(loss))(params)["params"]["Dense_0"]["kernel"]
    step = 1e-2 * rng.normal(size=gradient.shape).astype(np.float32)

    def moved(size):
        return loss(jax.tree.map(lambda p: p + size * step if p.ndim == 2 else p, params))

    np.testing.assert_allclose((moved(1.0) - moved(-1.0)) / 2, jnp.vdot(gradient, step), rtol=2e-2)


# --------------------------------- (b) the dual bisection with k and the scores closed over, in every order
def _y_of_closed_over(scores, k):
    """The objective and the equality are lambdas over `scores` and `k`: nothing is passed as an argument."""
    problem = kkt.Problem(
        kkt.Separable(
            lambda y, _: y * jnp.log(y) + (1 - y) * jnp.log1p(-y) - scores * y,
            minimiser=lambda z, _: jax.nn.sigmoid(scores + z),
        ),
        equality=lambda y: jnp.sum(y) - k,
        box=kkt.Box(0.0, 1.0),
    )
    return kkt.solve(problem, jnp.zeros_like(scores), solver=kkt.DualBisection(accelerate=False)).primal


ORDERS = list(itertools.permutations(["jit", "vmap", "grad"]))


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_every_order(order, rng, x64):
    scores, g = rng.normal(size=(3, 5)), rng.normal(size=5)
    expected = np.stack([references.lml_gradient(row, 2, g)[0] for row in scores]).astype(float)
    if order.index("vmap") < order.index("grad"):  # grad of a batch: of the sum of its values

        def function(scores):
            return jnp.sum(jax.vmap(lambda row: jnp.vdot(g, _y_of_closed_over(row, 2.0)))(scores))

        order = tuple(name for name in order if name != "vmap")
    else:

        def function(scores):
            return jnp.vdot(g, _y_of_closed_over(scores, 2.0))

    for name in order:
        function = {"jit": jax.jit, "vmap": jax.vmap, "grad": jax.grad}[name](function)
    np.testing.assert_allclose(function(scores), expected, atol=1e-12)


def test_jacrev_and_derivative_in_k(rng, x64):
    scores = rng.normal(size=5)
    _, D = references.lml(scores, 2)
    D, w = D.astype(float), (D / D.sum()).astype(float)
    np.testing.assert_allclose(
        jax.jacrev(lambda s: _y_of_closed_over(s, 2.0))(scores), np.diag(D) - np.outer(w, D), atol=1e-12
    )
    np.testing.assert_allclose(jax.jacfwd(lambda k: _y_of_closed_over(scores, k))(2.0), w, atol=1e-12)


def test_under_scan_and_checkpoint(rng, x64):
    scores, g = rng.normal(size=(3, 5)), rng.normal(size=5)

    def scanned(scores):
        def step(total, row):
            return total + jnp.vdot(g, _y_of_closed_over(row, 2.0)), None

        return jax.lax.scan(step, 0.0, scores)[0]

    expected = np.stack([references.lml_gradient(row, 2, g)[0] for row in scores]).astype(float)
    np.testing.assert_allclose(jax.grad(scanned)(scores), expected, atol=1e-12)
    remembered = jax.checkpoint(lambda row: jnp.vdot(g, _y_of_closed_over(row, 2.0)))
    np.testing.assert_allclose(jax.jit(jax.grad(remembered))(scores[0]), expected[0], atol=1e-12)


# -------------------------------------------------- (c) projected gradient with the true projection
def test_projected_gradient_and_its_gradient(rng, x64):
    scores, g = rng.normal(size=6), rng.normal(size=6)

    def y(scores):
        return kkt.solve(LML(scores, 3), solver=kkt.ProjectedGradient(tol=1e-9)).primal

    np.testing.assert_allclose(y(scores), references.lml(scores, 3)[0].astype(float), atol=1e-8)
    np.testing.assert_allclose(
        jax.grad(lambda s: jnp.vdot(g, y(s)))(scores), references.lml_gradient(scores, 3, g)[0].astype(float), atol=1e-8
    )


def test_clip_then_normalise_is_not_the_projection(x64):
    v = np.array([2, 0.3, 0.1, -0.5, 0.8])
    clipped = np.clip(v, 0, 1)
    wrong = clipped / clipped.sum() * 2
    right = projections.euclidean(v, 2.0, lower=0.0, upper=1.0)
    np.testing.assert_allclose(right, [1, 7 / 30, 1 / 30, 0, 11 / 15], atol=1e-14)
    assert np.sum((right - v) ** 2) < np.sum((wrong - v) ** 2) - 0.1
