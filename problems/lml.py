"""The limited multi-label projection [amos2019].

    min_y  -x'y - H_b(y)    s.t.  w'y = k,   0 < y < 1,

with the binary entropy `H_b(y) = -sum_i y_i log y_i + (1 - y_i) log(1 - y_i)` and, unless told otherwise, `w = 1`. The
solution is `y = sigmoid(x - nu w)`, with `nu` the multiplier of the sum: the probabilities with which k of n are
chosen.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers import Box, Problem, Sum
from kkt_solvers.data.entropy import log_sigmoid, logistic
from kkt_solvers.numerics.arrays import broadcast, cast, float_dtype, floating, is_concrete, where
from kkt_solvers.problems import _checks
from kkt_solvers.solvers._logistic import logistic_rows, row_sums, spread


def LML(x: Any, k: Any, *, weights: Any = None) -> Problem:
    """The limited multi-label projection as a `Problem`.

    Arguments:
        x: scores, shape `(n,)`. An entry of -inf is never chosen, one of +inf always.
        k: how many to choose, a scalar; need not be whole. At most as many as may be chosen (with weights, their sum),
            and no fewer than must be.
        weights: `None` for ones, or positive, shape `(n,)`.

    Raises `ValueError` for a `k` outside that range; a traced one makes the problem `Status.INVALID`.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import LML
    >>> solution = kkt.solve(LML([2.0, 1.0, 0.0], 1))
    >>> solution.primal.tolist(), jax.nn.sigmoid(jnp.array([2.0, 1.0, 0.0]) - solution.dual.equality).tolist()
    ([0.549, 0.309, 0.141], [0.549, 0.309, 0.141])
    """
    x = floating(x, "x")
    if x.ndim != 1:
        raise ValueError(f"x must be a vector of scores, got shape {x.shape}; lml takes batches, or use jax.vmap")
    k, weights = _check_k(k), None if weights is None else _check_positive(weights, "weights")
    if weights is not None and weights.shape != x.shape:
        raise ValueError(f"weights must have the shape of x, {x.shape}, got {weights.shape}")
    w = jnp.ones((), x.dtype) if weights is None else weights
    least, most = (jnp.sum(jnp.where(chosen, w, 0)) for chosen in (x == jnp.inf, x != -jnp.inf))

    def message(k: Any, least: Any, most: Any) -> str:
        return f"k must lie between {least:g} and what there is to choose (scores, or weights), {most:g}; got {k}"

    k = _checks.where_valid(k, message, lambda xp, k, least, most: (least <= k) & (k <= most), least, most)
    return _problem(x, k, weights)


def lml(x: Any, k: Any, *, axis: int = -1, where: Any = None, weights: Any = None, temperature: Any = 1.0) -> jax.Array:
    """Choose `k` of an axis, differentiably: `argmin_y -x'y / T - H_b(y)  s.t.  w'y = k, 0 < y < 1`.

    Arguments:
        x: scores, floating (integers are promoted, as in `jax.nn.softmax`). An entry of -inf is never chosen, one of
            +inf always.
        k: how many to choose, nonnegative: a number, a traced scalar, or one for each row (an array that broadcasts to
            the shape of `x` without `axis`). Need not be whole.
        axis: the axis of which k are chosen.
        where: a boolean mask that broadcasts to `x`; an entry where it is `False` is never chosen.
        weights: positive, broadcasts to `x`: what an entry takes of the budget k. Default ones.
        temperature: positive, a scalar or one for each row: `x / temperature` takes the place of `x`.

    Returns `y` like `x`, each row in [0, 1] with `w'y = k`; ones on all that may be chosen where `k` is no less than
    they are. Differentiable, any order, in `x`, `k`, `weights` and `temperature`; entries that are certain and rows
    that have no choice have zero gradients. 16-bit floats are computed in float32. A row with a NaN, or a traced value
    that would raise, is NaN and harms no other.

    Raises `ValueError` for a negative or NaN `k`, for `weights` or a `temperature` that are not positive, and for
    shapes and axes that do not fit; `TypeError` for a mask that is not boolean.

    >>> from kkt_solvers.problems import lml
    >>> lml([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], 2).tolist()
    [[0.859, 0.691, 0.451], [0.667, 0.667, 0.667]]
    >>> lml([2.0, 1.0, 0.0], 2, where=jnp.array([True, False, True])).tolist()
    [1.0, 0.0, 1.0]
    """
    rows, restore = _rows(x, k, axis, where, weights, temperature)
    return restore(_choose_rows(rows))


def log_lml(
    x: Any, k: Any, *, axis: int = -1, where: Any = None, weights: Any = None, temperature: Any = 1.0
) -> tuple[jax.Array, jax.Array]:
    """`(log y, log(1 - y))` for `y = lml(x, k, ...)`, without cancellation.

    Both stay exact, and their gradients do not vanish, where `y` is so near to 0 or 1 that it rounds to it. The
    logarithm of an entry that is never (always) chosen is -inf, with zero gradient. Arguments: as for `lml`.

    >>> from kkt_solvers.problems import log_lml
    >>> log_lml([200.0, 0.0, -200.0], 1)[0].tolist()
    [0.0, -100.0, -300.0]
    """
    rows, restore = _rows(x, k, axis, where, weights, temperature)
    t = _logit_rows(rows)
    return restore(log_sigmoid(t)), restore(log_sigmoid(-t))


# ------------------------------------------------------------------------------------------------- rows
class _Row(NamedTuple):
    """A batch of problems, in the dtype of the computation."""

    x: jax.Array
    k: jax.Array  # (b, 1)
    weights: jax.Array | None


# Jitted here, so that compiled code is found again on the next call.
@functools.partial(jax.jit, inline=True)
def _choose_rows(rows: _Row) -> jax.Array:
    return _choose(*rows) if rows.x.size else rows.x


@functools.partial(jax.jit, inline=True)
def _logit_rows(rows: _Row) -> jax.Array:
    return _logits(*rows)[0] if rows.x.size else rows.x


@jax.custom_jvp
def _choose(x: jax.Array, k: jax.Array, w: jax.Array | None) -> jax.Array:
    """`y`, row by row."""
    return _chosen(*_logits(x, k, w)[1:3])


@_choose.defjvp
def _choose_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    w, (_, odds, far, nu) = primals[2], _logits(*primals)
    slope, dx, part, rest = _linearised(odds, far, nu, w, tangents)
    c = jnp.exp(-far)
    d_nu = spread(c * part - rest, odds)
    return _chosen(odds, far), slope * (c * dx - (d_nu if w is None else w * d_nu))


@jax.custom_jvp
def _logits(x: jax.Array, k: jax.Array, w: jax.Array | None) -> tuple[jax.Array, ...]:
    """`t = x - nu w` with `w'sigmoid(t) = k`; `odds` and `far` (see `Root`); `nu`."""
    return logistic_rows(x, k, w)[:4]


@_logits.defjvp
def _logits_jvp(primals: Any, tangents: Any) -> Any:
    w, (t, odds, far, nu) = primals[2], _logits(*primals)
    _, dx, part, rest = _linearised(odds, far, nu, w, tangents)
    d_nu = part - jnp.minimum(jnp.exp(far), jnp.finfo(t.dtype).max) * rest
    moved = spread(d_nu, t)
    dt = dx - (moved if w is None else w * moved)
    return (t, odds, far, nu), (dt, odds * dt, jnp.zeros_like(far), d_nu)


def _chosen(odds: jax.Array, far: jax.Array) -> jax.Array:
    """`sigmoid(t)`."""
    c, up = jnp.exp(-far), odds > 1
    return where(up, odds, c * odds) / where(up, odds + c, 1 + c * odds)


def _linearised(
    odds: jax.Array, far: jax.Array, nu: jax.Array, w: jax.Array | None, tangents: Any
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The KKT conditions, linearised. With H = y (1 - y) they are dt = dx - nu dw - w dnu, dy = H dt and
    w'dy + y'dw = dk. All of H may be small beyond any number, but not `slope = H exp(far)`: with that,
    `dnu = part - exp(far) rest`. Returns `slope`, `dx - nu dw`, `part` and `rest`."""
    dx, dk, dw = tangents
    tail = 1 / (1 + odds)
    infinite = odds > float(jnp.finfo(odds.dtype).max) ** 0.49  # see `logistic_root`
    slope = where(infinite, 0.0, odds * tail * tail)
    weighted = slope if w is None else slope * w
    if w is not None:
        dx = dx - where(jnp.isfinite(nu), nu, 0.0) * dw
        dk = dk - jnp.sum(_chosen(odds, far) * dw, axis=-1, keepdims=True)
    total = row_sums(weighted if w is None else weighted * w)
    inverse = where(total > 0, 1 / where(total > 0, total, 1.0), total)  # NaN in a row that is
    return slope, dx, inverse * jnp.sum(weighted * dx, axis=-1, keepdims=True), inverse * dk


