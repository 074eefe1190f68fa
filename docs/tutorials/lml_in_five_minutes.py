"""
LML in five minutes
===================

A softmax turns scores into the probabilities of choosing *one* of n things. The limited multi-label projection (LML)
turns scores into the probabilities of choosing *k* of them: each entry lies between 0 and 1, and they sum to k.

.. code-block:: text

    y = argmin  -x'y - H(y)     subject to   sum y = k,   0 < y < 1

``H`` is the binary entropy. That is a convex problem, solved for every row of every batch; ``jax.grad`` goes through
it. You need not know how.
"""

# %%
# Three lines
# -----------
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import kkt_solvers as kkt
from kkt_solvers.problems import LML, lml, log_lml

scores = jnp.array([2.0, 1.0, 0.5, -0.5, -2.0])
y = lml(scores, 2)
print(y, "sum", y.sum())

# %%
# Here is the same row of scores for several k, beside its softmax. As k grows every entry grows, the best ones first;
# none can pass 1. A softmax, multiplied by k, would.
figure, axes = plt.subplots(1, 5, figsize=(11, 2.6), sharey=True, layout="constrained")
axes[0].bar(range(5), jax.nn.softmax(scores), color="#d95f02")
axes[0].set_title("softmax: sum 1")
for k, ax in zip((1, 2, 3, 4), axes[1:], strict=True):
    ax.bar(range(5), lml(scores, k), color="#1b6ca8")
    ax.set_title(f"LML, k = {k}")
for ax in axes:
    ax.axhline(1, color="#bbbbbb", linestyle="--", linewidth=1, zorder=0)
    ax.set_xticks(range(5))
    ax.set_xlabel("thing")
plt.show()

# %%
# A gradient
# ----------
# A loss for "the label should be among the chosen ones" is ``-log y[label]``. Its gradient says: raise the score of the
# label, lower those of its rivals, most of all those that compete for the last place. ``log_lml`` is the logarithm
# without underflow, as ``log_softmax`` is that of softmax.
label = 3


def loss(scores):
    chosen, _ = log_lml(scores, 2)  # log y and log(1 - y)
    return -chosen[label]


slope = jax.grad(loss)(scores)
print(slope)

# A finite difference agrees.
step = 1e-2 * jnp.eye(5)
difference = jnp.array([(loss(scores + s) - loss(scores - s)) / 2e-2 for s in step])
np.testing.assert_allclose(slope, difference, atol=1e-3)

# %%
# Batches, and k as data
# ----------------------
# Leading axes are a batch. ``k`` may be a number, or one for each row; it need not be whole, and it has a derivative
# too: how much each probability gains when there is room for a little more.
batch = jnp.stack([scores, -scores, 0 * scores])
rows = lml(batch, jnp.array([1.0, 2.0, 2.5]))
print(rows.sum(axis=-1))

gain = jax.jacobian(lambda k: lml(scores, k))(2.0)
print(gain, "sum", gain.sum())

# %%
# What the numbers mean
# ---------------------
# The solution is ``y = sigmoid(x - nu)``: every score is compared with one threshold ``nu``, and the threshold is where
# the sum is k. It is the multiplier of the sum. Those who want it solve the problem itself.
solution = kkt.solve(LML(scores, 2))
threshold = solution.dual.equality
np.testing.assert_allclose(solution.primal, jax.nn.sigmoid(scores - threshold), atol=1e-6)
print("threshold", threshold, kkt.Status(int(solution.status)).name)

# %%
# Now move one score from low to high. It takes its place among the chosen, and the others make room: the threshold,
# below, is pushed up.
sweep = jnp.linspace(-4, 5, 200)
moved = jnp.tile(scores, (200, 1)).at[:, 3].set(sweep)
solutions = jax.vmap(lambda x: kkt.solve(LML(x, 2)))(moved)

figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True, height_ratios=(2, 1), layout="constrained")
for index, name in enumerate(["score 2", "score 1", "score 0.5", "the one that moves", "score -2"]):
    top.plot(sweep, solutions.primal[:, index], linewidth=3 if index == 3 else 1.5, label=name)
top.set_ylabel("y")
bottom.plot(sweep, solutions.dual.equality, color="#444444")
bottom.set_ylabel("threshold nu")
bottom.set_xlabel("score of the one that moves")
figure.legend(loc="outside right upper", fontsize=8)
plt.show()

# %%
# Where next
# ----------
# ``digits.py``, the last tutorial, trains a classifier with this layer; ``subset.py`` chooses features with it. As a
# layer of a network it is ``LMLLayer`` in ``kkt_solvers.problems.lml_linen``, ``lml_nnx`` (flax) and ``lml_equinox``.
# Ready losses and hard choices are in :doc:`/reference/kkt_solvers.problems`. The layer is from
# `Amos, Koltun & Kolter <https://arxiv.org/abs/1906.08707>`__. The next page states a problem of your own.
