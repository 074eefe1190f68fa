"""A primal-dual interior-point method for any smooth convex objective with affine equalities and a box."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers._arrays import dense
from kkt_solvers._conditions import (
    bound_multipliers,
    certificate_of_infeasibility,
    default_tolerance,
    held_by,
    ray_of_descent,
    reduced_gradient,
    residuals,
)
from kkt_solvers._linear import choose, dense_hessian, diagonal_curvature
from kkt_solvers._objectives import LowRank, Quadratic, Separable
from kkt_solvers._problem import FlatProblem
from kkt_solvers._solution import Dual, Status
from kkt_solvers.solvers._base import Solver
from kkt_solvers.solvers._equilibrate import equilibrated

_TO_BOUNDARY = 0.99  # the part of the way to the nearest bound that a step may go, at least
_BACKTRACKS = 30
_PATIENCE = 25  # iterations without progress
_INFINITE = 1e15  # bounds beyond this are none


class _Iterate(NamedTuple):
    y: jax.Array
    nu: jax.Array
    below: jax.Array  # slacks y - l and u - y; one where there is no bound
    above: jax.Array
    zl: jax.Array
    zu: jax.Array


class _State(NamedTuple):
    now: _Iterate
    best: _Iterate
    smallest: jax.Array  # the largest KKT residual of the best iterate
    mark: jax.Array  # what it was when it last fell by a tenth, and the iterations since
    since: jax.Array
    claim: jax.Array
    iterations: jax.Array


@dataclass(frozen=True)
class InteriorPoint(Solver):
    """Predictor-corrector interior point, for quadratic and linear programs and any smooth convex objective.

    Each iteration takes a Newton step on the KKT conditions with complementarity relaxed to `z (y - l) = mu`. The
    iterates stay strictly inside the box, so an objective need only be finite there. The equality need not hold
    before the end. Quadratic objectives: Mehrotra's predictor and corrector. Others: backtracking on the norm of the
    relaxed conditions, inside the domain of the objective. A Cholesky factorisation of `H + D` and one of the Schur
    complement `A (H + D)^{-1} A'` in every iteration (a diagonal or low-rank `H` costs only the latter), both
    regularised as a proximal point method, so that dependent rows and flat objectives do no harm. The active set of
    the last iterate is then solved for exactly, and kept if that is better: so multipliers of free coordinates are
    zero.

    For high accuracy on problems up to a few thousand variables. A separable objective with one equality is better
    served by `DualBisection`.

    Arguments:
        tol: largest relative KKT residual of a `SOLVED` point; `None` for the default of the dtype.
        max_iterations: of the Newton method; most problems take 10 to 30.
        polish: whether to solve for the active set at the end.

    Source: [mehrotra1992], with the proximal regularisation of [pougkakiotis2021].
    """

    tol: float | None = None
    max_iterations: int = 200
    polish: bool = True

    def run(
        self, problem: FlatProblem, init: jax.Array, dual: Dual | None = None
    ) -> tuple[jax.Array, Dual, jax.Array, jax.Array]:
        tol = default_tolerance(init.dtype) if self.tol is None else self.tol
        scaled, to_scaled, from_scaled, unscaled = equilibrated(problem, init)

        def back(point: _Iterate) -> tuple[jax.Array, Dual]:
            y, dual = unscaled(point)
            fixed = problem.box.lower == problem.box.upper
            slope = reduced_gradient(problem, y, dual.equality)
            lower = jnp.where(fixed, jnp.maximum(slope, 0), dual.lower)
            upper = jnp.where(fixed, jnp.maximum(-slope, 0), dual.upper)
            return y, Dual(dual.equality, lower, upper)

        def measure(point: _Iterate) -> jax.Array:
            return residuals(problem, *back(point)).largest

        final = _iterate(scaled, to_scaled(init), measure, tol, self.max_iterations)
        y, dual = back(final.best)
        _, rays = unscaled(final.now)
        claim = jnp.where(
            final.claim == Status.MAX_ITERATIONS,
            jnp.where(final.smallest <= tol, Status.SOLVED, Status.MAX_ITERATIONS),
            final.claim,
        )
        if self.polish:
            y, dual = _polished(problem, y, dual, final.smallest)
        infeasible, unbounded = claim == Status.PRIMAL_INFEASIBLE, claim == Status.DUAL_INFEASIBLE
        dual = Dual(jnp.where(infeasible, rays.equality, dual.equality), dual.lower, dual.upper)
        y = jnp.where(unbounded, from_scaled(final.now.y), y)
        return y, dual, final.iterations, claim


# ------------------------------------------------------------------------------------------- one system
def _is_convex(objective: Any, reg: float) -> jax.Array:
    """Whether the matrix of an equilibrated quadratic objective is positive semidefinite up to rounding. Others are
    taken at the user's word."""
    P = objective.P if isinstance(objective, Quadratic) else None
    if P is None or isinstance(P, LowRank):
        return jnp.ones((), bool)
    P = dense(P)
    if P.ndim == 1:
        return jnp.min(P, initial=0) >= -10 * reg
    factor = jnp.linalg.cholesky(P + 10 * reg * jnp.eye(len(P), dtype=P.dtype))
    return jnp.all(jnp.isfinite(jnp.diag(factor))) | ~jnp.all(jnp.isfinite(P))


