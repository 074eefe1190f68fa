"""Symmetric linear systems, factorised once and refined; the KKT systems of the derivative are built from them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers._arrays import block_sum, dense
from kkt_solvers._objectives import Quadratic, hessian_product
from kkt_solvers._problem import Problem

_REFINEMENTS = 3


def _factorised(K: jax.Array, sign: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """`r -> K^{-1} r` for a symmetric `K`, also where it is singular and the system consistent.

    `K` is scaled to unit rows, `D K D`, then regularised, `D K D + delta diag(sign)`, with `sign = +1` where `K` is
    positive semidefinite and `-1` in its constraint block, which makes it nonsingular; iterative refinement with
    the true `K` takes the regularisation out again, wherever `K` has an inverse to find.
    """
    norms = jnp.max(jnp.abs(K), axis=1)
    scale = jax.lax.rsqrt(jnp.where(norms > 0, norms, 1.0))
    scaled = K * scale[:, None] * scale[None, :]
    delta = jnp.finfo(K.dtype).eps ** (2 / 3)
    factor = jax.scipy.linalg.lu_factor(scaled + delta * jnp.diag(sign))

    def solve(r: jax.Array) -> jax.Array:
        r = scale * r
        x = jax.scipy.linalg.lu_solve(factor, r)
        for _ in range(_REFINEMENTS):
            x = x + jax.scipy.linalg.lu_solve(factor, r - scaled @ x)
        return scale * x

    return solve


def solve_symmetric(K: jax.Array, r: jax.Array) -> jax.Array:
    """`K x = r` for a small symmetric positive semidefinite `K`; differentiable, any order."""
    if K.shape == (1, 1):
        # One equality: a scalar. Where it is zero nothing can move, and nothing does.
        pivot = K[0, 0]
        return jnp.where(pivot > 0, r / jnp.where(pivot > 0, pivot, 1.0), 0.0)
    solve = _factorised(jax.lax.stop_gradient(K), jnp.ones(len(K), K.dtype))
    return jax.lax.custom_linear_solve(lambda x: K @ x, r, lambda _, r: solve(r), symmetric=True)


@dataclass(frozen=True)
class DenseKKT:
    """One factorisation of the dense KKT matrix of the free coordinates,

        [ H  A' ] [ dy  ]   [ r ]
        [ A  0  ] [ dnu ] = [ s ],       dy = 0 on the active bounds.
    """

    def solve(self, problem: Problem, y: jax.Array, free: jax.Array, r: jax.Array, s: Any) -> tuple[jax.Array, Any]:
        n = y.size
        mask = free.astype(y.dtype)
        H = self._hessian(problem, y)
        if problem.equality is None:
            A = jnp.zeros((0, n), y.dtype)
        else:
            A = dense(problem.equality.rows(n))
        m = len(A)
        top = jnp.concatenate([H * mask[:, None] * mask[None, :] + jnp.diag(1 - mask), (A * mask).T], axis=1)
        K = jnp.concatenate([top, jnp.concatenate([A * mask, jnp.zeros((m, m), y.dtype)], axis=1)], axis=0)
        sign = jnp.concatenate([jnp.ones(n, y.dtype), -jnp.ones(m, y.dtype)])
        solve = _factorised(jax.lax.stop_gradient(K), sign)
        right = jnp.concatenate([mask * r, jnp.ravel(s) if m else jnp.zeros(0, y.dtype)])
        x = jax.lax.custom_linear_solve(lambda x: K @ x, right, lambda _, r: solve(r), symmetric=True)
        return x[:n], (None if problem.equality is None else x[n:].reshape(problem.equality.target.shape))

    @staticmethod
    def _hessian(problem: Problem, y: jax.Array) -> jax.Array:
        objective = problem.objective
        if isinstance(objective, Quadratic):
            if objective.P is None:
                return jnp.zeros((y.size, y.size), y.dtype)
            return jnp.diag(objective.P) if objective.P.ndim == 1 else dense(objective.P)
        return jax.vmap(lambda v: hessian_product(objective, y, v))(jnp.eye(y.size, dtype=y.dtype))


def schur_step(problem: Problem, slope: jax.Array, residual: jax.Array) -> Any:
    """`dnu` from `A diag(slope) A' dnu = residual`, the Schur complement of a diagonal Hessian: O(n m^2)."""
    n = slope.size
    rows = dense(problem.equality.rows(n))
    if len(rows) == 1:
        weights = rows[0]
        pivot = block_sum(slope * weights * weights)[None, None]
    else:
        pivot = (rows * slope) @ rows.T
    return solve_symmetric(pivot, jnp.ravel(residual)).reshape(jnp.shape(residual))
