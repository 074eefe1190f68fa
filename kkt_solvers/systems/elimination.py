"""The KKT matrix, eliminated by its structure, for solvers, active sets and derivatives alike.

    K = [ G H G + diag(D)   F A' ]
        [ A F               -c I ]

`F = diag(free)` removes the coordinates that do not move. `D` is one on them, and elsewhere the diagonal that a barrier
adds. Usually `G = F` and `c = 0`; the elastic problem of the interior point has `G = 0` and `c = 1`.

| `H` | inverse |
|---|---|
| `Zero`, `Diagonal`, `Dense` | Cholesky factors of `G H G + D` and of the Schur complement |
| `LowRank(d, V)` | the same of `diag(d) + D`, with the rows `V'` below `A`: `V V'dy = V t` with `t = V'dy` |
| `BlockDiagonal` or diagonal, `A` a `BlockBidiagonal` | the same, stage by stage: `stages.py` |
| diagonal, `A` a `Marginals` | the normal matrix `A (H + D)^{-1} A'`: `normal.py` |
| `Sparse`, or `A` is one | a sparse factor of the whole matrix, on the host: `factors.py` |

The factorised matrix is regularised, so that the factors exist for dependent rows and flat objectives. Iterative
refinement with the true matrix removes the regularisation again.
"""

import functools
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from kkt_solvers.data.inequality import Lagrangian
from kkt_solvers.data.marginals import Marginals
from kkt_solvers.data.matrices import Dense, Diagonal, Map, Sparse, Zero
from kkt_solvers.data.matrix import Matrix, Product
from kkt_solvers.data.objectives import Quadratic, Separable, Smooth, hessian_product
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.slacks import Padded, WithSlacks, on_both
from kkt_solvers.data.stages import BlockBidiagonal
from kkt_solvers.numerics.arrays import (
    diagonal_matrix,
    diagonal_of,
    inverse_root,
    is_precise,
    largest,
    where,
)
from kkt_solvers.numerics.batches import SMALL, when_any
from kkt_solvers.systems import sparse
from kkt_solvers.systems.cholesky import cholesky, coupling, definite, first_definite, regularisation
from kkt_solvers.systems.normal import normal
from kkt_solvers.systems.refinement import refined
from kkt_solvers.systems.stages import in_stages, inverse_by_stages, inverse_roots


# ----------------------------------------------------------------------------------------------- Hessians
def hessian(problem: FlatProblem, y: jax.Array) -> Matrix:
    """The Hessian at `y`."""
    objective = problem.objective
    if isinstance(objective, Separable):
        return Diagonal(hessian_product(objective, y, jnp.ones_like(y)))
    if isinstance(objective, Quadratic) and not isinstance(objective.matrix, Map):
        return objective.matrix
    if isinstance(objective, Lagrangian):
        constraints, slacks = objective.constraints, problem.slacks
        bend = constraints.curvature(constraints.split(y)[0], objective.nu[-slacks:])
        H = hessian(replace(problem, objective=objective.objective), y)
        if isinstance(H, Padded):
            return Padded(Dense(objective.weight * H.inner.dense() + bend), slacks)
        return Dense(objective.weight * H.dense() + jnp.pad(bend, (0, slacks)))
    n = objective.size if isinstance(objective, Smooth) and objective.size is not None else y.size
    H = jax.vmap(lambda v: hessian_product(objective, y, v))(jnp.eye(n, y.size, dtype=y.dtype))
    return Dense(H) if n == y.size else Padded(Dense(H[:, :n]), y.size - n)


