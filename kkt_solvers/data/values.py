"""The values of a problem, and shapes that broadcast: what can be checked of them before and while tracing."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from kkt_solvers.data.constraints import Affine, AtMost, Curved, Sum
from kkt_solvers.data.objectives import Quadratic, Separable, Smooth
from kkt_solvers.data.problem import FlatProblem, Problem
from kkt_solvers.numerics.arrays import in_range, is_concrete


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that they broadcast to, if they do."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


def _parts(problem: Problem | FlatProblem, xp: Any) -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
    """The named arrays of a problem, each with the elementwise test, in numpy or jax.numpy, that entries must pass."""
    objective, equality = problem.objective, problem.equality
    if isinstance(objective, Quadratic):
        yield "P", objective.P, xp.isfinite
        yield "q", objective.q, xp.isfinite
    if isinstance(objective, Separable):
        yield "theta", objective.theta, lambda a: ~xp.isnan(a)
    args = objective.args if isinstance(objective, Smooth) else getattr(problem, "args", ())
    args = (args, equality.args) if isinstance(equality, Curved) else args
    yield "args", args, lambda a: ~xp.isnan(a)
    if isinstance(equality, Affine):
        yield "A", equality.A, xp.isfinite
        yield "b", equality.b, xp.isfinite
    if isinstance(equality, Sum):
        yield "total", equality.total, xp.isfinite
        yield "weights", equality.weights, xp.isfinite
    if isinstance(equality, Curved):
        yield "b", equality.affine, xp.isfinite
    if isinstance(inequality := getattr(problem, "inequality", None), AtMost):
        yield "G", inequality.G, xp.isfinite
        yield "h", inequality.h, lambda a: ~xp.isnan(a) & (a > -xp.inf)
    yield "lower", problem.box.lower, lambda a: ~xp.isnan(a) & (a < xp.inf)
    yield "upper", problem.box.upper, lambda a: ~xp.isnan(a) & (a > -xp.inf)


def _floats(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]


def check_values(problem: Problem) -> None:
    """Raise for bad values that can be seen: those of tracers end in a status instead.

    In numpy: inside a trace jax.numpy would make tracers of concrete arrays too.
    """
    for name, value, good in _parts(problem, np):
        for leaf in _floats(value):
            if is_concrete(leaf) and not np.all(good(np.asarray(leaf))):
                wanted = "finite numbers" if good is np.isfinite else "numbers, and bounds that a finite y can meet"
                remedy = " (write an infinite bound for none)" if name in ("lower", "upper") else ""
                remedy = " (write inf for no constraint)" if name == "h" else remedy
                raise ValueError(f"{name} has a NaN or infinite entry; it must hold {wanted}{remedy}")
    lower, upper = jax.tree.leaves(problem.box.lower), jax.tree.leaves(problem.box.upper)
    if is_concrete((lower, upper)) and len(lower) == len(upper):
        for low, high in zip(lower, upper, strict=True):
            if broadcast(low.shape, high.shape) is not None and np.any(np.asarray(low) > np.asarray(high)):
                raise ValueError("lower is above upper in some entry, so the box is empty; exchange or widen them")


def check_init(init: Any) -> None:
    for leaf in _floats(init):
        if is_concrete(leaf) and not np.all(np.isfinite(np.asarray(leaf))):
            raise ValueError("init has a NaN or infinite entry; pass any finite point, feasible or not")


def is_valid(flat: FlatProblem) -> jax.Array:
    """The same test on a flat problem, traced: a boolean scalar."""
    checks = [good(leaf) for _, value, good in _parts(flat, jnp) for leaf in _floats(value)]
    checks += [in_range(M) for _, M, _ in _parts(flat, jnp) if isinstance(M, BCOO)]
    alike: dict[tuple[int, ...], jax.Array] = {}  # one reduction for all of a shape
    for check in (*checks, flat.box.lower <= flat.box.upper):
        alike[check.shape] = alike.get(check.shape, True) & check
    return jnp.all(jnp.stack([jnp.all(check) for check in alike.values()]))
