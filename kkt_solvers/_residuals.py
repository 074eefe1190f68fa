"""The relative KKT residuals of a point: how large is what should cancel, beside the terms that do cancel.

No residual has a unit. The data of a problem may be multiplied by 1e6 or 1e-6 as a whole, or in a row of the equality:
the residuals stay the same. So nothing here is measured beside one.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers._arrays import block_sum, is_finite, is_precise, largest, largest_entries, relative, signs, where
from kkt_solvers._batches import in_any
from kkt_solvers._elementwise import minimise_elementwise
from kkt_solvers._objectives import Objective, Quadratic, Separable, Smooth, SymmetricMap
from kkt_solvers._problem import Box, FlatProblem, Operator, Sum
from kkt_solvers._solution import Dual, Residuals


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


def _absolute(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.abs(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def product_terms(equality: Any, y: jax.Array) -> jax.Array:
    """`|A| |y|`; for an operator `|A S y|`, which is no larger, with a diagonal `S` of signs."""
    if isinstance(equality, Operator):
        return jnp.abs(equality.product(signs(y) * y))
    return _absolute(equality).product(jnp.abs(y))


def adjoint_terms(equality: Any, nu: jax.Array) -> jax.Array:
    """The same for `A'`."""
    if isinstance(equality, Operator):
        return jnp.abs(equality.adjoint(signs(nu) * nu))
    return _absolute(equality).adjoint(jnp.abs(nu))


def row_sizes(problem: FlatProblem) -> jax.Array:
    """The largest absolute entry of each row of `A`; ones for an operator."""
    if isinstance(problem.equality, Operator):
        return jnp.ones(problem.equality.target.size, problem.equality.target.dtype)
    if isinstance(problem.equality, Sum) and problem.equality.weights is None:  # or XLA folds a long constant
        return jnp.ones(1, problem.equality.total.dtype)
    return largest_entries(problem.equality.rows(problem.box.lower.size), axis=1)


# ------------------------------------------------------------------------------------------------ units
class Units(NamedTuple):
    """The sizes beside which residuals are measured."""

    gradient: jax.Array  # the largest term of the stationarity condition
    y: jax.Array
    value: jax.Array  # the sum of the terms of the duality gap


def gradient_and_terms(objective: Objective, y: jax.Array, box: Box) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """`grad f`, and the terms that cancel in it: `P y` and `q`. Where `P y` is rounding, what it may be rounded to: the
    part `_rounding` of the terms `P_ii y_i`.

    For a function the terms are `H S r`, with a diagonal `S` of signs, and the gradient itself: what is left of `H y`
    where `grad f` is linear. `r` is `|y|`, or the distance to a bound that is nearer: beside a bound where the slope is
    infinite `H y` would be as large as one likes.
    """
    if isinstance(objective, Quadratic):
        curved, matrix = objective.hessian_product(y), objective.P
        if matrix is None or matrix.ndim == 1:
            return curved + objective.q, (curved, objective.q)
        own = matrix @ (signs(y) * y) if isinstance(matrix, SymmetricMap) else objective.diagonal() * y
        return curved + objective.q, (curved, objective.q, _rounding(y.dtype) * own)
    if isinstance(objective, Smooth):
        room = jnp.maximum(jnp.minimum(jnp.minimum(y - box.lower, box.upper - y), jnp.abs(y)), 0)
        gradient, curved = jax.jvp(objective.gradient, (y,), (signs(y) * room,))
        return gradient, (gradient, curved)
    gradient = objective.gradient(y)
    return gradient, (where(jnp.isfinite(gradient), gradient, 0),)


def _inverse(size: jax.Array) -> jax.Array:
    """`1 / |size|`, and zero for zero."""
    size = jnp.abs(size)
    return 1 / where(size > 0, size, jnp.inf)


def sizes_of_data(problem: FlatProblem) -> tuple[jax.Array, jax.Array]:
    """The inverse of the nearest bound of each coordinate that is not zero, zero where there is none; and the least
    size of `y` that can meet each row of the equality, zero where `b = 0`."""
    box, target = problem.box, jnp.ravel(problem.equality.target)
    terms = jnp.ravel(product_terms(problem.equality, jnp.ones_like(box.lower)))
    rows = relative(where(terms > 0, jnp.abs(target), 0.0), terms)
    return jnp.max(_inverse(jnp.stack([box.lower, box.upper])), axis=0), rows


def natural_sizes(problem: FlatProblem) -> tuple[jax.Array, jax.Array]:
    """Sizes of `y` and of each of its coordinates, from the data alone, whatever the units of the variables.

    The size of `y` is the least that can meet the equality. Where `b = 0` it is the unconstrained minimiser of a
    quadratic objective or the nearest bound, whichever is nearer to zero, and one where neither is. That of a
    coordinate is its nearest bound that is not zero, or else the least value that alone would meet a row of the
    equality; zero where there is none.
    """
    if problem.natural is not None:
        return problem.natural
    objective, equality = problem.objective, problem.equality
    nearest, rows = sizes_of_data(problem)
    by_rows, closest = jnp.max(rows, initial=0), jnp.max(nearest)
    if isinstance(objective, Quadratic) and objective.P is not None:
        closest = jnp.maximum(closest, largest(objective.diagonal()) * _inverse(largest(objective.q)))
    size = where(by_rows > 0, by_rows, where(closest > 0, 1 / closest, 1.0))
    if not isinstance(equality, Operator) and equality.target.size:
        # A right-hand side that is rounding beside the others is none.
        kept = rows > float(jnp.finfo(rows.dtype).eps) ** 0.5 * by_rows
        target = where(kept, jnp.ravel(equality.target), 0.0)
        nearest = where(nearest > 0, nearest, largest_entries(equality.rows(nearest.size), 0, _inverse(target)))
    return size, _inverse(nearest)


def unit_of_data(problem: FlatProblem) -> jax.Array:
    """A unit of `y` to solve a problem in: the larger of the size that can meet the equality and the nearest bound that
    is not zero; one where there is neither."""
    nearest, rows = sizes_of_data(problem)
    unit = jnp.maximum(jnp.max(rows, initial=0), _inverse(jnp.max(nearest)))
    return where(unit > 0, unit, 1.0)


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
    # Where only what costs nothing is not zero, the others count by a part of the size that they might have.
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
    """The largest entry of `rest = A y - b`, each relative to `|A| |y|` and `|b|` of its own row.

    A row whose `y` is tiny beside the others is met only up to the rounding of those; and no row better than a
    relative change `eps` of the data, which moves `y` by `eps moved`, allows.
    """
    terms = jnp.ravel(jnp.maximum(product_terms(problem.equality, y), jnp.abs(problem.equality.target)))
    unit = jnp.maximum(terms, _rounding(y.dtype) * of_y * row_sizes(problem))
    if moved is not None:
        ulp = float(jnp.finfo(y.dtype).eps) / default_tolerance(y.dtype)
        unit = jnp.maximum(unit, ulp * jnp.ravel(product_terms(problem.equality, moved)))
    return jnp.max(relative(jnp.abs(jnp.ravel(rest)), unit), initial=0)


def _steep_residuals(problem: FlatProblem, y: jax.Array, nu: jax.Array) -> Residuals:
    """Those of a steep objective, whose bounds have no multipliers: few passes, and no value of the objective."""
    box, zero = problem.box, jnp.zeros((), y.dtype)

    # Most often y is the minimiser to the last digit, and inside. One sum shows that: the sum of the sizes of the
    # terms, which is finite only if every entry is in it.
    clean = (y == lagrangian_minimiser(problem, nu)) & (y >= box.lower) & (y <= box.upper)
    checked = where(clean, y, jnp.inf)
    terms = product_terms(problem.equality, checked)
    told = terms if isinstance(problem.equality, Sum) else block_sum(checked)

    def measured() -> tuple[jax.Array, jax.Array, jax.Array]:
        of_y = largest(y)
        outside = jnp.maximum(jnp.maximum(box.lower - y, y - box.upper), 0)
        off = largest(y - lagrangian_minimiser(problem, nu))
        return relative(off, of_y), relative(largest(outside), of_y), product_terms(problem.equality, y)

    unclear = ~jnp.all(jnp.isfinite(told))
    off, outside, terms = jax.lax.cond(in_any(unclear), measured, lambda: (zero, zero, terms))
    rest, target = problem.equality.product(y) - problem.equality.target, problem.equality.target
    of_equality = relative(jnp.abs(jnp.ravel(rest)), jnp.ravel(jnp.maximum(terms, jnp.abs(target))))
    return Residuals(off, jnp.max(of_equality, initial=0), outside, zero, zero)


def residuals(problem: FlatProblem, y: jax.Array, dual: Dual, known: Any = None) -> Residuals:
    """See `Residuals` for the norms. Infinite where something is not a finite number. `known` is the result of
    `gradient_and_terms`, if it is known."""
    if dual.lower is None:
        return _steep_residuals(problem, y, dual.equality)
    box, objective = problem.box, problem.objective
    shift, net = adjoint(problem, dual.equality), dual.upper - dual.lower
    gradient, terms = gradient_and_terms(objective, y, box) if known is None else known
    (natural, _), moved = natural_sizes(problem), None
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
    infeasibility = problem.equality.product(y) - problem.equality.target
    # The gap is the same number as in `Residuals`, in a form that does not cancel.
    gap = jnp.vdot(rest, y) + jnp.sum(products) - jnp.vdot(dual.equality, infeasibility)
    gap = jnp.zeros_like(gap) if isinstance(objective, Separable) else jnp.abs(gap)
    nothing = where(jnp.isfinite(value) & is_finite(y), 0.0, jnp.inf).astype(y.dtype)
    return Residuals(
        relative(largest(rest), unit.y if isinstance(objective, Separable) else unit.gradient) + nothing,
        equality_residual(problem, y, infeasibility, unit.y, moved),
        largest(where(jnp.isfinite(bounds), outside, 0.0)),
        jnp.maximum(
            relative(jnp.sum(jnp.abs(products)), unit.value),
            relative(largest(jnp.minimum(multipliers, 0)), unit.gradient),
        ),
        relative(gap, unit.value),
    )
