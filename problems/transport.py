"""Entropic optimal transport [cuturi2013] and the Sinkhorn divergence [feydy2019].

Of all plans that move the masses `source` to the masses `target`, the one that is cheap and spread out:

    min_Y  <cost, Y> + epsilon KL(Y | source target')    s.t.  Y 1 = source,   Y'1 = target,   Y >= 0,

with `KL(Y | R) = sum_ij Y_ij log(Y_ij / R_ij) - Y_ij + R_ij` and masses of one in all. The solution is
`Y_ij = source_i target_j exp((f_i + g_j - cost_ij) / epsilon)`, with minus the multipliers as potentials f and g.
For `epsilon -> 0` it is optimal transport, a linear program.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers import Affine, Box, Marginals, Problem, solve
from kkt_solvers.data.entropy import gibbs
from kkt_solvers.numerics.arrays import cast, float_dtype, floating
from kkt_solvers.problems import _checks


def OptimalTransport(cost: Any, source: Any, target: Any, epsilon: Any) -> Problem:
    """Entropic optimal transport as a `Problem`, in the plan.

    Arguments:
        cost: of a unit of mass from i to j, shape `(a, b)`.
        source, target: masses, `(a,)` and `(b,)`, nonnegative and of equal sums. `target` is brought to the sum of
            `source`, no change in value, so that the derivative in each of the two alone exists.
        epsilon: a positive scalar, in units of the cost.

    Raises `ValueError` for masses that are negative or do not balance and an `epsilon` that is not positive; traced
    ones make the problem `Status.INVALID`. `DualNewton`, the default solver, takes O(a b min(a, b)) an iteration.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import OptimalTransport
    >>> kkt.solve(OptimalTransport([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.5, 0.5], 0.5)).primal.tolist()
    [[0.44, 0.06], [0.06, 0.44]]
    """
    cost, epsilon = floating(cost, "cost"), _checks.scalar(epsilon, "epsilon")
    source, target = floating(source, "source"), floating(target, "target")
    if cost.ndim != 2:
        raise ValueError(f"cost must be a matrix, got shape {cost.shape}; optimal_transport takes batches")
    for name, mass, size in (("source", source, cost.shape[0]), ("target", target, cost.shape[1])):
        if mass.shape != (size,):
            raise ValueError(
                f"{name} must have shape ({size},) to go with cost of shape {cost.shape}, got {mass.shape}"
            )
    source, target, epsilon = _balanced(source, target, epsilon)
    dtype = float_dtype(cost, source, target, epsilon)
    cost, source, target, epsilon = cast((cost, source, target, epsilon), dtype)
    total, other = jnp.sum(source), jnp.sum(target)
    target = target * (total / jnp.where(other > 0, other, 1.0))
    reference = jnp.outer(source, target / jnp.where(total > 0, total, 1.0))
    return Problem(
        gibbs(cost, reference, epsilon), Affine(Marginals(*cost.shape), jnp.concatenate([source, target])), Box(0.0)
    )


class Transport(NamedTuple):
    """The `plan`, of shape `(..., a, b)`, and its `cost`, the optimal value, with the entropy in it."""

    plan: jax.Array
    cost: jax.Array


def optimal_transport(cost: Any, source: Any, target: Any, epsilon: Any) -> Transport:
    """The plan of entropic optimal transport and what it costs, `<cost, Y> + epsilon KL(Y | source target')`.

    Arguments:
        cost: shape `(..., a, b)`.
        source, target: shape `(..., a)` and `(..., b)`; leading axes broadcast with those of `cost`.
        epsilon: shape `(...)`.

    Returns a `Transport`; NaN where traced masses do not balance or are negative. The derivative of its cost in
    `cost` is the plan, in the masses the potentials. Raises `ValueError` as `OptimalTransport` does.

    >>> from kkt_solvers.problems import optimal_transport
    >>> plan, cost = optimal_transport([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.5, 0.5], 0.5)
    >>> plan.tolist(), cost
    ([[0.44, 0.06], [0.06, 0.44]], Array(0.283, dtype=float32))
    """
    values = {"cost": cost, "source": source, "target": target, "epsilon": epsilon}
    values = {name: floating(value, name) for name, value in values.items()}
    ndims = dict(zip(values, (2, 1, 1, 0), strict=True))
    for name, value in values.items():
        if value.ndim < ndims[name]:
            raise ValueError(f"{name} must have at least {ndims[name]} axes, got shape {value.shape}")
    cost, source, target, epsilon = values.values()
    leading = [value.shape[: value.ndim - ndims[name]] for name, value in values.items()]
    try:
        np.broadcast_shapes(*leading)
        fit = source.shape[-1:] + target.shape[-1:] == cost.shape[-2:]
    except ValueError:
        fit = False
    if not fit:
        shapes = ", ".join(f"{name} {value.shape}" for name, value in values.items())
        raise ValueError(f"the leading axes must broadcast, and the last ones fit (a, b), (a,), (b,): {shapes}")
    return Transport(*_solved(cost, *_balanced(source, target, epsilon)))


def sinkhorn_divergence(x: Any, y: Any, epsilon: Any, source: Any = None, target: Any = None) -> jax.Array:
    """How far two clouds of points are apart, `T(x, y) - (T(x, x) + T(y, y)) / 2`, with T the cost of entropic optimal
    transport for squared distances: zero for equal clouds, and positive otherwise.

    Arguments:
        x, y: points, shape `(..., a, d)` and `(..., b, d)`.
        epsilon: positive, in units of squared distance.
        source, target: the masses at the points, `(..., a)` and `(..., b)`; default equal ones, of one in all.

    Returns a scalar for each pair of clouds. Its gradient in the points says where to move them, in the masses how
    much. Raises `ValueError` as `optimal_transport` does, and for points of different dimensions.

    >>> from kkt_solvers.problems import sinkhorn_divergence
    >>> sinkhorn_divergence([[0.0], [1.0]], [[2.0], [3.0]], 0.1)
    Array(4., dtype=float32)
    """
    x, y = floating(x, "x"), floating(y, "y")
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"x and y must be points of one dimension, (..., a, d) and (..., b, d); got {x.shape}, {y.shape}"
        )
    dtype, size = float_dtype(x, y, source, target, epsilon), max(x.shape[-2], y.shape[-2])

    def cloud(points: jax.Array, mass: Any, name: str) -> tuple[jax.Array, jax.Array]:
        # Points without mass make the clouds equally large, so that the three plans are one batch.
        count = points.shape[-2]
        mass = jnp.full(count, 1 / count, dtype) if mass is None else floating(mass, name).astype(dtype)
        if mass.shape[-1:] != (count,):
            raise ValueError(f"{name} must have the mass of each of {count} points, got shape {mass.shape}")
        axes = np.broadcast_shapes(points.shape[:-2], mass.shape[:-1])
        points = jnp.broadcast_to(points.astype(dtype), (*axes, *points.shape[-2:]))
        mass, fill = jnp.broadcast_to(mass, (*axes, count)), size - count
        none = [(0, 0)] * len(axes)
        return jnp.pad(points, [*none, (0, fill), (0, 0)]), jnp.pad(mass, [*none, (0, fill)])

    x, source = cloud(x, source, "source")
    y, target = cloud(y, target, "target")
    (x, y), (source, target) = jnp.broadcast_arrays(x, y), jnp.broadcast_arrays(source, target)
    x, y, source, target = (
        jnp.stack(pair) for pair in ((x, x, y), (y, x, y), (source, source, target), (target, source, target))
    )
    squares = jnp.sum((x[..., :, None, :] - y[..., None, :, :]) ** 2, axis=-1)
    between, within, beyond = optimal_transport(squares, source, target, epsilon).cost
    return between - (within + beyond) / 2


def _one(cost: jax.Array, source: jax.Array, target: jax.Array, epsilon: jax.Array) -> tuple[jax.Array, jax.Array]:
    solution = solve(OptimalTransport(cost, source, target, epsilon))
    return _checks.solved(solution, (solution.primal, solution.objective))


_solved = jnp.vectorize(_one, signature="(a,b),(a),(b),()->(a,b),()")


def _balanced(source: jax.Array, target: jax.Array, epsilon: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The masses where they may be moved, of leading axes that broadcast."""
    rounding = float(jnp.finfo(float_dtype(source, target)).eps) ** 0.5

    def sums(xp: Any, target: Any, source: Any) -> Any:
        return tuple(xp.sum(mass, axis=-1, keepdims=True) for mass in (source, target))

    def balance(xp: Any, target: Any, source: Any) -> Any:
        total, other = sums(xp, target, source)
        return abs(total - other) <= rounding * xp.maximum(total, other)

    def message(target: Any, source: Any) -> str:
        total, other = (np.squeeze(value, -1) for value in sums(np, target, source))
        return (
            f"source and target must carry the same mass, got {total} and {other}: rescale one of them, "
            "target * source.sum() / target.sum()"
        )

    source, target = (
        _checks.where_valid(mass, f"{name} must hold nonnegative masses", lambda xp, mass: mass >= 0)
        for name, mass in (("source", source), ("target", target))
    )
    target = _checks.where_valid(target, message, balance, source)
    hint = "epsilon must be positive; a linear program solver gives the limit of zero"
    return source, target, _checks.where_valid(epsilon, hint, lambda xp, epsilon: epsilon > 0)