# --------------------------------------------------------------------------------------------- problem
def _problem(x: jax.Array, k: jax.Array, weights: jax.Array | None) -> Problem:
    return Problem(logistic(x), Sum(k, weights), Box(0.0, 1.0))


# ------------------------------------------------------------------------------------------- arguments
def _rows(
    x: Any, k: Any, axis: int, where: Any, weights: Any, temperature: Any
) -> tuple[_Row, Callable[[jax.Array], jax.Array]]:
    """A batch of rows, and the way back to the shape and the dtype of `x`."""
    x = floating(x, "x")
    if x.ndim == 0:
        raise ValueError("x must have at least one axis, the one of which k are chosen; got a scalar")
    axis = _checks.index(axis, "axis")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must lie between {-x.ndim} and {x.ndim - 1} for x of shape {x.shape}, got {axis}")
    dtype = float_dtype(x)
    compute = dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
    as_it_is = isinstance(temperature, (int, float)) and temperature == 1
    k = _check_k(k)
    temperature = temperature if as_it_is else _check_positive(temperature, "temperature")
    if where is not None:
        where = jnp.asarray(where)
        if where.dtype != bool:
            raise TypeError(f"where must be a boolean mask, got {where.dtype}; compare it with a number first")
        x = jnp.where(broadcast(where, x.shape, "where", "x"), x, -jnp.inf)
    spread = functools.partial(_flat_rows, axis=axis)
    scores = spread(cast(x, compute))
    batch = x.shape[: axis % x.ndim] + x.shape[axis % x.ndim + 1 :]

    def of_rows(value: jax.Array, name: str) -> jax.Array:
        return broadcast(cast(value, compute), batch, name, "x without the axis").reshape(-1, 1)

    k = of_rows(k, "k")
    scores = scores if as_it_is else _divided(scores, of_rows(temperature, "temperature"))
    if weights is not None:
        weights = spread(broadcast(cast(_check_positive(weights, "weights"), compute), x.shape, "weights", "x"))

    def restore(y: jax.Array) -> jax.Array:
        moved = jnp.moveaxis(x, axis, -1).shape
        return jnp.moveaxis(y.reshape(moved), -1, axis).astype(dtype)

    return _Row(scores, k, weights), restore


