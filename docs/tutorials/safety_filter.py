"""
Keep a learned controller safe
==============================

A controller drives well until something is in its way. How can it be kept from a collision, changed no more than that
needs, and tuned by gradient descent all the same? A quadratic program between the controller and the motors does it:
the *safety filter* of control barrier functions (`Ames et al. 2019 <https://arxiv.org/abs/1903.11199>`_). It is solved
in every step of the loop, and the derivative goes through the whole simulation.
"""

# %%
# A controller that sees no obstacles
# -----------------------------------
# A robot has a position ``p``, a velocity ``v`` and two accelerations ``u`` of at most ``LIMIT`` each. A spring and a
# damper pull it to its goal. Three discs stand in the way.
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import kkt_solvers as kkt

DT, STEPS, LIMIT = 0.1, 100, 2.0
goal = jnp.array([2.0, 0.0])
centres = jnp.array([[-1.5, 0.3], [0.2, -1.2], [0.4, 1.5]])
radii = jnp.array([0.8, 0.9, 0.7])
starts = jnp.array([[-4.0, 0.1], [-3.5, -1.5], [-3.5, 2.0], [-0.6, -3.2]])


class Gains(NamedTuple):
    spring: jax.Array
    damper: jax.Array
    inner: jax.Array  # how fast the robot may come nearer to a disc
    outer: jax.Array  # how fast that may change


def clearance(p):
    """``|p - centre|^2 - radius^2`` for each disc: negative inside."""
    return jnp.sum((p - centres) ** 2, axis=-1) - radii**2


def nominal(gains, p, v):
    return jnp.clip(gains.spring * (goal - p) - gains.damper * v, -LIMIT, LIMIT)


@jax.jit
@jax.vmap
def unfiltered(start):
    def step(state, _):
        p, v = state
        return (p + DT * v, v + DT * nominal(first_gains, p, v)), p

    return jax.lax.scan(step, (start, jnp.zeros(2)), length=STEPS)[1]


everywhere = jax.vmap(jax.vmap(clearance))  # along several runs
first_gains = Gains(spring=0.5, damper=1.0, inner=1.0, outer=2.0)
through = unfiltered(starts)
nearest = everywhere(through).min(axis=(1, 2))
print("smallest clearance of each run, without a filter:", np.asarray(nearest, float).round(2).tolist())
assert (nearest < 0).sum() == 3

# %%
# The filter
# ----------
# The clearance ``c`` of a disc must stay at least zero. The acceleration does not enter its first derivative, so the
# barrier is ``b = dc/dt + inner c``. While ``b`` is at least zero the clearance falls at a rate of ``inner`` at most,
# and never below zero. The filter sees to ``b``:
#
# .. math::
#
#     \min_u \tfrac12 |u - u_{\text{nominal}}|^2
#     \quad \text{s.t.} \quad \dot b + \text{outer} \cdot b \ge 0,\ |u_i| \le \text{LIMIT}
#
# In steps of ``DT`` the condition is ``b_next >= (1 - DT outer) b``. The next position does not depend on ``u`` and the
# next velocity is affine in it, so ``b_next`` is affine in ``u``, and the condition is a row of ``G u <= h``. The proof
# holds for steps too, with no margin: ``c`` is convex in the position, so ``c(p + s v) >= c + s dc/dt >= (1 - s inner)
# c`` for every ``s`` up to ``DT``. Both gains must lie between 0 and ``1 / DT``.
#
# Limits of ``u`` and barriers may leave no control at all: a robot that came too fast cannot brake in time. A third
# variable, ``slack >= 0``, keeps the program feasible: it is added to every row, at a price far above any multiplier
# that the rows have otherwise. Then it is zero wherever it can be, and the filter is safe where it is zero.
PENALTY = 100.0
SQUARE = jnp.diag(jnp.array([1.0, 1.0, 0.0]))
LOWER, UPPER = jnp.array([-LIMIT, -LIMIT, 0.0]), jnp.array([LIMIT, LIMIT, jnp.inf])


