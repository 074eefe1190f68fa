"""Iterative refinement of linear systems with an approximate inverse."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers.data.matrix import Product
from kkt_solvers.numerics.arrays import tree_where, where

_GOING, _LAST, _OVER = np.arange(3, dtype=np.int32)  # conjugate residuals, the plain step at the end, none


def refined(
    inverse: Product,
    product: Product,
    b: jax.Array,
    weights: jax.Array,
    accuracy: float,
    *,
    room: int = 12,
) -> jax.Array:
    """`x` with `product(x) = b`, to a residual of `accuracy` times `b`, both in the norm `|weights v|`.

    The method is generalised conjugate residuals: steps are combined so that the residual is smallest. A direction in
    which `inverse` is inaccurate takes about one step. At most `room` steps are taken.

    A norm does not see the errors of small parts of `x` beside large parts. So a last step of plain refinement follows,
    after which each part has the rounding of its own terms. (Weights that make the equality count 1e5 times as
    much do the same for `dy`, but cost two digits in float64, and four in float32.)
    """
    b = weights * b

    def norm(v: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.vdot(v, v))

    def again(state: Any) -> Any:
        x, rest, steps, images, now, count, stage = state
        last = stage == _LAST
        step = inverse(rest / weights)
        image = weights * product(step)
        common = where(last, 0.0, images @ image)
        step, image = step - common @ steps, image - common @ images
        # The image of a null direction (dependent rows) is rounding: no step along it.
        size = norm(image)
        part = where(size > jnp.finfo(b.dtype).eps * norm(step / weights), 1 / size, 0.0)
        step, image = part * step, part * image
        following = x + where(last, size, jnp.vdot(image, rest)) * step
        after = b - weights * product(following)
        left = norm(after)
        # Once the residual is rounding, a further step can raise it.
        keep = (left < now) | (count == 0) | (last & (left <= 2 * now))
        steps, images = (jnp.concatenate([old[1:], new[None]]) for old, new in ((steps, step), (images, image)))
        going = (stage == _GOING) & (left > small) & (left < now) & (count + 1 < room)
        stage = where(going, _GOING, where(last, _OVER, _LAST))
        return *tree_where(keep, (following, after), (x, rest)), steps, images, where(keep, left, now), count + 1, stage

    size, none = norm(b), jnp.zeros((room, b.size), b.dtype)
    small = accuracy * size
    start = jnp.zeros_like(b), b, none, none, size, jnp.zeros((), jnp.int32), jnp.full((), _GOING)
    return jax.lax.while_loop(lambda state: state[-1] != _OVER, again, start)[0]
