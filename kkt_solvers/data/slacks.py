"""The matrices of a problem whose inequalities have slack variables, its last `p` coordinates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from kkt_solvers.data.matrices import Dense, Diagonal, LowRank, Map, Zero, as_matrix
from kkt_solvers.data.matrix import Matrix, Parts, Product
from kkt_solvers.numerics.arrays import diagonal_matrix, longer
from kkt_solvers.numerics.pytree import pytree


@pytree()
@dataclass(frozen=True, eq=False)
class WithSlacks(Matrix):
    """The matrix `[A 0; G diag(slack)]`: `rows` is `A` above `G`, and the slack variables are the last coordinates."""

    rows: Matrix
    slack: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        m, n = self.rows.shape
        return m, n + self.slack.size

    def of_both(self, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A vector of coordinates: those of `y`, and the slack variables."""
        n = self.rows.shape[1]
        return v[:n], v[n:]

    def lifted(self, s: jax.Array) -> jax.Array:
        """A vector of the last rows as one of all rows."""
        return longer(s, before=self.shape[0] - s.size)

    def own(self, nu: jax.Array) -> jax.Array:
        """The last entries of a vector of rows."""
        return nu[self.shape[0] - self.slack.size :]

    def product(self, v: jax.Array) -> jax.Array:
        y, s = self.of_both(v)
        return self.rows.product(y) + self.lifted(self.slack * s)

    def adjoint(self, v: jax.Array) -> jax.Array:
        return jnp.concatenate([self.rows.adjoint(v), self.slack * self.own(v)])

    def absolute(self) -> Matrix:
        return WithSlacks(self.rows.absolute(), jnp.abs(self.slack))

    def largest(self, axis: int, weights: jax.Array | None = None) -> jax.Array:
        size = jnp.abs(self.slack)
        if axis == 0:
            of_slacks = size if weights is None else size * self.own(weights)
            return jnp.concatenate([self.rows.largest(0, weights), of_slacks])
        y, s = (None, None) if weights is None else self.of_both(weights)
        return jnp.maximum(self.rows.largest(1, y), self.lifted(size if s is None else size * s))

    def sums(self, axis: int) -> jax.Array:
        size, sums = jnp.abs(self.slack), self.rows.sums(axis)
        return sums + self.lifted(size) if axis else jnp.concatenate([sums, size])

    def scaled(self, rows: jax.Array, columns: jax.Array) -> "WithSlacks":
        rows, columns = (jnp.broadcast_to(w, size) for w, size in zip((rows, columns), self.shape, strict=True))
        y, s = self.of_both(columns)
        return WithSlacks(self.rows.scaled(rows, y), self.own(rows) * self.slack * s)

    def normal(self, w: jax.Array) -> jax.Array:
        y, s = self.of_both(w)
        return self.rows.normal(y) + diagonal_matrix(self.lifted(self.slack * self.slack * s))

    def stored(self) -> int:
        return self.rows.stored() + self.slack.size

    def dense(self) -> jax.Array:
        below = diagonal_matrix(self.slack)
        above = self.shape[0] - self.slack.size
        return jnp.concatenate([self.rows.dense(), jnp.pad(below, ((above, 0), (0, 0)))], axis=1)

    def densified(self) -> Matrix:
        return WithSlacks(self.rows.densified(), self.slack)


