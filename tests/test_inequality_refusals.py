"""What inequalities refuse: bad values, wrong shapes and types, functions that are not convex, and solvers that do not
take them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import kkt_solvers as kkt

EYE = kkt.Quadratic(np.ones(2), np.array([-1.0, -2.0]))


def name(solution):
    return kkt.Status(int(solution.status)).name


def cost(y, *_):
    return jnp.sum((y - 2.0) ** 2)


def disc(y, *_):
    return y @ y - 1.0


def at_most(G, h):
    return lambda: kkt.solve(kkt.Problem(EYE, inequality=kkt.AtMost(G, h)))


def function(g, f=cost):
    return lambda: kkt.solve(kkt.Problem(f, inequality=g), jnp.full(2, 0.1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (at_most([[1.0, 1.0]], [np.nan]), "h has a NaN"),
        (at_most([[1.0, 1.0]], [-np.inf]), "h has a NaN or infinite entry"),
        (at_most([[1.0, np.nan]], [1.0]), "G has a NaN or infinite entry"),
        (at_most([[1.0, np.inf]], [1.0]), "G has a NaN or infinite entry"),
        (at_most([[1.0, 1.0, 1.0]], [1.0]), r"G must have shape \(p, 2\) for y with 2 entries, got \(1, 3\)"),
        (at_most([[1.0, 1.0]], [1.0, 2.0]), r"h must have shape \(1,\), one entry for each row of G, got \(2,\)"),
        (at_most([[1.0, 1.0]], 1.0), r"h must have shape \(1,\), one entry for each row of G, got \(\)"),
        (at_most([1.0, 1.0], [1.0]), "G must"),
        (at_most(sp.csr_matrix(np.ones((1, 3))), [1.0]), r"G must have shape \(p, 2\)"),
        (at_most(lambda y: y, [1.0]), "G must be a matrix; for a function pass inequality=lambda"),
        (lambda: kkt.Problem(EYE, inequality=np.eye(2)), "inequality must be None, an AtMost or a convex function"),
        (lambda: kkt.Problem(EYE, inequality=([[1.0, 1.0]], [1.0])), "inequality must be None, an AtMost"),
        (lambda: kkt.Problem(EYE, inequality=kkt.Affine([[1.0, 1.0]], [1.0])), "inequality is an equality, Affine"),
        (lambda: kkt.Problem(EYE, inequality=kkt.Sum(1.0)), r"inequality is an equality, Sum; pass AtMost\(G, h\)"),
        (lambda: kkt.Problem(EYE, kkt.AtMost([[1.0, 1.0]], [1.0])), "equality is an AtMost, an inequality; pass it as"),
        (function(lambda y: y @ y < 1.0), "inequality must return .* real numbers .* not whether it holds"),
        (function(lambda y: jnp.asarray([1, 2])), "inequality must return .* real numbers"),
        (function(lambda y: (y @ y - 1.0, y[0] <= 1.0)), "inequality must return .* real numbers"),
        (function(lambda y: y[0] + 1j), "inequality must return .* real numbers"),
    ],
)
def test_messages_name_the_argument(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("solver", [kkt.DualBisection, kkt.DualNewton, kkt.MirrorDescent, kkt.ProjectedGradient])
@pytest.mark.parametrize("kind", ["linear", "convex"])
def test_solvers_that_take_no_inequality(solver, kind):
    inequality = kkt.AtMost([[1.0, 0.0]], [0.3]) if kind == "linear" else disc
    problem = kkt.Problem(EYE, kkt.Sum(1.0), kkt.Box(0.0, 1.0), inequality=inequality)
    message = rf"{solver.__name__} takes no {kind} inequality; use kkt.InteriorPoint\(\)"
    with pytest.raises(ValueError, match=message):
        kkt.solve(problem, solver=solver())


def test_the_first_order_solver_takes_no_function():
    with pytest.raises(ValueError, match=r"PrimalDual takes no convex inequality; use kkt.InteriorPoint\(\)"):
        kkt.solve(kkt.Problem(EYE, inequality=disc), solver=kkt.PrimalDual())


@jax.jit
def linear_status(G, h):
    solution = kkt.solve(kkt.Problem(EYE, inequality=kkt.AtMost(G, h)))
    return solution.status, solution.primal, solution.dual.inequality


def test_traced_values_end_in_a_status(x64):
    G = np.array([[1.0, 0.0]])
    expected = {0.5: "SOLVED", np.inf: "SOLVED", np.nan: "INVALID", -np.inf: "INVALID"}
    for h, status in expected.items():
        found, primal, dual = linear_status(G, np.array([h]))
        assert kkt.Status(int(found)).name == status
        if status == "SOLVED":
            np.testing.assert_allclose(primal, [min(1.0, h), 2.0], atol=1e-9)
            np.testing.assert_allclose(dual, [max(0.0, 1.0 - h)], atol=1e-9)
        else:
            assert np.all(np.isnan(primal))
            assert np.all(np.isnan(dual))
    assert kkt.Status(int(linear_status(G * np.nan, np.array([0.5]))[0])).name == "INVALID"


# ----------------------------------------------------------------------------------------- unsuitable functions
def outside(y):
    return 1.0 - y @ y


def inactive_hill(y):
    """The minimum of `cost` is at (2, 2), where it is -7: far from active, and concave."""
    return jnp.stack([1.0 - y @ y, y[0] - 10.0])


def saddle(y):
    return y[0] ** 2 - y[1] ** 2 - 1.0


@pytest.mark.parametrize("g", [outside, inactive_hill, saddle])
def test_functions_that_are_not_convex(g, x64):
    solution = function(g)()
    assert name(solution) == "INVALID"
    assert np.all(np.isnan(solution.primal))
    assert np.all(np.isnan(solution.dual.inequality))
    found = kkt.differentiable(kkt.Problem(cost, inequality=g), jnp.array([2.0, 2.0]))
    assert name(found) == "INVALID"


def always_violated(y):
    return jnp.ones(1)


def never_violated(y):
    return -jnp.ones(1)


def test_constant_functions(x64):
    solution = function(always_violated)()
    assert name(solution) == "PRIMAL_INFEASIBLE"
    np.testing.assert_array_equal(solution.dual.inequality, [1.0])
    assert solution.objective == np.inf
    solution = function(never_violated)()
    assert name(solution) == "SOLVED"
    np.testing.assert_allclose(solution.primal, 2.0, atol=1e-9)
    np.testing.assert_array_equal(solution.dual.inequality, [0.0])


def nan_everywhere(y):
    return y * jnp.nan


def log_barrier(y):
    """NaN where `y` is negative."""
    return -jnp.sum(jnp.log(y)) - 1.0


def test_functions_that_are_nan(x64):
    solution = function(nan_everywhere)()
    assert name(solution) == "NUMERICAL_ERROR"
    assert np.all(np.isinf(solution.residuals.largest))
    # NaN, infinite and finite at the start.
    for start, status in {-1.0: "NUMERICAL_ERROR", 0.0: "NUMERICAL_ERROR", 0.1: "SOLVED"}.items():
        solution = kkt.solve(kkt.Problem(cost, inequality=log_barrier), jnp.full(2, start))
        assert name(solution) == status
    np.testing.assert_allclose(solution.primal, 2.0, atol=1e-9)
