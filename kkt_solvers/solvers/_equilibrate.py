"""Scaling of a problem so that the entries of its KKT matrix are of the same size."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers._arrays import dense
from kkt_solvers._objectives import LowRank, Quadratic
from kkt_solvers._problem import Affine, Box, FlatProblem
from kkt_solvers._solution import Dual

_ROUNDS = 10


def equilibrated(
    problem: FlatProblem, init: jax.Array
) -> tuple[FlatProblem, Callable[[jax.Array], jax.Array], Callable[[Any], tuple[jax.Array, Dual]]]:
    """The problem in `v = y / d`, rows times `e` and objective times `c`; the way there for `y`, and the way back for
    an iterate with fields `y`, `nu`, `zl` and `zu`.

    Ruiz's iteration [ruiz2001] on `[[P, A'], [A, 0]]`, and `c` from the sizes of `P` and `q`. Of an objective that is
    not quadratic only the rows of the equality are scaled.
    """
    objective, shape = problem.objective, problem.equality.target.shape
    n = init.size
    A = dense(problem.equality.rows(n))
    quadratic = isinstance(objective, Quadratic)
    P = dense_or_diagonal(objective) if isinstance(objective, Quadratic) else None
    d, e = jnp.ones_like(init), jnp.ones(len(A), init.dtype)

    def rounds(_: int, scales: Any) -> Any:
        d, e = scales
        rows = jnp.abs(A) * e[:, None] * d
        columns = jnp.max(rows, axis=0, initial=0)
        if P is not None and P.ndim == 1:
            columns = jnp.maximum(columns, jnp.abs(P) * d * d)
        elif P is not None:
            columns = jnp.maximum(columns, jnp.max(jnp.abs(P) * d[:, None] * d, axis=0))
        d = d * jax.lax.rsqrt(jnp.where(columns > 0, columns, 1.0)) if quadratic else d
        size = jnp.max(rows, axis=1, initial=0)
        return d, e * jax.lax.rsqrt(jnp.where(size > 0, size, 1.0))

    d, e = jax.lax.fori_loop(0, _ROUNDS, rounds, (d, e))
    lower, upper = problem.box.lower / d, problem.box.upper / d
    if isinstance(objective, Quadratic):
        size = jnp.max(jnp.abs(d * objective.q), initial=0)
        scaled_P = None if P is None else (P * d * d if P.ndim == 1 else P * d[:, None] * d)
        if scaled_P is not None:
            size = jnp.maximum(size, jnp.max(jnp.abs(scaled_P), initial=0))
        c = 1 / jnp.where(size > 0, size, 1.0)
        scaled: Any = Quadratic(None if scaled_P is None else c * scaled_P, c * d * objective.q)
    else:
        c, scaled = jnp.ones((), init.dtype), objective
    target = jnp.ravel(problem.equality.target)
    flat = FlatProblem(scaled, Affine(A * e[:, None] * d, e * target), Box(lower, upper))

    def back(point: Any) -> tuple[jax.Array, Dual]:
        y = jnp.clip(d * point.y, problem.box.lower, problem.box.upper)
        return y, Dual((e * point.nu / c).reshape(shape), point.zl / (d * c), point.zu / (d * c))

    return flat, lambda y: y / d, back


def dense_or_diagonal(objective: Quadratic) -> jax.Array | None:
    P = objective.P
    if P is None:
        return None
    if isinstance(P, LowRank):
        return jnp.diag(P.diagonal) + P.factor @ P.factor.T
    return dense(P)
