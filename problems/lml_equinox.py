"""`lml` as a layer of equinox, which the extra `layers` brings along."""

from typing import Any

import equinox as eqx
import jax

from kkt_solvers.problems.lml import lml


class LMLLayer(eqx.Module):
    """`lml(x, k, axis=axis, where=where, temperature=temperature)`; no weights to train.

    >>> from kkt_solvers.problems.lml_equinox import LMLLayer
    >>> LMLLayer(2)([2.0, 1.0, 0.0]).tolist()
    [0.859, 0.691, 0.451]
    """

    k: Any
    axis: int = eqx.field(static=True, default=-1)
    temperature: Any = 1.0

    def __call__(self, x: Any, where: Any = None) -> jax.Array:
        return lml(x, self.k, axis=self.axis, where=where, temperature=self.temperature)
