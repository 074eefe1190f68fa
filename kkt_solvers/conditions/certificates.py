"""The status of a point, and the proofs that there is no solution. Nothing here knows which solver found the point."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.residuals import adjoint, default_tolerance, residuals
from kkt_solvers.data.constraints import Operator
from kkt_solvers.data.inequality import linearised
from kkt_solvers.data.objectives import Quadratic
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.sizes import is_far_out, natural_sizes
from kkt_solvers.data.solution import Dual, Residuals, Status
from kkt_solvers.data.values import is_valid
from kkt_solvers.numerics.arrays import is_finite, largest, relative, tree_where, where
from kkt_solvers.numerics.batches import when_any


def _ray_tolerance(ray: jax.Array) -> float:
    return float(jnp.finfo(ray.dtype).eps) ** 0.5


def certificate_of_infeasibility(problem: FlatProblem, nu: jax.Array) -> jax.Array:
    """Whether `nu` proves that no point of the box satisfies the equality (Farkas): `nu'(A y - b) > 0` on all of it.

    With `w = A'nu` the smallest value over the box is `sum_i w_i (l_i or u_i) - b'nu`. If that bound is infinite, `w_i`
    must be zero up to rounding, and this rounding must not outweigh the value for any `y` within a thousand times the
    size of `b`: if one entry of `nu` is huge, the small ones prove nothing.
    """
    box, target, rows = problem.box, jnp.ravel(problem.equality.target), problem.equality.row_sizes()
    w, nu = adjoint(problem, nu), jnp.ravel(nu)
    bound = where(w > 0, box.lower, box.upper)
    finite = jnp.isfinite(bound)
    terms, ends = where(finite & (w != 0), w * bound, 0.0), target * nu
    value, scale = jnp.sum(terms) - jnp.sum(ends), jnp.sum(jnp.abs(terms)) + jnp.sum(jnp.abs(ends))
    left = jnp.sum(where(finite, 0.0, jnp.abs(w)))
    # An entry of w is zero up to rounding relative to its own terms, so scaling of rows and columns does not count.
    level = jnp.max(jnp.abs(nu) * rows, initial=0) / where(rows > 0, rows, 1.0)
    size = problem.equality.adjoint_terms(level.reshape(problem.equality.target.shape))
    possible = jnp.all(finite | (jnp.abs(w) <= 1e-2 * _ray_tolerance(nu) * size))
    of_target = jnp.max(relative(where(rows > 0, jnp.abs(target), 0.0), rows), initial=0)
    reach = 1e3 * where(of_target > 0, of_target, natural_sizes(problem)[0])
    # All false where an entry of nu or w is not a finite number.
    return possible & (value > _ray_tolerance(nu) * scale) & (value > reach * left) & (scale > 0)


def ray_of_descent(problem: FlatProblem, ray: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether `ray` proves a quadratic program unbounded: `A d = 0`, `P d = 0`, `d` a direction of the box, `q'd < 0`;
    and `d`, its largest entry one: `ray` without what points out of the box.

    That `d` is a direction of the equality and flat is checked, each row beside its own terms and `d'P d` beside the
    square of `sum |d_i| sqrt(P_ii)`, no less than `|d|'|P||d|`: so no unit counts. Entries that are small beside the
    largest may be rounding, or the ray in other units: it is tried without them, and with them.
    """
    objective, equality, box = problem.objective, problem.equality, problem.box
    if not (isinstance(objective, Quadratic) and problem.is_quadratic):
        return jnp.zeros((), bool), ray
    tol = _ray_tolerance(ray)
    d = ray / jnp.maximum(largest(ray), jnp.finfo(ray.dtype).tiny)
    d = where(jnp.isfinite(box.lower), jnp.maximum(d, 0), d)
    d = where(jnp.isfinite(box.upper), jnp.minimum(d, 0), d)

    def proves(d: jax.Array) -> tuple[jax.Array, jax.Array]:
        left = largest(d)
        d = d / where(left > 0, left, 1.0)
        terms = jnp.ravel(equality.terms(d))
        unit = largest(terms) if isinstance(equality, Operator) else jnp.maximum(terms, equality.row_sizes())
        on = jnp.all(jnp.abs(jnp.ravel(equality.product(d))) <= tol * unit)
        slope, bend = objective.q * d, jnp.vdot(d, objective.matrix.product(d))
        curvature = jnp.sum(jnp.abs(d) * jnp.sqrt(jnp.maximum(objective.matrix.diagonal_entries(), 0)))
        # The last is false where an entry of d is not a finite number.
        return on & (bend <= tol**1.5 * curvature**2) & (jnp.sum(slope) < -tol * jnp.sum(jnp.abs(slope))), d

    found, d = jax.vmap(proves)(jnp.stack([where(jnp.abs(d) <= tol, 0.0, d), d]))
    return found[0] | found[1], where(found[0], d[0], d[1])


