"""
Differentiate anything, duals too
=================================

The multipliers of a problem are prices. They solve the same optimality conditions as the primal, so they have a
derivative as well: how do prices move when the world does? Here the prices are those of electricity.
"""

# %%
# A small grid
# ------------
# Three towns in a triangle. Towns 0 and 1 have power stations, a cheap one and an expensive one; town 2 has the demand.
# Unknown are the output of both stations and the flows on the three lines. Each town is an equality: what comes in goes
# out. Physics adds one more: around the triangle, the flows of three equal lines sum to zero.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import kkt_solvers as kkt

jax.config.update("jax_enable_x64", True)

#            station 0, 1 | lines 0-1, 1-2, 0-2
A = np.array([
    [1.0, 0.0, -1.0, 0.0, -1.0],  # town 0
    [0.0, 1.0, 1.0, -1.0, 0.0],  # town 1
    [0.0, 0.0, 0.0, 1.0, 1.0],  # town 2
    [0.0, 0.0, 1.0, 1.0, -1.0],  # around the triangle
])  # fmt: skip


def dispatch(demand, line_limit):
    """The cheapest way to serve `demand` (three towns) when a line carries at most `line_limit`."""
    objective = kkt.Quadratic(jnp.array([0.02, 0.10, 1e-3, 1e-3, 1e-3]), jnp.array([10.0, 20.0, 0, 0, 0]))
    b = jnp.concatenate([demand, jnp.zeros(1)])
    upper = jnp.concatenate([jnp.array([300.0, 300.0]), line_limit])
    lower = jnp.concatenate([jnp.zeros(2), -line_limit])
    return kkt.solve(kkt.Problem(objective, kkt.Affine(A, b), kkt.Box(lower, upper)), solver=kkt.InteriorPoint())


def prices(demand, line_limit):
    """What one more unit costs in each town: minus the multiplier, for d f* / d b = -nu."""
    return -dispatch(demand, line_limit).dual.equality[:3]


limits = jnp.array([120.0, 120.0, 100.0])
demand = jnp.array([10.0, 10.0, 160.0])
solution = dispatch(demand, limits)
print(kkt.Status(int(solution.status)).name, "stations", solution.primal[:2], "lines", solution.primal[2:])
print("prices", prices(demand, limits))

# %%
# The line from town 0 to town 2 is full. So town 2 cannot have more of the cheap power, and its price is above that of
# either station: one more unit there takes *more* than a unit of the expensive power, and less of the cheap.
position = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.4]])
figure, ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
flows = solution.primal[2:]
for (start, end), flow, limit in zip([(0, 1), (1, 2), (0, 2)], flows, limits, strict=True):
    full = abs(flow) > limit - 1e-6
    ax.plot(*position[[start, end]].T, color="#d95f02" if full else "#aaaaaa", linewidth=1 + abs(flow) / 15, zorder=1)
    ax.text(*position[[start, end]].mean(axis=0), f"{flow:.0f} of {limit:.0f}", ha="center", va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
ax.scatter(*position.T, s=2600, c=prices(demand, limits), cmap="YlOrBr", vmin=5, vmax=70, edgecolor="black", zorder=2)
for (x, y), price in zip(position, prices(demand, limits), strict=True):
    ax.text(x, y, f"{price:.1f}", ha="center", va="center", zorder=3)
ax.set_title("prices in the towns; the full line in orange")
ax.set_xlim(-0.5, 2.5)
ax.set_ylim(-0.4, 1.8)
ax.set_axis_off()
plt.show()

# %%
# The derivative of a price
# -------------------------
# ``jax.jacfwd`` of the prices in the demand is a 3 by 3 matrix. It is symmetric: it is the Hessian of the optimal
# value.
slopes = jax.jit(jax.jacfwd(prices))(demand, limits)
print(slopes)
np.testing.assert_allclose(slopes, slopes.T, atol=1e-8)

hessian = jax.jit(jax.hessian(lambda demand: dispatch(demand, limits).objective))(demand)
np.testing.assert_allclose(hessian, slopes, atol=1e-8)

step = 1e-3 * jnp.array([0.0, 0.0, 1.0])
difference = (prices(demand + step, limits) - prices(demand - step, limits)) / 2e-3
np.testing.assert_allclose(slopes[:, 2], difference, rtol=1e-5)

# %%
# And a wider line? Its worth is a bound's multiplier: ``d f* / d upper = -upper multiplier``. How that worth falls as
# the line gets wider is a derivative of a multiplier.


def worth(limit):
    return dispatch(demand, limits.at[2].set(limit)).dual.upper[4]


print("worth of one more unit of line 0-2:", worth(100.0), " its slope:", jax.grad(worth)(100.0))

# %%
# Prices as demand grows
# ----------------------
# At small demand nothing is full and there is one price. Then the line fills, and prices part. The short thick pieces
# are the derivatives at seven points, drawn as tangents: they fit the curves exactly, duals as well as primals would.
grid = jnp.linspace(40.0, 210.0, 120)
towns = jax.jit(jax.vmap(lambda d: prices(demand.at[2].set(d), limits)))(grid)
points = jnp.linspace(52.0, 198.0, 7)
at, slope = jax.jit(jax.vmap(lambda d: jax.jvp(lambda d: prices(demand.at[2].set(d), limits), (d,), (1.0,))))(points)

figure, ax = plt.subplots(figsize=(7.5, 4), layout="constrained")
for town, colour in enumerate(["#1b6ca8", "#7a7a7a", "#d95f02"]):
    ax.plot(grid, towns[:, town], color=colour, linewidth=1, label=f"town {town}")
    for point, value, rate in zip(points, at[:, town], slope[:, town], strict=True):
        ax.plot([point - 5, point + 5], [value - 5 * rate, value + 5 * rate], color=colour, linewidth=4, alpha=0.5)
ax.set_xlabel("demand in town 2")
ax.set_ylabel("price")
ax.legend()
plt.show()

# %%
# Where the curves have a corner, there is no derivative: the next page is about that.
