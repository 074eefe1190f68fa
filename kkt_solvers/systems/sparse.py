"""Sparse KKT matrices, factorised on the host CPU.

    K = [ F P F + diag(d)   F A'         ]
        [ A F               -diag(delta) ],        F = diag(mask)

The calls leave JAX by host callbacks, so they run under `jit` and `vmap`, on any backend, but on the CPU and one
instance after another. See `factors.py` for what is called.
"""

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers.data.matrix import Matrix
from kkt_solvers.systems.factors import Data, Pattern, Workspace

_KEPT = 8  # workspaces that wait for a matrix of their pattern

_idle: list[Workspace] = []  # the one used last comes last
_lock = threading.Lock()  # of that list; a workspace in use is not in it


def factorised(
    P: Matrix, A: Matrix, mask: jax.Array, d: jax.Array, delta: jax.Array
) -> Callable[[jax.Array], jax.Array]:
    """`b -> K^{-1} b`, to a backward error of 1e-7.

    There is no handle of a factor that would have to be freed. A call with the numbers of the last call, as all those
    of an iteration, finds the factor as it was left.
    """
    (P_values, P_at), (A_values, A_at) = P.coordinates(), A.coordinates()
    # Two arrays: every argument of a callback costs 25 microseconds.
    numbers, at = (
        jnp.concatenate([P_values, A_values, mask, d, delta]),
        jnp.concatenate([P_at.astype(jnp.int32), A_at.astype(jnp.int32)]),
    )
    sizes = P_values.size, A_values.size, d.size, delta.size

    def on_host(b: Any, numbers: Any, at: Any) -> np.ndarray:
        return _solve(np.asarray(b), Data(sizes, np.asarray(numbers), np.asarray(at)))

    def solve(b: jax.Array) -> jax.Array:
        like = jax.ShapeDtypeStruct(b.shape, b.dtype)
        return jax.pure_callback(on_host, like, b, numbers, at, vmap_method="sequential")

    return solve


def _solve(b: np.ndarray, data: Data) -> np.ndarray:
    workspace = _taken(data)
    try:
        return workspace.solve(b.astype(float)).astype(b.dtype)
    finally:
        with _lock:
            _idle.append(workspace)
            del _idle[:-_KEPT]


def _taken(data: Data) -> Workspace:
    """A workspace with the factor of the matrix, and for this thread alone."""
    with _lock:
        found = next((workspace for workspace in reversed(_idle) if workspace.holds(data)), None)
        known = found is not None
        found = found or next((workspace for workspace in reversed(_idle) if workspace.pattern.fits(data)), None)
        if found is not None:
            _idle.remove(found)
    found = found or Workspace(Pattern(data))
    if not known:
        found.update(data)
    return found
