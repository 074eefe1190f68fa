"""
A quadratic program as a layer
==============================

Can a network learn rules that nobody writes down, and then keep them on questions it has never seen? A quadratic
program whose constraints are parameters can (OptNet, `Amos & Kolter 2017 <https://arxiv.org/abs/1703.00443>`_). Their
test was the sudoku of 4 x 4 cells, and it is ours: the layer sees puzzles with their answers, and is told of no row,
column, box or digit. :doc:`learned_limits` learns constraints that one can draw, and meets programs without a solution.
"""

# %%
# The puzzles
# -----------
# There are 288 filled grids. Half of them make the training set. The other half is never seen, not even with other
# cells given: those puzzles ask whether the *rules* were learned, rather than the grids. Every puzzle has one answer.
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import kkt_solvers as kkt

BATCH, STEPS, CELLS, ROWS = 32, 300, 16, 40
rng = np.random.default_rng(0)


def filled_grids():
    """All grids, of shape (288, 16), with digits from 0 to 3."""
    lines = np.array(list(itertools.permutations(range(4))))
    bands = np.array(list(itertools.product(lines, lines)))  # two lines, one above the other
    boxes = np.sort(bands.reshape(-1, 2, 2, 2).swapaxes(1, 2).reshape(-1, 2, 4))
    bands = bands[(boxes == np.arange(4)).all(axis=(1, 2))]
    grids = np.array([np.concatenate(pair) for pair in itertools.product(bands, bands)])
    return grids[(np.sort(grids, axis=1) == np.arange(4)[:, None]).all(axis=(1, 2))].reshape(-1, CELLS)


def puzzles(some, count):
    """Puzzles and answers of shape (count, 64): a one for the digit of a cell, zeros for a cell that is not given."""
    questions, answers = [], []
    while len(questions) < count:
        answer = some[rng.integers(len(some))]
        given = rng.permutation(CELLS) < rng.integers(5, 11)
        if (grids[:, given] == answer[given]).all(axis=1).sum() == 1:
            ones = np.eye(4, dtype=np.float32)[answer]
            questions.append((ones * given[:, None]).ravel())
            answers.append(ones.ravel())
    return jnp.array(questions), jnp.array(answers)


grids = rng.permutation(filled_grids())
assert grids.shape == (288, CELLS)
train, seen, unseen = puzzles(grids[:144], 1000), puzzles(grids[:144], 320), puzzles(grids[144:], 320)

# %%
# The layer
# ---------
# The puzzle is the linear term, and what is learned are the rules ``A z = b``:
#
# .. math:: \min_z \tfrac{0.1}{2} |z|^2 - puzzle \cdot z \quad \text{s.t.} \quad A z = A z_0,\ z \ge 0
#
# ``b = A z0`` with a learned ``z0`` is OptNet's device against programs without a solution: while ``z0`` is positive it
# satisfies the constraints. For inequalities write ``h = G z0 + softplus(s)``. If rows of a batch can be infeasible all
# the same, as with constraints that come with the data, :doc:`/faq` says how to leave them out.
#
# The 0.1 makes the answer unique, and lets it move smoothly with ``A``: the solution of a linear program sits in a
# vertex and hardly moves.


def rules(weights, puzzle):
    """One program; its ``primal`` has a number for each digit of each cell."""
    A, z0 = weights
    objective = kkt.Quadratic(jnp.full(4 * CELLS, 0.1), -puzzle)
    return kkt.solve(kkt.Problem(objective, kkt.Affine(A, A @ z0), kkt.Box(0.0)))


def layer(weights, puzzles):
    return jax.vmap(rules, in_axes=(None, 0))(weights, puzzles)


# %%
# Training
# --------
# Compiling takes longer than solving here, so keep the number of programs small: one ``jax.jit`` around the whole step,
# and functions at module level. The step returns the answers as well as the new weights, so that the same compiled
# program serves the test. Give the starting values a dtype: ``jnp.full(64, 0.25)`` is weakly typed, the updated weights
# are not, and the whole step would be compiled twice.


def loss(weights, puzzles, answers):
    solution = layer(weights, puzzles)
    return jnp.mean(jnp.sum((solution.primal - answers) ** 2, axis=1)), solution


