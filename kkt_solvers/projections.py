"""Differentiable projections onto a box with linear equalities: `{y : l <= y <= u, A y = b}`.

Each is a problem of this library, solved by `DualBisection` (one equality) or `DualNewton` (several) and
differentiated by the engine. Each takes batches: the rows along one axis, or the matrices of the last two, are
projected independently. If the set of a row is empty, that row of the result is NaN, and so is its derivative.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers._solve import solve
from kkt_solvers.data.constraints import Affine, Sum
from kkt_solvers.data.entropy import entropy, gibbs, mirror, relative_entropy
from kkt_solvers.data.marginals import Marginals
from kkt_solvers.data.objectives import Separable
from kkt_solvers.data.problem import Box, Problem
from kkt_solvers.numerics.arrays import broadcast, cast, float_dtype, floating, is_concrete


def euclidean(
    v: Any,
    total: Any = None,
    *,
    weights: Any = None,
    equality: Affine | None = None,
    lower: Any = -jnp.inf,
    upper: Any = jnp.inf,
    axis: int = -1,
) -> jax.Array:
    """The Euclidean projection, `argmin |y - v|^2 / 2  s.t.  weights'y = total, lower <= y <= upper`.

    Arguments:
        v: shape `(..., n)`, floating (integers are promoted).
        total: a scalar, or one for each row (it broadcasts to the shape of `v` without `axis`); `None` for no sum.
        weights: broadcast to the shape of `v`, of any signs; default ones.
        equality: an `Affine(A, b)`, `A` of shape `(m, n)`, in place of `total` and `weights`: `A y = b` for each row.
        lower, upper: scalars, or broadcast to the shape of `v`; may be infinite.
        axis: the axis of length `n`, along which `v` is projected.

    Returns the projection, like `v`; a row is NaN if no point of its box meets the equality. Raises `ValueError` for
    wrong shapes and for bad values that can be seen.

    The projection is exact up to rounding. To clip and then rescale, as is often done, is not a projection.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers import projections
    >>> projections.euclidean([2.0, 0.3, 0.1, -0.5, 0.8], 2.0, lower=0.0, upper=1.0).tolist()
    [1.000, 0.233, 0.033, 0.000, 0.733]
    >>> halves = kkt.Affine([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]], [1.0, 1.0])
    >>> projections.euclidean([0.5, 0.3, 3.0, 0.0], equality=halves, lower=0.0).tolist()
    [0.600, 0.400, 1.000, 0.000]
    >>> projections.euclidean([[2.0, 0.3], [0.1, 0.8]], [1.0, 0.5], lower=0.0).tolist()
    [[1.000, 0.000], [0.000, 0.500]]
    """

    def row(v: jax.Array, total: Any, weights: Any, lower: Any, upper: Any) -> jax.Array:
        objective = Separable(_half_square, v, _nearest)
        return _project(objective, v, _equality(total, weights, equality), Box(lower, upper))

    return _each_row(row, v, total, axis, weights=weights, lower=lower, upper=upper)


def simplex(v: Any, total: Any = 1.0, *, axis: int = -1) -> jax.Array:
    """The Euclidean projection onto the simplex `{y >= 0, sum y = total}`; for `total=1` also known as sparsemax.

    Arguments and return value: as for `euclidean`.

    >>> from kkt_solvers import projections
    >>> projections.simplex([0.9, 0.5, -1.0]).tolist()
    [0.700, 0.300, 0.000]

    Source: [martins2016].
    """
    v = _with_an_axis(v)
    # An offset of v does not change the projection. Without it the sum is as precise for large entries as for small.
    largest = jax.lax.stop_gradient(jnp.max(v, axis, keepdims=True, initial=-jnp.inf))
    return euclidean(v - jnp.where(jnp.isfinite(largest), largest, 0.0), total, lower=0.0, axis=axis)


def entropic(
    v: Any,
    total: Any = None,
    *,
    weights: Any = None,
    equality: Affine | None = None,
    lower: Any = 0.0,
    upper: Any = jnp.inf,
    axis: int = -1,
) -> jax.Array:
    """The Kullback-Leibler projection, `argmin sum_i y_i log(y_i / v_i) - y_i + v_i` over the same set.

    Arguments: as for `euclidean`; `v` is nonnegative. An entry with `v_i = 0` stays zero.

    >>> from kkt_solvers import projections
    >>> projections.entropic([1.0, 2.0, 5.0], 1.0, upper=0.5).tolist()
    [0.167, 0.333, 0.500]
    """

    def row(v: jax.Array, total: Any, weights: Any, lower: Any, upper: Any) -> jax.Array:
        upper = jnp.where(v == 0, jnp.minimum(upper, jnp.maximum(lower, 0)), upper)
        objective = Separable(relative_entropy, v, _tilt)
        return _project(objective, v, _equality(total, weights, equality), Box(lower, upper))

    return _each_row(row, _nonnegative(floating(v, "v"), "v"), total, axis, weights=weights, lower=lower, upper=upper)


def binary_entropic(
    v: Any,
    total: Any = None,
    *,
    weights: Any = None,
    equality: Affine | None = None,
    lower: Any = 0.0,
    upper: Any = 1.0,
    axis: int = -1,
) -> jax.Array:
    """The Bregman projection with the binary entropy of the box, `(y - l) log(y - l) + (u - y) log(u - y)`.

    On the unit box it is the nearest vector of Bernoulli probabilities, `argmin sum_i KL(y_i, v_i)`, and of
    `v = sigmoid(x)` it is the limited multi-label projection of `x`; `kkt_solvers.problems.lml` computes that from `x`
    itself, so that nothing rounds to 0 or 1. The term of an infinite bound is left out.

    Arguments: as for `euclidean`; `v` is strictly between the bounds.

    >>> import jax
    >>> from kkt_solvers import projections
    >>> projections.binary_entropic(jax.nn.sigmoid(jax.numpy.array([1.0, 0.0, -1.0])), 1.5).tolist()
    [0.731, 0.500, 0.269]

    Source: [amos2019].
    """

    def row(v: jax.Array, total: Any, weights: Any, lower: Any, upper: Any) -> jax.Array:
        dtype = float_dtype(v, total, weights, equality, lower, upper)
        low, high = (jnp.broadcast_to(cast(bound, dtype), v.shape) for bound in (lower, upper))
        objective = entropy(mirror(cast(v, dtype), low, high), low, high)
        return _project(objective, v, _equality(total, weights, equality), Box(lower, upper))

    return _each_row(row, v, total, axis, weights=weights, lower=lower, upper=upper)


def transport(V: Any, rows: Any, columns: Any) -> jax.Array:
    """The Euclidean projection of a matrix onto the transport polytope `{Y >= 0, Y 1 = rows, Y'1 = columns}`.

    Arguments:
        V: shape `(..., a, b)`.
        rows, columns: nonnegative, of equal sums; they broadcast to `(..., a)` and `(..., b)`.

    Returns the projection, like `V`; a matrix is NaN if its two sums differ by more than the square root of the
    machine epsilon, or if an entry of `rows` or `columns` is negative. Raises `ValueError` for wrong shapes.

    `columns` is rescaled to the sum of `rows`. This changes no value, but without it a change of `rows` alone would
    have no derivative. Time O(a b min(a, b)) an iteration.

    >>> from kkt_solvers import projections
    >>> projections.transport([[1.0, 0.2], [0.4, 0.8]], [0.5, 0.5], [0.4, 0.6]).tolist()
    [[0.40, 0.10], [0.00, 0.50]]
    """
    return _each_plan(lambda V: Separable(_half_square, V, _nearest), _matrix(V, "V"), rows, columns)


def entropic_transport(V: Any, rows: Any, columns: Any) -> jax.Array:
    """The Kullback-Leibler projection of a nonnegative matrix onto the transport polytope: `diag(p) V diag(q)` with
    the right sums, Sinkhorn's scaling.

    Arguments and return value: as for `transport`. An entry of zero stays zero.

    >>> from kkt_solvers import projections
    >>> projections.entropic_transport([[1.0, 2.0], [1.0, 1.0]], [0.5, 0.5], [0.5, 0.5]).tolist()
    [[0.207, 0.293], [0.293, 0.207]]

    Source: [cuturi2013].
    """
    return _each_plan(lambda V: gibbs(0.0, V, 1.0), _nonnegative(_matrix(V, "V"), "V"), rows, columns)


def optimal_transport(cost: Any, rows: Any, columns: Any, epsilon: Any) -> jax.Array:
    """The plan of entropic optimal transport, `argmin <cost, Y> + epsilon sum_ij Y_ij (log Y_ij - 1)` over the
    transport polytope: `entropic_transport(exp(-cost / epsilon), ...)` without the exponential, which may underflow.

    Arguments: as for `transport`, and `cost` of shape `(..., a, b)` and `epsilon > 0`, a scalar.

    >>> from kkt_solvers import projections
    >>> projections.optimal_transport([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.5, 0.5], 0.5).tolist()
    [[0.44, 0.06], [0.06, 0.44]]

    Source: [cuturi2013].
    """
    epsilon = floating(epsilon, "epsilon")
    if epsilon.shape != ():
        raise ValueError(f"epsilon must be a scalar, got shape {epsilon.shape}")
    if is_concrete(epsilon) and not float(epsilon) > 0:
        raise ValueError(f"epsilon must be positive; got {epsilon}. Without entropy it is a linear program")
    epsilon = jnp.where(epsilon > 0, epsilon, jnp.nan)
    return _each_plan(lambda C: gibbs(C, 1.0, epsilon), _matrix(cost, "cost"), rows, columns)


# ---------------------------------------------------------------------------------------------- batches
def _each_row(row: Callable[..., jax.Array], v: Any, total: Any, axis: int, **entries: Any) -> jax.Array:
    """`row(v, total, *entries)` for each row of `v` along `axis`."""
    v = _with_an_axis(v)
    rows = jnp.moveaxis(v, axis, -1)
    batch = rows.shape[:-1]

    def like_v(value: Any, name: str) -> Any:
        value = None if value is None else floating(value, name)
        if value is None or value.ndim == 0:
            return value
        return jnp.moveaxis(broadcast(value, v.shape, name, "v"), axis, -1)

    if total is not None and (total := floating(total, "total")).ndim > 0:
        total = broadcast(total, batch, "total", "v without the axis")
    y = _each(row, batch, rows, total, *(like_v(value, name) for name, value in entries.items()))
    return jnp.moveaxis(y, -1, axis)


def _each_plan(objective: Callable[..., Separable], V: jax.Array, rows: Any, columns: Any) -> jax.Array:
    """The plan of `objective(V)` for each matrix of `V`."""
    *batch, a, b = V.shape

    def sums(value: Any, name: str, size: int) -> jax.Array:
        value = floating(value, name)
        if value.shape[-1:] != (size,) or value.ndim >= V.ndim:
            raise ValueError(f"{name} must have shape ({size},) for a matrix of shape {(a, b)}, got {value.shape}")
        return broadcast(value, (*batch, size), name, "the sums of V along the other axis")

    def plan(V: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
        return _onto_transport(objective(V), V, rows, columns)

    return _each(plan, tuple(batch), V, sums(rows, "rows", a), sums(columns, "columns", b))


def _each(one: Callable[..., jax.Array], batch: tuple[int, ...], *values: Any) -> jax.Array:
    """`one(*values)` for each instance of a batch; a scalar or `None` is the same for all."""
    if not batch:
        return one(*values)
    shared = [value is None or value.ndim == 0 for value in values]
    flat = [
        value if same else value.reshape(math.prod(batch), *value.shape[len(batch) :])
        for value, same in zip(values, shared, strict=True)
    ]
    y = jax.vmap(one, [None if same else 0 for same in shared])(*flat)
    return y.reshape(*batch, *y.shape[1:])


def _with_an_axis(v: Any) -> jax.Array:
    v = floating(v, "v")
    if v.ndim == 0:
        raise ValueError("v must have at least one axis, the one along which it is projected; got a scalar")
    return v


def _matrix(V: Any, name: str) -> jax.Array:
    V = floating(V, name)
    if V.ndim < 2:
        raise ValueError(f"{name} must be a matrix, or a batch of shape (..., a, b), got shape {V.shape}")
    return V


def _nonnegative(value: jax.Array, name: str) -> jax.Array:
    if is_concrete(value) and np.any(np.asarray(value) < 0):
        raise ValueError(f"{name} must be nonnegative: the entropy has no values below zero; shift or clip it")
    return jnp.where(value < 0, jnp.nan, value)


def _equality(total: Any, weights: Any, equality: Affine | None) -> Affine | Sum | None:
    if equality is not None:
        if total is not None or weights is not None:
            raise ValueError("equality stands in place of total and weights: pass the one or the others")
        if not isinstance(equality, Affine):
            raise TypeError(f"equality must be an Affine(A, b), got {type(equality).__name__}")
        return equality
    if weights is not None and total is None:
        raise ValueError("weights need a total: pass both or neither")
    return None if total is None else Sum(total, weights)


def _project(objective: Separable, v: jax.Array, equality: Affine | Sum | None, box: Box) -> jax.Array:
    dtype = float_dtype(objective.theta, equality, box)
    solution = solve(Problem(objective, equality, box), cast(jnp.zeros_like(v), dtype))
    return jnp.where(solution.status == 0, solution.primal, jnp.nan)


def _onto_transport(objective: Separable, V: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    dtype = float_dtype(objective.theta, rows, columns)
    rows, columns = cast((rows, columns), dtype)
    total, other = jnp.sum(rows), jnp.sum(columns)
    balanced = jnp.abs(total - other) <= float(jnp.finfo(dtype).eps) ** 0.5 * jnp.maximum(total, other)
    columns = columns * (total / jnp.where(other > 0, other, 1.0))
    Y = _project(objective, V, Affine(Marginals(*V.shape), jnp.concatenate([rows, columns])), Box(0.0, jnp.inf))
    return jnp.where(balanced, Y, jnp.nan)


def _half_square(y: jax.Array, v: jax.Array) -> jax.Array:
    return 0.5 * (y - v) ** 2


def _nearest(z: jax.Array, v: jax.Array) -> jax.Array:
    return v + z


def _tilt(z: jax.Array, v: jax.Array) -> jax.Array:
    return v * jnp.exp(z)
