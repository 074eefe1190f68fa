"""Several equalities and a separable objective: a safeguarded Newton method on the concave dual."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.certificates import certificate_of_infeasibility
from kkt_solvers.conditions.elementwise import minimise_elementwise, slope_of_minimiser
from kkt_solvers.conditions.residuals import default_tolerance
from kkt_solvers.data.entropy import is_gibbs
from kkt_solvers.data.marginals import Marginals
from kkt_solvers.data.matrix import Matrix
from kkt_solvers.data.objectives import Separable
from kkt_solvers.data.problem import Box, FlatProblem
from kkt_solvers.data.sizes import middle_of_box
from kkt_solvers.data.solution import Dual, Status
from kkt_solvers.numerics.arrays import largest, power_of_two, relative, tree_where
from kkt_solvers.numerics.batches import when_any
from kkt_solvers.numerics.progress import report
from kkt_solvers.solvers._base import Solver, separable
from kkt_solvers.solvers._scaling import scaled_potentials
from kkt_solvers.systems.normal import Normal, normal, solve_semidefinite

_TRIES = 60  # of one line search
_DAMPING = 1e-2  # of the first iteration, relative to the gradient
_TAME = 1e6  # the largest gradient, relative to b, of a start worth starting from
_PATIENCE = 6  # iterations without progress


@dataclass(frozen=True)
class DualNewton(Solver):
    """Solve `min sum_i phi(y_i) s.t. A y = b, l <= y <= u` by its dual of as many variables as `A` has rows.

    The minimiser of the Lagrangian is `y = psi(-A'nu)`, with `psi` the elementwise minimiser over the box, and the
    dual function has the gradient `A y - b` and the generalised Hessian `-A D A'`, `D = psi'(-A'nu)`. Each iteration
    solves with `A D A'` plus a proximal term that shrinks with the gradient, as `D` vanishes wherever `y` sits on
    bounds or saturates, and rows may be dependent. The line search looks at slopes alone: the dual is concave, so
    slopes bound its gain, and they are exact to rounding long after differences of its values have drowned. It also
    lengthens a step, which crosses a plateau.

    Prefer it for a separable objective whose equalities are few (hundreds) beside its variables (any number): each
    iteration costs O(n m^2), and O(a b min(a, b)) for the `Marginals` of a plan, where entropic transport starts from
    sweeps of scaling [cuturi2013]. With one equality `DualBisection` is faster. Other objectives raise a `ValueError`.

    Arguments:
        tol: largest relative KKT residual of a `SOLVED` point; `None` for the default of the dtype. The root is
            sought to rounding.
        max_iterations: of the Newton method; most problems take 5 to 30.

    Source: [qi2006] and [li2018] for the semismooth dual Newton method, [boyd2004] for the dual.
    """

    tol: float | None = None
    max_iterations: int = 300

    def run(
        self, problem: FlatProblem, init: jax.Array, dual: Dual | None = None
    ) -> tuple[jax.Array, Dual, jax.Array, jax.Array]:
        objective = separable(problem, "DualNewton", "InteriorPoint takes any smooth objective")
        tol = default_tolerance(init.dtype) if self.tol is None else self.tol
        start = None if dual is None or dual.equality is None else dual.equality
        y, nu, iterations, claim = dual_newton(objective, problem, start, tol, self.max_iterations)
        return y, Dual(nu.reshape(problem.equality.target.shape), None, None), iterations, claim


class _Point(NamedTuple):
    s: jax.Array  # -nu, of rows scaled to a unit
    y: jax.Array
    slope: jax.Array  # of the negative dual: A y - b, scaled
    terms: jax.Array  # |A| |y|, scaled
    capped: jax.Array  # whether a y without bound is at its cap


class _State(NamedTuple):
    now: _Point
    best: _Point
    smallest: jax.Array  # the residual of the best point
    good: jax.Array  # whether that point is within the tolerance
    mark: jax.Array  # what it was when it last fell by half, and the iterations since
    since: jax.Array
    failures: jax.Array  # steps in a row that did not move the point beyond rounding
    damping: jax.Array
    ray: jax.Array
    infeasible: jax.Array
    cap: jax.Array  # stands for infinite bounds
    iterations: jax.Array


def dual_newton(
    objective: Separable, problem: FlatProblem, nu: jax.Array | None, tol: float, max_iterations: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """`(y, nu, iterations, claim)` with `y = psi(-A'nu)` and `A y = b`. The objective of `problem` is not used."""
    equality, lower, upper = problem.equality, problem.box.lower, problem.box.upper
    dtype, eps = lower.dtype, float(jnp.finfo(lower.dtype).eps)
    if equality.target.size == 0:
        y = minimise_elementwise(objective, jnp.zeros_like(lower), lower, upper)
        return y, equality.target, jnp.zeros((), jnp.int32), jnp.asarray(Status.SOLVED)
    size = problem.equality.row_sizes()
    scale = 1 / power_of_two(jnp.where(size > 0, size, 1.0))
    A = problem.rows if isinstance(problem.rows, Marginals) else problem.rows.densified()
    A = A.scaled(scale, jnp.ones((), dtype))
    sizes, target = A.absolute(), scale * jnp.ravel(equality.target)
    rounding = max(4.0, (A.stored() / A.shape[0]) ** 0.5) * eps  # of a sum over a row

    def at(s: jax.Array, cap: jax.Array) -> _Point:
        y = _minimiser(objective, A.adjoint(s), *_capped(problem, cap))
        unbounded = ~jnp.isfinite(jnp.where(y > 0, upper, lower))
        capped = jnp.any(unbounded & (jnp.abs(y) >= cap))
        return _Point(s, y, A.product(y) - target, sizes.product(jnp.abs(y)), capped)

    def residual(point: _Point) -> jax.Array:
        """The largest residual of a row, relative to its own terms, or to a small part of those of all rows."""
        terms = point.terms + jnp.abs(target)
        off = relative(jnp.abs(point.slope), jnp.maximum(terms, eps**0.5 * jnp.max(terms)))
        good = jnp.all(jnp.isfinite(point.slope)) & ~point.capped
        return jnp.where(good, jnp.max(off), jnp.inf)

    def absolute(point: _Point) -> jax.Array:
        return relative(largest(point.slope / scale), largest(point.terms / scale, target / scale))

    def proof(nu: jax.Array) -> tuple[jax.Array, jax.Array]:
        nu = nu / jnp.maximum(largest(nu), jnp.finfo(dtype).tiny)
        return certificate_of_infeasibility(problem, nu.reshape(equality.target.shape)), nu

    def proved(candidates: jax.Array) -> tuple[jax.Array, jax.Array]:
        proofs, nus = jax.vmap(proof)(candidates)
        return jnp.any(proofs), nus[jnp.argmax(proofs)]

    def step(state: _State) -> _State:
        now = state.now
        D = _slope(objective, A.adjoint(now.s), *_capped(problem, state.cap))
        H = normal(A, jnp.where(jnp.isfinite(D), jnp.maximum(D, 0), 0))
        level = largest(now.slope)
        d = -_solve(H, state.damping * level, now.slope)
        fall = -jnp.vdot(now.slope, d)
        enough = jnp.where(jnp.isfinite(state.mark), 0.5 * state.mark, 0.0)
        length, following = _search(lambda s: at(s, state.cap), now, d, fall, enough, residual)
        moved = length > 0
        damping = state.damping * jnp.where(
            length >= 1, 0.1, jnp.where(length >= 0.2, 1.0, jnp.where(moved, 4.0, 100.0))
        )

        far = largest(following.s - now.s) > rounding * largest(now.s)
        new = residual(following)
        better, halved = new < state.smallest, (new <= 0.5 * state.mark) & jnp.isfinite(new)
        candidates = -scale * jnp.stack([following.s, d, -following.slope])
        infeasible, ray = when_any(~halved, lambda: proved(candidates), (jnp.zeros((), bool), state.ray))
        off = absolute(following)
        report(state.iterations + 1, objective(following.y), off)
        return _State(
            following,
            tree_where(better, following, state.best),
            jnp.where(better, new, state.smallest),
            jnp.where(better, off <= tol, state.good),
            jnp.where(halved, new, state.mark),
            jnp.where(halved, 0, state.since + 1),
            jnp.where(far | jnp.isfinite(state.cap), 0, state.failures + 1),
            jnp.clip(damping, 1e-15, 1e15),
            ray,
            infeasible,
            4 * state.cap,
            state.iterations + 1,
        )

    def unfinished(state: _State) -> jax.Array:
        enough = state.good & (state.since >= jnp.where(state.smallest <= tol, 2, _PATIENCE))
        return (
            (state.smallest > rounding)
            & ~enough
            & (state.failures < _PATIENCE)
            & ~state.infeasible
            & jnp.all(jnp.isfinite(state.now.slope))
            & (state.iterations < max_iterations)
        )

    # If every start overflows, infinite bounds are replaced by a finite cap for a while.
    infinite, reach = jnp.asarray(jnp.inf, dtype), 1 + largest(target)

    def steepness(point: _Point) -> jax.Array:
        return jnp.where(jnp.all(jnp.isfinite(point.slope)), largest(point.slope), jnp.inf)

    def less_steep(one: _Point, other: _Point) -> _Point:
        return tree_where(steepness(other) < steepness(one), other, one)

    if nu is None and is_gibbs(objective) and isinstance(problem.rows, Marginals):
        starts = [scaled_potentials(objective, problem.rows, jnp.ravel(equality.target)) / scale]
    else:
        starts = [jnp.zeros_like(scale), *([] if nu is None else [-jnp.ravel(nu) / scale])]
    first = functools.reduce(less_steep, [at(s, infinite) for s in starts])
    inside = functools.partial(_inside, objective, problem.box, A)
    first = when_any(steepness(first) > _TAME * reach, lambda: less_steep(first, at(inside(), infinite)), first)
    cap = jnp.where(steepness(first) > _TAME * reach, 1e3 * reach, infinite)
    first = when_any(jnp.isfinite(cap), lambda: at(first.s, cap), first)
    smallest = residual(first)
    off = absolute(first)
    report(jnp.zeros((), jnp.int32), objective(first.y), off)
    none, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    damping = jnp.asarray(_DAMPING, dtype)
    start = _State(first, first, smallest, off <= tol, smallest, none, none, damping, first.s, no, cap, none)
    final = jax.lax.while_loop(unfinished, step, start)
    stopped = jnp.where(final.iterations < max_iterations, Status.INACCURATE, Status.MAX_ITERATIONS)
    converged = final.good & jnp.isfinite(final.smallest)
    claim = jnp.where(converged, Status.SOLVED, stopped)
    claim = jnp.where(final.infeasible, Status.PRIMAL_INFEASIBLE, claim)
    return final.best.y, jnp.where(final.infeasible, final.ray, -final.best.s * scale), final.iterations, claim


def _capped(problem: FlatProblem, cap: jax.Array) -> tuple[jax.Array, jax.Array]:
    lower, upper = problem.box.lower, problem.box.upper
    return jnp.where(jnp.isfinite(lower), lower, -cap), jnp.where(jnp.isfinite(upper), upper, cap)


def _minimiser(objective: Separable, z: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """`psi(z)` also for a `z` beyond the range of `phi'`, where `minimiser(z)` is not valid. Example: the one of
    `-log y` is `-1 / z`; for a positive `z` it is below every bound, but `psi(z)` is the upper bound."""
    if objective.minimiser is None:
        return minimise_elementwise(objective, z, lower, upper)
    free = objective.minimiser(z, objective.theta)
    room = 8 * jnp.finfo(z.dtype).eps * (1 + jnp.abs(z))

    def at_bounds() -> jax.Array:
        too_low = (free < lower) & ~(objective.gradient(lower) >= z - room)
        too_high = (free > upper) & ~(objective.gradient(upper) <= z + room)
        return jnp.where(too_low, upper, jnp.where(too_high, lower, jnp.clip(free, lower, upper)))

    return when_any(jnp.any((free < lower) | (free > upper)), at_bounds, free)


def _slope(objective: Separable, z: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """`psi'(z)` by one evaluation of the minimiser; not to be differentiated itself."""
    minimiser = objective.minimiser
    if minimiser is None:
        return slope_of_minimiser(objective, z, lower, upper)
    free, slope = jax.jvp(lambda z: minimiser(z, objective.theta), (z,), (jnp.ones_like(z),))
    return jnp.where((free < lower) | (free > upper), 0.0, slope)


def _solve(H: Normal, shift: jax.Array, r: jax.Array) -> jax.Array:
    """`(H + shift I)^{-1} r` with H scaled to a unit diagonal and shifted by rounding."""
    eps, tiny = jnp.finfo(r.dtype).eps, jnp.finfo(r.dtype).tiny
    e = jax.lax.rsqrt(jnp.maximum(H.diagonal + shift, tiny))
    return e * H.factor(e, shift * e * e + 8 * r.size * eps).solve(e * r)


class _Line(NamedTuple):
    t: jax.Array
    low: jax.Array
    q_low: jax.Array
    high: jax.Array
    q_high: jax.Array
    lowest: _Point  # the points at low and high
    highest: _Point
    chosen: jax.Array
    tries: jax.Array


def _search(at: Any, now: _Point, d: jax.Array, fall: jax.Array, enough: jax.Array, residual: Any) -> Any:
    """A length `t` at which the slope `q(t)` of the negative dual along `d` is between `-fall / 4` and `fall / 4`, or
    nearly, and its point; `t` is zero if there is none.

    `low` and `high` hold the root of the nondecreasing `q`. From 0 to `low` the value falls by at least
    `-low q(low)`, from there to `high` it rises by at most `(high - low) q(high)`: so `high` is taken only where the
    first is twice the second. A residual of at most `enough` is always good enough.
    """

    def step(line: _Line) -> _Line:
        t = line.t
        point = at(now.s + t * d)
        q = jnp.vdot(point.slope, d)
        q = jnp.where(jnp.isfinite(q), q, jnp.inf)
        below = q <= 0
        low, q_low, lowest = tree_where(below, (t, q, point), (line.low, line.q_low, line.lowest))
        high, q_high, highest = tree_where(below, (line.high, line.q_high, line.highest), (t, q, point))
        proved = (high < jnp.inf) & (-low * q_low >= 2 * (high - low) * q_high)
        good = (residual(point) <= enough) | (below & (q >= -0.25 * fall))
        chosen = jnp.where(good, t, jnp.where(proved, high, 0.0))
        between = jnp.where(low == 0, 0.25 * high, 0.5 * (low + high))
        t = jnp.where(high < jnp.inf, between, 4 * t)
        return _Line(t, low, q_low, high, q_high, lowest, highest, chosen, line.tries + 1)

    def unfinished(line: _Line) -> jax.Array:
        return (line.chosen == 0) & (line.tries < _TRIES) & (fall > 0) & jnp.isfinite(fall)

    zero = jnp.zeros_like(fall)
    infinite = zero + jnp.inf
    start = _Line(zero + 1, zero, -fall, infinite, infinite, now, now, zero, jnp.zeros((), jnp.int32))
    line = jax.lax.while_loop(unfinished, step, start)
    past = (line.chosen > 0) & (line.chosen == line.high)
    return tree_where(past, (line.high, line.highest), (line.low, line.lowest))


def _inside(objective: Separable, box: Box, A: Matrix) -> jax.Array:
    """A start with `psi <= y` for a `y` in the box, where no exponential overflows; zero unless the rows can move every
    z down."""
    y = middle_of_box(box)
    one = jnp.ones_like(y)
    down = solve_semidefinite(normal(A, one), A.product(one))
    w = A.adjoint(down)
    length = jnp.min(jnp.where(w > 0, objective.gradient(y) / jnp.where(w > 0, w, 1.0), jnp.inf))
    return jnp.where(jnp.all(w > 0.1) & jnp.isfinite(length), length, 0.0) * down
