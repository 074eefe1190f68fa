"""`lml` as a layer of flax.nnx, which the extra `layers` brings along."""

from typing import Any

import jax
from flax import nnx

from kkt_solvers.problems.lml import lml


class LMLLayer(nnx.Module):
    """`lml(x, k, axis=axis, where=where, temperature=temperature)`; no weights to train.

    >>> from kkt_solvers.problems.lml_nnx import LMLLayer
    >>> LMLLayer(2)([2.0, 1.0, 0.0]).tolist()
    [0.859, 0.691, 0.451]
    """

    def __init__(self, k: Any, axis: int = -1, temperature: Any = 1.0):
        self.k, self.axis, self.temperature = k, axis, temperature

    def __call__(self, x: Any, where: Any = None) -> jax.Array:
        return lml(x, self.k, axis=self.axis, where=where, temperature=self.temperature)
