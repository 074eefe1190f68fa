"""What every problem here asks of its arguments, and hands back where there is no answer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers._arrays import floating, is_concrete
from kkt_solvers._solution import Solution, Status


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


def where_valid(value: jax.Array, message: str, holds: Callable[..., Any], *others: Any) -> jax.Array:
    """`value` where `holds(xp, value, *others)`, with numpy or jax.numpy for `xp`. Elsewhere, or for a NaN, a
    `ValueError` with `message` if that can be seen; else NaN, which makes the problem `INVALID`."""
    if is_concrete((value, others)):
        # In numpy: inside a trace jax.numpy would make tracers of concrete arrays too.
        if not np.all(holds(np, *(np.asarray(array) for array in (value, *others)))):
            raise ValueError(message)
        return value
    return jnp.where(holds(jnp, value, *others), value, jnp.nan)


def solved(solution: Solution, value: Any = None) -> jax.Array:
    """`value`, or the primal, where the problem was solved; NaN elsewhere."""
    value = solution.primal if value is None else value
    return jnp.where(solution.status == Status.SOLVED, value, jnp.nan)


def unless_solved(solution: Solution) -> jax.Array:
    """Zero where the problem was solved, NaN elsewhere: to be added to what is derived from its solution."""
    return jnp.where(solution.status == Status.SOLVED, 0.0, jnp.nan).astype(solution.primal.dtype)
