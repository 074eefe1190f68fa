"""The negative entropy with scores, as a term of a `Separable`."""

import jax
import jax.numpy as jnp

from kkt_solvers.data.entropy import xlogx


def negative_entropy(y: jax.Array, x: jax.Array) -> jax.Array:
    """`y log y - x y`; an `x` of -inf allows only zero."""
    return xlogx(y) - jnp.where(y == 0, 0.0, y * x)


def gibbs(z: jax.Array, x: jax.Array) -> jax.Array:
    """Its minimiser, less `z y`."""
    return jnp.exp(z + x - 1)
