"""
Handwritten digits with wrong labels
====================================

An LML output layer beside softmax cross-entropy. Run it with::

    python docs/tutorials/digits.py

A small network learns to read the 8x8 digits that come with scikit-learn, from training labels of which 40 % were
replaced by a random digit. The same network is trained twice, from the same initial weights, on the same batches:

- softmax: the usual cross-entropy. Its probabilities sum to 1, so every wrong label pulls probability away from the
  digit that is really there.
- LML: the last layer is the limited multi-label projection ``y = lml(scores, k)``, whose entries lie in [0, 1] and sum
  to k. They are the probabilities with which k labels out of n are chosen, and the loss is ``-log y[label]``: it is
  small as soon as the label is among the k that are chosen. The model is trained for top-k accuracy; nothing in its
  loss asks for the right label to come first.

The layer is a convex optimisation problem, solved for every row of every batch. ``jax.grad`` goes through it by way
of its optimality conditions, and ``jax.jit`` and ``jax.vmap`` treat it like any other function: below, all seeds and
all learning rates are trained at once.

Each model gets the same learning rates to choose from, and takes the one with the best top-k accuracy, averaged over
the seeds, on validation splits whose labels are as noisy as those of the training splits. What is reported is the
accuracy after the last epoch on test images with clean labels, as the mean over seeds and its standard error. The
test images are the same for every seed; a seed sets the noise, the split of all other images into training and
validation, the initial weights and the order of the batches.

The layer and this loss: Amos, Koltun & Kolter, "The Limited Multi-Label Projection Layer", arXiv:1906.08707.
"""

import argparse
import functools
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats
from sklearn.datasets import load_digits
from tqdm import tqdm

from kkt_solvers.problems import lml

CLASSES = 10
TRAIN, VALIDATION = 900, 360  # of 1797 images; the last 537 are for the test
BATCH = 50
LEARNING_RATES = np.array([0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01], np.float32)
COLOURS = {"softmax": "#d95f02", "LML": "#1b6ca8"}


class Network(nn.Module):
    """64 pixels in, one score for each digit out."""

    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.Dense(128)(images))
        return nn.Dense(CLASSES)(hidden)


