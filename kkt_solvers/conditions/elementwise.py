"""`psi(z) = argmin_{l <= y <= u} phi(y, theta) - z y`, entry by entry, and its derivative."""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.data.objectives import Separable, hessian_product
from kkt_solvers.numerics.arrays import full_precision
from kkt_solvers.numerics.hoist import elementwise_derivative

# Steps of the safeguarded Newton iteration; bisection alone would need about as many as a float has bits.
_STEPS = 100


def minimise_elementwise(objective: Separable, z: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """`psi(z)`. Differentiable in the objective's `theta`, in `z` and in the bounds.

    At a tie, where the unconstrained minimiser is exactly at a bound, the coordinate counts as free: the derivative
    is that of the unconstrained minimiser.
    """
    if objective.minimiser is None:
        return _numeric_minimiser(objective, z, lower, upper)
    free = objective.minimiser(z, objective.theta)
    below, above = free < lower, free > upper
    # Where the bound holds, `minimiser(z)` may have overflowed. Evaluate it at the z that leads to the bound
    # instead, so that no infinity meets a zero cotangent on the way back.
    slope_at_bound = jax.lax.stop_gradient(objective.gradient(jnp.where(below, lower, upper)))
    inside = objective.minimiser(jnp.where(below | above, slope_at_bound, z), objective.theta)
    return jnp.where(below, lower, jnp.where(above, upper, inside))


@jax.custom_jvp
def _numeric_minimiser(objective: Separable, z: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """The root of `phi'(y) = z` clipped to the box: bracket by doubling, then Newton inside the bracket."""
    lower, upper = jnp.broadcast_to(lower, z.shape), jnp.broadcast_to(upper, z.shape)
    middle = jnp.where(jnp.isfinite(lower) & jnp.isfinite(upper), 0.5 * (lower + upper), 0.0)
    start = jnp.clip(middle, jnp.where(jnp.isfinite(lower), lower, middle), upper)
    # With one finite bound start a unit inside it: phi' may be infinite on it.
    start = jnp.where(jnp.isfinite(lower) & ~jnp.isfinite(upper), jnp.maximum(start, lower + 1), start)
    start = jnp.where(jnp.isfinite(upper) & ~jnp.isfinite(lower), jnp.minimum(start, upper - 1), start)

    def slope(y: jax.Array) -> jax.Array:
        return objective.gradient(y) - z

    def grow(_: int, ends: Any) -> Any:
        low, high, width = ends
        low = jnp.where(slope(low) > 0, jnp.maximum(low - width, lower), low)
        high = jnp.where(slope(high) < 0, jnp.minimum(high + width, upper), high)
        return low, high, 4 * width

    low, high, _ = jax.lax.fori_loop(0, 60, grow, (start, start, jnp.ones_like(start)))

    def narrow(_: int, state: Any) -> Any:
        low, high, y = state
        residual = slope(y)
        low, high = jnp.where(residual < 0, y, low), jnp.where(residual > 0, y, high)
        newton = y - residual / hessian_product(objective, y, jnp.ones_like(y))
        inside = (newton > low) & (newton < high)
        # Every other step may only be taken if it stays in the middle half: the bracket halves at least that often.
        safe = inside & (jnp.abs(newton - y) < 0.5 * (high - low))
        y = jnp.where(residual == 0, y, jnp.where(safe, newton, 0.5 * (low + high)))
        return low, high, y

    _, _, y = jax.lax.fori_loop(0, _STEPS, narrow, (low, high, 0.5 * (low + high)))
    return jnp.where(slope(lower) >= 0, lower, jnp.where(slope(upper) <= 0, upper, y))


@_numeric_minimiser.defjvp
@full_precision
def _numeric_minimiser_jvp(primals: Any, tangents: Any) -> Any:
    # phi'(psi, theta) = z where free: phi'' dpsi = dz - d_theta phi'. On a bound psi moves with the bound.
    objective, z, lower, upper = primals
    d_objective, dz, d_lower, d_upper = tangents
    y = _numeric_minimiser(objective, z, lower, upper)
    curvature = hessian_product(objective, y, jnp.ones_like(y))
    # As above: which bound holds is seen at the bound, never from `y` being equal to it.
    below, above = objective.gradient(lower) > z, objective.gradient(upper) < z
    free = ~below & ~above
    _, d_slope = jax.jvp(lambda objective: objective.gradient(y), (objective,), (d_objective,))
    safe = jnp.where(free & (curvature > 0), curvature, 1.0)
    moved = jnp.where(free, (dz - d_slope) / safe, 0.0)
    return y, moved + jnp.where(below, d_lower, 0.0) + jnp.where(above, d_upper, 0.0)


def slope_of_minimiser(objective: Separable, z: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """`psi'(z)`, nonnegative; zero where a bound holds."""
    return elementwise_derivative(lambda z: minimise_elementwise(objective, z, lower, upper), z)
