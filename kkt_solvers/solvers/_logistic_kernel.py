"""A function of rows as one kernel of a GPU, by Pallas."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

LONGEST_ROW = 2**15  # beyond it a block of threads cannot keep a row in its registers, and takes longer than XLA


def fused(
    function: Callable[..., Any], x: jax.Array, k: jax.Array, w: jax.Array | None = None, *, interpret: bool = False
) -> Any:
    """`function(x, k, w, row_sum=...)` of matrices `x (b, n)`, `k (b, 1)` and `w (b, n)` or `None`, one block for each
    row. What it returns has leaves of the shape of `x` or `k`. A row is filled up with -inf to a power of two."""
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    b, n = x.shape
    length = max(16, 1 << (n - 1).bit_length())

    end = ((0, 0), (0, length - n))
    arguments = [jnp.pad(x, end, constant_values=-jnp.inf), k]
    if w is not None:
        arguments.append(jnp.pad(w, end, mode="edge"))
    out = jax.eval_shape(function, *arguments)
    leaves, structure = jax.tree.flatten(out)

    def row(leaf: Any) -> Any:
        return pallas.BlockSpec((None, leaf.shape[1]), lambda i: (i, 0))

    def kernel(*refs: Any) -> None:
        values = function(*(ref[...] for ref in refs[: len(arguments)]), row_sum=_sum)
        for ref, value in zip(refs[len(arguments) :], jax.tree.leaves(values), strict=True):
            ref[...] = value

    results = pallas.pallas_call(
        kernel,
        grid=(b,),
        in_specs=[row(value) for value in arguments],
        out_specs=[row(leaf) for leaf in leaves],
        out_shape=leaves,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=min(16, max(1, length // 256)), num_stages=1),
    )(*arguments)
    return structure.unflatten([value[:, : min(n, value.shape[1])] for value in results])


def _sum(x: jax.Array) -> jax.Array:
    return jnp.sum(x, axis=-1, keepdims=True)
