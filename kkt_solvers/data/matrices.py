"""The matrices of a problem: one class for each structure that is made use of, all with the methods of `Matrix`.

| class | holds | where |
|---|---|---|
| `Zero` | nothing | `P` of a linear program |
| `Diagonal` | its diagonal | `P`; the Hessian of a separable objective |
| `Dense` | an array | `P`, `A`; the Hessian of a function |
| `LowRank` | `diag(diagonal) + factor factor'` | `P` |
| `Sparse` | a `BCOO` | `P`, `A` |
| `BlockDiagonal`, `BlockBidiagonal` | blocks, in `stages.py` | `P`, `A` |
| `Marginals` | a shape, in `marginals.py` | `A` |
| `Map` | a function `v -> P v` | `P`, too large to form |

Users pass arrays, sparse matrices and functions, and get them back; only `as_matrix` looks at what was passed. A new
structure is a class here, a row in the table of `systems.kkt.choose`, and a way in `systems.elimination` to factorise
`H + diag(d)`, if none of those that are there will do (see `parts`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from kkt_solvers.data.matrix import Matrix, Parts, Product
from kkt_solvers.numerics.arrays import diagonal_matrix, diagonal_of, floating, signs, where
from kkt_solvers.numerics.pytree import pytree


@pytree()
@dataclass(frozen=True, eq=False)
class Zero(Matrix):
    like: jax.Array  # any vector with as many entries as there are rows

    @property
    def shape(self) -> tuple[int, ...]:
        return self.like.shape * 2

    def product(self, v: jax.Array) -> jax.Array:
        return jnp.zeros_like(v)

    def diagonal_entries(self) -> jax.Array:
        return jnp.zeros_like(self.like)

    def column_sizes(self, d: jax.Array) -> jax.Array:
        return jnp.zeros_like(d)

    def congruent(self, d: jax.Array, c: jax.Array) -> Matrix:
        return self

    def parts(self) -> Parts:
        return jnp.zeros_like(self.like), None

    def split(self) -> tuple[jax.Array, Product | None]:
        return jnp.zeros_like(self.like), None

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(0, self.like.dtype), jnp.zeros((0, 2), jnp.int32)


@pytree()
@dataclass(frozen=True, eq=False)
class Diagonal(Matrix):
    entries: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entries.shape * 2

    def product(self, v: jax.Array) -> jax.Array:
        return self.entries * v

    def stored(self) -> int:
        return self.entries.size

    def diagonal_entries(self) -> jax.Array:
        return self.entries

    def column_sizes(self, d: jax.Array) -> jax.Array:
        return jnp.abs(self.entries) * d * d

    def congruent(self, d: jax.Array, c: jax.Array) -> Matrix:
        return Diagonal(c * d * d * self.entries)

    def parts(self) -> Parts:
        return self.entries, None

    def split(self) -> tuple[jax.Array, Product | None]:
        return self.entries, None

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        index = jnp.arange(self.entries.size)
        return self.entries, jnp.stack([index, index], axis=1)


@pytree()
@dataclass(frozen=True, eq=False)
class Dense(Matrix):
    entries: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entries.shape

    def product(self, v: jax.Array) -> jax.Array:
        return self.entries @ v

    def adjoint(self, v: jax.Array) -> jax.Array:
        return v @ self.entries  # XLA writes out a transpose

    def absolute(self) -> Matrix:
        return Dense(jnp.abs(self.entries))

    def largest(self, axis: int, weights: jax.Array | None = None) -> jax.Array:
        sizes = jnp.abs(self.entries)
        if weights is not None:
            sizes = sizes * jnp.expand_dims(weights, 1 - axis)
        return jnp.max(sizes, axis=axis, initial=0)

    def sums(self, axis: int) -> jax.Array:
        return jnp.sum(jnp.abs(self.entries), axis=axis)

    def scaled(self, rows: jax.Array, columns: jax.Array) -> Matrix:
        return Dense(rows[:, None] * self.entries * columns)

    def stored(self) -> int:
        return self.entries.size

    def dense(self) -> jax.Array:
        return self.entries

    def diagonal_entries(self) -> jax.Array:
        return diagonal_of(self.entries)

    def off_diagonal(self) -> Matrix:
        return Dense(self.entries - diagonal_matrix(diagonal_of(self.entries)))

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        row, column = np.indices(self.shape)
        return jnp.ravel(self.entries), jnp.asarray(np.stack([row.ravel(), column.ravel()], axis=1))


@pytree()
@dataclass(frozen=True, eq=False)
class Sparse(Matrix):
    entries: BCOO

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entries.shape

    def _with(self, values: jax.Array) -> "Sparse":
        return Sparse(BCOO((values, self.entries.indices), shape=self.shape))

    def product(self, v: jax.Array) -> jax.Array:
        return self.entries @ v

    def adjoint(self, v: jax.Array) -> jax.Array:
        return self.entries.transpose() @ v

    def absolute(self) -> Matrix:
        return self._with(jnp.abs(self.entries.data))

    def largest(self, axis: int, weights: jax.Array | None = None) -> jax.Array:
        zeros, at = jnp.zeros(self.shape[1 - axis], self.entries.dtype), self.entries.indices
        sizes = jnp.abs(self.entries.data)
        return zeros.at[at[:, 1 - axis]].max(sizes if weights is None else sizes * weights[at[:, axis]])

    def sums(self, axis: int) -> jax.Array:
        zeros = jnp.zeros(self.shape[1 - axis], self.entries.dtype)
        return zeros.at[self.entries.indices[:, 1 - axis]].add(jnp.abs(self.entries.data))

    def scaled(self, rows: jax.Array, columns: jax.Array) -> Matrix:
        i, j = self.entries.indices.T
        return self._with(rows[i] * self.entries.data * columns[j])

    def stored(self) -> int:
        return self.entries.nse

    def dense(self) -> jax.Array:
        return self.entries.todense()

    def densified(self) -> Matrix:
        return Dense(self.dense())

    def diagonal_entries(self) -> jax.Array:
        row, column = self.entries.indices.T
        return jnp.zeros(self.shape[0], self.entries.dtype).at[row].add(where(row == column, self.entries.data, 0))

    def off_diagonal(self) -> Matrix:
        row, column = self.entries.indices.T
        return self._with(where(row == column, 0, self.entries.data))

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        return self.entries.data, self.entries.indices


@pytree()
@dataclass(frozen=True, eq=False)
class LowRank(Matrix):
    """The matrix `P = diag(diagonal) + factor factor'`, never formed: a factor model's covariance.

    Arguments:
        diagonal: shape `(n,)`, nonnegative.
        factor: shape `(n, r)`, with r much less than n.

    >>> import kkt_solvers as kkt
    >>> kkt.LowRank([1.0, 1.0], [[1.0], [2.0]]) @ jax.numpy.ones(2)
    Array([4., 7.], dtype=float32)
    """

    diagonal: jax.Array
    factor: jax.Array

    def __init__(self, diagonal: Any, factor: Any):
        object.__setattr__(self, "diagonal", floating(diagonal, "diagonal"))
        object.__setattr__(self, "factor", floating(factor, "factor"))

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.diagonal.shape, *self.factor.shape[:-1])

    def __matmul__(self, y: jax.Array) -> jax.Array:
        return self.product(y)

    def product(self, v: jax.Array) -> jax.Array:
        return self.diagonal * v + self.factor @ (self.factor.T @ v)

    def dense(self) -> jax.Array:
        return diagonal_matrix(self.diagonal) + self.factor @ self.factor.T

    def densified(self) -> Matrix:
        return Dense(self.dense())

    def diagonal_entries(self) -> jax.Array:
        return self.diagonal + jnp.sum(self.factor * self.factor, axis=1)

    def column_sizes(self, d: jax.Array) -> jax.Array:
        # It is positive semidefinite: |P_ij|^2 <= P_ii P_jj.
        root = d * jnp.sqrt(jnp.abs(self.diagonal) + jnp.sum(self.factor**2, axis=1))
        return root * jnp.max(root, initial=0)

    def congruent(self, d: jax.Array, c: jax.Array) -> Matrix:
        return LowRank(c * d * d * self.diagonal, jnp.sqrt(c) * d[:, None] * self.factor)

    def parts(self) -> Parts:
        return self.diagonal, self.factor.T

    def split(self) -> tuple[jax.Array, Product | None]:
        return self.diagonal, lambda v: self.factor @ (self.factor.T @ v)


@pytree(callables=("function",))
@dataclass(frozen=True, eq=False)
class Map(Matrix):
    """A symmetric matrix of which only the product `function(v) = P v` is known."""

    function: Callable[..., Any]
    like: Any = None  # a vector that it takes

    @property
    def shape(self) -> tuple[int, ...]:
        return self.like.shape * 2

    def product(self, v: jax.Array) -> jax.Array:
        return self.function(v)

    def diagonal_entries(self) -> jax.Array:
        """The mean of it, estimated from one vector of random signs."""
        signs = jax.random.rademacher(jax.random.key(0), self.like.shape, self.like.dtype)
        return jnp.full_like(self.like, jnp.vdot(signs, self.function(signs)) / max(self.like.size, 1))

    def diagonal_terms(self, y: jax.Array) -> jax.Array:
        return self.function(signs(y) * y)

    def column_sizes(self, d: jax.Array) -> jax.Array:
        return jnp.zeros_like(d)  # its entries are not to be seen

    def congruent(self, d: jax.Array, c: jax.Array) -> Matrix:
        return Map(lambda v: c * d * self.function(d * v), self.like)

    def split(self) -> tuple[jax.Array, Product | None]:
        return jnp.zeros_like(self.like), self.function


def as_matrix(value: Any, like: Any = None) -> Matrix:
    """The matrix that a user passed, as one of the classes above; `like` is a vector that it can be multiplied by."""
    if isinstance(value, Map):
        return value if value.like is not None else Map(value.function, like)
    if isinstance(value, Matrix):
        return value
    if value is None:
        return Zero(like)
    if isinstance(value, BCOO):
        return Sparse(value)
    return Diagonal(value) if value.ndim == 1 else Dense(value)
