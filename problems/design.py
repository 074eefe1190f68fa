"""D-optimal design of experiments [kiefer1960], [boyd2004, section 7.5].

An experiment at the point `a_i` measures `a_i'theta` with unit variance. Of many measurements, `weights_i` is the part
at point i. The confidence ellipsoid of theta is smallest if the information matrix has the largest determinant:

    max_w  log det sum_i w_i a_i a_i'        s.t.  1'w = 1,   0 <= w <= upper,   cost'w <= budget.

Without the caps and the budget, w is optimal if and only if no point's variance `a_i'(sum_j w_j a_j a_j')^{-1} a_i`
exceeds the number of parameters.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers import AtMost, Box, Problem, Sum, solve
from kkt_solvers.numerics.arrays import cast, float_dtype, full_precision
from kkt_solvers.problems import _checks


def OptimalDesign(points: Any, upper: Any = jnp.inf, *, cost: Any = None, budget: Any = None) -> Problem:
    """The D-optimal design as a `Problem` in the weights; its optimal value is minus the logarithm of the determinant.

    Arguments:
        points: shape `(n, p)`, a candidate in each row.
        upper: the largest weight of each candidate, a scalar or `(n,)`.
        cost: of a measurement at each candidate, `(n,)`; or `None`.
        budget: the largest mean cost of a measurement, a scalar.

    `dual.inequality`, `(1,)`, is the price of the budget: how much one more unit of it adds to the logarithm.

    Raises `ValueError` for shapes that do not fit, for fewer candidates than parameters, for `upper` below zero or with
    a sum below one, for cost without budget, and for a budget below what any design costs.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import OptimalDesign
    >>> line = [[1.0, -1.0], [1.0, 0.0], [1.0, 1.0]]  # an intercept and a slope
    >>> solution = kkt.solve(OptimalDesign(line))
    >>> solution.primal.tolist(), solution.objective.item()
    ([0.500, 0.000, 0.500], 0.000)
    """
    points = _checks.matrix_of(points, "points", "a candidate in each row")
    n, p = points.shape
    if n < p:
        raise ValueError(f"points must have at least as many rows as columns, candidates as parameters, got {(n, p)}")
    if (cost is None) != (budget is None):
        raise ValueError("cost and budget go together: pass both or neither")
    upper = jnp.broadcast_to(_checks.like(upper, (n,), "upper", "the rows of points"), (n,))
    upper = _checks.where_valid(upper, "upper must be nonnegative", lambda xp, upper: upper >= 0)
    message = "upper must have a sum of one at least, as the weights have"
    upper = _checks.where_valid(upper, message, lambda xp, upper: xp.sum(upper) >= 1 - 1e-6)
    if cost is None:
        points, upper = cast((points, upper), float_dtype(points, upper))
        return Problem(_negative_information, Sum(1.0), Box(jnp.zeros_like(upper), upper), (points,))
    cost, budget = _checks.vector(cost, "cost", "costs, one a candidate"), _checks.scalar(budget, "budget")
    if cost.shape != (n,):
        raise ValueError(f"cost must have shape ({n},), one for each row of points, got {cost.shape}")
    message = f"budget must be above the least cost of a candidate, got {budget}"
    budget = _checks.where_valid(budget, message, lambda xp, budget, cost: budget > xp.min(cost), cost)
    points, upper, cost, budget = cast((points, upper, cost, budget), float_dtype(points, upper, cost, budget))
    box, limit = Box(jnp.zeros_like(upper), upper), AtMost(cost[None], budget[None])
    return Problem(_negative_information, Sum(1.0), box, (points,), limit)


def optimal_design(points: Any, upper: Any = jnp.inf, *, cost: Any = None, budget: Any = None) -> jax.Array:
    """The weights of the D-optimal design, `(n,)`, differentiable in every argument.

    Arguments: as for `OptimalDesign`. Batches go through `jax.vmap`. NaN where the problem was not solved: no design
    meets the limits, or the candidates do not span.

    >>> from kkt_solvers.problems import optimal_design
    >>> line = [[1.0, -1.0], [1.0, 0.0], [1.0, 1.0]]
    >>> optimal_design(line, cost=[1.0, 0.0, 1.0], budget=0.5).tolist()
    [0.250, 0.500, 0.250]

    Source: [kiefer1960].
    """
    return _checks.solved(solve(OptimalDesign(points, upper, cost=cost, budget=budget)))


@full_precision
def _negative_information(w: jax.Array, points: jax.Array) -> jax.Array:
    return -jnp.linalg.slogdet((points.T * w) @ points)[1]
