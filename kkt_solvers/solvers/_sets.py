"""Separable problems over the set of a problem, forward only: what the gradient methods take a step with.

The public, differentiable projections are in `kkt_solvers.projections`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.elementwise import minimise_elementwise
from kkt_solvers.conditions.residuals import default_tolerance
from kkt_solvers.data.objectives import Quadratic, as_separable
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.solution import Status
from kkt_solvers.numerics.progress import listening
from kkt_solvers.solvers._dual_bisection import scalar_dual
from kkt_solvers.solvers._dual_newton import dual_newton

_MAX_ITERATIONS = 100


def minimise(problem: FlatProblem) -> tuple[jax.Array, Any, jax.Array]:
    """`argmin sum phi(y)` over the set, with its `nu` and whether there is no point in it (`nu` is then the proof)."""
    objective, equality, box = as_separable(problem.objective), problem.equality, problem.box
    assert objective is not None
    if equality.target.size == 0:
        y = minimise_elementwise(objective, jnp.zeros_like(box.lower), box.lower, box.upper)
        return y, equality.target, jnp.zeros((), bool)
    if equality.target.size == 1:
        weights, total = problem.rows.dense()[0], jnp.reshape(equality.target, ())
        y, s, _, claim = scalar_dual(objective, weights, total, box.lower, box.upper, _MAX_ITERATIONS)
        nu = -s
    else:
        with listening(None):
            tol = default_tolerance(box.lower.dtype)
            y, nu, _, claim = dual_newton(objective, problem, None, tol, _MAX_ITERATIONS)
    return y, nu.reshape(equality.target.shape), claim == Status.PRIMAL_INFEASIBLE


def project(v: jax.Array, scale: jax.Array, problem: FlatProblem) -> tuple[jax.Array, Any, jax.Array]:
    """`argmin |(y - v) / scale|^2 / 2` over the set."""
    curvature = 1 / (scale * scale)
    return minimise(FlatProblem(Quadratic(curvature, -curvature * v), problem.equality, problem.box))
