"""A primal-dual first-order method for linear and quadratic programs: products with `A` and `P` only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from kkt_solvers._arrays import entry_sums
from kkt_solvers._conditions import (
    certificate_of_infeasibility,
    default_tolerance,
    ray_of_descent,
    reduced_gradient,
    residuals,
)
from kkt_solvers._objectives import LowRank, Quadratic
from kkt_solvers._problem import FlatProblem, Operator
from kkt_solvers._progress import report
from kkt_solvers._solution import Dual, Status
from kkt_solvers.solvers._base import Solver
from kkt_solvers.solvers._polish import polished
from kkt_solvers.solvers._precondition import preconditioned

_CHECK_EVERY = 64
_POLISH_UP_TO = 3000  # variables and equalities together, of a system that is factorised
_STAGES = 1e-3, 1e-4, 1e-5, 1e-6, 1e-7  # residuals at which the active set is tried
_SUFFICIENT, _NECESSARY, _ARTIFICIAL = 0.2, 0.8, 0.36  # [lu2024]'s conditions for a restart


class _Iterate(NamedTuple):
    y: jax.Array
    nu: jax.Array
    w: jax.Array  # a copy of y on the dual side of the quadratic term, and R w
    Rw: jax.Array


class _Steps(NamedTuple):
    primal: jax.Array
    dual: jax.Array
    copy: jax.Array


class _State(NamedTuple):
    now: _Iterate
    anchor: _Iterate
    inner: jax.Array  # iterations since the restart
    first: jax.Array  # length of the first step after the restart, and of the last one
    previous: jax.Array
    weight: jax.Array
    best: tuple[jax.Array, jax.Array]  # y and nu of the original problem
    smallest: jax.Array  # their largest KKT residual
    claim: jax.Array
    iterations: jax.Array


@dataclass(frozen=True)
class PrimalDual(Solver):
    """Restarted Halpern primal-dual hybrid gradient, for linear and quadratic programs too large to factorise.

    With `P = diag(p) + R` (all of a diagonal `P` goes to `p`) the problem is the saddle point of

        q'y + y'diag(p)y/2 + nu'(A y - b) + w'R y - w'R w/2        over l <= y <= u and all nu, w,

    and each iteration costs one product with each of `A`, `A'` and `R`:

        y+  = clip((y - tau (q + A'nu + R w)) / (1 + tau p), l, u)
        nu+ = nu + sigma (A (2 y+ - y) - b)
        w+  = (w + rho (2 y+ - y)) / (1 + rho),         tau (sigma |A|^2 + rho |R|) < 1.

    The reflection of this step is averaged with the point of the last restart (Halpern). Restarts follow the length
    of a step, the ratio of `sigma` to `tau` the distances travelled between restarts. Matrices are scaled by their
    rows and columns first, and never formed, factorised or made dense. Where a factorisation is affordable (`n + m`
    up to 3000) the active set is solved for exactly from time to time, which ends the iteration early.

    For large or sparse problems and modest accuracy, and for warm starts. `InteriorPoint` is faster and more accurate
    wherever it can factorise.

    Arguments:
        tol: largest relative KKT residual of a `SOLVED` point; `None` for the default of the dtype.
        max_iterations: up to the next multiple of 64; a thousand to a hundred thousand are usual.
        polish: whether to solve for the active set.

    Raises `ValueError` for an objective that is not `Quadratic`.

    Source: [lu2024], with the weight of [applegate2021] and, for the quadratic term, the copy `w` of [chen2025].
    """

    tol: float | None = None
    max_iterations: int = 100_000
    polish: bool = True

    def run(
        self, problem: FlatProblem, init: jax.Array, dual: Dual | None = None
    ) -> tuple[jax.Array, Dual, jax.Array, jax.Array]:
        if not isinstance(problem.objective, Quadratic):
            raise ValueError(
                "PrimalDual takes a Quadratic objective only; write the objective as kkt.Quadratic(P, q), or use "
                "kkt.InteriorPoint()"
            )
        tol = default_tolerance(init.dtype) if self.tol is None else self.tol
        scaled, scales = preconditioned(problem, init)
        method = _Method(scaled)
        shape = problem.equality.target.shape

        def back(y: jax.Array, nu: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = jnp.clip(scales.variables * y, problem.box.lower, problem.box.upper)
            return y, (scales.rows * nu / scales.objective).reshape(shape)

        def largest(y: jax.Array, nu: jax.Array) -> jax.Array:
            return residuals(problem, y, _with_bounds(problem, y, nu)).largest

        def chunk(state: _State) -> _State:
            following, step, candidate = method.advance(state)
            y, nu = back(candidate.y, candidate.nu)
            size = largest(y, nu)
            report(following.iterations, problem.objective(y), size)
            better = size < state.smallest
            best = jax.tree.map(lambda a, b: jnp.where(better, a, b), (y, nu), state.best)
            claim, best = _proof(problem, step.y * scales.variables, (scales.rows * step.nu).reshape(shape), best)
            claim = jnp.where(jnp.all(jnp.isfinite(y)), claim, Status.NUMERICAL_ERROR)
            return following._replace(
                best=best, smallest=jnp.where(better, size, state.smallest), claim=claim.astype(jnp.int32)
            )

        def unfinished(state: _State, target: Any) -> jax.Array:
            running = (state.claim == Status.MAX_ITERATIONS) & (state.iterations < self.max_iterations)
            return running & (state.smallest > target)

        nu = jnp.zeros(shape, init.dtype) if dual is None or dual.equality is None else dual.equality
        y = jnp.clip(init, problem.box.lower, problem.box.upper)
        size = largest(y, nu)
        report(jnp.zeros((), jnp.int32), problem.objective(y), size)
        state = method.start(y / scales.variables, jnp.ravel(nu) * scales.objective / scales.rows, (y, nu), size)

        if not (self.polish and _affordable(problem)):
            state = jax.lax.while_loop(lambda s: unfinished(s, tol), chunk, state)
        else:
            targets = jnp.asarray([*(stage for stage in _STAGES if stage > tol), tol], init.dtype)

            def stage(carry: tuple[_State, jax.Array]) -> tuple[_State, jax.Array]:
                state, index = carry
                target = targets[jnp.minimum(index, len(targets) - 1)]
                state = jax.lax.while_loop(lambda s: unfinished(s, target), chunk, state)
                y, nu = state.best
                y, dual, _ = polished(problem, y, _with_bounds(problem, y, nu), state.smallest)
                size = largest(y, dual.equality)
                better = (size < state.smallest) & (state.claim == Status.MAX_ITERATIONS)
                best = jax.tree.map(lambda a, b: jnp.where(better, a, b), (y, dual.equality), state.best)
                return state._replace(best=best, smallest=jnp.where(better, size, state.smallest)), index + 1

            def more(carry: tuple[_State, jax.Array]) -> jax.Array:
                return (carry[1] == 0) | unfinished(carry[0], tol)

            state, _ = jax.lax.while_loop(more, stage, (state, jnp.zeros((), jnp.int32)))
        y, nu = state.best
        solved = (state.smallest <= tol) & (state.claim == Status.MAX_ITERATIONS)
        return y, _with_bounds(problem, y, nu), state.iterations, jnp.where(solved, Status.SOLVED, state.claim)


def _affordable(problem: FlatProblem) -> bool:
    size = problem.box.lower.size + problem.equality.target.size
    return size <= _POLISH_UP_TO and not isinstance(problem.equality, Operator)


def _with_bounds(problem: FlatProblem, y: jax.Array, nu: jax.Array) -> Dual:
    """The multipliers of the bounds that exist, from the signs of the reduced gradient."""
    slope = reduced_gradient(problem, y, nu)
    lower = jnp.where(jnp.isfinite(problem.box.lower), jnp.maximum(slope, 0), 0)
    upper = jnp.where(jnp.isfinite(problem.box.upper), jnp.maximum(-slope, 0), 0)
    return Dual(nu, lower, upper)


def _proof(problem: FlatProblem, y: jax.Array, nu: jax.Array, best: Any) -> tuple[jax.Array, Any]:
    """Whether the step `(y, nu)` is a ray that proves that there is no solution; it then takes the place of `best`.
    The steps of the method converge to such a ray where there is no solution."""
    infeasible, unbounded = certificate_of_infeasibility(problem, nu), ray_of_descent(problem, y)
    claim = jnp.where(infeasible, Status.PRIMAL_INFEASIBLE, Status.MAX_ITERATIONS)
    claim = jnp.where(unbounded, Status.DUAL_INFEASIBLE, claim)
    return claim, (jnp.where(unbounded, y, best[0]), jnp.where(infeasible, nu, best[1]))


# --------------------------------------------------------------------------------------------- the method
class _Method:
    """The iteration on a scaled problem."""

    def __init__(self, problem: FlatProblem):
        objective = problem.objective
        assert isinstance(objective, Quadratic)
        self.problem, self.q = problem, objective.q
        self.p, self.R = _split(objective)
        y = problem.box.lower
        self.A_norm = jnp.sqrt(_norm(lambda v: problem.equality.adjoint(problem.equality.product(v)), y))
        self.R_norm = jnp.zeros((), y.dtype) if self.R is None else _norm(self.R, y)
        unit = jnp.where(self.A_norm > 0, self.A_norm, jnp.sqrt(self.R_norm))
        self.unit = jnp.where(unit > 0, unit, 1.0)
        self.ratio = self.unit**2 / jnp.where(self.R_norm > 0, self.R_norm, 1.0)

    def start(self, y: jax.Array, nu: jax.Array, best: Any, smallest: jax.Array) -> _State:
        w = y if self.R is not None else jnp.zeros(0, y.dtype)
        point = _Iterate(y, nu, w, w if self.R is None else self.R(w))
        zero, none = jnp.zeros((), y.dtype), jnp.zeros((), jnp.int32)
        convex = _is_convex(self.p, self.R, self.R_norm)
        claim = jnp.where(convex, Status.MAX_ITERATIONS, Status.INVALID).astype(jnp.int32)
        return _State(point, point, none, zero, zero + jnp.inf, zero + 1, best, smallest, claim, none)

    def steps(self, weight: jax.Array) -> _Steps:
        """`tau (sigma |A|^2 + rho |R|) = 0.998`."""
        dual = weight / self.unit
        copy = jnp.minimum(dual * self.ratio, 1.0)
        bound = dual * self.A_norm**2 + copy * self.R_norm
        return _Steps(0.998 / jnp.where(bound > 0, bound, 1.0), dual, copy)

    def step(self, z: _Iterate, by: _Steps) -> _Iterate:
        equality, box = self.problem.equality, self.problem.box
        slope = self.q + equality.adjoint(z.nu) + (0.0 if self.R is None else z.Rw)
        y = jnp.clip((z.y - by.primal * slope) / (1 + by.primal * self.p), box.lower, box.upper)
        beyond = 2 * y - z.y
        nu = z.nu + by.dual * (equality.product(beyond) - equality.target)
        if self.R is None:
            return _Iterate(y, nu, z.w, z.Rw)
        w = (z.w + by.copy * beyond) / (1 + by.copy)
        return _Iterate(y, nu, w, (z.Rw + by.copy * self.R(beyond)) / (1 + by.copy))

    def length(self, step: _Iterate, by: _Steps) -> jax.Array:
        """In the norm in which the step is firmly nonexpansive."""
        square = jnp.vdot(step.y, step.y) / by.primal + jnp.vdot(step.nu, step.nu) / by.dual
        square += jnp.vdot(step.w, step.Rw) / by.copy
        coupling = self.problem.equality.adjoint(step.nu) + (0.0 if self.R is None else step.Rw)
        return jnp.sqrt(jnp.maximum(square - 2 * jnp.vdot(step.y, coupling), 0.0))

    def advance(self, state: _State) -> tuple[_State, _Iterate, _Iterate]:
        """The state after a round of iterations, the last step, and the point that it led to."""
        by = self.steps(state.weight)

        def halpern(z: _Iterate, moved: _Iterate, k: jax.Array) -> _Iterate:
            part = (k + 1) / (k + 2).astype(z.y.dtype)
            return jax.tree.map(lambda a, b, c: part * (2 * b - a) + (1 - part) * c, z, moved, state.anchor)

        z, k = state.now, state.inner
        moved = self.step(z, by)
        first = jnp.where(k == 0, self.length(_difference(moved, z), by), state.first)
        z = halpern(z, moved, k)
        z = jax.lax.fori_loop(1, _CHECK_EVERY - 1, lambda i, z: halpern(z, self.step(z, by), k + i), z)
        moved = self.step(z, by)
        step = _difference(moved, z)
        last = self.length(step, by)
        inner, total = k + _CHECK_EVERY, state.iterations + _CHECK_EVERY
        restart = (last <= _SUFFICIENT * first) | (inner >= _ARTIFICIAL * total)
        restart |= (last <= _NECESSARY * first) & (last > state.previous)

        fresh = moved if self.R is None else moved._replace(Rw=self.R(moved.w))
        now = _where(restart, fresh, halpern(z, moved, k + _CHECK_EVERY - 1))
        following = state._replace(
            now=now,
            anchor=_where(restart, fresh, state.anchor),
            inner=jnp.where(restart, 0, inner),
            first=first,
            previous=jnp.where(restart, jnp.inf, last),
            weight=jnp.where(restart, self.balanced(state, moved), state.weight),
            iterations=total,
        )
        return following, step, moved

    def balanced(self, state: _State, moved: _Iterate) -> jax.Array:
        """The weight half way, in logarithms, to one that makes primal and dual distances since the restart alike."""
        way = _difference(moved, state.anchor)
        primal = jnp.linalg.norm(way.y)
        dual = jnp.sqrt(jnp.vdot(way.nu, way.nu) + jnp.maximum(jnp.vdot(way.w, way.Rw), 0) / self.ratio)
        good = (primal > 1e-10) & (dual > 1e-10) & (primal < 1e12) & (dual < 1e12)
        return jnp.where(good, jnp.sqrt(state.weight * dual / jnp.where(good, primal, 1.0)), state.weight)


def _difference(a: _Iterate, b: _Iterate) -> _Iterate:
    return jax.tree.map(jnp.subtract, a, b)


def _where(condition: jax.Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), a, b)


def _split(objective: Quadratic) -> tuple[jax.Array, Callable[[jax.Array], jax.Array] | None]:
    """`p` and `v -> R v`, `None` for zero, with `P = diag(p) + R` and both positive semidefinite if `P` is."""
    P, zero = objective.P, jnp.zeros_like(objective.q)
    if P is None:
        return zero, None
    if isinstance(P, LowRank):
        return P.diagonal, lambda v: P.factor @ (P.factor.T @ v)
    if isinstance(P, jax.Array) and P.ndim == 1:
        return P, None
    # Where every row is diagonally dominant its excess can be taken out; else only rows that are coupled to none.
    diagonal = objective.diagonal()
    if isinstance(P, BCOO):
        row, column = P.indices.T
        off = BCOO((jnp.where(row == column, 0, P.data), P.indices), shape=P.shape)
    else:
        off = P - jnp.diag(diagonal)
    others = entry_sums(off, 0)
    p = jnp.where(jnp.all(diagonal >= others), diagonal - others, jnp.where(others == 0, diagonal, 0.0))
    return p, lambda v: off @ v + (diagonal - p) * v


def _is_convex(p: jax.Array, R: Callable[[jax.Array], jax.Array] | None, largest: jax.Array) -> jax.Array:
    """False where a direction of negative curvature is found: an entry of `p`, or by power iteration on
    `largest I - R`."""
    least = -10 * float(jnp.finfo(p.dtype).eps) ** 0.6 * (largest + jnp.max(jnp.abs(p), initial=0))
    separable = jnp.min(p, initial=0) >= least
    if R is None:
        return separable

    def step(_: int, state: Any) -> Any:
        v, curvature = state
        image = R(v)
        following = largest * v - image
        size = jnp.linalg.norm(following)
        return following / jnp.where(size > 0, size, 1.0), jnp.minimum(curvature, jnp.vdot(v, image))

    start = _random_direction(p), jnp.zeros((), p.dtype)
    return separable & (jax.lax.fori_loop(0, 100, step, start)[1] >= least)


def _random_direction(like: jax.Array) -> jax.Array:
    v = jax.random.normal(jax.random.key(0), like.shape, like.dtype)
    return v / jnp.linalg.norm(v)


def _norm(product: Callable[[jax.Array], jax.Array], like: jax.Array) -> jax.Array:
    """The largest eigenvalue of a positive semidefinite matrix by power iteration, rounded up by its error."""

    def step(state: Any) -> Any:
        v, _, _, count = state
        image = product(v)
        following = jnp.vdot(v, image)
        error = jnp.linalg.norm(image - following * v)
        size = jnp.linalg.norm(image)
        return image / jnp.where(size > 0, size, 1.0), following, error, count + 1

    def rough(state: Any) -> jax.Array:
        _, value, error, count = state
        return (count < 200) & (error > 1e-2 * value)

    start = _random_direction(like), jnp.zeros((), like.dtype), jnp.asarray(jnp.inf, like.dtype), 0
    _, value, error, _ = jax.lax.while_loop(rough, step, start)
    return value + error
