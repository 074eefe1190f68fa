"""The exact solution on the active set of a nearly solved problem."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers._arrays import tree_where
from kkt_solvers._batches import in_any
from kkt_solvers._conditions import bound_multipliers, held_by, with_a_row, without_the_row
from kkt_solvers._linear import DenseKKT, MatrixFreeKKT, Pair, RegularisedKKT, choose
from kkt_solvers._objectives import Quadratic, hessian_product
from kkt_solvers._problem import FlatProblem
from kkt_solvers._residuals import residuals
from kkt_solvers._solution import Dual

_ROUNDS = 6
_EXACT = 5e-7  # no residual larger than this is, in float32, where digits are few


def polished(
    problem: FlatProblem, y: jax.Array, dual: Dual, smallest: jax.Array, thorough: jax.Array | bool = True
) -> tuple[jax.Array, Dual, jax.Array]:
    """A Newton step on the active set of the point, kept if the largest KKT residual is no larger for it.

    Where coordinates leave the box by that step, or multipliers are negative, the active set is mended by them and the
    step taken again, as long as fewer and fewer are wrong: the primal-dual active set method [hintermueller2002].
    A factorisation with pivoting is dear: if the result is to be `thorough`, and is not exact without, it is done once.
    """
    original = problem
    problem, dual = with_a_row(problem, dual)
    (lower, upper), objective, system = (problem.box.lower, problem.box.upper), problem.objective, choose(problem)
    fixed, rounds = lower == upper, _ROUNDS if is_mendable(problem) else 1
    exact = min(float(jnp.finfo(y.dtype).eps) ** 0.75, _EXACT)

    def quick_or_pivoted(pivot: jax.Array, start: jax.Array, mask: jax.Array, right: Pair) -> Pair:
        def solved(pivot: bool) -> Pair:
            return RegularisedKKT(pivot).solve(problem, start, mask, right)

        quick = jax.lax.cond(in_any(~pivot), lambda: solved(False), lambda: right)
        return jax.lax.cond(in_any(pivot), lambda: tree_where(pivot, solved(True), quick), lambda: quick)

    def again(state: _Polish) -> _Polish:
        below, above = state.active
        start, _ = off_steep_bounds(problem, jnp.where(below, lower, jnp.where(above, upper, y)))
        mask = (~(below | above)).astype(y.dtype)
        gradient = objective.gradient(start) + problem.equality.adjoint(state.nu)
        right = -gradient, problem.equality.target - problem.equality.product(start)
        if isinstance(system, DenseKKT):
            dy, dnu = quick_or_pivoted(state.pivot, start, mask, right)
        else:
            dy, dnu = system.solve(problem, start, mask, right)
        dy, nu = mask * dy, state.nu + dnu
        candidate, _ = off_steep_bounds(problem, jnp.clip(start + dy, lower, upper))
        new = candidate, Dual(nu, *bound_multipliers(problem, candidate, nu))
        largest = residuals(problem, *new).largest
        best, smallest = tree_where(largest <= state.smallest, (new, largest), (state.best, state.smallest))
        slope = gradient + hessian_product(objective, start, dy) + problem.equality.adjoint(dnu)
        held = fixed | jnp.where(below, slope > 0, start + dy < lower), jnp.where(above, slope < 0, start + dy > upper)
        held = held[0], held[1] & ~held[0]
        wrong = jnp.sum((held[0] != below) | (held[1] != above))
        mend = (state.taken < rounds) & (wrong > 0) & (wrong < state.wrong) & ~state.pivot
        pivot = jnp.asarray(thorough & isinstance(system, DenseKKT)) & ~state.pivot & ~mend & ~(smallest <= exact)
        active, nu = tree_where(pivot, (first.active, first.nu), (held, nu))
        return _Polish(active, nu, best, smallest, wrong, state.taken + 1, pivot, mend | pivot)

    below, above = held_by(problem, y, dual.equality, dual.lower, dual.upper)
    few, true = jnp.asarray(max(y.size // 5, 4)), jnp.ones((), bool)
    first = _Polish(
        (below | fixed, above & ~fixed), dual.equality, (y, dual), smallest, few, jnp.ones_like(few), ~true, true
    )
    last = jax.lax.while_loop(lambda state: state.unfinished, again, first)
    y, dual = last.best
    return y, without_the_row(original, dual), last.smallest


class _Polish(NamedTuple):
    active: tuple[jax.Array, jax.Array]  # where y is at the lower and at the upper bound
    nu: jax.Array
    best: tuple[jax.Array, Dual]
    smallest: jax.Array  # the largest KKT residual of it
    wrong: jax.Array  # the number of coordinates that were in the wrong set
    taken: jax.Array  # steps, with that which is now
    pivot: jax.Array
    unfinished: jax.Array


def is_mendable(problem: FlatProblem) -> bool:
    """Whether a wrong active set is worth another step: not in a linear program, whose vertex needs as many free
    coordinates as rows, and not where the step takes conjugate gradients."""
    objective = problem.objective
    linear = isinstance(objective, Quadratic) and objective.P is None
    return not linear and not isinstance(choose(problem), MatrixFreeKKT)


_NEAR = 1e-6  # nearer to a bound than this a step of rounding may be felt


def off_steep_bounds(problem: FlatProblem, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A bound where the slope is infinite is not reached, though rounding may say so, and beside it the slope changes
    with the last digit of y. There y goes inward by two digits, so that what is left of the slope is for the
    multiplier of the bound; also where that is. On the bound itself automatic differentiation may say anything."""
    (lower, upper), objective = (problem.box.lower, problem.box.upper), problem.objective
    if isinstance(objective, Quadratic):
        return y, jnp.zeros(y.shape, bool)
    info = jnp.finfo(y.dtype)
    sizes = (jnp.where(jnp.isfinite(bound), jnp.abs(bound), 0) for bound in (lower, upper))
    digit_low, digit_high = (2 * jnp.maximum(info.tiny, info.eps * size) for size in sizes)
    room = upper - lower > 2 * (digit_low + digit_high)
    near_low, near_high = (gap <= _NEAR * (1 + jnp.abs(y)) for gap in (y - lower, upper - y))
    beside = jnp.where(room & near_high, y - digit_high, jnp.where(room & near_low, y + digit_low, y))
    there, here = objective.gradient(beside), objective.gradient(y)
    steep = (beside != y) & ~(jnp.abs(there - here) <= 1e-4 * jnp.sqrt(info.eps) * (1 + jnp.abs(here)))
    return jnp.where(steep, beside, y), steep
