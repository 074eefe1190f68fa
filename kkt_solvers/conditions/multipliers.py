"""The KKT conditions of a flat problem: multipliers, residuals and the status they support.

    L(y, nu, zl, zu) = f(y) + nu'(A y - b) - zl'(y - l) + zu'(y - u),        zl, zu >= 0

    stationarity      grad f(y) + A'nu - zl + zu = 0
    equality          A y = b
    box               l <= y <= u
    complementarity   zl (y - l) = 0,   zu (u - y) = 0

Nothing here knows which solver found the point.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.residuals import adjoint, gradient_and_terms, size_of
from kkt_solvers.data.constraints import Affine
from kkt_solvers.data.inequality import linearised
from kkt_solvers.data.objectives import Separable, hessian_product
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.sizes import natural_sizes
from kkt_solvers.data.solution import Dual
from kkt_solvers.numerics.arrays import largest, relative, where
from kkt_solvers.systems.normal import normal, solve_semidefinite


class Point(NamedTuple):
    """A primal-dual point on flat vectors. `live` is one, or NaN where the point has no derivative."""

    primal: jax.Array
    equality: Any
    lower: jax.Array
    upper: jax.Array
    live: jax.Array


# ------------------------------------------------------------------------------------------ ingredients
def reduced_gradient(problem: FlatProblem, y: jax.Array, nu: Any) -> jax.Array:
    """`grad f(y) + A'nu`, with curved constraints `grad f(y) + J(y)'nu`."""
    return problem.objective.gradient(y) + problem.equality.pullback(y, nu)


def _separable_bound_multipliers(problem: FlatProblem, y: jax.Array, nu: Any) -> tuple[jax.Array, jax.Array]:
    """`zl = max(phi'(l) + a'nu, 0)` and `zu = max(-phi'(u) - a'nu, 0)`.

    A bound where `phi'` is infinite is never active. It is replaced by a point beside `y` before `phi'` is taken,
    so that no infinity meets a zero cotangent on the way back.
    """
    objective, (lower, upper) = problem.objective, (problem.box.lower, problem.box.upper)
    shift = adjoint(problem, nu)
    tiny = jnp.finfo(y.dtype).tiny
    eps = jnp.finfo(y.dtype).eps
    inside = jax.lax.stop_gradient(
        jnp.clip(y, lower + 2 * jnp.maximum(tiny, eps * jnp.abs(lower)), upper - 2 * eps * jnp.abs(upper) - 2 * tiny)
    )

    def one(bound: jax.Array, sign: float) -> jax.Array:
        slope = objective.gradient(bound) + shift
        active = jnp.isfinite(bound) & jnp.isfinite(slope) & (sign * slope > 0)
        active = jax.lax.stop_gradient(active)
        return where(active, sign * (objective.gradient(where(active, bound, inside)) + shift), 0.0)

    return one(lower, 1.0), one(upper, -1.0)


def bound_multipliers(problem: FlatProblem, y: jax.Array, nu: Any) -> tuple[jax.Array, jax.Array]:
    """Bound multipliers from the signs of the reduced gradient, where they exceed the distance to the bound."""
    if isinstance(problem.objective, Separable):
        return _separable_bound_multipliers(problem, y, nu)
    slope = reduced_gradient(problem, y, nu)
    below, above = held_by(problem, y, nu, jnp.maximum(slope, 0), jnp.maximum(-slope, 0))
    return where(below, slope, 0), where(above, -slope, 0)


def _relative(problem: FlatProblem, y: jax.Array, nu: Any, lower: jax.Array, upper: jax.Array) -> tuple[Any, Any]:
    """Multipliers relative to the size of the gradient, and distances to the bounds relative to that of `y`."""
    natural, _ = natural_sizes(problem)
    _, terms = gradient_and_terms(problem.objective, y, problem.box, natural)
    scale, size = largest(*terms, adjoint(problem, nu)), size_of(y, natural)
    distances = (jnp.maximum(gap, 0) / size for gap in (y - problem.box.lower, problem.box.upper - y))
    return (relative(lower, scale), relative(upper, scale)), tuple(distances)


def held_by(
    problem: FlatProblem, y: jax.Array, nu: Any, lower: jax.Array, upper: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Masks of the coordinates whose multiplier, relative to the gradient, exceeds the relative distance to the bound:
    at the lower bound, and at the upper bound."""
    multipliers, distances = _relative(problem, y, nu, lower, upper)
    below, above = multipliers[0] > distances[0], multipliers[1] > distances[1]
    return below, above & ~(below & (lower >= upper))


