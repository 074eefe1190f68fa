"""Factors of sparse KKT matrices on the host CPU: what a pattern tells is found once, then numbers are updated.

`qdldl` (optional) keeps the ordering and the symbolic factor of a pattern. It does not pivot: a quasidefinite matrix has
a factor for every symmetric ordering, and iterative refinement makes it accurate. Where the refined residual is not
rounding, and where `qdldl` is not installed, SuperLU of SciPy factorises the matrix, pivoted.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

try:
    import qdldl
except ImportError:
    qdldl = None

_REFINEMENTS = 8
# The backward error that is enough, in the norm of the largest entry: one more refinement by the caller makes it rounding.
_ENOUGH = 1e-9


class Data(NamedTuple):
    """The parts of `K`: see `sparse.py`."""

    P: np.ndarray
    P_at: np.ndarray
    A: np.ndarray
    A_at: np.ndarray
    mask: np.ndarray
    d: np.ndarray
    delta: np.ndarray

    def equals(self, other: "Data") -> bool:
        return all(map(np.array_equal, self[::-1], other[::-1]))  # what changes most comes last


class Pattern:
    """The places of the entries in the upper triangle of `K`, column by column, and which of the data go there.

    Duplicates are summed. Entries of `P` and `A` that are zero are left out: a dense matrix may be mostly zeros.
    """

    def __init__(self, data: Data):
        n, N = data.d.size, data.d.size + data.delta.size
        self.size = n, N - n
        self.at = data.P_at.copy(), data.A_at.copy()  # the buffers are JAX's
        self.used = data.P != 0, data.A != 0
        (i, j), (row, column) = data.P_at.astype(np.int64).T, data.A_at.astype(np.int64).T
        # JAX pads with indices beyond the shape. `P` is symmetric: its upper triangle is enough.
        self.of_P = np.flatnonzero(self.used[0] & (i <= j) & (j < n))
        self.of_A = np.flatnonzero(self.used[1] & (row < N - n) & (column < n))
        self.masked = i, j, column = i[self.of_P], j[self.of_P], column[self.of_A]
        rows = np.concatenate([i, column, np.arange(N)])
        columns = np.concatenate([j, n + row[self.of_A], np.arange(N)])
        places, self.place = np.unique(columns * N + rows, return_inverse=True)
        self.columns, self.rows = np.divmod(places, N)

    def fits(self, data: Data) -> bool:
        pairs = zip((*self.at, *self.used), (data.P_at, data.A_at, data.P != 0, data.A != 0), strict=True)
        return self.size == (data.d.size, data.delta.size) and all(np.array_equal(*pair) for pair in pairs)

    def values(self, data: Data) -> np.ndarray:
        mask, (i, j, column) = data.mask.astype(float), self.masked
        P, A = data.P[self.of_P] * mask[i] * mask[j], data.A[self.of_A] * mask[column]
        return np.bincount(self.place, np.concatenate([P, A, data.d, -data.delta]), self.rows.size)


class Workspace:
    """A pattern without the rows and columns that are masked, and the last matrix with its factor. It is used by one
    thread at a time."""

    def __init__(self, pattern: Pattern, mask: np.ndarray):
        (n, m), rows, columns = pattern.size, pattern.rows, pattern.columns
        self.pattern, self.moving, self.data = pattern, mask != 0, None
        moving = np.concatenate([self.moving, np.ones(m, bool)])
        self.kept = np.flatnonzero((rows == columns) | (moving[rows] & moving[columns]))
        self.rows, self.columns = rows[self.kept].astype(np.int32), columns[self.kept].astype(np.int32)
        self.starts = np.searchsorted(self.columns, np.arange(n + m + 1)).astype(np.int32)
        self._ldl: Any = None

    def _matrix(self, values: np.ndarray) -> Any:
        return scipy.sparse.csc_matrix((values, self.rows, self.starts), (self.starts.size - 1,) * 2)

    def update(self, data: Data) -> None:
        self.data = Data(*map(np.copy, data))
        values = self.pattern.values(data)[self.kept]
        self._sound = bool(np.all(np.isfinite(values)))
        if not self._sound:
            return
        norms = np.maximum.reduceat(np.abs(values), self.starts[:-1])
        np.maximum.at(norms, self.rows, np.abs(values))
        self._scale = scale = 1 / np.sqrt(np.where(norms > 0, norms, 1.0))
        self._upper = self._matrix(values * scale[self.rows] * scale[self.columns])
        self._diagonal = self._upper.diagonal()
        self._lu, self._sound_ldl = None, qdldl is not None and self._factorise()

    def _factorise(self) -> bool:
        assert qdldl is not None
        try:
            if self._ldl is None:
                self._ldl = qdldl.Solver(self._upper, upper=True)
            else:
                self._ldl.update(self._upper, upper=True)
        except (RuntimeError, ValueError):  # a pivot is zero
            self._ldl = None
        return self._ldl is not None

    def _pivoted(self) -> Any:
        """SuperLU of the scaled matrix; false where it is singular."""
        if self._lu is None:
            U = self._upper
            K = (U + scipy.sparse.triu(U, 1).T).tocsc()
            K.eliminate_zeros()
            try:
                # A pivot off the diagonal is taken only where that on it is tiny: nearly the fill of a symmetric
                # factorisation, the accuracy of a pivoted one.
                options = {"SymmetricMode": True}
                self._lu = scipy.sparse.linalg.splu(
                    K, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=1e-3, options=options
                )
            except RuntimeError:
                self._lu = False
        return self._lu

    def solve(self, b: np.ndarray) -> np.ndarray:
        """`K^{-1} b`, refined; NaN where `K` is singular or an entry is not finite."""
        if not self._sound or not np.all(np.isfinite(b)):
            return np.full_like(b, np.nan)
        b = self._scale * b
        if self._sound_ldl:
            x, error = self._refined(self._ldl, b)
            if error <= _ENOUGH:
                return self._scale * x
        pivoted = self._pivoted()
        return self._scale * self._refined(pivoted, b)[0] if pivoted else np.full_like(b, np.nan)

    def _refined(self, factor: Any, b: np.ndarray) -> tuple[np.ndarray, float]:
        """The solution of the scaled system, and its backward error."""
        size, smallest, error = np.max(np.abs(b), initial=0), np.inf, np.inf
        x, rest = np.zeros(b.size), b
        for _ in range(_REFINEMENTS):
            following = x + factor.solve(rest)
            rest = b - (self._upper @ following + following @ self._upper - self._diagonal * following)
            left = np.max(np.abs(rest), initial=0)
            if not left < 0.5 * smallest:
                break
            x, smallest = following, left
            error = left / (size + np.max(np.abs(x), initial=0) + np.finfo(float).tiny)
            if error <= _ENOUGH:
                break
        return x, error
