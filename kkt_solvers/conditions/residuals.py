"""The relative KKT residuals of a point: how large is what should cancel, beside the terms that do cancel.

No residual has a unit. The data of a problem may be multiplied by 1e6 or 1e-6 as a whole, or in a row of the equality:
the residuals stay the same. So nothing here is measured beside one.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.elementwise import minimise_elementwise
from kkt_solvers.data.matrices import Diagonal, Zero
from kkt_solvers.data.objectives import Objective, Quadratic, Separable, Smooth
from kkt_solvers.data.problem import Box, FlatProblem
from kkt_solvers.data.sizes import MANY, natural_sizes
from kkt_solvers.data.solution import Dual, Residuals
from kkt_solvers.numerics.arrays import (
    is_finite,
    is_precise,
    largest,
    relative,
    signs,
    where,
)


def default_tolerance(dtype: Any) -> float:
    """1e-8 in float64, 1e-5 in float32."""
    return 1e-8 if is_precise(dtype) else 1e-5


def _rounding(dtype: Any) -> float:
    """A term this much smaller than the largest one of its kind: the tolerance of it is 16 ulp of the largest."""
    return 16 * float(jnp.finfo(dtype).eps) / default_tolerance(dtype)


# ------------------------------------------------------------------------------------------ ingredients
def adjoint(problem: FlatProblem, nu: Any) -> jax.Array:
    """`A'nu`, a full vector."""
    return problem.equality.adjoint(nu) + jnp.zeros_like(problem.box.lower)


def lagrangian_minimiser(problem: FlatProblem, nu: Any) -> jax.Array:
    """`psi(-A'nu)`: the minimiser over the box of a separable Lagrangian."""
    return _minimise(problem, -adjoint(problem, nu))


def _minimise(problem: FlatProblem, z: jax.Array) -> jax.Array:
    assert isinstance(problem.objective, Separable)
    return minimise_elementwise(problem.objective, z, problem.box.lower, problem.box.upper)


# ------------------------------------------------------------------------------------------------ units
class Units(NamedTuple):
    """The sizes beside which residuals are measured."""

    gradient: jax.Array  # the largest term of the stationarity condition
    y: jax.Array
    value: jax.Array  # the sum of the terms of the duality gap


def gradient_and_terms(
    objective: Objective, y: jax.Array, box: Box, natural: Any
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """`grad f`, and the terms that cancel in it. `natural` is the size of `y` from the data.

    For a quadratic objective the terms are `P y` and `q`; if `q` is zero, `P y` is all of the gradient and is measured
    beside its own rounding, the part `_rounding` of the terms `P_ii y_i`.

    For a function the terms are `H v` and the gradient itself: what is left of `H y` where `grad f` is linear. `v` is
    `y`, or in size the distance to a bound that is nearer: beside a bound where the slope is infinite `H y` would be as
    large as one likes. And half of it, up to many times the natural size, has random signs: its terms do not cancel. Of
    a `y` that is larger only `H y` itself counts: of iterates that go to infinity nothing would be left beside their
    size.
    """
    if isinstance(objective, Quadratic):
        P = objective.matrix
        curved = P.product(y)
        if isinstance(P, (Zero, Diagonal)):
            return curved + objective.q, (curved, objective.q)
        own = where(jnp.any(objective.q != 0), 0.0, _rounding(y.dtype) * P.diagonal_terms(y))
        return curved + objective.q, (curved, objective.q, own)
    if isinstance(objective, Smooth):
        room = jnp.maximum(jnp.minimum(jnp.minimum(y - box.lower, box.upper - y), jnp.abs(y)), 0)
        v = where(y < 0, -room, room) + 0.5 * signs(y) * jnp.minimum(room, MANY * natural)
        gradient, curved = jax.jvp(objective.gradient, (y,), (v,))
        return gradient, (gradient, curved)
    gradient = objective.gradient(y)
    return gradient, (where(jnp.isfinite(gradient), gradient, 0),)


def size_of(y: jax.Array, natural: jax.Array) -> jax.Array:
    """The largest entry of `y`; where all of them are rounding beside `natural`, that."""
    size = largest(y)
    return where(size > 64 * jnp.finfo(y.dtype).eps * natural, size, natural)


def units(
    problem: FlatProblem, y: jax.Array, terms: Sequence[jax.Array], value: jax.Array, natural: jax.Array
) -> Units:
    """`terms` are those of the stationarity condition, `value` is `f(y)`."""
    # One per coordinate is enough: the largest.
    widest = functools.reduce(jnp.maximum, [jnp.abs(term) for term in terms])
    of_gradient, of_y = largest(widest), size_of(y, natural)
    known = where(jnp.isfinite(value), jnp.abs(value), 0)
    # If all coordinates with a cost are zero, they count with a part of their natural size.
    reach = jnp.maximum(jnp.abs(y), _rounding(y.dtype) * natural_sizes(problem)[1])
    if isinstance(problem.objective, Smooth):
        # At a minimum at the origin all of the terms vanish; what a user's function is rounded to does not.
        some = float(jnp.finfo(y.dtype).eps) ** 0.25 * known / jnp.maximum(of_y, 1.0)
        of_gradient = jnp.maximum(of_gradient, some)
    of_value = jnp.maximum(known, jnp.sum(reach * widest))
    least = _rounding(y.dtype) * of_gradient * where(of_y > largest(y), of_y, 0)
    return Units(of_gradient, of_y, jnp.maximum(of_value, least))


# -------------------------------------------------------------------------------------------- residuals
def equality_residual(
    problem: FlatProblem, y: jax.Array, rest: jax.Array, of_y: jax.Array, moved: jax.Array | None = None
) -> jax.Array:
    """The entries of `rest = A y - b`, each relative to `|A| |y|` and `|b|` of its own row.

    A row whose `y` is tiny beside the others is met only up to the rounding of those; and no row better than a
    relative change `eps` of the data, which moves `y` by `eps moved`, allows.
    """
    terms = jnp.ravel(jnp.maximum(problem.equality.terms(y), jnp.abs(problem.equality.target)))
    unit = jnp.maximum(terms, _rounding(y.dtype) * of_y * problem.equality.row_sizes())
    if moved is not None:
        ulp = float(jnp.finfo(y.dtype).eps) / default_tolerance(y.dtype)
        unit = jnp.maximum(unit, ulp * jnp.ravel(problem.equality.terms(moved)))
    return relative(jnp.abs(jnp.ravel(rest)), unit)


def residuals(problem: FlatProblem, y: jax.Array, dual: Dual, known: Any = None) -> Residuals:
    """See `Residuals` for the norms. Infinite where something is not a finite number. `known` is the result of
    `gradient_and_terms`, if it is known."""
    box, objective = problem.box, problem.objective
    shift, net = adjoint(problem, dual.equality), dual.upper - dual.lower
    (natural, _), moved = natural_sizes(problem), None
    gradient, terms = gradient_and_terms(objective, y, box, natural) if known is None else known
    if isinstance(objective, Separable):
        # Rounding of `z = -A'nu` moves y by `psi'(z) |z|`: a y of that size is nothing but rounding.
        psi, moved = jax.jvp(functools.partial(_minimise, problem), (-shift,), (jnp.abs(shift),))
        rest = y - psi
        natural = where(jnp.any(problem.equality.target != 0), natural, largest(moved))
    else:
        rest = gradient + shift + net
    value = objective(y)
    unit = units(problem, y, (*terms, shift, net), value, natural)
    bounds, multipliers = jnp.stack([box.lower, box.upper]), jnp.stack([dual.lower, dual.upper])
    room = jnp.stack([y - box.lower, box.upper - y])
    outside = relative(jnp.maximum(-room, 0), jnp.abs(bounds) + unit.y)
    products = where(multipliers == 0, 0.0, multipliers * room)
    infeasibility = problem.equality.residual(y)
    # The gap is the same number as in `Residuals`, in a form that does not cancel.
    gap = jnp.vdot(rest, y) + jnp.sum(products) - jnp.vdot(dual.equality, infeasibility)
    gap = jnp.zeros_like(gap) if isinstance(objective, Separable) else jnp.abs(gap)
    nothing = where(jnp.isfinite(value) & is_finite(y), 0.0, jnp.inf).astype(y.dtype)
    rows, inequalities = equality_residual(problem, y, infeasibility, unit.y, moved), problem.slacks
    return Residuals(
        relative(largest(rest), unit.y if isinstance(objective, Separable) else unit.gradient) + nothing,
        jnp.max(rows[: rows.size - inequalities], initial=0),
        largest(where(jnp.isfinite(bounds), outside, 0.0)),
        jnp.maximum(
            relative(jnp.sum(jnp.abs(products)), unit.value),
            relative(largest(jnp.minimum(multipliers, 0)), unit.gradient),
        ),
        relative(gap, unit.value),
        jnp.max(rows[-inequalities:]) if inequalities else None,
    )
