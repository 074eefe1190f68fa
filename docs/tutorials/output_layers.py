"""
Softmax, sparsemax, capped softmax, LML: which output layer?
============================================================

My network has ten scores. What should it make of them? A softmax is never zero, may put all on one entry, and sums to
one. Each of the layers below is the solution of a small convex problem that changes one of these. Here they are side by
side on one task.
"""

# %%
# The layers
# ----------
# .. list-table::
#    :header-rows: 1
#
#    * - layer
#      - sum
#      - entries
#      - take it for
#    * - softmax
#      - 1
#      - positive
#      - probabilities of one label
#    * - sparsemax
#      - 1
#      - many are exactly zero
#      - a list of candidates, shorter the surer it is
#    * - capped softmax
#      - 1
#      - positive, at most a cap
#      - attention or shares of which none may be too large
#    * - LML
#      - k
#      - between 0 and 1
#      - the probability of each label, where k labels are right
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

from kkt_solvers.problems import entropic_top_k, lml, sparsemax


def capped_softmax(x, cap):
    """The softmax of which no entry is above ``cap``: ``min(c exp(x), cap)``, with sum one."""
    return cap * entropic_top_k(x, 1 / cap)


def half_capped_softmax(x):
    return capped_softmax(x, 0.5)


def two_labels(x):
    return lml(x, 2)


LAYERS = {  # and the sum of its answer
    "softmax": (jax.nn.softmax, 1),
    "sparsemax": (sparsemax, 1),
    "softmax, cap 1/2": (half_capped_softmax, 1),
    "LML, k = 2": (two_labels, 2),
}

# %%
# The task
# --------
# Which two digits are in the picture? The digits of scikit-learn, two of them laid over each other so that the darker
# pixel shows. Training pictures are made of 1000 images, the 4000 test pictures of the other 797. A picture has two
# labels, so a layer with sum one should come to a half for each.
SEEDS, BATCH, STEPS, CLASSES = 5, 80, 300, 10
digits, labels = load_digits(return_X_y=True)
digits = (digits / 16).astype(np.float32)
for_training, for_test = np.split(np.random.default_rng(0).permutation(len(labels)), [1000])


def pictures(images, count):
    """So many pictures of two different digits, and their labels as rows with two ones."""
    pairs = np.random.default_rng(1).choice(images, size=(2 * count, 2))
    pairs = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]][:count]
    return digits[pairs].max(axis=1), np.eye(CLASSES, dtype=np.float32)[labels[pairs]].sum(axis=1)


train, test = pictures(for_training, 4000), pictures(for_test, 4000)

# %%
# The same loss for all
# ---------------------
# Each layer is the ``argmax`` of ``x'y - Omega(y)`` over a set, with the scores ``x`` and an entropy or a square for
# ``Omega``. How much lower than this maximum is the value at the truth ``t``? That is a loss: never negative, zero only
# where the answer is the truth, convex in the scores. It is called the Fenchel-Young loss; for the softmax it is the
# cross-entropy, and for LML ``lml_fenchel_young_loss``. Its gradient in the scores is ``answer - t``, and that is all
# that training needs. (Where a layer is not the last one, ``jax.grad`` goes through it.)
OPTIMISER = optax.adam(0.01)


def network(weights, images):
    A, a, B, b = weights
    return jax.nn.relu(images @ A + a) @ B + b


networks = jax.jit(jax.vmap(network))  # one for each seed


@jax.jit
def update(weights, memory, images, slope):
    """A step for all seeds, given the gradient in the scores."""
    changes, memory = OPTIMISER.update(jax.vjp(lambda weights: networks(weights, images), weights)[1](slope)[0], memory)
    return optax.apply_updates(weights, changes), memory


def answers(layer, total):
    """Train with a layer, for each seed, and return its answers to the test pictures, scaled to a sum of one."""
    rng, layer = np.random.default_rng(2), jax.jit(layer)
    shapes = [(64, 64), (64,), (64, CLASSES), (CLASSES,)]
    weights = [jnp.asarray(rng.normal(size=(SEEDS, *shape)) / 8, jnp.float32) for shape in shapes]
    memory = OPTIMISER.init(weights)
    for _ in range(STEPS):
        rows = rng.integers(0, len(train[0]), (SEEDS, BATCH))
        images, truth = train[0][rows], train[1][rows]
        slope = (layer(networks(weights, images)) - total / 2 * truth) / BATCH
        weights, memory = update(weights, memory, images, slope)
    batches = test[0].reshape(-1, 1, BATCH, 64).repeat(SEEDS, axis=1)
    return np.concatenate([layer(networks(weights, images)) for images in batches], axis=1) / total


