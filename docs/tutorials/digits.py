"""
Digits with incomplete and with wrong labels
============================================

An LML output layer beside softmax cross-entropy. Run it with::

    python docs/tutorials/digits.py

A small network learns to read the 8x8 digits that come with scikit-learn, in two tasks:

- two digits: a picture shows two different digits side by side, and its label names one of them, drawn at random. The
  network is to find both, so k = 2.
- wrong labels: a picture shows one digit, and 40 % of the labels were replaced by a random digit. k = 3.

The same network is trained twice, from the same initial weights, on the same batches:

- softmax: the usual cross-entropy. Its probabilities sum to 1, so a label pulls probability away from every other
  digit, whether the picture shows it or not.
- LML: the last layer is the limited multi-label projection ``y = lml(scores, k)``, whose entries lie in [0, 1] and sum
  to k. They are the probabilities with which k labels out of n are chosen, and the loss is ``-log y[label]``: it is
  small as soon as the label is among the k that are chosen. Nothing in it asks for the label to come first.

The layer is a convex optimisation problem, solved for every row of every batch, and ``jax.grad`` goes through it by
way of its optimality conditions. By ``jax.vmap`` all seeds and all learning rates are trained at once.

The table shows the accuracy after the last epoch on test pictures with true and complete labels. Top-1: does the
picture show the digit with the best score? Top-k: how many of its digits are among the k best scores? A seed sets the
split of all images into training, validation and test, the pairs or the noise, the initial weights and the order of
the batches. Each seed, model and accuracy has a learning rate of its own: the best one by that accuracy on validation
pictures, whose labels are as bad as those of the training. So the intervals over the seeds contain the choice of the
rate and of the split. They say what to expect of another split of these images, not of other images.

Measured: with two digits LML is better, by 2.0 points in top-1 and by 2.8 in top-2. With wrong labels softmax is
better in top-1, by 2.3 points, and top-3 shows no clear difference. These four verdicts were the same for the seeds
1000 to 1019 and with other rounding (``XLA_FLAGS=--xla_cpu_enable_fast_math=true``, ``--xla_cpu_max_isa=SSE4_2``).

The layer and this loss: Amos, Koltun & Kolter, "The Limited Multi-Label Projection Layer", arXiv:1906.08707.
"""

import argparse
import functools
import sys
import time
from collections import Counter
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
SPLITS = "train", "validation", "test"  # a third of the 1797 images each
PAIRS = 1000, 3000, 1500  # pictures of two digits in each split
BATCH = 100
LEARNING_RATES = np.array([0.001, 0.003, 0.01, 0.03], np.float32)
CONFIDENCE = 0.99  # of an interval: there are four of them
COLOURS = {"softmax": "#d95f02", "LML": "#1b6ca8"}


class Network(nn.Module):
    """Pixels in, one score for each digit out."""

    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.Dense(64)(images))
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


def thirds(rng):
    """Images and labels of the three splits."""
    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), labels.astype(np.int32)
    order = rng.permutation(len(labels)).reshape(len(SPLITS), -1)
    return [(images[rows], labels[rows]) for rows in order]


def two_digits(seed, noise):
    """Two different digits of the same split side by side; all but the test labels name one of them."""
    del noise
    rng = np.random.default_rng(seed)
    splits = {}
    for name, count, (images, labels) in zip(SPLITS, PAIRS, thirds(rng), strict=True):
        pairs = rng.integers(len(labels), size=(2 * count, 2))
        pairs = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]][:count]
        shown = rng.permuted(labels[pairs], axis=1)
        splits[name] = images[pairs].reshape(count, -1), shown if name == "test" else shown[:, :1]
    return splits


def wrong_labels(seed, noise):
    """One digit; a share `noise` of all but the test labels is replaced at random."""
    rng = np.random.default_rng(seed)
    splits = {}
    for name, (images, labels) in zip(SPLITS, thirds(rng), strict=True):
        replaced = (rng.random(len(labels)) < noise) & (name != "test")
        noisy = np.where(replaced, rng.integers(0, CLASSES, len(labels), np.int32), labels)
        splits[name] = images, noisy[:, None]
    return splits


TASKS = {"two digits": (two_digits, 2), "wrong labels": (wrong_labels, 3)}  # how to make the splits, and k


