"""
Tune many hyper-parameters by gradient
======================================

My model has six penalties: which values? A grid with five values for each needs 15625 fits. The coefficients are the
solution of a quadratic program, and that has a derivative: so the error on validation data has a gradient in all six
penalties at once, by one pass backwards however many there are.
"""

# %%
# The data
# --------
# The diabetes data of scikit-learn: how far the disease of 442 patients has gone a year later, from ten measurements.
# With their squares and products these are 64 features in three groups, and it is not known how far to trust each
# group. A split has 150 patients for training, 120 for validation and 172 for the test. There are 20 random splits, as
# one cannot tell two methods apart.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes

import kkt_solvers as kkt
from kkt_solvers.problems import bounded_least_squares

jax.config.update("jax_enable_x64", True)

TRAIN, VALIDATION, SPLITS = 150, 120, 20
first, second = np.triu_indices(10)
keep = (first != 1) | (second != 1)  # feature 1, the sex, has two values: its square is itself
first, second = first[keep], second[keep]
GROUPS = ["measurements", "squares", "products"]
GROUP = np.concatenate([np.zeros(10, int), np.where(first == second, 1, 2)])


def standardised(X):
    return (X - X[:TRAIN].mean(axis=0)) / X[:TRAIN].std(axis=0)


def split(seed):
    """Features and outcomes in a random order, standardised by the training rows, which come first."""
    X, y = load_diabetes(return_X_y=True, scaled=False)
    order = np.random.default_rng(seed).permutation(len(y))
    X = standardised(X[order])
    return standardised(np.concatenate([X, X[:, first] * X[:, second]], axis=1)), standardised(y[order])


X, y = (jnp.asarray(np.stack(part)) for part in zip(*[split(seed) for seed in range(SPLITS)], strict=True))

# %%
# The model
# ---------
# An elastic net with penalties of its own for each group. The absolute value becomes a bound: ``b = up - down`` with
# both nonnegative::
#
#     min_b  |X b - y|^2 / 2m + sum_i l1_i |b_i| + l2_i b_i^2 / 2
#
# Penalties are positive and differ by orders of magnitude, so the hyper-parameters are their logarithms: a matrix of
# two rows, ``l1`` and ``l2``, and a column for each group.


def elastic_net(penalties, X, y):
    l1, l2 = penalties[:, GROUP]
    H, c = X.T @ X / len(y), X.T @ y / len(y)
    P = jnp.block([[H, -H], [-H, H]]) + jnp.diag(jnp.concatenate([l2, l2]))
    return kkt.Problem(kkt.Quadratic(P, jnp.concatenate([l1 - c, l1 + c])), box=kkt.Box(0.0))


def errors(logs, X, y):
    """Mean squared errors on the validation rows and on the test rows, where the outcome has about variance one."""
    up, down = jnp.split(kkt.solve(elastic_net(jnp.exp(logs), X[:TRAIN], y[:TRAIN])).primal, 2)
    squares = (y[TRAIN:] - X[TRAIN:] @ (up - down)) ** 2
    return jnp.mean(squares[:VALIDATION]), jnp.mean(squares[VALIDATION:])


# %%
# The gradient
# ------------
# ``jax.value_and_grad`` goes through ``solve``. ``jax.lax.map`` does one split after the other, in one compiled
# function. The test errors come along for the record: nothing below chooses by them. Central differences agree with
# the gradient in all six hyper-parameters.
gradient_of_errors = jax.value_and_grad(errors, has_aux=True)


@jax.jit
def evaluate(logs):
    """Errors of every split with its own ``logs``, ``(SPLITS, 2, 3)``, and the gradient of that on validation data."""
    (validation, test), gradient = jax.lax.map(lambda data: gradient_of_errors(*data), (logs, X, y))
    return validation, test, gradient


point = jnp.tile(jnp.log(jnp.array([[0.05, 0.1, 0.07], [0.02, 0.1, 0.3]])), (SPLITS, 1, 1))
gradient = evaluate(point)[2]
for i, j in np.ndindex(2, 3):
    above, below = (evaluate(point.at[:, i, j].add(change))[0] for change in (1e-5, -1e-5))
    difference = (above - below) / 2e-5
    print(f"l{i + 1} of the {GROUPS[j]:12} gradient {gradient[1, i, j]: .6f}, differences {difference[1]: .6f}")
    np.testing.assert_allclose(gradient[:, i, j], difference, rtol=1e-4, atol=1e-7)

# %%
# A zero is an exact answer too: where ``l1`` has removed a whole group, a small change of its penalties does nothing. A
# descent cannot leave such a place, so let it start where the penalties are not too large.


