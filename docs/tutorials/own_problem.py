"""
A problem of your own
=====================

A problem is data: an objective, constraints, a box.

.. code-block:: text

    minimise    f(y, *args)                  convex, differentiable
    subject to  A y = b                      equality
                g(y, *args) <= 0             inequality, convex
                lower <= y <= upper          box

You write ``f`` and ``g``. ``solve`` does the rest, and the answer can be differentiated in everything you put in.
"""

# %%
# The story: an electric car comes home at six in the evening and leaves at eight. It needs 30 kWh. Each hour has a
# price; the charger gives at most 7 kW; and the battery prefers to be charged evenly.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import kkt_solvers as kkt

hours = np.arange(18, 32)
prices = jnp.array([0.32, 0.34, 0.33, 0.30, 0.26, 0.22, 0.18, 0.15, 0.13, 0.12, 0.13, 0.16, 0.22, 0.28])  # for a kWh


def cost(power, prices, wear):
    """What the night costs: energy, and wear by every change of power."""
    return jnp.vdot(prices, power) + wear * jnp.sum(jnp.diff(power) ** 2)


# %%
# The function stands at the top of the file, and its data are arguments. Both matter: compiled code is found again, and
# whatever is an argument can be differentiated.
problem = kkt.Problem(cost, equality=kkt.Sum(30.0), box=kkt.Box(0.0, 7.0), args=(prices, 0.01))
solution = kkt.solve(problem, jnp.zeros(14))

print(kkt.Status(int(solution.status)).message)
assert int(solution.status) == kkt.Status.SOLVED
print("cost", solution.objective, "; power", solution.primal)

# %%
# The plan charges when energy is cheap, and rises and falls gently. The second picture shows which hours sit on a
# bound.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
left.bar(hours, solution.primal, color="#1b6ca8")
left.set_xlabel("hour")
left.set_ylabel("power [kW]")
twin = left.twinx()
twin.step(hours, prices, where="mid", color="#d95f02")
twin.set_ylabel("price [for a kWh]", color="#d95f02")
kkt.plot.active_set(problem, solution, right)
plt.show()

# %%
# Prices of constraints
# ---------------------
# What would the 31st kWh cost? The multiplier of the sum says it: with the signs of this library (those of Boyd and
# Vandenberghe) the optimal value changes by ``-dual.equality`` for each unit of the total.
one_more = -solution.dual.equality
print("the next kWh costs", one_more)

dearer = kkt.solve(kkt.Problem(cost, kkt.Sum(30.1), kkt.Box(0.0, 7.0), (prices, 0.01)), jnp.zeros(14))
np.testing.assert_allclose((dearer.objective - solution.objective) / 0.1, one_more, rtol=2e-2)

# %%
# Derivatives
# -----------
# ``jax.grad`` with respect to the problem is shaped like the problem. So one call answers every question of the kind
# "what if": about the prices, the wear, the total, the bounds.


def best_cost(problem):
    return kkt.solve(problem, jnp.zeros(14)).objective


slope = jax.grad(best_cost)(problem)
print("of the prices (it is the plan itself):", slope.args[0])
print("of the wear:", slope.args[1], " of the total:", slope.equality.total)
np.testing.assert_allclose(slope.args[0], solution.primal, atol=1e-3)


# %%
# The plan has a derivative as well. If midnight (hour 24) gets dearer, where does the energy go? The column of
# the Jacobian sums to zero, since the car still gets its 30 kWh.


def plan(prices):
    return kkt.solve(kkt.Problem(cost, kkt.Sum(30.0), kkt.Box(0.0, 7.0), (prices, 0.01)), jnp.zeros(14)).primal


moves = jax.jit(jax.jacobian(plan))(prices)[:, 6]
print("sum of the moves", moves.sum())

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.bar(hours, moves, color=np.where(moves < 0, "#d95f02", "#1b6ca8"))
ax.axhline(0, color="#888888", linewidth=1)
ax.set_xlabel("hour")
ax.set_ylabel("kWh per unit of price")
plt.show()

# %%
# A constraint written as a function
# ----------------------------------
# The cable in the wall gets warm, by the square of the power. The house allows 110 units of heat for the night. An
# inequality is a function of the same arguments as ``f``, convex, and at most zero where it holds.


def heat(power, prices, wear, most):
    """How far the night is above the heat allowed."""
    return jnp.sum(power**2) - most


def cost_with_heat(power, prices, wear, most):
    """The same cost; it has the arguments of both functions."""
    return cost(power, prices, wear)


def within(most):
    """The best night within the heat, twice: to be differentiated, and as it is."""
    box, args = kkt.Box(0.0, 7.0), (prices, 0.01, most)
    best = kkt.solve(kkt.Problem(cost_with_heat, kkt.Sum(30.0), box, args, heat), jnp.zeros(14))
    return (best.objective, best.primal), best


both = jax.jit(jax.jacobian(within, has_aux=True))
(saving, moves), limited = both(110.0)
print("heat without the limit", jnp.sum(solution.primal**2))
assert int(limited.status) == kkt.Status.SOLVED
print("heat with the limit", jnp.sum(limited.primal**2), "; cost", limited.objective)
np.testing.assert_allclose(jnp.sum(limited.primal**2), 110.0, rtol=1e-4)

# %%
# Its multiplier is a price too: what one more unit of heat would save. The plan has a derivative in the limit as well:
# the hours that a warmer cable would use more.
print("one more unit of heat saves", limited.dual.inequality)
np.testing.assert_allclose(saving, -limited.dual.inequality, rtol=1e-3)

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained")
left.bar(hours, solution.primal, color="#cccccc", label="without the limit")
left.bar(hours, limited.primal, color="#1b6ca8", width=0.4, label="with it")
left.set_xlabel("hour")
left.set_ylabel("power [kW]")
left.legend()
right.bar(hours, moves, color=np.where(moves < 0, "#d95f02", "#1b6ca8"))
right.axhline(0, color="#888888", linewidth=1)
right.set_xlabel("hour")
right.set_ylabel("kW per unit of heat")
plt.show()

# %%
# A limit that cannot be met is not a warning but a proof. To charge 30 kWh in 14 hours takes 30 * 30 / 14 = 64.3 units.
_, impossible = both(60.0)
print(kkt.Status(int(impossible.status)).message)
assert int(impossible.status) == kkt.Status.PRIMAL_INFEASIBLE

# %%
# What else may stand in a problem
# --------------------------------
# - a quadratic objective, ``kkt.Quadratic(P, q)``, with ``P`` dense, diagonal, sparse or low-rank, or ``None``;
# - a separable one, ``kkt.Separable(phi, theta)``, solved in its dual, which is much faster;
# - ``kkt.Affine(A, b)`` for several equalities, or any affine function ``h(y, *args)``;
# - ``kkt.AtMost(G, h)`` for linear inequalities ``G y <= h``, dense or sparse;
# - norms and other cones, in smooth form: see *Cones without cones*;
# - bounds that are infinite, or equal to each other, which fixes a variable;
# - ``y`` as a dictionary of arrays, or any other pytree.
