"""`solve` and `differentiable`: the two doors of the house, one way through it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers._derivative import attach, optimal_value
from kkt_solvers._smoothing import attach_relaxed
from kkt_solvers.conditions.certificates import certify
from kkt_solvers.conditions.convexity import inequalities_are_convex
from kkt_solvers.conditions.multipliers import Point, complete_dual, with_a_row, without_the_row
from kkt_solvers.conditions.residuals import default_tolerance
from kkt_solvers.data.constraints import Curved
from kkt_solvers.data.flatten import flatten, hoisted
from kkt_solvers.data.functions import check_functions, functions_hold
from kkt_solvers.data.inequality import settled, settled_dual
from kkt_solvers.data.objectives import Separable
from kkt_solvers.data.problem import FlatProblem, Problem
from kkt_solvers.data.sizes import middle_of_box
from kkt_solvers.data.solution import Dual, Solution, Status, is_differentiable
from kkt_solvers.data.values import check_init, check_values
from kkt_solvers.numerics.arrays import floating, full_precision, is_concrete, longer, tree_where, where
from kkt_solvers.numerics.progress import Listener, listener_of, listening
from kkt_solvers.solvers import Solver, check_takes, default_solver
from kkt_solvers.systems.kkt import KKTSystem


@full_precision
def solve(
    problem: Problem,
    init: Any = None,
    *,
    solver: Any = None,
    linear: KKTSystem | None = None,
    smoothing: Any = None,
    progress: Any = False,
) -> Solution:
    """Solve a convex problem; the solution carries the derivative of its KKT conditions.

    Arguments:
        problem: a `Problem`. All its arrays are brought to their common floating dtype (16-bit floats are computed
            in float32 and come back as they were).
        init: where to start, like `y`, or the `Solution` of a similar problem, whose multipliers are a start too.
            Needed only where nothing else tells the shape of `y`; need not be feasible.
        solver: how to solve. `None` chooses by structure:

            | objective | equality | solver |
            |---|---|---|
            | `Separable`, `Quadratic` with diagonal `P` | none or one row | `DualBisection` |
            | `Separable` | several rows | `DualNewton` |
            | `Quadratic`, `P` and `A` with 1e8 entries or more, or 1e7 nonzeros if sparse | any | `PrimalDual` |
            | `Quadratic`, either given as a function whose matrix would have 3e7 entries or more | any | `PrimalDual` |
            | anything else | any | `InteriorPoint` |

            Any object with `run(problem, init) -> (primal, dual or None, iterations, converged)` will do: see
            `kkt_solvers.solvers.Solver`.
        linear: how the linear system of the derivative is solved; `None` chooses by structure: see
            `kkt_solvers.linear.KKTSystem`.
        smoothing: `None` for the derivative of the solution, which jumps where a bound becomes active and is zero at a
            vertex. Or `mu > 0`, in units of the objective: for that of the problem with relaxed complementarity,
            `zl (y - l) = mu` and `zu (u - y) = mu`, which is smooth and tends to the exact one as `mu` goes to zero.
            Only derivatives of `primal` and `dual` change, no value does. The Hessian is formed as a dense matrix.
        progress: `True` for a live table, a row an iteration (needs tqdm), or a function
            `progress(iteration, objective, residual)` to keep the history, `residual` being the largest relative KKT
            residual. Without it nothing is compiled in. Under `vmap` it is called for every instance.

    Returns a `Solution`. `status` is `SOLVED` only where the relative KKT residuals, computed here and not by the
    solver, are at most the solver's `tol` (default 1e-8 in float64, 1e-5 in float32). Where there is no solution, the
    solution holds the proof: see `Solution`.

    Raises `ValueError` or `TypeError`, naming the argument, for wrong shapes, wrong structure and bad values that
    can be seen; the bad values of traced arrays end in `Status.INVALID`.

    A sparse matrix has integer leaves, its indices: differentiate such a problem with `jax.grad(..., allow_int=True)`.
    Compiled code is found again for the same functions, shapes and dtypes: outside `jax.jit`, define the functions of
    a problem once, at module level, rather than a new lambda for each call.

    >>> import kkt_solvers as kkt
    >>> problem = kkt.Problem(kkt.Quadratic([1.0, 1.0], [-3.0, 0.0]), kkt.Sum(1.0), kkt.Box(0.0, 2.0))
    >>> solution = kkt.solve(problem)
    >>> solution.primal, kkt.Status(int(solution.status)).name
    (Array([1., 0.], dtype=float32), 'SOLVED')
    """
    init = jnp.asarray(init) if isinstance(init, list) else init
    if isinstance(init, Solution):  # its point may be NaN, if it failed; `_solve` sees to that
        init, dual = init.primal, init.dual
    else:
        check_init(init)
        dual = None
    problem = _enter(problem, init)
    if isinstance(solver, type):
        raise TypeError(f"solver must be an instance, not the class: write {solver.__name__}()")
    if solver is not None and not callable(getattr(solver, "run", None)):
        raise TypeError(f"solver must have a method run(problem, init), got {type(solver).__name__}")
    listener = listener_of(progress)
    solution = _solve(problem, init, dual, solver, _checked(linear), _checked_smoothing(smoothing), listener)
    if listener is not None:
        jax.effects_barrier()  # every row is out before the solution is
    return solution


@full_precision
def differentiable(
    problem: Problem,
    primal: Any,
    dual: Dual | None = None,
    *,
    tol: float | None = None,
    check: bool = True,
    linear: KKTSystem | None = None,
) -> Solution:
    """The solution that carries the KKT derivative, from a point found by anything: another library, a file.

    Arguments:
        problem: the `Problem` that the point solves.
        primal: the point, like `y`.
        dual: its multipliers, or `None`; those that are missing (`None` fields too) are recovered from the point, by
            least squares on the coordinates that are not at a bound.
        tol: largest relative KKT residual of a `SOLVED` point (default 1e-8 in float64, 1e-5 in float32).
        check: whether a point whose residuals are far above `tol` (beyond its square root) becomes a
            `NUMERICAL_ERROR` with NaN derivatives. `False` differentiates the KKT conditions there all the same.
        linear: as for `solve`.

    >>> import jax, kkt_solvers as kkt
    >>> def demand(b):
    ...     problem = kkt.Problem(kkt.Quadratic([1.0, 3.0], [0.0, 0.0]), kkt.Sum(b))
    ...     return kkt.differentiable(problem, [3.0, 1.0]).primal  # found by hand
    >>> jax.jacobian(demand)(4.0).tolist()
    [0.75, 0.25]
    """
    primal = jax.tree.map(jnp.asarray, primal) if not isinstance(primal, list) else jnp.asarray(primal)
    if dual is not None and not isinstance(dual, Dual):
        raise TypeError(f"dual must be a Dual(equality, lower, upper), got {type(dual).__name__}")
    return _differentiable(_enter(problem, primal), primal, dual, tol, check, _checked(linear))


def _enter(problem: Problem, init: Any) -> Problem:
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, got {type(problem).__name__}")
    check_values(problem)
    problem = hoisted(problem, init)
    check_functions(problem, init)
    return problem


def _checked(linear: Any) -> KKTSystem | None:
    if linear is not None and not isinstance(linear, KKTSystem):
        raise TypeError(f"linear must be a KKTSystem such as kkt.linear.DenseKKT(), got {type(linear).__name__}")
    return linear


def _checked_smoothing(smoothing: Any) -> jax.Array | None:
    if smoothing is None:
        return None
    smoothing = floating(smoothing, "smoothing")
    if smoothing.ndim:
        raise ValueError(f"smoothing must be a scalar, got shape {smoothing.shape}")
    if is_concrete(smoothing) and not 0 < float(smoothing) < float("inf"):
        raise ValueError(f"smoothing must be positive and finite, got {smoothing}; None is for no smoothing")
    return smoothing


# Inlined: what a call of its own takes and returns XLA copies, two more arrays of the size of y.
@functools.partial(jax.jit, static_argnames=("solver", "linear", "listener"), inline=True)
def _solve(
    problem: Problem,
    init: Any,
    dual: Dual | None,
    solver: Any,
    linear: KKTSystem | None,
    smoothing: jax.Array | None,
    listener: Listener | None,
) -> Solution:
    flat, start, unflatten = flatten(problem, init)
    solver = default_solver(flat) if solver is None else solver
    check_takes(solver, flat)
    start = where(jnp.isfinite(start), start, middle_of_box(flat.box))
    dual = jax.tree.map(lambda leaf: where(jnp.isfinite(leaf), leaf, 0), flat_dual(flat, dual))
    stopped, start, dual = jax.lax.stop_gradient((flat, start, dual))
    with listening(listener):
        # A solver of the user's own has `run(problem, init)` only.
        warm = (dual,) if isinstance(solver, Solver) else ()
        primal, dual, iterations, converged = solver.run(stopped, start, *warm)
    tol = solver.tol if isinstance(solver, Solver) else None
    sound = functions_hold(jax.lax.stop_gradient(problem), init, stopped, primal)
    sound &= inequalities_are_convex(stopped, primal)
    found = primal, dual, iterations, converged
    return unflatten(_finish(flat, stopped, *found, tol, linear, sound, smoothing))


@functools.partial(jax.jit, static_argnames=("tol", "check", "linear"), inline=True)
def _differentiable(
    problem: Problem, primal: Any, dual: Dual | None, tol: float | None, check: bool, linear: KKTSystem | None
) -> Solution:
    flat, start, unflatten = flatten(problem, primal)
    stopped, start, dual = jax.lax.stop_gradient((flat, start, flat_dual(flat, dual)))
    iterations = jnp.zeros((), jnp.int32)
    sound = functions_hold(jax.lax.stop_gradient(problem), primal, stopped, start)
    sound &= inequalities_are_convex(stopped, start)
    return unflatten(_finish(flat, stopped, start, dual, iterations, jnp.asarray(check), tol, linear, sound))


def flat_dual(flat: FlatProblem, dual: Dual | None) -> Dual | None:
    """A user's multipliers on flat vectors."""
    if dual is None:
        return None
    y = flat.box.lower
    parts = []
    p, target = flat.slacks, flat.equality.target
    sizes = {"equality": target.size - p, "lower": y.size - p, "upper": y.size - p, "inequality": p}
    for name, size in sizes.items():
        leaves = jax.tree.leaves(getattr(dual, name))
        if not leaves:
            parts.append(jnp.zeros(0, y.dtype) if p and not size else None)
            continue
        vector = jnp.concatenate([jnp.ravel(leaf) for leaf in leaves]).astype(y.dtype)
        if vector.size != size:
            raise ValueError(
                f"dual.{name} must have {size} entries, got {vector.size}; start from a solution of the same shape"
            )
        parts.append(vector)
    nu, lower, upper, own = parts
    if p:  # the multiplier of an inequality is that of its row, and that of its slack variable's bound
        nu, lower = (None if part is None or own is None else jnp.concatenate([part, own]) for part in (nu, lower))
        upper = None if upper is None else longer(upper, after=p)
    return Dual(None if nu is None else nu.reshape(target.shape), lower, upper)


