"""
When the derivative does not exist
==================================

The solution of a problem moves smoothly with its data while the set of active bounds stays the same. Where a bound
becomes active, or stops to be, the solution has a corner. What happens there, how to notice, and what to do.
"""

# %%
# A corner
# --------
# Project a point onto the simplex: weights that are not negative and sum to one. Let the point move along a line.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import kkt_solvers as kkt

jax.config.update("jax_enable_x64", True)
start, direction = jnp.array([0.5, 0.3, -0.1]), jnp.array([1.0, 0.0, -0.4])


def problem(t):
    """Nearest point of the simplex to `start + t direction`."""
    return kkt.Problem(kkt.Quadratic(jnp.ones(3), -(start + t * direction)), kkt.Sum(1.0), kkt.Box(0.0))


def primal(t):
    return kkt.solve(problem(t)).primal


t = jnp.linspace(-1.0, 1.0, 201)
y, slope = jax.jit(jax.vmap(lambda t: jax.jvp(primal, (t,), (1.0,))))(t)

# %%
# ``kkt.degeneracy`` measures how near a corner is. Its ``margin`` is, for each coordinate, the larger of the distance
# to the bound and the bound's multiplier, both relative. Far from a corner one of the two is large. At a corner both
# are zero: the bound holds, and nothing presses against it.
margin = jax.jit(jax.vmap(lambda t: kkt.degeneracy(problem(t), kkt.solve(problem(t))).margin))(t).min(axis=1)

figure, axes = plt.subplots(3, 1, figsize=(7, 6.5), sharex=True, layout="constrained")
for index in range(3):
    axes[0].plot(t, y[:, index], label=f"$y_{index}$")
    axes[1].plot(t, slope[:, index], drawstyle="steps-mid")
axes[2].semilogy(t, margin, color="#444444")
axes[0].legend()
for ax, label in zip(axes, ("solution", "derivative", "smallest margin"), strict=True):
    ax.set_ylabel(label)
axes[2].set_xlabel("t")
plt.show()

# %%
# The solution is continuous, its derivative jumps, and the margin dips to zero exactly where it does.
#
# At the corner itself
# --------------------
# What should a program return there? Neither side is wrong, both are elements of the generalised Jacobian. The rule
# here is written down (:doc:`/derivative`), and gives the same finite answer each time: *a weakly active bound counts
# as free*, so the derivative is that of the problem without that bound.
corner = kkt.Problem(kkt.Quadratic(jnp.ones(2), jnp.array([0.0, -1.0])), box=kkt.Box(0.0))
report = kkt.degeneracy(corner, kkt.solve(corner))
print("weakly active:", report.weakly_active, " margin:", report.margin)


def clipped(q0):
    return kkt.solve(kkt.Problem(kkt.Quadratic(jnp.ones(2), jnp.stack([q0, -1.0])), box=kkt.Box(0.0))).primal[0]


print("left, at, right:", [float(jax.grad(clipped)(q0)) for q0 in (-1e-3, 0.0, 1e-3)])
np.testing.assert_allclose([jax.grad(clipped)(q0) for q0 in (-1e-3, 0.0, 1e-3)], [-1, -1, 0], atol=1e-9)

# %%
# The other kind
# --------------
# Multipliers need not be unique either. If a constraint is stated twice, its price can be split between the two in any
# way. The primal is unaffected. ``smallest_pivot`` shows the dependence: it is at rounding level.
twice = kkt.Problem(kkt.Quadratic(jnp.eye(3), -start), kkt.Affine(jnp.ones((2, 3)), jnp.ones(2)), kkt.Box(0.0))
once = kkt.Problem(kkt.Quadratic(jnp.eye(3), -start), kkt.Affine(jnp.ones((1, 3)), jnp.ones(1)), kkt.Box(0.0))
for name, case in (("once", once), ("twice", twice)):
    solution = kkt.solve(case)
    print(name, solution.primal, solution.dual.equality, float(kkt.degeneracy(case, solution).smallest_pivot))

# %%
# What to do
# ----------
# - *Train all the same.* A corner is met with probability zero, and a relu has one too.
# - *Look.* Log ``degeneracy(...).margin`` when gradients look odd. A margin of 1e-3 says that a change of the data of
#   that size may change the active set, so a finite difference with a larger step disagrees, and should.
# - *Smooth the problem.* An entropy instead of a square keeps every coordinate off its bound, and the solution is
#   smooth everywhere. Below, the projection onto the simplex in both geometries: at a small temperature they are
#   alike, but only one has corners.


def smooth(t, temperature=0.15):
    weights = jnp.exp((start + t * direction - 1) / temperature)
    return kkt.projections.entropic(weights, 1.0)


soft = jax.jit(jax.vmap(smooth))(t)
np.testing.assert_allclose(soft, jax.nn.softmax((start + t[:, None] * direction) / 0.15, axis=1), atol=1e-9)

figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
for index in range(3):
    axes[0].plot(t, y[:, index])
    axes[1].plot(t, soft[:, index])
axes[0].set_title("Euclidean: corners, exact zeros")
axes[1].set_title("entropic: smooth, no zeros")
for ax in axes:
    ax.set_xlabel("t")
plt.show()
