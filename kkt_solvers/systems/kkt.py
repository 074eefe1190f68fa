"""The systems of the derivative, by the structure of the KKT matrix, and the choice among them; see `system.py`."""

import abc
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from kkt_solvers.data.constraints import Operator
from kkt_solvers.data.inequality import SPARSE_FROM
from kkt_solvers.data.matrices import Diagonal, LowRank, Map, Sparse
from kkt_solvers.data.matrix import Matrix, Product
from kkt_solvers.data.objectives import Quadratic, Separable, hessian_product, is_linear
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.numerics import lapack
from kkt_solvers.numerics.arrays import inverse_root, is_precise, largest, where
from kkt_solvers.numerics.batches import one_by_one
from kkt_solvers.systems.elimination import KKTMatrix, hessian, solver
from kkt_solvers.systems.normal import normal, semidefinite_inverse
from kkt_solvers.systems.refinement import refined
from kkt_solvers.systems.stages import in_stages
from kkt_solvers.systems.system import Factorised, KKTSystem, Pair, kkt_product


def _weights(A: Matrix, diagonal: jax.Array, mask: jax.Array) -> Pair:
    """Weights that bring the system to unit size: curved coordinates by the diagonal of the Hessian, rows by what they
    have of those, flat coordinates by what they have of the rows."""
    curved = (mask > 0) & (diagonal > 0)
    columns = where(curved, inverse_root(where(curved, diagonal, 1.0)), 0.0)
    of_rows = A.largest(1, columns)
    e = 1 / positive(where(of_rows > 0, of_rows, A.largest(1, mask)))
    flat = 1 / positive(A.largest(0, e))
    return where(curved, columns, where(mask > 0, flat, 1.0)), e


def positive(size: jax.Array) -> jax.Array:
    """`size`, and one where that is zero."""
    return where(size > 0, size, 1.0)


# -------------------------------------------------------------------------------------------- by elimination
class _Eliminated(KKTSystem):
    """Scaled to unit size, eliminated, refined."""

    @abc.abstractmethod
    def hessian(self, problem: FlatProblem, y: jax.Array) -> Matrix:
        """The Hessian, in the structure that the system makes use of."""

    def factorised(self, problem: FlatProblem, y: jax.Array, mask: jax.Array) -> Factorised:
        H, A = self.hessian(problem, y), problem.rows
        A = A if self.keeps_structure else A.densified()
        w, e = _weights(A, H.diagonal_entries(), mask)
        K = KKTMatrix(H.congruent(w, jnp.ones((), w.dtype)), A.scaled(e, w), 1 - mask, mask)
        solve, weights = solver(K, corrections=2), jnp.concatenate([w, e])

        def least_squares(b: jax.Array) -> jax.Array:
            return _least_squares(K.H, K.A, K.D, K.free, weights, b)

        small = y.size + e.size <= DENSE_UP_TO
        return lambda b: weights * solve(weights * b), weights, least_squares if small else None


@one_by_one  # or a batch would have room for the dense matrices of all its instances
def _least_squares(H: Matrix, A: Matrix, D: jax.Array, free: jax.Array, weights: jax.Array, b: jax.Array) -> jax.Array:
    return weights * (lapack.pinv(KKTMatrix(H, A, D, free).dense()) @ (weights * b))


@dataclass(frozen=True)
class DenseKKT(_Eliminated):
    """Any objective: Cholesky factors of the Hessian of the free coordinates and of the Schur complement; O((n + m)^3)
    time, O((n + m)^2) memory."""

    def hessian(self, problem: FlatProblem, y: jax.Array) -> Matrix:
        return hessian(problem, y).densified()


@dataclass(frozen=True)
class DiagonalKKT(_Eliminated):
    """A `Quadratic` with a diagonal `P`, or none: Schur complement, O(n m^2) time and O(n m) memory; for the marginals
    of a plan of shape `(a, b)` O(n min(a, b)) time and O(n) memory."""

    keeps_structure = True

    def hessian(self, problem: FlatProblem, y: jax.Array) -> Matrix:
        return Diagonal(hessian_product(problem.objective, y, jnp.ones_like(y)))


@dataclass(frozen=True)
class LowRankKKT(_Eliminated):
    """A `Quadratic` with `P = LowRank(diagonal, factor)`: Woodbury's formula, then the Schur complement.

    O(n (r + m)^2) time and O(n (r + m)) memory: `P` is never formed.
    """

    def hessian(self, problem: FlatProblem, y: jax.Array) -> Matrix:
        objective = problem.objective
        if not isinstance(objective, Quadratic) or not isinstance(objective.P, LowRank):
            raise TypeError("LowRankKKT needs a Quadratic with P = LowRank(diagonal, factor)")
        return objective.P


@dataclass(frozen=True)
class SparseKKT(_Eliminated):
    """A `Quadratic` with sparse `P` and `A`: a sparse factor on the host CPU, by qdldl if it is installed (the extra
    `sparse`), else by SuperLU."""

    keeps_structure = True

    def hessian(self, problem: FlatProblem, y: jax.Array) -> Matrix:
        objective = problem.objective
        if not isinstance(objective, Quadratic) or isinstance(objective.P, (LowRank, Map)):
            raise TypeError("SparseKKT needs a Quadratic with P a matrix, a vector or None")
        return hessian(problem, y)


