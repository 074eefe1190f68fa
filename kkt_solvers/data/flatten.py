"""The door: whatever the user wrote, checked and turned into one problem on flat vectors of one dtype."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO
from jax.flatten_util import ravel_pytree

from kkt_solvers.data.constraints import Affine, AtMost, Equality, Operator, Sum
from kkt_solvers.data.inequality import rows_and_values, settled, with_inequality
from kkt_solvers.data.matrices import Map
from kkt_solvers.data.objectives import Quadratic, Separable, Smooth
from kkt_solvers.data.problem import Box, FlatProblem, Problem
from kkt_solvers.data.sizes import middle_of_box, natural_sizes, unit_of_data
from kkt_solvers.data.solution import Dual, Solution
from kkt_solvers.data.stages import BlockDiagonal
from kkt_solvers.data.values import broadcast
from kkt_solvers.numerics.arrays import cast, float_dtype
from kkt_solvers.numerics.hoist import hoist

_FORM_UP_TO = 3e7  # entries of the matrix of an equality, or of P, given as a function


# ---------------------------------------------------------------------------------------------- shapes
def _is_array(tree: Any) -> bool:
    return jax.tree_util.all_leaves([tree])


def _shape_of_y(problem: Problem) -> tuple[int, ...]:
    """The shape of an array `y`, from whatever tells it."""
    objective, equality, inequality, box = problem.objective, problem.equality, problem.inequality, problem.box
    told: dict[str, tuple[int, ...]] = {}
    if isinstance(objective, Quadratic):
        told["q"] = objective.q.shape
        if objective.P is not None and not isinstance(objective.P, Map):
            told["P"] = objective.P.shape[-1:]
    if isinstance(objective, Separable):
        told |= {"theta": broadcast(*(leaf.shape for leaf in jax.tree.leaves(objective.theta))) or ()}
    if isinstance(equality, Sum) and equality.weights is not None:
        told["weights"] = equality.weights.shape
    told |= {"lower": box.lower.shape, "upper": box.upper.shape}
    told = {name: shape for name, shape in told.items() if shape != ()}
    if not told:  # last, as A and G act on a y of any shape, ravelled
        told |= {"A": equality.A.shape[-1:]} if isinstance(equality, Affine) else {}
        told |= {"G": inequality.G.shape[-1:]} if isinstance(inequality, AtMost) else {}
    if not told:
        raise ValueError("init is needed here: nothing in the problem tells the shape of y. Pass solve(problem, init)")
    shape = broadcast(*told.values())
    if shape is None:
        raise ValueError(
            "the shapes disagree about y: "
            + ", ".join(f"{name} says {shape}" for name, shape in told.items())
            + ". Batches of problems go through jax.vmap(solve)"
        )
    return shape


def structure_of_y(problem: Problem, init: Any) -> Any:
    """`y` as a pytree of `ShapeDtypeStruct`s, in the dtype of the computation."""
    dtype = float_dtype(problem, init)
    dtype = jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype  # 16-bit floats are computed in 32 bits
    if init is not None:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), dtype), init)
    lower, upper = problem.box.lower, problem.box.upper
    if _is_array(lower) and _is_array(upper):
        return jax.ShapeDtypeStruct(_shape_of_y(problem), dtype)
    like = upper if _is_array(lower) else lower
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), like)


def _like(value: Any, y: Any, name: str) -> Any:
    """A scalar, an array or a pytree like `y`, as a pytree whose leaves broadcast to those of `y`."""
    if _is_array(value):
        value = jax.tree.map(lambda _: value, y)
    if jax.tree.structure(value) != jax.tree.structure(y):
        raise ValueError(
            f"{name} must be a scalar, an array or a pytree like y: y is {jax.tree.structure(y)}, "
            f"{name} is {jax.tree.structure(value)}"
        )

    for leaf, like in zip(jax.tree.leaves(value), jax.tree.leaves(y), strict=True):
        if broadcast(leaf.shape, like.shape) != like.shape:
            raise ValueError(f"{name} has shape {leaf.shape}, which does not broadcast to y of shape {like.shape}")
    return value


def _fill(value: Any, y: Any, name: str) -> jax.Array:
    """What `_like` takes, broadcast to `y` and ravelled."""
    full = jax.tree.map(lambda leaf, like: jnp.broadcast_to(leaf, like.shape).ravel(), _like(value, y, name), y)
    parts = jax.tree.leaves(full)
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


# ------------------------------------------------------------------------------------------- flattening
def _theta(objective: Separable, y: Any) -> Any:
    return jax.tree.map(lambda leaf: _fill(cast(leaf, y.dtype), y, "theta"), objective.theta)


def hoisted(problem: Problem, init: Any) -> Problem:
    """The problem with all traced values that its functions close over made into leaves."""
    objective, equality, inequality = problem.objective, problem.equality, problem.inequality
    y = structure_of_y(problem, init)
    for name in ("lower", "upper"):  # before a function meets a `y` of the wrong shape
        _like(getattr(problem.box, name), y, name)
    arguments = jax.tree.map(
        lambda leaf: (
            jax.ShapeDtypeStruct(jnp.shape(leaf), jax.tree.leaves(y)[0].dtype)
            if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            else leaf
        ),
        problem.args,
    )
    changes: dict[str, Any] = {}
    if isinstance(objective, Separable):
        flat = jax.ShapeDtypeStruct((math.prod(y.shape),), y.dtype) if _is_array(y) else y
        theta = jax.eval_shape(lambda: _theta(objective, y)) if _is_array(y) else objective.theta
        names = ("phi", "minimiser", "complement")
        functions = {name: getattr(objective, name) for name in names}
        moved = {name: f and hoist(f, flat, theta) for name, f in functions.items()}
        if moved != functions:
            changes["objective"] = Separable(**moved, theta=objective.theta)
    elif isinstance(objective, Quadratic):
        if isinstance(objective.P, Map):
            product = hoist(objective.P.function, jax.ShapeDtypeStruct(objective.q.shape, jax.tree.leaves(y)[0].dtype))
            if product is not objective.P.function:
                changes["objective"] = Quadratic(product, objective.q)
    else:
        changes["objective"] = hoist(objective, y, *arguments)
    if equality is not None and not isinstance(equality, Equality):
        changes["equality"] = hoist(equality, y, *arguments)
    if inequality is not None and not isinstance(inequality, AtMost):
        changes["inequality"] = hoist(inequality, y, *arguments)
    if all(getattr(problem, name) is value for name, value in changes.items()):
        return problem
    return replace(problem, **changes)


def _flat_objective(problem: Problem, y: Any, n: int, unravel: Any) -> Any:
    objective = problem.objective
    dtype = jax.tree.leaves(y)[0].dtype
    if isinstance(objective, Quadratic):
        P, q = cast((objective.P, objective.q), dtype)
        if q.shape != (n,):
            raise ValueError(f"q must have shape ({n},) like y, got {q.shape}; batches go through jax.vmap(solve)")
        if isinstance(P, Map):
            shape = jax.eval_shape(P.function, q).shape
            if shape != (n,):
                raise ValueError(f"P, a function, must return P v, of shape ({n},) like v; it returned {shape}")
            if n * n <= _FORM_UP_TO:
                P = jax.vmap(P.function)(jnp.eye(n, dtype=dtype))
        elif P is not None and P.shape not in ((n,), (n, n)):
            raise ValueError(f"P must have shape ({n}, {n}) or, if diagonal, ({n},), got {P.shape}")
        if isinstance(P, (jax.Array, BCOO)) and P.ndim == 2:
            P = 0.5 * (P + P.T)  # pyright: ignore[reportOperatorIssue] - the sum of a BCOO is not annotated
        if isinstance(P, BlockDiagonal):
            P = P.symmetric()
        return Quadratic(P, q)
    if isinstance(objective, Separable):
        if not _is_array(y):
            raise TypeError("a Separable objective needs y to be one array, not a pytree; write theta as an array")
        return Separable(objective.phi, _theta(objective, y), objective.minimiser, objective.complement)
    smooth = Smooth(objective, cast(problem.args, dtype), unravel)
    out = jax.eval_shape(smooth, jax.ShapeDtypeStruct((n,), dtype))
    if getattr(out, "shape", None) != ():
        raise ValueError(f"objective must return a scalar, got {out}; sum or average it inside the function")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"objective must return a real floating scalar, got {out.dtype}")
    return smooth


def _flat_equality(problem: Problem, y: Any, n: int, unravel: Any) -> tuple[Any, Callable[[jax.Array], Any]]:
    """The equality on flat vectors, and how to turn its multiplier back into the user's shape."""
    equality = problem.equality
    dtype = jax.tree.leaves(y)[0].dtype
    if equality is None:
        return Affine(jnp.zeros((0, n), dtype), jnp.zeros(0, dtype)), lambda nu: None
    if isinstance(equality, Sum):
        total, weights = cast((equality.total, equality.weights), dtype)
        if total.shape != ():
            raise ValueError(f"total must be a scalar, got shape {total.shape}; several constraints are an Affine")
        return Sum(total, None if weights is None else _fill(weights, y, "weights")), lambda nu: nu
    if isinstance(equality, Affine):
        return Affine(*rows_and_values(equality.A, equality.b, n, dtype, "A", "b", "m")), lambda nu: nu
    # An affine function h(y) = A y - b: its matrix is its Jacobian anywhere, its right-hand side -h(0).
    args = cast(problem.args, dtype)

    def residual(y: jax.Array) -> tuple[jax.Array, Any]:
        return ravel_pytree(equality(unravel(y), *args))

    zero = jnp.zeros((n,), dtype)
    value, unravel_dual = residual(zero)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"equality must return A y - b, real numbers, got {value.dtype}; not whether it holds")
    if n * value.size > _FORM_UP_TO:
        return Operator(equality, args, unravel, n, -value), unravel_dual
    return Affine(jax.jacfwd(lambda y: residual(y)[0])(zero), -value), unravel_dual


