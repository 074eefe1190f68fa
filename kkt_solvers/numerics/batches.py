"""Rules for batches (`jax.vmap`) that differ from the rules for a single instance.

One rule has no code here: **the condition of a loop compares and combines what is in the state, and computes nothing.**
Under `vmap` JAX evaluates a condition twice, to leave the loop and to keep the instances that are finished. If it
computes with floating-point numbers the two may round differently, and then the loop never ends (jax 0.10.2).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.numerics.arrays import full_precision, tree_where, where


@jax.custom_batching.custom_vmap
def in_any(flag: jax.Array) -> jax.Array:
    """`flag`; under `vmap`, whether it holds for any instance.

    `lax.cond` on a flag that differs between instances always computes both branches. This one is the same for all,
    so a branch that no instance needs is skipped. The caller then chooses per instance: see `when_any`.
    """
    return flag


@in_any.def_vmap
def _in_any_of_batch(size: int, batched: Any, flag: jax.Array) -> tuple[jax.Array, bool]:
    return in_any(jnp.any(flag, axis=0)), False


def when_any(flag: jax.Array, compute: Callable[[], Any], otherwise: Any) -> Any:
    """`compute()` if the scalar `flag` is true, else `otherwise`: pytrees of one structure. A batch skips `compute` if
    the flag is false for all instances."""
    return tree_where(flag, jax.lax.cond(in_any(flag), compute, lambda: otherwise), otherwise)


@jax.custom_batching.custom_vmap
def in_more_than(most: jax.Array, flag: jax.Array) -> jax.Array:
    """`flag`; under `vmap`, whether it holds for more than `most` instances."""
    return flag


@in_more_than.def_vmap
def _in_more_of_batch(size: int, batched: Any, most: jax.Array, flag: jax.Array) -> tuple[jax.Array, bool]:
    return jnp.sum(flag, axis=0) > most, False


SMALL = 32  # the largest dimension of an instance that advances in lockstep with others
_CACHE = 12_800  # entries of a square matrix, times the instances of a chunk
_CHUNK = 16, 128  # instances in a chunk, at least and at most
_LEFT = 8  # the part of a chunk that may be left unfinished is one in so many,
_FROM = 4  # where there are at least so many chunks


def _queued(chunk: Callable[..., tuple[Any, jax.Array]], size: int, length: int, left: int) -> Any:
    """What `chunk(left, index)` finds for the instances `index`, for all instances, `length` at a time. Those that it
    leaves unfinished join the queue once more; then none may be left."""

    def serve(state: Any) -> Any:
        queue, head, end, out = state
        place = head + jnp.arange(length, dtype=jnp.int32)
        index = queue[jnp.minimum(place, end - 1)]  # the last one fills the chunk up
        found, finished = chunk(where(head < size, left, 0).astype(jnp.int32), index)
        again = ~finished & (place < end)
        last = end + jnp.cumsum(again, dtype=jnp.int32)
        queue = queue.at[where(again, last - 1, len(queue))].set(index, mode="drop")
        out = jax.tree.map(lambda whole, part: whole.at[index].set(part), out, found)
        return queue, head + length, last[-1], out

    like, _ = jax.eval_shape(chunk, *(jnp.zeros(shape, jnp.int32) for shape in ((), length)))
    out = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype), like)
    none, queue = jnp.zeros((), jnp.int32), jnp.arange(2 * size + length, dtype=jnp.int32)
    return jax.lax.while_loop(lambda state: state[1] < state[2], serve, (queue, none, none + size, out))[-1]


def one_by_one(
    function: Callable[..., Any],
    *,
    by_first: bool = False,
    small: Callable[..., Any] | None = None,
    everywhere: bool = False,
) -> Callable[..., Any]:
    """`function` of arrays, mapped over a batch one instance after the other on a CPU; elsewhere a batch stays one.
    With `by_first` it stays one also where the first argument is the same for all: one matrix, many right-hand sides.
    With `everywhere` it does so on no device: for loops of others, whose conditions compute.

    On a CPU this costs nothing: every instance stays in the cache and stops on its own, and `lax.cond` computes one
    branch only. A batched LAPACK call would use the threads of XLA's pool and wait for them in a thread of the same
    pool: two such calls on two cores can wait for each other for ever (jax 0.10.2).

    `small(left, *args)` is the same function without a call of LAPACK, and whether it is finished. If no dimension of
    an instance exceeds `SMALL`, a batch applies it to chunks of instances in lockstep: the operations of one small
    instance take less time than their launch. A chunk is as large as the cache allows. It need not wait for the
    slowest: `small` may stop once no more than `left` instances of the batch are unfinished (see `in_more_than`). They
    queue up again, and are computed anew with others of their kind.
    """

    function, small = full_precision(function), small and full_precision(small)

    @jax.custom_batching.custom_vmap
    def call(*args: Any) -> Any:
        return function(*args)

    @call.def_vmap
    def call_batch(size: int, batched: Any, *args: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(args)
        own = jax.tree.leaves(batched)
        axes = [0 if o else None for o in own]
        shapes = [leaf.shape[1:] if o else leaf.shape for leaf, o in zip(leaves, own, strict=True)]
        largest = max((dimension for shape in shapes for dimension in shape), default=1)

        def of_instances(leaves: Any) -> list[jax.Array]:
            return [leaf for o, leaf in zip(own, leaves, strict=True) if o]

        def with_own(mine: Any, leaves: Any) -> list[jax.Array]:
            """The leaves of all arguments, with `mine` in place of those that have a batch axis."""
            rest = iter(mine)
            return [next(rest) if o else leaf for o, leaf in zip(own, leaves, strict=True)]

        def each(function: Callable[..., Any], length: int, *before: None) -> Callable[..., Any]:
            """`function` for each instance, of flat leaves: `jax.vmap` takes no tree of axes for a sparse matrix. What
            stands before the leaves is the same for all."""
            first = len(before)

            def of_leaves(*flat: Any) -> Any:
                return function(*flat[:first], *structure.unflatten(flat[first:]))

            return jax.vmap(of_leaves, in_axes=(*before, *axes), axis_size=length)

        def sequential(*leaves: jax.Array) -> Any:
            return jax.lax.map(lambda mine: call(*structure.unflatten(with_own(mine, leaves))), of_instances(leaves))

        def lockstep(*leaves: jax.Array) -> Any:
            assert small is not None
            chunks = max(1, math.ceil(size / min(max(_CACHE // largest**2, _CHUNK[0]), _CHUNK[1])))
            length, mine = math.ceil(size / chunks), of_instances(leaves)
            chunk = each(small, length, None)
            if chunks == 1:
                return chunk(jnp.zeros((), jnp.int32), *leaves)[0]

            def of_index(left: jax.Array, index: jax.Array) -> tuple[Any, jax.Array]:
                return chunk(left, *with_own([leaf[index] for leaf in mine], leaves))

            return _queued(of_index, size, length, length // _LEFT if chunks >= _FROM else 0)

        together = each(function, size)
        on_cpu = lockstep if small and largest <= SMALL else sequential
        if by_first and not own[0]:
            out = one_by_one(together, by_first=True)(*leaves)
        elif everywhere or jax.default_backend() == "cpu":
            out = on_cpu(*leaves)
        else:  # the CPU may still be where it runs
            out = jax.lax.platform_dependent(*leaves, cpu=on_cpu, default=together)
        return out, jax.tree.map(lambda _: True, out)

    return call
