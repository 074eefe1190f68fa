"""
Learn the limits of a decision
==============================

We see what somebody decides, day after day, and know what he would have liked. What limits him? A quadratic program as
a layer answers that: its inequalities are parameters, and are learned from examples. Two questions come up on the way
that come up with every such layer: what to do with days for which the program has no solution, and what a derivative of
zero means.
"""

# %%
# The decisions
# -------------
# Two machines make ``x``. On each day there is a wish, and a demand: both together must make at least so much. The
# machines have limits, ``G x <= h``, which nobody wrote down. What was made is the nearest point to the wish that the
# limits and the demand allow.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import kkt_solvers as kkt

DAYS, BATCH, ROWS = 512, 64, 8
rng = np.random.default_rng(0)


def program(limits, wish, demand):
    """What ``solve_qp`` takes: ``min |x - wish|^2 / 2  s.t.  G x <= h,  x[0] + x[1] >= demand``."""
    angles, h = limits
    G = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)  # rows of length one
    G, h = jnp.concatenate([G, -jnp.ones((1, 2))]), jnp.append(h, -demand)
    return {"P": jnp.eye(2), "q": -wish, "G": G, "h": h}


def decide(limits, wish, demand, smoothing=None):
    return kkt.solve_qp(**program(limits, wish, demand), smoothing=smoothing)


truth = jnp.array([-0.4, 0.5, 1.3, 2.4, 3.6, 4.9]), jnp.array([1.6, 1.5, 1.2, 1.4, 1.1, 1.0])
wishes = jnp.asarray(rng.normal(size=(DAYS, 2)) * 1.5 + 0.3, jnp.float32)
demands = jnp.asarray(rng.uniform(-1.0, 1.5, DAYS), jnp.float32)
days = jax.jit(jax.vmap(decide, in_axes=(None, 0, 0)))(truth, wishes, demands)
made = days.primal
print("days with a solution:", int(np.sum(days.status == kkt.Status.SOLVED)), "of", DAYS)

# %%
# Days without a solution
# -----------------------
# While the limits are being learned they are wrong, and some demands cannot be met: the program has no solution. Its
# status says so, its ``primal`` is NaN, and so is its derivative. To leave these days out it is not enough to write
# ``jnp.where`` around their loss: the derivative of what is not taken is zero times NaN, which is NaN. They must be
# left out *before*: solve once to see which days have a solution, give the others a program that has one, and solve
# again. The second time begins at the solution of the first, which takes a single step.


def decide_if_possible(limits, wish, demand):
    """The decision, and whether there is one. If not, that for limits far away, with a derivative of zero."""
    first = decide(*jax.lax.stop_gradient((limits, wish, demand)))
    possible = first.status == kkt.Status.SOLVED
    data = program(limits, wish, demand)
    data["h"] = jnp.where(possible, data["h"], 100.0)
    return kkt.solve_qp(**data, init=jax.lax.stop_gradient(first)).primal, possible


# %%
# Training
# --------
# Nobody said how many limits there are: there are six, and training starts with eight that are far too tight. With six
# one may get stuck where it limits nothing; more of them find their way.


def loss(limits, wish, demand, made):
    x, possible = jax.vmap(decide_if_possible, in_axes=(None, 0, 0))(limits, wish, demand)
    error = jnp.where(possible, jnp.sum((x - made) ** 2, axis=1), 0.0)
    return jnp.sum(error) / jnp.sum(possible), jnp.mean(~possible)


@jax.jit
def step(limits, state, *batch):
    (value, left_out), gradient = jax.value_and_grad(loss, has_aux=True)(limits, *batch)
    update, state = optimiser.update(gradient, state)
    return optax.apply_updates(limits, update), state, value, left_out


optimiser = optax.adam(0.03)
start = jnp.arange(ROWS, dtype=jnp.float32) * (2 * jnp.pi / ROWS), jnp.full(ROWS, 0.5, jnp.float32)
limits, state, history = start, optimiser.init(start), []
for _ in range(300):
    batch = rng.integers(0, DAYS, BATCH)
    limits, state, value, left_out = step(limits, state, wishes[batch], demands[batch], made[batch])
    history.append((float(value), float(left_out)))
print(f"mean squared error {history[0][0]:.3f} at first, {history[-1][0]:.1e} at the end")
print(f"days without a solution {history[0][1]:.0%} at first, {history[-1][1]:.0%} at the end")


# %%
# The learned limits are those of the machines, but for the corner that no demand lets anybody see: where no decision
# meets a limit, it cannot be learned.
def outline(limits):
    """Points on the border of ``G x <= h``, in all directions from the origin."""
    angles, h = limits
    around = jnp.linspace(0, 2 * jnp.pi, 721)
    reach = jnp.cos(around - angles[:, None]) / h[:, None]
    return jnp.stack([jnp.cos(around), jnp.sin(around)]) / jnp.max(reach, axis=0)


figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
left.plot(*made.T, ".", color="0.7", markersize=3, label="decisions")
left.plot(*outline(truth), color="0.4", linewidth=5, alpha=0.4, label="limits")
left.plot(*outline(start), ":", color="tab:blue", label="at first")
left.plot(*outline(limits), color="tab:blue", label="learned")
left.set(aspect="equal", xlabel="machine 0", ylabel="machine 1")
left.legend(loc="center")
right.semilogy(np.array(history)[:, 0], color="tab:blue", label="mean squared error")
right.set(xlabel="step", ylabel="mean squared error")
share = right.twinx()
share.plot(np.array(history)[:, 1], color="tab:orange", linewidth=1)
share.set_ylabel("days without a solution", color="tab:orange")
plt.show()

# %%
# A derivative of zero
# --------------------
# At a corner of the limits the decision does not move with the wish: its derivative is zero, and that is the exact
# answer, not a failure. It does move with the limits that make the corner. So what is learned here goes on, while a
# network that *makes the wish* would learn nothing from this day.
wish, demand = jnp.array([4.0, 1.0]), jnp.array(0.0)
by_limits, by_wish = jax.jit(jax.jacobian(lambda *data: decide(*data).primal, argnums=(0, 1)))(truth, wish, demand)
print("by the wish", np.round(by_wish, 2).tolist())
print("by the limits", np.round(by_limits[1], 2).tolist())


# %%
# To train such a network all the same, ask for a smoothed derivative: that of the program with its complementarity
# conditions relaxed, ``multiplier * slack = mu`` in place of zero. The decision stays the exact one, to the last bit;
# the derivative is wrong on purpose, by more the larger ``mu`` is, and tends to the exact one with it. So begin with a
# large one and let it shrink.
@jax.jit
def by_wish_smoothed(mu):
    return jax.jacobian(lambda wish: decide(truth, wish, demand, smoothing=mu).primal)(wish)


for mu in 0.1, 0.01, 0.001:
    print(f"by the wish, mu = {mu}:", np.round(by_wish_smoothed(mu), 3).tolist())

# %%
# What to copy
# ------------
# ``decide_if_possible`` for a layer whose program may have no solution; ``jax.vmap`` around it for a batch; and the
# share of days left out beside the loss, since a loss over fewer and fewer days falls too. ``smoothing=mu``, if what
# comes before the layer is to learn from vertices.