def _finish(
    flat: FlatProblem,
    stopped: FlatProblem,
    primal: jax.Array,
    dual: Any,
    iterations: Any,
    converged: Any,
    tol: float | None,
    linear: KKTSystem | None,
    sound: jax.Array,
    smoothing: jax.Array | None = None,
) -> Solution:
    """Multipliers, certificate, derivative: the same for every solver and for points from elsewhere."""
    original = flat
    # Nothing of a separable one calls LAPACK.
    if not isinstance(flat.objective, Separable) or smoothing is not None:
        (flat, _), (stopped, dual) = with_a_row(flat, None), with_a_row(stopped, dual)
    tolerance = default_tolerance(primal.dtype) if tol is None else tol
    claim = jnp.asarray(converged)
    if flat.slacks:  # those of a ray tell how fast an inequality gets away from its bound, not how far it is
        primal = where(claim == int(Status.DUAL_INFEASIBLE), primal, settled(stopped, primal))
    dual = complete_dual(stopped, primal, dual)
    if flat.slacks:  # a ray has no slack variables' multipliers yet
        dual = tree_where(claim == int(Status.PRIMAL_INFEASIBLE), dual, settled_dual(stopped, dual))
    verdict = certify(stopped, primal, dual, claim, tolerance, sound)
    status, dual = verdict.status, verdict.dual
    live = where(is_differentiable(status), 1.0, jnp.nan).astype(primal.dtype)
    point = Point(verdict.y, dual.equality, dual.lower, dual.upper, live)
    point = jax.lax.stop_gradient(point)
    if smoothing is None:
        point = attach(linear, flat, point)
    else:
        point = attach_relaxed(linear, flat, point, smoothing.astype(primal.dtype))
    # Nobody is to apply the point at which a search for a feasible one ended.
    # Unless it is a part of the proof.
    if isinstance(flat.equality, Curved):
        hidden = jnp.zeros((), primal.dtype)
    else:
        hidden = where(status == Status.PRIMAL_INFEASIBLE, jnp.nan, 0.0).astype(primal.dtype)
    return Solution(
        point.primal + hidden,
        without_the_row(original, Dual(point.equality, point.lower, point.upper)),
        optimal_value(flat, point) + verdict.value,
        status,
        verdict.residuals,
        jnp.asarray(iterations, jnp.int32),
    )
