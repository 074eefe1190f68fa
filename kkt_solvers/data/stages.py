"""Matrices of a problem in stages: each stage has its own variables and costs, and equalities link it to the next."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers.data.matrices import Dense
from kkt_solvers.data.matrix import Matrix
from kkt_solvers.numerics.arrays import diagonal_of, floating
from kkt_solvers.numerics.pytree import pytree


def block_product(blocks: jax.Array, v: jax.Array) -> jax.Array:
    """`M_t v_t` for all stages t."""
    return jnp.einsum("tij,tj->ti", blocks, v)


def block_adjoint(blocks: jax.Array, v: jax.Array) -> jax.Array:
    """`M_t'v_t` for all stages t."""
    return jnp.einsum("tij,ti->tj", blocks, v)


class _Blocks(Matrix):
    """N x N blocks, all of shape `(p, n)`, on one or two block diagonals."""

    def _bands(self) -> tuple[jax.Array, ...]:
        """The blocks on the diagonal, `(N, p, n)`, and those below it, `(N - 1, p, n)`."""
        raise NotImplementedError

    def _with(self, *bands: jax.Array) -> "_Blocks":
        raise NotImplementedError

    @property
    def stages(self) -> tuple[int, int, int]:
        """`N`, `p` and `n`."""
        N, p, n = self._bands()[0].shape[-3:]
        return N, p, n

    @property
    def shape(self) -> tuple[int, ...]:
        N, p, n = self.stages
        return (*self._bands()[0].shape[:-3], N * p, N * n)

    def _rows(self, of_band: Callable[[jax.Array, int], jax.Array], add: Any = jnp.add) -> jax.Array:
        """What each band, which is so many blocks below the diagonal, has for the rows."""
        parts = [jnp.pad(of_band(band, k), ((k, 0), (0, 0))) for k, band in enumerate(self._bands())]
        return jnp.ravel(functools.reduce(add, parts))

    def _columns(self, of_band: Callable[[jax.Array, int], jax.Array], add: Any = jnp.add) -> jax.Array:
        parts = [jnp.pad(of_band(band, k), ((0, k), (0, 0))) for k, band in enumerate(self._bands())]
        return jnp.ravel(functools.reduce(add, parts))

    def by_stages(self, v: jax.Array) -> jax.Array:
        """A vector of rows or columns, one row a stage."""
        return v.reshape(self.stages[0], -1)

    def product(self, v: jax.Array) -> jax.Array:
        v = self.by_stages(v)
        return self._rows(lambda band, k: block_product(band, v[: len(band)]))

    def adjoint(self, v: jax.Array) -> jax.Array:
        v = self.by_stages(v)
        return self._columns(lambda band, k: block_adjoint(band, v[k:]))

    def absolute(self) -> Matrix:
        return self._with(*map(jnp.abs, self._bands()))

    def largest(self, axis: int, weights: jax.Array | None = None) -> jax.Array:
        one = jnp.ones(self.shape[axis], self._bands()[0].dtype)
        w = self.by_stages(one if weights is None else weights)
        if axis:
            return self._rows(lambda band, k: jnp.max(jnp.abs(band) * w[: len(band), None], 2), jnp.maximum)
        return self._columns(lambda band, k: jnp.max(jnp.abs(band) * w[k:, :, None], 1), jnp.maximum)

    def sums(self, axis: int) -> jax.Array:
        ones = jnp.ones(self.shape[axis], self._bands()[0].dtype)
        return self.absolute().product(ones) if axis else self.absolute().adjoint(ones)

    def scaled(self, rows: jax.Array, columns: jax.Array) -> Matrix:
        N, p, n = self.stages
        d, e = jnp.broadcast_to(rows, N * p).reshape(N, p, 1), jnp.broadcast_to(columns, N * n).reshape(N, 1, n)
        return self._with(*(d[k:] * band * e[: len(band)] for k, band in enumerate(self._bands())))

    def stored(self) -> int:
        return sum(band.size for band in self._bands())

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        (_, p, n), indices = self.stages, []
        for k, band in enumerate(self._bands()):
            t, i, j = np.indices(band.shape)
            indices.append(np.stack([((t + k) * p + i).ravel(), (t * n + j).ravel()], axis=1))
        return jnp.concatenate([jnp.ravel(band) for band in self._bands()]), jnp.asarray(np.concatenate(indices))

    def dense(self) -> jax.Array:
        values, at = self.coordinates()
        return jnp.zeros(self.shape, values.dtype).at[at[:, 0], at[:, 1]].set(values)

    def densified(self) -> Matrix:
        return Dense(self.dense())


@pytree()
@dataclass(frozen=True, eq=False)
class BlockDiagonal(_Blocks):
    """The symmetric matrix `P = diag(P_0, .., P_{N-1})` of a cost that is a sum over stages.

    Arguments:
        blocks: shape `(N, n, n)`. Only their symmetric parts matter. `jnp.broadcast_to(Q, (N, n, n))` repeats one.

    Stages with fewer variables than others are filled up with variables that are fixed.

    >>> import kkt_solvers as kkt
    >>> kkt.BlockDiagonal([[[2.0]], [[4.0]]]) @ jax.numpy.ones(2)
    Array([2., 4.], dtype=float32)
    """

    blocks: jax.Array

    def __init__(self, blocks: Any):
        blocks = floating(blocks, "blocks")
        if blocks.ndim < 3 or blocks.shape[-1] != blocks.shape[-2]:
            raise ValueError(f"blocks must have shape (N, n, n), square blocks, got {blocks.shape}")
        object.__setattr__(self, "blocks", blocks)

    def _bands(self) -> tuple[jax.Array, ...]:
        return (self.blocks,)

    def _with(self, *bands: jax.Array) -> "BlockDiagonal":
        return BlockDiagonal(*bands)

    def __matmul__(self, y: jax.Array) -> jax.Array:
        return self.product(y)

    def symmetric(self) -> Matrix:
        return BlockDiagonal(0.5 * (self.blocks + self.blocks.swapaxes(1, 2)))

    def diagonal_entries(self) -> jax.Array:
        return jnp.ravel(jax.vmap(diagonal_of)(self.blocks))

    def off_diagonal(self) -> Matrix:
        eye = jnp.eye(self.blocks.shape[-1], dtype=bool)
        return BlockDiagonal(jnp.where(eye, 0, self.blocks))


@pytree()
@dataclass(frozen=True, eq=False)
class BlockBidiagonal(_Blocks):
    """The matrix of equalities that link each stage to the one before: rows t are `D_t y_t + L_t y_{t-1} = b_t`.

    Arguments:
        diagonal: the `D_t`, shape `(N, p, n)`: p equalities and n variables in each stage.
        below: the `L_t` for t = 1 .. N-1, shape `(N - 1, p, n)`.

    With a `P` that is a `BlockDiagonal` of the same stages, a vector or `None`, `InteriorPoint` and the derivative take
    time and memory in proportion to N. Rows that are not needed have zeros, and zero in `b`.

    Raises `ValueError` where the shapes do not chain.

    >>> import kkt_solvers as kkt
    >>> differences = kkt.BlockBidiagonal(jax.numpy.ones((3, 1, 1)), -jax.numpy.ones((2, 1, 1)))
    >>> differences @ jax.numpy.array([1.0, 2.0, 4.0])
    Array([1., 1., 2.], dtype=float32)
    """

    diagonal: jax.Array
    below: jax.Array

    def __init__(self, diagonal: Any, below: Any):
        diagonal, below = floating(diagonal, "diagonal"), floating(below, "below")
        if diagonal.ndim < 3:
            raise ValueError(f"diagonal must have shape (N, p, n), a block for each stage, got {diagonal.shape}")
        *batch, N, p, n = diagonal.shape
        if below.shape != (*batch, N - 1, p, n):
            raise ValueError(f"below must have shape {(*batch, N - 1, p, n)} to chain the stages, got {below.shape}")
        object.__setattr__(self, "diagonal", diagonal)
        object.__setattr__(self, "below", below)

    def _bands(self) -> tuple[jax.Array, ...]:
        return self.diagonal, self.below

    def _with(self, *bands: jax.Array) -> "BlockBidiagonal":
        return BlockBidiagonal(*bands)

    def __matmul__(self, y: jax.Array) -> jax.Array:
        return self.product(y)
