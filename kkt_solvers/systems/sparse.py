"""Sparse KKT matrices, factorised on the host CPU by SuperLU.

    K = [ F P F + diag(d)   F A'         ]
        [ A F               -diag(delta) ],        F = diag(mask)

SuperLU comes with SciPy, which is a dependency already, is maintained, and takes any sparse matrix. The calls leave JAX
by host callbacks, so they run under `jit` and `vmap`, on any backend, but on the CPU and one instance after another.
"""

import collections
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from kkt_solvers.data.matrix import Matrix

_KEPT = 8  # factors; one that is asked for later is made again

_factors: collections.OrderedDict[int, Any] = collections.OrderedDict()
_names = itertools.count(1)


def factorised(
    P: Matrix, A: Matrix, mask: jax.Array, d: jax.Array, delta: jax.Array, shift: float
) -> Callable[[jax.Array], jax.Array]:
    """`b -> K^{-1} b`, refined against `K`; what is factorised is `K`, its rows scaled to about one, with `shift`
    added to the first block and subtracted from the second."""
    data = (*P.coordinates(), *A.coordinates(), mask, d, delta)
    name = jax.pure_callback(
        lambda *data: _factorise(shift, data), jax.ShapeDtypeStruct((), jnp.int32), *data, vmap_method="sequential"
    )

    def solve(b: jax.Array) -> jax.Array:
        return jax.pure_callback(
            lambda *data: _solve(shift, *data), jax.ShapeDtypeStruct(b.shape, b.dtype), name, b, *data,
            vmap_method="sequential",
        )  # fmt: skip

    return solve


def _factorise(shift: float, data: Any) -> np.ndarray:
    name = next(_names) % 2**31
    _factors[name] = _factor(shift, *jax.tree.map(np.asarray, data))
    while len(_factors) > _KEPT:
        _factors.popitem(last=False)
    return np.asarray(name, np.int32)


def _factor(shift: float, P: Any, P_at: Any, A: Any, A_at: Any, mask: Any, d: Any, delta: Any) -> Any:
    """`K`, its scaling and the factor; `None` where an entry is not finite, or it is singular."""
    n, m = d.size, delta.size
    P, A = P * mask[P_at[:, 0]] * mask[P_at[:, 1]], A * mask[A_at[:, 1]]
    i, j, diagonal = A_at[:, 0] + n, A_at[:, 1], np.arange(n + m)
    values = np.concatenate([P, A, A, d, -delta]).astype(float)
    rows = np.concatenate([P_at[:, 0], i, j, diagonal])
    columns = np.concatenate([P_at[:, 1], j, i, diagonal])
    used = (values != 0) | (rows == columns)
    K = scipy.sparse.csc_matrix((values[used], (rows[used], columns[used])), shape=(n + m, n + m))
    norms = abs(K).max(axis=1).toarray().ravel()
    if not np.all(np.isfinite(norms)):
        return None
    scale = 1 / np.sqrt(np.where(norms > 0, norms, 1.0))
    signs = np.where(diagonal < n, 1.0, -1.0)
    scaled = scipy.sparse.diags(scale) @ K @ scipy.sparse.diags(scale) + shift * scipy.sparse.diags(signs)
    try:
        # A quasidefinite matrix has a factorisation for every symmetric ordering, so a pivot off the diagonal is taken
        # only where that on it is tiny: nearly the fill of a symmetric factorisation, the accuracy of a pivoted one.
        factor = scipy.sparse.linalg.splu(
            scaled.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=1e-3, options={"SymmetricMode": True}
        )
    except RuntimeError:
        return None
    return K, scale, factor


_REFINEMENTS = 5


def _solve(shift: float, name: Any, b: Any, *data: Any) -> np.ndarray:
    b, data = np.asarray(b), jax.tree.map(np.asarray, data)
    name = int(name)
    found = _factors[name] if name in _factors else _factor(shift, *data)
    if found is None or not np.all(np.isfinite(b)):
        return np.full_like(b, np.nan)
    K, scale, factor = found
    x, rest = np.zeros(b.size), b.astype(float)
    smallest = np.inf
    for _ in range(_REFINEMENTS):
        following = x + scale * factor.solve(scale * rest)
        rest = b - K @ following
        largest = np.max(np.abs(rest), initial=0)
        if not largest < 0.5 * smallest:
            break
        x, smallest = following, largest
    return x.astype(b.dtype)
