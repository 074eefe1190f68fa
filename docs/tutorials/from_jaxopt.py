"""
From jaxopt to here
===================

This library began with three programs that people write when they want a constrained problem inside a network and
reach for jaxopt. Each is natural, and each fails or is wrong. Here they stand, each beside a version that works. jaxopt
itself is inside this library, as a forward solver; what is new is the derivative and the certificate.
"""

# %%
import warnings

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import kkt_solvers as kkt
from kkt_solvers import projections
from kkt_solvers.problems import LML, lml

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it says that it is no longer maintained
    import jaxopt

scores = jnp.array([2.0, 0.3, 0.1, -0.5, 0.8])


def attempt(name, function, *arguments):
    """Print what comes out, or the first line of what is raised."""
    try:
        print(f"{name}: {function(*arguments)}")
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:90]}")


# %%
# 1. Bisection over closed-over values
# ------------------------------------
# The layer LML: find the threshold at which k probabilities are chosen. The scores are closed over, and the bracket
# depends on them.


def lml_by_bisection(scores, k):
    def excess(threshold):
        return jnp.sum(jax.nn.sigmoid(scores - threshold)) - k

    ordered = jnp.sort(scores)
    solver = jaxopt.Bisection(excess, lower=ordered[-k - 1] - 7, upper=ordered[-k] + 7)
    return jax.nn.sigmoid(scores - solver.run().params)


attempt("forward", lml_by_bisection, scores, 2)
attempt("grad", jax.grad(lambda scores: lml_by_bisection(scores, 2)[3]), scores)
attempt("jit", jax.jit(lambda scores: lml_by_bisection(scores, 2)), scores)
attempt("vmap", jax.vmap(lambda scores: lml_by_bisection(scores, 2)), jnp.stack([scores, -scores]))

# %%
# The forward pass works, and nothing else does. The bracket is a field of the solver and so closed over; the check of
# the bracket needs its value. Here is the version that works, in every order of ``jit``, ``vmap`` and ``grad``:
attempt("forward", lml, scores, 2)
attempt("jit of grad", jax.jit(jax.grad(lambda scores: lml(scores, 2)[3])), scores)
attempt("grad of jit", jax.grad(jax.jit(lambda scores: lml(scores, 2)[3])), scores)
attempt("vmap", jax.vmap(lambda scores: lml(scores, 2).sum()), jnp.stack([scores, -scores]))

# %%
# 2. The check switched off
# -------------------------
# Pass the scores as an argument, stop the gradient of the bracket, switch its check off. Now the gradient works, but
# not that of the jitted function. And where many scores are tied the bracket does not hold the root: the sum should
# be 1.


def lml_unchecked(scores, k):
    def excess(threshold, scores):
        return jnp.sum(jax.nn.sigmoid(scores - threshold)) - k

    ordered = jnp.sort(jax.lax.stop_gradient(scores))
    bounds = {"lower": ordered[-k - 1] - 7, "upper": ordered[-k] + 7}
    solver = jaxopt.Bisection(excess, **bounds, check_bracket=False)
    return jax.nn.sigmoid(scores - solver.run(None, scores).params)


attempt("grad", jax.grad(lambda scores: lml_unchecked(scores, 2)[3]), scores)
attempt("grad of jit", jax.grad(jax.jit(lambda scores: lml_unchecked(scores, 2)[3])), scores)
attempt("sum of 2000 tied scores, k = 1", lambda: lml_unchecked(jnp.zeros(2000), 1).sum())
attempt("the same here", lambda: lml(jnp.zeros(2000), 1).sum())

# %%
# If you like to write the problem out, closed over or not, do. The values that your functions close over are found and
# differentiated, and the bracket is valid by construction.


def phi(y, scores):
    return y * jnp.log(y) + (1 - y) * jnp.log1p(-y) - scores * y


def minimiser(z, scores):
    return jax.nn.sigmoid(scores + z)


def lml_written_out(scores, k):
    objective = kkt.Separable(phi, scores, minimiser)
    problem = kkt.Problem(objective, equality=lambda y: jnp.sum(y) - k, box=kkt.Box(0.0, 1.0))
    return kkt.solve(problem, scores, solver=kkt.DualBisection()).primal