# ------------------------------------------------------------------------------------------------ matrices
class KKTMatrix(NamedTuple):
    """See the top of this file."""

    H: Matrix
    A: Matrix
    D: jax.Array
    free: jax.Array
    elastic: jax.Array | bool = False
    c: jax.Array | None = None  # one for each row, besides

    @property
    def curved(self) -> jax.Array:
        """The diagonal of `G`."""
        return self.free if self.elastic is False else where(self.elastic, 0.0, self.free)

    def product(self, x: jax.Array) -> jax.Array:
        n, curved = self.D.size, self.curved
        dy, dnu = x[:n], x[n:]
        top = curved * self.H.product(curved * dy) + self.D * dy + self.free * self.A.adjoint(dnu)
        bottom = self.A.product(self.free * dy)
        bottom = bottom if self.elastic is False else bottom - where(self.elastic, dnu, 0.0)
        bottom = bottom if self.c is None else bottom - self.c * dnu
        return jnp.concatenate([top, bottom])

    def dense(self) -> jax.Array:
        """The matrix itself."""
        A, curved = self.A.dense() * self.free, self.curved
        H, _ = self.H.densified().parts()
        if H.ndim == 2:
            top = diagonal_matrix(self.D) + curved[:, None] * H * curved
        else:
            top = diagonal_matrix(self.D + curved * H)
        one, zero = jnp.ones(len(A), top.dtype), jnp.zeros(len(A), top.dtype)
        c = zero if self.elastic is False else where(self.elastic, one, zero)
        c = c if self.c is None else c + self.c
        return jnp.block([[top, A.T], [A, diagonal_matrix(-c)]])


class Solve(Protocol):
    def __call__(self, b: jax.Array, exact: jax.Array | bool = True) -> jax.Array: ...


def solver(K: KKTMatrix, *, held: jax.Array | bool = False, corrections: int = 1) -> Solve:
    """`(b, exact) -> x` with `K x = b`, for a matrix of unit size but for `D`; not finite where `K` is not definite on
    the coordinates that move.

    `held` is whether to hold flat coordinates by a larger proximal term (in float32). If `exact` is false, the step is
    that of a proximal-point method in float64: the regularisation stays, so that multipliers do not drift where they
    are not unique. In float32 it is too large to stay.

    `corrections` in float64 are made in any case. A second one makes small parts of the solution as precise as large
    ones, which no residual shows.
    """
    eps, precise, product = float(jnp.finfo(K.D.dtype).eps), is_precise(K.D.dtype), K.product
    inverse, added, weights = _inverse(K, held)
    if _is_small(K):
        product = functools.partial(jnp.matmul, K.dense())

    def solve(b: jax.Array, exact: jax.Array | bool = True) -> jax.Array:
        exact = jnp.asarray(exact)
        if not precise:
            return refined(inverse, product, b, where(exact, 1.0, weights), 4 * eps)
        x = inverse(b)
        for _ in range(corrections):
            x = x + inverse(b - product(x) - where(exact, 0.0, added) * x)
        # That is enough unless K is nearly singular: what is left is the rounding of the terms, some as large as x.
        rough = exact & ~(largest(b - product(x)) <= 16 * eps * largest(b, x))
        ones = jnp.ones_like(weights)
        return when_any(rough, lambda: refined(inverse, product, where(rough, b, 0.0), ones, 4 * eps), x)

    return solve


def _inverse(K: KKTMatrix, held: jax.Array | bool) -> tuple[Product, jax.Array, jax.Array]:
    """The inverse of `K` with a regularisation; the diagonal of that; and weights that bring `K` to a unit diagonal."""
    if isinstance(K.H, Sparse) or isinstance(K.A, Sparse):
        inverse, added = _sparse_inverse(K)
        return inverse, added, jnp.ones_like(added)
    if isinstance(K.A, Marginals) and isinstance(K.H, (Zero, Diagonal)):
        return _normal_inverse(K, held)
    if in_stages(K.H, K.A):
        return _stages_inverse(K, held)
    if isinstance(K.A, WithSlacks) and not _is_small(K):  # a small inverse is one matrix, with slack variables or not
        parts = on_both(K.H, K.A.slack.size)
        if parts is not None:
            return _slacks_inverse(K, K.A, *parts, held)
    return _cholesky_inverse(K, held)


