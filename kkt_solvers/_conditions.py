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

from kkt_solvers._arrays import dense, is_finite, largest, relative, tree_where
from kkt_solvers._batches import in_any
from kkt_solvers._flatten import is_valid
from kkt_solvers._linear import solve_semidefinite
from kkt_solvers._objectives import Quadratic, Separable, hessian_product
from kkt_solvers._problem import Affine, FlatProblem, Operator
from kkt_solvers._residuals import (
    adjoint,
    adjoint_terms,
    gradient_and_terms,
    natural_size,
    product_terms,
    residuals,
    row_sizes,
    size_of,
    sums,
)
from kkt_solvers._solution import Dual, Residuals, Status


class Point(NamedTuple):
    """A primal-dual point on flat vectors. `live` is one, or NaN where the point has no derivative."""

    primal: jax.Array
    equality: Any
    lower: jax.Array
    upper: jax.Array
    live: jax.Array


# ------------------------------------------------------------------------------------------ ingredients
def reduced_gradient(problem: FlatProblem, y: jax.Array, nu: Any) -> jax.Array:
    """`grad f(y) + A'nu`."""
    return problem.objective.gradient(y) + adjoint(problem, nu)


def _separable_bound_multipliers(problem: FlatProblem, y: jax.Array, nu: Any) -> tuple[jax.Array, jax.Array]:
    """`zl = max(phi'(l) + a'nu, 0)` and `zu = max(-phi'(u) - a'nu, 0)`.

    A bound where `phi'` is infinite is never active. It is replaced by a point beside `y` before `phi'` is taken,
    so that no infinity meets a zero cotangent on the way back.
    """
    objective, (lower, upper) = problem.objective, (problem.box.lower, problem.box.upper)
    if isinstance(objective, Separable) and objective.steep:
        return jnp.zeros_like(y), jnp.zeros_like(y)
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
        return jnp.where(active, sign * (objective.gradient(jnp.where(active, bound, inside)) + shift), 0.0)

    return one(lower, 1.0), one(upper, -1.0)


def bound_multipliers(problem: FlatProblem, y: jax.Array, nu: Any) -> tuple[jax.Array, jax.Array]:
    """Bound multipliers from the signs of the reduced gradient, where they exceed the distance to the bound."""
    if isinstance(problem.objective, Separable):
        return _separable_bound_multipliers(problem, y, nu)
    slope = reduced_gradient(problem, y, nu)
    below, above = held_by(problem, y, nu, jnp.maximum(slope, 0), jnp.maximum(-slope, 0))
    return jnp.where(below, slope, 0), jnp.where(above, -slope, 0)


def _relative(problem: FlatProblem, y: jax.Array, nu: Any, lower: jax.Array, upper: jax.Array) -> tuple[Any, Any]:
    """Multipliers relative to the size of the gradient, and distances to the bounds relative to that of `y`."""
    _, terms = gradient_and_terms(problem.objective, y, problem.box)
    scale, size = largest(*terms, adjoint(problem, nu)), size_of(y, natural_size(problem))
    distances = (jnp.maximum(gap, 0) / size for gap in (y - problem.box.lower, problem.box.upper - y))
    return (relative(lower, scale), relative(upper, scale)), tuple(distances)