slope = jax.grad(jax.jit(lambda scores, k: lml_written_out(scores, k)[3]), argnums=(0, 1))(scores, 2.0)
print("grad of jit, in the scores and in k:", *slope)
np.testing.assert_allclose(slope[0], jax.grad(lambda scores: lml(scores, 2)[3])(scores), atol=1e-5)

# %%
# 3. Projected gradient, with a projection that is none
# -----------------------------------------------------
# To stay in the box with the right sum, people clip and then divide. The result has the right sum and is not the
# nearest point; projected gradient with it converges to something else, quietly.


def negative_entropy(y, scores):
    return jnp.sum(phi(y, scores))


def clip_and_divide(y, hyperparams=None):
    y = jnp.clip(y, 1e-6, 1 - 1e-6)
    return 2 * y / y.sum()


def lml_by_descent(scores):
    solver = jaxopt.ProjectedGradient(negative_entropy, projection=clip_and_divide, maxiter=500)
    return solver.run(jnp.full(5, 0.4), None, scores).params


wrong = lml_by_descent(scores)
right = kkt.solve(LML(scores, 2), solver=kkt.ProjectedGradient()).primal
print("clip and divide", wrong, "sum", wrong.sum())
print("projected      ", right, "sum", right.sum())
np.testing.assert_allclose(right, lml(scores, 2), atol=1e-4)

# %%
# jaxopt has the true projection, ``projection_box_section``. It accelerates its iterates out of the domain of the
# logarithm, and its gradient is not implemented.
box_section = (jnp.zeros(5), jnp.ones(5), jnp.ones(5), 2.0)


def lml_by_box_section(scores):
    projection = jaxopt.projection.projection_box_section
    solver = jaxopt.ProjectedGradient(negative_entropy, projection=projection, maxiter=500)
    return solver.run(jnp.full(5, 0.4), box_section, scores).params


attempt("forward", lml_by_box_section, scores)
attempt("grad", jax.grad(lambda scores: lml_by_box_section(scores)[3]), scores)

# %%
# Here ``kkt.ProjectedGradient`` runs jaxopt's method in rounds that stay inside the domain, with an exact projection,
# and the derivative does not come from the method at all. The projections are there on their own as well:
v = jnp.array([2.0, 0.3, 0.1, -0.5, 0.8])
nearest = projections.euclidean(v, 2.0, lower=0.0, upper=1.0)
divided = clip_and_divide(v)
print("squared distances:", jnp.sum((nearest - v) ** 2), "nearest;", jnp.sum((divided - v) ** 2), "clip and divide")

figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
for ax, (bad, good), title in zip(
    axes, [(divided, nearest), (wrong, right)], ["projection of v", "LML by projected gradient"], strict=True
):
    ax.bar(np.arange(5) - 0.2, bad, 0.4, color="#d95f02", label="clip and divide")
    ax.bar(np.arange(5) + 0.2, good, 0.4, color="#1b6ca8", label="kkt_solvers")
    ax.axhline(1, color="#bbbbbb", linestyle="--", linewidth=1, zorder=0)
    ax.set_title(title)
axes[0].legend()
plt.show()

# %%
# Dictionary
# ----------
# .. list-table::
#    :header-rows: 1
#
#    * - jaxopt
#      - here
#    * - ``Bisection(f, lower, upper)`` for one equality
#      - ``kkt.solve(problem)``: ``DualBisection``, which brings its own bracket
#    * - ``ProjectedGradient(f, projection)``
#      - ``kkt.solve(problem, solver=kkt.ProjectedGradient())``
#    * - ``BoxOSQP``, ``OSQP``
#      - ``kkt.solve`` with a ``Quadratic``, or ``kkt.solve_qp``
#    * - ``projection.projection_box_section``, ``projection_simplex``
#      - ``kkt.projections.euclidean``, ``simplex``
#    * - ``implicit_diff=True``, ``implicit_diff_solve``
#      - always; ``linear=`` names a linear system
#    * - ``custom_root(optimality)``
#      - ``kkt.differentiable(problem, primal)``
#    * - any of its solvers
#      - ``kkt.Jaxopt("LBFGSB")`` and others, certified
