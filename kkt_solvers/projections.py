"""Differentiable projections onto `{y : l <= y <= u, w'y = total}`.

Each is a problem of this library, solved by `DualBisection` and differentiated by the engine. All of them take
vectors; `jax.vmap` makes batches of them. Where the set is empty the result, or under tracing its derivative, is not
a number.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers._arrays import cast, float_dtype, floating
from kkt_solvers._mirror import xlogx
from kkt_solvers._objectives import Separable
from kkt_solvers._problem import Box, Problem, Sum
from kkt_solvers._solve import solve
from kkt_solvers.solvers import DualBisection


def euclidean(
    v: Any, total: Any = None, *, weights: Any = None, lower: Any = -jnp.inf, upper: Any = jnp.inf
) -> jax.Array:
    """The Euclidean projection, `argmin |y - v|^2 / 2  s.t.  weights'y = total, lower <= y <= upper`.

    Arguments:
        v: shape `(n,)`, floating (integers are promoted).
        total: a scalar, or `None` for the box alone.
        weights: `(n,)` of any signs; default ones.
        lower, upper: scalars or `(n,)`; may be infinite.

    Returns the projection, like `v`; NaN where no point of the box meets the equality. Raises `ValueError` for wrong
    shapes and for bad values that can be seen.

    Exact up to rounding: clipping and then rescaling, which is often seen, is not a projection.

    >>> from kkt_solvers import projections
    >>> projections.euclidean([2.0, 0.3, 0.1, -0.5, 0.8], 2.0, lower=0.0, upper=1.0).tolist()
    [1.000, 0.233, 0.033, 0.000, 0.733]
    """
    return _project(Separable(_half_square, floating(v, "v"), _nearest), total, weights, lower, upper)


def entropic(v: Any, total: Any = None, *, weights: Any = None, lower: Any = 0.0, upper: Any = jnp.inf) -> jax.Array:
    """The Kullback-Leibler projection, `argmin sum_i y_i log(y_i / v_i) - y_i + v_i` over the same set.

    Arguments: as for `euclidean`; `v` is nonnegative. An entry with `v_i = 0` stays zero.

    >>> from kkt_solvers import projections
    >>> projections.entropic([1.0, 2.0, 5.0], 1.0, upper=0.5).tolist()
    [0.167, 0.333, 0.500]
    """
    return _project(Separable(_relative_entropy, floating(v, "v"), _tilt), total, weights, lower, upper)


def _project(objective: Separable, total: Any, weights: Any, lower: Any, upper: Any) -> jax.Array:
    v = objective.theta
    if v.ndim != 1:
        raise ValueError(f"v must be a vector, got shape {v.shape}; use jax.vmap for batches")
    if weights is not None and total is None:
        raise ValueError("weights need a total: pass both or neither")
    equality = None if total is None else Sum(total, weights)
    box = Box(lower, upper)
    dtype = float_dtype(v, equality, box)
    solution = solve(Problem(objective, equality, box), cast(jnp.zeros_like(v), dtype), solver=DualBisection())
    return jnp.where(solution.status == 0, solution.primal, jnp.nan)


def _half_square(y: jax.Array, v: jax.Array) -> jax.Array:
    return 0.5 * (y - v) ** 2


def _nearest(z: jax.Array, v: jax.Array) -> jax.Array:
    return v + z


def _relative_entropy(y: jax.Array, v: jax.Array) -> jax.Array:
    positive = v > 0
    safe = jnp.where(positive, v, 1.0)
    return jnp.where(positive, xlogx(y) - y * jnp.log(safe) - y + v, jnp.where(y == 0, 0.0, jnp.inf))


def _tilt(z: jax.Array, v: jax.Array) -> jax.Array:
    return v * jnp.exp(z)
