"""Cholesky factors of dense matrices, at the price of the rows that have off-diagonal entries.

A Hessian that is passed as a dense array is often diagonal, or couples only a few of the variables, and even fewer of
the free ones. Under `jit` this can be seen at run time only.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.numerics import lapack
from kkt_solvers.numerics.arrays import diagonal_matrix, diagonal_of, is_precise
from kkt_solvers.numerics.batches import SMALL, in_any

_FROM = 64  # a smaller matrix costs little as it is
_PARTS = (4, 2, 1)  # the sizes of a triangle: a quarter of the rows, half of them, all


def regularisation(dtype: Any) -> float:
    """The shift that keeps a semidefinite matrix of unit size positive definite in spite of rounding: 4e-10 in float64.
    In float32 it is 3e-6, closer to rounding, because a shift of the same power of eps would slow refinement."""
    return float(jnp.finfo(dtype).eps) ** (0.6 if is_precise(dtype) else 0.8)


class Coupling(NamedTuple):
    """Which rows of a matrix are coupled, that is, have off-diagonal entries."""

    size: jax.Array  # index of `_PARTS`: how large the triangle of the coupled rows is
    order: jax.Array  # a permutation that puts the coupled rows last
    place: jax.Array  # its inverse


def coupling(H: jax.Array, free: jax.Array | None = None) -> Coupling | None:
    """The coupling of a symmetric `H`, or of its `free` rows and columns.

    `None` for small matrices and on a GPU, which waits at every branch. A batch has one size, the largest of its
    instances.
    """
    n = len(H)
    if H.ndim == 1 or n < _FROM or jax.default_backend() != "cpu":
        return None
    beside = (H != 0) & ~jnp.eye(n, dtype=bool)
    coupled = jnp.any(beside if free is None else beside & free, axis=1)
    coupled = coupled if free is None else coupled & free
    size = jnp.sum(in_any(jnp.sum(coupled) > n // jnp.asarray(_PARTS[:-1])))

    def sorted_rows() -> tuple[jax.Array, jax.Array]:
        order = jnp.argsort(coupled)
        return order, jnp.argsort(order)

    rows = jnp.arange(n)
    return Coupling(size, *jax.lax.cond(size < len(_PARTS) - 1, sorted_rows, lambda: (rows, rows)))


class Factor(NamedTuple):
    """`R` with `K = R R'` for a positive definite `K`."""

    root: jax.Array  # the square root of the diagonal of K: R itself in the rows that are not coupled
    triangles: tuple[
        jax.Array, ...
    ]  # R in the coupled rows: one for each size, only one is used; none if K is diagonal
    coupling: Coupling | None  # `None` if there is only one triangle

    def pivots(self) -> jax.Array:
        """The diagonal of `R`."""
        if not self.triangles:
            return self.root

        def of(triangle: jax.Array) -> jax.Array:
            head = self._order(triangle)[0]
            return jnp.concatenate([self.root[head], diagonal_of(triangle)])

        return self._of_its_size(of)

    def is_definite(self) -> jax.Array:
        """Whether `K` is positive definite; if not, LAPACK's triangle is NaN."""

        def of(triangle: jax.Array) -> jax.Array:
            head = self._order(triangle)[0]
            return jnp.isfinite(triangle[-1, -1]) & jnp.all(jnp.isfinite(self.root[head]))

        return self._of_its_size(of) if self.triangles else jnp.all(jnp.isfinite(self.root))

    def solve(self, b: jax.Array) -> jax.Array:
        """`K^{-1} b`."""
        return self.unwhiten(self.whiten(b))

    def inverse_root(self) -> jax.Array:
        """`R^{-T}`."""
        return self.whiten(jnp.eye(len(self.root), dtype=self.root.dtype))

    def whiten(self, v: jax.Array) -> jax.Array:
        """`R^{-1}`, applied to a vector or to each row of a matrix."""
        if not self.triangles:
            return v / self.root
        forward = lapack.solve_lower if v.ndim == 1 else lapack.solve_lower_rows

        def by(triangle: jax.Array) -> jax.Array:
            if len(triangle) == len(self.root):
                return forward(triangle, v)
            head, tail = self._order(triangle)
            return jnp.concatenate([v[..., head] / self.root[head], forward(triangle, v[..., tail])], axis=-1)

        return self._of_its_size(by)

    def unwhiten(self, v: jax.Array) -> jax.Array:
        """`R^{-T}`, of a vector."""
        if not self.triangles:
            return v / self.root

        def by(triangle: jax.Array) -> jax.Array:
            if len(triangle) == len(self.root):
                return lapack.solve_lower_transposed(triangle, v)
            assert self.coupling is not None
            head, _ = self._order(triangle)
            tail = lapack.solve_lower_transposed(triangle, v[len(head) :])
            return jnp.concatenate([v[: len(head)] / self.root[head], tail])[self.coupling.place]

        return self._of_its_size(by)

    def _order(self, triangle: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The rows outside the triangle, and the rows in it."""
        rest = len(self.root) - len(triangle)
        order = jnp.arange(len(self.root)) if self.coupling is None else self.coupling.order
        return order[:rest], order[rest:]

    def _of_its_size(self, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
        if self.coupling is None:
            return function(self.triangles[0])
        return jax.lax.switch(self.coupling.size, [functools.partial(function, one) for one in self.triangles])


class SmallFactor(NamedTuple):
    """`U = R^{-T}` with `K = R R'` for a small positive definite `K`: products in place of triangular solves."""

    U: jax.Array

    def is_definite(self) -> jax.Array:
        return jnp.isfinite(self.U[-1, -1])

    def solve(self, b: jax.Array) -> jax.Array:
        return self.unwhiten(self.whiten(b))

    def inverse_root(self) -> jax.Array:
        return self.U

    def whiten(self, v: jax.Array) -> jax.Array:
        return v @ self.U

    def unwhiten(self, v: jax.Array) -> jax.Array:
        return self.U @ v


def cholesky(
    H: jax.Array, scale: jax.Array, shift: jax.Array, coupling: Coupling | None = None
) -> Factor | SmallFactor:
    """The factor of `diag(scale) H diag(scale) + diag(shift)`, with `H` a symmetric matrix or the diagonal of one.

    The sum is formed beside the factorisation, so that XLA does both in one pass.
    """
    if H.ndim == 1:
        return Factor(jnp.sqrt(scale * H * scale + shift), (), None)
    if len(H) <= SMALL:
        return SmallFactor(lapack.inverse_root(H * scale[:, None] * scale + diagonal_matrix(shift)))
    root = jnp.sqrt(scale * diagonal_of(H) * scale + shift)
    if coupling is None:
        return Factor(root, (lapack.cholesky(H * scale[:, None] * scale + diagonal_matrix(shift)),), None)
    sizes = [len(H) // part for part in _PARTS]

    def of(size: int) -> tuple[jax.Array, ...]:
        rows = coupling.order[-size:]
        part, s, d = (H, scale, shift) if size == len(H) else (H[rows][:, rows], scale[rows], shift[rows])
        triangle = lapack.cholesky(part * s[:, None] * s + diagonal_matrix(d))
        return tuple(triangle if other == size else jnp.zeros((other, other), H.dtype) for other in sizes)

    return Factor(root, jax.lax.switch(coupling.size, [functools.partial(of, size) for size in sizes]), coupling)


def first_definite(
    factor: Callable[[jax.Array], Any], dtype: Any, times: tuple[float, ...] = (0, 1, 64)
) -> tuple[Any, jax.Array]:
    """`factor(time)` at the first of the `times` where it is definite, and how many were tried: a shift for a matrix
    that rounding may have made indefinite."""

    def at(count: Any) -> Any:
        return factor(jnp.asarray(times, dtype)[count])

    def unfinished(state: tuple[jax.Array, Any]) -> jax.Array:
        count, found = state
        return (count == 0) | ((count < len(times)) & ~found.is_definite())

    like = jax.eval_shape(at, jax.ShapeDtypeStruct((), jnp.int32))
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    start = jnp.zeros((), jnp.int32), none
    count, found = jax.lax.while_loop(unfinished, lambda state: (state[0] + 1, at(state[0])), start)
    return found, count


def definite(
    H: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    more: jax.Array,
    coupling: Coupling | None = None,
    times: tuple[float, ...] = (0, 1, 64),
) -> tuple[Factor | SmallFactor, jax.Array]:
    """The factor of `diag(scale) H diag(scale) + diag(shift)`, to which multiples of `more` are added if need be."""
    if H.ndim == 1:
        return cholesky(H, scale, shift), jnp.ones((), jnp.int32)
    return first_definite(lambda time: cholesky(H, scale, shift + time * more, coupling), H.dtype, times)
