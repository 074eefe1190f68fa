"""What every problem here asks of its arguments, and hands back where there is no answer."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers import Solution, Status
from kkt_solvers.numerics.arrays import floating, is_concrete


def vector(value: Any, name: str, meaning: str) -> jax.Array:
    value = floating(value, name)
    if value.ndim != 1:
        raise ValueError(f"{name} must be a vector of {meaning}, got shape {value.shape}; batches go through jax.vmap")
    return value


def rows(value: Any, name: str, meaning: str) -> jax.Array:
    """An array whose last axis is the problem's, any others being a batch."""
    value = floating(value, name)
    if value.ndim == 0:
        raise ValueError(f"{name} must have at least one axis, that of the {meaning}; got a scalar")
    return value


def matrix_of(value: Any, name: str, meaning: str) -> jax.Array:
    value = floating(value, name)
    if value.ndim != 2:
        raise ValueError(f"{name} must be a matrix, {meaning}; got shape {value.shape}")
    return value


def scalar(value: Any, name: str) -> jax.Array:
    value = floating(value, name)
    if value.shape != ():
        raise ValueError(f"{name} must be a scalar, got shape {value.shape}; batches go through jax.vmap")
    return value


def index(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer, got {value!r}") from error


def like(value: Any, shape: tuple[int, ...], name: str, meaning: str) -> jax.Array:
    """A scalar or an array that broadcasts to `shape`."""
    value = floating(value, name)
    try:
        fits = np.broadcast_shapes(value.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must be a scalar or have the shape {shape} of {meaning}, got {value.shape}")
    return value


def symmetric(value: jax.Array, name: str) -> jax.Array:
    return where_valid(value, f"{name} must be symmetric, ({name} + {name}.T) / 2 for instance", _is_symmetric)


def in_order(lower: jax.Array, upper: jax.Array, where: str = "in some entry") -> jax.Array:
    """`lower` where it is not above `upper`."""
    message = f"lower is above upper {where}; exchange or widen the bounds"
    return where_valid(lower, message, lambda xp, lower, upper: lower <= upper, upper)


def where_valid(
    value: jax.Array, message: str | Callable[..., str], holds: Callable[..., Any], *others: Any
) -> jax.Array:
    """`value` where `holds(xp, value, *others)`, with numpy or jax.numpy for `xp`. Elsewhere, or for a NaN, a
    `ValueError` with `message`, or that function of the values, if that can be seen; else NaN, which makes the problem
    `INVALID`."""
    if is_concrete((value, others)):
        # In numpy: inside a trace jax.numpy would make tracers of concrete arrays too.
        arrays = [np.asarray(array) for array in (value, *others)]
        if not np.all(holds(np, *arrays)):
            raise ValueError(message if isinstance(message, str) else message(*arrays))
        return value
    return value * jnp.where(holds(jnp, value, *others), 1.0, jnp.nan).astype(value.dtype)  # its derivative is NaN too


def generators(count: int, *, quadratic: Any, linear: Any, lower: Any, upper: Any) -> dict[str, jax.Array]:
    """The costs and limits of so many generators, each as a vector."""
    values = {"quadratic": quadratic, "linear": linear, "lower": lower, "upper": upper}
    for name, value in values.items():
        values[name] = jnp.broadcast_to(like(value, (count,), name, "the generators"), (count,))
    message = "quadratic must be nonnegative: the cost of a generator is convex"
    values["quadratic"] = where_valid(values["quadratic"], message, lambda xp, quadratic: quadratic >= 0)
    values["lower"] = in_order(values["lower"], values["upper"], "for some generator")
    return values


def within_capacity(demand: jax.Array, total: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """`demand` where its `total` lies between the sums of `lower` and `upper`."""

    def holds(xp: Any, _: Any, total: Any, lower: Any, upper: Any) -> Any:
        room = 1e-6 * (1 + abs(total))
        return (xp.sum(lower) - room <= total) & (total <= xp.sum(upper) + room)

    def message(_: Any, total: Any, lower: Any, upper: Any) -> str:
        return (
            f"demand must lie between the sums of lower and upper, {lower.sum():g} and {upper.sum():g}, to be met by "
            f"the generators; got {total}: add capacity, or shed load"
        )

    return where_valid(demand, message, holds, total, lower, upper)


def solved(solution: Solution, value: Any = None) -> Any:
    """`value`, an array or several, or the primal, where the problem was solved. Elsewhere NaN, and so is every
    derivative."""
    value = solution.primal if value is None else value
    one = jnp.where(solution.status == Status.SOLVED, 1.0, jnp.nan)
    return jax.tree.map(lambda leaf: leaf * one.astype(leaf.dtype), value)


def over_leading(axes: int, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function` over so many leading axes of its argument."""
    for _ in range(axes):
        function = jax.vmap(function)
    return function


def _is_symmetric(xp: Any, matrix: Any) -> Any:
    # Loosely: a step of finite differences is no mistake. What a NaN is the engine says.
    return ~(abs(matrix - matrix.T) > 1e-3 * xp.max(abs(matrix), initial=0))