# %%
# What came of it
# ---------------
# The same network, seeds, batches and learning rate for each, and nothing tuned for any. All figures are of test
# pictures: means over the seeds, with the standard error over the seeds. The answers of LML are halved, so that they
# compare.
truth = test[1]


def figures(y):
    best = np.argsort(-y, axis=-1)[..., :2]
    return {
        "both right": np.mean(np.take_along_axis(truth[None], best, axis=-1).sum(axis=-1) == 2, axis=1),
        "distance": np.mean(np.sum((y - truth / 2) ** 2, axis=-1), axis=1),
        "nonzero": np.mean(np.sum(y > 0, axis=-1), axis=1),
        "label lost": np.mean(np.any((y == 0) & (truth == 1), axis=-1), axis=1),
        "above half": np.mean(np.max(y, axis=-1) > 0.5001, axis=1),
    }


y = {name: answers(*layer) for name, layer in LAYERS.items()}
table = {name: figures(values) for name, values in y.items()}
print(" " * 16, *(f"{column:>16}" for column in table["softmax"]))
for name, row in table.items():
    cells = [f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(SEEDS):.3f}" for values in row.values()]
    print(f"{name:16}", *(f"{cell:>16}" for cell in cells))

mean = {name: {column: values.mean() for column, values in row.items()} for name, row in table.items()}
assert np.ptp([row["both right"] for row in mean.values()]) < 0.08
assert mean["softmax"]["distance"] > 0.17
assert max(mean["softmax, cap 1/2"]["distance"], mean["LML, k = 2"]["distance"]) < 0.16
assert 3 < mean["sparsemax"]["nonzero"] < 6
assert 0.02 < mean["sparsemax"]["label lost"] < 0.12
assert mean["softmax"]["above half"] > 0.4
assert mean["softmax, cap 1/2"]["above half"] == 0

# %%
# - *both right*: the two largest entries are the two labels. Here the layers do not differ clearly. None of them makes
#   the network see better.
# - *distance*: the squared distance of the answer from a half for each label. The cap and LML know that no label
#   deserves more than a half, and come nearer than the softmax, which is above that on about half of all pictures
#   (*above half*).
# - *nonzero*: the sparsemax leaves four or five candidates of ten. The price is that on some pictures a true label is
#   among the zeros (*label lost*).
names = list(LAYERS)
shown = np.argsort(np.abs(y["softmax"][0].max(axis=1) - 0.8))[:3]
figure, axes = plt.subplots(3, 2, figsize=(9.5, 6), width_ratios=(1, 4), layout="constrained")
for (picture, bars), row in zip(axes, shown, strict=True):
    picture.imshow(test[0][row].reshape(8, 8), cmap="gray_r")
    picture.set_xlabel(" and ".join(str(label) for label in np.flatnonzero(truth[row])))
    picture.set_xticks([])
    picture.set_yticks([])
    for shift, (name, colour) in enumerate(zip(names, ["#d95f02", "#7a7a7a", "#66a61e", "#1b6ca8"], strict=True)):
        bars.bar(np.arange(CLASSES) + 0.2 * shift - 0.3, y[name][0, row], 0.2, color=colour, label=name)
    bars.axhline(0.5, color="0.7", linewidth=1)
    bars.set_xticks(range(CLASSES))
    bars.set_ylabel("answer")
axes[0, 1].legend(fontsize=8, loc="upper right")
plt.show()

# %%
# Mistakes
# --------
# A cap of 5 % on ten entries: they cannot sum to one. The message counts in shares of the cap, 1 / 0.05 = 20.
try:
    capped_softmax(jnp.zeros(CLASSES), 0.05)
except ValueError as error:
    message = str(error)
print(message)
assert message == "k must lie between 0 and the number of scores, 10; got 20.0"

# %%
# And the loss ``-log(answer[label])``, which every softmax has, after a sparsemax: wherever a label is lost it is
# infinite, with a gradient of NaN or, if somebody adds 1e-9 to the answer, of zero.

# %%
# What to copy
# ------------
# ::
#
#     y = sparsemax(x)                                # sum one, many zeros
#     y = cap * entropic_top_k(x, 1 / cap)            # sum one, none above cap
#     y = projections.entropic(jax.nn.softmax(x), 1.0, upper=caps)    # a cap for each entry
#     y = lml(x, k)                                   # sum k, none above one
#
#     slope = y - t                                   # of the Fenchel-Young loss of each, in x
#     loss = jnp.sum(jax.lax.stop_gradient(y - t) * x)    # whose jax.grad is that
#
# ``t`` is the truth, with the sum of ``y`` and within its bounds. In the middle of a network take any loss:
# ``jax.grad`` goes through all four.
