"""The only module that imports jaxopt; it is imported when a solver that needs jaxopt runs. jaxopt is used forward
only, without unrolled loops and without implicit differentiation: the derivative is ours."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.data.objectives import Quadratic
from kkt_solvers.data.problem import FlatProblem

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # jaxopt announces that it is no longer maintained.
    import jaxopt


def bisect(
    residual: Callable[..., jax.Array], low: jax.Array, high: jax.Array, data: tuple[Any, ...], max_iterations: int
) -> tuple[jax.Array, jax.Array]:
    """The root of the nondecreasing `residual(s, *data)` in `[low, high]`.

    The bracket of `jaxopt.Bisection` is a field of the class, and cannot depend on traced data. So the unknown here is
    the part t in [0, 1] of the way through the bracket, and the bracket itself is an argument of the function.
    """

    def of_part(t: jax.Array, low: jax.Array, high: jax.Array, data: tuple[Any, ...]) -> jax.Array:
        return residual(low + t * (high - low), *data)

    solver = jaxopt.Bisection(
        optimality_fun=of_part,
        lower=0.0,
        upper=1.0,
        maxiter=max_iterations,
        tol=0.0,
        check_bracket=False,
        implicit_diff_solve=None,
        unroll=False,
    )
    part, state = solver.run(None, low, high, data)
    return low + part * (high - low), state.iter_num.astype(jnp.int32)


def projected_gradient(
    fun: Callable[..., jax.Array],
    projection: Callable[..., jax.Array],
    init: jax.Array,
    projection_data: Any,
    data: tuple[Any, ...],
    *,
    max_iterations: int,
    tol: float,
    acceleration: bool,
) -> tuple[jax.Array, jax.Array]:
    """`jaxopt.ProjectedGradient` on `fun(y, *data)`."""
    solver = jaxopt.ProjectedGradient(
        fun=fun,
        projection=projection,
        maxiter=max_iterations,
        maxls=40,
        tol=tol,
        acceleration=acceleration,
        implicit_diff=False,
        unroll=False,
    )
    return _iterated(solver, init, projection_data, *data)


def mirror_descent(
    fun: Callable[..., jax.Array],
    projection_grad: Callable[..., jax.Array],
    init: jax.Array,
    projection_data: Any,
    data: tuple[Any, ...],
    *,
    max_iterations: int,
    tol: float,
) -> tuple[jax.Array, jax.Array]:
    """`jaxopt.MirrorDescent` on `fun(y, *data)` with unit steps; a step size goes into `projection_data`."""
    solver = jaxopt.MirrorDescent(
        fun=fun,
        projection_grad=projection_grad,
        stepsize=1.0,
        maxiter=max_iterations,
        tol=tol,
        implicit_diff=False,
        unroll=False,
    )
    return _iterated(solver, init, projection_data, *data)


def _iterated(solver: Any, init: jax.Array, *data: Any) -> tuple[jax.Array, jax.Array]:
    """The last iterate of `solver.run` and the number of iterations. `solver.run` writes its first iteration out before
    the loop; here it is the first round of the loop, which halves the program."""

    def unfinished(step: Any) -> jax.Array:
        return (step.state.error > solver.tol) & (step.state.iter_num < solver.maxiter)

    start = jaxopt.OptStep(init, solver.init_state(init, *data))
    y, state = jax.lax.while_loop(unfinished, lambda step: solver.update(*step, *data), start)
    return y, state.iter_num.astype(jnp.int32)


def run(name: str, kind: str, problem: FlatProblem, init: jax.Array, options: dict[str, Any]) -> tuple[Any, jax.Array]:
    """What the solver `name` finds, and its number of iterations. It finds a point, or for a quadratic program the
    point, `nu` and the slopes `zu - zl`."""
    make, box = getattr(jaxopt, name), problem.box
    if kind == "quadratic":
        return _quadratic(make(**options), name, problem)
    options = {"implicit_diff": False, "unroll": False, **options}
    if kind == "set":
        solver, constraints = make(fun=_value, projection=_projection, **options), (problem,)
    else:
        solver, constraints = make(fun=_value, **options), ((box.lower, box.upper),) if kind == "bounds" else ()
    y, state = solver.run(init, *constraints, problem.objective)
    return y, jnp.asarray(state.iter_num, jnp.int32)


def _quadratic(solver: Any, name: str, problem: FlatProblem) -> tuple[Any, jax.Array]:
    objective, (lower, upper) = problem.objective, (problem.box.lower, problem.box.upper)
    assert isinstance(objective, Quadratic)
    A, b = problem.rows.dense(), jnp.ravel(problem.equality.target)
    eye, m = jnp.eye(lower.size, dtype=lower.dtype), b.size
    Q = jax.vmap(objective.matrix.product)(eye)
    if name == "EqualityConstrainedQP":
        solution, _ = solver.run(params_obj=(Q, objective.q), params_eq=(A, b))
        found = solution.primal, solution.dual_eq, jnp.zeros_like(lower)
        return found, jnp.zeros((), jnp.int32)
    if name == "BoxOSQP":
        rows, low, high = jnp.concatenate([A, eye]), jnp.concatenate([b, lower]), jnp.concatenate([b, upper])
        solution, state = solver.run(params_obj=(Q, objective.q), params_eq=rows, params_ineq=(low, high))
        found = solution.primal[0], solution.dual_eq[:m], solution.dual_eq[m:]
    else:
        inequality = jnp.concatenate([eye, -eye]), jnp.concatenate([upper, -lower])
        equality = (A, b) if m else None
        solution, state = solver.run(params_obj=(Q, objective.q), params_eq=equality, params_ineq=inequality)
        above, below = jnp.split(solution.dual_ineq, 2)
        found = solution.primal, solution.dual_eq if m else b, above - below
    return found, jnp.asarray(state.iter_num, jnp.int32)


def _value(y: jax.Array, objective: Any) -> jax.Array:
    return objective(y)


def _projection(v: jax.Array, problem: FlatProblem) -> jax.Array:
    from kkt_solvers.solvers._sets import project  # imported here, as it imports this module

    return project(v, jnp.ones_like(v), problem)[0]
