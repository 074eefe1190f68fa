"""Scaling of a problem so that the entries of its KKT matrix are of the same size."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from kkt_solvers._arrays import dense
from kkt_solvers._objectives import LowRank, Quadratic
from kkt_solvers._problem import Affine, Box, FlatProblem
from kkt_solvers._solution import Dual

_ROUNDS = 10


def equilibrated(
    problem: FlatProblem, init: jax.Array
) -> tuple[
    FlatProblem,
    Callable[[jax.Array], jax.Array],
    Callable[[jax.Array], jax.Array],
    Callable[[Any], tuple[jax.Array, Dual]],
]:
    """The problem in `v = y / d`, rows times `e` and objective times `c`; the way there and back for `y`; and the way
    back for an iterate with fields `y`, `nu`, `zl` and `zu`.

    Ruiz's iteration [ruiz2001] on `[[P, A'], [A, 0]]`, and `c` from the sizes of `P` and `q`. Of an objective that is
    not quadratic only the rows of the equality are scaled.
    """
    objective, shape = problem.objective, problem.equality.target.shape
    A = dense(problem.equality.rows(init.size))
    quadratic = isinstance(objective, Quadratic)
    P = objective.P if isinstance(objective, Quadratic) else None
    P = dense(P) if isinstance(P, BCOO) else P

    def rounds(_: int, scales: Any) -> Any:
        d, e = scales
        rows = jnp.abs(A) * e[:, None] * d
        columns = jnp.maximum(jnp.max(rows, axis=0, initial=0), _column_sizes(P, d))
        d = d * jax.lax.rsqrt(jnp.where(columns > 0, columns, 1.0)) if quadratic else d
        size = jnp.max(rows, axis=1, initial=0)
        return d, e * jax.lax.rsqrt(jnp.where(size > 0, size, 1.0))

    d, e = jax.lax.fori_loop(0, _ROUNDS, rounds, (jnp.ones_like(init), jnp.ones(len(A), init.dtype)))
    c, scaled = jnp.ones((), init.dtype), objective
    if isinstance(objective, Quadratic):
        size = jnp.maximum(jnp.max(jnp.abs(d * objective.q), initial=0), jnp.max(_column_sizes(P, d), initial=0))
        c = 1 / jnp.where(size > 0, size, 1.0)
        scaled = Quadratic(_times(P, d, c), c * d * objective.q)
    target = jnp.ravel(problem.equality.target)
    box = Box(problem.box.lower / d, problem.box.upper / d)
    flat = FlatProblem(scaled, Affine(A * e[:, None] * d, e * target), box)

    def back(point: Any) -> tuple[jax.Array, Dual]:
        y = jnp.clip(d * point.y, problem.box.lower, problem.box.upper)
        return y, Dual((e * point.nu / c).reshape(shape), point.zl / (d * c), point.zu / (d * c))

    return flat, lambda y: y / d, lambda y: y * d, back


def _column_sizes(P: Any, d: jax.Array) -> jax.Array:
    """The largest absolute entry of each column of `diag(d) P diag(d)`, or a bound of it."""
    if P is None:
        return jnp.zeros_like(d)
    if isinstance(P, LowRank):  # positive semidefinite: |P_ij|^2 <= P_ii P_jj
        root = d * jnp.sqrt(jnp.abs(P.diagonal) + jnp.sum(P.factor**2, axis=1))
        return root * jnp.max(root, initial=0)
    return jnp.abs(P) * d * d if P.ndim == 1 else jnp.max(jnp.abs(P) * d[:, None] * d, axis=0, initial=0)


def _times(P: Any, d: jax.Array, c: jax.Array) -> Any:
    """`c diag(d) P diag(d)`, of the same structure as `P`."""
    if P is None:
        return None
    if isinstance(P, LowRank):
        return LowRank(c * d * d * P.diagonal, jnp.sqrt(c) * d[:, None] * P.factor)
    return c * d * d * P if P.ndim == 1 else c * P * d[:, None] * d
