"""Dense factorisations and triangular solves, of a batch one after the other on a CPU."""

import jax
import jax.numpy as jnp

from kkt_solvers._batches import one_by_one

# LAPACK wants columns, XLA keeps rows: the transpose of a symmetric matrix is there without a copy.
cholesky = one_by_one(lambda K: jnp.linalg.cholesky(K.mT, symmetrize_input=False))
eigvalsh = one_by_one(jnp.linalg.eigvalsh)
pinv = one_by_one(lambda K: jnp.linalg.pinv(K, hermitian=True))
# With the rows in order: to find that from the pivots is a long loop, which a solve need not repeat.
lu_factor = one_by_one(lambda K: jax.lax.linalg.lu(K)[::2])
lu_solve = one_by_one(lambda lu, order, b: _solve_upper(lu, _solve_unit_lower(lu, b[order])), by_first=True)
cho_solve = one_by_one(lambda L, b: jax.scipy.linalg.cho_solve((L, True), b), by_first=True)
# Triangles are handed over as the transpose of upper ones: they often come out of a `lax.cond`, where XLA lays them out
# by rows. Rows of a matrix go in on the right side, for which BLAS is faster, and which takes no transpose.
solve_lower = one_by_one(lambda L, b: jax.scipy.linalg.solve_triangular(L.T, b, trans=1), by_first=True)
solve_lower_transposed = one_by_one(lambda L, b: jax.scipy.linalg.solve_triangular(L.T, b), by_first=True)
solve_lower_rows = one_by_one(lambda L, A: jax.lax.linalg.triangular_solve(L.T, A), by_first=True)


def _solve_unit_lower(lu: jax.Array, b: jax.Array) -> jax.Array:
    return jax.scipy.linalg.solve_triangular(lu, b, lower=True, unit_diagonal=True)


def _solve_upper(lu: jax.Array, b: jax.Array) -> jax.Array:
    return jax.scipy.linalg.solve_triangular(lu, b)
