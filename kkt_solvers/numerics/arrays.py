"""Small conversions shared by the constructors and the door."""

import functools
from typing import Any

import jax
import jax.core
import jax.custom_batching
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.experimental.sparse import BCOO

# A decorator. Unless told otherwise a GPU rounds the factors of a product of float32 matrices to eleven bits: with that
# no residual gets below 1e-4. Functions that JAX calls later (rules of derivatives and batches) need it as well.
full_precision = jax.default_matmul_precision("highest")


def is_concrete(tree: Any) -> bool:
    """Whether every leaf can be looked at: no tracers."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def is_precise(dtype: Any) -> bool:
    """Whether it has the digits of double precision."""
    return jnp.finfo(dtype).bits >= 64


def floating(value: Any, name: str) -> jax.Array:
    """`value` as a floating array. Integers and booleans are promoted, as in `jax.nn.softmax`; Python numbers
    stay weakly typed, so that they never widen the arrays they meet."""
    if isinstance(value, (bool, int)):
        value = float(value)
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError("text")
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        got = type(value).__name__
        if isinstance(value, (list, tuple)) and any(entry is None for entry in value):
            got += " with a None; where there is no bound write -inf or inf"
        raise TypeError(f"{name} must be a number or an array of numbers, got {got}") from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be real, got {array.dtype}; pass the real and imaginary parts separately")
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array
    return array.astype(jnp.result_type(float))


def floating_tree(tree: Any, name: str) -> Any:
    """Every leaf as a floating array. A list is read as an array, any other container as a pytree."""
    if isinstance(tree, list):
        return floating(tree, name)
    return jax.tree.map(lambda leaf: floating(leaf, name), tree)


def matrix(value: Any, name: str) -> jax.Array | BCOO:
    """A dense array or a `BCOO` matrix; scipy.sparse matrices become `BCOO`. Duplicates are summed: the first one holds
    the sum, the others are zero."""
    if scipy.sparse.issparse(value):
        try:
            value = value.tocoo()
        except ValueError as error:
            raise ValueError(
                f"{name} has shape {value.shape} and an entry at an index outside of it ({error}); count rows and "
                "columns from zero, or pass the larger shape"
            ) from error
        value.sum_duplicates()
        indices = np.stack([value.row, value.col], axis=1)
        value = BCOO((floating(value.data, name), jnp.asarray(indices)), shape=value.shape)
    if not isinstance(value, BCOO):
        return floating(value, name)
    value = BCOO((floating(value.data, name), value.indices), shape=value.shape)
    if not is_concrete(value.indices):
        return value
    at, data = np.asarray(value.indices), value.data
    good = in_range(value, np) if is_concrete(data) else np.ones(1, bool)
    if not np.all(good):
        outside = tuple(map(int, at[~good][0]))
        raise ValueError(
            f"{name} has shape {value.shape} and an entry at {outside}, outside of it; count rows and columns from "
            "zero, or pass the larger shape"
        )
    if at.ndim == 2 and data.ndim == 1:
        _, first, place = np.unique(at, axis=0, return_index=True, return_inverse=True)
        if first.size < len(at):
            data = jnp.zeros_like(data).at[first[np.ravel(place)]].add(data)
            return BCOO((data, value.indices), shape=value.shape)
    return value


def in_range(M: BCOO, xp: Any = jnp) -> Any:
    """Whether each entry lies in the shape. JAX pads with zeros at an index that is the shape."""
    at, data = (xp.asarray(part) for part in (M.indices, M.data))
    inside = (at >= 0) & (at < xp.asarray(M.shape[-2:]))
    return inside.all(axis=-1) | ((data == 0) & (at >= 0).all(axis=-1))


def diagonal_of(M: jax.Array) -> jax.Array:
    """The diagonal of a square matrix: every `n + 1`-th entry, which is a smaller program than `jnp.diag`."""
    return jnp.ravel(M)[:: len(M) + 1]


def diagonal_matrix(d: jax.Array) -> jax.Array:
    shape = d.size, d.size
    on = jax.lax.broadcasted_iota(jnp.int32, shape, 0) == jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return where(on, d, 0.0)


def longer(v: jax.Array, *, before: int = 0, after: int = 0) -> jax.Array:
    """A vector with zeros before it and after it."""
    return jax.lax.pad(v, jnp.zeros((), v.dtype), [(before, after, 0)])


def float_dtype(*trees: Any) -> jnp.dtype:
    """The floating dtype that the leaves of the trees promote to; Python numbers do not count."""
    leaves = [leaf for leaf in jax.tree.leaves(trees) if not getattr(leaf, "weak_type", isinstance(leaf, float))]
    strong = {leaf.dtype for leaf in leaves if jnp.issubdtype(_dtype(leaf), jnp.floating)}
    if len(strong) == 1:
        return strong.pop()
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*strong) if strong else jnp.result_type(float)


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if isinstance(leaf, jax.Array) else jnp.result_type(leaf)


def cast(tree: Any, dtype: Any) -> Any:
    """Every floating leaf as a (strongly typed) array of `dtype`; other leaves untouched."""

    def one(leaf: Any) -> Any:
        as_it_is = isinstance(leaf, jax.Array) and leaf.dtype == dtype and not leaf.weak_type
        if as_it_is or not jnp.issubdtype(_dtype(leaf), jnp.floating):
            return leaf
        return jax.lax.convert_element_type(leaf, dtype)

    return jax.tree.map(one, tree)


def broadcast(value: jax.Array, shape: tuple[int, ...], name: str, like: str) -> jax.Array:
    """`value` in this shape, that of `like`; if it does not fit, the error names the argument."""
    try:
        return jnp.broadcast_to(value, shape)
    except ValueError as error:
        raise ValueError(
            f"{name} must be a scalar or broadcast to the shape of {like}, {shape}; got shape {value.shape}"
        ) from error


def where(condition: Any, this: Any, other: Any) -> jax.Array:
    """`jnp.where` as two or three equations of the program; that of JAX is a call besides, which the reader of a jaxpr
    and its compiler have to look into hundreds of times."""
    if not isinstance(this, (jax.Array, np.ndarray)) and not isinstance(other, (jax.Array, np.ndarray)):
        return jnp.where(condition, this, other)  # weakly typed: two numbers do not widen the arrays that they meet
    dtype = jnp.result_type(this, other)
    shape = np.broadcast_shapes(np.shape(condition), np.shape(this), np.shape(other))

    def full(value: Any) -> jax.Array:
        if not isinstance(value, jax.Array):
            return jax.lax.full(shape, value, dtype) if np.ndim(value) == 0 else jnp.broadcast_to(value, shape)
        value = value if value.dtype == dtype else jax.lax.convert_element_type(value, dtype)
        return value if value.shape == shape else jnp.broadcast_to(value, shape)

    condition = jnp.asarray(condition)
    condition = condition if condition.ndim == 0 or condition.shape == shape else jnp.broadcast_to(condition, shape)
    return jax.lax.select(condition, full(this), full(other))


def tree_where(condition: jax.Array, this: Any, other: Any) -> Any:
    """`this` where the scalar condition holds, else `other`: pytrees of one structure."""
    return jax.tree.map(lambda a, b: where(condition, a, b), this, other)


_BLOCK = 128


def block_sum(x: jax.Array) -> jax.Array:
    """The sum of a vector, in blocks: its rounding error does not grow with the length.

    XLA turns a plain sum inside a loop into one running total, which in float32 loses three digits at n = 1e5.
    """
    if x.size <= 8 * _BLOCK:
        return _row_sums(x)
    # A length that divides x spares a copy of its parts.
    length = next((length for length in range(_BLOCK, 2 * _BLOCK) if x.size % length == 0), _BLOCK)
    whole = x.size - x.size % length
    return block_sum(_row_sums(x[:whole].reshape(-1, length))) + jnp.sum(x[whole:])


def sizes(x: jax.Array) -> jax.Array:
    """Absolute values, infinite for a NaN.

    A maximum must never meet a NaN: XLA (jax 0.10.2) drops it from the maximum of 4096 float32 entries or more on some
    CPUs with AVX2.
    """
    return jax.lax.select(jax.lax.ne(x, x), jax.lax.full_like(x, jnp.inf), jax.lax.abs(x))


def largest(*arrays: jax.Array) -> jax.Array:
    """The largest absolute entry of all, zero if there is none, infinite if one is a NaN."""
    return jnp.max(sizes(jnp.concatenate([jnp.ravel(array) for array in arrays])), initial=0)


def stored(array: jax.Array) -> jax.Array:
    """`array`, written to memory once. XLA for CPUs (jax 0.10.2) computes an array anew in every loop that reads it, a
    chain of gathers too, but nothing in the operand of a gather. The minorant of 1e5 points takes 9 ms instead of 15.
    """
    last = jnp.int32(len(array) - 1)
    return array.at[jnp.minimum(jnp.arange(len(array), dtype=jnp.int32), last)].get(mode="promise_in_bounds")


def is_finite(*arrays: jax.Array) -> jax.Array:
    """Whether every entry of all is a finite number."""
    return functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(array)) for array in arrays])


def signs(like: jax.Array) -> jax.Array:
    """A vector of signs without a pattern, the same in every run."""
    hashed = jnp.arange(like.size, dtype=jnp.uint32) * jnp.uint32(2654435769)
    return jnp.where((hashed >> 16) & 1 == 0, 1.0, -1.0).astype(like.dtype).reshape(like.shape)


def relative(size: jax.Array, unit: jax.Array) -> jax.Array:
    """`size / unit` of nonnegative numbers; zero where both are, and infinite for a NaN."""
    return sizes(size / jnp.maximum(unit, jnp.finfo(size.dtype).tiny))


def power_of_two(size: jax.Array) -> jax.Array:
    """The power of two nearest to a positive number: what is scaled by it is not rounded. (`exp2` is, by XLA.)"""
    return jnp.ldexp(jnp.ones_like(size), jnp.round(jnp.log2(size)).astype(jnp.int32))


def inverse_root(size: jax.Array) -> jax.Array:
    """`1 / sqrt(size)`, and one where that is zero: the scale to unit size."""
    return jax.lax.rsqrt(where(size > 0, size, 1.0))


@jax.custom_jvp
def _row_sums(x: jax.Array) -> jax.Array:
    return _sums_of_folds(x)


@_row_sums.defjvp
def _row_sums_jvp(primals: Any, tangents: Any) -> Any:
    return _row_sums(*primals), _products(*tangents)  # of which the transpose is a broadcast


def _sums_of_folds(x: jax.Array) -> jax.Array:
    """Row sums; on a CPU a row is folded first, as what a sum is of is written out, and that at full length else."""
    if jax.default_backend() == "cpu":
        folds = next((folds for folds in (4, 2) if x.shape[-1] % folds == 0), 1)
        x, *others = jnp.split(x, folds, axis=-1)
        x = sum(others, x)
    return _products(x)


def _products(x: jax.Array) -> jax.Array:
    """Row sums, on a CPU as a product with ones: a reduction writes out its parts one by one, a product their result
    only."""
    if jax.default_backend() != "cpu":
        return jnp.sum(x, axis=-1)
    return jnp.matmul(x, jnp.ones(x.shape[-1], x.dtype), precision="highest")


@jax.custom_jvp
def in_place_of(original: jax.Array, value: jax.Array) -> jax.Array:
    """`value`, with the derivative of `original`."""
    return value


@in_place_of.defjvp
def _in_place_of_jvp(primals: Any, tangents: Any) -> Any:
    return in_place_of(*primals), tangents[0]
