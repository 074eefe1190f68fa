"""A primal-dual interior-point method for any smooth convex objective with affine equalities and a box."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers._arrays import is_finite, is_precise, largest, signs, tree_where
from kkt_solvers._batches import in_any, one_by_one
from kkt_solvers._conditions import (
    certificate_of_infeasibility,
    ray_of_descent,
    reduced_gradient,
    with_a_row,
    without_the_row,
)
from kkt_solvers._objectives import Quadratic
from kkt_solvers._problem import Box, FlatProblem
from kkt_solvers._progress import report
from kkt_solvers._residuals import default_tolerance, gradient_and_terms, residuals, row_sizes
from kkt_solvers._solution import Dual, Status
from kkt_solvers.solvers._base import Solver
from kkt_solvers.solvers._equilibrate import Scales, equilibrated
from kkt_solvers.solvers._line_search import TO_BOUNDARY, Iterate, backtracked
from kkt_solvers.solvers._newton import factorised, is_sparse, missing_curvature, with_curvature
from kkt_solvers.solvers._polish import is_mendable, off_steep_bounds, polished

_SHORT = 0.8  # steps below it are corrected, up to so many times
_CORRECTORS = 3
# The residual at which the active set is first tried, and then, if it can be mended; if it cannot. After that, by how
# much the residual falls until the next time.
_EARLY, _NEARLY, _IDENTIFIED, _RETRY = 1e-1, 1e-2, 1e-5, 1e-3
_PATIENCE = 50  # iterations without progress
_FAR = 1e3  # of an iterate of the scaled problem, to be looked at as a proof that there is no solution
_INFINITE = 1e15  # bounds beyond this are none


class _State(NamedTuple):
    now: Iterate
    mu: jax.Array  # the mean of its products of slack and multiplier
    best: tuple[jax.Array, Dual]  # in the terms of the problem that is not scaled
    smallest: jax.Array  # its largest KKT residual
    due: jax.Array  # that at which its active set is solved for next
    mark: jax.Array  # what it was when it last fell by a tenth, and the iterations since
    since: jax.Array
    claim: jax.Array
    firm: jax.Array  # whether a matrix of it was not definite without more regularisation
    held: jax.Array | None  # whether free coordinates are held by more; `None` where they never are
    elastic: jax.Array  # whether it looks for the point nearest to the equality
    iterations: jax.Array


@dataclass(frozen=True)
class InteriorPoint(Solver):
    """Predictor-corrector interior point, for quadratic and linear programs and any smooth convex objective.

    Each iteration takes a Newton step on the KKT conditions with complementarity relaxed to `z (y - l) = mu`. The
    iterates stay strictly inside the box, so an objective need only be finite there. The equality need not hold
    before the end. Quadratic objectives: Mehrotra's predictor and corrector. Others: backtracking on the norm of the
    relaxed conditions, inside the domain of the objective. A Cholesky factorisation of `H + D` and one of the Schur
    complement `A (H + D)^{-1} A'` in every iteration, both regularised as a proximal point method, so that dependent
    rows and flat objectives do no harm. A diagonal or low-rank `H` costs only the latter; of a dense one only the rows
    count that have entries beside the diagonal. From a residual of 1e-1 on the active set is solved for exactly, mended
    where that shows a few coordinates to be wrong, and the result kept if it is better: this spares the last
    iterations, and multipliers of free coordinates are zero. A quadratic program on which the method gets stuck is
    searched for a proof that it is infeasible: the distance of the box from the equality.

    On a CPU the instances of a batch (`jax.vmap`) are solved one after the other, each with as many iterations as it
    needs; elsewhere in step.

    For high accuracy on problems up to a few thousand variables. A separable objective with one equality is better
    served by `DualBisection`.

    Arguments:
        tol: largest relative KKT residual of a `SOLVED` point; `None` for the default of the dtype.
        max_iterations: of the Newton method; most problems take 10 to 30.
        polish: whether to solve for the active set, once it should be known and at the end.

    Source: [mehrotra1992], with the proximal regularisation of [pougkakiotis2021] and the active sets of
    [hintermueller2002].
    """

    tol: float | None = None
    max_iterations: int = 200
    polish: bool = True

    def run(
        self, problem: FlatProblem, init: jax.Array, dual: Dual | None = None
    ) -> tuple[jax.Array, Dual, jax.Array, jax.Array]:
        rows, dual = with_a_row(problem, dual)
        y, found, iterations, claim = one_by_one(self._run)(rows, init, dual)
        return y, without_the_row(problem, found), iterations, claim

    def _run(
        self, problem: FlatProblem, init: jax.Array, dual: Dual | None
    ) -> tuple[jax.Array, Dual, jax.Array, jax.Array]:
        tol = default_tolerance(init.dtype) if self.tol is None else self.tol
        quadratic = isinstance(problem.objective, Quadratic)
        missing = missing_curvature(problem, init) if quadratic else jnp.zeros((), init.dtype)
        scaled, scales = equilibrated(with_curvature(problem, missing), init, sparse=is_sparse(problem))

        def measured(point: Iterate) -> tuple[tuple[jax.Array, Dual], jax.Array]:
            found = _unscaled(problem, scales, point)
            worst = residuals(problem, *found).largest
            return found, jnp.where(jnp.isfinite(worst), worst, jnp.inf)

        def exact(
            found: tuple[jax.Array, Dual], smallest: jax.Array, thorough: jax.Array | bool
        ) -> tuple[tuple[jax.Array, Dual], jax.Array]:
            y, dual, smallest = polished(problem, *found, smallest, thorough)
            return (y, dual), smallest

        def proves(nu: jax.Array, rays: jax.Array) -> jax.Array:
            nu = (scales.rows * nu).reshape(problem.equality.target.shape)
            descents = jax.vmap(lambda ray: ray_of_descent(problem, scales.variables * ray))(rays)
            return jnp.append(descents, certificate_of_infeasibility(problem, nu))

        def told(state: _State) -> None:
            report(state.iterations, problem.objective(state.best[0]), state.smallest)

        # Of a similar problem the active set is often the same.
        warm = None if dual is None else exact((init, dual), jnp.asarray(jnp.inf, init.dtype), True)
        final = _iterate(
            scaled,
            jnp.isfinite(missing),
            init / scales.variables,
            warm,
            measured,
            exact if self.polish else None,
            proves,
            told,
            tol,
            self.max_iterations,
        )
        (y, dual), smallest = final.best, final.smallest
        nu, ray, claim = final.now.nu, final.now.y, final.claim
        if not quadratic:
            claim = jnp.where(jnp.isfinite(missing_curvature(problem, y)), claim, Status.INVALID)
        unsolved = claim == Status.MAX_ITERATIONS
        claim = jnp.where(unsolved & (final.iterations < self.max_iterations), Status.INACCURATE, claim)
        claim = jnp.where(unsolved & (smallest <= tol), Status.SOLVED, claim)
        shape = problem.equality.target.shape
        stands = (row_sizes(problem) > 0).astype(init.dtype).reshape(shape)  # a row of zeros has no price
        nu = jnp.where(claim == Status.PRIMAL_INFEASIBLE, (scales.rows * nu).reshape(shape), dual.equality * stands)
        y = jnp.where(claim == Status.DUAL_INFEASIBLE, scales.variables * ray, y)
        return y, Dual(nu, dual.lower, dual.upper), final.iterations, claim


# ------------------------------------------------------------------------------------------- the scales
def _unscaled(problem: FlatProblem, scales: Scales, point: Iterate) -> tuple[jax.Array, Dual]:
    """The point in the terms of the problem.

    The multiplier of a fixed variable, and that of a steep bound beside y, takes up what is left of the slope.
    """
    box, d, c = problem.box, scales.variables, scales.objective
    y = jnp.clip(d * point.y, box.lower, box.upper)
    nu = (scales.rows * point.nu / c).reshape(problem.equality.target.shape)
    fixed = box.lower == box.upper
    y, steep = off_steep_bounds(problem, y)
    taken = fixed | steep
    slope = reduced_gradient(problem, y, nu)
    finite = jnp.isfinite(jnp.stack([box.lower, box.upper]))
    z = jnp.where(taken & finite, jnp.maximum(_both(slope), 0), point.z / (d * c))
    return y, Dual(nu, *z)


# --------------------------------------------------------------------------------------------- the method
def _both(v: jax.Array) -> jax.Array:
    """What `v` is to the lower bounds and to the upper ones: `(v, -v)`."""
    return jnp.stack([v, -v])


def _distances(box: Box, y: jax.Array) -> jax.Array:
    return jnp.stack([y - box.lower, box.upper - y])


def _start_inside(problem: FlatProblem, init: jax.Array, has: jax.Array) -> Iterate:
    """Strictly inside the box; where `init` is not, a tenth of its width or a unit away from the bound."""
    lower, upper = problem.box.lower, problem.box.upper
    gap = jnp.minimum(jnp.where(has[0] & has[1], 0.1 * (upper - lower), 1.0), 1.0)
    y = jnp.where(has[0] & ~(init - lower > 1e-2 * gap), lower + gap, init)
    y = jnp.where(has[1] & ~(upper - y > 1e-2 * gap), upper - gap, y)
    # A start on a kink, as of a norm at the origin, is left by an irregular little step.
    smooth = is_finite(*gradient_and_terms(problem.objective, y, problem.box)[1])
    y = jnp.where(smooth, y, y + 1e-3 * gap * (2 + signs(y)))
    y = jnp.where(lower == upper, lower, y)
    slope = largest(problem.objective.gradient(y))
    size = jnp.where(jnp.isfinite(slope), jnp.clip(slope, 1e-3, 1e8), 1.0)
    slack = jnp.where(has, _distances(problem.box, y), 1.0)
    z = jnp.where(has, size / jnp.maximum(slack, 0.1), 0.0)
    return Iterate(y, jnp.zeros_like(problem.equality.target).ravel(), slack, z)


def _start_quadratic(problem: FlatProblem, has: jax.Array, moves: jax.Array) -> Iterate:
    """Mehrotra's: the least-squares point of the equality, its slacks and multipliers shifted to be positive."""
    objective, equality = problem.objective, problem.equality
    y = jnp.where(moves > 0, 0.0, problem.box.lower)
    solve, _ = factorised(problem, y, jnp.ones_like(y), moves, jnp.ones((), bool), jnp.zeros((), bool))
    target = jnp.ravel(equality.target - equality.product(y))
    dy, nu = solve(-objective.gradient(y), target)
    y = y + moves * dy
    slope = objective.gradient(y) + equality.adjoint(nu.reshape(equality.target.shape))

    pair = jnp.stack([_distances(problem.box, y), _both(0.5 * slope)])
    least = jnp.min(jnp.where(has, pair, jnp.inf), axis=(1, 2), initial=jnp.inf, keepdims=True)
    slack, z = pair + jnp.maximum(-1.5 * least, 0.0)
    product, of_slack, of_z = jnp.sum(jnp.where(has, jnp.stack([slack * z, slack, z]), 0.0), axis=(1, 2))
    more_slack = jnp.clip(0.5 * product / jnp.maximum(of_z, 1e-10), 1e-2, 1e10)
    more_z = jnp.clip(0.5 * product / jnp.maximum(of_slack, 1e-10), 1e-2, 1e10)
    return Iterate(y, nu, jnp.where(has, slack + more_slack, 1.0), jnp.where(has, z + more_z, 0.0))


