"""The k largest of an axis as a vector of zeros and ones: hard, and with the gradient of `lml`."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.numerics.arrays import floating, in_place_of
from kkt_solvers.problems import _checks
from kkt_solvers.problems.lml import lml


def hard_top_k(x: Any, k: int, *, axis: int = -1, where: Any = None) -> jax.Array:
    """Ones at the `k` largest entries of an axis, zeros elsewhere; of equal entries the first are taken.

    The limit of `lml(x, k, temperature=T)` for small T. Its derivative is zero.

    Arguments:
        x: scores, floating (integers are promoted).
        k: a Python integer, nonnegative; entries that cannot be chosen (-inf or masked) are not, whatever k.
        axis, where: as for `lml`.

    >>> from kkt_solvers.problems import hard_top_k
    >>> hard_top_k([0.5, 2.0, 1.0], 2).tolist()
    [0.0, 1.0, 1.0]
    """
    x = floating(x, "x")
    if isinstance(k, bool) or not isinstance(k, int) or k < 0:
        raise ValueError(f"k must be a nonnegative integer; got {k!r}")
    if x.ndim == 0:
        raise ValueError("x must have at least one axis, the one of which k are chosen; got a scalar")
    axis = _checks.index(axis, "axis")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must lie between {-x.ndim} and {x.ndim - 1} for x of shape {x.shape}, got {axis}")
    scores = x if where is None else jnp.where(where, x, -jnp.inf)
    scores = jax.lax.stop_gradient(jnp.moveaxis(scores, axis, -1))
    rows = scores.reshape(math.prod(scores.shape[:-1]), scores.shape[-1])
    best = jax.lax.top_k(rows, min(k, rows.shape[-1]))[1]
    ones = jnp.zeros_like(rows).at[jnp.arange(len(rows))[:, None], best].set(1.0)
    ones = jnp.where(rows == -jnp.inf, 0.0, ones)
    return jnp.moveaxis(ones.reshape(scores.shape), -1, axis)


def straight_through_top_k(x: Any, k: int, *, axis: int = -1, where: Any = None, temperature: Any = 1.0) -> jax.Array:
    """`hard_top_k(x, k)` with the derivative of `lml(x, k, temperature=temperature)`.

    >>> from kkt_solvers.problems import lml, straight_through_top_k
    >>> x = jnp.array([0.5, 2.0, 1.0])
    >>> straight_through_top_k(x, 1).tolist()
    [0.0, 1.0, 0.0]
    >>> jax.grad(lambda x: straight_through_top_k(x, 1)[0])(x) - jax.grad(lambda x: lml(x, 1)[0])(x)
    Array([0., 0., 0.], dtype=float32)
    """
    hard = hard_top_k(x, k, axis=axis, where=where)
    return in_place_of(lml(x, k, axis=axis, where=where, temperature=temperature), hard)
