"""Losses on the limited multi-label projection [amos2019], one value for each row, as in optax.

All of them start from the scores and not from `y`, and are computed from the pair `(log y, log(1 - y))`: they stay
finite, and their gradients alive, where `y` rounds to 0 or 1. Options (`axis`, `where`, `weights`, `temperature`) are
those of `lml`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers.data.entropy import xlogx
from kkt_solvers.numerics.arrays import floating
from kkt_solvers.problems import _checks
from kkt_solvers.problems.lml import log_lml


def lml_loss(x: Any, labels: Any, k: Any, *, axis: int = -1, **options: Any) -> jax.Array:
    """The negative log-likelihood of the true labels, `-sum_j log y[label_j]` with `y = lml(x, k)`.

    Small as soon as the labels are among the k chosen: for one label and k = 1 it resembles the cross-entropy of a
    softmax, for k > 1 it trains top-k accuracy.

    Arguments:
        x, k: as for `lml`.
        labels: integers, of the shape of `x` without `axis`, or with one more axis, the last, for several labels; a
            negative one stands for no label.

    Returns the loss, of the shape of `x` without `axis`. Raises `TypeError` for labels that are not integers and
    `ValueError` where shapes do not fit. A label beyond the axis makes the loss of its row NaN.

    >>> from kkt_solvers.problems import lml_loss
    >>> lml_loss([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]], jax.numpy.array([0, 0]), 1).tolist()
    [0.599, 2.062]
    """
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}; for targets in [0, 1] see the other losses")
    log_y = jnp.moveaxis(log_lml(x, k, axis=axis, **options)[0], axis, -1)
    batch = log_y.shape[:-1]
    if labels.shape != batch and labels.shape[:-1] != batch:
        raise ValueError(f"labels must have shape {batch} or {batch} and one more axis, got {labels.shape}")
    if labels.ndim > len(batch) and labels.shape[-1] == log_y.shape[-1] > 1 and labels.size:
        message = (
            "labels look like one-hot rows: as many as there are scores, all 0 or 1. Pass the labels themselves, "
            "jnp.argmax(labels, -1), or the rows as targets to lml_binary_cross_entropy"
        )
        zero = jnp.zeros((), log_y.dtype)
        log_y = log_y + _checks.where_valid(zero, message, _is_more_than_a_mask, labels)
    several = labels if labels.ndim > len(batch) else labels[..., None]
    chosen = jnp.take_along_axis(log_y, jnp.maximum(several, 0), axis=-1, mode="fill", fill_value=jnp.nan)
    return -jnp.sum(jnp.where(several >= 0, chosen, 0.0), axis=-1)


def lml_binary_cross_entropy(x: Any, targets: Any, k: Any, *, axis: int = -1, **options: Any) -> jax.Array:
    """`-sum_i t_i log y_i + (1 - t_i) log(1 - y_i)` with `y = lml(x, k)`.

    Arguments:
        x, k: as for `lml`.
        targets: like `x`, in [0, 1]. An entry that cannot be chosen counts only where its target is positive.

    >>> from kkt_solvers.problems import lml_binary_cross_entropy
    >>> float(lml_binary_cross_entropy([2.0, 1.0, 0.0], [1.0, 1.0, 0.0], 2))
    1.12
    """
    targets = _targets(x, targets)
    log_y, log_rest = log_lml(x, k, axis=axis, **options)
    return -jnp.sum(_times(targets, log_y) + _times(1 - targets, log_rest), axis=axis)


def lml_fenchel_young_loss(x: Any, targets: Any, k: Any, *, axis: int = -1, **options: Any) -> jax.Array:
    """The Fenchel-Young loss `F(x) + Omega(t) - x't`, with `Omega = -H_b` and `F(x) = max_y x'y - Omega(y)`.

    For targets in the feasible set it is nonnegative, zero only at `t = lml(x, k)`, convex in `x`, and its gradient
    is `lml(x, k) - t` (over the temperature).

    Arguments:
        x, k: as for `lml`.
        targets: like `x`, in [0, 1] with `w't = k`, as a set of k labels has.

    As `F` is `sum softplus(x - nu w) + nu k`, and the terms in nu cancel for such targets, it is the binary
    cross-entropy less the entropy of the targets.

    Source: [blondel2020].

    >>> from kkt_solvers.problems import lml, lml_fenchel_young_loss
    >>> x, t = jnp.array([2.0, 1.0, 0.0]), jnp.array([1.0, 1.0, 0.0])
    >>> jax.grad(lml_fenchel_young_loss)(x, t, 2) - (lml(x, 2) - t)
    Array([0., 0., 0.], dtype=float32)
    """
    targets = _targets(x, targets)
    entropy = -jnp.sum(xlogx(targets) + xlogx(1 - targets), axis=axis)
    return lml_binary_cross_entropy(x, targets, k, axis=axis, **options) - entropy


def _targets(x: Any, targets: Any) -> jax.Array:
    targets = floating(targets, "targets")
    if targets.shape != np.shape(x):
        raise ValueError(f"targets must have the shape of x, {np.shape(x)}, got {targets.shape}")
    message = "targets must lie in [0, 1]; scale them first"
    return _checks.where_valid(targets, message, lambda xp, targets: (targets >= 0) & (targets <= 1))


def _times(weight: jax.Array, logarithm: jax.Array) -> jax.Array:
    """Their product, zero where the weight is, with no infinity on the way back."""
    return jnp.where(weight == 0, 0.0, weight * jnp.where(weight == 0, 0.0, logarithm))


def _is_more_than_a_mask(xp: Any, _: Any, labels: Any) -> Any:
    return xp.any((labels != 0) & (labels != 1))