@pytree(static=("slacks",))
@dataclass(frozen=True, eq=False)
class Padded(Matrix):
    """A symmetric matrix with `slacks` rows and columns of zeros after those of `inner`."""

    inner: Matrix
    slacks: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.inner.shape[0] + self.slacks,) * 2

    def _first(self, v: jax.Array) -> jax.Array:
        return v[: self.inner.shape[0]]

    def _padded(self, v: jax.Array) -> jax.Array:
        return longer(v, after=self.slacks)

    def product(self, v: jax.Array) -> jax.Array:
        return self._padded(self.inner.product(self._first(v)))

    def stored(self) -> int:
        return self.inner.stored()

    def dense(self) -> jax.Array:
        return jnp.pad(self.inner.dense(), (0, self.slacks))

    def densified(self) -> Matrix:
        return Padded(self.inner.densified(), self.slacks)

    def diagonal_entries(self) -> jax.Array:
        return self._padded(self.inner.diagonal_entries())

    def diagonal_terms(self, y: jax.Array) -> jax.Array:
        return self._padded(self.inner.diagonal_terms(self._first(y)))

    def column_sizes(self, d: jax.Array) -> jax.Array:
        return self._padded(self.inner.column_sizes(self._first(d)))

    def congruent(self, d: jax.Array, c: jax.Array) -> Matrix:
        return Padded(self.inner.congruent(self._first(d) if d.ndim else d, c), self.slacks)

    def parts(self) -> Parts:
        entries, rows = self.inner.parts()
        return jnp.pad(entries, (0, self.slacks)), rows if rows is None else jnp.pad(rows, ((0, 0), (0, self.slacks)))

    def split(self) -> tuple[jax.Array, Product | None]:
        p, rest = self.inner.split()
        return self._padded(p), None if rest is None else lambda v: self._padded(rest(self._first(v)))


@pytree(callables=("function",), static=("size",))
@dataclass(frozen=True, eq=False)
class _Leading:
    """A linear map of the first `size` entries of a vector; the others become zero."""

    function: Callable[..., Any]
    size: int

    def __call__(self, v: jax.Array) -> jax.Array:
        return longer(self.function(v[: self.size]), after=v.size - self.size)


def padded(P: Any, n: int, slacks: int) -> Any:
    """The `P` of a `Quadratic`, with rows and columns of zeros for the slack variables, in its own structure."""
    if P is None:
        return None
    if isinstance(P, Map):
        return Map(_Leading(P.function, n))
    if isinstance(P, LowRank):
        return LowRank(longer(P.diagonal, after=slacks), jnp.pad(P.factor, ((0, slacks), (0, 0))))
    if isinstance(P, BCOO):
        return BCOO((P.data, P.indices), shape=(P.shape[0] + slacks,) * 2)
    if isinstance(P, Matrix) or P.ndim == 2:
        return Padded(as_matrix(P), slacks)
    return longer(P, after=slacks)


def on_both(H: Matrix, slacks: int) -> tuple[Matrix, jax.Array | None] | None:
    """A symmetric matrix as one on `y` and a diagonal on the slack variables (`None` for zero), or `None` where it is
    none of this form."""
    n = H.shape[0] - slacks
    if isinstance(H, Padded):
        return H.inner, None
    if isinstance(H, Zero):
        return Zero(H.like[:n]), None
    if isinstance(H, Diagonal):
        return Diagonal(H.entries[:n]), H.entries[n:]
    if isinstance(H, LowRank):
        return LowRank(H.diagonal[:n], H.factor[:n]), H.diagonal[n:]
    return None


def stacked(above: Matrix, below: Matrix, sparse: bool) -> Any:
    """The matrix `[above 0; below I]`: a `BCOO` if `sparse`, else a `WithSlacks`."""
    p, (m, n) = below.shape[0], above.shape
    if not sparse:
        rows = jnp.concatenate([above.dense(), below.dense()])
        return WithSlacks(Dense(rows), jnp.ones(p, rows.dtype))
    (A, A_at), (G, G_at) = above.coordinates(), below.coordinates()
    A_at, G_at, own = A_at.astype(jnp.int32), G_at.astype(jnp.int32), jnp.arange(p, dtype=jnp.int32)
    corner = jnp.asarray([m, 0], jnp.int32)
    indices = jnp.concatenate([A_at, G_at + corner, jnp.stack([own, own], 1) + jnp.asarray([m, n], jnp.int32)])
    return BCOO((jnp.concatenate([A, G, jnp.ones(p, G.dtype)]), indices), shape=(m + p, n + p))
