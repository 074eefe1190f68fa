"""
Choose a solver, read its certificate
=====================================

Leave ``solver`` away and one is chosen by the structure of the problem. Name one and that one is used. Either way the
answer is judged by the same certificate, computed from the problem and the point alone: a solver never grades its own
work.
"""

# %%
# One problem, four solvers
# -------------------------
# A portfolio: weights that sum to one, none above a quarter.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import kkt_solvers as kkt

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(3)
factor = rng.normal(size=(20, 20)) / 5
P, q = factor @ factor.T + 0.05 * np.eye(20), -0.1 * rng.normal(size=20)
problem = kkt.Problem(kkt.Quadratic(P, q), kkt.Sum(1.0), kkt.Box(0.0, 0.25))

solvers = {
    "InteriorPoint": kkt.InteriorPoint(),
    "PrimalDual": kkt.PrimalDual(polish=False),
    "ProjectedGradient": kkt.ProjectedGradient(),
    "MirrorDescent, 60 steps": kkt.MirrorDescent(max_iterations=60),
}

# %%
# ``progress`` takes a function that is called in each iteration. ``kkt.plot.History`` is one that remembers. The curve
# of ``InteriorPoint`` falls at its end: once the active set is nearly known it is solved for exactly, to rounding.
solutions = {}
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
for name, solver in solvers.items():
    history = kkt.plot.History()
    solution = solutions[name] = kkt.solve(problem, solver=solver, progress=history)
    kkt.plot.convergence(history, ax, label=name)
    print(f"{name:30} {kkt.Status(int(solution.status)).name:15} {float(solution.residuals.largest):.1e}")
ax.axhline(1e-8, color="#888888", linestyle="--", label="tolerance in float64")
ax.set_xscale("symlog", linthresh=10)
ax.set_xlim(left=0)
ax.legend(fontsize=8)
plt.show()

# %%
# Reading it
# ----------
# ``solution.residuals`` holds relative numbers: how far the point is from stationary, from the equality, from the box,
# from complementarity, the duality gap, and, in a problem with inequalities, how far these are violated. ``SOLVED``
# means that all of them are below the tolerance.
for name, value in vars(solutions["PrimalDual"].residuals).items():
    print(f"{name:16}", "none" if value is None else f"{float(value):.1e}")

# %%
# The last solver above was stopped early. Its status is ``MAX_ITERATIONS``, and it says what may help.
try:
    solutions["MirrorDescent, 60 steps"].raise_if_failed()
except RuntimeError as error:
    print(error)

# %%
# When there is no answer
# -----------------------
# Four rows of a batch ask for weights that sum to 1, 2, 5 and 6. Twenty weights of at most a quarter reach 5, not 6.


@jax.vmap
def solve_for(total):
    return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Sum(total), kkt.Box(0.0, 0.25)))


batch = solve_for(jnp.array([1.0, 2.0, 5.0, 6.0]))
print([kkt.Status(int(code)).name for code in batch.status])
print("optimal values", batch.objective)

# %%
# The last row has no answer, and the others are not harmed. What it has instead is a proof. Its ``dual`` is a ray:
# multipliers with ``A'nu = zl - zu`` and ``l'zl - u'zu - b'nu > 0``. Any feasible ``y`` would contradict them, since
# ``b'nu = y'A'nu = y'(zl - zu)`` is at least ``l'zl - u'zu``. Check it by hand:
nu, zl, zu = batch.dual.equality[3], batch.dual.lower[3], batch.dual.upper[3]
np.testing.assert_allclose(nu * np.ones(20), zl - zu, atol=1e-6)
proof = 0.0 * zl.sum() - 0.25 * zu.sum() - 6.0 * nu
print("positive, so infeasible:", proof)
assert proof > 0

# %%
# Gradients know it too. A row without a solution has no derivative, and gets NaN instead of a number that looks right.


def expected_return(total):
    return -q @ kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Sum(total), kkt.Box(0.0, 0.25))).primal


slopes = jax.vmap(jax.grad(expected_return))(jnp.array([1.0, 2.0, 6.0]))
print("d return / d total:", slopes)
assert np.isfinite(slopes[:2]).all()
assert np.isnan(slopes[2])

# %%
# To train with such rows, mask them: ``jnp.where(status == 0, value, 0.0)`` is not enough, for a NaN times zero is NaN.
# Replace the *data* of failed rows with harmless ones and solve again, or keep them out of the batch.
#
# An unbounded problem is proved the same way: its ``primal`` is a direction along which the objective falls for ever.
unbounded = kkt.solve(kkt.Problem(kkt.Quadratic(None, [-2.0, 1.0]), kkt.Affine([[1.0, -1.0]], [0.0]), kkt.Box(0.0)))
print(kkt.Status(int(unbounded.status)).name, unbounded.primal, unbounded.objective)

# %%
# A table of solvers, and what to do about each status, is in :doc:`/choosing_a_solver`.
