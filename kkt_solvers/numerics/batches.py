"""Rules for batches (`jax.vmap`) that differ from the rules for a single instance."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.numerics.arrays import full_precision, tree_where


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


SMALL = 32  # the largest dimension of an instance that advances in lockstep with others
_CACHE = 12_800  # entries of a square matrix, times the instances of a chunk
_CHUNK = 16, 128  # instances in a chunk, at least and at most


def one_by_one(
    function: Callable[..., Any], *, by_first: bool = False, small: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """`function` of arrays, mapped over a batch one instance after the other on a CPU; elsewhere a batch stays one.
    With `by_first` it stays one also where the first argument is the same for all: one matrix, many right-hand sides.

    On a CPU this costs nothing: every instance stays in the cache and stops on its own, and `lax.cond` computes one
    branch only. A batched LAPACK call would use the threads of XLA's pool and wait for them in a thread of the same
    pool: two such calls on two cores can wait for each other for ever (jax 0.10.2).

    `small` is the same function without a call of LAPACK. If no dimension of an instance exceeds `SMALL`, a batch
    applies it to chunks of instances in lockstep: the operations of one small instance take less time than their
    launch. A chunk is as large as the cache allows, and as slow as its slowest instance.
    """

    function, small = full_precision(function), small and full_precision(small)

    @jax.custom_batching.custom_vmap
    def call(*args: Any) -> Any:
        return function(*args)

    @call.def_vmap
    def call_batch(size: int, batched: Any, *args: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(args)
        own = jax.tree.leaves(batched)
        axes = structure.unflatten([0 if o else None for o in own])
        shapes = [leaf.shape[1:] if o else leaf.shape for leaf, o in zip(leaves, own, strict=True)]
        largest = max((dimension for shape in shapes for dimension in shape), default=1)

        def of_instances(leaves: Any) -> list[jax.Array]:
            return [leaf for o, leaf in zip(own, leaves, strict=True) if o]

        def arguments(mine: Any, leaves: Any) -> Any:
            """All arguments, with the leaves `mine` in place of those that have a batch axis."""
            rest = iter(mine)
            return structure.unflatten([next(rest) if o else leaf for o, leaf in zip(own, leaves, strict=True)])

        def sequential(*leaves: jax.Array) -> Any:
            return jax.lax.map(lambda mine: call(*arguments(mine, leaves)), of_instances(leaves))

        def lockstep(*leaves: jax.Array) -> Any:
            chunks = max(1, math.ceil(size / min(max(_CACHE // largest**2, _CHUNK[0]), _CHUNK[1])))
            length = math.ceil(size / chunks)
            index = jnp.minimum(jnp.arange(chunks * length), size - 1).reshape(chunks, length)

            def one_chunk(mine: Any) -> Any:
                assert small is not None
                return jax.vmap(small, in_axes=axes, axis_size=length)(*arguments(mine, leaves))

            if chunks == 1:
                return one_chunk(of_instances(leaves))
            out = jax.lax.map(one_chunk, [leaf[index] for leaf in of_instances(leaves)])
            return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:size], out)

        def together(*leaves: jax.Array) -> Any:
            return jax.vmap(function, in_axes=axes, axis_size=size)(*structure.unflatten(leaves))

        on_cpu = lockstep if small and largest <= SMALL else sequential
        if by_first and not own[0]:
            out = one_by_one(together, by_first=True)(*leaves)
        elif jax.default_backend() == "cpu":
            out = on_cpu(*leaves)
        else:  # the CPU may still be where it runs
            out = jax.lax.platform_dependent(*leaves, cpu=on_cpu, default=together)
        return out, jax.tree.map(lambda _: True, out)

    return call
