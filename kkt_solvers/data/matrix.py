"""What every matrix of a problem can do, whatever its structure."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kkt_solvers.numerics.arrays import block_sum

Parts = tuple[jax.Array, jax.Array | None]
Product = Callable[[jax.Array], jax.Array]


class Matrix:
    """The methods of all of them. In their docstrings `P` is a symmetric matrix and `A` any matrix."""

    @property
    def shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def product(self, v: jax.Array) -> jax.Array:
        """`A v`."""
        raise NotImplementedError

    def adjoint(self, v: jax.Array) -> jax.Array:
        """`A'v`."""
        return self.product(v)

    def absolute(self) -> "Matrix":
        """`|A|`, entry by entry."""
        raise NotImplementedError

    def largest(self, axis: int, weights: jax.Array | None = None) -> jax.Array:
        """The largest absolute entry of each column (`axis=0`) or row (`axis=1`), entries along it times `weights`."""
        raise NotImplementedError

    def sums(self, axis: int) -> jax.Array:
        """The sum of the absolute entries of each column (`axis=0`) or row (`axis=1`)."""
        raise NotImplementedError

    def scaled(self, rows: jax.Array, columns: jax.Array) -> "Matrix":
        """`diag(rows) A diag(columns)`."""
        raise NotImplementedError

    def normal(self, w: jax.Array) -> jax.Array:
        """`A diag(w) A'`, dense."""
        rows = self.dense()
        if len(rows) == 1:
            return block_sum(w * rows[0] * rows[0])[None, None]
        return (rows * w) @ rows.T

    def stored(self) -> int:
        """How many entries are stored."""
        return 0

    def dense(self) -> jax.Array:
        return jax.vmap(self.adjoint)(jnp.eye(self.shape[0]))

    def densified(self) -> "Matrix":
        """The same matrix without sparse or low-rank structure: a `Dense`, or itself if it is zero or diagonal."""
        return self

    # ------------------------------------------------------------------------------------------- symmetric
    def diagonal_entries(self) -> jax.Array:
        """The diagonal of `P`."""
        raise NotImplementedError

    def diagonal_terms(self, y: jax.Array) -> jax.Array:
        """`P_ii y_i`."""
        return self.diagonal_entries() * y

    def column_sizes(self, d: jax.Array) -> jax.Array:
        """The largest absolute entry of each column of `diag(d) P diag(d)`, or a bound of it."""
        return d * self.largest(0, d)

    def congruent(self, d: jax.Array, c: jax.Array) -> "Matrix":
        """`c diag(d) P diag(d)`, of the same structure."""
        return self.scaled(c * d, d)

    def parts(self) -> Parts:
        """`P = base + rows' rows`: a vector (the diagonal) or a dense matrix, and an array of few rows or `None`."""
        return self.dense(), None

    def split(self) -> tuple[jax.Array, Product | None]:
        """`p` and `v -> R v`, `None` for zero, with `P = diag(p) + R` and both positive semidefinite if `P` is."""
        # If every row is diagonally dominant, its excess can be split off; else only rows without off-diagonal entries.
        diagonal, off = self.diagonal_entries(), self.off_diagonal()
        others = off.sums(0)
        p = jnp.where(jnp.all(diagonal >= others), diagonal - others, jnp.where(others == 0, diagonal, 0.0))
        return p, lambda v: off.product(v) + (diagonal - p) * v

    def off_diagonal(self) -> "Matrix":
        """`P` without its diagonal."""
        raise NotImplementedError

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        """Values, and the pairs of indices where they stand."""
        raise NotImplementedError
