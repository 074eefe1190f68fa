"""A primal-dual first-order method for linear and quadratic programs: products with `A` and `P` only."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.certificates import certificate_of_infeasibility, ray_of_descent
from kkt_solvers.conditions.multipliers import reduced_gradient
from kkt_solvers.conditions.residuals import default_tolerance, residuals
from kkt_solvers.data.constraints import Operator
from kkt_solvers.data.objectives import Quadratic, is_linear
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.solution import Dual, Status
from kkt_solvers.numerics.arrays import tree_where
from kkt_solvers.numerics.progress import report
from kkt_solvers.solvers._base import Solver
from kkt_solvers.solvers._halpern import Method, State
from kkt_solvers.solvers._precondition import preconditioned
from kkt_solvers.solvers.interior_point import polished

_POLISH_UP_TO = 3000  # variables and equalities together, of a system that is factorised
_STAGES = 1e-3, 1e-4, 1e-5, 1e-6, 1e-7  # residuals at which the active set is tried


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
    rows and columns first, and never factorised or made dense. Where a factorisation is affordable (`n + m`
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
    takes: ClassVar[tuple[str, ...]] = ("linear",)

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
        method = Method(scaled)
        shape, objective = problem.equality.target.shape, problem.objective
        # Without an objective every multiplier is zero at the solution, and a small one would count as large.
        priced = jnp.any(objective.q != 0) | (not is_linear(objective))

        def back(y: jax.Array, nu: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = jnp.clip(scales.variables * y, problem.box.lower, problem.box.upper)
            return y, priced * (scales.rows * nu / scales.objective).reshape(shape)

        def largest(y: jax.Array, nu: jax.Array) -> jax.Array:
            return residuals(problem, y, _with_bounds(problem, y, nu)).largest

        def chunk(state: State) -> State:
            following, step, candidate = method.advance(state)
            y, nu = back(candidate.y, candidate.nu)
            size = largest(y, nu)
            report(following.iterations, problem.objective(y), size)
            better = size < state.smallest
            best = tree_where(better, (y, nu), state.best)
            claim, best = _proof(problem, step.y * scales.variables, (scales.rows * step.nu).reshape(shape), best)
            claim = jnp.where(jnp.all(jnp.isfinite(y)), claim, Status.NUMERICAL_ERROR)
            return following._replace(
                best=best, smallest=jnp.where(better, size, state.smallest), claim=claim.astype(jnp.int32)
            )

        def unfinished(state: State, target: Any) -> jax.Array:
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

            def stage(carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
                state, index = carry
                target = targets[jnp.minimum(index, len(targets) - 1)]
                state = jax.lax.while_loop(lambda s: unfinished(s, target), chunk, state)
                y, nu = state.best
                y, dual, _ = polished(problem, y, _with_bounds(problem, y, nu), state.smallest)
                size = largest(y, dual.equality)
                better = (size < state.smallest) & (state.claim == Status.MAX_ITERATIONS)
                best = tree_where(better, (y, dual.equality), state.best)
                return state._replace(best=best, smallest=jnp.where(better, size, state.smallest)), index + 1

            def more(carry: tuple[State, jax.Array]) -> jax.Array:
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
    If there is no solution, the steps of the method converge to such a ray."""
    infeasible, (unbounded, _) = certificate_of_infeasibility(problem, nu), ray_of_descent(problem, y)
    claim = jnp.where(infeasible, Status.PRIMAL_INFEASIBLE, Status.MAX_ITERATIONS)
    claim = jnp.where(unbounded, Status.DUAL_INFEASIBLE, claim)
    return claim, (jnp.where(unbounded, y, best[0]), jnp.where(infeasible, nu, best[1]))
