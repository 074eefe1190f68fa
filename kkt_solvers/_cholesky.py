"""Cholesky factors of matrices that may have few rows with entries beside the diagonal.

Of a quadratic program that is handed over as a dense array the Hessian often is diagonal, or has entries for a few of
the variables only; that of its free coordinates the more so. Under `jit` that is seen at run time only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers import _lapack as lapack
from kkt_solvers._batches import in_any

_FROM = 64  # a smaller matrix costs little as it is
_FEW = 3  # of the rows one in three


class Coupling(NamedTuple):
    """Which rows of a matrix have entries beside the diagonal: if they are `few`, the last ones of `order`."""

    few: jax.Array
    order: jax.Array
    place: jax.Array  # in that order


def coupling(H: jax.Array, free: jax.Array | None = None) -> Coupling | None:
    """That of a symmetric `H`, or of its rows and columns that are `free`; `None` where it is not worth the look. In a
    batch `few` is that of all."""
    n = len(H)
    if H.ndim == 1 or n < _FROM:
        return None
    beside = (H != 0) & ~jnp.eye(n, dtype=bool)
    coupled = jnp.any(beside if free is None else beside & free, axis=1)
    coupled = coupled if free is None else coupled & free
    few = ~in_any(jnp.sum(coupled) > n // _FEW)

    def sorted_rows() -> tuple[jax.Array, jax.Array]:
        order = jnp.argsort(coupled)
        return order, jnp.argsort(order)

    none = jnp.arange(n)
    return Coupling(few, *jax.lax.cond(few, sorted_rows, lambda: (none, none)))


class Factor(NamedTuple):
    """`R` with `K = R R'`, of a positive definite `K`: a lower triangle for the rows that are coupled, and roots."""

    root: jax.Array  # of the diagonal
    part: jax.Array | None  # the triangle of the coupled rows, if they are few
    whole: jax.Array | None  # else of all
    coupling: Coupling | None

    def pivots(self) -> jax.Array:
        """The diagonal of `R`; some are NaN where `K` is not definite."""
        if self.whole is None:
            return self.root
        if self.part is None or self.coupling is None:
            return jnp.diag(self.whole)
        parts = jnp.concatenate([self.root[self.coupling.order[: -len(self.part)]], jnp.diag(self.part)])
        return jnp.where(self.coupling.few, parts, jnp.diag(self.whole))

    def whiten(self, v: jax.Array) -> jax.Array:
        """`R^{-1}`, applied to a vector or to each row of a matrix."""
        forward = lapack.solve_lower if v.ndim == 1 else lapack.solve_lower_rows
        if self.whole is None:
            return v / self.root
        if self.part is None or self.coupling is None:
            return forward(self.whole, v)
        order, part, whole = self.coupling.order, self.part, self.whole

        def by_parts() -> jax.Array:
            head, tail = order[: -len(part)], order[-len(part) :]
            return jnp.concatenate([v[..., head] / self.root[head], forward(part, v[..., tail])], axis=-1)

        return jax.lax.cond(self.coupling.few, by_parts, lambda: forward(whole, v))

    def unwhiten(self, v: jax.Array) -> jax.Array:
        """`R^{-T}`, of a vector."""
        backward = lapack.solve_lower_transposed
        if self.whole is None:
            return v / self.root
        if self.part is None or self.coupling is None:
            return backward(self.whole, v)
        (few, order, place), part, whole = self.coupling, self.part, self.whole

        def by_parts() -> jax.Array:
            rest = len(order) - len(part)
            return jnp.concatenate([v[:rest] / self.root[order[:rest]], backward(part, v[rest:])])[place]

        return jax.lax.cond(few, by_parts, lambda: backward(whole, v))


def cholesky(H: jax.Array, scale: jax.Array, shift: jax.Array, coupling: Coupling | None = None) -> Factor:
    """The factor of `diag(scale) H diag(scale) + diag(shift)`, with `H` a symmetric matrix or the diagonal of one.

    That is formed where it is factorised: XLA then does both in one pass.
    """
    if H.ndim == 1:
        return Factor(jnp.sqrt(scale * H * scale + shift), None, None, None)

    def formed(rows: jax.Array | None = None) -> jax.Array:
        part, s, d = (H, scale, shift) if rows is None else (H[rows][:, rows], scale[rows], shift[rows])
        return part * s[:, None] * s + jnp.diag(d)

    root = jnp.sqrt(scale * jnp.diag(H) * scale + shift)
    if coupling is None:
        return Factor(root, None, lapack.cholesky(formed()), None)
    size = len(H) // _FEW

    def by_parts() -> tuple[jax.Array, jax.Array]:
        return lapack.cholesky(formed(coupling.order[-size:])), jnp.zeros_like(H)

    def whole() -> tuple[jax.Array, jax.Array]:
        return jnp.zeros((size, size), H.dtype), lapack.cholesky(formed())

    part, rest = jax.lax.cond(coupling.few, by_parts, whole)
    return Factor(root, part, rest, coupling)
