"""`InteriorPoint`: a problem scaled, the loop, and what it found in the terms of the problem."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from kkt_solvers.conditions.certificates import certificate_of_infeasibility, ray_of_descent
from kkt_solvers.conditions.multipliers import with_a_row, without_the_row
from kkt_solvers.conditions.residuals import adjoint, default_tolerance, gradient_and_terms, residuals
from kkt_solvers.data.constraints import Curved
from kkt_solvers.data.inequality import linearised, settled, settled_dual
from kkt_solvers.data.objectives import is_linear
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.sizes import natural_sizes
from kkt_solvers.data.solution import Dual, Status
from kkt_solvers.numerics.arrays import is_precise, tree_where, where
from kkt_solvers.numerics.batches import one_by_one
from kkt_solvers.numerics.progress import is_heard, report
from kkt_solvers.solvers._base import Solver
from kkt_solvers.solvers._equilibrate import Scales, equilibrated
from kkt_solvers.solvers.interior_point import _loop as loop
from kkt_solvers.solvers.interior_point._convexity import missing_curvature, with_curvature
from kkt_solvers.solvers.interior_point._iterate import Iterate, both
from kkt_solvers.solvers.interior_point._state import ACTIVE, DONE, Setting, State
from kkt_solvers.solvers.interior_point._steep_bounds import off_steep_bounds
from kkt_solvers.systems.kkt import MatrixFreeKKT, SparseKKT, choose

_Answer = tuple[jax.Array, Dual, jax.Array, jax.Array]


@dataclass(frozen=True)
class InteriorPoint(Solver):
    """Predictor-corrector interior point, for quadratic and linear programs and any smooth convex objective.

    Each iteration takes a Newton step on the KKT conditions with complementarity relaxed to `z (y - l) = mu`. The
    iterates stay strictly inside the box, so an objective need only be finite there. The equality need not hold
    before the end. Quadratic objectives use Mehrotra's predictor and corrector; others use backtracking on the norm of
    the relaxed conditions, inside the domain of the objective.

    Every iteration factorises `H + D` and the Schur complement `A (H + D)^{-1} A'` by Cholesky's method. Both are
    regularised as in a proximal point method, so that dependent rows and flat objectives do no harm. A diagonal or
    low-rank `H` costs only the Schur complement, and a problem in stages only its blocks; a dense `H` costs as many
    rows as have off-diagonal entries.

    Once the residual is below 1e-1 the system of the active set is solved, the active set is corrected if a few
    coordinates are wrong, and the result is kept if it is better. This saves the last iterations, and multipliers of
    free coordinates are exactly zero. If the method gets stuck on a quadratic program, it looks for a proof that the
    program is infeasible: the distance of the box from the equality.

    On a CPU the instances of a batch (`jax.vmap`) are solved one after the other, each with as many iterations as it
    needs. Small instances (up to 32 variables and 32 equalities) are solved in lockstep, up to 128 at a time, of which
    the slowest few are left to the end; on a GPU all are solved in lockstep.

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
    takes: ClassVar[tuple[str, ...]] = ("linear", "convex")

    def run(self, problem: FlatProblem, init: jax.Array, dual: Dual | None = None) -> _Answer:
        rows, dual = with_a_row(problem, dual)
        small = None if is_heard() else self._run  # the rows of the table come from one instance after the other
        every = one_by_one(lambda *args: self._run(0, *args)[0], small=small)
        y, found, iterations, claim = every(rows, init, dual)
        return y, without_the_row(problem, found), iterations, claim

    def _run(
        self, left: jax.Array | int, problem: FlatProblem, init: jax.Array, dual: Dual | None
    ) -> tuple[_Answer, jax.Array]:
        """What was found, and whether the method is finished: see `one_by_one`."""
        tol = default_tolerance(init.dtype) if self.tol is None else self.tol
        quadratic, system = problem.is_quadratic, choose(problem)
        sparse = isinstance(system, SparseKKT)
        missing = missing_curvature(problem, init, sparse) if quadratic else jnp.zeros((), init.dtype)
        convex = with_curvature(problem, missing, sparse)
        scaled, scales = equilibrated(convex, init, structured=system.keeps_structure)
        shape = problem.equality.target.shape

        def proves(y: jax.Array, nu: jax.Array, rays: jax.Array) -> tuple[jax.Array, jax.Array]:
            local = linearised(problem, scales.variables * y)
            infeasible = certificate_of_infeasibility(local, (scales.rows * nu).reshape(shape))
            return infeasible, jax.vmap(lambda ray: ray_of_descent(problem, scales.variables * ray)[0])(rays)

        def told(state: State) -> None:
            """One row an iteration: after the active set has been solved for, where that is next."""
            if is_heard():
                done = (state.phase < ACTIVE) | (state.phase == DONE)
                value = problem.objective(state.best[0])
                jax.lax.cond(done, lambda: report(state.iterations, value, state.smallest), lambda: None)

        setting = Setting(
            measured=lambda point, held, solving: _measured(problem, scales, point, held, solving),
            scaled=lambda y, dual: _scaled(problem, scales, y, dual),
            proves=proves,
            told=told,
            moves=problem.box.lower != problem.box.upper,
            tol=tol,
            max_iterations=self.max_iterations,
            polish=self.polish,
            left=left,
            repairs=not is_linear(problem.objective),  # a vertex needs as many free coordinates as rows
            holds=not is_precise(init.dtype) and not sparse,
        )
        zero = jnp.zeros_like(init)
        point = (init, Dual(jnp.zeros_like(problem.equality.target), zero, zero) if dual is None else dual)
        warm = self.polish and dual is not None  # of a similar problem the active set is often the same
        best = point, jnp.full((), jnp.inf, init.dtype)
        final = loop.run(scaled, jnp.isfinite(missing), init / scales.variables, best, warm, setting)
        (y, dual), claim = final.best, final.claim
        if not quadratic:
            slope = 1 / (scales.objective * scales.variables[0])
            claim = where(jnp.isfinite(missing_curvature(problem, y, sparse, slope)), claim, int(Status.INVALID))
        unsolved = claim == Status.MAX_ITERATIONS
        claim = where(unsolved & (final.iterations < self.max_iterations), int(Status.INACCURATE), claim)
        claim = where(unsolved & (final.smallest <= tol), int(Status.SOLVED), claim)
        stands = (problem.equality.row_sizes() > 0).astype(init.dtype).reshape(shape)  # a row of zeros has no price
        ray = (scales.rows * final.now.nu).reshape(shape)
        nu = where(claim == Status.PRIMAL_INFEASIBLE, ray, dual.equality * stands)
        proof = claim == Status.DUAL_INFEASIBLE
        if isinstance(problem.equality, Curved):
            proof |= claim == Status.PRIMAL_INFEASIBLE
        y = where(proof, scales.variables * final.now.y, y)
        return (y, Dual(nu, dual.lower, dual.upper), final.iterations, claim), final.phase == DONE


