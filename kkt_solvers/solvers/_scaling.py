"""A start for `DualNewton` where entropy meets marginals: alternate scaling of rows and columns [cuturi2013].

The plan `y_ij = v_ij exp((f_i + g_j - c_ij) / epsilon)` meets its row sums once each row is scaled, and its column sums
once each column is scaled. A sweep does one after the other by two products of a matrix and a vector. A Newton
iteration costs as much as 30 to 45 sweeps (64 to 512 squared). Sweeps converge linearly, fast for a large epsilon and
hardly for a small one. So epsilon is annealed: each stage starts from the potentials of the stage before.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.data.marginals import Marginals
from kkt_solvers.data.objectives import Separable
from kkt_solvers.numerics.arrays import relative, where

_FACTOR = 4.0  # from one epsilon to the next
_LEAST, _MOST = 8, 200  # sweeps of a stage
_WORTH = 100.0  # a stage ends if its rate of convergence asks for more sweeps


class _Sweep(NamedTuple):
    u: jax.Array
    v: jax.Array
    error: jax.Array  # of the sums of rows, relative to the total
    made: jax.Array
    worth: jax.Array  # whether another sweep is


def scaled_potentials(objective: Separable, A: Marginals, target: jax.Array) -> jax.Array:
    """`(f, g)` with `A y` near `target`, for an objective that `is_gibbs`; zero if something overflows."""
    cost, reference, epsilon = objective.theta
    cost, reference, epsilon = A.by_rows(cost), A.by_rows(reference), epsilon[0]
    rows, columns = target[: A.plan[0]], target[A.plan[0] :]
    small = 4 * float(jnp.finfo(cost.dtype).eps)

    def sweep(K: jax.Array, now: _Sweep) -> _Sweep:
        v = where(columns > 0, columns / (now.u @ K), 1.0)
        sums = K @ v
        error = relative(jnp.sum(jnp.abs(now.u * sums - rows)), jnp.sum(rows))
        rate, made = error / now.error, now.made + 1
        left = jnp.log(small / error) / jnp.log(jnp.minimum(rate, 1 - small))
        worth = (error > small) & (made < _MOST) & ((made < _LEAST) | (left < _WORTH))
        return _Sweep(where(rows > 0, rows / sums, 1.0), v, error, made, worth)

    def stage(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        _, g, e = state
        e = jnp.maximum(e / _FACTOR, epsilon)
        # Rows are scaled by logarithms first, so that no entry of K is beyond its sum.
        z = where(reference > 0, (g - cost) / e, -jnp.inf)
        top = jnp.max(z, axis=1, keepdims=True)
        top = where(jnp.isfinite(top), top, 0.0)
        sums = jnp.sum(reference * jnp.exp(z - top), axis=1)
        f = e * (where((rows > 0) & (sums > 0), jnp.log(rows / sums), 0.0) - top[:, 0])
        K = reference * jnp.exp(f[:, None] / e + z)
        none, going = jnp.zeros((), jnp.int32), jnp.ones((), bool)
        start = _Sweep(jnp.ones_like(f), jnp.ones_like(g), jnp.ones_like(epsilon), none, going)
        end = jax.lax.while_loop(lambda now: now.worth, lambda now: sweep(K, now), start)
        return f + e * jnp.log(end.u), g + e * jnp.log(end.v), e

    # One stage at least; the first epsilon is a fraction of the spread of the costs.
    spread = jnp.max(where(reference > 0, cost, -jnp.inf)) - jnp.min(where(reference > 0, cost, jnp.inf))
    stages = jnp.ceil(jnp.log(jnp.maximum(spread / (2 * _FACTOR * epsilon), 1.0)) / jnp.log(_FACTOR))
    first = jnp.zeros_like(rows), jnp.zeros_like(columns), epsilon * _FACTOR ** (stages + 1)
    f, g, _ = jax.lax.while_loop(lambda state: state[2] > epsilon, stage, first)
    found = jnp.concatenate([f, g])
    return where(jnp.all(jnp.isfinite(found)), found, 0.0)
