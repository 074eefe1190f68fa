"""Water-filling, and the capacity of channels [cover2006].

Parallel Gaussian channels share a power budget:

    max_p  sum_i log(1 + p_i / noise_i)          s.t.  1'p = power,   0 <= p <= upper.

The solution is `p_i = clip(level - noise_i, 0, upper)`, with `level = 1 / nu` of the multiplier of the budget. A
discrete memoryless channel `T[i, j] = P(output i | input j)` has the capacity

    max_x  I(x) = sum_j x_j sum_i T_ij log T_ij - sum_i (T x)_i log (T x)_i    s.t.  1'x = 1,   x >= 0.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers import Box, Problem, Separable, Sum, solve
from kkt_solvers.data.entropy import xlogx
from kkt_solvers.numerics.arrays import cast, float_dtype
from kkt_solvers.problems import _checks


def WaterFilling(noise: Any, power: Any, upper: Any = jnp.inf) -> Problem:
    """The power allocation of parallel Gaussian channels as a `Problem`.

    Arguments:
        noise: of each channel, positive, shape `(n,)`; `inf` for a channel that is dead.
        power: to be shared, nonnegative, a scalar.
        upper: the largest power of a channel, a scalar or `(n,)`.

    Raises `ValueError` for noise that is not positive, and for a power that is negative or more than the channels may
    take; a traced one makes the problem `Status.INVALID`.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import WaterFilling
    >>> solution = kkt.solve(WaterFilling([1.0, 2.0, 5.0], 3.0))
    >>> solution.primal.tolist(), 1 / solution.dual.equality.item()
    ([2.0, 1.0, 0.0], 3.0)
    """
    noise = _checks.vector(noise, "noise", "channels")
    power, upper = _checks.scalar(power, "power"), _checks.like(upper, noise.shape, "upper", "noise")
    noise, power, upper = _admissible(noise, power, upper)
    return Problem(Separable(_negative_rate, noise, _fill), Sum(power), Box(0.0, upper))


def water_filling(noise: Any, power: Any, upper: Any = jnp.inf) -> jax.Array:
    """The powers of parallel Gaussian channels that transmit most.

    Arguments:
        noise: positive, shape `(..., n)`; `inf` for a channel that is dead.
        power: a scalar, or one for each row (an array that broadcasts to `noise.shape[:-1]`).
        upper: a scalar, or an array that broadcasts to `noise`.

    Returns the powers, like `noise`: `argmax_p sum_i log(1 + p_i / noise_i)  s.t.  1'p = power, 0 <= p <= upper`. NaN
    in a row whose traced values `WaterFilling` would refuse.

    >>> from kkt_solvers.problems import water_filling
    >>> water_filling([[1.0, 2.0, 5.0], [1.0, 1.0, 1.0]], [3.0, 6.0]).tolist()
    [[2.0, 1.0, 0.0], [2.0, 2.0, 2.0]]

    Source: [cover2006].
    """
    noise = _checks.rows(noise, "noise", "channels")
    power = _checks.like(power, noise.shape[:-1], "power", "the rows of noise")
    upper = jnp.broadcast_to(_checks.like(upper, noise.shape, "upper", "noise"), noise.shape)
    allocate = jnp.vectorize(_powers, signature="(n),(),(n)->(n)")
    return allocate(*_admissible(noise, power, upper))


def ChannelCapacity(transition: Any) -> Problem:
    """The input distribution that a discrete memoryless channel transmits most with, as a `Problem`.

    Arguments:
        transition: `T[i, j] = P(output i | input j)`, shape `(outputs, inputs)`; columns sum to one.

    The objective is `-I(x)` in nats. Raises `ValueError` for negative entries and columns that do not sum to one.

    >>> from kkt_solvers.problems import ChannelCapacity
    >>> problem = ChannelCapacity([[0.75, 0.25], [0.25, 0.75]])
    >>> problem.objective(jnp.array([0.5, 0.5]), *problem.args).item() / jnp.log(2.0).item()
    -0.189
    """
    T = _checks.matrix_of(transition, "transition", "outputs by inputs")
    T = _checks.where_valid(
        T, "transition must be nonnegative with columns that sum to one; divide by the sums", _columns
    )
    n = T.shape[1]
    return Problem(_negative_information, Sum(1.0), Box(jnp.zeros(n, T.dtype)), args=(T,))


def channel_capacity(transition: Any) -> tuple[jax.Array, jax.Array]:
    """The capacity of a discrete memoryless channel in bits, a scalar, and the input distribution that attains it.

    Arguments: as for `ChannelCapacity`. Batches go through `jax.vmap`.

    >>> from kkt_solvers.problems import channel_capacity
    >>> capacity, inputs = channel_capacity([[0.75, 0.25], [0.25, 0.75]])  # binary symmetric: 1 - H(1 / 4)
    >>> capacity.item(), inputs.tolist()
    (0.189, [0.500, 0.500])

    Source: [cover2006].
    """
    solution = solve(ChannelCapacity(transition))
    return _checks.solved(solution, (-solution.objective / jnp.log(2.0), solution.primal))


def _powers(noise: jax.Array, power: jax.Array, upper: jax.Array) -> jax.Array:
    return _checks.solved(solve(Problem(Separable(_negative_rate, noise, _fill), Sum(power), Box(0.0, upper))))


def _admissible(noise: jax.Array, power: jax.Array, upper: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    noise, power, upper = cast((noise, power, upper), float_dtype(noise, power, upper))
    noise = _checks.where_valid(noise, "noise must be positive in every channel", lambda xp, noise: noise > 0)
    upper = _checks.where_valid(upper, "upper must be nonnegative in every channel", lambda xp, upper: upper >= 0)
    message = f"power must be nonnegative and at most what the channels may take, the sum of upper; got {power}"
    power = _checks.where_valid(power, message, _in_reach, jnp.broadcast_to(upper, noise.shape))
    return noise, power, upper


def _in_reach(xp: Any, power: Any, upper: Any) -> Any:
    most = xp.sum(upper, axis=-1)
    return (power >= 0) & (power <= most * (1 + 100 * float(jnp.finfo(power.dtype).eps)))


def _negative_rate(p: jax.Array, noise: jax.Array) -> jax.Array:
    return -jnp.log1p(p / noise)


def _fill(z: jax.Array, noise: jax.Array) -> jax.Array:
    return jnp.where(z < 0, -1 / jnp.where(z < 0, z, -1.0) - noise, jnp.inf)


def _columns(xp: Any, T: Any) -> Any:
    return (T >= 0) & (abs(xp.sum(T, axis=0) - 1) <= float(jnp.finfo(T.dtype).eps) ** 0.5)


def _negative_information(x: jax.Array, T: jax.Array) -> jax.Array:
    occurs = jnp.any(T > 0, axis=1)  # an output that does not has no slope either
    return jnp.sum(xlogx(jnp.where(occurs, T @ x, 1.0))) - jnp.vdot(jnp.sum(xlogx(T), axis=0), x)
