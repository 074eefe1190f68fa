"""The normal matrix `N = A diag(w) A'`, the Schur complement of a diagonal Hessian with `w >= 0`, by structure of `A`.

| `A` | `N` | factor |
|---|---|---|
| `Marginals` | `[[diag(r), W], [W', diag(c)]]` | of the Schur complement of its larger diagonal block |
| any other | dense | Cholesky |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.data.marginals import Marginals
from kkt_solvers.data.matrix import Matrix, Product
from kkt_solvers.numerics.arrays import diagonal_matrix, diagonal_of, inverse_root, where
from kkt_solvers.systems.cholesky import Factor, SmallFactor, cholesky, first_definite, regularisation
from kkt_solvers.systems.refinement import refined


class DenseNormal(NamedTuple):
    entries: jax.Array

    @property
    def diagonal(self) -> jax.Array:
        return diagonal_of(self.entries)

    def product(self, x: jax.Array) -> jax.Array:
        return self.entries @ x

    def factor(self, e: jax.Array, shift: jax.Array) -> Factor | SmallFactor:
        """The factor of `diag(e) N diag(e) + diag(shift)`."""
        return cholesky(self.entries, e, shift)


class MarginalsNormal(NamedTuple):
    """`[[diag(r), W], [W', diag(c)]]`, for the row sums and the column sums of a plan."""

    r: jax.Array
    c: jax.Array
    W: jax.Array

    @property
    def diagonal(self) -> jax.Array:
        return jnp.concatenate([self.r, self.c])

    def product(self, x: jax.Array) -> jax.Array:
        of_rows, of_columns = jnp.split(x, [self.r.size])
        return self.diagonal * x + jnp.concatenate([self.W @ of_columns, of_rows @ self.W])

    def factor(self, e: jax.Array, shift: jax.Array) -> "MarginalsFactor":
        (a, b), pivots = self.W.shape, e * self.diagonal * e + shift
        root = jax.lax.rsqrt(pivots)
        # The longer diagonal is eliminated.
        long, short = (jnp.s_[:a], jnp.s_[a:]) if a >= b else (jnp.s_[a:], jnp.s_[:a])
        V = e[:a, None] * self.W * e[a:] * (root[:a, None] if a >= b else root[a:])
        S = diagonal_matrix(pivots[short]) - (V.T @ V if a >= b else V @ V.T)
        one = jnp.ones(min(a, b), S.dtype)
        return MarginalsFactor(root[long], V, cholesky(S, one, 0 * one))


class MarginalsFactor(NamedTuple):
    root: jax.Array  # the inverse roots of the longer diagonal
    V: jax.Array  # the block beside it, times them
    S: Factor | SmallFactor  # of the Schur complement

    def is_definite(self) -> jax.Array:
        return self.S.is_definite()

    def solve(self, b: jax.Array) -> jax.Array:
        a, b_ = self.V.shape
        of_rows, of_columns = jnp.split(b, [a])
        if a >= b_:
            w = self.root * of_rows
            y = self.S.solve(of_columns - w @ self.V)
            return jnp.concatenate([self.root * (w - self.V @ y), y])
        w = self.root * of_columns
        y = self.S.solve(of_rows - self.V @ w)
        return jnp.concatenate([y, self.root * (w - y @ self.V)])


Normal = DenseNormal | MarginalsNormal


def normal(A: Matrix, w: jax.Array) -> Normal:
    """`A diag(w) A'`."""
    if isinstance(A, Marginals):
        return MarginalsNormal(*A.normal_blocks(w))
    return DenseNormal(A.normal(w))


def solve_semidefinite(N: Normal, r: jax.Array) -> jax.Array:
    """`N x = r`; differentiable, any order."""
    if r.size == 0:
        return r
    if r.size == 1:
        # One equality: a scalar. If it is zero, no coordinate is free, and nothing moves.
        pivot = N.diagonal
        return where(pivot > 0, r / where(pivot > 0, pivot, 1.0), 0.0)
    inverse = semidefinite_inverse(jax.lax.stop_gradient(N))
    return jax.lax.custom_linear_solve(N.product, r, lambda _, r: inverse(r), symmetric=True)


def semidefinite_inverse(N: Normal) -> Product:
    """`r -> x` with `N x = r`."""
    e, eps = inverse_root(N.diagonal), float(jnp.finfo(N.diagonal.dtype).eps)
    more = regularisation(e.dtype)
    factor, _ = first_definite(lambda time: N.factor(e, jnp.full_like(e, 16 * eps) + time * more), e.dtype)

    def inverse(b: jax.Array) -> jax.Array:
        return e * factor.solve(e * b)

    return lambda r: refined(inverse, N.product, r, e, 4 * eps)