def softmax_loss(scores, labels, k):
    """The baseline, which knows nothing of k."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels))


def lml_loss(scores, labels, k):
    """Minus the log-probability that the label is among the k chosen ones."""
    y = lml(scores, k)
    chosen = jnp.take_along_axis(y, labels[:, None], axis=-1)
    return -jnp.mean(jnp.log(jnp.clip(chosen, 1e-12)))


LOSSES = {"softmax": softmax_loss, "LML": lml_loss}


def make_splits(seed, noise):
    """Images and labels of the three splits; a share `noise` of all but the test labels is replaced at random."""
    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), labels.astype(np.int32)
    rng = np.random.default_rng(seed)
    replaced = rng.random(len(labels)) < noise
    noisy = np.where(replaced, rng.integers(0, CLASSES, len(labels), np.int32), labels)
    order = rng.permutation(TRAIN + VALIDATION)
    train, validation, test = order[:TRAIN], order[TRAIN:], slice(TRAIN + VALIDATION, None)
    return {
        "train": (images[train], noisy[train]),
        "validation": (images[validation], noisy[validation]),
        "test": (images[test], labels[test]),
    }


def start(seed):
    """Initial weights and optimiser state, one copy for each learning rate."""
    weights = Network().init(jax.random.key(seed), jnp.zeros((1, 64), jnp.float32))
    state = weights, optax.adam(LEARNING_RATES[0]).init(weights)
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * len(LEARNING_RATES)), state)


def one_epoch(loss, k, state, rate, train, key):
    """One pass over the training split in random batches; returns the new state and the mean loss."""
    optimiser = optax.adam(rate)
    images, labels = train

    def step(state, rows):
        weights, memory = state
        value, slope = jax.value_and_grad(lambda w: loss(Network().apply(w, images[rows]), labels[rows], k))(weights)
        updates, memory = optimiser.update(slope, memory)
        return (optax.apply_updates(weights, updates), memory), value

    batches = jax.random.permutation(key, len(labels)).reshape(-1, BATCH)
    state, losses = jax.lax.scan(step, state, batches)
    return state, losses.mean()


@functools.partial(jax.jit, static_argnames=("loss", "k"))
def train_epoch(loss, k, states, train, keys):
    """`one_epoch` for every seed (first axis) and every learning rate (second axis) at once."""
    each_rate = jax.vmap(functools.partial(one_epoch, loss, k), in_axes=(0, 0, None, None))
    each_seed = jax.vmap(each_rate, in_axes=(0, None, 0, 0))
    return each_seed(states, LEARNING_RATES, train, keys)


@functools.partial(jax.jit, static_argnames="k")
def accuracies(k, states, split):
    """Top-1 and top-k accuracy in per cent, each of shape (seeds, learning rates).

    `y = lml(scores, k)` is in the order of the scores, so that both models are judged by their scores alone.
    """

    def hits(weights, images, labels):
        best = jax.lax.top_k(Network().apply(weights, images), k)[1] == labels[:, None]
        return 100 * jnp.array([best[:, 0].mean(), best.any(axis=-1).mean()])

    each_seed = jax.vmap(jax.vmap(hits, in_axes=(0, None, None)))
    return jnp.moveaxis(each_seed(states[0], *split), -1, 0)


def train_model(name, k, epochs, seeds, splits):
    """Train one model; returns its chosen weights, its test accuracies (2, seeds, epochs) and its training time."""
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[start(seed) for seed in range(seeds)])
    base_keys = [jax.random.key(1000 + seed) for seed in range(seeds)]

    def keys(epoch):
        return jnp.stack([jax.random.fold_in(key, epoch) for key in base_keys])

    step = train_epoch.lower(LOSSES[name], k, states, splits["train"], keys(0)).compile()
    seconds, history = 0.0, []
    progress = tqdm(range(epochs), desc=f"{name:>7}", unit="epoch", file=sys.stdout, disable=None)
    for epoch in progress:
        epoch_keys = keys(epoch)
        begin = time.perf_counter()
        states, losses = jax.block_until_ready(step(states, splits["train"], epoch_keys))
        seconds += time.perf_counter() - begin
        history.append(accuracies(k, states, splits["test"]))
        progress.set_postfix(loss=f"{losses.mean():.3f}")

    best = int(np.argmax(accuracies(k, states, splits["validation"])[1].mean(axis=0)))
    print(f"{name:>7}: chose the learning rate {LEARNING_RATES[best]:g}")
    weights = jax.tree.map(lambda leaf: leaf[:, best], states[0])
    return weights, np.stack(history, axis=-1)[:, :, best], seconds


def mean_and_error(values):
    """Mean over the seeds (first axis) and its standard error, zero for a single seed."""
    values = np.asarray(values, float)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(values.shape[1:])
    return values.mean(axis=0), error


def show(values):
    """Mean and standard error as text."""
    mean, error = mean_and_error(values)
    return f"{mean:.2f} ± {error:.2f}" if len(values) > 1 else f"{mean:.2f}"


def print_table(results, k, seeds):
    """Print the accuracies on clean test labels."""
    print()
    print(f"{'model':<8} | {'top-1 accuracy [%]':>18} | {f'top-{k} accuracy [%]':>18} | {'training [s]':>12}")
    print(f"{'-' * 8}-|-{'-' * 18}-|-{'-' * 18}-|-{'-' * 12}")
    for name, (_, (top_1, top_k), seconds) in results.items():
        print(f"{name:<8} | {show(top_1[:, -1]):>18} | {show(top_k[:, -1]):>18} | {seconds:>12.2f}")
    runs = f"{seeds} seed{'s' * (seeds > 1)} x {len(LEARNING_RATES)} learning rates"
    print(f"Clean test labels; mean ± standard error. The time is that of {runs} together, without compilation.")
    print()


def print_comparison(results, k):
    """Say what the paired differences between the two models show, and no more."""
    differences = results["LML"][1][:, :, -1] - results["softmax"][1][:, :, -1]
    for label, values in zip(("top-1", f"top-{k}"), differences, strict=True):
        mean, error = mean_and_error(values)
        if len(values) == 1:
            print(f"LML minus softmax, {label}: {mean:+.2f} points; one seed cannot say how much of it is chance.")
            continue
        reach = stats.t.ppf(0.975, len(values) - 1) * error
        verdict = "no clear difference" if abs(mean) <= reach else f"LML is {'higher' if mean > 0 else 'lower'}"
        print(f"LML minus softmax, {label}: {mean:+.2f} points, 95 % interval ±{reach:.2f}: {verdict}.")


def draw_curves(axes, results, which, label):
    """Test accuracy over the epochs, without the steep beginning; the band is one standard error."""
    lowest = 99.0
    for name, (_, accuracy, _) in results.items():
        mean, error = mean_and_error(accuracy[which])
        epochs = np.arange(1, len(mean) + 1)
        axes.plot(epochs, mean, color=COLOURS[name], label=name, marker="o" if len(mean) == 1 else None)
        axes.fill_between(epochs, mean - error, mean + error, color=COLOURS[name], alpha=0.25, linewidth=0)
        lowest = min(lowest, np.min((mean - error)[len(mean) // 8 :]))
    axes.set_ylim(lowest - 0.1 * (100 - lowest), 100)
    axes.set_ylabel(f"test {label} [%]")
    axes.grid(alpha=0.3)


def draw_digit(picture, bars, image, label, outputs, k):
    """One image, and what either model says about it."""
    picture.imshow(image.reshape(8, 8), cmap="gray_r")
    picture.set_xlabel(f"true label: {label}")
    picture.set_xticks([])
    picture.set_yticks([])
    for shift, total, name in ((-0.2, 1, "softmax"), (0.2, k, "LML")):
        legend = f"{name} (sum {total})"
        bars.bar(np.arange(CLASSES) + shift, outputs[name], 0.4, color=COLOURS[name], label=legend)
    bars.set_xticks(range(CLASSES))
    bars.set_ylim(0, 1.05)
    bars.set_ylabel("output")
    bars.grid(axis="y", alpha=0.3)
    bars.set_axisbelow(True)


def plot(results, k, splits, path):
    """Accuracy over the epochs (left), and the test images of which softmax is least sure (right)."""
    images, labels = (array[0] for array in splits["test"])
    scores = {}
    for name, (weights, _, _) in results.items():
        scores[name] = Network().apply(jax.tree.map(lambda leaf: leaf[0], weights), images)
    outputs = {"softmax": jax.nn.softmax(scores["softmax"]), "LML": lml(scores["LML"], k)}
    entropy = -jnp.sum(outputs["softmax"] * jax.nn.log_softmax(scores["softmax"]), axis=-1)
    unsure = np.argsort(-entropy)[:3]

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.2), wspace=0.04)
    left.suptitle("Test accuracy, clean labels (band: one standard error)", fontsize=11)
    top, bottom = left.subplots(2, 1, sharex=True)
    draw_curves(top, results, 0, "top-1")
    draw_curves(bottom, results, 1, f"top-{k}")
    top.legend(loc="best")
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    left.align_ylabels()

    right.suptitle("The three test images of which softmax is least sure (first seed)", fontsize=11)
    grid = right.subplots(3, 2, width_ratios=(1, 2.6))
    for (picture, bars), index in zip(grid, unsure, strict=True):
        draw_digit(picture, bars, images[index], labels[index], {name: y[index] for name, y in outputs.items()}, k)
    grid[-1, 1].set_xlabel("digit")
    handles, names = grid[0, 1].get_legend_handles_labels()
    right.legend(handles, names, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=130)
    print(f"Plot saved to {path}")


def main(argv=None):
    """Read the options, train both models, print the table, save the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many repetitions (default 5)")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training split (default 60)")
    parser.add_argument("--noise", type=float, default=0.4, help="share of the labels replaced (default 0.4)")
    parser.add_argument("--k", type=int, default=5, choices=range(1, CLASSES), help="labels chosen (default 5)")
    parser.add_argument(
        "--output", type=Path, default=Path(sys.argv[0]).with_suffix(".png"), help="where the plot goes"
    )
    options = parser.parse_args(argv)

    repetitions = [make_splits(seed, options.noise) for seed in range(options.seeds)]
    splits = jax.tree.map(lambda *arrays: np.stack(arrays), *repetitions)
    results = {name: train_model(name, options.k, options.epochs, options.seeds, splits) for name in LOSSES}
    print_table(results, options.k, options.seeds)
    print_comparison(results, options.k)
    plot(results, options.k, splits, options.output)


if __name__ == "__main__":
    main()