def start(seed, pixels):
    """Initial weights and optimiser state, one copy for each learning rate."""
    weights = Network().init(jax.random.key(seed), jnp.zeros((1, pixels), jnp.float32))
    state = weights, optax.adam(LEARNING_RATES[0]).init(weights)
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * len(LEARNING_RATES)), state)


def one_epoch(loss, k, state, rate, train, key):
    """One pass over the training split in random batches; returns the new state and the mean loss."""
    optimiser = optax.adam(rate)
    images, labels = train

    def step(state, rows):
        weights, memory = state
        value, slope = jax.value_and_grad(lambda w: loss(Network().apply(w, images[rows]), labels[rows, 0], k))(weights)
        updates, memory = optimiser.update(slope, memory)
        return (optax.apply_updates(weights, updates), memory), value

    batches = jax.random.permutation(key, len(labels))[: len(labels) // BATCH * BATCH].reshape(-1, BATCH)
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
    """Top-1 and top-k accuracy in per cent, each (seeds, learning rates). `y` has the order of the scores: they do."""

    def hits(weights, images, labels):
        best = jax.lax.top_k(Network().apply(weights, images), k)[1]
        found = best[:, :, None] == labels[:, None, :]
        return 100 * jnp.array([found[:, 0].any(axis=-1).mean(), found.any(axis=1).mean()])

    each_seed = jax.vmap(jax.vmap(hits, in_axes=(0, None, None)))
    return jnp.moveaxis(each_seed(states[0], *split), -1, 0)


def train_model(name, k, epochs, seeds, splits):
    """Train one model with every rate, and choose. Returns its test accuracies (2, seeds, epochs), its training time,
    and the weights of the first seed with the rate chosen by top-k."""
    states = jax.vmap(functools.partial(start, pixels=splits["train"][0].shape[-1]))(seeds)
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(1_000_000 + seed), epochs))(seeds)
    step = train_epoch.lower(LOSSES[name], k, states, splits["train"], keys[:, 0]).compile()
    seconds, history = 0.0, []
    progress = tqdm(range(epochs), desc=f"{name:>7}", unit="epoch", file=sys.stdout, disable=None)
    for epoch in progress:
        begin = time.perf_counter()
        states, losses = jax.block_until_ready(step(states, splits["train"], keys[:, epoch]))
        seconds += time.perf_counter() - begin
        history.append(accuracies(k, states, splits["test"]))
        progress.set_postfix(loss=f"{losses.mean():.3f}")

    best = np.argmax(np.asarray(accuracies(k, states, splits["validation"])), axis=-1)  # top-1 and top-k, seeds
    for label, chosen in zip(("top-1", f"top-{k}"), best, strict=True):
        counts = [f"{LEARNING_RATES[rate]:g} ({count}x)" for rate, count in sorted(Counter(chosen).items())]
        print(f"{name:>7}: learning rates chosen by {label}: {', '.join(counts)}")
    accuracy = np.take_along_axis(np.stack(history, axis=-1), best[:, :, None, None], axis=2)[:, :, 0]
    return accuracy, seconds, jax.tree.map(lambda leaf: leaf[0, best[1, 0]], states[0])


def mean_and_error(values):
    """Mean over the seeds (first axis) and its standard error, zero for a single seed."""
    values = np.asarray(values, float)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(values.shape[1:])
    return values.mean(axis=0), error


def show(values):
    """Mean and standard error as text."""
    mean, error = mean_and_error(values)
    return f"{mean:.2f} ± {error:.2f}" if len(values) > 1 else f"{mean:.2f}"


def report(results, k):
    """Print the accuracies on true labels, and what the paired differences of the models show, and no more."""
    print()
    print(f"{'model':<8} | {'top-1 accuracy [%]':>18} | {f'top-{k} accuracy [%]':>18} | {'training [s]':>12}")
    print(f"{'-' * 8}-|-{'-' * 18}-|-{'-' * 18}-|-{'-' * 12}")
    last = {name: accuracy[:, :, -1] for name, (accuracy, _, _) in results.items()}
    for name, (_, seconds, _) in results.items():
        top_1, top_k = last[name]
        print(f"{name:<8} | {show(top_1):>18} | {show(top_k):>18} | {seconds:>12.2f}")
    seeds = last["LML"].shape[1]
    runs = f"{seeds} seed{'s' * (seeds > 1)} x {len(LEARNING_RATES)} learning rates"
    print(f"True test labels; mean ± standard error. The time is that of {runs} together, without compilation.\n")
    for label, values in zip(("top-1", f"top-{k}"), last["LML"] - last["softmax"], strict=True):
        mean, error = mean_and_error(values)
        if seeds == 1:
            print(f"LML minus softmax, {label}: {mean:+.2f} points; one seed cannot say how much of it is chance.")
            continue
        reach = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1) * error
        verdict = "no clear difference" if abs(mean) <= reach else f"LML is {'higher' if mean > 0 else 'lower'}"
        print(f"LML minus softmax, {label}: {mean:+.2f} points, {CONFIDENCE:.0%} interval ±{reach:.2f}: {verdict}.")


