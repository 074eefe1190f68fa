"""Iterative refinement of what a rough inverse gives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.numerics.arrays import where

Map = Callable[[jax.Array], jax.Array]


def refined(
    inverse: Map, product: Map, b: jax.Array, weights: jax.Array, accuracy: Any, *, room: int = 12, most: Any = None
) -> jax.Array:
    """`x` with `product(x) = b`, to a residual of `accuracy` times `b`, both in the norm `|weights v|`.

    Generalised conjugate residuals: steps are combined so that the residual is smallest. If `inverse` is far off in a
    few directions, each takes about one step. The memory holds `room` steps; at most `most` are taken.
    """
    most = room if most is None else most
    b = weights * b

    def norm(v: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.vdot(v, v))

    def again(state: Any) -> Any:
        x, rest, steps, images, now, _, count = state
        step = inverse(rest / weights)
        image = weights * product(step)
        common = images @ image
        step, image = step - common @ steps, image - common @ images
        # The image of a direction that the system does not have (dependent rows) is rounding: no step along it.
        size = norm(image)
        part = where(size > jnp.finfo(b.dtype).eps * norm(step / weights), 1 / size, 0.0)
        step, image = part * step, part * image
        following = x + jnp.vdot(image, rest) * step
        rest = b - weights * product(following)
        left = norm(rest)
        # When nothing is left but rounding, a step may do harm.
        x = where((left < now) | (count == 0), following, x)
        at = count, jnp.zeros_like(count)
        steps, images = (
            jax.lax.dynamic_update_slice(*pair, at) for pair in ((steps, step[None]), (images, image[None]))
        )
        return x, rest, steps, images, left, now, count + 1

    def unfinished(state: Any) -> jax.Array:
        *_, now, before, count = state
        return (count == 0) | ((now > small) & (now < before) & (count < most))

    size, none = norm(b), jnp.zeros((room, b.size), b.dtype)
    small = accuracy * size
    start = jnp.zeros_like(b), b, none, none, size, jnp.full_like(size, jnp.inf), jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(unfinished, again, start)[0]
