"""The capped simplex: k of n, sparsely; and its entropic twin [wang2015].

    min_y  |y - x|^2 / 2               s.t.  1'y = k,  0 <= y <= 1      soft top-k; for k = 1 sparsemax [martins2016]
    min_y  -x'y + sum_i y_i log y_i    s.t.  1'y = k,  0 <= y <= 1      entropic top-k; for k = 1 softmax

The solutions are `clip(x - nu, 0, 1)` and `min(exp(x - 1 - nu), 1)`, with `nu` the multiplier of the sum. `lml` is the
third of the family: its entries stay strictly between 0 and 1.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers import Box, Problem, Separable, Sum, solve
from kkt_solvers.numerics.arrays import floating
from kkt_solvers.problems import _checks
from kkt_solvers.problems._entropy import gibbs, negative_entropy


def CappedSimplex(x: Any, k: Any) -> Problem:
    """The Euclidean projection onto `{0 <= y <= 1, 1'y = k}` as a `Problem`.

    Arguments:
        x: scores, shape `(n,)`; -inf forbids an entry.
        k: how many to choose, `0 <= k <= n`, a scalar; need not be whole.

    Raises `ValueError` for a `k` outside `[0, n]`; a traced one makes the problem `Status.INVALID`.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import CappedSimplex
    >>> kkt.solve(CappedSimplex([2.0, 0.3, 0.1, -0.5, 0.8], 2)).primal.tolist()
    [1.000, 0.233, 0.033, 0.000, 0.733]
    """
    x, k, box = _scores(_checks.vector(x, "x", "scores"), k)
    return Problem(Separable(_half_square, x, _nearest), Sum(k), box)


def EntropicSimplex(x: Any, k: Any) -> Problem:
    """`argmin -x'y + sum_i y_i log y_i  s.t.  1'y = k, 0 <= y <= 1` as a `Problem`; arguments as for `CappedSimplex`.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import EntropicSimplex
    >>> kkt.solve(EntropicSimplex([2.0, 1.0, 0.0], 2)).primal.tolist()
    [1.000, 0.731, 0.269]
    """
    x, k, box = _scores(_checks.vector(x, "x", "scores"), k)
    return Problem(Separable(negative_entropy, x, gibbs), Sum(k), box)


def soft_top_k(x: Any, k: Any) -> jax.Array:
    """Choose `k` of the last axis by the Euclidean projection: most entries come back exactly 0 or 1.

    Arguments:
        x: scores, shape `(..., n)`; -inf forbids an entry. Scale them up for a harder choice.
        k: how many to choose, `0 <= k <= n`: a number, a traced scalar, or an array that broadcasts to `x.shape[:-1]`.
            Need not be whole; differentiable.

    Returns `y` like `x`, each row in [0, 1] with sum k; NaN in a row with a NaN, with a traced `k` outside `[0, n]`,
    or with fewer than k entries allowed. Raises `ValueError` for a `k` outside `[0, n]` and shapes that do not fit.

    >>> from kkt_solvers.problems import soft_top_k
    >>> soft_top_k([[2.0, 0.3, 0.1], [0.0, 0.0, 0.0]], [2, 1]).tolist()
    [[1.0, 0.6, 0.4], [0.333, 0.333, 0.333]]

    Source: [wang2015].
    """
    return _choose(CappedSimplex, x, k)


def sparsemax(x: Any) -> jax.Array:
    """The Euclidean projection of the last axis onto the probability simplex, a sparse softmax: `soft_top_k(x, 1)`.

    >>> from kkt_solvers.problems import sparsemax
    >>> sparsemax([0.9, 0.5, -1.0]).tolist()
    [0.700, 0.300, 0.000]

    Source: [martins2016].
    """
    return soft_top_k(x, 1)


def entropic_top_k(x: Any, k: Any) -> jax.Array:
    """Choose `k` of the last axis by the entropy: `min(c exp(x), 1)`. `k = 1` is the softmax; arguments and return
    value as for `soft_top_k`.

    >>> from kkt_solvers.problems import entropic_top_k
    >>> entropic_top_k([2.0, 1.0, 0.0], 1) - jax.nn.softmax(jnp.array([2.0, 1.0, 0.0]))
    Array([0., 0., 0.], dtype=float32)
    """
    return _choose(EntropicSimplex, x, k)


def _half_square(y: jax.Array, x: jax.Array) -> jax.Array:
    return 0.5 * (y - x) ** 2


def _nearest(z: jax.Array, x: jax.Array) -> jax.Array:
    return x + z


def _choose(builder: Any, x: Any, k: Any) -> jax.Array:
    x = _checks.rows(x, "x", "scores")
    k = _checks.like(k, x.shape[:-1], "k", "the rows of x")
    return _choose_rows(builder, x, _within(k, x.shape[-1]))


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _choose_rows(builder: Any, x: jax.Array, k: jax.Array) -> jax.Array:
    def row(x: jax.Array, k: jax.Array) -> jax.Array:
        # The solution does not change with an offset of the scores; taking it out first makes huge ones harmless.
        largest = jax.lax.stop_gradient(jnp.max(x))
        return _checks.solved(solve(builder(x - jnp.where(jnp.isfinite(largest), largest, 0.0), k)))

    return jnp.vectorize(row, signature="(n),()->(n)")(x, k).astype(x.dtype) if x.size else x


def _scores(x: jax.Array, k: Any) -> tuple[jax.Array, jax.Array, Box]:
    forbidden = x == -jnp.inf
    k = floating(k, "k")
    return jnp.where(forbidden, 0.0, x), _within(k, x.size), Box(0.0, jnp.where(forbidden, 0.0, jnp.ones_like(x)))


def _within(k: jax.Array, n: int) -> jax.Array:
    message = f"k must lie between 0 and the number of scores, {n}; got {k}"
    return _checks.where_valid(k, message, lambda xp, k: (k >= 0) & (k <= n))