def draw_curves(axes, results, which, title):
    """Test accuracy over the epochs, without the steep beginning; the band is one standard error."""
    for name, (accuracy, _, _) in results.items():
        mean, error = mean_and_error(accuracy[which])
        epochs = np.arange(1, len(mean) + 1)[len(mean) // 5 :]
        mean, error = mean[epochs - 1], error[epochs - 1]
        axes.plot(epochs, mean, color=COLOURS[name], label=name, marker="o" if len(mean) == 1 else None)
        axes.fill_between(epochs, mean - error, mean + error, color=COLOURS[name], alpha=0.25, linewidth=0)
    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.3)


def plot(results, ks, images, labels, path):
    """Accuracy over the epochs in both tasks (left), and some test pictures of the first (right)."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.2, 1), wspace=0.04)
    left.suptitle("Test accuracy [%], true labels (band: one standard error)", fontsize=11)
    grid = left.subplots(2, 2, sharex=True)
    for row, (task, models) in zip(grid, results.items(), strict=True):
        draw_curves(row[0], models, 0, f"{task}, top-1")
        draw_curves(row[1], models, 1, f"{task}, top-{ks[task]}")
    grid[0, 0].legend(loc="lower right")
    left.supxlabel("epoch", fontsize=10)

    task, models = next(iter(results.items()))
    scores = {name: Network().apply(weights, images) for name, (_, _, weights) in models.items()}
    outputs = {"softmax": jax.nn.softmax(scores["softmax"]), "LML": lml(scores["LML"], ks[task])}
    right.suptitle("The first test pictures (first seed)", fontsize=11)
    grid = right.subplots(len(images), 2, width_ratios=(1, 1.6))
    for index, (picture, bars) in enumerate(grid):
        picture.imshow(np.hstack(images[index].reshape(-1, 8, 8)), cmap="gray_r")
        picture.set(xlabel=f"true: {' and '.join(map(str, np.sort(labels[index])))}", xticks=[], yticks=[])
        for shift, (name, y) in zip((-0.2, 0.2), outputs.items(), strict=True):
            label = f"{name} (sum {y[index].sum():.0f})"
            bars.bar(np.arange(CLASSES) + shift, y[index], 0.4, color=COLOURS[name], label=label)
        bars.set(xticks=range(CLASSES), ylim=(0, 1.05), ylabel="output", axisbelow=True)
        bars.grid(axis="y", alpha=0.3)
    grid[-1, 1].set_xlabel("digit")
    right.legend(*grid[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=130)
    print(f"Plot saved to {path}")


def main(argv=None):
    """Read the options, train both models in both tasks, print the tables, save the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many repetitions (default 20)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first repetition (default 0)")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training split (default 30)")
    parser.add_argument("--noise", type=float, default=0.4, help="share of wrong labels (default 0.4)")
    parser.add_argument("--k", type=int, choices=range(1, CLASSES), help="labels chosen (default 2 and 3)")
    output = Path(sys.argv[0]).with_suffix(".png")
    parser.add_argument("--output", type=Path, default=output, help="where the plot goes")
    options = parser.parse_args(argv)

    seeds = options.first_seed + np.arange(options.seeds)
    ks = {task: options.k or k for task, (_, k) in TASKS.items()}
    results, pictures = {}, []
    for task, (make_splits, _) in TASKS.items():
        print(f"\n{task}, k = {ks[task]}")
        splits = jax.tree.map(lambda *arrays: np.stack(arrays), *[make_splits(seed, options.noise) for seed in seeds])
        results[task] = {name: train_model(name, ks[task], options.epochs, seeds, splits) for name in LOSSES}
        report(results[task], ks[task])
        pictures.append([array[0, :3] for array in splits["test"]])
    plot(results, ks, *pictures[0], options.output)


if __name__ == "__main__":
    main()
