"""Whether the objective of a problem is convex, as far as rounding tells."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.convexity import missing
from kkt_solvers.data.matrices import Dense, Diagonal, LowRank, Map, Zero
from kkt_solvers.data.matrix import Matrix
from kkt_solvers.data.objectives import Quadratic, Separable, Smooth
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.sizes import is_far_out
from kkt_solvers.data.slacks import Padded
from kkt_solvers.data.stages import BlockDiagonal
from kkt_solvers.numerics.arrays import diagonal_matrix, largest, where
from kkt_solvers.systems.cholesky import regularisation
from kkt_solvers.systems.elimination import hessian


def missing_curvature(problem: FlatProblem, y: jax.Array, sparse: bool, slope: Any = 0.0) -> jax.Array:
    """How much must be added to the diagonal of the Hessian at `y` to make it positive semidefinite.

    Zero if it is; a multiple of rounding, relative to its largest entry, if it is up to rounding; infinity if it is
    not. A sparse or low-rank Hessian is not checked. A Hessian that is not finite counts as convex. `slope` is the size
    of the slope of a function.
    """
    objective, reg = problem.objective, 10 * regularisation(y.dtype)
    H: Any = None if isinstance(objective, Separable) or sparse else hessian(problem, y)
    if H is None or isinstance(H, (Zero, LowRank)):
        return jnp.zeros((), y.dtype)
    if isinstance(H, BlockDiagonal):
        of_all = largest(H.blocks)
        return jnp.max(jax.vmap(lambda block: missing(block, reg, of_all))(H.blocks))
    H = (H.inner if isinstance(H, Padded) else H).densified()
    entries, _ = H.parts()
    if isinstance(H, Diagonal):
        least = jnp.min(entries, initial=0)
        return where(least >= -reg * largest(entries), -least, jnp.inf)
    size = largest(entries)
    if isinstance(objective, Smooth):
        # Far out what is left of a curvature is what the slope, which has some, is rounded to.
        size = jnp.maximum(size, where(is_far_out(problem, y), slope / largest(y), 0.0))
    return missing(entries, reg, size)


def with_curvature(problem: FlatProblem, more: jax.Array, sparse: bool) -> FlatProblem:
    """The problem, `more` added to the diagonal of its `P`."""
    objective = problem.objective
    if not isinstance(objective, Quadratic) or isinstance(objective.matrix, (Zero, LowRank, Map)) or sparse:
        return problem
    more, P = where(jnp.isfinite(more), more, 0.0), objective.matrix
    if isinstance(P, Padded):
        return replace(problem, objective=Quadratic(Padded(_shifted(P.inner, more), P.slacks), objective.q))
    return replace(problem, objective=Quadratic(_shifted(P, more), objective.q))


def _shifted(P: Matrix, more: jax.Array) -> Matrix:
    """`P + more I`."""
    if isinstance(P, BlockDiagonal):
        return BlockDiagonal(P.blocks + more * jnp.eye(P.blocks.shape[-1], dtype=P.blocks.dtype))
    P = P.densified()
    entries, _ = P.parts()
    if isinstance(P, Diagonal):
        return Diagonal(entries + more)
    return Dense(entries + diagonal_matrix(jnp.full(len(entries), more)))
