"""Whether a matrix is positive semidefinite and inequalities are convex, as far as rounding tells."""

import jax
import jax.numpy as jnp

from kkt_solvers.data.constraints import Curved
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.numerics.arrays import inverse_root, is_finite, largest, where
from kkt_solvers.numerics.batches import one_by_one
from kkt_solvers.systems.cholesky import coupling, definite, regularisation

_LARGEST = 1e7  # entries of the Hessians of all inequalities, beyond which only their sum is looked at


def missing(H: jax.Array, reg: float, size: jax.Array) -> jax.Array:
    """How much must be added to the diagonal of a dense symmetric matrix to make it positive semidefinite: zero; `reg`
    times `size`, its largest entry or that of a matrix of which it is a block; or infinity, if that is not enough. Zero
    also for a matrix that is not finite, as at the edge of a logarithm's domain: it shows nothing."""
    # First each row beside its own size, then beside the largest.
    scale = inverse_root(jnp.max(jnp.abs(H), axis=1))
    more = reg * (scale * scale * size - 1)
    factor, tries = definite(H, scale, jnp.full_like(scale, reg), more, coupling(H), (0, 1))
    added = where(factor.is_definite(), where(tries < 2, 0.0, reg * size), jnp.inf)
    return where(is_finite(H), added, 0.0)


def inequalities_are_convex(problem: FlatProblem, x: jax.Array) -> jax.Array:
    """Whether the Hessian of every inequality at `x` is positive semidefinite."""
    constraints = problem.equality
    if not isinstance(constraints, Curved):
        return jnp.ones((), bool)
    return _are_convex(constraints, constraints.split(x)[0])


@one_by_one
def _are_convex(constraints: Curved, y: jax.Array) -> jax.Array:
    reg, p = 10 * regularisation(y.dtype), constraints.slack.size

    def convex(weights: jax.Array) -> jax.Array:
        H = constraints.curvature(y, weights)
        return jnp.isfinite(missing(H, reg, largest(H)))

    if p * y.size**2 > _LARGEST:
        return convex(jnp.ones(p, y.dtype))
    return jnp.all(jax.lax.map(convex, jnp.eye(p, dtype=y.dtype)))
