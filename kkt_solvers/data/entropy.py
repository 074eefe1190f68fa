"""The entropy of a box as a separable objective: mirror maps, Bregman projections, and the numerics of the sigmoid.

h(y) = (y - l) log (y - l) + (u - y) log (u - y)     both bounds finite      h'(y) = log((y - l) / (u - y))
h(y) = (y - l) log (y - l) - (y - l)                 only the lower          h'(y) = log(y - l)
h(y) = (u - y) log (u - y) - (u - y)                 only the upper          h'(y) = -log(u - y)
h(y) = y^2 / 2                                       none                    h'(y) = y
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.data.objectives import Separable


@jax.custom_jvp
def sigmoid(t: jax.Array) -> jax.Array:
    """`1 / (1 + exp(-t))`, whose derivative does not vanish when the value rounds to 1."""
    return 1 / (1 + jnp.exp(-t))


@sigmoid.defjvp
def _sigmoid_jvp(primals: Any, tangents: Any) -> Any:
    (t,), (dt,) = primals, tangents
    return sigmoid(t), _sigmoid_slope(t) * dt


@jax.custom_jvp
def _sigmoid_slope(t: jax.Array) -> jax.Array:
    """`sigmoid(t) sigmoid(-t)`."""
    e = jnp.exp(-jnp.abs(t))
    return e / ((1 + e) * (1 + e))


@_sigmoid_slope.defjvp
def _sigmoid_slope_jvp(primals: Any, tangents: Any) -> Any:
    (t,), (dt,) = primals, tangents
    slope = _sigmoid_slope(t)
    return slope, slope * (sigmoid(-t) - sigmoid(t)) * dt


def log_sigmoid(t: jax.Array) -> jax.Array:
    """`log sigmoid(t)`; constant at infinities."""
    end = jnp.isinf(t)
    return jnp.where(end, jax.lax.stop_gradient(jnp.minimum(t, 0)), -jax.nn.softplus(-jnp.where(end, 0, t)))


@jax.custom_jvp
def xlogx(y: jax.Array) -> jax.Array:
    """`y log y`: zero at zero, where its slope is -inf; NaN below."""
    return jnp.where(y == 0, 0.0, y * jnp.log(jnp.where(y == 0, 1.0, y)))


@xlogx.defjvp
def _xlogx_jvp(primals: Any, tangents: Any) -> Any:
    (y,), (dy,) = primals, tangents
    return xlogx(y), (1 + jnp.log(y)) * dy


def relative_entropy(y: jax.Array, v: jax.Array) -> jax.Array:
    """`y log(y / v) - y + v`; for `v = 0` infinite unless y is zero too."""
    positive = v > 0
    safe = jnp.where(positive, v, 1.0)
    return jnp.where(positive, xlogx(y) - y * jnp.log(safe) - y + v, jnp.where(y == 0, 0.0, jnp.inf))


@jax.custom_jvp
def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """`x y`, but zero where `x` is infinite, with the derivative of `x y` everywhere."""
    return jnp.where(jnp.isinf(x), 0.0, x * y)


@product.defjvp
def _product_jvp(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    return product(x, y), x * dy + y * dx


def logistic(x: jax.Array) -> Separable:
    """`-x'y - H_b(y)` with the binary entropy `H_b`, on the unit box."""
    return Separable(_logistic, x, _choose, _leave)


def is_logistic(objective: Separable) -> bool:
    return objective.minimiser is _choose


def _logistic(y: jax.Array, x: jax.Array) -> jax.Array:
    return xlogx(y) + xlogx(1 - y) - product(x, y)


def _choose(z: jax.Array, x: jax.Array) -> jax.Array:
    return sigmoid(z + x)


def _leave(z: jax.Array, x: jax.Array) -> jax.Array:
    return sigmoid(-z - x)


def gibbs(cost: Any, reference: Any, epsilon: Any) -> Separable:
    """`cost'y + epsilon KL(y | reference)` on nonnegative `y`; zero where `reference` is."""
    return Separable(_entropic_cost, (cost, reference, epsilon), _boltzmann)


def is_gibbs(objective: Separable) -> bool:
    return objective.minimiser is _boltzmann


def _entropic_cost(y: jax.Array, theta: Any) -> jax.Array:
    cost, reference, epsilon = theta
    return cost * y + epsilon * relative_entropy(y, reference)


def _boltzmann(z: jax.Array, theta: Any) -> jax.Array:
    cost, reference, epsilon = theta
    return jnp.where(reference > 0, reference * jnp.exp((z - cost) / epsilon), 0.0)


def entropy(z: jax.Array, lower: jax.Array, upper: jax.Array) -> Separable:
    """`sum_i h(y_i) - z_i y_i` for the box's `h`."""
    return Separable(_entropy, (z, lower, upper), _inverse_mirror, _complement)


def _kinds(lower: jax.Array, upper: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Which bounds are finite, and those bounds with harmless stand-ins for the others."""
    has_lower, has_upper = jnp.isfinite(lower), jnp.isfinite(upper)
    return has_lower, has_upper, jnp.where(has_lower, lower, 0.0), jnp.where(has_upper, upper, 0.0)


def mirror(y: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """`h'(y)`; zero for a fixed variable."""
    has_lower, has_upper, low, high = _kinds(lower, upper)
    from_lower = jnp.where(has_lower & (lower < upper), y - low, 1.0)
    from_upper = jnp.where(has_upper & (lower < upper), high - y, 1.0)
    entropic = jnp.log(from_lower) - jnp.log(from_upper)
    return jnp.where(has_lower | has_upper, entropic, y)


def _entropy(y: jax.Array, theta: Any) -> jax.Array:
    z, lower, upper = theta
    has_lower, has_upper, low, high = _kinds(lower, upper)
    below, above = jnp.where(has_lower, y - low, 1.0), jnp.where(has_upper, high - y, 1.0)
    value = xlogx(below) + xlogx(above)
    one_sided = value - jnp.where(has_lower, below, above)
    value = jnp.where(has_lower & has_upper, value, one_sided)
    return jnp.where(has_lower | has_upper, value, 0.5 * y * y) - z * y


def _inverse_mirror(t: jax.Array, theta: Any) -> jax.Array:
    z, lower, upper = theta
    t = t + z
    has_lower, has_upper, low, high = _kinds(lower, upper)
    both = has_lower & has_upper
    inside = low + (high - low) * sigmoid(t)
    one_sided = jnp.where(has_lower, low + jnp.exp(jnp.where(both, 0.0, t)), high - jnp.exp(jnp.where(both, 0.0, -t)))
    return jnp.where(both, inside, jnp.where(has_lower | has_upper, one_sided, t))


def _complement(t: jax.Array, theta: Any) -> jax.Array:
    z, lower, upper = theta
    t = t + z
    has_lower, has_upper, low, high = _kinds(lower, upper)
    both = has_lower & has_upper
    return jnp.where(both, (high - low) * sigmoid(-t), jnp.where(has_upper, jnp.exp(-t), jnp.inf))