def relative_margins(problem: FlatProblem, y: jax.Array, nu: Any, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """The smaller, over the two bounds, of the larger of multiplier and distance; infinite for a fixed variable and
    at a bound where the objective's slope is infinite, which is never active."""
    multipliers, distances = _relative(problem, y, nu, lower, upper)
    margins = [jnp.maximum(*pair) for pair in zip(multipliers, distances, strict=True)]
    if isinstance(problem.objective, Separable):
        bounds = problem.box.lower, problem.box.upper
        margins = [
            where(jnp.isfinite(bound) & ~jnp.isfinite(problem.objective.gradient(bound)), jnp.inf, margin)
            for bound, margin in zip(bounds, margins, strict=True)
        ]
    return where(problem.box.lower == problem.box.upper, jnp.inf, jnp.minimum(*margins))


def recover_equality(problem: FlatProblem, y: jax.Array) -> Any:
    """`nu` from a primal point alone: least squares of the stationarity condition, each coordinate weighted by the
    square of its distance to the bounds (so that active bounds do not speak), and with a separable objective also by
    `1 / phi''` (what a coordinate says about `nu` is only as good as `y` divided by that). Of several solutions the
    least-norm one is taken.
    """
    box, gradient = problem.box, problem.objective.gradient(y)
    usable = jnp.isfinite(gradient)
    distance = jnp.clip(jnp.minimum(y - box.lower, box.upper - y), 0, 1)
    weight = where(usable, distance * distance, 0.0)
    if isinstance(problem.objective, Separable):
        curvature = hessian_product(problem.objective, y, jnp.ones_like(y))
        good = jnp.isfinite(curvature) & (curvature > 0)
        weight = where(good, weight / where(good, curvature, 1.0), weight)
    # If no coordinate is free, the multiplier is not unique; take the least-squares one over all coordinates.
    weight = where(jnp.any(weight > 0), weight, usable.astype(y.dtype))
    gradient = where(usable, gradient, 0.0)
    A = problem.rows
    nu = solve_semidefinite(normal(A, weight), -A.product(weight * gradient))
    return nu.reshape(problem.equality.target.shape)


def complete_dual(problem: FlatProblem, y: jax.Array, dual: Dual | None) -> Dual:
    """The multipliers that a solver left out, from the point."""
    problem = linearised(problem, y)
    nu = recover_equality(problem, y) if dual is None or dual.equality is None else dual.equality
    given = (None, None) if dual is None else (dual.lower, dual.upper)
    if given[0] is not None and given[1] is not None:
        return Dual(nu, *given)
    found = bound_multipliers(problem, y, nu)
    return Dual(nu, *(other if mine is None else mine for mine, other in zip(given, found, strict=True)))


def with_a_row(problem: FlatProblem, dual: Any) -> tuple[FlatProblem, Any]:
    """The problem and its multipliers, if any; without an equality, with one that is no condition, `0'y = 0`.

    In a program with many arrays without entries XLA (jax 0.10.2) takes some calls of LAPACK for those of another kind,
    and fails with "No registered implementation for untyped custom call".
    """
    if problem.equality.target.size:
        return problem, dual
    lower = problem.box.lower
    zero = jnp.zeros(1, lower.dtype)
    problem = replace(problem, equality=Affine(jnp.zeros((1, lower.size), lower.dtype), zero))
    return problem, None if dual is None else Dual(zero, dual.lower, dual.upper)


def without_the_row(problem: FlatProblem, dual: Dual) -> Dual:
    """The multipliers of `problem` itself."""
    none = problem.equality.target
    return dual if none.size else Dual(none, dual.lower, dual.upper)
