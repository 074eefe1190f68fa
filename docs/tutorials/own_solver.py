"""
Write your own solver
=====================

A solver is any object with a method ``run``. It gets flat vectors, returns a point, and need not be differentiable: the
derivative comes from the optimality conditions at that point. Ten lines will do.
"""

# %%
# The method
# ----------
# The augmented Lagrangian, one gradient step at a time: step in ``y``, clip to the box, step in the multiplier.
import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import kkt_solvers as kkt


def step(problem, state, size):
    y, nu = state
    slope = problem.objective.gradient(y) + problem.equality.adjoint(nu + residual(problem, y))
    y = jnp.clip(y - size * slope, problem.box.lower, problem.box.upper)
    return y, nu + size * residual(problem, y)


def residual(problem, y):
    return problem.equality.product(y) - problem.equality.target


# %%
# What a flat problem offers: ``objective(y)`` and ``objective.gradient(y)``; ``equality.product(y)``,
# ``equality.adjoint(nu)`` and ``equality.target``; ``box.lower`` and ``box.upper``. Whatever the user passed (a
# dictionary, a sparse matrix, a function) has become that.
#
# ``run`` returns the point, its multipliers, the number of iterations, and whether the solver believes that it is done.
# The settings are fields of a frozen dataclass, so that compiled code is found again.


@dataclasses.dataclass(frozen=True)
class AugmentedLagrangian:
    size: float = 0.2
    steps: int = 500

    def run(self, problem, init):
        start = init, jnp.zeros_like(problem.equality.target)
        y, nu = jax.lax.fori_loop(0, self.steps, lambda _, state: step(problem, state, self.size), start)
        return y, kkt.Dual(nu, None, None), self.steps, True


# %%
# That is all. The bounds' multipliers are ``None``: they are recovered from the point.
#
# Solve with it
# -------------
problem = kkt.Problem(
    kkt.Quadratic([[1.0, 0.4], [0.4, 1.5]], [-1.0, -2.0]), kkt.Affine([[1.0, 2.0]], [2.0]), kkt.Box(0.0, 0.9)
)
solution = kkt.solve(problem, solver=AugmentedLagrangian())
print(kkt.Status(int(solution.status)).name, solution.primal, solution.dual)
np.testing.assert_allclose(solution.primal, kkt.solve(problem).primal, atol=1e-4)

# %%
# And differentiate, through none of its 500 steps:
slope = jax.grad(lambda problem: kkt.solve(problem, solver=AugmentedLagrangian()).primal[0])(problem)
expected = jax.grad(lambda problem: kkt.solve(problem).primal[0])(problem)
print("d y[0] / d q =", slope.objective.q, " d y[0] / d b =", slope.equality.b)
np.testing.assert_allclose(slope.objective.q, expected.objective.q, atol=1e-4)

# %%
# Its claim is not believed
# -------------------------
# With twenty steps it still says that it is done. The certificate says otherwise.
hasty = kkt.solve(problem, solver=AugmentedLagrangian(steps=20))
print(kkt.Status(int(hasty.status)).name, float(hasty.residuals.largest))
assert int(hasty.status) != kkt.Status.SOLVED

# %%
# Watch it
# --------
# The path of the iterates, from the corner of the box: it overshoots the line, and the multiplier brings it back.
state = jnp.zeros(2), jnp.zeros(1)
path, misses = [state[0]], []
move = jax.jit(step)
for _ in range(120):
    state = move(problem, state, 0.2)
    path.append(state[0])
    misses.append(float(jnp.abs(residual(problem, state[0]))[0]))
path = np.array(path)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
x, z = np.meshgrid(np.linspace(-0.1, 1.1, 80), np.linspace(-0.1, 1.1, 80))
values = 0.5 * x**2 + 0.4 * x * z + 0.75 * z**2 - x - 2 * z
left.contour(x, z, values, levels=25, cmap="Greys", alpha=0.6)
left.add_patch(plt.Rectangle((0, 0), 0.9, 0.9, facecolor="#1b6ca8", alpha=0.12))
left.plot([-0.1, 1.1], [1.05, 0.45], color="#1b6ca8", label="equality")
left.plot(*path.T, marker=".", color="#d95f02", label="iterates")
left.plot(*solution.primal, marker="*", markersize=14, color="black", linestyle="none", label="solution")
left.set_xlim(-0.1, 1.1)
left.set_ylim(-0.1, 1.1)
left.set_aspect("equal")
left.legend(fontsize=8)
right.semilogy(misses, color="#d95f02")
right.set_xlabel("step")
right.set_ylabel("|A y - b|")
right.grid(alpha=0.3)
plt.show()

# %%
# A point from anywhere
# ---------------------
# If the solver cannot be traced by JAX (another library, a file, a person), hand over the point itself:
# ``kkt.differentiable(problem, primal)`` returns the same kind of solution, certified and differentiable.
by_hand = kkt.differentiable(problem, solution.primal)
print(kkt.Status(int(by_hand.status)).name)
