"""The linear system of an interior-point step, and what its factorisation tells of the objective.

    (H + D) dy + A'dnu = r,      A dy - delta dnu = s,      dy = 0 on the coordinates that do not move

with `D > 0` from the barrier. Both blocks are regularised, as in a proximal point method, by as little as rounding
allows: the factorisations exist for dependent rows and flat objectives too. In float32 that is so much that refinement
takes it out again. Where the system is `elastic` it has no `H`, and `delta` is one.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from kkt_solvers import _lapack as lapack
from kkt_solvers import _sparse
from kkt_solvers._arrays import dense, diagonal_of, inverse_root, is_finite, is_precise, largest
from kkt_solvers._batches import in_any
from kkt_solvers._cholesky import cholesky, coupling
from kkt_solvers._linear import (
    Pair,
    SparseKKT,
    choose,
    dense_hessian,
    diagonal_curvature,
    refined_to,
    unit_scale,
    with_smallest_residual,
)
from kkt_solvers._objectives import LowRank, Quadratic, Separable
from kkt_solvers._problem import FlatProblem

# A proximal term slows the method down, by as much as variables and multipliers are large. Where the factorisation
# pivots, or there is none, this part of the regularisation is enough.
_LEAST = 1e-4

Solve = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
Map = Callable[[jax.Array], jax.Array]


def regularisation(dtype: Any) -> float:
    """Of a problem that is equilibrated: 4e-10; in float32, where it weighs more, nearer to rounding."""
    return float(jnp.finfo(dtype).eps) ** (0.6 if is_precise(dtype) else 0.8)


def is_sparse(problem: FlatProblem) -> bool:
    """Whether the system is factorised as a sparse matrix."""
    return isinstance(choose(problem), SparseKKT)


def missing_curvature(problem: FlatProblem, y: jax.Array) -> jax.Array:
    """What the diagonal of the Hessian at `y` lacks for a positive semidefinite one: zero; what rounding may have taken
    from it, relative to its largest entry; or infinity, where it is not convex. A sparse or low-rank one is taken at
    the user's word. A Hessian that is not finite tells nothing."""
    objective, reg = problem.objective, 10 * regularisation(y.dtype)
    P = objective.P if isinstance(objective, Quadratic) else None
    zero = jnp.zeros((), y.dtype)
    if isinstance(objective, Separable) or isinstance(P, LowRank) or (isinstance(objective, Quadratic) and P is None):
        return zero
    if is_sparse(problem):
        return zero
    H = dense_hessian(problem, y)
    most = reg * largest(H)
    if H.ndim == 1:
        least = jnp.min(H, initial=0)
        return jnp.where(least >= -most, -least, jnp.inf)

    def is_definite(scale: jax.Array) -> jax.Array:
        return cholesky(H, scale, jnp.full_like(y, reg), rows).is_definite()

    rows = coupling(H)
    definite = is_definite(unit_scale(H)) | ~is_finite(H)
    beside_its_largest = jnp.broadcast_to(inverse_root(largest(H)), y.shape)
    nearly = jax.lax.cond(in_any(~definite), lambda: is_definite(beside_its_largest), lambda: definite)
    return jnp.where(definite, zero, jnp.where(nearly, most, jnp.inf))


def with_curvature(problem: FlatProblem, missing: jax.Array) -> FlatProblem:
    """The problem, `missing` added to the diagonal of its `P`."""
    objective = problem.objective
    if not isinstance(objective, Quadratic) or not isinstance(objective.P, (jax.Array, BCOO)) or is_sparse(problem):
        return problem
    P, missing = dense(objective.P), jnp.where(jnp.isfinite(missing), missing, 0)
    more = missing if P.ndim == 1 else missing * jnp.eye(len(P), dtype=P.dtype)
    return replace(problem, objective=Quadratic(P + more, objective.q))


