"""The kernel of `lml` for a GPU, interpreted on a CPU: held to the references, and lowered for the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from test_lml_everywhere import EDGES, FAMILIES

from kkt_solvers.solvers._logistic import logistic_root
from kkt_solvers.solvers._logistic_kernel import fused


def test_against_references(rng):
    scores = [(scale * family(rng)).astype(np.float32) for family in FAMILIES.values() for scale in (0.1, 1, 10, 1e6)]
    x, k = np.stack(scores), np.resize([1.0, 5.0, 2.5, 23.0, 11.0], len(scores)).astype(np.float32)
    root = jax.jit(lambda x, k: fused(logistic_root, x, k[:, None], interpret=True))(x, k)
    for row, total, t in zip(x, k, root.t, strict=True):
        expected, _, _ = references.lml_mpmath(tuple(row.astype(float)), float(total))
        np.testing.assert_allclose(jax.nn.sigmoid(t), expected, rtol=0, atol=1e-6 * max(1, total))
    assert np.max(root.sweeps) <= 6


def test_edges():
    x, k, expected = (np.array([edge[i] for edge in EDGES], np.float32) for i in range(3))
    t = jax.jit(lambda x, k: fused(logistic_root, x, k[:, None], interpret=True))(x, k).t
    np.testing.assert_allclose(jax.nn.sigmoid(t), expected, rtol=0, atol=4 * np.finfo(np.float32).eps)


def test_weights(rng):
    x, w = 3 * rng.normal(size=(8, 20)).astype(np.float32), np.exp(rng.normal(size=(8, 20))).astype(np.float32)
    k = (0.3 * w.sum(1, keepdims=True)).astype(np.float32)
    t = jax.jit(lambda *row: fused(logistic_root, *row, interpret=True))(x, k, w).t
    np.testing.assert_allclose(np.sum(w * np.asarray(jax.nn.sigmoid(t)), axis=1), k[:, 0], rtol=1e-5)


@pytest.mark.parametrize("n", [10, 1000])
def test_lowers_for_the_device(n):
    x, k = jnp.zeros((4, n), jnp.float32), jnp.ones((4, 1), jnp.float32)
    traced = jax.jit(lambda x, k: fused(logistic_root, x, k)).trace(x, k)
    assert "triton" in traced.lower(lowering_platforms=("cuda",)).as_text()