def _parts_of_inverse(problem: FlatProblem, y: jax.Array, D: jax.Array, moves: jax.Array) -> tuple[Any, Any, Any, Any]:
    """For `K = H + diag(D)` on the coordinates that move and the identity on the others: maps `W, M, U` with
    `K^{-1} = U M W`, and `v -> K v`. Where the structure of `H` allows, `M` is the identity and `U = W'`, so that
    `A K^{-1} A'` is formed as a square."""
    objective = problem.objective
    P = objective.P if isinstance(objective, Quadratic) else None
    if isinstance(P, LowRank):
        d, V = moves * P.diagonal + D, moves[:, None] * P.factor
        core = jax.scipy.linalg.cho_factor(jnp.eye(V.shape[1], dtype=y.dtype) + V.T @ (V / d[:, None]), lower=True)

        def invert(v: jax.Array) -> jax.Array:
            v = (v.T / d).T
            return v - ((V @ jax.scipy.linalg.cho_solve(core, V.T @ v)).T / d).T

        return _same, invert, _same, lambda v: d * v + V @ (V.T @ v)
    if isinstance(objective, Separable) or (isinstance(objective, Quadratic) and (P is None or P.ndim == 1)):
        h = moves * diagonal_curvature(problem, y) + D
        root = jnp.sqrt(h)

        def divide(v: jax.Array) -> jax.Array:
            return (v.T / root).T

        return divide, _same, divide, lambda v: h * v
    H = dense_hessian(problem, y) * moves[:, None] * moves[None, :] + jnp.diag(D)
    L = jnp.linalg.cholesky(H)

    def whiten(v: jax.Array) -> jax.Array:
        return jax.scipy.linalg.solve_triangular(L, v, lower=True)

    def unwhiten(v: jax.Array) -> jax.Array:
        return jax.scipy.linalg.solve_triangular(L, v, lower=True, trans=1)

    return whiten, _same, unwhiten, lambda v: H @ v


def _same(v: jax.Array) -> jax.Array:
    return v


