"""Losses on LML, top-k, and the layers."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax
import pytest
import references
from flax import nnx

from kkt_solvers.problems import (
    hard_top_k,
    lml,
    lml_binary_cross_entropy,
    lml_equinox,
    lml_fenchel_young_loss,
    lml_linen,
    lml_loss,
    lml_nnx,
    straight_through_top_k,
)


def _y(x, k):
    return np.stack([references.lml(row, k)[0] for row in x]).astype(float)


def test_losses_and_their_gradients(rng, x64):
    x, k = rng.normal(size=(4, 7)), 3
    y = _y(x, k)
    labels = np.array([0, 6, 3, 3])
    several = np.array([[0, 1], [2, -1], [5, 6], [-1, -1]])
    kept = several >= 0
    log_y = np.log(np.take_along_axis(y, np.maximum(several, 0), 1))
    np.testing.assert_allclose(lml_loss(x, labels, k), -np.log(y[np.arange(4), labels]), atol=1e-13)
    np.testing.assert_allclose(lml_loss(x, several, k), -np.sum(kept * log_y, axis=1), atol=1e-13)
    np.testing.assert_allclose(lml_loss(x.T, labels, k, axis=0), lml_loss(x, labels, k), atol=1e-14)
    targets = np.asarray(hard_top_k(rng.normal(size=x.shape), k))
    entropies = -np.sum(targets * np.log(y) + (1 - targets) * np.log1p(-y), axis=1)
    np.testing.assert_allclose(lml_binary_cross_entropy(x, targets, k), entropies, atol=1e-13)
    # Fenchel-Young by its definition: F(x) is the largest value of x'y + H(y), taken at lml(x).
    soft = 0.7 * targets + 0.3 * y

    def minus_entropy(y):
        return np.sum(jax.scipy.special.xlogy(y, y) + jax.scipy.special.xlogy(1 - y, 1 - y), axis=1)

    F = np.sum(x * y, axis=1) - minus_entropy(y)
    expected = F + minus_entropy(soft) - np.sum(x * soft, axis=1)
    np.testing.assert_allclose(lml_fenchel_young_loss(x, soft, k), expected, atol=1e-12)
    np.testing.assert_allclose(lml_fenchel_young_loss(x, y, k), 0, atol=1e-12)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(lml_fenchel_young_loss(x, soft, k))))(x)
    np.testing.assert_allclose(gradient, y - soft, atol=1e-12)
    jax.test_util.check_grads(lambda x: lml_loss(x, several, k), (x,), order=1, modes=["rev"], eps=1e-5)


def test_gradients_live_where_y_rounds():
    x = jnp.asarray([40.0, 0.0, -40.0, -41.0])  # lml(x, 1) is [1, 0, 0, 0] to 1e-9
    gradient = jax.jit(jax.grad(lambda x: lml_loss(x, jnp.asarray(3), 1)))(x)
    np.testing.assert_allclose(gradient, [0.5, 0.5, 0, -1], atol=1e-5)
    assert lml_loss(x, jnp.asarray(3), 1) == pytest.approx(61, rel=1e-5)


def test_bad_losses():
    x = np.zeros((2, 3))
    with pytest.raises(TypeError, match="labels must be integers"):
        lml_loss(x, np.zeros(2), 1)
    with pytest.raises(ValueError, match="labels must have shape"):
        lml_loss(x, np.zeros(3, int), 1)
    with pytest.raises(ValueError, match="targets must have the shape"):
        lml_binary_cross_entropy(x, np.zeros(3), 1)
    with pytest.raises(ValueError, match="k must be a nonnegative integer"):
        hard_top_k(x, 1.5)
    assert np.isnan(lml_loss(x, np.array([0, 3]), 1)).tolist() == [False, True]


def test_masked_targets():
    mask = np.array([True, True, False, True])
    value, gradient = jax.value_and_grad(lml_binary_cross_entropy)(
        jnp.arange(4.0), jnp.asarray([1.0, 0.0, 0.0, 0.0]), 1, where=mask
    )
    expected = lml_binary_cross_entropy(jnp.asarray([0.0, 1.0, 3.0]), jnp.asarray([1.0, 0.0, 0.0]), 1)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert gradient[2] == 0


def test_top_k(rng):
    x = rng.normal(size=(3, 5, 4)).astype(np.float32)
    order = np.argsort(np.argsort(-x, axis=1), axis=1)
    np.testing.assert_array_equal(hard_top_k(x, 2, axis=1), order < 2)
    np.testing.assert_array_equal(hard_top_k(np.zeros(4), 2), [1, 1, 0, 0])
    np.testing.assert_array_equal(hard_top_k(np.zeros(4), 3, where=np.array([True, False, True, False])), [1, 0, 1, 0])
    np.testing.assert_allclose(lml(x, 2, axis=1, temperature=1e-4), order < 2, atol=1e-6)
    g = rng.normal(size=x.shape).astype(np.float32)
    hard, pullback = jax.vjp(lambda x: straight_through_top_k(x, 2, axis=1, temperature=0.5), x)
    np.testing.assert_array_equal(hard, order < 2)
    np.testing.assert_allclose(
        pullback(g)[0], jax.vjp(lambda x: lml(x, 2, axis=1, temperature=0.5), x)[1](g)[0], atol=1e-7
    )


def test_layers_train(rng):
    features = rng.normal(size=(20, 6)).astype(np.float32)
    labels = jnp.argmax(features[:, :4], axis=1)

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            return lml_linen.LMLLayer(2)(nn.Dense(4)(x))

    class Nnx(nnx.Module):
        def __init__(self):
            self.dense, self.choose = nnx.Linear(6, 4, rngs=nnx.Rngs(0)), lml_nnx.LMLLayer(2)

        def __call__(self, x):
            return self.choose(self.dense(x))

    equinox = eqx.nn.Sequential([eqx.nn.Linear(6, 4, key=jax.random.key(0)), eqx.nn.Lambda(lml_equinox.LMLLayer(2))])
    arrays, static = eqx.partition(equinox, eqx.is_inexact_array)
    graph, state = nnx.split(Nnx())
    weights = Linen().init(jax.random.key(0), features)
    models = [
        (weights, lambda w: Linen().apply(w, features)),
        (state, lambda state: nnx.merge(graph, state)(features)),
        (arrays, lambda arrays: jax.vmap(eqx.combine(arrays, static))(features)),
    ]
    for weights, outputs in models:
        np.testing.assert_allclose(outputs(weights).sum(-1), 2, rtol=1e-5)
        optimiser = optax.sgd(0.5)

        def loss(weights, outputs=outputs):
            return -jnp.mean(jnp.log(jnp.take_along_axis(outputs(weights), labels[:, None], 1)))

        step = jax.jit(jax.value_and_grad(loss))
        first, slope = step(weights)
        for _ in range(20):
            update, _ = optimiser.update(slope, optimiser.init(weights))
            weights = optax.apply_updates(weights, update)
            last, slope = step(weights)
        assert last < 0.5 * first