@dataclass(frozen=True)
class StagesKKT(_Eliminated):
    """A `Quadratic` whose `P` and `A` share their stages: block by block (see `stages.py`).

    O(N (n^3 + p n^2 + p^3)) time and O(N (n + p)^2) memory for N stages of n variables and p equalities.
    """

    keeps_structure = True

    def hessian(self, problem: FlatProblem, y: jax.Array) -> Matrix:
        objective = problem.objective
        if not isinstance(objective, Quadratic) or not in_stages(objective.matrix, problem.rows):
            raise TypeError("StagesKKT needs a BlockBidiagonal A, and a Quadratic with P a BlockDiagonal of its stages")
        return objective.matrix


# --------------------------------------------------------------------------------------------- matrix-free
@dataclass(frozen=True)
class MatrixFreeKKT(KKTSystem):
    """Conjugate gradients on the null space of the equality, from Hessian products alone: large smooth problems.

    Preconditioned by the KKT matrix with the Hessian's diagonal (where the type of the objective gives it, else a
    multiple of the identity) in place of the Hessian, which keeps every iterate on `A dy = s`. Its Schur complement
    is factorised, or, where the equality is a function with too large a matrix, solved for by inner iterations. Needs
    a Hessian that is positive definite there, or a linear program with a unique solution. The residual is checked: an
    adjoint that did not converge is NaN, with a warning.

    Arguments:
        tol: largest relative residual; `None` for 1e-10 in float64, 1e-4 in float32.
        max_iterations: of conjugate gradients; in a linear program it is enough to refine.
    """

    tol: float | None = None
    max_iterations: int = 2000

    def factorised(self, problem: FlatProblem, y: jax.Array, mask: jax.Array) -> Factorised:
        n, shape, ones = y.size, problem.equality.target.shape, jnp.ones(y.size + problem.equality.target.size, y.dtype)
        linear = is_linear(problem.objective)
        curvature = jnp.ones_like(y) if linear else diagonal_curvature(problem, y)
        least = float(jnp.finfo(y.dtype).eps) ** (1 / 3) * largest(mask * curvature)
        slope = mask / jnp.maximum(curvature, positive(least))
        rows_solve = self._of_rows(problem, slope)
        tol = (1e-10 if is_precise(y.dtype) else 1e-4) if self.tol is None else self.tol

        def product(x: jax.Array) -> jax.Array:
            return kkt_product(problem, y, mask, x)

        def inverse(b: jax.Array) -> jax.Array:
            """The inverse of the KKT matrix with a diagonal in place of the Hessian."""
            r, s = b[:n], b[n:].reshape(shape)
            dnu = rows_solve(jnp.ravel(problem.equality.product(slope * r) - s)).reshape(shape)
            return jnp.concatenate([slope * (r - problem.equality.adjoint(dnu)) + (1 - mask) * r, jnp.ravel(dnu)])

        def solve(b: jax.Array) -> jax.Array:
            if linear:  # nothing is left for conjugate gradients; refinement takes the identity out again
                return refined(inverse, product, b, ones, 4 * float(jnp.finfo(y.dtype).eps), room=4)
            options = {"tol": 0.1 * tol, "maxiter": self.max_iterations}
            x, _ = jax.scipy.sparse.linalg.cg(product, b, x0=inverse(b), M=inverse, **options)
            error, size = (jnp.sqrt(jnp.vdot(v, v)) for v in (b - product(x), b))
            return where(error <= tol * positive(size), x, jnp.nan)

        return solve, ones, None

    def _of_rows(self, problem: FlatProblem, slope: jax.Array) -> Product:
        """The inverse of `A diag(slope) A'`, by conjugate gradients if `A` is not to be formed."""
        equality = problem.equality
        if not isinstance(equality, Operator):
            return semidefinite_inverse(normal(problem.rows, slope))
        shape, tol = equality.target.shape, 100 * float(jnp.finfo(slope.dtype).eps)

        def product(nu: jax.Array) -> jax.Array:
            return jnp.ravel(equality.product(slope * equality.adjoint(nu.reshape(shape))))

        return lambda r: jax.scipy.sparse.linalg.cg(product, r, tol=tol, maxiter=self.max_iterations)[0]


def diagonal_curvature(problem: FlatProblem, y: jax.Array) -> jax.Array:
    """The diagonal of the Hessian where the type gives it, else the curvature along the gradient."""
    objective = problem.objective
    if isinstance(objective, Separable):
        return hessian_product(objective, y, jnp.ones_like(y))
    if isinstance(objective, Quadratic) and not is_linear(objective):
        return objective.matrix.diagonal_entries()
    gradient = objective.gradient(y)
    square = jnp.vdot(gradient, gradient)
    along = jnp.vdot(gradient, hessian_product(objective, y, gradient)) / where(square > 0, square, 1.0)
    return jnp.broadcast_to(along, y.shape)


DENSE_UP_TO = 3000


def choose(problem: FlatProblem) -> KKTSystem:
    """The choice by structure; the table stands in the docstring of `KKTSystem`."""
    if isinstance(problem.equality, Operator):
        return MatrixFreeKKT()
    objective, m, n = problem.objective, problem.equality.target.size, problem.box.lower.size
    if problem.is_quadratic:
        assert isinstance(objective, Quadratic)
        P, A = objective.matrix, problem.rows
        if in_stages(P, A):
            return StagesKKT()
        if isinstance(P, LowRank):
            return LowRankKKT()
        if isinstance(P, Map):
            return MatrixFreeKKT()
        if isinstance(P, Diagonal) and not isinstance(A, Sparse):
            return DiagonalKKT()
        if n > SPARSE_FROM and (isinstance(P, Sparse) or isinstance(A, Sparse)):
            return SparseKKT()
    if n + m <= DENSE_UP_TO:
        return DenseKKT()
    return DiagonalKKT() if is_linear(objective) else MatrixFreeKKT()
