"""
Train a network with a constrained layer
========================================

Some outputs must obey a rule: shares sum to one, a machine has a capacity, a budget is spent. A penalty asks for the
rule; a layer keeps it, also on inputs that nobody trained on. The layer is a convex problem, and training goes through
it.
"""

# %%
# The task
# --------
# A day's work is shared among eight machines. Each has a capacity, which changes from day to day and is known. How the
# best share depends on the state of the machines is not known: there are examples.
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from kkt_solvers import projections

MACHINES, FEATURES = 8, 12
rng = np.random.default_rng(0)
mixing = rng.normal(size=(FEATURES, MACHINES)).astype(np.float32)

# %%
# The layer: the nearest point to what the network wants, among those that sum to one and respect the capacities.
# ``upper`` is an argument of the layer, one row for each example.


@jax.vmap
def share(wanted, capacity):
    return projections.euclidean(wanted, 1.0, lower=0.0, upper=capacity)


def make_days(count):
    """States, capacities, and the shares that were best, with some noise."""
    states = rng.normal(size=(count, FEATURES)).astype(np.float32)
    capacities = rng.uniform(0.1, 0.5, size=(count, MACHINES)).astype(np.float32)
    wanted = 0.3 * np.tanh(states @ mixing / 2) + 0.02 * rng.normal(size=(count, MACHINES)).astype(np.float32)
    return states, capacities, share(jnp.asarray(wanted), jnp.asarray(capacities))


train, test = make_days(2000), make_days(500)

# %%
# Two models
# ----------
# Both are the same small network. One ends in the layer. The other is trained without it, gets the capacities as inputs
# instead, and is repaired afterwards in the usual way: clip, then divide by the sum.


class Network(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        hidden = nn.tanh(nn.Dense(64)(inputs))
        return nn.Dense(MACHINES)(hidden)


def constrained(weights, states, capacities):
    return share(Network().apply(weights, states), capacities)


def free(weights, states, capacities):
    return Network().apply(weights, jnp.concatenate([states, capacities], axis=1))


def repaired(weights, states, capacities):
    clipped = jnp.clip(free(weights, states, capacities), 0.0, capacities)
    return clipped / clipped.sum(axis=1, keepdims=True)


# %%
# Training is the usual loop. ``jax.value_and_grad`` goes through the layer; the whole loop is one ``scan``.


def fit(model, inputs, steps=500):
    optimiser = optax.adam(1e-2)
    weights = Network().init(jax.random.key(1), jnp.zeros((1, inputs)))

    def loss(weights):
        states, capacities, best = train
        return jnp.mean(jnp.sum((model(weights, states, capacities) - best) ** 2, axis=1))

    def step(carry, _):
        weights, memory = carry
        value, slope = jax.value_and_grad(loss)(weights)
        updates, memory = optimiser.update(slope, memory)
        return (optax.apply_updates(weights, updates), memory), value

    (weights, _), losses = jax.jit(lambda start: jax.lax.scan(step, start, length=steps))(
        (weights, optimiser.init(weights))
    )
    return weights, losses


weights, losses = fit(constrained, FEATURES)
free_weights, free_losses = fit(free, FEATURES + MACHINES)

# %%
# What came of it
# ---------------
states, capacities, best = test
answers = {
    "with the layer": constrained(weights, states, capacities),
    "free": free(free_weights, states, capacities),
    "free, repaired": repaired(free_weights, states, capacities),
}
for name, y in answers.items():
    error = jnp.sqrt(jnp.mean(jnp.sum((y - best) ** 2, axis=1)))
    sums = jnp.max(jnp.abs(y.sum(axis=1) - 1))
    over = jnp.max(jnp.maximum(y - capacities, -y))
    print(f"{name:15} error {error:.3f}   largest error of a sum {sums:.1e}   beyond a capacity by {max(over, 0):.1e}")

y = answers["with the layer"]
assert jnp.max(jnp.abs(y.sum(axis=1) - 1)) < 1e-5
assert jnp.all((y >= 0) & (y <= capacities + 1e-6))

# %%
# The free network has to learn the rule from examples, and does not; the repair mends the sum and breaks the
# capacities. With the layer both hold to rounding, and the network spends itself on the question.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(1, 1.5), layout="constrained")
left.semilogy(losses, color="#1b6ca8", label="with the layer")
left.semilogy(free_losses, color="#d95f02", label="free")
left.set_xlabel("step")
left.set_ylabel("training loss")
left.legend()
day = int(jnp.argmax(jnp.max(answers["free, repaired"] - capacities, axis=1)))
machines = np.arange(MACHINES)
right.bar(machines, capacities[day], 0.9, color="#e4e4e4", label="capacity")
for shift, (name, colour) in zip(
    (-0.27, 0.0, 0.27),
    [("with the layer", "#1b6ca8"), ("free, repaired", "#d95f02"), ("best", "#444444")],
    strict=True,
):
    right.bar(machines + shift, best[day] if name == "best" else answers[name][day], 0.25, color=colour, label=name)
right.set_xlabel("machine")
right.set_ylabel("share of the work, one test day")
right.legend(fontsize=8)
plt.show()

# %%
# Any problem can be a layer: ``jax.vmap`` of a function that builds a ``Problem`` and returns
# ``kkt.solve(problem).primal``. If a row may have no solution, look at its status before you train on it.
