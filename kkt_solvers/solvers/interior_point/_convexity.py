"""Whether the objective of a problem is convex, as far as rounding tells."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from kkt_solvers.data.objectives import LowRank, Quadratic, Separable, is_linear
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.numerics.arrays import dense, inverse_root, is_finite, largest, largest_entries, where
from kkt_solvers.systems.cholesky import coupling, definite
from kkt_solvers.systems.elimination import dense_hessian, regularisation


def missing_curvature(problem: FlatProblem, y: jax.Array, sparse: bool) -> jax.Array:
    """What the diagonal of the Hessian at `y` lacks for a positive semidefinite one: zero; what rounding may have taken
    from it, relative to its largest entry; or infinity, where it is not convex. A sparse or low-rank one is taken at
    the user's word. A Hessian that is not finite tells nothing."""
    objective, reg = problem.objective, 10 * regularisation(y.dtype)
    P: Any = objective.P if isinstance(objective, Quadratic) else None
    if isinstance(objective, Separable) or isinstance(P, LowRank) or is_linear(objective) or sparse:
        return jnp.zeros((), y.dtype)
    H = dense_hessian(problem, y)
    most = reg * largest(H)
    if H.ndim == 1:
        least = jnp.min(H, initial=0)
        return where(least >= -most, -least, jnp.inf)

    # First each row beside its own size, then beside the largest.
    scale = inverse_root(largest_entries(H, 1))
    more = reg * (scale * scale * largest(H) - 1)
    factor, tries = definite(H, scale, jnp.full_like(y, reg), more, coupling(H), (0, 1))
    convex = factor.is_definite() | ~is_finite(H)
    return where(convex, where(tries < 2, 0.0, most), jnp.inf)


def with_curvature(problem: FlatProblem, missing: jax.Array, sparse: bool) -> FlatProblem:
    """The problem, `missing` added to the diagonal of its `P`."""
    objective = problem.objective
    if not isinstance(objective, Quadratic) or not isinstance(objective.P, (jax.Array, BCOO)) or sparse:
        return problem
    P, missing = dense(objective.P), where(jnp.isfinite(missing), missing, 0.0)
    more = missing if P.ndim == 1 else missing * jnp.eye(len(P), dtype=P.dtype)
    return replace(problem, objective=Quadratic(P + more, objective.q))