def flatten(problem: Problem, init: Any) -> tuple[FlatProblem, jax.Array, Callable[[Solution], Solution]]:
    """The problem on flat vectors, a starting point, and the way back. Raises for wrong shapes."""
    y = structure_of_y(problem, init)
    leaves = jax.tree.leaves(y)
    if not leaves:
        raise ValueError("init is an empty pytree: there is nothing to solve for")
    n, dtype = sum(math.prod(leaf.shape) for leaf in leaves), leaves[0].dtype
    if n == 0:
        raise ValueError("y has no entries: nothing to solve for. Check the shapes of q, theta, the box or init")
    out_dtype = float_dtype(problem, init)
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), y))
    objective = _flat_objective(problem, y, n, unravel)
    equality, unravel_dual = _flat_equality(problem, y, n, unravel)
    lower = _fill(cast(problem.box.lower, dtype), y, "lower")
    upper = _fill(cast(problem.box.upper, dtype), y, "upper")
    flat, shape = FlatProblem(objective, equality, Box(lower, upper)), equality.target.shape
    flat, unravel_inequality = with_inequality(flat, problem.inequality, problem.args, unravel)
    if flat.natural is None:
        flat = replace(flat, natural=natural_sizes(flat))
    flat = replace(flat, natural=jax.lax.stop_gradient(flat.natural))
    unit = unit_of_data(flat) if isinstance(flat.objective, Smooth) else 1.0
    start = middle_of_box(flat.box, unit)
    if init is not None:
        given = ravel_pytree(cast(_as_floats(init), dtype))[0]
        start = settled(flat, jnp.concatenate([given, start[n:]])) if flat.slacks else given

    def unflatten(solution: Solution) -> Solution:
        dual, none = solution.dual, flat.slacks == 0
        nu = dual.equality if none else dual.equality[: -flat.slacks].reshape(shape)
        y, lower, upper = (part if none else part[:n] for part in (solution.primal, dual.lower, dual.upper))
        back = unravel(y), unravel_dual(nu), unravel(lower), unravel(upper)
        prices = None if problem.inequality is None else unravel_inequality(dual.lower[n:])
        primal, nu, lower, upper, prices, value = cast((*back, prices, solution.objective), out_dtype)
        rest = solution.status, solution.residuals, solution.iterations
        return Solution(primal, Dual(nu, lower, upper, prices), value, *rest)

    return flat, start, unflatten


def _as_floats(init: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) * 1.0, init)