def held_by(
    problem: FlatProblem, y: jax.Array, nu: Any, lower: jax.Array, upper: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Where multipliers `lower` and `upper`, relative to the gradient, exceed the relative distance to the bound."""
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
            jnp.where(jnp.isfinite(bound) & ~jnp.isfinite(problem.objective.gradient(bound)), jnp.inf, margin)
            for bound, margin in zip(bounds, margins, strict=True)
        ]
    return jnp.where(problem.box.lower == problem.box.upper, jnp.inf, jnp.minimum(*margins))


def recover_equality(problem: FlatProblem, y: jax.Array) -> Any:
    """`nu` from a primal point alone: least squares of the stationarity condition, each coordinate weighted by the
    square of its distance to the bounds (so that active bounds do not speak), and with a separable objective also by
    `1 / phi''` (what a coordinate says about `nu` is only as good as `y` divided by that). Of several solutions the
    least-norm one is taken.
    """
    box, gradient = problem.box, problem.objective.gradient(y)
    usable = jnp.isfinite(gradient)
    distance = jnp.clip(jnp.minimum(y - box.lower, box.upper - y), 0, 1)
    weight = jnp.where(usable, distance * distance, 0.0)
    if isinstance(problem.objective, Separable):
        curvature = hessian_product(problem.objective, y, jnp.ones_like(y))
        good = jnp.isfinite(curvature) & (curvature > 0)
        weight = jnp.where(good, weight / jnp.where(good, curvature, 1.0), weight)
    # Where no coordinate is free the multiplier is not unique; the least-squares one of all will do.
    weight = jnp.where(jnp.any(weight > 0), weight, usable.astype(y.dtype))
    gradient = jnp.where(usable, gradient, 0.0)
    rows = dense(problem.equality.rows(y.size))
    nu = solve_semidefinite((rows * weight) @ rows.T, -(rows * weight) @ gradient)
    return nu.reshape(problem.equality.target.shape)


def complete_dual(problem: FlatProblem, y: jax.Array, dual: Dual | None) -> Dual:
    """The multipliers that a solver left out, from the point."""
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


# ----------------------------------------------------------------------------------------- certificates
def certificate_of_infeasibility(problem: FlatProblem, nu: jax.Array) -> jax.Array:
    """Whether `nu` proves that no point of the box satisfies the equality (Farkas): `nu'(A y - b) > 0` on all of it.

    With `w = A'nu` the smallest value over the box is `sum_i w_i (l_i or u_i) - b'nu`; where that bound is infinite
    `w_i` must vanish, up to rounding. What is left of it there must not outweigh that value for any `y` within a
    thousand times the size of `b`: a `nu` of which one entry is huge proves nothing by its small ones.
    """
    box, target = problem.box, jnp.ravel(problem.equality.target)
    nu = jnp.ravel(nu)
    w = adjoint(problem, nu.reshape(problem.equality.target.shape))
    bound = jnp.where(w > 0, box.lower, box.upper)
    terms = jnp.where(jnp.isfinite(bound) & (w != 0), w * jnp.where(jnp.isfinite(bound), bound, 0), 0.0)
    left = jnp.where(jnp.isfinite(bound), 0.0, jnp.abs(w))
    total, size, left = sums(terms, jnp.abs(terms), left)
    pulled, size_of_target = sums(target * nu, jnp.abs(target * nu))
    value, scale = total - pulled, size + size_of_target
    possible = jnp.all(jnp.isfinite(bound) | _vanishes(problem, nu, w))
    rows = row_sizes(problem)
    of_target = jnp.max(relative(jnp.where(rows > 0, jnp.abs(target), 0), rows), initial=0)
    reach = 1e3 * jnp.where(of_target > 0, of_target, natural_size(problem))
    # All false where an entry of nu or w is not a finite number.
    return possible & (value > _ray_tolerance(nu) * scale) & (value > reach * left) & (scale > 0)


def _ray_tolerance(ray: jax.Array) -> float:
    return float(jnp.finfo(ray.dtype).eps) ** 0.5


def _vanishes(problem: FlatProblem, nu: jax.Array, w: jax.Array) -> jax.Array:
    """Where an entry of `w = A'nu` is zero up to rounding, whatever the scales of rows and columns of `A`."""
    equality = problem.equality
    rows = row_sizes(problem)
    level = jnp.max(jnp.abs(nu) * rows, initial=0)
    size = adjoint_terms(equality, (level / jnp.where(rows > 0, rows, 1.0)).reshape(equality.target.shape))
    return jnp.abs(w) <= 1e-2 * _ray_tolerance(nu) * size


def ray_of_descent(problem: FlatProblem, ray: jax.Array) -> jax.Array:
    """Whether `ray` proves a quadratic program unbounded: `A d = 0`, `P d = 0`, `d` a direction of the box, `q'd < 0`.

    The ray is first brought into the directions of the box; that it is one of the equality and flat is checked, each
    row beside its own terms and `d'P d` beside the square of `sum |d_i| sqrt(P_ii)`, no less than `|d|'|P||d|`: so no
    unit counts.
    """
    objective, equality = problem.objective, problem.equality
    if not isinstance(objective, Quadratic):
        return jnp.zeros((), bool)
    tol = _ray_tolerance(ray)
    d = in_box_directions(problem, ray)
    terms = product_terms(equality, d)
    unit = largest(terms) if isinstance(equality, Operator) else jnp.maximum(jnp.ravel(terms), row_sizes(problem))
    on = jnp.all(jnp.abs(jnp.ravel(equality.product(d))) <= tol * unit)
    bend, slope, size, curvature = sums(
        d * objective.hessian_product(d),
        objective.q * d,
        jnp.abs(objective.q * d),
        jnp.abs(d) * jnp.sqrt(jnp.maximum(objective.diagonal(), 0)),
    )
    # The last is false where an entry of d is not a finite number.
    return on & (bend <= tol**1.5 * curvature**2) & (slope < -tol * size)


def in_box_directions(problem: FlatProblem, ray: jax.Array, wanted: jax.Array | bool = True) -> jax.Array:
    """`ray`, its largest entry one, without what points out of the box; where it is not `wanted` it costs no pass."""
    box = problem.box

    def inside(size: jax.Array) -> jax.Array:
        d = ray / jnp.maximum(size, jnp.finfo(ray.dtype).tiny)
        d = jnp.where(jnp.isfinite(box.lower), jnp.maximum(d, 0), d)
        d = jnp.where(jnp.isfinite(box.upper), jnp.minimum(d, 0), d)
        return jnp.where(jnp.abs(d) <= _ray_tolerance(ray), 0.0, d)

    def sizes() -> tuple[jax.Array, jax.Array]:
        size = largest(ray)
        return size, largest(inside(size))

    one = jnp.ones((), ray.dtype)
    size, left = jax.lax.cond(in_any(jnp.asarray(wanted)), sizes, lambda: (one, one))
    return inside(size) / jnp.where(left > 0, left, 1.0)


def with_ray(problem: FlatProblem, y: jax.Array, dual: Dual, status: jax.Array) -> tuple[jax.Array, Dual, jax.Array]:
    """Point and multipliers, with the ray that proves it where there is no solution, and what that adds to the
    objective: infinity, of either sign."""
    infeasible, unbounded = status == Status.PRIMAL_INFEASIBLE, status == Status.DUAL_INFEASIBLE
    nu = dual.equality / jnp.maximum(largest(dual.equality), jnp.finfo(y.dtype).tiny)
    w = adjoint(problem, nu)
    ray = Dual(nu, jnp.maximum(w, 0), jnp.maximum(-w, 0))
    dual = tree_where(infeasible, ray, dual)
    y = jnp.where(unbounded, in_box_directions(problem, y, unbounded), y)
    value = jnp.where(infeasible, jnp.inf, jnp.where(unbounded, -jnp.inf, 0.0))
    return y, dual, value.astype(y.dtype)


def certify(
    problem: FlatProblem, y: jax.Array, dual: Dual, converged: jax.Array, tolerance: float
) -> tuple[Residuals, jax.Array]:
    """The residuals of a point and the status they support, whatever the solver says of itself.

    `converged` is the solver's claim: a boolean, or a `Status` (as an integer array) where the solver has found that
    there is no solution, or that the objective is not convex (`INVALID`). A claim of success that the residuals
    refute by far is a numerical error. A claim that there is no solution stands only if its ray proves it.
    """
    measured = residuals(problem, y, dual)
    claim = jnp.asarray(converged)
    if claim.dtype == bool:
        claim = jnp.where(claim, Status.SOLVED, Status.MAX_ITERATIONS)
    worst = measured.largest
    refuted = (claim == Status.SOLVED) & (worst > tolerance**0.5)
    unsolved = jnp.where(claim == Status.INACCURATE, Status.INACCURATE, Status.MAX_ITERATIONS)
    unsolved = jnp.where(refuted | (claim == Status.NUMERICAL_ERROR), Status.NUMERICAL_ERROR, unsolved)
    status = jnp.where(worst <= tolerance, Status.SOLVED, unsolved)
    # With multipliers a `y` that is not finite may leave no trace in the residuals.
    finite = jnp.isfinite(worst) & (dual.lower is None or is_finite(y))
    status = jnp.where(finite, status, Status.NUMERICAL_ERROR)
    infeasible, unbounded = claim == Status.PRIMAL_INFEASIBLE, claim == Status.DUAL_INFEASIBLE
    proved = jax.lax.cond(
        in_any(infeasible | unbounded),
        lambda: (
            (infeasible & certificate_of_infeasibility(problem, dual.equality))
            | (unbounded & ray_of_descent(problem, y))
        ),
        lambda: jnp.zeros((), bool),
    )
    # A point with small residuals refutes a claim that there is none; but one that satisfies the KKT conditions of a
    # nonconvex problem may be anything but a minimum.
    status = jnp.where((proved & (status != Status.SOLVED)) | (claim == Status.INVALID), claim, status)
    return measured, jnp.where(is_valid(problem), status, Status.INVALID).astype(jnp.int32)
