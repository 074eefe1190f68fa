"""The KKT matrix of a problem in stages: `H + diag(D)` is block diagonal, its Schur complement block tridiagonal."""

import jax
import jax.numpy as jnp

from kkt_solvers.data.matrices import Diagonal, Zero
from kkt_solvers.data.matrix import Matrix, Product
from kkt_solvers.data.stages import BlockBidiagonal, BlockDiagonal, block_adjoint, block_product
from kkt_solvers.numerics import lapack
from kkt_solvers.numerics.arrays import diagonal_of


def in_stages(H: Matrix, A: Matrix) -> bool:
    """Whether a Hessian and an equality share their stages; a diagonal Hessian has those of the equality."""
    if not isinstance(A, BlockBidiagonal):
        return False
    N, _, n = A.stages
    return isinstance(H, (Zero, Diagonal)) or (isinstance(H, BlockDiagonal) and H.stages == (N, n, n))


def inverse_roots(H: Matrix, A: BlockBidiagonal, curved: jax.Array, D: jax.Array) -> jax.Array:
    """`U_t` with `U_t U_t'` the inverse of a block of `diag(curved) H diag(curved) + diag(D)`."""
    N, _, n = A.stages
    eye, of_blocks = jnp.eye(n, dtype=D.dtype), (N, n, 1)
    if not isinstance(H, BlockDiagonal):
        return jax.lax.rsqrt(curved * H.diagonal_entries() + D).reshape(of_blocks) * eye
    curved = curved.reshape(N, n)
    blocks = curved[:, :, None] * H.blocks * curved[:, None, :] + D.reshape(of_blocks) * eye
    return jax.vmap(lapack.inverse_root)(blocks)


def inverse_by_stages(U: jax.Array, A: BlockBidiagonal, delta: jax.Array, jitter: float) -> tuple[Product, jax.Array]:
    """The inverse of `[[H, A'], [A, -diag(delta)]]` with `H^{-1} = U U'` for the blocks `U`; and what brings the
    diagonal of the Schur complement to one. `jitter` is added to that diagonal, against rounding."""
    N, p, n = A.stages
    V, Z = A.diagonal @ U, A.below @ U[:-1]
    S, C = V @ V.mT, Z @ V[:-1].mT
    S = S.at[1:].add(Z @ Z.mT) + delta.reshape(N, p, 1) * jnp.eye(p, dtype=S.dtype)
    e = jax.lax.rsqrt(jax.vmap(diagonal_of)(S))
    S = e[:, :, None] * S * e[:, None, :] + jitter * jnp.eye(p, dtype=S.dtype)
    of_schur = block_tridiagonal_inverse(S, e[1:, :, None] * C * e[:-1, None, :])
    whitened = BlockBidiagonal(V, Z)

    def inverse(b: jax.Array) -> jax.Array:
        w = jnp.ravel(block_adjoint(U, b[: N * n].reshape(N, n)))
        dnu = jnp.ravel(e * of_schur(e * (whitened.product(w) - b[N * n :]).reshape(N, p)))
        return jnp.concatenate([jnp.ravel(block_product(U, (w - whitened.adjoint(dnu)).reshape(N, n))), dnu])

    return inverse, jnp.ravel(e)


def block_tridiagonal_inverse(S: jax.Array, C: jax.Array) -> Product:
    """The inverse of a positive definite matrix with blocks `S_t` on the diagonal and `C_t` below it, as a map of
    vectors by stages, shape `(N, p)`.

    Its Cholesky factor is found stage by stage. With the inverse roots `U_t` of the pivots only a recursion of one
    product a stage is left to a solve.
    """
    p = S.shape[-1]
    if p == 1:
        zero, diagonal, below = jnp.zeros(1, S.dtype), jnp.ravel(S), jnp.ravel(C)
        low, high = jnp.concatenate([zero, below]), jnp.concatenate([below, zero])
        return lambda r: lapack.tridiagonal_solve(low, diagonal, high, r)

    def pivot(U: jax.Array, blocks: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        S, C = blocks
        G = C @ U
        U = lapack.inverse_root(S - G @ G.T)
        return U, (U, G)

    padded = jnp.concatenate([jnp.zeros((1, p, p), S.dtype), C])
    _, (U, G) = jax.lax.scan(pivot, jnp.eye(p, dtype=S.dtype), (S, padded))
    M = U.mT @ G

    def forward(before: jax.Array, stage: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        M, r = stage
        x = r - M @ before
        return x, x

    def backward(after: jax.Array, stage: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        M, r = stage
        x = r - after
        return x @ M, x

    def inverse(r: jax.Array) -> jax.Array:
        none = jnp.zeros(p, S.dtype)
        _, x = jax.lax.scan(forward, none, (M, block_adjoint(U, r)))
        _, x = jax.lax.scan(backward, none, (M, x), reverse=True)
        return block_product(U, x)

    return inverse
