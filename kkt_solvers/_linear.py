"""Symmetric linear systems, factorised once and refined, and the KKT systems of the derivative built from them.

The KKT system of the free coordinates, with `F` the diagonal matrix that is one on them, is

    [ F H F + (I - F)   F A' ] [ dy  ]   [ F r ]
    [ A F               0    ] [ dnu ] = [ s   ].

What differs from structure to structure is only how it is (nearly) inverted: each class here offers an `inverse`.
The true matrix is applied to refine what the inverse gives, and to differentiate the solve.
"""

import abc
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from kkt_solvers import _lapack as lapack
from kkt_solvers import _sparse
from kkt_solvers._arrays import (
    Matrix,
    block_sum,
    dense,
    diagonal_of,
    inverse_root,
    is_finite,
    is_precise,
    largest,
    largest_entries,
    relative,
    tree_where,
)
from kkt_solvers._batches import in_any
from kkt_solvers._cholesky import Coupling, Factor, cholesky, coupling
from kkt_solvers._objectives import LowRank, Quadratic, Separable, SymmetricMap, hessian_product
from kkt_solvers._problem import FlatProblem, Operator

_REFINEMENTS = 3
_MANY = 12  # refinements of a regularised system
_ROUNDS = 5  # of scaling

Pair = tuple[jax.Array, jax.Array]  # (dy, dnu), or (r, s)
Inverse = Callable[[Pair], Pair]


def _regularisation(dtype: Any) -> float:
    """Relative to a matrix with unit rows: what singular systems are shifted by before they are factorised."""
    return float(jnp.finfo(dtype).eps) ** (2 / 3)


# ---------------------------------------------------------------------------------------- one matrix
class _Factor(NamedTuple):
    lu: tuple[jax.Array, jax.Array]  # and the order of the rows
    scale: jax.Array
    steps: jax.Array  # of refinement, that a solve with it takes


def _factor(K: jax.Array, sign: jax.Array | None = None) -> _Factor:
    """The factors of a symmetric `K`, up to what refinement mends.

    `K` is scaled, `D K D`: to a unit diagonal where it is positive semidefinite, which is without a `sign`, else to
    unit rows. If that is singular, or nearly, it is regularised, `D K D + delta diag(sign)`, with `sign = +1` where `K`
    is positive semidefinite and `-1` in its constraint block, which makes it nonsingular; refinement with the true `K`
    takes the regularisation out again, wherever there is an inverse to find.
    """
    scaled, scale = unit_diagonal(K) if sign is None else unit_rows(K)
    delta = _regularisation(K.dtype)
    shift = delta * (jnp.ones(len(K), K.dtype) if sign is None else sign)
    factor = lapack.lu_factor(scaled)
    pivot = jnp.min(jnp.abs(diagonal_of(factor[0])))
    singular = ~(pivot > delta)
    other = jax.lax.cond(in_any(singular), lambda: lapack.lu_factor(scaled + jnp.diag(shift)), lambda: factor)
    lu, order = tree_where(singular, other, factor)
    easy = pivot > float(jnp.finfo(K.dtype).eps) ** (1 / 3)
    return _Factor((lu, order), scale, jnp.where(singular, _REFINEMENTS, jnp.where(easy, 0, 1)))


def _solve(factor: _Factor, r: jax.Array) -> jax.Array:
    return factor.scale * lapack.lu_solve(*factor.lu, factor.scale * r)


