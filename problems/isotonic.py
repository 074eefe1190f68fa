"""Isotonic regression.

    min_b  sum_i weights_i (b_i - y_i)^2 / 2    s.t.  b_1 <= b_2 <= ... <= b_n,  lower <= b <= upper

`IsotonicRegression` is the problem by stages. The verb finds the point in closed form, by the greatest convex minorant,
and has it certified and differentiated as the solution of the same problem in the variables `(b, steps)`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers import Affine, BlockBidiagonal, Box, Dual, Problem, Quadratic, Solution, differentiable, solve
from kkt_solvers.data.matrix import Matrix
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.linear import KKTSystem
from kkt_solvers.numerics.arrays import cast, float_dtype, full_precision, inverse_root
from kkt_solvers.numerics.pytree import pytree
from kkt_solvers.problems import _checks
from kkt_solvers.problems._minorant import convex_minorant


def IsotonicRegression(y: Any, weights: Any = None, lower: Any = -jnp.inf, upper: Any = jnp.inf) -> Problem:
    """Isotonic regression as a `Problem` in `(b_1, step_1, b_2, step_2, ..)`, by stages, with `step_i = b_(i+1) - b_i`
    nonnegative; `step_n` is zero.

    Arguments:
        y: shape `(n,)`.
        weights: positive, `(n,)`; default ones.
        lower, upper: bounds of b, scalars or `(n,)`.

    Raises `ValueError` for shapes that do not fit, weights that are not positive and unsorted bounds.

    >>> from kkt_solvers.problems import IsotonicRegression
    >>> IsotonicRegression([2.0, 1.0]).equality.A.dense().tolist()
    [[0.0, 0.0, 0.0, 0.0], [-1.0, -1.0, 1.0, 0.0]]
    """
    y, weights, lower, upper = _arguments(y, weights, lower, upper)
    n = y.size
    lower, upper = jnp.broadcast_to(lower, n), jnp.broadcast_to(upper, n)
    # Row i + 1: b_(i+1) - b_i - step_i = 0. Row 0 is empty.
    now = jnp.zeros((n, 1, 2), y.dtype).at[1:, 0, 0].set(1)
    A, zero = BlockBidiagonal(now, jnp.full((n - 1, 1, 2), -1, y.dtype)), jnp.zeros_like(y)

    def in_turn(of_b: jax.Array, of_steps: jax.Array) -> jax.Array:
        return jnp.ravel(jnp.stack([of_b, of_steps], axis=1))

    box = Box(in_turn(lower, zero), in_turn(upper, jnp.append(zero[1:] + jnp.inf, zero[:1])))
    return Problem(Quadratic(in_turn(weights, zero), in_turn(-weights * y, zero)), Affine(A, zero), box)


@full_precision
def isotonic_regression(y: Any, weights: Any = None, lower: Any = -jnp.inf, upper: Any = jnp.inf) -> jax.Array:
    """The nearest nondecreasing sequence within bounds, `(n,)`, differentiable in every argument.

    Arguments: as for `IsotonicRegression`. Batches go through `jax.vmap`. NaN where the problem was not solved.

    Bounds that are scalars clip the sequence without bounds, which is found in O(n) time whatever the data. Bounds of
    each b take the interior point. Where b and its neighbour are equal and the constraint between them has no force,
    each moves with its own block.

    >>> from kkt_solvers.problems import isotonic_regression
    >>> isotonic_regression([1.0, 3.0, 2.0, 4.0]).tolist()
    [1.0, 2.5, 2.5, 4.0]

    Source: [barlow1972].
    """
    y, weights, lower, upper = _arguments(y, weights, lower, upper)
    if lower.size > 1 or upper.size > 1:
        return _checks.solved(solve(IsotonicRegression(y, weights, lower, upper)))[::2]
    dtype = y.dtype
    y, weights, lower, upper = (value.astype(jnp.promote_types(dtype, jnp.float32)) for value in (y, weights, lower, upper))
    solution = _pooled(y, weights, jnp.ravel(lower), jnp.ravel(upper))
    return _checks.solved(solution, solution.primal[: y.size]).astype(dtype)


def _pooled(y: jax.Array, weights: jax.Array, lower: jax.Array, upper: jax.Array) -> Solution:
    """The solution in the variables `(b, steps)`."""
    n = y.size
    zero = jnp.zeros(n - 1, y.dtype)
    box = Box(_append(jnp.broadcast_to(lower, n), zero), _append(jnp.broadcast_to(upper, n), zero + jnp.inf))
    objective = Quadratic(_append(weights, zero), _append(-weights * y, zero))
    problem = Problem(objective, Affine(_Differences(n), zero), box)

    y, weights, lower, upper = jax.lax.stop_gradient((y, weights, lower, upper))
    means, gaps = convex_minorant(y, weights)
    b, force = jnp.clip(means, lower, upper), jnp.maximum(gaps[1:], 0)
    steps = jnp.maximum(b[1:] - b[:-1], 0)
    # The row of a step has the multiplier -force. Clipping adds to the slope of b what its bounds take up.
    at_lower, at_upper = (weights * jnp.maximum(gap, 0) for gap in (lower - means, means - upper))
    dual = Dual(-force, _append(at_lower, force), _append(at_upper, zero))
    return differentiable(problem, _append(b, steps), dual, linear=_BlockMeans() if n > 1 else None)


def _append(b: jax.Array, steps: jax.Array) -> jax.Array:
    return jnp.concatenate([b, steps])


@pytree(static=("size", "sign"))
@dataclass(frozen=True, eq=False)
class _Differences(Matrix):
    """The rows `b_{i+1} - b_i - step_i`. It holds no array, so products are passes over the vectors alone."""

    size: int
    sign: int = -1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size - 1, 2 * self.size - 1

    def product(self, v: jax.Array) -> jax.Array:
        b, steps = v[: self.size], v[self.size :]
        return b[1:] + self.sign * (b[:-1] + steps)

    def adjoint(self, v: jax.Array) -> jax.Array:
        return _append(jnp.pad(v, (1, 0)) + self.sign * jnp.pad(v, (0, 1)), self.sign * v)

    def absolute(self) -> Matrix:
        return _Differences(self.size, 1)

    def largest(self, axis: int, weights: jax.Array | None = None) -> jax.Array:
        if weights is None:
            return jnp.ones(self.shape[1 - axis])
        if axis:
            b, steps = weights[: self.size], weights[self.size :]
            return jnp.maximum(jnp.maximum(b[1:], b[:-1]), steps)
        return _append(jnp.maximum(jnp.pad(weights, (1, 0)), jnp.pad(weights, (0, 1))), weights)


@dataclass(frozen=True)
class _BlockMeans(KKTSystem):
    """The system of the derivative for `_Differences` and a diagonal Hessian. The b of a block, between two free steps,
    move together but for the right-hand side; so their motion is a weighted mean, and multipliers are sums."""

    def factorised(self, problem: FlatProblem, y: jax.Array, mask: jax.Array) -> Any:
        n = (y.size + 1) // 2
        A, diagonal = problem.rows, problem.objective.P[:n]
        free, loose = mask[:n], mask[n:]
        w = free * diagonal
        block = _cumulative(jnp.pad(loose, (1, 0)).astype(jnp.int32))

        def total(v: jax.Array) -> jax.Array:
            return jax.ops.segment_sum(v, block, num_segments=n, indices_are_sorted=True)

        of_block = total(w)
        inverse = 1 / jnp.where(of_block > 0, of_block, 1.0)

        def solve(right: jax.Array) -> jax.Array:
            of_b, of_steps, of_rows = jnp.split(right, [n, 2 * n - 1])
            known = -loose * of_steps  # the multipliers of free steps
            of_b = of_b - free * A.adjoint(known)[:n]
            own = jnp.pad(_cumulative((1 - loose) * of_rows), (1, 0))  # motion within a block
            d_b = free * ((inverse * total(of_b * free - w * own))[block] + own) + (1 - free) * of_b
            pull = _cumulative(w * d_b - free * of_b)[:-1]
            moved = free * d_b
            d_steps = loose * (moved[1:] - moved[:-1] - of_rows) + (1 - loose) * of_steps
            return jnp.concatenate([d_b, d_steps, known + (1 - loose) * pull])

        weights = jnp.concatenate([jnp.where(free > 0, inverse_root(diagonal), 1.0), jnp.ones(2 * n - 2, y.dtype)])
        return solve, weights, None


def _cumulative(v: jax.Array) -> jax.Array:
    return jax.lax.associative_scan(jnp.add, v)  # twice as fast as `jnp.cumsum` on a CPU


def _arguments(y: Any, weights: Any, lower: Any, upper: Any) -> Any:
    y = _checks.vector(y, "y", "observations, in order")
    n = y.size
    weights = _checks.like(1.0 if weights is None else weights, (n,), "weights", "y")
    lower, upper = (_checks.like(value, (n,), name, "y") for name, value in (("lower", lower), ("upper", upper)))
    y, weights, lower, upper = cast((y, weights, lower, upper), float_dtype(y, weights, lower, upper))
    weights = _checks.where_valid(weights, "weights must be positive", lambda xp, weights: weights > 0)
    return y, jnp.broadcast_to(weights, n), _checks.in_order(lower, upper), upper
