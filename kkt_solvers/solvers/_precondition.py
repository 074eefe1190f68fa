"""Diagonal scaling of a linear or quadratic program that keeps its matrices as they are: dense, sparse or low-rank."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from kkt_solvers._arrays import Matrix
from kkt_solvers._objectives import LowRank, Quadratic
from kkt_solvers._problem import Affine, Box, FlatProblem, Operator

_ROUNDS = 10


class Scaled(NamedTuple):
    """`problem` in `v = y / columns`, its equality times `rows` and its objective times `cost`: so `nu` of the
    original is `rows nu / cost`."""

    problem: FlatProblem
    columns: jax.Array
    rows: jax.Array
    cost: jax.Array


def preconditioned(problem: FlatProblem, init: jax.Array) -> Scaled:
    """Ruiz's iteration [ruiz2001] on `[[P, A'], [A, 0]]`, one round of Pock and Chambolle's [pock2011] on `A`, and two
    scalars that bring `q` and the right-hand side to unit norm."""
    objective = problem.objective
    assert isinstance(objective, Quadratic)
    equality, P, q = problem.equality, objective.P, objective.q
    one = jnp.ones((), init.dtype)
    target = jnp.ravel(equality.target)
    operator = isinstance(equality, Operator)  # its entries are not to be seen: no scaling but by scalars
    d, e = jnp.ones_like(init), jnp.ones_like(target)
    A = jnp.zeros((0, init.size), init.dtype) if operator else equality.rows(init.size)

    def ruiz(_: int, scales: Any) -> Any:
        d, e = scales
        scaled = times(e, A, d)
        columns = jnp.maximum(sizes(scaled, 0), _hessian_sizes(_hessian(one, P, d)))
        return d * _inverse_root(columns), e * _inverse_root(sizes(scaled, 1))

    if not operator:
        d, e = jax.lax.fori_loop(0, _ROUNDS, ruiz, (d, e))
        scaled = times(e, A, d)
        columns = jnp.maximum(sums(scaled, 0), _hessian_sizes(_hessian(one, P, d)))
        d, e = d * _inverse_root(columns), e * _inverse_root(sums(scaled, 1))
    nearest = jnp.clip(0.0, problem.box.lower, problem.box.upper)
    length = jnp.maximum(jnp.linalg.norm(e * target), jnp.linalg.norm(nearest / d))
    length = jnp.where(length > 0, length, 1.0)
    d, e = length * d, e / length
    slope = jnp.linalg.norm(d * q)
    slope = jnp.where(slope > 0, slope, jnp.max(_hessian_sizes(_hessian(one, P, d)) + 0 * d, initial=0))
    c = 1 / jnp.where(slope > 0, slope, 1.0)
    if isinstance(equality, Operator):
        inner = equality
        equality = Operator(lambda v: e * inner.residual(d * v), (), lambda v: v, inner.size, e * target)
    else:
        equality = Affine(times(e, A, d), e * target)
    box = Box(problem.box.lower / d, problem.box.upper / d)
    return Scaled(FlatProblem(Quadratic(_hessian(c, P, d), c * d * q), equality, box), d, e, c)


def times(left: jax.Array, M: Matrix, right: jax.Array) -> Matrix:
    """`diag(left) M diag(right)`."""
    if isinstance(M, BCOO):
        row, column = M.indices.T
        return BCOO((M.data * left[row] * right[column], M.indices), shape=M.shape)
    return M * left[:, None] * right


def sizes(M: Matrix, axis: int) -> jax.Array:
    """The largest absolute entry of each column (`axis` 0) or row (`axis` 1)."""
    if isinstance(M, BCOO):
        return jnp.zeros(M.shape[1 - axis], M.dtype).at[M.indices[:, 1 - axis]].max(jnp.abs(M.data))
    return jnp.max(jnp.abs(M), axis=axis, initial=0)


def sums(M: Matrix, axis: int) -> jax.Array:
    """The sum of absolute entries of each column (`axis` 0) or row (`axis` 1)."""
    if isinstance(M, BCOO):
        return jnp.zeros(M.shape[1 - axis], M.dtype).at[M.indices[:, 1 - axis]].add(jnp.abs(M.data))
    return jnp.sum(jnp.abs(M), axis=axis)


def _hessian(c: jax.Array, P: Any, d: jax.Array) -> Any:
    """`c diag(d) P diag(d)`, of the same structure as `P`."""
    if P is None:
        return None
    if isinstance(P, LowRank):
        return LowRank(c * d * d * P.diagonal, jnp.sqrt(c) * d[:, None] * P.factor)
    return c * d * d * P if P.ndim == 1 else times(c * d, P, d)


def _hessian_sizes(P: Any) -> jax.Array | float:
    """The largest absolute entry of each column, or a bound of it."""
    if P is None:
        return 0.0
    if isinstance(P, LowRank):  # positive semidefinite: |P_ij|^2 <= P_ii P_jj
        root = jnp.sqrt(jnp.abs(P.diagonal) + jnp.sum(P.factor**2, axis=1))
        return root * jnp.max(root, initial=0)
    return jnp.abs(P) if P.ndim == 1 else sizes(P, 0)


def _inverse_root(size: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(jnp.where(size > 0, size, 1.0))