def unit_rows(K: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`D K D` and `D`, with a largest entry of about one in every row: a few rounds of [ruiz2001].

    One round is not enough where an off-diagonal entry is the largest one of a row.
    """

    def once(_: Any, D: jax.Array) -> jax.Array:
        return D * inverse_root(jnp.max(jnp.abs(K) * D[:, None] * D, axis=1))

    D = jax.lax.fori_loop(0, _ROUNDS, once, jnp.ones(len(K), K.dtype))
    return K * D[:, None] * D, D


def unit_diagonal(K: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`D K D` and `D` of a positive semidefinite `K`, with ones on its diagonal: whatever the units of its rows."""
    D = inverse_root(diagonal_of(K))
    return K * D[:, None] * D, D


def unit_scale(K: jax.Array) -> jax.Array:
    return inverse_root(jnp.max(jnp.abs(K), axis=1))


def _refined(inverse: Callable[[Any], Any], product: Callable[[Any], Any], b: Any, steps: Any) -> Any:
    """`inverse(b)`, with what it left of `b` put through it again."""

    def again(_: Any, x: Any) -> Any:
        rest = jax.tree.map(jnp.subtract, b, product(x))
        return jax.tree.map(jnp.add, x, inverse(rest))

    return jax.lax.fori_loop(0, steps, again, inverse(b))


def refined_to(accuracy: float, inverse: Inverse, product: Inverse, right: Pair, most: int) -> Pair:
    """The same, as long as each round at least halves what is left of `right`, until that is small beside it: in `most`
    rounds, the first solve counted."""

    def again(state: Any) -> Any:
        x, rest, now, _, count = state
        x = jax.tree.map(jnp.add, x, inverse(rest))
        rest = jax.tree.map(jnp.subtract, right, product(x))
        return x, rest, largest(*rest), now, count + 1

    def unfinished(state: Any) -> jax.Array:
        _, _, now, before, count = state
        return (count == 0) | ((now > small) & (now < 0.5 * before) & (count < most))

    size = largest(*right)
    small, none = accuracy * size, jnp.zeros((), jnp.int32)
    start = jax.tree.map(jnp.zeros_like, right), right, size, jnp.full_like(size, jnp.inf), none
    return jax.lax.while_loop(unfinished, again, start)[0]


def with_smallest_residual(
    accuracy: float, inverse: Inverse, product: Inverse, right: Pair, weights: Pair, most: int
) -> Pair:
    """Refinement whose steps are combined so that what is left of `right` is smallest, in the weighted sum of squares:
    generalised conjugate residuals. Where `inverse` is far off in a few directions, each takes about one step."""

    def flat(pair: Pair) -> jax.Array:
        return jnp.concatenate([pair[0], jnp.ravel(pair[1])])

    def again(state: Any) -> Any:
        x, rest, steps, images, now, _, count = state
        step = flat(inverse(pair(rest / w)))
        image = w * flat(product(pair(step)))
        common = images @ image
        step, image = step - common @ steps, image - common @ images
        # Of a direction that the system has not, as one of dependent rows, the image is rounding: no step along it.
        size = norm(image)
        part = jnp.where(size > jnp.finfo(w.dtype).eps * norm(step / w), 1 / size, 0.0)
        step, image = part * step, part * image
        x = x + (image @ rest) * step
        rest = b - w * flat(product(pair(x)))
        return x, rest, steps.at[count].set(step), images.at[count].set(image), norm(rest), now, count + 1

    def unfinished(state: Any) -> jax.Array:
        *_, now, before, count = state
        return (count == 0) | ((now > small) & (now < before) & (count < most))

    norm, w, n = jnp.linalg.norm, flat(weights), right[0].size
    b = w * flat(right)

    def pair(v: jax.Array) -> Pair:
        return v[:n], v[n:].reshape(right[1].shape)

    size, none = norm(b), jnp.zeros((most, b.size), b.dtype)
    small = accuracy * size
    start = jnp.zeros_like(b), b, none, none, size, jnp.full_like(size, jnp.inf), jnp.zeros((), jnp.int32)
    return pair(jax.lax.while_loop(unfinished, again, start)[0])


def solve_semidefinite(K: jax.Array, r: jax.Array) -> jax.Array:
    """`K x = r` for a small symmetric positive semidefinite `K`; differentiable, any order."""
    if len(K) == 0:
        return r
    if len(K) == 1:
        # One equality: a scalar. Where it is zero nothing can move, and nothing does.
        pivot = K[0, 0]
        return jnp.where(pivot > 0, r / jnp.where(pivot > 0, pivot, 1.0), 0.0)
    frozen = jax.lax.stop_gradient(K)
    factor = _factor(frozen)

    def solve(_: Any, r: jax.Array) -> jax.Array:
        return _refined(functools.partial(_solve, factor), lambda x: frozen @ x, r, factor.steps)

    return jax.lax.custom_linear_solve(lambda x: K @ x, r, solve, symmetric=True)


def schur(rows: jax.Array, slope: jax.Array) -> jax.Array:
    """`A diag(slope) A'`, the Schur complement of a diagonal Hessian: O(n m^2), O(n) for one row."""
    if len(rows) == 1:
        return block_sum(slope * rows[0] * rows[0])[None, None]
    return (rows * slope) @ rows.T


# ------------------------------------------------------------------------------------ the KKT systems
class KKTSystem(abc.ABC):
    """How the linear system of the derivative is solved; `linear=None` chooses by structure:

    | objective, equality | system |
    |---|---|
    | `Separable` | the scalar or small Schur complement of the dual form; no `KKTSystem` |
    | an equality, or `P`, given as a function, its matrix too large to form | `MatrixFreeKKT` |
    | `Quadratic`, diagonal `P` | `DiagonalKKT` |
    | `Quadratic`, `P` a `LowRank` | `LowRankKKT` |
    | `Quadratic` with a sparse `P` or `A`, more than 500 variables | `SparseKKT` |
    | any other, up to 3000 variables and equalities together | `DenseKKT` |
    | a linear program beyond that | `DiagonalKKT` |
    | any other | `MatrixFreeKKT` |
    """

    @abc.abstractmethod
    def inverse(self, problem: FlatProblem, y: jax.Array, mask: jax.Array) -> tuple[Inverse, Pair]:
        """`(r, s) -> (dy, dnu)`, up to what refinement mends, and weights that bring the rows of the system to the same
        size; `mask` is one on the free coordinates."""

    def refine(self, inverse: Inverse, product: Inverse, right: Pair, weights: Pair) -> Pair:
        return with_smallest_residual(
            16 * float(jnp.finfo(right[0].dtype).eps), inverse, product, right, weights, _MANY
        )

    def least_squares(
        self, problem: FlatProblem, y: jax.Array, mask: jax.Array, weights: Pair
    ) -> Callable[[jax.Array], jax.Array] | None:
        """By the pseudo-inverse of the whole matrix: where nothing else will do, and if that is small enough."""
        if y.size + problem.equality.target.size > _DENSE_UP_TO:
            return None
        w = jnp.concatenate([weights[0], jnp.ravel(weights[1])])
        return lambda b: w * (lapack.pinv(dense_kkt_matrix(problem, y, mask) * w[:, None] * w) @ (w * b))

    def solve(self, problem: FlatProblem, y: jax.Array, mask: jax.Array, right: Pair, *, check: bool = False) -> Pair:
        """The solution of the system at the top of this file. Differentiable, any order: the derivative of a linear
        solve is another solve with the same inverse.

        With `check` the residual of the result is. What `refine` did not solve may have no solution (dependent active
        constraints whose right-hand sides disagree): then the least-squares solution of least norm is taken, rows and
        columns in units of their own. Where that is not to be had the result is NaN, with a warning.
        """
        frozen = jax.lax.stop_gradient((problem, y, mask))
        inverse, weights = self.inverse(*frozen)
        shape = right[1].shape

        # JAX transposes a linear solve only if all of its right-hand side is a variable: so it is one vector.
        def pack(x: Pair) -> jax.Array:
            return jnp.concatenate([x[0], jnp.ravel(x[1])])

        def unpack(x: jax.Array) -> Pair:
            return x[: y.size], x[y.size :].reshape(shape)

        def apply(x: jax.Array) -> jax.Array:
            return pack(kkt_product(*frozen, unpack(x)))

        def solve(_: Any, b: jax.Array) -> jax.Array:
            x = pack(self.refine(inverse, lambda x: kkt_product(*frozen, x), unpack(b), weights))
            return _checked(x, apply, b, pack(weights), self.least_squares(*frozen, weights)) if check else x

        def product(x: jax.Array) -> jax.Array:
            return pack(kkt_product(problem, y, mask, unpack(x)))

        r, s = right
        return unpack(jax.lax.custom_linear_solve(product, pack((mask * r, s)), solve, symmetric=True))


def _checked(
    x: jax.Array,
    product: Callable[[jax.Array], jax.Array],
    b: jax.Array,
    w: jax.Array,
    least_squares: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    """`x` where it solves `K x = b`, else the least-squares solution; else NaN, with a warning."""
    small = float(jnp.finfo(x.dtype).eps) ** 0.5
    rest = w * (b - product(x))
    left, size = largest(rest), largest(w * b)
    # A point without a derivative has NaN on the right.
    unsolved = is_finite(b) & ~(is_finite(x) & (left <= small * size))
    if least_squares is not None:
        return jnp.where(unsolved, jax.lax.cond(in_any(unsolved), least_squares, lambda _: x, b), x)
    # What is left of an inconsistent system is orthogonal to its range, as nearly as its regularised inverse can tell.
    bad = unsolved & ~(is_finite(x) & (largest(w * product(w * rest)) <= small**0.5 * left))

    def warned() -> jax.Array:
        # A pure callback, whose value is used: a mere effect is dropped when the solve is transposed.
        like = jax.ShapeDtypeStruct((), x.dtype)
        return jax.pure_callback(_warn, like, jnp.where(bad, relative(left, size), 0.0), vmap_method="broadcast_all")

    zero = jnp.zeros((), x.dtype)
    return x + jnp.where(bad, jax.lax.cond(in_any(bad), warned, lambda: zero), 0.0)


def _warn(error: Any) -> np.ndarray:
    error = np.asarray(error)
    if np.any(error != 0):
        warnings.warn(
            f"the linear system of a derivative did not converge (relative residual {np.nanmax(error):.1e}) and the "
            "result is NaN; compute in float64, or pass linear=MatrixFreeKKT(max_iterations=...) or linear=DenseKKT()",
            RuntimeWarning,
            stacklevel=2,
        )
    return np.full_like(error, np.nan)


def kkt_product(problem: FlatProblem, y: jax.Array, mask: jax.Array, x: Pair) -> Pair:
    """The matrix of the system times `x = (dy, dnu)`."""
    dy, dnu = x
    free = mask * dy
    top = mask * (hessian_product(problem.objective, y, free) + problem.equality.adjoint(dnu)) + (1 - mask) * dy
    return top, problem.equality.product(free)


def _block_elimination(
    problem: FlatProblem,
    mask: jax.Array,
    invert: Callable[[jax.Array], jax.Array],
    schur_complement: Callable[[jax.Array], jax.Array],
    diagonal: jax.Array,
) -> tuple[Inverse, Pair]:
    """From `invert = F (F H F + I - F)^{-1} F` and `schur_complement(A) = A invert(A')`."""
    rows = dense(problem.equality.rows(mask.size))
    S = schur_complement(rows)
    factor = _factor(S) if len(S) > 1 else None

    def inverse(right: Pair) -> Pair:
        r, s = right[0], jnp.ravel(right[1])
        residual = rows @ invert(r) - s
        dnu = solve_semidefinite(S, residual) if factor is None else _solve(factor, residual)
        dy = invert(r - dnu @ rows) + (1 - mask) * r
        return dy, dnu.reshape(right[1].shape)

    return inverse, _weights(rows, diagonal, mask)


def _weights(rows: Matrix, diagonal: jax.Array, mask: jax.Array) -> Pair:
    """Weights that bring the system to unit size: curved coordinates by the diagonal of the Hessian, rows by what they
    have of those, flat coordinates by what they have of the rows."""
    curved = (mask > 0) & (diagonal > 0)
    columns = jnp.where(curved, inverse_root(jnp.where(curved, diagonal, 1.0)), 0.0)
    of_rows = largest_entries(rows, 1, columns)
    e = 1 / _positive(jnp.where(of_rows > 0, of_rows, largest_entries(rows, 1, mask)))
    flat = 1 / _positive(largest_entries(rows, 0, e))
    return jnp.where(curved, columns, jnp.where(mask > 0, flat, 1.0)), e


def _positive(size: jax.Array) -> jax.Array:
    return jnp.where(size > 0, size, 1.0)


def _least_curvature(diagonal: jax.Array, mask: jax.Array) -> jax.Array:
    """Less is counted as flat. Were it less, the inverse of a flat coordinate would drown the curvature of the others
    in the Schur complement; were it more, refinement would be slow."""
    return float(jnp.finfo(diagonal.dtype).eps) ** (1 / 3) * _positive(largest(mask * diagonal))


@dataclass(frozen=True)
class DiagonalKKT(KKTSystem):
    """A `Quadratic` with a diagonal `P`, or none: Schur complement, O(n m^2) time and O(n m) memory."""

    def inverse(self, problem: FlatProblem, y: jax.Array, mask: jax.Array) -> tuple[Inverse, Pair]:
        diagonal = hessian_product(problem.objective, y, jnp.ones_like(y))
        slope = mask / _floored(diagonal, mask)
        return _block_elimination(problem, mask, lambda v: slope * v, lambda rows: schur(rows, slope), diagonal)


def _floored(diagonal: jax.Array, mask: jax.Array) -> jax.Array:
    """A flat coordinate gets a little curvature, which refinement takes out again."""
    return jnp.maximum(diagonal, _least_curvature(diagonal, mask))


@dataclass(frozen=True)
class LowRankKKT(KKTSystem):
    """A `Quadratic` with `P = LowRank(diagonal, factor)`: Woodbury's formula, then the Schur complement.

    O(n (r + m)^2) time and O(n (r + m)) memory: `P` is never formed.
    """

    def inverse(self, problem: FlatProblem, y: jax.Array, mask: jax.Array) -> tuple[Inverse, Any]:
        objective = problem.objective
        if not isinstance(objective, Quadratic) or not isinstance(objective.P, LowRank):
            raise TypeError("LowRankKKT needs a Quadratic with P = LowRank(diagonal, factor)")
        slope, V = mask / _floored(objective.P.diagonal, mask), objective.P.factor
        # (D + V V')^{-1} = D^{-1} - D^{-1} V (I + V' D^{-1} V)^{-1} V' D^{-1}
        capacitance = lapack.cholesky(jnp.eye(V.shape[1], dtype=y.dtype) + V.T @ (slope[:, None] * V))

        def invert(v: jax.Array) -> jax.Array:
            v = slope * v
            return v - slope * (V @ lapack.cho_solve(capacitance, V.T @ v))

        diagonal = objective.diagonal()
        return _block_elimination(problem, mask, invert, lambda rows: rows @ jax.vmap(invert, 1, 1)(rows.T), diagonal)


@dataclass(frozen=True)
class DenseKKT(KKTSystem):
    """A factorisation of the dense KKT matrix: any objective; O((n + m)^3) time, O((n + m)^2) memory.

    Where the Hessian of the free coordinates and the Schur complement are safely definite, two Cholesky
    factorisations; else one of the whole matrix, with pivoting.
    """

    def inverse(self, problem: FlatProblem, y: jax.Array, mask: jax.Array) -> tuple[Inverse, Any]:
        H, rows = dense_hessian(problem, y), dense(problem.equality.rows(y.size))
        A, empty = rows * mask, jnp.all(rows == 0, axis=1)
        definite, by_cholesky = _by_cholesky(H, A, mask, empty, regularise=False)

        def pivoted() -> _Factor:
            return _pivoted(H, A, mask)

        like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(pivoted))
        needed = in_any(~definite)
        factor = jax.lax.cond(needed, pivoted, lambda: like)

        def inverse(b: jax.Array) -> jax.Array:
            quick = by_cholesky(b)
            return jnp.where(definite, quick, jax.lax.cond(needed, lambda: _solve(factor, b), lambda: quick))

        return _on_pairs(inverse, y.size), _weights(A, H if H.ndim == 1 else diagonal_of(H), mask)


@dataclass(frozen=True)
class RegularisedKKT(KKTSystem):
    """Two Cholesky factorisations, regularised where they have to be; refinement takes that out again, if there is an
    inverse to find that is not too ill-conditioned. With `pivot` the whole matrix is factorised instead. Internal."""

    pivot: bool = False

    def inverse(self, problem: FlatProblem, y: jax.Array, mask: jax.Array) -> tuple[Inverse, Any]:
        H, A = dense_hessian(problem, y), dense(problem.equality.rows(y.size)) * mask
        if self.pivot:
            factor = _pivoted(H, A, mask)
            return _on_pairs(lambda b: _solve(factor, b), y.size), None
        _, by_cholesky = _by_cholesky(H, A, mask, jnp.all(A == 0, axis=1), regularise=True)
        return _on_pairs(by_cholesky, y.size), None

    def refine(self, inverse: Inverse, product: Inverse, right: Pair, weights: Any) -> Pair:
        return refined_to(4 * float(jnp.finfo(right[0].dtype).eps), inverse, product, right, _MANY)


def _pivoted(H: jax.Array, A: jax.Array, mask: jax.Array) -> _Factor:
    n = mask.size
    return _factor(_kkt_matrix(H, A, mask), jnp.where(jnp.arange(n + len(A)) < n, 1.0, -1.0))


def _on_pairs(inverse: Callable[[jax.Array], jax.Array], n: int) -> Inverse:
    """`inverse`, which takes and returns one vector, of `(r, s)`."""

    def on_pairs(right: Pair) -> Pair:
        x = inverse(jnp.concatenate([right[0], jnp.ravel(right[1])]))
        return x[:n], x[n:].reshape(right[1].shape)

    return on_pairs


def _by_cholesky(
    H: jax.Array, A: jax.Array, mask: jax.Array, empty: jax.Array, regularise: bool
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Whether `K = F H F + I - F` and `A K^{-1} A'` are definite with room to spare, and the inverse of the KKT matrix
    then; a row that is `empty`, no condition, is taken for a definite one. What is not is regularised, where that is
    wanted."""
    n, eps = len(H), float(jnp.finfo(H.dtype).eps)

    def factor(
        K: jax.Array, scale: jax.Array, shift: jax.Array, delta: float, rows: Coupling | None = None
    ) -> tuple[Factor, jax.Array]:
        R = cholesky(K, scale, shift, rows)
        good = (jnp.min(R.pivots(), initial=1.0) ** 2 > eps ** (1 / 3)) & R.is_definite()
        if not regularise:
            return R, good

        def shifted() -> Factor:
            return tree_where(good, R, cholesky(K, scale, shift + delta, rows))

        return jax.lax.cond(in_any(~good), shifted, lambda: R)._replace(coupling=rows), good  # which is that of a batch

    scale = inverse_root(H if H.ndim == 1 else diagonal_of(H))
    L, good = factor(H, mask * scale, 1 - mask, eps**0.25, coupling(H, mask > 0))
    scale = jnp.where(mask > 0, scale, 1.0)
    V = L.whiten(A * scale)
    S = V @ V.T
    e = inverse_root(jnp.where(empty, 1.0, diagonal_of(S)))
    M, also = factor(S, e, empty.astype(H.dtype), eps**0.9)

    def solve_both(b: jax.Array) -> jax.Array:
        w = L.whiten(scale * b[:n])
        dnu = e * M.unwhiten(M.whiten(e * (V @ w - b[n:])))
        dy = scale * L.unwhiten(w - dnu @ V)
        return jnp.concatenate([dy, dnu])

    return good & also, solve_both


def dense_kkt_matrix(problem: FlatProblem, y: jax.Array, mask: jax.Array) -> jax.Array:
    """The matrix at the top of this file."""
    return _kkt_matrix(dense_hessian(problem, y), dense(problem.equality.rows(y.size)) * mask, mask)


def _kkt_matrix(H: jax.Array, A: jax.Array, mask: jax.Array) -> jax.Array:
    H = (jnp.diag(H) if H.ndim == 1 else H) * mask[:, None] * mask + jnp.diag(1 - mask)
    return jnp.block([[H, A.T], [A, jnp.zeros((len(A), len(A)), H.dtype)]])


def dense_hessian(problem: FlatProblem, y: jax.Array) -> jax.Array:
    """A matrix, or the diagonal of one: of a `Quadratic` whose `P` is that."""
    objective = problem.objective
    if isinstance(objective, Quadratic) and objective.P is None:
        return jnp.zeros_like(y)
    if isinstance(objective, Quadratic) and isinstance(objective.P, (jax.Array, BCOO)):
        return dense(objective.P)
    return jax.vmap(lambda v: hessian_product(objective, y, v))(jnp.eye(y.size, dtype=y.dtype))


@dataclass(frozen=True)
class SparseKKT(KKTSystem):
    """A `Quadratic` with sparse `P` and `A`: SuperLU, through SciPy, on the host CPU (see `_sparse.py`)."""

    def inverse(self, problem: FlatProblem, y: jax.Array, mask: jax.Array) -> tuple[Inverse, Any]:
        n, objective, target = y.size, problem.objective, problem.equality.target
        if not isinstance(objective, Quadratic) or isinstance(objective.P, (LowRank, SymmetricMap)):
            raise TypeError("SparseKKT needs a Quadratic with P a matrix, a vector or None")
        solve = _sparse.factorised(
            objective.P,
            problem.equality.rows(n),
            mask,
            1 - mask,
            jnp.zeros(target.size, y.dtype),
            _regularisation(np.float64),
        )

        def inverse(right: Pair) -> Pair:
            x = solve(jnp.concatenate([right[0], jnp.ravel(right[1])]))
            return x[:n], x[n:].reshape(right[1].shape)

        return inverse, _weights(problem.equality.rows(n), objective.diagonal(), mask)


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

    def inverse(self, problem: FlatProblem, y: jax.Array, mask: jax.Array) -> tuple[Inverse, Pair]:
        # The matrix with a diagonal in place of the Hessian: a preconditioner of conjugate gradients.
        if _is_linear(problem):  # nothing is left for those; refinement alone takes the identity out again
            eliminated = self._elimination(problem, mask, mask)
            return lambda right: _refined(
                eliminated, lambda x: kkt_product(problem, y, mask, x), right, _REFINEMENTS
            ), self._no_weights(problem, y)
        slope = mask / _floored(diagonal_curvature(problem, y), mask)
        return self._elimination(problem, mask, slope), self._no_weights(problem, y)

    def _no_weights(self, problem: FlatProblem, y: jax.Array) -> Pair:
        return jnp.ones_like(y), jnp.ones_like(problem.equality.target)

    def _elimination(self, problem: FlatProblem, mask: jax.Array, slope: jax.Array) -> Inverse:
        if isinstance(problem.equality, Operator):
            return self._iterative_elimination(problem.equality, mask, slope)
        curvature = jnp.ones_like(slope)
        return _block_elimination(problem, mask, lambda v: slope * v, lambda rows: schur(rows, slope), curvature)[0]

    def _iterative_elimination(self, equality: Operator, mask: jax.Array, slope: jax.Array) -> Inverse:
        """Block elimination whose Schur complement is never formed: conjugate gradients again."""
        tol = 100 * float(jnp.finfo(mask.dtype).eps)

        def inverse(right: Pair) -> Pair:
            r, s = right
            dnu, _ = jax.scipy.sparse.linalg.cg(
                lambda nu: equality.product(slope * equality.adjoint(nu)),
                equality.product(slope * r) - s,
                tol=tol,
                maxiter=self.max_iterations,
            )
            return slope * (r - equality.adjoint(dnu)) + (1 - mask) * r, dnu

        return inverse

    def least_squares(self, problem: FlatProblem, y: jax.Array, mask: jax.Array, weights: Pair) -> None:
        """None: it is chosen where the matrix is not to be formed."""

    def refine(self, inverse: Inverse, product: Inverse, right: Pair, weights: Pair) -> Pair:
        dtype = right[0].dtype
        tol = (1e-10 if is_precise(dtype) else 1e-4) if self.tol is None else self.tol
        x, _ = jax.scipy.sparse.linalg.cg(
            product,
            right,
            x0=inverse(right),
            tol=0.1 * tol,
            maxiter=self.max_iterations,
            M=inverse,
        )
        rest = jax.tree.map(jnp.subtract, right, product(x))
        error, size = (jnp.sqrt(sum(jnp.sum(part * part) for part in pair)) for pair in (rest, right))
        return jax.tree.map(lambda part: jnp.where(error <= tol * jnp.where(size > 0, size, 1.0), part, jnp.nan), x)


def _is_linear(problem: FlatProblem) -> bool:
    return isinstance(problem.objective, Quadratic) and problem.objective.P is None


def diagonal_curvature(problem: FlatProblem, y: jax.Array) -> jax.Array:
    """The diagonal of the Hessian where the type gives it, else the curvature along the gradient."""
    objective = problem.objective
    if isinstance(objective, Separable):
        return hessian_product(objective, y, jnp.ones_like(y))
    if isinstance(objective, Quadratic) and objective.P is not None:
        return objective.diagonal()
    gradient = objective.gradient(y)
    square = jnp.vdot(gradient, gradient)
    along = jnp.vdot(gradient, hessian_product(objective, y, gradient)) / jnp.where(square > 0, square, 1.0)
    return jnp.broadcast_to(along, y.shape)


_SPARSE_FROM = 500
_DENSE_UP_TO = 3000


def choose(problem: FlatProblem) -> KKTSystem:
    """The choice by structure; the table stands in the docstring of `KKTSystem`."""
    if isinstance(problem.equality, Operator):
        return MatrixFreeKKT()
    objective, A = problem.objective, problem.equality.rows(problem.box.lower.size)
    m, n = A.shape
    if isinstance(objective, Quadratic):
        if isinstance(objective.P, LowRank):
            return LowRankKKT()
        if isinstance(objective.P, SymmetricMap):
            return MatrixFreeKKT()
        if objective.P is not None and objective.P.ndim == 1 and not isinstance(A, BCOO):
            return DiagonalKKT()
        if n > _SPARSE_FROM and (isinstance(objective.P, BCOO) or isinstance(A, BCOO)):
            return SparseKKT()
    if n + m <= _DENSE_UP_TO:
        return DenseKKT()
    return DiagonalKKT() if _is_linear(problem) else MatrixFreeKKT()
