"""
Batches, precision, accelerators
================================

A solver here has no switch for batches, compilation or devices. Those are JAX's: ``jax.jit``, ``jax.vmap``, and where
the arrays live.
"""

# %%
# One problem, many times
# -----------------------
# How much risk to take? Solve a portfolio for two hundred risk aversions at once. Only the objective differs, so only
# what depends on the argument of ``vmap`` is batched; the rest is shared.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import kkt_solvers as kkt

rng = np.random.default_rng(5)
n = 10
factor = rng.normal(size=(n, 3)) / 5
covariance = factor @ factor.T + np.diag(rng.uniform(0.02, 0.08, n))
returns = np.linspace(0.02, 0.12, n)


def weights(caution):
    """Long-only weights of at most 40 %."""
    objective = kkt.Quadratic(caution * jnp.asarray(covariance), -jnp.asarray(returns))
    return kkt.solve(kkt.Problem(objective, kkt.Sum(1.0), kkt.Box(0.0, 0.4)))


caution = jnp.geomspace(0.1, 30.0, 200)
frontier = jax.jit(jax.vmap(weights))(caution)
print("solved:", int((frontier.status == kkt.Status.SOLVED).sum()), "of", frontier.status.size)

# %%
# Every field of the solution has the batch in front: one status, one iteration count, one set of multipliers a row.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
left.stackplot(caution, frontier.primal.T, colors=plt.colormaps["viridis"](np.linspace(0, 1, n)))
left.set_xscale("log")
left.set_xlim(caution[0], caution[-1])
left.set_ylim(0, 1)
left.set_xlabel("risk aversion")
left.set_ylabel("weights")
risk = jnp.sqrt(jnp.einsum("ri,ij,rj->r", frontier.primal, covariance, frontier.primal))
right.plot(risk, frontier.primal @ returns, color="#1b6ca8")
right.scatter(np.sqrt(np.diag(covariance)), returns, color="#888888", s=15, label="one asset alone")
right.set_xlabel("risk")
right.set_ylabel("return")
right.legend()
plt.show()

# %%
# Rules of thumb
# --------------
# - *Jit the outermost function.* The first call compiles, seconds for an interior point. Later calls with the same
#   shapes and dtypes take what the arithmetic takes.
# - *Functions at module level.* Outside ``jax.jit``, a new ``lambda`` for each call is a new program for each call.
# - *Gradients of a batch*: ``jax.vmap(jax.grad(f))`` for one a row, or ``jax.grad`` of a sum.
# - *Rows do not see each other.* One that is infeasible, or holds a NaN, has its own status.
spoilt = caution.at[3].set(jnp.nan)
statuses = jax.jit(jax.vmap(weights))(spoilt).status
print("row 3:", kkt.Status(int(statuses[3])).name, " others:", set(np.delete(np.asarray(statuses), 3).tolist()))
assert int(statuses[3]) == kkt.Status.INVALID
assert int((statuses == kkt.Status.SOLVED).sum()) == 199

# %%
# float32 and float64
# -------------------
# JAX computes in float32 unless told otherwise, and so does everything here. ``SOLVED`` means a relative residual of at
# most 1e-5 in float32 and 1e-8 in float64; ``tol`` changes that. What precision buys, measured against float64:
with jax.enable_x64(True):
    precise = jax.jit(jax.vmap(weights))(caution.astype(jnp.float64))
    assert precise.primal.dtype == jnp.float64
    largest = np.asarray(precise.residuals.largest)
error = np.abs(np.asarray(frontier.primal, float) - np.asarray(precise.primal)).max(axis=1)

figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.loglog(caution, error + 1e-17, label="error of the weights in float32")
ax.loglog(caution, largest + 1e-17, label="largest residual in float64")
ax.set_xlabel("risk aversion")
ax.legend(fontsize=8)
ax.grid(alpha=0.3)
plt.show()

# %%
# Sixteen-bit floats are computed in float32, and come back as they were. Use float64 for multipliers of badly scaled
# problems, for second derivatives, and to check a gradient by finite differences.
#
# Accelerators
# ------------
# The same program runs on a GPU: install JAX for it, and arrays are there by default. On a CPU the rows of a batch
# are solved one after the other, each with as many iterations as it needs. On a GPU they run in step, until the last
# is done; so batch rows of like difficulty. Sparse factorisations and ``kkt.Scipy`` stay on the host.
#
# A GPU multiplies float32 matrices with eleven bits of their factors unless told otherwise, too few for any solver.
# What runs inside this library, your functions in a problem too, is told so. Matrices that you multiply before are not:
# see ``jax.default_matmul_precision``.
print("devices:", jax.devices()[0].platform)
