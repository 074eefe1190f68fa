"""Diagonal scaling of a linear or quadratic program that keeps its matrices as they are: dense, sparse or low-rank."""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.data.constraints import Affine, Operator
from kkt_solvers.data.matrices import Dense
from kkt_solvers.data.objectives import Quadratic
from kkt_solvers.data.problem import Box, FlatProblem
from kkt_solvers.numerics.arrays import inverse_root
from kkt_solvers.solvers._equilibrate import Scales

_ROUNDS = 10


def preconditioned(problem: FlatProblem, init: jax.Array) -> tuple[FlatProblem, Scales]:
    """Ruiz's iteration [ruiz2001] on `[[P, A'], [A, 0]]`, one round of Pock and Chambolle's [pock2011] on `A`, and two
    scalars that bring `q` and the right-hand side to unit norm."""
    objective = problem.objective
    assert isinstance(objective, Quadratic)
    equality, P, q = problem.equality, objective.matrix, objective.q
    target = jnp.ravel(equality.target)
    operator = isinstance(equality, Operator)  # its entries are not to be seen: no scaling but by scalars
    d, e = jnp.ones_like(init), jnp.ones_like(target)
    A = Dense(jnp.zeros((0, init.size), init.dtype)) if operator else problem.rows

    def ruiz(_: int, scales: Any) -> Any:
        d, e = scales
        columns = jnp.maximum(d * A.largest(0, e), P.column_sizes(d))
        return d * inverse_root(columns), e * inverse_root(e * A.largest(1, d))

    if not operator:
        d, e = jax.lax.fori_loop(0, _ROUNDS, ruiz, (d, e))
        scaled = A.scaled(e, d)
        columns = jnp.maximum(scaled.sums(0), P.column_sizes(d))
        d, e = d * inverse_root(columns), e * inverse_root(scaled.sums(1))
    nearest = jnp.clip(0.0, problem.box.lower, problem.box.upper)
    length = jnp.maximum(jnp.linalg.norm(e * target), jnp.linalg.norm(nearest / d))
    length = jnp.where(length > 0, length, 1.0)
    d, e = length * d, e / length
    slope = jnp.linalg.norm(d * q)
    slope = jnp.where(slope > 0, slope, jnp.max(P.column_sizes(d), initial=0))
    c = 1 / jnp.where(slope > 0, slope, 1.0)
    if isinstance(equality, Operator):
        inner = equality
        equality = Operator(lambda v: e * inner.residual(d * v), (), lambda v: v, inner.size, e * target)
    else:
        equality = Affine(A.scaled(e, d), e * target)
    box = Box(problem.box.lower / d, problem.box.upper / d)
    scaled = FlatProblem(Quadratic(P.congruent(d, c), c * d * q), equality, box, slacks=problem.slacks)
    return scaled, Scales(d, e, c)
