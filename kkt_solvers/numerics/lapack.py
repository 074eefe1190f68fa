"""Dense factorisations and triangular solves. On a CPU a batch of matrices is factorised one after the other, a batch
of small matrices in lockstep."""

import math

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
tridiagonal_solve = one_by_one(jax.lax.linalg.tridiagonal_solve)
solve_lower = one_by_one(lambda L, b: _of_vector(L, b, transpose_a=True), by_first=True)
solve_lower_transposed = one_by_one(lambda L, b: _of_vector(L, b, transpose_a=False), by_first=True)
solve_lower_rows = one_by_one(lambda L, A: jax.lax.linalg.triangular_solve(L.T, A), by_first=True)


def _triangular_inverse(K: jax.Array) -> jax.Array:
    """The upper triangular `U` with `K^{-1} = U U'`."""
    L = jax.lax.linalg.cholesky(K.mT, symmetrize_input=False)
    return jax.lax.linalg.triangular_solve(L.T, jnp.eye(len(K), dtype=K.dtype), left_side=True)


_UNROLLED = 8  # columns that are eliminated one by one


def _by_halves(K: jax.Array) -> jax.Array:
    """The same by products of blocks: that of `[[K, B'], [B, C]]` is `[[U, -U (B U)' V], [0, V]]` if `V` is that of the
    Schur complement `C - (B U) (B U)'`. Unless `K` is positive definite, the last entry is not finite."""
    n = len(K)
    if n <= _UNROLLED:  # U' [K, I] = [U^{-1}, U']
        rest, rows = jnp.concatenate([K, jnp.eye(n, dtype=K.dtype)], axis=1), []
        for j in range(n):
            row = rest[0] * jax.lax.rsqrt(rest[0, j])
            rows.append(row[n:])
            rest = rest[1:] - row[j + 1 : n, None] * row
        return jnp.stack(rows, axis=1)
    half = _UNROLLED * math.ceil(n / _UNROLLED / 2)
    first = _by_halves(K[:half, :half])
    across = K[half:, :half] @ first
    second = _by_halves(K[half:, half:] - across @ across.T)
    return jnp.block([[first, -(first @ across.T) @ second], [jnp.zeros((n - half, half), K.dtype), second]])


inverse_root = one_by_one(_triangular_inverse, small=lambda _, K: (_by_halves(K), jnp.ones((), bool)))


def _pseudo_inverse(K: jax.Array) -> jax.Array:
    """The pseudo-inverse of a symmetric matrix."""
    values, vectors = jnp.linalg.eigh(K)
    cut = 10 * len(K) * float(jnp.finfo(K.dtype).eps) * jnp.max(jnp.abs(values))
    return vectors * where(jnp.abs(values) > cut, 1 / values, 0.0) @ vectors.T


def _of_vector(L: jax.Array, b: jax.Array, transpose_a: bool) -> jax.Array:
    return jax.lax.linalg.triangular_solve(L.T, b[:, None], left_side=True, transpose_a=transpose_a)[:, 0]