@jax.custom_jvp
def _divided(x: jax.Array, temperature: jax.Array) -> jax.Array:
    """`x / temperature`. An infinite score stays as it is, whatever the temperature, and has no derivative."""
    return jnp.where(jnp.isinf(x), x, jnp.where(jnp.isinf(x), 0.0, x) / temperature)


@_divided.defjvp
def _divided_jvp(primals: Any, tangents: Any) -> Any:
    (x, temperature), (dx, d_temperature) = primals, tangents
    value = _divided(x, temperature)
    # Capped where it would overflow: so far away an entry has no slope, and zero times infinity is no number.
    most = float(jnp.finfo(value.dtype).max) / (4 * x.size)
    slope = jnp.clip(jnp.where(jnp.isinf(value), 0.0, value) / temperature, -most, most)
    return value, jnp.where(jnp.isinf(x), 0.0, dx / temperature - slope * d_temperature)


def _flat_rows(x: jax.Array, axis: int) -> jax.Array:
    moved = jnp.moveaxis(x, axis, -1)
    return moved.reshape(math.prod(moved.shape[:-1]), x.shape[axis])


def _check_k(k: Any) -> jax.Array:
    k = floating(k, "k")
    if is_concrete(k) and not bool(np.all(np.asarray(k, np.float64) >= 0)):
        raise ValueError(f"k must be a nonnegative number of entries to choose; got {k}")
    return jnp.where(k >= 0, k, jnp.nan)


def _check_positive(value: Any, name: str) -> jax.Array:
    value = floating(value, name)
    if is_concrete(value):
        numbers = np.asarray(value, np.float64)
        if not bool(np.all((numbers > 0) & (numbers < np.inf))):
            raise ValueError(f"{name} must be positive and finite; an entry can be left out by where=...")
    return jnp.where((value > 0) & (value < jnp.inf), value, jnp.nan)