class Verdict(NamedTuple):
    """`y` and `dual` are those of the point, or the ray that proves that there is no solution; NaN where the problem is
    invalid. `value` is what that adds to the objective: zero, an infinity or NaN."""

    status: jax.Array
    residuals: Residuals
    y: jax.Array
    dual: Dual
    value: jax.Array


def certify(
    problem: FlatProblem,
    y: jax.Array,
    dual: Dual,
    converged: jax.Array,
    tolerance: float,
    sound: jax.Array,
) -> Verdict:
    """The residuals of a point and the status they support, whatever the solver says of itself.

    `converged` is the solver's claim: a boolean, or a `Status` (as an integer array) where the solver has found that
    there is no solution, or that the objective is not convex (`INVALID`). A claim of success that the residuals refute
    by far is a numerical error, and so is an end far out that is no solution: an objective may fall for ever. A claim
    that there is no solution stands only if its ray proves it. `sound` is whether the user's functions are what they
    should be.
    """
    original, problem = problem, linearised(problem, y)
    measured = residuals(problem, y, dual)
    claim = jnp.asarray(converged)
    if claim.dtype == bool:
        claim = where(claim, int(Status.SOLVED), int(Status.MAX_ITERATIONS))
    worst = measured.largest
    far = is_far_out(problem, y[: y.size - problem.slacks])
    ended = (claim == Status.SOLVED) | ((claim == Status.INACCURATE) & far)
    refuted = ended & (worst > max(tolerance, default_tolerance(y.dtype)) ** 0.5)
    status = where(claim == Status.INACCURATE, int(Status.INACCURATE), int(Status.MAX_ITERATIONS))
    status = where(refuted | (claim == Status.NUMERICAL_ERROR), int(Status.NUMERICAL_ERROR), status)
    status = where(worst <= tolerance, int(Status.SOLVED), status)
    # With multipliers a `y` that is not finite may leave no trace in the residuals.
    finite = jnp.isfinite(worst) & is_finite(y)
    status = where(finite, status, int(Status.NUMERICAL_ERROR))

    infeasible, unbounded = claim == Status.PRIMAL_INFEASIBLE, claim == Status.DUAL_INFEASIBLE

    def proofs() -> tuple[jax.Array, Dual, jax.Array]:
        nu = dual.equality / jnp.maximum(largest(dual.equality), jnp.finfo(y.dtype).tiny)
        w = adjoint(problem, nu)
        proved = infeasible & certificate_of_infeasibility(problem, dual.equality)
        falls, d = ray_of_descent(original, y)
        proved |= unbounded & falls
        return proved, Dual(nu, jnp.maximum(w, 0), jnp.maximum(-w, 0)), d

    none = jnp.zeros((), bool), Dual(dual.equality, dual.lower, dual.upper), y
    proved, ray, d = when_any(infeasible | unbounded, proofs, none)
    # A point with small residuals refutes a claim that there is none; but one that satisfies the KKT conditions of a
    # nonconvex problem may be anything but a minimum.
    status = where((proved & (status != Status.SOLVED)) | (claim == Status.INVALID), claim, status)
    status = where(is_valid(original) & sound, status, int(Status.INVALID)).astype(jnp.int32)
    infeasible, unbounded = status == Status.PRIMAL_INFEASIBLE, status == Status.DUAL_INFEASIBLE
    nothing = where(status == Status.INVALID, jnp.nan, 0.0).astype(y.dtype)
    y = where(unbounded, d, y)
    y, dual = jax.tree.map(lambda leaf: leaf + nothing, (y, tree_where(infeasible, ray, none[1])))
    value = where(infeasible, jnp.inf, where(unbounded, -jnp.inf, nothing)).astype(y.dtype)
    return Verdict(status, measured, y, dual, value)
