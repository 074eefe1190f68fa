"""The matrix of the row sums and the column sums of a plan."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers.data.matrices import Dense
from kkt_solvers.data.matrix import Matrix
from kkt_solvers.numerics.pytree import pytree


@pytree(static=("plan",))
@dataclass(frozen=True, eq=False)
class Marginals(Matrix):
    """The matrix of the marginals of a plan: `A y` holds the a row sums of `y`, of shape `(a, b)`, then the b column
    sums.

    Arguments:
        a, b: the numbers of rows and of columns, positive integers.

    With it `DualNewton` and the derivative of a `Separable` take time in proportion to `a b min(a, b)` an iteration and
    the memory of a few plans; as a dense array it has `a b (a + b)` entries. Both kinds of sums have the same total, so
    the right-hand side must have it too, and the multipliers are unique up to a constant.

    Raises `ValueError` for a size that is not a positive integer.

    >>> import kkt_solvers as kkt
    >>> kkt.Marginals(2, 3) @ jax.numpy.arange(6.0)
    Array([ 3., 12.,  3.,  5.,  7.], dtype=float32)
    """

    plan: tuple[int, int]
    scale: Any  # of each row of the matrix, one or `(a + b,)`
    weights: Any  # of each entry of the plan, one or `(a b,)`

    def __init__(self, a: Any, b: Any):
        for name, size in (("a", a), ("b", b)):
            if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < 1:
                raise ValueError(f"{name} must be a positive integer, a size of the plan, got {size!r}")
        self._set((int(a), int(b)), None, None)

    def _set(self, plan: tuple[int, int], scale: Any, weights: Any) -> "Marginals":
        for name, value in (("plan", plan), ("scale", scale), ("weights", weights)):
            object.__setattr__(self, name, value)
        return self

    def _with(self, scale: Any, weights: Any) -> "Marginals":
        return object.__new__(Marginals)._set(self.plan, scale, weights)

    def typed(self, dtype: Any) -> "Marginals":
        """The same matrix, of a dtype: without factors it has none."""
        return self if self.scale is not None else self._with(jnp.ones((), dtype), self.weights)

    @property
    def shape(self) -> tuple[int, ...]:
        a, b = self.plan
        return a + b, a * b

    def __matmul__(self, y: jax.Array) -> jax.Array:
        return self.product(y)

    def by_rows(self, y: jax.Array) -> jax.Array:
        """The plan as a matrix."""
        return y.reshape(self.plan)

    def both(self, sums: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What belongs to the rows of the plan, `(a, 1)`, and to its columns, `(b,)`."""
        a, _ = self.plan
        return sums[:a, None], sums[a:]

    def _scaled(self, sums: jax.Array) -> jax.Array:
        return sums if self.scale is None else self.scale * sums

    def _weighted(self, y: jax.Array) -> jax.Array:
        return y if self.weights is None else self.weights * y

    def product(self, v: jax.Array) -> jax.Array:
        v = self.by_rows(self._weighted(v))
        return self._scaled(jnp.concatenate([jnp.sum(v, axis=1), jnp.sum(v, axis=0)]))

    def adjoint(self, v: jax.Array) -> jax.Array:
        of_rows, of_columns = self.both(self._scaled(v))
        return self._weighted(jnp.ravel(of_rows + of_columns))

    def absolute(self) -> "Marginals":
        return self._with(*(part if part is None else jnp.abs(part) for part in (self.scale, self.weights)))

    def _ones(self, size: int) -> jax.Array:
        parts = [part for part in (self.scale, self.weights) if part is not None]
        return jnp.ones(size, jnp.result_type(*parts) if parts else None)

    def largest(self, axis: int, weights: jax.Array | None = None) -> jax.Array:
        absolute, w = self.absolute(), self._ones(self.shape[axis]) if weights is None else weights
        if axis:
            if weights is None and self.weights is None:  # a constant that XLA would fold entry by entry
                return absolute._scaled(self._ones(self.shape[0]))
            w = self.by_rows(absolute._weighted(w))
            return absolute._scaled(jnp.concatenate([jnp.max(w, axis=1), jnp.max(w, axis=0)]))
        of_rows, of_columns = self.both(absolute._scaled(w))
        return absolute._weighted(jnp.ravel(jnp.maximum(of_rows, of_columns)))

    def sums(self, axis: int) -> jax.Array:
        if axis and self.weights is None:
            a, b = self.plan
            return self.absolute()._scaled(self._ones(a + b) * np.repeat([b, a], [a, b]))
        ones = self._ones(self.shape[axis])
        return self.absolute().product(ones) if axis else self.absolute().adjoint(ones)

    def scaled(self, rows: jax.Array, columns: jax.Array) -> "Marginals":
        return self._with(self._scaled(rows), self._weighted(columns))

    def normal_blocks(self, w: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`r`, `c` and `W` of `A diag(w) A' = [[diag(r), W], [W', diag(c)]]`."""
        W = self.by_rows(self._weighted(self._weighted(w)))
        of_rows, of_columns = self.both(self._scaled(self._ones(self.shape[0])))
        sums = self._scaled(self.product(self._weighted(w)))
        return sums[: len(W)], sums[len(W) :], of_rows * W * of_columns

    def stored(self) -> int:
        return 2 * self.shape[1]

    def coordinates(self) -> tuple[jax.Array, jax.Array]:
        a, (m, n) = self.plan[0], self.shape
        i, j = (part.ravel() for part in np.indices(self.plan))
        row, column = np.concatenate([i, a + j]), np.tile(np.arange(n), 2)
        scale, weights = self._scaled(self._ones(m)), self._weighted(self._ones(n))
        return scale[row] * weights[column], jnp.asarray(np.stack([row, column], axis=1))

    def dense(self) -> jax.Array:
        values, at = self.coordinates()
        return jnp.zeros(self.shape, values.dtype).at[at[:, 0], at[:, 1]].set(values)

    def densified(self) -> Matrix:
        return Dense(self.dense())
