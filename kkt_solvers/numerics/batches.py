"""Rules for batches (`jax.vmap`) that differ from the rules for a single instance."""

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


def one_by_one(function: Callable[..., Any], *, by_first: bool = False) -> Callable[..., Any]:
    """`function` of arrays, mapped over a batch one instance after the other on a CPU; elsewhere a batch stays one.
    With `by_first` it stays one also where the first argument is the same for all: one matrix, many right-hand sides.

    On a CPU this costs nothing: every instance stays in the cache and stops on its own, and `lax.cond` computes one
    branch only. A batched LAPACK call would use the threads of XLA's pool and wait for them in a thread of the same
    pool: two such calls on two cores can wait for each other for ever (jax 0.10.2).
    """

    function = full_precision(function)

    @jax.custom_batching.custom_vmap
    def call(*args: Any) -> Any:
        return function(*args)

    @call.def_vmap
    def call_batch(size: int, batched: Any, *args: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(args)
        own = jax.tree.leaves(batched)
        axes = structure.unflatten([0 if o else None for o in own])

        def sequential(*leaves: jax.Array) -> Any:
            def one(mine: Any) -> Any:
                rest = iter(mine)
                return call(
                    *structure.unflatten([next(rest) if o else leaf for o, leaf in zip(own, leaves, strict=True)])
                )

            return jax.lax.map(one, [leaf for o, leaf in zip(own, leaves, strict=True) if o])

        def together(*leaves: jax.Array) -> Any:
            return jax.vmap(function, in_axes=axes, axis_size=size)(*structure.unflatten(leaves))

        if by_first and not own[0]:
            out = one_by_one(together, by_first=True)(*leaves)
        elif jax.default_backend() == "cpu":
            out = sequential(*leaves)
        else:  # the CPU may still be where it runs
            out = jax.lax.platform_dependent(*leaves, cpu=sequential, default=together)
        return out, jax.tree.map(lambda _: True, out)

    return call