def _measured(
    problem: FlatProblem, scales: Scales, point: Iterate, held: jax.Array, solving: jax.Array
) -> tuple[tuple[jax.Array, Dual], jax.Array]:
    """The point in the terms of the problem, and its largest KKT residual.

    The multipliers of the bounds take up what is left of the slope where a variable is fixed or beside a steep bound,
    and at every bound if the point was solved for its active set.
    """
    (lower, upper), d, c = (problem.box.lower, problem.box.upper), scales.variables, scales.objective
    y = jnp.clip(d * point.y, lower, upper)
    y = where(solving & held[0], lower, where(solving & held[1], upper, y))
    y, steep = off_steep_bounds(problem, y)
    nu = (scales.rows * point.nu / c).reshape(problem.equality.target.shape)
    natural, local = natural_sizes(problem)[0], linearised(problem, y)
    known = gradient_and_terms(problem.objective, y, problem.box, natural)
    slope = jnp.maximum(both(known[0] + adjoint(local, nu)), 0)
    bounds = jnp.stack([lower, upper])
    taken = steep | (lower == upper) | (solving & (y == bounds))
    z = where(taken & jnp.isfinite(bounds), slope, where(solving, 0.0, point.z / (d * c)))
    found = settled(problem, y), settled_dual(problem, Dual(nu, z[0], z[1]))
    worst = residuals(local, *found, known).largest
    return found, where(jnp.isfinite(worst), worst, jnp.inf)


def _scaled(problem: FlatProblem, scales: Scales, y: jax.Array, dual: Dual) -> Iterate:
    """A point as an iterate of the scaled problem."""
    d, c, box = scales.variables, scales.objective, problem.box
    slack = jnp.stack([y - box.lower, box.upper - y]) / d
    return Iterate(
        y / d, c / scales.rows * jnp.ravel(dual.equality), slack, c * d * jnp.stack([dual.lower, dual.upper])
    )


def polished(problem: FlatProblem, y: jax.Array, dual: Dual, smallest: jax.Array) -> tuple[jax.Array, Dual, jax.Array]:
    """The solution for the active set of the point, repaired where it shows a few coordinates to be in the wrong set:
    the primal-dual active set method [hintermueller2002]. The point itself, if its largest KKT residual, `smallest`,
    is smaller, and where the system is too large to be factorised."""
    if isinstance(choose(problem), MatrixFreeKKT):
        return y, dual, smallest
    found, multipliers, _, _ = InteriorPoint(max_iterations=0).run(problem, y, dual)
    residual = residuals(linearised(problem, found), found, multipliers).largest
    return *tree_where(residual <= smallest, (found, multipliers), (y, dual)), jnp.minimum(residual, smallest)