def _regularised(K: KKTMatrix, held: jax.Array | bool) -> tuple[jax.Array, jax.Array]:
    """`D` and the diagonal of the second block, with the sign of a positive one, so that factors exist."""
    D, eps, reg, precise = K.D, float(jnp.finfo(K.D.dtype).eps), regularisation(K.D.dtype), is_precise(K.D.dtype)
    # A coordinate with neither barrier nor curvature has only the proximal term. A tiny one would, in float32, make its
    # part of the Schur complement so large that the other parts are lost in rounding.
    flat = reg if precise else where(jnp.asarray(held), eps**0.2, eps**0.4)
    D = where(D > 0, jnp.maximum(D, 1e-4 * reg if precise else reg), flat)
    delta = jnp.full(K.A.shape[0], reg, D.dtype)
    delta = delta if K.elastic is False else where(K.elastic, 1.0, delta)
    return D, delta if K.c is None else delta + K.c


def _added(K: KKTMatrix, D: jax.Array, delta: jax.Array) -> jax.Array:
    """What that adds to the diagonal."""
    added = jnp.concatenate([D - K.D, -delta if K.c is None else K.c - delta])
    return added if K.elastic is False else where(K.elastic, 0.0, added)


def _slacks_inverse(
    K: KKTMatrix, A: WithSlacks, H: Matrix, more: jax.Array | None, held: jax.Array | bool
) -> tuple[Product, jax.Array, jax.Array]:
    """The same, slack variables first: `c` of their rows is `slack^2 / D`, and what is left is a `KKTMatrix` in `y`."""
    n, (D, _) = H.shape[0], _regularised(K, held)
    added_to_slacks, D = (D - K.D)[n:], D[n:] if more is None else D[n:] + K.curved[n:] * more
    a = K.free[n:] * A.slack
    inner = KKTMatrix(
        H, A.rows, K.D[:n], K.free[:n], K.elastic, A.lifted(a * a / D) if K.c is None else K.c + A.lifted(a * a / D)
    )
    of_inner, added, weights = _inverse(inner, held)

    def inverse(b: jax.Array) -> jax.Array:
        w = b[n : K.D.size] / D
        x = of_inner(jnp.concatenate([b[:n], b[K.D.size :] - A.lifted(a * w)]))
        return jnp.concatenate([x[:n], w - a * A.own(x[n:]) / D, x[n:]])

    added, weights = (
        jnp.concatenate([of_rest[:n], own, of_rest[n:]])
        for of_rest, own in ((added, added_to_slacks), (weights, jax.lax.rsqrt(D)))
    )
    return inverse, added, weights


def _stages_inverse(K: KKTMatrix, held: jax.Array | bool) -> tuple[Product, jax.Array, jax.Array]:
    """The same, with the blocks of the stages."""
    D, delta = _regularised(K, held)
    pivots, D = K.H.diagonal_entries() * K.curved + D, D + regularisation(D.dtype) * K.curved
    A = K.A.scaled(jnp.ones((), D.dtype), K.free)
    assert isinstance(A, BlockBidiagonal)
    U = inverse_roots(K.H, A, K.curved, D)
    inverse, e = inverse_by_stages(U, A, delta, 16 * float(jnp.finfo(D.dtype).eps))
    return inverse, _added(K, D, delta), jnp.concatenate([jax.lax.rsqrt(pivots), e])


def _normal_inverse(K: KKTMatrix, held: jax.Array | bool) -> tuple[Product, jax.Array, jax.Array]:
    """The same for a diagonal `H`, with the normal matrix of a structured `A`."""
    D, delta = _regularised(K, held)
    pivots, n, eps = K.H.diagonal_entries() * K.curved + D, D.size, float(jnp.finfo(D.dtype).eps)
    A = K.A.scaled(jnp.ones((), D.dtype), K.free)
    N = normal(A, 1 / pivots)
    e = jax.lax.rsqrt(N.diagonal + delta)
    S, _ = first_definite(lambda time: N.factor(e, delta * e * e + 16 * eps * time), D.dtype)

    def inverse(b: jax.Array) -> jax.Array:
        w = b[:n] / pivots
        dnu = e * S.solve(e * (A.product(w) - b[n:]))
        return jnp.concatenate([w - A.adjoint(dnu) / pivots, dnu])

    return inverse, _added(K, D, delta), jnp.concatenate([jax.lax.rsqrt(pivots), e])


