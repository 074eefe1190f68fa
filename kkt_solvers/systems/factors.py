"""Factors of sparse KKT matrices on the host CPU: a pattern is analysed once, then its numbers are updated.

`qdldl` (optional) keeps the ordering and the symbolic factor of a pattern. It does not pivot: a quasidefinite matrix
has a factor for every symmetric ordering, and iterative refinement makes it accurate. If refinement fails, or `qdldl`
is not installed, SuperLU of SciPy factorises the matrix, with pivoting.
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
# A coordinate near its bound is hardly coupled to the others. The factor leaves out entries of the scaled matrix that
# are this small: for a random program of 3000 variables this halves the time of all factors, and refinement takes two
# or three more steps. Matrices of fewer rows than `_LARGE` do not gain.
_SMALL = 5e-3
_LARGE = 2000
_PIVOTED = -1.0  # in place of a size of small entries
_SOLVERS = 2  # that a workspace keeps: that of all entries, and that of an active set


class Data(NamedTuple):
    """The parts of `K`, see `sparse.py`: how many entries each has, all numbers, and the indices of `P` and `A`."""

    sizes: tuple[int, int, int, int]  # of P, A, d and delta
    numbers: np.ndarray  # P, A, mask, d, delta
    at: np.ndarray

    def parts(self) -> list[np.ndarray]:
        of_P, of_A, n, _ = self.sizes
        return np.split(self.numbers.astype(float), np.cumsum([of_P, of_A, n, n]))


class Pattern:
    """The places of the entries in the upper triangle of `K`, column by column, and which of the data go there.

    Duplicates are summed. Entries of `P` and `A` that are zero are left out: a dense matrix may be mostly zeros.
    """

    def __init__(self, data: Data):
        self.sizes, self.at, self.used = data.sizes, data.at.copy(), self._used(data)  # the buffers are JAX's
        of_P, _, n, m = data.sizes
        N = n + m
        places, used_P, used_A = data.at.astype(np.int64), self.used[:of_P], self.used[of_P:]
        (i, j), (row, column) = places[:of_P].T, places[of_P:].T
        # JAX pads with indices beyond the shape. `P` is symmetric: its upper triangle is enough.
        self.of_P = np.flatnonzero(used_P & (i <= j) & (j < n))
        self.of_A = np.flatnonzero(used_A & (row < m) & (column < n))
        self.masked = i, j, column = i[self.of_P], j[self.of_P], column[self.of_A]
        rows = np.concatenate([i, column, np.arange(N)])
        columns = np.concatenate([j, n + row[self.of_A], np.arange(N)])
        places, self.place = np.unique(columns * N + rows, return_inverse=True)
        self.columns, self.rows = np.divmod(places, N)

    @staticmethod
    def _used(data: Data) -> np.ndarray:
        return data.numbers[: len(data.at)] != 0

    def fits(self, data: Data) -> bool:
        return (
            self.sizes == data.sizes
            and np.array_equal(self.at, data.at)
            and np.array_equal(self.used, self._used(data))
        )

    def values(self, data: Data) -> np.ndarray:
        P, A, mask, d, delta = data.parts()
        i, j, column = self.masked
        P, A = P[self.of_P] * mask[i] * mask[j], A[self.of_A] * mask[column]
        return np.bincount(self.place, np.concatenate([P, A, d, -delta]), self.rows.size)


class Workspace:
    """A pattern, its last matrix, and a factor of that. It is used by one thread at a time."""

    def __init__(self, pattern: Pattern):
        self.pattern = pattern
        self._factor: Any = None
        self._numbers: np.ndarray | None = None
        N = sum(pattern.sizes[2:])
        self._rows, self._diagonal = pattern.rows.astype(np.int32), pattern.rows == pattern.columns
        self._starts = np.searchsorted(pattern.columns, np.arange(N + 1)).astype(np.int32)
        self._solvers: list[tuple[np.ndarray, Any]] = []  # of qdldl, each with the entries that it factorises

    def holds(self, data: Data) -> bool:
        """Whether `data` are those of the last matrix."""
        known = self._numbers
        return known is not None and np.array_equal(known, data.numbers) and self.pattern.fits(data)

    def update(self, data: Data) -> None:
        self._numbers, self._factor, self._attempts = data.numbers.copy(), None, []
        values, rows, columns = self.pattern.values(data), self._rows, self.pattern.columns
        if not np.all(np.isfinite(values)):
            return
        norms = np.maximum.reduceat(np.abs(values), self._starts[:-1])
        np.maximum.at(norms, rows, np.abs(values))
        self._scale = scale = 1 / np.sqrt(np.where(norms > 0, norms, 1.0))
        self._values = values * scale[rows] * scale[columns]
        upper, self._on_diagonal = self._matrix(np.ones_like(self._diagonal)), self._values[self._diagonal]
        self._triangles = upper, upper.T
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
        (upper, lower), size = self._triangles, np.max(np.abs(b), initial=0)
        x, rest, smallest, error = np.zeros(b.size), b, np.inf, np.inf
        for _ in range(_REFINEMENTS):
            following = x + self._factor.solve(rest)
            rest = b - (upper @ following + lower @ following - self._on_diagonal * following)
            left = np.max(np.abs(rest), initial=0)
            if not left < 0.5 * smallest:
                break
            x, smallest = following, left
            error = left / (size + np.max(np.abs(x), initial=0) + np.finfo(float).tiny)
            if error <= _ENOUGH:
                break
        return x, error
