"""The interior point as a loop with phases: in every round one system is factorised, solved for a step, and the point
that the step leads to is measured.

| phase | system | the step leads to | next |
|---|---|---|---|
| `START` | `D = I`, the box left out | Mehrotra's starting point | `NEWTON` |
| `NEWTON` | the barrier's `D` | the next interior iterate | `ACTIVE` when due (see below) and at the end |
| `ACTIVE` | of the free coordinates | the solution for the active set | itself, repaired; back; or `DONE` |
| `DONE` | | | `START` or `NEWTON` with the next recovery, if the method is stuck |

The active set is due when the residual has fallen far enough since the last time, and where it has stalled. It is
repaired while that leaves fewer coordinates in the wrong set.

Recoveries, for quadratic objectives: `HELD` (float32 only, for free coordinates without cost: held by a larger proximal
term, or what they add to the Schur complement drowns the rest) and `ELASTIC` (the equality may be out of reach: the
point of the box nearest to it has a distance `nu = A y - b` that proves it; `min nu'nu / 2  s.t.  A y - nu = b`).
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.data.constraints import Curved
from kkt_solvers.data.inequality import linearised
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.solution import Dual, Status
from kkt_solvers.numerics.arrays import largest, tree_where, where
from kkt_solvers.numerics.batches import in_more_than, when_any
from kkt_solvers.solvers.interior_point._iterate import (
    Direction,
    Iterate,
    backtracked,
    bounds_of,
    direction,
    inside,
    shifted,
    straight,
    unbounded_start,
)
from kkt_solvers.solvers.interior_point._path import Follower, centred, followed, path_direction
from kkt_solvers.solvers.interior_point._state import (
    ACTIVE,
    DONE,
    ELASTIC,
    HELD,
    NEWTON,
    NONE,
    START,
    Active,
    Method,
    Setting,
    State,
)
from kkt_solvers.solvers.interior_point._steep_bounds import off_steep_bounds
from kkt_solvers.systems.elimination import KKTMatrix, hessian, solver

_REPAIRS = 6  # rounds of ACTIVE, at most
_FALLS = 0.1  # another step for the same active set is worth it where the last one brought the residual below this part
_PATIENCE = 50  # iterations without progress
_STALLED = 5  # the same, after which the active set is tried
_FAR = 1e3  # an iterate of the scaled problem as large as this is looked at as a proof that there is no solution
# The residual at which the active set is first solved for where wrong ones can be repaired, and where not; then the
# next one, and after that by how much the residual falls until the next time.
_EARLY, _IDENTIFIED, _NEARLY, _RETRY = 1e-1, 1e-5, 1e-2, 1e-3


def run(problem: FlatProblem, convex: jax.Array, init: jax.Array, best: Any, warm: bool, setting: Setting) -> State:
    """The last state. `best` is any point and its residual, in the terms of the problem; `warm` says that its active
    set is to be tried first."""
    method = Method(problem, bounds_of(problem, setting.moves), setting)
    now = unbounded_start(problem, method.bounds) if method.quadratic else inside(problem, method.bounds, init)
    if problem.slacks and not method.quadratic:
        now = centred(problem, method.bounds, now)
    begin = jnp.full((), START if method.quadratic else NEWTON, jnp.int32)
    none, infinite = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, init.dtype)
    state = State(
        jnp.full_like(begin, ACTIVE) if warm else begin,
        begin,
        none,
        none,
        now,
        Active(now.slack > 2, now.y, now.nu, none, none),
        best[0],
        best[1],
        jnp.full((), _EARLY if setting.repairs else _IDENTIFIED, init.dtype),
        infinite,
        none,
        where(convex, int(Status.MAX_ITERATIONS), int(Status.INVALID)).astype(jnp.int32),
    )
    state = state._replace(phase=where(convex, state.phase, DONE))

    def unfinished(state: State) -> jax.Array:
        going = state.phase != DONE
        return going & in_more_than(jnp.asarray(setting.left), going)

    def until_done(state: State) -> State:
        return jax.lax.while_loop(unfinished, lambda state: _round(method, state), state)

    if not method.recovers:
        return until_done(state)
    return jax.lax.while_loop(unfinished, lambda state: _recovered(method, until_done(state), now), state)


def _round(method: Method, state: State) -> State:
    (problem, bounds, setting), (active, now) = method, (state.active, state.now)
    objective, equality = problem.objective, problem.equality
    solving, starting = state.phase >= ACTIVE, state.phase == START
    elastic = (state.recovery == ELASTIC) & ~solving

    def left_of_rows(p: Iterate) -> jax.Array:
        rest = equality.residual(p.y)
        return rest - where(elastic, p.nu, 0.0) if method.recovers else rest

    def conditions(p: Iterate) -> tuple[jax.Array, jax.Array]:
        slope = objective.gradient(p.y)
        slope = where(elastic, 0.0, slope) if method.recovers else slope
        return slope + equality.pullback(p.y, p.nu) - p.z[0] + p.z[1], left_of_rows(p)

    p, free = now, bounds.moves
    if setting.polish:
        active = tree_where(active.rounds == 0, _identified(method, state.best), active)
        at = where(active.held[0], bounds.lower, where(active.held[1], bounds.upper, active.y))
        at, _ = off_steep_bounds(problem, at)
        p = tree_where(solving, Iterate(at, active.nu, jnp.ones_like(now.slack), jnp.zeros_like(now.z)), now)
        free = where(solving, (~(active.held[0] | active.held[1])).astype(free.dtype), free)
    rest, curved = conditions(p), isinstance(equality, Curved)
    D = where(free > 0, p.z[0] / p.slack[0] + p.z[1] / p.slack[1], 1.0)
    if curved:
        # The elastic problem has no objective, but the curvature of its constraints. A negative multiplier, which
        # passes, would make the Hessian indefinite.
        one, prices = jnp.ones((), p.y.dtype), p.nu.at[-problem.slacks :].max(0.0)
        local = linearised(problem, p.y, prices, where(elastic, 0.0, one))
        K = KKTMatrix(hessian(local, p.y), local.rows, D, free, c=where(elastic, 1.0, jnp.zeros_like(p.nu)))
    else:
        K = KKTMatrix(hessian(problem, p.y), problem.rows, D, free, elastic if method.recovers else False)
    inverse = solver(K, held=state.recovery == HELD)

    def solve(r: jax.Array, s: jax.Array, predictor: jax.Array) -> tuple[jax.Array, jax.Array]:
        # In lockstep an instance that waits for others computes correctors, which it does not use.
        x = inverse(jnp.concatenate([free * r, s]), solving & predictor)
        return x[: r.size], x[r.size :]

    if method.quadratic:
        d = direction(problem, bounds, p, rest, solve, solving | starting)
        following = tree_where(starting, shifted(bounds, p, d.step), straight(bounds, p, d))
    elif problem.slacks:
        follower = Follower(problem, bounds, left_of_rows, elastic)
        d, eta = path_direction(follower, p, rest, solve, solving)
        following = followed(follower, conditions, p, rest, d, eta, solving)
    else:
        d = direction(problem, bounds, p, rest, solve, solving)
        following = backtracked(bounds, conditions, p, rest, d, equality.target, solving)
    if setting.polish:
        y = p.y + d.step.y
        y = where(jnp.abs(y) <= 4 * jnp.finfo(y.dtype).eps * jnp.abs(p.y), 0.0, y)  # all of it was cancelled
        solution = following._replace(y=y, nu=p.nu + d.step.nu)
        following = tree_where(solving, solution, following)

    found, residual = setting.measured(following, active.held, solving)
    finite = jnp.isfinite(largest(following.y, following.nu))
    if not method.quadratic:  # whose residual at zero, where no term has a size, may overflow
        finite &= jnp.isfinite(residual)
    better = finite & where(solving, residual <= state.smallest, residual < state.smallest)
    best, smallest = tree_where(better, (found, residual), (state.best, state.smallest))
    falls = residual < _FALLS * state.smallest if curved else None
    state = state._replace(best=best, smallest=smallest)
    after = _after_newton(method, state, following, d, residual, finite)
    if setting.polish:
        slope = rest[0] + K.H.product(d.step.y) + K.A.adjoint(d.step.nu)
        after = tree_where(solving, _after_active(method, state, active, following, slope, falls), after)
    setting.told(after)
    return after


def _stuck(method: Method, state: State) -> jax.Array:
    eps, tiny = float(jnp.finfo(state.mark.dtype).eps), float(jnp.finfo(state.mark.dtype).tiny)
    # A coordinate with a logarithmic slope may have to shrink to a tiny value.
    exhausted = eps * eps if method.quadratic else tiny**0.5
    return (state.since >= _PATIENCE) | (jnp.any(method.bounds.has) & (method.bounds.gap(state.now) <= exhausted))


def _unfinished(method: Method, state: State) -> jax.Array:
    tol = method.setting.tol
    # Past the tolerance a few more iterations are cheap, and tell active bounds from free ones cleanly.
    clean = min(tol, max(1e-3 * tol, 4 * float(jnp.finfo(state.mark.dtype).eps)))
    enough = (state.smallest <= clean) | ((state.smallest <= tol) & (state.since >= 2))
    going = (state.claim == Status.MAX_ITERATIONS) & (state.iterations < method.setting.max_iterations)
    return ~enough & ~_stuck(method, state) & going


def _after_newton(
    method: Method, state: State, following: Iterate, d: Direction, residual: jax.Array, finite: jax.Array
) -> State:
    setting, newton = method.setting, state.phase == NEWTON
    progress = finite & (residual < 0.9 * state.mark)
    # If there is no solution, the residual stops falling or the iterates grow.
    suspect = newton & (~progress | (largest(following.y, following.nu) > _FAR))
    # The iterate itself may be the ray, or the step.
    rays, none = jnp.stack([following.y, d.step.y]), (jnp.zeros((), bool), jnp.zeros(2, bool))
    infeasible, descents = when_any(suspect, lambda: setting.proves(following.y, following.nu, rays), none)
    claim = where(infeasible, int(Status.PRIMAL_INFEASIBLE), state.claim)
    claim = where(descents[0] | descents[1], int(Status.DUAL_INFEASIBLE), claim)
    # A proof that there is no solution is kept as the last iterate.
    following = following._replace(y=where(descents[1] & ~descents[0], d.step.y, following.y))
    state = state._replace(
        back=jnp.full_like(state.back, NEWTON),
        iterations=state.iterations + newton,
        now=tree_where(finite, following, state.now),
        mark=where(progress, residual, state.mark),
        since=where(progress, 0, where(finite, state.since + 1, _PATIENCE)),
        claim=claim,
    )
    stop = ~_unfinished(method, state)
    if not setting.polish:
        return state._replace(phase=where(stop, DONE, NEWTON))
    due = (state.smallest <= state.due) | (state.since == _STALLED)
    solve = (stop | due) & (claim == Status.MAX_ITERATIONS)
    rounds = jnp.zeros_like(state.active.rounds)
    return state._replace(
        phase=where(solve, ACTIVE, where(stop, DONE, NEWTON)), active=state.active._replace(rounds=rounds)
    )


def _identified(method: Method, best: tuple[jax.Array, Dual]) -> Active:
    """The active set of a point, as its multipliers tell."""
    p, bounds = method.setting.scaled(*best), method.bounds
    held = bounds.has & (p.z > p.slack)
    low = held[0] | (bounds.moves == 0)
    few = jnp.full((), max(p.y.size // 5, 4), jnp.int32)
    return Active(jnp.stack([low, held[1] & ~low]), p.y, p.nu, few, jnp.ones_like(few))


def _after_active(
    method: Method, state: State, active: Active, following: Iterate, slope: jax.Array, falls: jax.Array | None
) -> State:
    setting, bounds, y = method.setting, method.bounds, following.y
    low = where(active.held[0], slope > 0, y < bounds.lower) | (bounds.moves == 0)
    high = where(active.held[1], slope < 0, y > bounds.upper) & ~low
    held = jnp.stack([low, high])
    wrong = jnp.sum(jnp.any(held != active.held, axis=0)).astype(jnp.int32)
    more, start = active.rounds < (_REPAIRS if setting.repairs else 1), active.y
    repair = more & (wrong > 0) & (wrong < active.wrong)
    if falls is not None:  # with curved constraints a round is a step of Newton's method, and another one may follow
        again = falls & more & (wrong == 0) & _unfinished(method, state)
        repair, start, wrong = repair | again, where(again, y, start), where(again, active.wrong, wrong)
    phase = where(repair, ACTIVE, where(_unfinished(method, state), state.back, DONE))
    due = where(state.smallest > _NEARLY, _NEARLY, _RETRY * state.smallest)
    return state._replace(
        phase=phase,
        active=Active(held, start, following.nu, wrong, where(repair, active.rounds + 1, 0)),
        due=where(repair, state.due, due),
    )


def _recovered(method: Method, state: State, start: Iterate) -> State:
    """The state with the next recovery, if the method is stuck."""
    (problem, bounds, setting) = method
    equality, none = problem.equality, jnp.zeros_like(state.since)
    unsolved = (state.claim == Status.MAX_ITERATIONS) & (state.smallest > setting.tol)
    unsolved &= _stuck(method, state) & (state.recovery < ELASTIC) & (state.iterations < setting.max_iterations)
    y = state.now.y if method.quadratic else start.y
    nu = equality.residual(y)
    if method.quadratic:
        size = 1e-3 + largest(equality.pullback(y, nu))
        slack, z = jnp.maximum(state.now.slack, 0.1), where(bounds.has, size, 0.0)
    else:
        slack, z = start.slack, start.z
    elastic = state._replace(
        phase=jnp.full_like(state.phase, NEWTON),
        recovery=jnp.full_like(state.recovery, ELASTIC),
        now=Iterate(y, nu, slack, z),
        since=none,
    )
    if setting.holds:
        free = jnp.any((bounds.moves > 0) & ~bounds.has[0] & ~bounds.has[1])
        held = state._replace(
            phase=jnp.full_like(state.phase, START),
            recovery=jnp.full_like(state.recovery, HELD),
            now=start,
            mark=jnp.full_like(state.mark, jnp.inf),
            since=none,
        )
        elastic = tree_where(free & (state.recovery == NONE), held, elastic)
    return tree_where(unsolved, elastic, state)