def _is_small(K: KKTMatrix) -> bool:
    """Whether a `K` without structure is formed and inverted as one matrix, so that a solve is products only."""
    structured = isinstance(K.H, Sparse) or isinstance(K.A, (Sparse, Marginals)) or in_stages(K.H, K.A)
    return max(K.A.shape) <= SMALL and not structured


def _cholesky_inverse(K: KKTMatrix, held: jax.Array | bool) -> tuple[Product, jax.Array, jax.Array]:
    """The same, with dense factors."""
    A, curved, n = K.A.dense(), K.curved, K.D.size
    eps, reg = float(jnp.finfo(K.D.dtype).eps), regularisation(K.D.dtype)
    D, delta = _regularised(K, held)
    pivots = K.H.diagonal_entries() * curved + D
    rows, (H, few) = [A * K.free], K.H.parts()
    if few is not None:
        rows.append(few * curved)
        delta = jnp.concatenate([delta, jnp.ones(len(few), D.dtype)])
    if H.ndim == 2:
        D = D + reg * curved
    added = _added(K, D, delta[: len(A)])
    L = cholesky(H, curved, D, coupling(H, curved > 0) if H.ndim == 2 else None)
    rows = [L.whiten(part) for part in rows]
    S = jnp.block([[first @ second.T for second in rows] for first in rows]) if len(rows) > 1 else rows[0] @ rows[0].T
    e = jax.lax.rsqrt(diagonal_of(S) + delta)
    M, _ = definite(S, e, delta * e * e, jnp.full_like(e, 16 * eps))

    weights = jnp.concatenate([jax.lax.rsqrt(pivots), e[: len(A)]])
    if _is_small(K):
        # With U = R^{-T}, V = A U, V V' = M M' and Z = [U V'; -I] M^{-T} the inverse is [U U', 0; 0, 0] - Z Z'.
        # Batches of products with the transpose of the first matrix would take three times as long.
        U, minus_one = L.inverse_root(), -jnp.eye(len(A), len(S), dtype=D.dtype)
        Z = (jnp.concatenate([U @ jnp.concatenate(rows).T, minus_one]) * e) @ M.inverse_root()
        matrix = jnp.pad(U @ U.T, (0, len(A))) - Z @ Z.T
        return lambda b: matrix @ b, added, weights

    def inverse(b: jax.Array) -> jax.Array:
        w = L.whiten(b[:n])
        rest = [part @ w for part in rows]
        rest[0] = rest[0] - b[n:]
        dnu = e * M.unwhiten(M.whiten(e * jnp.concatenate(rest)))
        for part, own in zip(rows, jnp.split(dnu, [len(A)]), strict=False):
            w = w - own @ part
        return jnp.concatenate([L.unwhiten(w), dnu[: len(A)]])

    return inverse, added, weights


def _sparse_inverse(K: KKTMatrix) -> tuple[Product, jax.Array]:
    least = 1e-12  # the host computes in float64; with 4e-10 QPILOTNO of Maros and Meszaros stays inaccurate
    H, delta = K.H, jnp.full(K.A.shape[0], least, K.D.dtype)
    if K.elastic is not False:
        one = jnp.ones((), K.D.dtype)
        H, delta = H.congruent(jnp.ones_like(K.D), where(K.elastic, 0.0, one)), where(K.elastic, one, delta)
    added = jnp.concatenate([least * K.free, where(delta < 1, -delta, 0.0)])
    return sparse.factorised(H, K.A, K.free, K.D + least * K.free, delta), added


# -------------------------------------------------------------------------------------------- small matrices
def unit_rows(K: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`D K D` and `D`, with a largest entry of about one in every row: a few rounds of [ruiz2001].

    One round is not enough for a row whose largest entry is off-diagonal.
    """

    def once(_: Any, D: jax.Array) -> jax.Array:
        return D * inverse_root(jnp.max(jnp.abs(K) * D[:, None] * D, axis=1))

    D = jax.lax.fori_loop(0, 5, once, jnp.ones(len(K), K.dtype))
    return K * D[:, None] * D, D