def barrier(gains, p, v):
    return 2 * (p - centres) @ v + gains.inner * clearance(p)


def safe(gains, p, v, wish, init=None):
    """The program in ``(u, slack)``, solved."""
    after = p + DT * v
    G = jnp.concatenate([-2 * (after - centres), -jnp.ones((3, 1))], axis=1)
    h = (barrier(gains, after, v) - (1 - DT * gains.outer) * barrier(gains, p, v)) / DT
    return kkt.solve_qp(SQUARE, jnp.append(-wish, PENALTY), G, h, lb=LOWER, ub=UPPER, init=init)


# %%
# In the loop
# -----------
# Each step hands its ``Solution`` on, and the next program starts there: ``init=`` takes its point and its multipliers.
# The first step has no such solution; zeros of the right shapes take its place. No derivative goes through ``init``, so
# ``stop_gradient`` changes no number: it only spares the work.


class Run(NamedTuple):
    p: jax.Array
    u: jax.Array
    wish: jax.Array
    slack: jax.Array
    status: jax.Array
    iterations: jax.Array


def simulate(gains, start):
    def step(state, _):
        p, v, previous = state
        wish = nominal(gains, p, v)
        solution = safe(gains, p, v, wish, previous)
        u, slack = solution.primal[:2], solution.primal[2]
        following = p + DT * v, v + DT * u, jax.lax.stop_gradient(solution)
        return following, Run(p, u, wish, slack, solution.status, solution.iterations)

    rest = jnp.zeros(2)
    shapes = jax.eval_shape(safe, gains, start, rest, rest)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(step, (start, rest, nothing), length=STEPS)[1]


# %%
# Learn the gains
# ---------------
# Four gains are learned, two of the controller and two of the filter, by the gradient through 100 steps from each of
# four starts. They are functions of free parameters, which keep every gain in the range that the proof needs. Gains
# that are too large for the limits of ``u`` need a slack. The cost counts it, and the best gains without any are kept.


def gains_of(parameters):
    spring, damper, inner, outer = parameters
    return Gains(jnp.exp(spring), jnp.exp(damper), jax.nn.sigmoid(inner) / DT, jax.nn.sigmoid(outer) / DT)


def cost(parameters):
    """Mean squared distance to the goal, a tenth of that of the acceleration, and the slack; and the runs."""
    run = jax.vmap(simulate, in_axes=(None, 0))(gains_of(parameters), starts)
    return jnp.mean(jnp.sum((run.p - goal) ** 2 + 0.1 * run.u**2, axis=-1) + 100 * run.slack), run


@jax.jit
def train(parameters, memory):
    (value, run), slope = jax.value_and_grad(cost, has_aux=True)(parameters)
    update, memory = optimiser.update(slope, memory)
    return optax.apply_updates(parameters, update), memory, value, slope, run


def logit(share):
    return jnp.log(share / (1 - share))


optimiser = optax.adam(0.1)
spring, damper, inner, outer = map(jnp.float32, first_gains)
initial = jnp.stack([jnp.log(spring), jnp.log(damper), logit(DT * inner), logit(DT * outer)])
parameters, memory, history = initial, optimiser.init(initial), []
for _ in range(40):
    now = gains_of(parameters)
    parameters, memory, value, slope, run = train(parameters, memory)
    history.append((float(value), now, run))

first = history[0]
best = min((entry for entry in history if entry[2].slack.max() < 1e-3), key=lambda entry: entry[0])
print(f"cost {first[0]:.2f} at first, {best[0]:.2f} learned")
for name, before, after in zip(Gains._fields, first[1], best[1], strict=True):
    print(f"{name:7} {before:.2f} at first, {after:.2f} learned")
