"""How far a solution is from a point where it has no derivative."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from kkt_solvers._derivative import active_bounds
from kkt_solvers._solve import flat_dual
from kkt_solvers.conditions.elementwise import slope_of_minimiser
from kkt_solvers.conditions.multipliers import Point, complete_dual, relative_margins
from kkt_solvers.conditions.residuals import adjoint
from kkt_solvers.data.flatten import flatten
from kkt_solvers.data.inequality import linearised
from kkt_solvers.data.objectives import Separable
from kkt_solvers.data.problem import FlatProblem, Problem
from kkt_solvers.data.solution import Solution
from kkt_solvers.numerics import lapack
from kkt_solvers.numerics.arrays import full_precision, is_precise
from kkt_solvers.numerics.pytree import pytree
from kkt_solvers.systems.elimination import KKTMatrix, hessian, unit_rows


@pytree()
@dataclass(frozen=True, eq=False)
class Degeneracy:
    """Which coordinates, and how close.

    - `margin`, like `y`: the larger of the relative multiplier of the nearer bound and the relative distance to it
      (infinite without bounds). Zero at a weakly active bound, where the solution has a kink. Any change of the data
      that is small relative to it leaves the set of active bounds alone.
    - `weakly_active`, like `y`: where the margin is below the tolerance.
    - `inequality_margin` and `weakly_active_inequality`, like `dual.inequality`: the same of each inequality, whose
      distance is `-g(y)`. `None` without inequalities.
    - `smallest_pivot`: the smallest eigenvalue, in absolute value and relative to the largest, of the linear system
      of the derivative, scaled to unit rows. At rounding level where active constraints are linearly dependent (the
      multipliers are not unique) or the objective is flat along them (the solution is not).
    """

    margin: Any
    weakly_active: Any
    smallest_pivot: jax.Array
    inequality_margin: Any = None
    weakly_active_inequality: Any = None


@full_precision
def degeneracy(problem: Problem, solution: Solution, *, tol: float | None = None) -> Degeneracy:
    """Diagnose a solution: is it differentiable, and how nearly is it not?

    Arguments:
        problem, solution: a `Problem` and what `solve` or `differentiable` returned for it.
        tol: largest margin of a weakly active bound; `None` for 1e-6 in float64, 1e-3 in float32.

    Forms a dense matrix: O((n + m)^3), or O(n m^2) for a separable objective.

    >>> import jax.numpy as jnp, kkt_solvers as kkt
    >>> problem = kkt.Problem(kkt.Quadratic([1.0, 1.0, 1.0], [0.0, -1.0, 2.0]), box=kkt.Box(0.0, jnp.inf))
    >>> report = kkt.degeneracy(problem, kkt.solve(problem))
    >>> report.weakly_active.tolist()
    [True, False, False]
    """
    flat, primal, _ = flatten(problem, solution.primal)
    dual = complete_dual(flat, primal, flat_dual(flat, solution.dual))
    point = Point(primal, dual.equality, dual.lower, dual.upper, jnp.ones((), primal.dtype))
    flat = linearised(flat, primal, point.equality)
    margin = relative_margins(flat, primal, point.equality, point.lower, point.upper)
    if tol is None:
        tol = 1e-6 if is_precise(primal.dtype) else 1e-3
    values = jnp.abs(lapack.eigvalsh(unit_rows(_system(flat, point))[0]))
    smallest = jnp.min(values) / jnp.max(values) if values.size else jnp.ones((), primal.dtype)
    n = primal.size - flat.slacks
    unravel = ravel_pytree(solution.dual.inequality)[1]
    margins = ravel_pytree(solution.primal)[1](margin[:n]), unravel(margin[n:])
    weak = jax.tree.map(lambda part: part < tol, margins)
    return Degeneracy(margins[0], weak[0], smallest, margins[1], weak[1])


def _system(flat: FlatProblem, point: Point) -> jax.Array:
    if isinstance(flat.objective, Separable):
        z = -adjoint(flat, point.equality)
        slope = slope_of_minimiser(flat.objective, z, flat.box.lower, flat.box.upper)
        return flat.rows.normal(slope)
    lower, upper = active_bounds(flat, point)
    free = (~(lower | upper)).astype(point.primal.dtype)
    return KKTMatrix(hessian(flat, point.primal), flat.rows, 1 - free, free).dense()