def _iterate(
    problem: FlatProblem,
    convex: jax.Array,
    init: jax.Array,
    warm: Any,
    measured: Any,
    exact: Any,
    proves: Any,
    told: Any,
    tol: float,
    max_iterations: int,
) -> _State:
    objective, equality, (lower, upper) = problem.objective, problem.equality, (problem.box.lower, problem.box.upper)
    dtype, eps = init.dtype, float(jnp.finfo(init.dtype).eps)
    quadratic = isinstance(objective, Quadratic)
    linear = quadratic and objective.P is None
    fixed = lower == upper
    moves = (~fixed).astype(dtype)
    has = jnp.stack([lower > -_INFINITE, upper < _INFINITE]) & ~fixed
    bounds = jnp.sum(has)
    has_free = jnp.any((moves > 0) & ~has[0] & ~has[1])
    has_bounds, count = bounds > 0, jnp.maximum(bounds, 1).astype(dtype)
    target = equality.target

    def conditions(p: Iterate, elastic: Any = False) -> tuple[jax.Array, jax.Array]:
        slope = jnp.where(elastic, 0.0, objective.gradient(p.y))
        slope = slope + equality.adjoint(p.nu.reshape(target.shape)) - p.z[0] + p.z[1]
        return moves * slope, jnp.ravel(equality.product(p.y) - target) - jnp.where(elastic, p.nu, 0.0)

    def gap(p: Iterate) -> jax.Array:
        return jnp.vdot(p.slack, p.z) / count

    def direction(p: Iterate, solve: Any, rd: Any, rp: Any, product: jax.Array, part: float = 1.0) -> Iterate:
        # z ds + s dz = product, with ds = (dy, -dy) + rs: the slacks need not be those of y before the end.
        rs = jnp.where(has, _distances(problem.box, p.y) - p.slack, 0.0)
        rs = part * rs  # none of it for a corrector, whose rd and rp are zero too
        push = (product - p.z * rs) / p.slack
        dy, dnu = solve(-rd + push[0] - push[1], -rp)
        ds = jnp.where(has, _both(dy) + rs, 0.0)
        return Iterate(dy, dnu, ds, (product - p.z * ds) / p.slack)

    def advance(p: Iterate, d: Iterate, primal: jax.Array, dual: jax.Array, *, clip: bool = True) -> Iterate:
        slack = p.slack + primal * d.slack
        if clip:
            slack = jnp.where(has, jnp.maximum(slack, jnp.finfo(dtype).tiny), 1.0)
        return Iterate(p.y + primal * d.y, p.nu + dual * d.nu, slack, p.z + dual * d.z)

    def longest(p: Iterate, d: Iterate) -> tuple[jax.Array, jax.Array]:
        """The largest parts of the step, at most one, that keep slacks and multipliers nonnegative."""
        shrinking = [jnp.where(step < 0, -step / now, 0.0) for now, step in ((p.slack, d.slack), (p.z, d.z))]
        ratios = shrinking if linear else [jnp.maximum(*shrinking)]
        parts = [1 / jnp.max(ratio, initial=1.0) for ratio in ratios]
        return parts[0], parts[-1]

    def corrected(
        p: Iterate, solve: Any, d: Iterate, ap: jax.Array, ad: jax.Array, centre: jax.Array
    ) -> tuple[Iterate, jax.Array, jax.Array]:
        """While the step is short: aim at a longer one, and bring the products that are far from `centre` there nearer
        to it. One more solve with the same factor each."""

        def towards(product: jax.Array) -> jax.Array:
            far = jnp.maximum(jnp.clip(product, 0.1 * centre, 10 * centre) - product, -10 * centre)
            return jnp.where(has, far, 0.0)

        def once(state: Any) -> Any:
            d, ap, ad, tries, _ = state
            further = advance(p, d, jnp.minimum(1.0, 1.2 * ap + 0.2), jnp.minimum(1.0, 1.2 * ad + 0.2), clip=False)
            product = towards(further.slack * further.z)
            more = direction(p, solve, jnp.zeros_like(p.y), jnp.zeros_like(p.nu), product, part=0.0)
            new = jax.tree.map(jnp.add, d, more)
            new_ap, new_ad = longest(p, new)
            better = new_ap + new_ad >= ap + ad + 0.02
            return (
                *tree_where(better, (new, new_ap, new_ad), (d, ap, ad)),
                tries + 1,
                better,
            )

        def short(state: Any) -> jax.Array:
            _, ap, ad, tries, better = state
            return better & (jnp.minimum(ap, ad) < _SHORT) & (tries < _CORRECTORS)

        start = (d, ap, ad, jnp.zeros((), jnp.int32), jnp.ones((), bool))
        return jax.lax.while_loop(short, once, start)[:3]

    def step(state: _State) -> _State:
        p, mu = state.now, state.mu
        rd, rp = conditions(p, state.elastic)
        D = jnp.sum(p.z / p.slack, axis=0)
        held = never if state.held is None else state.held
        solve, definite = factorised(problem, p.y, D, moves, state.firm, state.elastic, held)
        affine = direction(p, solve, rd, rp, -p.slack * p.z)
        ap, ad = longest(p, affine)
        reached = gap(advance(p, affine, ap, ad))
        sigma = jnp.clip((reached / jnp.where(mu > 0, mu, 1.0)) ** 3, 0.0, 1.0)
        sigma = jnp.where(mu > 0, sigma, 0.0)
        if not quadratic:
            sigma = jnp.maximum(sigma, 0.05)  # the step is not to outrun the curvature of the objective
        centre = sigma * mu
        second = affine.slack * affine.z if quadratic else 0.0
        d = direction(p, solve, rd, rp, jnp.where(has, centre - p.slack * p.z - second, 0.0))
        if quadratic:
            d, ap, ad = corrected(p, solve, d, *longest(p, d), centre)
            keep = jnp.clip(1 - mu, TO_BOUNDARY, 1.0 - 1e-6)
            following = advance(p, d, keep * ap, keep * ad)
        else:
            following = backtracked(problem, has, conditions, p, d, centre)

        found, residual = measured(following)
        repeat = ~definite & ~state.firm
        reach = largest(following.y, following.nu)
        finite = jnp.isfinite(reach) & jnp.isfinite(residual) & ~repeat
        better = finite & (residual < state.smallest)
        progress = finite & (residual < 0.9 * state.mark)
        # Where there is no solution the residual stops falling, or the iterates grow.
        suspect, rays = (~progress | (reach > _FAR)) & ~repeat, jnp.stack([following.y, d.y])
        proofs = jax.lax.cond(in_any(suspect), lambda: proves(following.nu, rays), lambda: jnp.zeros(3, bool))
        *descents, infeasible = proofs & suspect
        claim = jnp.where(infeasible, Status.PRIMAL_INFEASIBLE, Status.MAX_ITERATIONS)
        # A proof that there is no solution is kept as the last iterate.
        proof = following
        for ray, unbounded in zip(rays, descents, strict=True):
            claim = jnp.where(unbounded, Status.DUAL_INFEASIBLE, claim)
            proof = proof._replace(y=jnp.where(unbounded, ray, proof.y))
        since = jnp.where(progress, 0, jnp.where(finite, state.since + 1, _PATIENCE))
        following_state = _State(
            tree_where(finite, proof, p),
            jnp.where(finite, gap(following), mu),
            tree_where(better, found, state.best),
            jnp.where(better, residual, state.smallest),
            state.due,
            jnp.where(progress, residual, state.mark),
            jnp.where(repeat, state.since, since),
            claim.astype(jnp.int32),
            repeat | state.firm,
            state.held,
            state.elastic,
            state.iterations + 1,
        )
        following_state = following_state if exact is None else with_exact(following_state)
        told(following_state)
        return following_state

    def with_elastic(state: _State) -> _State:
        """Where the method is stuck the equality may be out of reach. Then the point of the box nearest to it has a
        distance `nu = A y - b` that proves it: it solves `min nu'nu / 2  s.t.  A y - nu = b`, a change of two terms."""
        begins = unanswered(state)
        if state.held is not None:
            begins &= state.held | ~has_free
        p = _start_inside(problem, state.now.y, has)
        nu = jnp.ravel(equality.product(p.y) - target)
        size = 1e-3 + largest(equality.adjoint(nu.reshape(target.shape)))
        now = p._replace(nu=nu, z=jnp.where(has, size, 0.0))
        start = state._replace(now=now, mu=gap(now), since=jnp.zeros_like(state.since), elastic=state.elastic | begins)
        return tree_where(begins, start, state)

    def unanswered(state: _State) -> jax.Array:
        unsolved = (state.claim == Status.MAX_ITERATIONS) & (state.smallest > tol)
        return stuck(state) & unsolved & ~state.elastic

    def with_hold(state: _State) -> _State:
        """A free coordinate that costs nothing may drown what others add to the Schur complement, in float32. Where the
        method is stuck it begins again, with such coordinates held by a larger proximal term."""
        if state.held is None:
            return state
        begins = unanswered(state) & has_free & ~state.held
        kept = {name: getattr(state, name) for name in ("best", "smallest", "due", "iterations")}
        return tree_where(begins, start._replace(held=~never, **kept), state)

    def with_exact(state: _State) -> _State:
        """The active set solved for, once it should be known, and at the end."""
        last = ~unfinished(state)
        due = last | (state.smallest <= state.due)
        now = state.best, state.smallest
        best, smallest = jax.lax.cond(in_any(due), lambda: tree_where(due, exact(*now, last), now), lambda: now)
        again = jnp.where(due, jnp.where(state.smallest > _NEARLY, _NEARLY, _RETRY * state.smallest), state.due)
        return state._replace(best=best, smallest=smallest, due=again)

    # Where the slope is a logarithm a coordinate may have far to go to its tiny value.
    exhausted = eps * eps if quadratic else float(jnp.finfo(dtype).tiny) ** 0.5
    # Past the tolerance a few more iterations are cheap, and tell active bounds from free ones cleanly.
    clean = min(tol, max(1e-3 * tol, 4 * eps))

    def stuck(state: _State) -> jax.Array:
        return (state.since >= _PATIENCE) | (has_bounds & (state.mu <= exhausted))

    def unfinished(state: _State) -> jax.Array:
        enough = (state.smallest <= clean) | ((state.smallest <= tol) & (state.since >= 2))
        return ~enough & ~stuck(state) & (state.claim == Status.MAX_ITERATIONS) & (state.iterations < max_iterations)

    first = _start_quadratic(problem, has, moves) if quadratic else _start_inside(problem, init, has)
    best, smallest = measured(first) if warm is None else warm
    none = jnp.zeros((), jnp.int32)
    claim = jnp.where(convex, Status.MAX_ITERATIONS, Status.INVALID).astype(jnp.int32)
    never = jnp.zeros((), bool)
    due = jnp.asarray(_EARLY if is_mendable(problem) else _IDENTIFIED, dtype)
    mark = jnp.full_like(smallest, jnp.inf)
    held = None if is_precise(dtype) or is_sparse(problem) else never
    start = _State(first, gap(first), best, smallest, due, mark, none, claim, never, held, never, none)
    told(start)

    def until_stuck(state: _State) -> _State:
        return jax.lax.while_loop(unfinished, step, state)

    if not quadratic:
        return until_stuck(start)
    return jax.lax.while_loop(unfinished, lambda state: with_hold(with_elastic(until_stuck(state))), start)
