"""Cholesky factors that see at run time how few rows of a matrix are coupled: against numpy's solve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kkt_solvers.systems.cholesky import cholesky, coupling

pytestmark = pytest.mark.usefixtures("x64")
N = 70


def coupled(rows, seed=0):
    """A positive definite matrix that is diagonal but for a block, in places drawn by chance."""
    rng = np.random.default_rng(seed)
    H, places, block = np.diag(rng.uniform(1, 2, N)), rng.permutation(N)[:rows], rng.normal(size=(rows, rows))
    H[np.ix_(places, places)] += block @ block.T
    return H


@jax.jit
def applied(H, scale, shift, right):
    factor = cholesky(H, scale, shift, coupling(H))
    white = factor.whiten(right)
    return white @ white.T, factor.unwhiten(factor.whiten(right[0])), factor.pivots()


RNG = np.random.default_rng(1)
SCALE, SHIFT, RIGHT = RNG.uniform(0.5, 2, N), RNG.uniform(0, 1, N), RNG.normal(size=(4, N))


def check(H, square, solution, pivots):
    K = H * SCALE * SCALE[:, None] + np.diag(SHIFT)
    exact = np.linalg.solve(K, RIGHT.T)
    np.testing.assert_allclose(square, RIGHT @ exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(solution, exact[:, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(2 * np.sum(np.log(pivots)), np.linalg.slogdet(K)[1], rtol=1e-12)


@pytest.mark.parametrize("rows", [0, 1, N // 4, N // 4 + 1, N // 2, N // 2 + 1, N])
def test_solves_and_determinant(rows):
    H = coupled(rows)
    check(H, *applied(H, SCALE, SHIFT, RIGHT))


def test_diagonal_given_as_a_vector():
    h = np.diag(coupled(0))
    check(np.diag(h), *applied(h, SCALE, SHIFT, RIGHT))


@pytest.mark.parametrize("rows", [(0, 3), (0, N)])
def test_batch(rows):
    """Also one whose instances are not alike."""
    H = np.stack([coupled(count) for count in rows])
    parts = jax.jit(jax.vmap(applied, in_axes=(0, None, None, None)))(H, SCALE, SHIFT, RIGHT)
    for instance in zip(H, *parts, strict=True):
        check(*instance)


def test_indefinite_is_told():
    for rows in (0, 3, N):
        H = coupled(rows)
        assert not np.all(np.isfinite(applied(H, SCALE, SHIFT - 20, RIGHT)[2]))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere every row is factorised")
def test_only_free_rows_are_coupled():
    H, free = coupled(N), np.arange(N) < 5
    assert coupling(jnp.asarray(H)).size == 2
    found = coupling(jnp.asarray(H), jnp.asarray(free))
    assert found.size == 0
    assert set(np.asarray(found.order[-5:])) == set(range(5))