def _sparse_system(problem: FlatProblem, D: jax.Array, moves: jax.Array, elastic: jax.Array) -> Solve:
    objective, A = problem.objective, problem.equality.rows(D.size)
    assert isinstance(objective, Quadratic)
    least = _LEAST * regularisation(D.dtype)
    D = jnp.where(moves > 0, D + least, 1.0)
    delta = jnp.where(elastic, 1.0, jnp.full(A.shape[0], least, D.dtype))
    P = jax.tree.map(lambda leaf: jnp.where(elastic, 0, leaf), objective.P)
    solve = _sparse.factorised(P, A, moves, D, delta, 0.0)

    def both(r: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = solve(jnp.concatenate([moves * r, s]))
        return x[: D.size], x[D.size :]

    return both


class _Inverse(NamedTuple):
    """`K = H + diag(D)` and maps with `K^{-1} = unwhiten middle whiten`. Where the structure of `H` allows, `middle`
    is the identity and `unwhiten = whiten'`, so that `A K^{-1} A'` is formed as a square. `whiten` and `middle` take
    vectors, or matrices by rows."""

    whiten: Map
    middle: Map
    unwhiten: Map
    product: Map
    pivots: jax.Array  # the diagonal of K
    good: jax.Array


def _inverse(
    problem: FlatProblem, y: jax.Array, D: jax.Array, moves: jax.Array, curved: jax.Array, more: jax.Array
) -> _Inverse:
    """`curved` is one on the coordinates that `H` is taken of; `more` is the part of a pivot by which it is regularised
    besides."""
    objective = problem.objective
    P = objective.P if isinstance(objective, Quadratic) else None
    if isinstance(P, LowRank):
        d, V = curved * P.diagonal + D, curved[:, None] * P.factor
        core = lapack.cholesky(jnp.eye(V.shape[1], dtype=y.dtype) + V.T @ (V / d[:, None]))

        def invert(v: jax.Array) -> jax.Array:
            v = v / d
            return v - lapack.cho_solve(core, (v @ V).T).T @ V.T / d

        good, pivots = jnp.all(jnp.isfinite(core[-1:, -1:])), d + jnp.sum(V * V, axis=1)
        return _Inverse(_same, invert, _same, lambda v: d * v + V @ (v @ V), pivots, good)
    if isinstance(objective, Separable) or (isinstance(objective, Quadratic) and (P is None or P.ndim == 1)):
        h = curved * diagonal_curvature(problem, y) + D
        factor = cholesky(h, jnp.ones_like(h), jnp.zeros_like(h))
        return _Inverse(factor.whiten, _same, factor.unwhiten, lambda v: h * v, h, jnp.ones((), bool))
    H = dense_hessian(problem, y)
    D = D + (regularisation(y.dtype) + more * (diagonal_of(H) + D)) * curved
    factor = cholesky(H, curved, D, coupling(H))

    def product(v: jax.Array) -> jax.Array:
        return curved * (H @ (curved * v)) + D * v

    return _Inverse(factor.whiten, _same, factor.unwhiten, product, curved * diagonal_of(H) + D, factor.is_definite())


def _same(v: jax.Array) -> jax.Array:
    return v


def factorised(
    problem: FlatProblem,
    y: jax.Array,
    D: jax.Array,
    moves: jax.Array,
    firm: jax.Array,
    elastic: jax.Array,
    held: jax.Array | bool = False,
) -> tuple[Solve, jax.Array]:
    """`(r, s) -> (dy, dnu)`, and whether the matrix was definite, as it should be.

    `moves` is one on the coordinates that do and zero on the others; `firm` is whether to regularise by more than the
    least, for a matrix that with the least was not definite; `held` is whether to hold free coordinates by a larger
    proximal term, which only matters in float32 and where the matrices are dense.
    """
    if is_sparse(problem):
        return _sparse_system(problem, D, moves, elastic), jnp.ones((), bool)
    A = dense(problem.equality.rows(y.size)) * moves
    reg, eps, precise = regularisation(y.dtype), float(jnp.finfo(y.dtype).eps), is_precise(y.dtype)
    barrier = D
    if precise:
        D = jnp.where(D > 0, D + _LEAST * reg, reg)
    else:
        # A free coordinate of a linear program has nothing but the proximal term: were that tiny, its part of S would
        # drown the others. Refinement takes it out again.
        D = jnp.where(D > 0, jnp.maximum(D, reg), jnp.where(held, eps**0.2, eps**0.4))
    added = moves * (D - barrier)
    more = jnp.where(firm, 16 * eps, 0.0)
    curved = jnp.where(elastic, 0.0, moves)
    inverse = _inverse(problem, y, jnp.where(moves > 0, D, 1.0), moves, curved, more)
    V = inverse.whiten(A)
    S = V @ inverse.middle(V).T
    pivots = diagonal_of(S)
    delta = jnp.where(elastic, 1.0, reg + more * pivots)
    e = jax.lax.rsqrt(pivots + delta)
    factor = cholesky(S, e, delta * e * e)

    def once(right: Pair) -> Pair:
        r, s = right
        w = inverse.whiten(r)
        dnu = e * factor.unwhiten(factor.whiten(e * (V @ inverse.middle(w) - s)))
        return inverse.unwhiten(inverse.middle(w - dnu @ V)), dnu

    def product(x: Pair) -> Pair:
        dy, dnu = x
        return inverse.product(dy) + dnu @ A, A @ dy - delta * dnu

    def unregularised(x: Pair) -> Pair:
        dy, dnu = x
        return inverse.product(dy) - added * dy + dnu @ A, A @ dy - jnp.where(elastic, dnu, 0.0)

    def solve(r: jax.Array, s: jax.Array) -> Pair:
        right = moves * r, s
        if precise:
            return refined_to(1e2 * eps, once, product, right, 3)
        weights = jax.lax.rsqrt(inverse.pivots), e  # the diagonal of the system in this unit is one
        return with_smallest_residual(4 * eps, once, unregularised, right, weights, 8)

    return solve, inverse.good & factor.is_definite()