print(f"smallest clearance {everywhere(first[2].p).min():.3f} at first, {everywhere(best[2].p).min():.3f} learned")
print(f"smallest clearance of the whole training {min(everywhere(run.p).min() for _, _, run in history):.3f}")
print(f"runs with a slack: {sum(run.slack.max() >= 1e-3 for _, _, run in history)} of {len(history)}")
assert all((run.status == kkt.Status.SOLVED).all() for _, _, run in history)
assert everywhere(best[2].p).min() >= 0
assert best[0] < 0.7 * first[0]

# %%
# The derivative is that of the loop, filter included. Finite differences of the cost agree, as well as float32 lets
# them. ``train`` is called again, since it is compiled already.
_, _, _, slope, _ = train(initial, memory)
for i, step in enumerate(0.02 * jnp.eye(4)):
    above, below = (train(initial + side * step, memory)[2] for side in (1, -1))
    difference = float((above - below) / 0.04)
    print(f"{Gains._fields[i]:7} derivative {float(slope[i]):6.3f}, finite difference {difference:6.3f}")
    assert abs(difference - slope[i]) < 0.03 * jnp.abs(slope).max()

# %%
# What came of it
# ---------------
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(1.3, 1), layout="constrained")
for centre, radius in zip(centres, radii, strict=True):
    left.add_patch(plt.Circle(centre, radius, color="#dddddd"))
paths = {"no filter, first gains": through, "filtered, first gains": first[2].p, "filtered, learned gains": best[2].p}
for (name, path), colour in zip(paths.items(), ("#d95f02", "#888888", "#1b6ca8"), strict=True):
    left.plot(*path[0].T, ".-", color=colour, markersize=4, linewidth=1, label=name)
    left.plot(*path[1:].transpose(2, 1, 0), ".-", color=colour, markersize=4, linewidth=1)
    right.plot(DT * np.arange(STEPS), everywhere(path).min(axis=(0, 2)), color=colour)
left.plot(*goal, "*", color="black", markersize=10)
left.set(aspect="equal", xlabel="position")
left.legend(fontsize=8, loc="lower left")
right.axhline(0, color="black", linewidth=0.8)
right.set(xlabel="time", ylabel="smallest clearance of four runs")
plt.show()

# %%
# What the warm start gains
# -------------------------
# The constraints that are active in one step are mostly those of the step before. Then the solver takes no iterations:
# it solves for that active set and is done. On one busy core the four learned runs took 11.5 ms with the warm start
# and 35 ms without, where a program takes 3.3 iterations on average. The controls differed by 1e-5, in float32.
run = best[2]
changed = jnp.any(jnp.abs(run.u - run.wish) > 1e-4, axis=-1)
print(f"the filter acts in {float(changed.mean()):.0%} of the steps")
print(f"no iterations in {float((run.iterations == 0).mean()):.1%} of the steps")
assert 0.05 < changed.mean() < 0.4
assert (run.iterations == 0).mean() > 0.9

# %%
# A mistake
# ---------
# A warm start is the solution of a program of the same shape. A loop that lists only the discs that are near has more
# rows in one step than in the next, and the multipliers of one do not fit the other:
solution = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(safe, first_gains, *3 * [goal]))
try:
    kkt.solve_qp(SQUARE, jnp.ones(3), jnp.ones((2, 3)), jnp.ones(2), lb=LOWER, ub=UPPER, init=solution)
except ValueError as error:
    message = str(error)
print(message)
assert message == "dual.inequality must have 2 entries, got 3; start from a solution of the same shape"

# %%
# Keep a row for every disc, and set its ``h`` to infinity where the disc is far away: an infinite entry is no
# constraint.
#
# What to copy
# ------------
# ``safe`` for the filter, and the three lines of ``simulate`` that carry a ``Solution`` through ``lax.scan``:
#
# .. code-block:: python
#
#     shapes = jax.eval_shape(safe, gains, start, rest, rest)
#     nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
#     solution = safe(gains, p, v, wish, previous)  # in the loop; carry stop_gradient(solution)
#
# Look at ``status`` and ``slack`` in every step. Without the slack variable a program without a solution has a
# ``primal`` of NaN, and one such step makes the whole gradient NaN: see :doc:`/faq`.