@jax.jit
def step(weights, memory, puzzles, answers):
    (value, solution), slope = jax.value_and_grad(loss, has_aux=True)(weights, puzzles, answers)
    update, memory = optimiser.update(slope, memory)
    return optax.apply_updates(weights, update), memory, value, solution


def batches(data, size):
    return zip(*(part.reshape(-1, size, 4 * CELLS) for part in data), strict=True)


def answered(weights, data):
    """What the layer makes of puzzles, a batch at a time."""
    return jnp.concatenate([step(weights, memory, *batch)[3].primal for batch in batches(data, BATCH)])


optimiser = optax.adam(optax.linear_schedule(0.03, 0.0, STEPS // 2, STEPS // 2))
start = jnp.asarray(rng.normal(size=(ROWS, 4 * CELLS)) / 8, jnp.float32), jnp.full(4 * CELLS, 0.25, jnp.float32)
weights, memory, values = start, optimiser.init(start), []
for _ in range(STEPS):
    chosen = rng.integers(0, 1000, BATCH)
    weights, memory, value, solution = step(weights, memory, train[0][chosen], train[1][chosen])
    assert (solution.status == kkt.Status.SOLVED).all()
    values.append(float(value))

# %%
# The same by a plain network
# ---------------------------
# Two hidden layers of 128, ten times the parameters, with ten times the steps on four times the batch. The learning
# rate of the layer is the best of a few that we tried; the plain network was not tuned, and is not regularised.


class Dense(nn.Module):
    @nn.compact
    def __call__(self, puzzles):
        hidden = nn.relu(nn.Dense(128)(puzzles))
        return nn.Dense(4 * CELLS)(nn.relu(nn.Dense(128)(hidden)))


def dense_loss(weights, puzzles, answers):
    guess = jax.nn.log_softmax(Dense().apply(weights, puzzles).reshape(-1, CELLS, 4))
    return -jnp.mean(jnp.sum(guess * answers.reshape(-1, CELLS, 4), axis=(1, 2)))


@jax.jit
def fit(weights, order):
    def step(state, chosen):
        weights, memory = state
        value, slope = jax.value_and_grad(dense_loss)(weights, train[0][chosen], train[1][chosen])
        update, memory = dense_optimiser.update(slope, memory)
        return (optax.apply_updates(weights, update), memory), value

    return jax.lax.scan(step, (weights, dense_optimiser.init(weights)), order)


dense_optimiser = optax.adam(1e-3)
(dense, _), dense_values = fit(
    Dense().init(jax.random.key(0), train[0]), jnp.asarray(rng.integers(0, 1000, (3000, 4 * BATCH)))
)

# %%
# What came of it
# ---------------
# A puzzle counts as solved if all 16 cells are right, the largest of the four numbers of a cell being its digit. The
# plain network has learned its examples by heart: it solves all of them, and few of the others. The layer misses some
# examples, and keeps most of its score where the grid is new.


def solved(z, answers):
    z, answers = (part.reshape(-1, CELLS, 4).argmax(axis=2) for part in (z, answers))
    return float((z == answers).all(axis=1).mean())


scores = {}
for name, data in {"training": (train[0][:320], train[1][:320]), "seen grids": seen, "unseen grids": unseen}.items():
    scores[name] = solved(answered(weights, data), data[1]), solved(Dense().apply(dense, data[0]), data[1])
    print(f"{name:13} layer {scores[name][0]:4.0%}   plain network {scores[name][1]:4.0%}")

# %%
# Did the layer learn the rules? Sudoku has 64 of them, each a sum of four entries that must be one: a cell has one
# digit; a row, a column and a box have each digit once. 40 of them are independent. A rule is learned where it is a
# combination of the rows of ``A``; the picture shows the share of each that is. With the true rules in place of ``A``
# the layer solves every puzzle, so what it misses is for want of training. Rules that you can write down, write down.


def true_rules():
    """The 64 rules, as rows of length one."""
    cell, digit = np.divmod(np.arange(4 * CELLS), 4)
    row, column = np.divmod(cell, 4)
    groups = cell, 4 * row + digit, 4 * column + digit, 4 * (2 * (row // 2) + column // 2) + digit
    return np.concatenate([np.arange(CELLS)[:, None] == group for group in groups]) / 2.0


def span(rows):
    """An orthonormal basis of as many rows as ``A`` has."""
    return np.linalg.svd(rows, full_matrices=False)[2][:ROWS]


def learned_share(A):
    """The length of each rule projected onto the span of the rows of ``A``."""
    return np.linalg.norm(true_rules() @ span(A).T, axis=1)


before, after = learned_share(start[0]), learned_share(weights[0])
ceiling = solved(answered((jnp.asarray(span(true_rules()), jnp.float32), start[1]), unseen), unseen[1])
print(f"unseen grids, the layer with the true rules: {ceiling:.0%}")
print(f"share of a rule in the span: {before.mean():.2f} at first, {after.mean():.2f} learned")

assert scores["unseen grids"][0] > 0.6
assert scores["unseen grids"][0] > scores["unseen grids"][1] + 0.2
assert scores["seen grids"][0] > scores["seen grids"][1]
assert ceiling > 0.95
assert before.mean() < 0.85
assert after.mean() > 0.95

# %%
# Grey digits of the grid are given; blue is what the layer answers, and orange, in the corner, the plain network.


def digits(z):
    return np.asarray(z).reshape(CELLS, 4).argmax(axis=1) + 1


shown = 0
question, answer = unseen[0][shown], digits(unseen[1][shown])
ours, theirs = digits(answered(weights, unseen)[shown]), digits(Dense().apply(dense, unseen[0])[shown])
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), width_ratios=(1, 1, 1.4), layout="constrained")
for i in range(CELLS):
    x, y = i % 4 + 0.5, 3.5 - i // 4
    given = question[4 * i : 4 * i + 4].any()
    left.text(x, y, ours[i], fontsize=18, color="#888888" if given else "#1b6ca8", ha="center", va="center")
    if not given:
        left.text(x + 0.35, y - 0.33, theirs[i], fontsize=9, color="#d95f02", ha="center", va="center")
for line in range(5):
    left.axhline(line, color="black", linewidth=2 if line % 2 == 0 else 0.5)
    left.axvline(line, color="black", linewidth=2 if line % 2 == 0 else 0.5)
left.set(aspect="equal", xlim=(0, 4), ylim=(0, 4), xticks=[], yticks=[], title="a grid that was never seen")
places = np.arange(len(scores))
for shift, label, colour in (-0.2, "layer", "#1b6ca8"), (0.2, "plain network", "#d95f02"):
    middle.bar(places + shift, [100 * pair[int(shift > 0)] for pair in scores.values()], 0.4, color=colour, label=label)
middle.set_xticks(places, scores, fontsize=8)
middle.set(ylabel="puzzles solved, percent", ylim=(0, 119))
middle.legend(fontsize=8, loc="upper right", ncols=2)
right.plot(before, ".", color="#888888", label="at first")
right.plot(after, ".", color="#1b6ca8", label="learned")
right.set_xticks([8, 24, 40, 56], ["cells", "rows", "columns", "boxes"])
right.set(ylabel="share of a rule in the span of A", ylim=(0, 1.05))
right.legend(fontsize=8, loc="lower right")
plt.show()

# %%
# A mistake
# ---------
# A program is one program. A batch handed to it as it is has a wrong shape, and the message names the remedy:
try:
    kkt.solve_qp(0.1 * jnp.eye(4 * CELLS), -train[0][:BATCH], A=weights[0], b=weights[0] @ weights[1], lb=0.0)
except ValueError as error:
    message = str(error)
print(message)
assert message == "q must be a vector, got shape (32, 64); batches go through jax.vmap"

# %%
# What to copy
# ------------
# .. code-block:: python
#
#     def rules(weights, puzzle):  # at module level
#         A, z0 = weights
#         objective = kkt.Quadratic(jnp.full(puzzle.size, 0.1), -puzzle)
#         return kkt.solve(kkt.Problem(objective, kkt.Affine(A, A @ z0), kkt.Box(0.0)))
#
#     def layer(weights, puzzles):
#         return jax.vmap(rules, in_axes=(None, 0))(weights, puzzles)
#
# ``layer(...).primal`` is the output, for a loss or for the next layer; put one ``jax.jit`` around the training step. A
# layer with inequalities adds ``inequality=kkt.AtMost(G, G @ z0 + jax.nn.softplus(s))``.
