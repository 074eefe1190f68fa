"""The condition of a loop computes nothing, for the reason given in `kkt_solvers/numerics/batches.py`. Conditions of
jaxopt do; its solvers see one instance at a time."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import kkt_solvers as kkt
from kkt_solvers.problems import isotonic_regression, lml, optimal_transport, total_variation

pytestmark = pytest.mark.usefixtures("x64")
EXACT = {"abs", "convert_element_type", "max", "min", "neg", "reduce_max", "reduce_min", "select_n", "slice", "squeeze"}
N = 12
RNG = np.random.default_rng(0)
Q, ROWS = RNG.normal(size=N), RNG.normal(size=(3, N))
P = (lambda root: root @ root.T + np.eye(N))(RNG.normal(size=(N, N)))
COST = RNG.uniform(size=(4, 5))


def equations(jaxpr):
    """Those of inner jaxprs, without the equations that hold them."""
    for equation in jaxpr.eqns:
        inner = list(jax.extend.core.jaxprs_in_params(equation.params))
        yield from (e for part in inner for e in equations(part)) if inner else [equation]


def conditions(jaxpr):
    """The condition of each loop, those in inner jaxprs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "while":
            yield equation.params["cond_jaxpr"].jaxpr
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from conditions(inner)


def computed(condition):
    """The names of operations that may round."""
    rounded = (e for e in equations(condition) if any(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in e.outvars))
    return {e.primitive.name for e in rounded} - EXACT


def loops(function, *args):
    return list(conditions(jax.make_jaxpr(function)(*args).jaxpr))


def exponential(y, q):
    return jnp.vdot(q, y) + jnp.sum(jnp.exp(y))


def disc(y, *args):
    return jnp.vdot(y, y) - 2.0


def dense(q):
    return {"objective": kkt.Quadratic(P, q)}


def diagonal(q):
    return {"objective": kkt.Quadratic(np.ones(N), q)}


def general(q):
    return {"objective": exponential, "args": (q,)}


FEW = kkt.Affine(ROWS, ROWS @ np.full(N, 0.3))


def solved(kind, equality=FEW, inequality=None, **options):
    """A function with its gradient, and a point."""

    def value(q):
        problem = kkt.Problem(equality=equality, box=kkt.Box(0.0, 1.0), inequality=inequality, **kind(q))
        return jnp.vdot(Q, kkt.solve(problem, jnp.full(N, 0.3), **options).primal)

    return jax.value_and_grad(value), Q


PROGRAMS = {
    "quadratic": solved(dense),
    "general": solved(general),
    "inequality": solved(dense, inequality=kkt.AtMost(np.eye(N), np.full(N, 0.5))),
    "curved inequality": solved(dense, inequality=disc),
    "curved, general": solved(general, inequality=disc),
    "sparse": solved(dense, kkt.Affine(sparse.csr_array(ROWS), FEW.b)),
    "smoothed": solved(dense, smoothing=0.1),
    "PrimalDual": solved(dense, solver=kkt.PrimalDual()),
    "PrimalDual, unpolished": solved(dense, solver=kkt.PrimalDual(polish=False)),
    "DualNewton": solved(diagonal, solver=kkt.DualNewton()),
    "DualBisection": solved(diagonal, kkt.Sum(3.0), solver=kkt.DualBisection()),
    "bisection of jaxopt": solved(diagonal, kkt.Sum(3.0), solver=kkt.DualBisection(accelerate=False)),
    "MirrorDescent": solved(general, kkt.Sum(3.0), solver=kkt.MirrorDescent()),
    "lml": (lambda x: lml(x, 3), Q),
    "transport": (lambda C: optimal_transport(C, np.full(4, 0.25), np.full(5, 0.2), 0.01), COST),
    "isotonic": (isotonic_regression, Q),
    "total variation": (lambda y: total_variation(y, 0.3), Q),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_conditions_do_not_compute(name):
    for condition in loops(*PROGRAMS[name]):
        assert not computed(condition)


@pytest.mark.parametrize("solver", [kkt.ProjectedGradient(), kkt.Jaxopt("ProjectedGradient")])
def test_loops_that_compute_see_one_instance(solver):
    function, q = solved(general, kkt.Sum(3.0), solver=solver)
    assert any(map(computed, loops(function, q)))  # or this test is of no use
    for condition in loops(jax.vmap(function), np.stack([q, -q, 2 * q])):
        assert not (computed(condition) and condition.outvars[0].aval.shape)
