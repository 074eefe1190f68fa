"""The limited multi-label projection [amos2019].

    min_y  -x'y - H_b(y)    s.t.  1'y = k,   0 < y < 1,

with the binary entropy `H_b(y) = -sum_i y_i log y_i + (1 - y_i) log(1 - y_i)`. The solution is
`y = sigmoid(x - nu)`, with `nu` the multiplier of the sum: the probabilities with which k of n are chosen.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers._arrays import cast, float_dtype, floating, is_concrete
from kkt_solvers._mirror import sigmoid, xlogx
from kkt_solvers._objectives import Separable
from kkt_solvers._problem import Box, Problem, Sum
from kkt_solvers._solve import solve
from kkt_solvers.solvers import DualBisection


def LML(x: Any, k: Any) -> Problem:
    """The limited multi-label projection as a `Problem`.

    Arguments:
        x: scores, shape `(n,)`; -inf forbids an entry.
        k: how many to choose, `0 <= k <= n`, a scalar; need not be whole.

    Raises `ValueError` for a `k` outside `[0, n]`; a traced one makes the problem `Status.INVALID`.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import LML
    >>> solution = kkt.solve(LML([2.0, 1.0, 0.0], 1))
    >>> solution.primal.sum(), solution.primal - jax.nn.sigmoid(jnp.array([2.0, 1.0, 0.0]) - solution.dual.equality)
    (Array(1., dtype=float32), Array([0., 0., 0.], dtype=float32))
    """
    x = floating(x, "x")
    if x.ndim != 1:
        raise ValueError(f"x must be a vector of scores, got shape {x.shape}; lml takes batches, or use jax.vmap")
    return Problem(Separable(_negative_entropy, x, _choose, _leave), Sum(_check_k(k, x.shape[-1])), Box(0.0, 1.0))


def lml(x: Any, k: Any) -> jax.Array:
    """Choose `k` of the last axis, differentiably: `argmin_y -x'y - H_b(y)  s.t.  1'y = k, 0 < y < 1`.

    Arguments:
        x: scores, shape `(..., n)`, floating; integers are promoted, as in `jax.nn.softmax`.
        k: how many to choose, `0 <= k <= n`: a number, a traced scalar, or one for each row (an array that broadcasts
            to `x.shape[:-1]`). Need not be whole; differentiable.

    Returns `y` like `x`, each row in [0, 1] with sum k. `k = 1` resembles a softmax with independent odds, `k = 0`
    gives zeros and `k = n` ones. A row with a NaN, or with a traced `k` outside `[0, n]`, is NaN and harms no other.

    Raises `ValueError` for a `k` outside `[0, n]` and for shapes that do not fit.

    >>> from kkt_solvers.problems import lml
    >>> lml([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], 2).tolist()
    [[0.859, 0.691, 0.451], [0.667, 0.667, 0.667]]
    """
    x = floating(x, "x")
    if x.ndim == 0:
        raise ValueError("x must have at least one axis, the one of which k are chosen; got a scalar")
    n, batch = x.shape[-1], x.shape[:-1]
    k = _check_k(k, n)
    try:
        k = jnp.broadcast_to(k, batch)
    except ValueError as error:
        raise ValueError(f"k must be a scalar or broadcast to the rows of x, {batch}; got shape {k.shape}") from error
    dtype = float_dtype(x)
    y = jax.vmap(_row)(x.reshape(-1, n), cast(k, dtype if dtype.itemsize >= 4 else jnp.float32).reshape(-1))
    return y.reshape(x.shape).astype(dtype)


def _row(x: jax.Array, k: jax.Array) -> jax.Array:
    # The solution does not change with an offset of the scores; taking it out first makes huge ones harmless.
    x = x.astype(k.dtype)
    largest = jnp.max(jnp.where(jnp.isfinite(x), x, -jnp.inf))
    x = x - jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    return solve(LML(x, k), solver=DualBisection()).primal


def _check_k(k: Any, n: int) -> jax.Array:
    k = floating(k, "k")
    if is_concrete(k):
        if not bool(np.all((np.asarray(k) >= 0) & (np.asarray(k) <= n))):
            raise ValueError(f"k must lie between 0 and the number of scores, {n}; got {k}")
        return k
    # A traced k outside [0, n] is not a number of scores to choose; the NaN makes the problem INVALID.
    return jnp.where((k >= 0) & (k <= n), k, jnp.nan)


def _negative_entropy(y: jax.Array, x: jax.Array) -> jax.Array:
    return xlogx(y) + xlogx(1 - y) - jnp.where(y == 0, 0.0, y * x)


def _choose(z: jax.Array, x: jax.Array) -> jax.Array:
    return sigmoid(z + x)


def _leave(z: jax.Array, x: jax.Array) -> jax.Array:
    return sigmoid(-z - x)
