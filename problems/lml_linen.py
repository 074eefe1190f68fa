"""`lml` as a layer of flax.linen, which the extra `layers` brings along."""

from typing import Any

import flax.linen as nn
import jax

from kkt_solvers.problems.lml import lml


class LMLLayer(nn.Module):
    """`lml(x, k, axis=axis, where=where, temperature=temperature)`; no weights to train.

    >>> from kkt_solvers.problems.lml_linen import LMLLayer
    >>> LMLLayer(2).apply({}, [2.0, 1.0, 0.0]).tolist()
    [0.859, 0.691, 0.451]
    """

    k: Any
    axis: int = -1
    temperature: Any = 1.0

    def __call__(self, x: Any, where: Any = None) -> jax.Array:
        return lml(x, self.k, axis=self.axis, where=where, temperature=self.temperature)
