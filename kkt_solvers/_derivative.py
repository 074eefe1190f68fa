"""The derivative of a solution with respect to its problem, from the KKT conditions: never from the solver.

`attach(problem, point)` is the identity on a point that solves `problem`; its derivative rule is that of the map
from the problem to its solution. The rule is written with `attach` itself, so the point that enters it carries the
derivative too, and every higher order, forward or reverse, follows from this one rule.

General objectives. Write G(p, y, nu) = grad f + A'nu for the reduced gradient and p for the problem's data. Where a
bound holds with a positive multiplier, y moves with that bound; on the other, free, coordinates G = 0. With E the
free coordinates, differentiating G = 0 and A y = b along dp:

    H_EE dy_E + A_E' dnu = - (d_p G + H dy_active)_E
    A_E dy_E             = - (dA y - db + A dy_active)

Separable objectives are differentiated in the dual form, which stays finite where y meets the end of its domain:
y = psi(-A'nu) with psi the elementwise minimiser over the box, and A y = b. With t the change of psi at fixed nu,
and D = psi'(-A'nu):

    A D A' dnu = A t + dA y - db,        dy = t - D A' dnu.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.elementwise import slope_of_minimiser
from kkt_solvers.conditions.multipliers import Point, bound_multipliers, held_by, reduced_gradient
from kkt_solvers.conditions.residuals import adjoint, lagrangian_minimiser
from kkt_solvers.data.entropy import is_logistic, sigmoid
from kkt_solvers.data.inequality import linearised
from kkt_solvers.data.objectives import Separable, hessian_product
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.numerics.arrays import block_sum, full_precision, largest, where
from kkt_solvers.systems.kkt import KKTSystem, choose
from kkt_solvers.systems.normal import normal, solve_semidefinite


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def attach(linear: KKTSystem | None, problem: FlatProblem, point: Point) -> Point:
    """`point`, with the derivative of the solution of `problem`."""
    return point


@attach.defjvp
@full_precision
def _attach_jvp(linear: KKTSystem | None, primals: Any, tangents: Any) -> Any:
    problem, point = primals
    point = attach(linear, problem, point)
    d_problem = _dead_or_alive(tangents[0], point.live)
    if isinstance(problem.objective, Separable):
        d_point = _separable_rule(problem, problem.objective, point, d_problem)
    else:
        d_point = _general_rule(choose(problem) if linear is None else linear, problem, point, d_problem)
    return point, Point(*_dead_or_alive(d_point, point.live), live=jnp.zeros_like(point.live))


def _dead_or_alive(tangents: Any, live: jax.Array) -> Any:
    """Tangents times `live`, on the way in and out: forward or in reverse, all those of a dead point become NaN.

    A product, and not a choice, whose transpose would make zeros of them.
    """
    return jax.tree.map(lambda d: d if d.dtype == jax.dtypes.float0 else d * live, tangents)


Tangents = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _separable_rule(problem: FlatProblem, objective: Separable, point: Point, d_problem: Any) -> Tangents:
    if is_logistic(objective) and problem.equality.target.size == 1:
        return _logistic_rule(problem, objective, point, d_problem)
    y, nu, (lower, upper) = point.primal, point.equality, (problem.box.lower, problem.box.upper)
    _, t = jax.jvp(lambda p: lagrangian_minimiser(p, nu), (problem,), (d_problem,))
    slope = slope_of_minimiser(objective, -adjoint(problem, nu), lower, upper)
    _, d_residual = jax.jvp(lambda p: p.equality.residual(y), (problem,), (d_problem,))
    right = problem.equality.product(t) + d_residual
    d_nu = solve_semidefinite(normal(problem.rows, slope), jnp.ravel(right)).reshape(right.shape)
    _, d_bounds = jax.jvp(lambda p, nu: bound_multipliers(p, y, nu), (problem, nu), (d_problem, d_nu))
    return t - slope * problem.equality.adjoint(d_nu), d_nu, *d_bounds


def _logistic_rule(problem: FlatProblem, objective: Separable, point: Point, d_problem: Any) -> Tangents:
    """The same for a sum of sigmoids, free of underflow. Where all of their slopes are near it (the root lies in a wide
    gap of the scores) they are divided by c = exp(-far), with `far` the distance of the nearest score."""
    y, nu, (lower, upper) = point.primal, point.equality, (problem.box.lower, problem.box.upper)
    info = jnp.finfo(y.dtype)

    def logits(problem: FlatProblem) -> jax.Array:
        assert isinstance(problem.objective, Separable)
        return problem.objective.theta - adjoint(problem, nu)

    (z, dz), (_, t) = (jax.jvp(f, (problem,), (d_problem,)) for f in (logits, lambda p: lagrangian_minimiser(p, nu)))
    slope, row = slope_of_minimiser(objective, -adjoint(problem, nu), lower, upper), problem.rows.dense()[0]
    far = jnp.min(jnp.abs(z))
    no_bound = largest(y - sigmoid(z)) <= info.eps
    faint = (block_sum(slope * row * row) < info.tiny / info.eps**2) & jnp.isfinite(far) & no_bound
    faint, far = jax.lax.stop_gradient((faint, where(faint, far, 0.0)))
    slope = where(faint, jnp.exp(far - jnp.abs(z)), slope)  # where it is faint, a sigmoid is an exponential
    t, c = where(faint, slope * dz, t), jnp.exp(-far)
    pivot = block_sum(slope * row * row)
    inverse = where(pivot > 0, 1 / where(pivot > 0, pivot, 1.0), 0.0)
    _, d_residual = jax.jvp(lambda p: p.equality.residual(y), (problem,), (d_problem,))
    along, across = inverse * problem.equality.product(t), inverse * d_residual
    d_nu = along + jnp.minimum(jnp.exp(far), info.max) * across
    _, d_bounds = jax.jvp(lambda p, nu: bound_multipliers(p, y, nu), (problem, nu), (d_problem, d_nu))
    return c * t - slope * problem.equality.adjoint(c * along + across), d_nu, *d_bounds


def active_bounds(problem: FlatProblem, point: Point) -> tuple[jax.Array, jax.Array]:
    """The coordinates held by their lower and by their upper bound: the multiplier exceeds the distance.

    A weakly active bound (both are zero) does not hold its coordinate. Where l == u, the sign of the multiplier
    says which of the two bounds the coordinate moves with; the lower one, if it is zero.
    """
    box = problem.box
    lower, upper = held_by(linearised(problem, point.primal), point.primal, point.equality, point.lower, point.upper)
    fixed = box.lower == box.upper
    lower = (lower & ~upper) | (fixed & ~upper)
    return lower, upper


def _general_rule(linear: KKTSystem, problem: FlatProblem, point: Point, d_problem: Any) -> Tangents:
    y, nu = point.primal, point.equality
    at_lower, at_upper = jax.lax.stop_gradient(active_bounds(problem, point))
    moved = where(at_lower, d_problem.box.lower, 0.0) + where(at_upper, d_problem.box.upper, 0.0)

    _, d_gradient = jax.jvp(lambda p: reduced_gradient(p, y, nu), (problem,), (d_problem,))
    _, d_residual = jax.jvp(lambda p: p.equality.residual(y), (problem,), (d_problem,))
    problem = linearised(problem, y, nu)
    d_gradient = d_gradient + hessian_product(problem.objective, y, moved)
    d_residual = d_residual + problem.equality.product(moved)
    mask = (~(at_lower | at_upper)).astype(y.dtype)
    d_free, d_nu = linear.solve(problem, y, mask, (-d_gradient, -d_residual))

    # On the active coordinates zl - zu is the reduced gradient; on the others both stay zero.
    d_slope = d_gradient + hessian_product(problem.objective, y, d_free) + problem.equality.adjoint(d_nu)
    return d_free + moved, d_nu, where(at_lower, d_slope, 0.0), where(at_upper, -d_slope, 0.0)


@jax.custom_jvp
def optimal_value(problem: FlatProblem, point: Point) -> jax.Array:
    """`f(y)`, with the derivative of the envelope theorem: that of the Lagrangian at fixed point, no linear solve."""
    return problem.objective(point.primal)


def _lagrangian(problem: FlatProblem, point: Point) -> jax.Array:
    y, box = point.primal, problem.box
    value = problem.objective(y)
    value = value + jnp.vdot(point.equality, problem.equality.residual(y))
    lower = where(point.lower == 0, 0.0, y - box.lower)
    upper = where(point.upper == 0, 0.0, y - box.upper)
    return value - jnp.vdot(point.lower, lower) + jnp.vdot(point.upper, upper)


@optimal_value.defjvp
@full_precision
def _optimal_value_jvp(primals: Any, tangents: Any) -> Any:
    problem, point = primals
    # grad_y L = 0 at a solution: how the point moves does not enter.
    d_problem = _dead_or_alive(tangents[0], point.live)
    _, d_value = jax.jvp(lambda p: _lagrangian(p, point), (problem,), (d_problem,))
    return optimal_value(problem, point), d_value * point.live