# %%
# A grid, and a descent from its best point
# -----------------------------------------
# The grid has 25 points in two dimensions: one ``l1`` and one ``l2`` for all features. From its best point on each
# split we go downhill, once in these two dimensions (the groups share the mean of their gradients) and once in all six.
# A step that raises the validation error is taken back, and the next one is shorter.
def descend(logs, tied, steps=20):
    length = jnp.full(SPLITS, 2.0)
    now = (logs, *evaluate(logs))
    for _ in range(steps):
        logs, validation, _, gradient = now
        if tied:
            gradient = jnp.broadcast_to(gradient.mean(axis=2, keepdims=True), gradient.shape)
        logs = logs - jnp.clip(length[:, None, None] * gradient, -1.0, 1.0)
        new = (logs, *evaluate(logs))
        better = new[1] < validation
        now = jax.vmap(lambda better, *both: jax.tree.map(lambda a, b: jnp.where(better, a, b), *both))(
            better, new, now
        )
        length = length * jnp.where(better, 1.6, 0.4)
    return now


l1, l2 = np.log([0.003, 0.01, 0.03, 0.1, 0.3]), np.log([0.001, 0.01, 0.1, 1.0, 10.0])
grid = jnp.array([[[a] * 3, [b] * 3] for a in l1 for b in l2])
validation = jnp.stack([evaluate(jnp.tile(point, (SPLITS, 1, 1)))[0] for point in grid])
best = grid[jnp.argmin(validation, axis=0)]
results = {
    "grid, 2 penalties": (best, *evaluate(best)),
    "gradient, 2 penalties": descend(best, tied=True),
    "gradient, 6 penalties": descend(best, tied=False),
}

# %%
# The mean errors over the splits, and the difference on test data from the grid, split by split, with its standard
# error. Other random splits of these 442 patients would give about the same; other patients are not covered by it.
of_grid, changes = results["grid, 2 penalties"][2], {}
for name, (_, validation, test, _) in results.items():
    changes[name] = (test - of_grid).mean(), (test - of_grid).std(ddof=1) / np.sqrt(SPLITS)
    change, error = changes[name]
    print(f"{name:21}  validation {validation.mean():.3f}  test {test.mean():.3f}  {change:+.3f} ± {error:.3f}")

change, error = changes["gradient, 6 penalties"]
assert change < -0.01
assert change < -2 * error

# %%
# The validation error promises more than the test keeps, as it always does for what was chosen by it; more so for six
# numbers than for two. That is what the test rows are for.
#
# The picture has the test errors on the left, one point for each split. On the right are the ``l1`` that were found:
# what two penalties cannot say is that squares and products deserve several times the penalty of the measurements.
tuned = results["gradient, 6 penalties"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
left.scatter(of_grid, tuned[2], color="#1b6ca8")
ends = [float(min(of_grid.min(), tuned[2].min())) - 0.01, float(max(of_grid.max(), tuned[2].max())) + 0.01]
left.plot(ends, ends, color="0.6", linewidth=1)
left.set(aspect="equal", xlabel="test error, 2 penalties by grid", ylabel="test error, 6 penalties by gradient")
penalties = jnp.exp(tuned[0])
right.semilogy(penalties[:, 0].T, color="#1b6ca8", alpha=0.3, marker="o", linewidth=1)
right.semilogy(np.median(penalties[:, 0], axis=0), color="#d95f02", linewidth=3, label="median")
right.set_xticks(range(3), GROUPS)
right.set_ylabel("l1, one line for each split")
right.legend()
plt.show()
median = np.median(penalties[:, 0], axis=0)
print("median l1:", dict(zip(GROUPS, median.round(3).tolist(), strict=True)))
assert min(median[1:]) > 3 * median[0]

# %%
# A mistake
# ---------
# To step in the penalties and not in their logarithms: sooner or later one falls below zero, and the problem is not
# convex any more. The ready-made regressions say so where they see the value, here with two features. Inside
# ``jax.jit`` they see no values, and the answer is NaN.
try:
    bounded_least_squares(X[0, :, :2], y[0], lower=0.0, ridge=jnp.array([0.01, 0.02]) - 0.015)
except ValueError as error:
    message = str(error)
print(message)
assert message == "ridge must be nonnegative, got -0.005"

# %%
# What to copy
# ------------
# ::
#
#     def validation_error(logs, train, validation):                 # hyper-parameters by their logarithms
#         y = kkt.solve(my_problem(jnp.exp(logs), *train)).primal    # the fit
#         return my_error(y, *validation)
#
#     step = jax.jit(jax.value_and_grad(validation_error))           # all hyper-parameters at once
#
# A coarse grid in one or two dimensions for the start, test data that nothing is chosen by, and a check of the gradient
# by differences in float64.
