"""Whether the objective of a problem is convex, as far as rounding tells."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.data.matrices import Diagonal, LowRank, Map, Zero
from kkt_solvers.data.objectives import Quadratic, Separable
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.stages import BlockDiagonal
from kkt_solvers.numerics.arrays import diagonal_matrix, inverse_root, is_finite, largest, where
from kkt_solvers.systems.cholesky import coupling, definite, regularisation
from kkt_solvers.systems.elimination import hessian


def missing_curvature(problem: FlatProblem, y: jax.Array, sparse: bool) -> jax.Array:
    """How much must be added to the diagonal of the Hessian at `y` to make it positive semidefinite.

    Zero if it is; a multiple of rounding, relative to its largest entry, if it is up to rounding; infinity if it is
    not. A sparse or low-rank Hessian is not checked. A Hessian that is not finite counts as convex.
    """
    objective, reg = problem.objective, 10 * regularisation(y.dtype)
    H: Any = None if isinstance(objective, Separable) or sparse else hessian(problem, y)
    if H is None or isinstance(H, (Zero, LowRank)):
        return jnp.zeros((), y.dtype)
    if isinstance(H, BlockDiagonal):
        of_all = largest(H.blocks)
        return jnp.max(jax.vmap(lambda block: _missing(block, reg, of_all))(H.blocks))
    H = H.densified()
    entries, _ = H.parts()
    if isinstance(H, Diagonal):
        least = jnp.min(entries, initial=0)
        return where(least >= -reg * largest(entries), -least, jnp.inf)
    return _missing(entries, reg, largest(entries))


def _missing(H: jax.Array, reg: float, size: jax.Array) -> jax.Array:
    """The same for a dense matrix, or a block of one whose largest entry is `size`."""
    # First each row beside its own size, then beside the largest.
    scale = inverse_root(jnp.max(jnp.abs(H), axis=1))
    more = reg * (scale * scale * size - 1)
    factor, tries = definite(H, scale, jnp.full_like(scale, reg), more, coupling(H), (0, 1))
    convex = factor.is_definite() | ~is_finite(H)
    return where(convex, where(tries < 2, 0.0, reg * size), jnp.inf)


def with_curvature(problem: FlatProblem, missing: jax.Array, sparse: bool) -> FlatProblem:
    """The problem, `missing` added to the diagonal of its `P`."""
    objective = problem.objective
    if not isinstance(objective, Quadratic) or isinstance(objective.matrix, (Zero, LowRank, Map)) or sparse:
        return problem
    missing = where(jnp.isfinite(missing), missing, 0.0)
    if isinstance(objective.matrix, BlockDiagonal):
        blocks = objective.matrix.blocks
        more = missing * jnp.eye(blocks.shape[-1], dtype=blocks.dtype)
        return replace(problem, objective=Quadratic(BlockDiagonal(blocks + more), objective.q))
    P = objective.matrix.densified()
    more = missing if isinstance(P, Diagonal) else diagonal_matrix(jnp.full_like(objective.q, missing))
    return replace(problem, objective=Quadratic(P.parts()[0] + more, objective.q))
