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
_ENOUGH = 1e-7  # the largest backward error, in the norm of the largest entry; the caller refines further
# Beside a bound that it is near to, a coordinate is hardly coupled to the others. A factor without entries this small is
# found in a third of the time for 3000 variables, in all, and costs two or three more refinements.
_SMALL = 5e-3  # in a matrix whose rows are scaled to about one,
_LARGE = 2000  # and of more rows than this; in smaller ones a factor costs no more than the refinements
_PIVOTED = -1.0  # in place of a size of small entries
_SOLVERS = 2  # that a workspace keeps: that of all entries, and that of an active set


class Data(NamedTuple):
    """The parts of `K`: see `sparse.py`."""

    P: np.ndarray
    P_at: np.ndarray
    A: np.ndarray
    A_at: np.ndarray
    mask: np.ndarray
    d: np.ndarray
    delta: np.ndarray

    def equals(self, other: "Data | None") -> bool:
        return other is not None and all(map(np.array_equal, self[::-1], other[::-1]))  # what changes most comes last


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
    """A pattern, its last matrix, and a factor of that. It is used by one thread at a time."""

    def __init__(self, pattern: Pattern):
        self.pattern, self.data = pattern, None
        N = sum(pattern.size)
        self._rows, self._diagonal = pattern.rows.astype(np.int32), pattern.rows == pattern.columns
        self._starts = np.searchsorted(pattern.columns, np.arange(N + 1)).astype(np.int32)
        self._solvers: list[tuple[np.ndarray, Any]] = []  # of qdldl, each with the entries that it factorises

    def update(self, data: Data) -> None:
        self.data, self._factor, self._attempts = Data(*map(np.copy, data)), None, []
        values, rows, columns = self.pattern.values(data), self._rows, self.pattern.columns
        if not np.all(np.isfinite(values)):
            return
        norms = np.maximum.reduceat(np.abs(values), self._starts[:-1])
        np.maximum.at(norms, rows, np.abs(values))
        self._scale = scale = 1 / np.sqrt(np.where(norms > 0, norms, 1.0))
        self._values = values * scale[rows] * scale[columns]
        self._upper, self._on_diagonal = self._matrix(np.ones_like(self._diagonal)), self._values[self._diagonal]
        large = norms.size > _LARGE
        self._attempts = [_PIVOTED] if qdldl is None else [*([_SMALL] if large else []), 0.0, _PIVOTED]

    def _matrix(self, kept: np.ndarray) -> Any:
        """The upper triangle of the scaled matrix, of the entries `kept`."""
        starts = np.concatenate([[0], np.cumsum(kept)])[self._starts].astype(np.int32)
        return scipy.sparse.csc_matrix((self._values[kept], self._rows[kept], starts), (starts.size - 1,) * 2)

    def _factorised(self, small: float) -> Any:
        """A factor of the entries larger than `small`, and the diagonal; `None` where a pivot is zero."""
        kept = self._diagonal | (np.abs(self._values) > max(small, 0.0))
        upper = self._matrix(kept)
        try:
            if small == _PIVOTED:
                # A pivot off the diagonal is taken only where that on it is tiny: nearly the fill of a symmetric
                # factorisation, the accuracy of a pivoted one.
                return scipy.sparse.linalg.splu(
                    (upper + scipy.sparse.triu(upper, 1).T).tocsc(),
                    permc_spec="MMD_AT_PLUS_A",
                    diag_pivot_thresh=1e-3,
                    options={"SymmetricMode": True},
                )
            assert qdldl is not None
            found = next((i for i, (known, _) in enumerate(self._solvers) if np.array_equal(known, kept)), None)
            if found is None:
                solver = qdldl.Solver(upper, upper=True)
            else:
                solver = self._solvers.pop(found)[1]
                solver.update(upper, upper=True)
        except (RuntimeError, ValueError):
            return None
        self._solvers = [*self._solvers, (kept, solver)][-_SOLVERS:]
        return solver

    def solve(self, b: np.ndarray) -> np.ndarray:
        """`K^{-1} b`, refined; NaN where `K` is singular or an entry is not finite."""
        while self._attempts and np.all(np.isfinite(b)):
            if self._factor is None:
                self._factor = self._factorised(self._attempts[0])
            if self._factor is not None:
                x, error = self._refined(self._scale * b)
                if error <= _ENOUGH or (self._attempts == [_PIVOTED] and error < 1):
                    return self._scale * x
            self._factor = None  # it will not do for other right-hand sides either
            del self._attempts[0]
        return np.full_like(b, np.nan)

    def _refined(self, b: np.ndarray) -> tuple[np.ndarray, float]:
        """The solution of the scaled system, and its backward error."""
        upper, diagonal, size = self._upper, self._on_diagonal, np.max(np.abs(b), initial=0)
        x, rest, smallest, error = np.zeros(b.size), b, np.inf, np.inf
        for _ in range(_REFINEMENTS):
            following = x + self._factor.solve(rest)
            rest = b - (upper @ following + following @ upper - diagonal * following)
            left = np.max(np.abs(rest), initial=0)
            if not left < 0.5 * smallest:
                break
            x, smallest = following, left
            error = left / (size + np.max(np.abs(x), initial=0) + np.finfo(float).tiny)
            if error <= _ENOUGH:
                break
        return x, error
