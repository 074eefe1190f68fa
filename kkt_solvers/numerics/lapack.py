"""Dense factorisations and triangular solves, of a batch one after the other on a CPU."""

import jax
import jax.numpy as jnp

from kkt_solvers.numerics.arrays import where
from kkt_solvers.numerics.batches import one_by_one

# LAPACK wants columns, XLA keeps rows: the transpose of a symmetric matrix is there without a copy.
cholesky = one_by_one(lambda K: jax.lax.linalg.cholesky(K.mT, symmetrize_input=False))
eigvalsh = one_by_one(jnp.linalg.eigvalsh)
pinv = one_by_one(lambda K: _pseudo_inverse(K))
cho_solve = one_by_one(lambda L, b: jax.scipy.linalg.cho_solve((L, True), b), by_first=True)
# Factors often come out of a `lax.cond`, where XLA lays them out by rows. LAPACK takes their transpose as it is; rows
# of a matrix it takes on the right side, where BLAS is faster too.
solve_lower = one_by_one(lambda L, b: _of_vector(L, b, transpose_a=True), by_first=True)
solve_lower_transposed = one_by_one(lambda L, b: _of_vector(L, b, transpose_a=False), by_first=True)
solve_lower_rows = one_by_one(lambda L, A: jax.lax.linalg.triangular_solve(L.T, A), by_first=True)


def _pseudo_inverse(K: jax.Array) -> jax.Array:
    """The pseudo-inverse of a symmetric matrix."""
    values, vectors = jnp.linalg.eigh(K)
    cut = 10 * len(K) * float(jnp.finfo(K.dtype).eps) * jnp.max(jnp.abs(values))
    return vectors * where(jnp.abs(values) > cut, 1 / values, 0.0) @ vectors.T


def _of_vector(L: jax.Array, b: jax.Array, transpose_a: bool) -> jax.Array:
    return jax.lax.linalg.triangular_solve(L.T, b[:, None], left_side=True, transpose_a=transpose_a)[:, 0]
