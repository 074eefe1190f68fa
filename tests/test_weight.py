"""A solve is a small program: how many equations it has, and how often the user's functions are traced.

An equation is paid for when it is traced, compiled, launched and read. These budgets have a tenth to spare. Lower them
when a program gets lighter; a heavier one has to earn its place.
"""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

import kkt_solvers as kkt
from kkt_solvers._solve import solve  # not the one whose solutions are graded, which calls the functions too
from kkt_solvers.problems import lml

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
N, M = 20, 5
P = (lambda root: root @ root.T / N + 0.1 * np.eye(N))(RNG.normal(size=(N, N)))
Q, A = RNG.normal(size=N), RNG.normal(size=(M, N))
B = A @ RNG.uniform(size=N)
SCORES = RNG.normal(size=(128, 100))


def equations(jaxpr):
    """Those of inner jaxprs included: each branch and each loop body once."""
    inner = (inner for equation in jaxpr.eqns for inner in jax.extend.core.jaxprs_in_params(equation.params))
    return len(jaxpr.eqns) + sum(map(equations, inner))


def quadratic(P, q, A, b):
    return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(0.0, 1.0))).primal


def inequalities(P, q, A, b):
    return kkt.solve_qp(P, q, A, b, None, None, 0.0, 1.0).primal


def disc(y, *args):
    return jnp.vdot(y, y) - 1.0


def at_most(P, q, A, b):
    return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), inequality=kkt.AtMost(A, b))).primal


def curved(P, q):
    return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), inequality=disc)).primal


def cost(y, c):
    return jnp.vdot(c, y) + jnp.sum(y * jnp.log(y)) + jnp.sum(y**4)


def general(q):
    return kkt.solve(kkt.Problem(cost, kkt.Affine(A, B), kkt.Box(0.0, 1.0), args=(q,)), jnp.ones(N)).primal


def gradient(function):
    return lambda *args: jax.grad(lambda *args: jnp.sum(function(*args) ** 2), tuple(range(len(args))))(*args)


BUDGETS = {
    "qp": (quadratic, (P, Q, A, B), 2250),
    "qp, gradient": (gradient(quadratic), (P, Q, A, B), 3050),
    "solve_qp": (inequalities, (P, Q, A, B), 2300),
    "linear inequality": (at_most, (P, Q, A, B), 2500),
    "convex inequality": (curved, (P, Q), 3000),
    "convex inequality, gradient": (gradient(curved), (P, Q), 4350),
    "general": (general, (Q,), 2860),
    "qp, batch": (jax.vmap(quadratic), (P[None], Q[None], A[None], B[None]), 3600),
    "lml": (lambda x: lml(x, 5), (SCORES,), 400),
    "lml, gradient": (gradient(lambda x: lml(x, 5)), (SCORES,), 450),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_equations(name):
    function, args, budget = BUDGETS[name]
    assert equations(jax.make_jaxpr(function)(*args).jaxpr) <= budget


def test_how_often_functions_are_traced():
    traced = {"objective": 0, "equality": 0}

    def objective(y, a):
        traced["objective"] += 1
        return jnp.sum((y - a) ** 4)

    def equality(y, a):
        traced["equality"] += 1
        return jnp.sum(y) - 1

    problem = kkt.Problem(objective, equality, kkt.Box(jnp.zeros(5), 1.0), args=(jnp.linspace(0, 1, 5),))
    solve(problem)
    assert traced["objective"] <= 18
    assert traced["equality"] <= 8
    before = dict(traced)
    solve(problem)
    # Once, to see whether what they close over is traced.
    assert all(traced[name] <= before[name] + 1 for name in traced)
