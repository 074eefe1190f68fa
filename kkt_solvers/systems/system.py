"""The linear system of the derivative. With `F` the diagonal matrix that is one on the free coordinates:

    [ F H F + (I - F)   F A' ] [ dy  ]   [ F r ]
    [ A F               0    ] [ dnu ] = [ s   ]

The systems of `kkt.py` differ in how the matrix is (nearly) inverted. Here the true matrix is applied to check what the
inverse gives, and to differentiate the solve.
"""

import abc
import warnings
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers.data.matrix import Product
from kkt_solvers.data.objectives import hessian_product
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.numerics.arrays import is_finite, largest, relative, where
from kkt_solvers.numerics.batches import when_any

Pair = tuple[jax.Array, jax.Array]  # (dy, dnu), or (r, s)
Factorised = tuple[Product, jax.Array, Product | None]


class KKTSystem(abc.ABC):
    """How the linear system of the derivative is solved; `linear=None` chooses by structure:

    | objective, equality | system |
    |---|---|
    | `Separable` | the scalar or small Schur complement of the dual form; no `KKTSystem` |
    | an equality, or `P`, given as a function, its matrix too large to form | `MatrixFreeKKT` |
    | `Quadratic`, `A` a `BlockBidiagonal`, `P` a `BlockDiagonal` of its stages, a vector or `None` | `StagesKKT` |
    | `Quadratic`, diagonal `P` | `DiagonalKKT` |
    | `Quadratic`, `P` a `LowRank` | `LowRankKKT` |
    | `Quadratic` with a sparse `P` or `A`, more than 500 variables | `SparseKKT` |
    | any other, up to 3000 variables and equalities together | `DenseKKT` |
    | a linear program beyond that | `DiagonalKKT` |
    | any other | `MatrixFreeKKT` |
    """

    keeps_structure: ClassVar[bool] = False  # whether `P` and `A` are used as they are, and not as dense matrices

    @abc.abstractmethod
    def factorised(self, problem: FlatProblem, y: jax.Array, mask: jax.Array) -> Factorised:
        """`b -> x` with `K x = b`, on vectors `(dy, dnu)`; weights that bring the rows of `K` to the same size; and, if
        it is to be had, the least-squares solution of a `K` that has no inverse. `mask` is one on the free
        coordinates."""

    def solve(self, problem: FlatProblem, y: jax.Array, mask: jax.Array, right: Pair) -> Pair:
        """The solution of the system at the top of this file. Differentiable, any order: the derivative of a linear
        solve is another solve with the same inverse.

        The residual is checked. A system that was not solved may have no solution (dependent active constraints whose
        right-hand sides disagree): then the result is the least-squares solution of least norm, rows and columns in
        units of their own. If that is not to be had, it is NaN, with a warning.
        """
        frozen = jax.lax.stop_gradient((problem, y, mask))
        solve, weights, least_squares = self.factorised(*frozen)
        n, shape = y.size, right[1].shape

        def checked(_: Any, b: jax.Array) -> jax.Array:
            return _checked(solve(b), lambda x: kkt_product(*frozen, x), b, weights, least_squares)

        # JAX transposes a linear solve only if all of its right-hand side is a variable: so it is one vector.
        b = jnp.concatenate([mask * right[0], jnp.ravel(right[1])])
        x = jax.lax.custom_linear_solve(lambda x: kkt_product(problem, y, mask, x), b, checked, symmetric=True)
        return x[:n], x[n:].reshape(shape)


def _checked(x: jax.Array, product: Product, b: jax.Array, w: jax.Array, least_squares: Product | None) -> jax.Array:
    """`x` where it solves `K x = b`, else the least-squares solution; else NaN, with a warning."""
    small = float(jnp.finfo(x.dtype).eps) ** 0.5
    rest = w * (b - product(x))
    left, size = largest(rest), largest(w * b)
    # A point without a derivative has NaN on the right.
    unsolved = is_finite(b) & ~(is_finite(x) & (left <= small * size))
    if least_squares is not None:
        return when_any(unsolved, lambda: least_squares(b), x)

    def warned() -> jax.Array:
        # The residual of an inconsistent system is orthogonal to the range of K, up to the error of a regularised
        # inverse.
        bad = unsolved & ~(is_finite(x) & (largest(w * product(w * rest)) <= small**0.5 * left))
        # A pure callback, whose value is used: a mere effect is dropped when the solve is transposed.
        like = jax.ShapeDtypeStruct((), x.dtype)
        return jax.pure_callback(_warn, like, where(bad, relative(left, size), 0.0), vmap_method="broadcast_all")

    return x + when_any(unsolved, warned, jnp.zeros((), x.dtype))


def _warn(error: Any) -> np.ndarray:
    error = np.asarray(error)
    if np.any(error != 0):
        warnings.warn(
            f"the linear system of a derivative did not converge (relative residual {np.nanmax(error):.1e}) and the "
            "result is NaN; compute in float64, or pass linear=MatrixFreeKKT(max_iterations=...) or linear=DenseKKT()",
            RuntimeWarning,
            stacklevel=2,
        )
    return np.where(error != 0, np.nan, 0).astype(error.dtype)


def kkt_product(problem: FlatProblem, y: jax.Array, mask: jax.Array, x: jax.Array) -> jax.Array:
    """The matrix of the system times the vector `x = (dy, dnu)`."""
    dy, dnu = x[: y.size], x[y.size :].reshape(problem.equality.target.shape)
    free = mask * dy
    top = mask * (hessian_product(problem.objective, y, free) + problem.equality.adjoint(dnu)) + (1 - mask) * dy
    return jnp.concatenate([top, jnp.ravel(problem.equality.product(free))])
