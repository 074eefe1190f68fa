"""Diagonal scaling of a linear or quadratic program that keeps its matrices as they are: dense, sparse or low-rank."""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.data.objectives import Quadratic, column_sizes, scaled_hessian
from kkt_solvers.data.problem import Affine, Box, FlatProblem, Operator
from kkt_solvers.numerics.arrays import entry_sums, inverse_root, largest_entries, scaled_matrix
from kkt_solvers.solvers._equilibrate import Scales

_ROUNDS = 10


def preconditioned(problem: FlatProblem, init: jax.Array) -> tuple[FlatProblem, Scales]:
    """Ruiz's iteration [ruiz2001] on `[[P, A'], [A, 0]]`, one round of Pock and Chambolle's [pock2011] on `A`, and two
    scalars that bring `q` and the right-hand side to unit norm."""
    objective = problem.objective
    assert isinstance(objective, Quadratic)
    equality, P, q = problem.equality, objective.P, objective.q
    target = jnp.ravel(equality.target)
    operator = isinstance(equality, Operator)  # its entries are not to be seen: no scaling but by scalars
    d, e = jnp.ones_like(init), jnp.ones_like(target)
    A = jnp.zeros((0, init.size), init.dtype) if operator else equality.rows(init.size)

    def ruiz(_: int, scales: Any) -> Any:
        d, e = scales
        columns = jnp.maximum(d * largest_entries(A, 0, e), column_sizes(P, d))
        return d * inverse_root(columns), e * inverse_root(e * largest_entries(A, 1, d))

    if not operator:
        d, e = jax.lax.fori_loop(0, _ROUNDS, ruiz, (d, e))
        scaled = scaled_matrix(e, A, d)
        columns = jnp.maximum(entry_sums(scaled, 0), column_sizes(P, d))
        d, e = d * inverse_root(columns), e * inverse_root(entry_sums(scaled, 1))
    nearest = jnp.clip(0.0, problem.box.lower, problem.box.upper)
    length = jnp.maximum(jnp.linalg.norm(e * target), jnp.linalg.norm(nearest / d))
    length = jnp.where(length > 0, length, 1.0)
    d, e = length * d, e / length
    slope = jnp.linalg.norm(d * q)
    slope = jnp.where(slope > 0, slope, jnp.max(column_sizes(P, d), initial=0))
    c = 1 / jnp.where(slope > 0, slope, 1.0)
    if isinstance(equality, Operator):
        inner = equality
        equality = Operator(lambda v: e * inner.residual(d * v), (), lambda v: v, inner.size, e * target)
    else:
        equality = Affine(scaled_matrix(e, A, d), e * target)
    box = Box(problem.box.lower / d, problem.box.upper / d)
    return FlatProblem(Quadratic(scaled_hessian(P, d, c), c * d * q), equality, box), Scales(d, e, c)
