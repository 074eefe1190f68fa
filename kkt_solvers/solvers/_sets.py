"""Projections onto a box with at most one equality, forward only: what the gradient methods take a step with.

The public, differentiable ones are in `kkt_solvers.projections`.
"""

import jax
import jax.numpy as jnp

from kkt_solvers._elementwise import minimise_elementwise
from kkt_solvers._objectives import Quadratic, Separable, as_separable
from kkt_solvers.solvers._dual_bisection import scalar_dual

_MAX_ITERATIONS = 100


def minimise(
    objective: Separable, weights: jax.Array | None, total: jax.Array | None, lower: jax.Array, upper: jax.Array
) -> jax.Array:
    """`argmin sum phi(y)` over the box and, where there are weights, `w'y = total`."""
    if weights is None or total is None:
        return minimise_elementwise(objective, jnp.zeros_like(lower), lower, upper)
    return scalar_dual(objective, weights, total, lower, upper, _MAX_ITERATIONS)[0]


def project(
    v: jax.Array,
    scale: jax.Array,
    weights: jax.Array | None,
    total: jax.Array | None,
    lower: jax.Array,
    upper: jax.Array,
) -> jax.Array:
    """`argmin |(y - v) / scale|^2 / 2` over the set."""
    curvature = 1 / (scale * scale)
    objective = as_separable(Quadratic(curvature, -curvature * v))
    assert objective is not None  # a diagonal Quadratic is separable
    return minimise(objective, weights, total, lower, upper)