def _factorised(problem: FlatProblem, y: jax.Array, D: jax.Array, moves: jax.Array, reg: float) -> Any:
    """`(r, s) -> (dy, dnu)` with `(H + D) dy + A'dnu = r` and `A dy - delta dnu = s`; no step where `moves` is zero."""
    A = dense(problem.equality.rows(y.size)) * moves
    whiten, middle, unwhiten, multiply = _parts_of_inverse(problem, y, jnp.where(moves > 0, D + reg, 1.0), moves)
    V = whiten(A.T)
    S = V.T @ middle(V)
    # The proximal term is to be as small as rounding allows: it slows the approach to A y = b. Only where the
    # factorisation fails (dependent rows, near the end) does it grow with the pivots.
    pivots = jnp.diag(S)
    e = jax.lax.rsqrt(pivots + reg)
    scaled, least, more = S * e[:, None] * e, jnp.full_like(e, reg), 16 * float(jnp.finfo(y.dtype).eps) * pivots

    def cholesky(delta: jax.Array) -> jax.Array:
        return jnp.linalg.cholesky(scaled + jnp.diag(delta * e * e)) if len(A) else scaled

    factor = cholesky(least)
    good = jnp.all(jnp.isfinite(jnp.diag(factor)))
    delta = jnp.where(good, least, least + more)
    factor = jax.lax.cond(good, lambda: factor, lambda: cholesky(delta))

    def once(r: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
        w = whiten(r)
        dnu = e * jax.scipy.linalg.cho_solve((factor, True), e * (V.T @ middle(w) - s)) if len(A) else s
        return unwhiten(middle(w - V @ dnu)), dnu

    def solve(r: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
        r = moves * r
        dy, dnu = once(r, s)
        for _ in range(2):
            more = once(r - multiply(dy) - A.T @ dnu, s - A @ dy + delta * dnu)
            dy, dnu = dy + more[0], dnu + more[1]
        return dy, dnu

    return solve


# --------------------------------------------------------------------------------------------- the method
def _start_inside(problem: FlatProblem, init: jax.Array, has: Any) -> _Iterate:
    """Strictly inside the box; where `init` is not, a tenth of its width or a unit away from the bound."""
    lower, upper = problem.box.lower, problem.box.upper
    has_lower, has_upper = has
    gap = jnp.minimum(jnp.where(has_lower & has_upper, 0.1 * (upper - lower), 1.0), 1.0)
    y = jnp.where(has_lower & ~(init - lower > 1e-2 * gap), lower + gap, init)
    y = jnp.where(has_upper & ~(upper - y > 1e-2 * gap), upper - gap, y)
    y = jnp.where(lower == upper, lower, y)
    slope = jnp.max(jnp.abs(problem.objective.gradient(y)), initial=0)
    size = jnp.where(jnp.isfinite(slope), jnp.clip(slope, 1e-3, 1e8), 1.0)
    below, above = jnp.where(has_lower, y - lower, 1.0), jnp.where(has_upper, upper - y, 1.0)
    zl = jnp.where(has_lower, size / jnp.maximum(below, 0.1), 0.0)
    zu = jnp.where(has_upper, size / jnp.maximum(above, 0.1), 0.0)
    return _Iterate(y, jnp.zeros_like(problem.equality.target).ravel(), below, above, zl, zu)


def _start_quadratic(problem: FlatProblem, has: Any, moves: jax.Array, reg: float) -> _Iterate:
    """Mehrotra's: the least-squares point of the equality, its slacks and multipliers shifted to be positive."""
    lower, upper = problem.box.lower, problem.box.upper
    objective, equality = problem.objective, problem.equality
    y = jnp.where(moves > 0, 0.0, lower)
    solve = _factorised(problem, y, jnp.ones_like(y), moves, reg)
    target = jnp.ravel(equality.target - equality.product(y))
    dy, nu = solve(-objective.gradient(y), target)
    y = y + moves * dy
    slope = objective.gradient(y) + equality.adjoint(nu.reshape(equality.target.shape))

    def shifted(low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
        low, high = jnp.where(has[0], low, jnp.inf), jnp.where(has[1], high, jnp.inf)
        least = jnp.minimum(jnp.min(low, initial=jnp.inf), jnp.min(high, initial=jnp.inf))
        shift = jnp.maximum(-1.5 * least, 0.0)
        return low + shift, high + shift

    def total(low: jax.Array, high: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(has[0], low, 0.0)) + jnp.sum(jnp.where(has[1], high, 0.0))

    below, above = shifted(y - lower, upper - y)
    zl, zu = shifted(0.5 * slope, -0.5 * slope)
    product = total(below * zl, above * zu)
    more_s = jnp.clip(0.5 * product / jnp.maximum(total(zl, zu), 1e-10), 1e-2, 1e10)
    more_z = jnp.clip(0.5 * product / jnp.maximum(total(below, above), 1e-10), 1e-2, 1e10)
    return _Iterate(
        y,
        nu,
        jnp.where(has[0], below + more_s, 1.0),
        jnp.where(has[1], above + more_s, 1.0),
        jnp.where(has[0], zl + more_z, 0.0),
        jnp.where(has[1], zu + more_z, 0.0),
    )


def _longest(value: jax.Array, step: jax.Array) -> jax.Array:
    """The largest part of `step`, at most one, that keeps `value` nonnegative."""
    return jnp.minimum(
        1.0, jnp.min(jnp.where(step < 0, -value / jnp.where(step < 0, step, 1.0), jnp.inf), initial=jnp.inf)
    )


def _iterate(problem: FlatProblem, init: jax.Array, measure: Any, tol: float, max_iterations: int) -> _State:
    objective, equality, (lower, upper) = problem.objective, problem.equality, (problem.box.lower, problem.box.upper)
    dtype, eps = init.dtype, float(jnp.finfo(init.dtype).eps)
    quadratic = isinstance(objective, Quadratic)
    linear = quadratic and objective.P is None
    reg = eps**0.6
    fixed = lower == upper
    moves = (~fixed).astype(dtype)
    has = (lower > -_INFINITE) & ~fixed, (upper < _INFINITE) & ~fixed
    count = jnp.maximum(jnp.sum(has[0]) + jnp.sum(has[1]), 1).astype(dtype)
    target = equality.target

    def conditions(p: _Iterate) -> tuple[jax.Array, jax.Array]:
        slope = objective.gradient(p.y) + equality.adjoint(p.nu.reshape(target.shape)) - p.zl + p.zu
        return moves * slope, jnp.ravel(equality.product(p.y) - target)

    def gap(p: _Iterate) -> jax.Array:
        return (jnp.vdot(p.below, p.zl) + jnp.vdot(p.above, p.zu)) / count

    def direction(p: _Iterate, solve: Any, rd: Any, rp: Any, low: Any, high: Any) -> _Iterate:
        # zl dbelow + below dzl = low and zu dabove + above dzu = high, with dbelow = dy + rl and dabove = ru - dy:
        # the slacks need not be those of y before the end.
        rl, ru = jnp.where(has[0], p.y - lower - p.below, 0.0), jnp.where(has[1], upper - p.y - p.above, 0.0)
        dy, dnu = solve(-rd + (low - p.zl * rl) / p.below - (high - p.zu * ru) / p.above, -rp)
        dl, du = jnp.where(has[0], dy + rl, 0.0), jnp.where(has[1], ru - dy, 0.0)
        return _Iterate(dy, dnu, dl, du, (low - p.zl * dl) / p.below, (high - p.zu * du) / p.above)

    def advance(p: _Iterate, d: _Iterate, primal: jax.Array, dual: jax.Array) -> _Iterate:
        a = _Iterate(primal, dual, primal, primal, dual, dual)
        q = jax.tree.map(lambda value, step, size: value + size * step, p, d, a)
        tiny = jnp.finfo(dtype).tiny
        return q._replace(
            below=jnp.where(has[0], jnp.maximum(q.below, tiny), 1.0),
            above=jnp.where(has[1], jnp.maximum(q.above, tiny), 1.0),
        )

    def step(state: _State) -> _State:
        p = state.now
        mu = gap(p)
        rd, rp = conditions(p)
        D = p.zl / p.below + p.zu / p.above
        solve = _factorised(problem, p.y, D, moves, reg)
        affine = direction(p, solve, rd, rp, -p.below * p.zl, -p.above * p.zu)
        ap = jnp.minimum(_longest(p.below, affine.below), _longest(p.above, affine.above))
        ad = jnp.minimum(_longest(p.zl, affine.zl), _longest(p.zu, affine.zu))
        if not linear:
            ap = ad = jnp.minimum(ap, ad)
        reached = gap(advance(p, affine, ap, ad))
        sigma = jnp.clip((reached / jnp.where(mu > 0, mu, 1.0)) ** 3, 0.0, 1.0)
        sigma = jnp.where(mu > 0, sigma, 0.0)
        if not quadratic:
            sigma = jnp.maximum(sigma, 0.05)  # the step is not to outrun the curvature of the objective
        centre = sigma * mu
        low = jnp.where(has[0], centre - p.below * p.zl - (affine.below * affine.zl if quadratic else 0.0), 0.0)
        high = jnp.where(has[1], centre - p.above * p.zu - (affine.above * affine.zu if quadratic else 0.0), 0.0)
        d = direction(p, solve, rd, rp, low, high)
        ap = jnp.minimum(_longest(p.below, d.below), _longest(p.above, d.above))
        ad = jnp.minimum(_longest(p.zl, d.zl), _longest(p.zu, d.zu))
        # Near the end a quadratic program may go all the way; another objective's slope may be infinite there.
        keep = jnp.clip(1 - mu, _TO_BOUNDARY, 1.0) if quadratic else _TO_BOUNDARY
        ap, ad = jnp.minimum(1.0, keep * ap), jnp.minimum(1.0, keep * ad)
        if not linear:
            ap = ad = jnp.minimum(ap, ad)
        if not quadratic:
            ap = ad = backtracked(p, d, ap, centre)
        following = advance(p, d, ap, ad)

        largest = measure(following)
        finite = jnp.all(jnp.isfinite(following.y)) & jnp.isfinite(largest)
        better = finite & (largest < state.smallest)
        progress = finite & (largest < 0.9 * state.mark)
        infeasible = certificate_of_infeasibility(problem, following.nu)
        claim = jnp.where(infeasible, Status.PRIMAL_INFEASIBLE, Status.MAX_ITERATIONS)
        # A proof that there is no solution is kept as the last iterate.
        proof = following
        for ray in (following.y, d.y):
            unbounded = ray_of_descent(problem, ray)
            claim = jnp.where(unbounded, Status.DUAL_INFEASIBLE, claim)
            proof = proof._replace(y=jnp.where(unbounded, ray, proof.y))
        return _State(
            jax.tree.map(lambda a, b: jnp.where(finite, a, b), proof, p),
            jax.tree.map(lambda a, b: jnp.where(better, a, b), following, state.best),
            jnp.where(better, largest, state.smallest),
            jnp.where(progress, largest, state.mark),
            jnp.where(progress, 0, jnp.where(finite, state.since + 1, _PATIENCE)),
            claim.astype(jnp.int32),
            state.iterations + 1,
        )

    def backtracked(p: _Iterate, d: _Iterate, longest: jax.Array, centre: jax.Array) -> jax.Array:
        def merit(q: _Iterate) -> jax.Array:
            rd, rp = conditions(q)
            low = jnp.where(has[0], q.below * q.zl - centre, 0.0)
            high = jnp.where(has[1], q.above * q.zu - centre, 0.0)
            return jnp.sqrt(sum(jnp.vdot(part, part) for part in (rd, rp, low, high)))

        before = merit(p)

        def too_long(state: Any) -> jax.Array:
            size, tries = state
            after = merit(advance(p, d, size, size))
            return ~(after <= (1 - 0.01 * size) * before * (1 + 10 * eps)) & (tries < _BACKTRACKS)

        size, _ = jax.lax.while_loop(too_long, lambda s: (0.5 * s[0], s[1] + 1), (longest, jnp.zeros((), jnp.int32)))
        return size

    def unfinished(state: _State) -> jax.Array:
        # Past the tolerance a few more iterations are cheap, and tell active bounds from free ones cleanly.
        enough = (state.smallest <= 1e-3 * tol) | ((state.smallest <= tol) & (state.since >= 2))
        stuck = state.since >= _PATIENCE
        return ~enough & ~stuck & (state.claim == Status.MAX_ITERATIONS) & (state.iterations < max_iterations)

    first = _start_quadratic(problem, has, moves, reg) if quadratic else _start_inside(problem, init, has)
    count_from = jnp.zeros((), jnp.int32)
    start = _State(
        first,
        first,
        jnp.asarray(jnp.inf, dtype),
        jnp.asarray(jnp.inf, dtype),
        count_from,
        jnp.where(_is_convex(objective, reg), Status.MAX_ITERATIONS, Status.INVALID).astype(jnp.int32),
        count_from,
    )
    return jax.lax.while_loop(unfinished, step, start)


# ------------------------------------------------------------------------------------------------ polish
def _polished(problem: FlatProblem, y: jax.Array, dual: Dual, smallest: jax.Array) -> tuple[jax.Array, Dual]:
    """One Newton step on the active set of the point, kept if the KKT residuals are no larger for it."""
    below, above = held_by(problem, y, dual.equality, dual.lower, dual.upper)
    lower, upper = problem.box.lower, problem.box.upper
    below = below | (lower == upper)
    start = jnp.where(below, lower, jnp.where(above, upper, y))
    mask = (~(below | above)).astype(y.dtype)
    nu = dual.equality
    gradient = problem.objective.gradient(start) + problem.equality.adjoint(nu)
    right = -gradient, problem.equality.target - problem.equality.product(start)
    dy, dnu = choose(problem).solve(problem, start, mask, right)
    candidate = jnp.clip(start + mask * dy, lower, upper)
    new_dual = Dual(nu + dnu, *bound_multipliers(problem, candidate, nu + dnu))
    largest = residuals(problem, candidate, new_dual).largest
    better = largest <= smallest
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), (candidate, new_dual), (y, dual))
