"""Solvers written elsewhere, behind `Jaxopt`, `Scipy` and the plain interface."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kkt_solvers as kkt

P = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, 0.0], [0.5, 0.0, 2.0]])
q = np.array([-3.0, 1.0, 0.5])
A = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]])
b = np.array([1.0, 0.75])


def quadratic(q, *, equality=True, box=True):
    return kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b) if equality else None, kkt.Box(0.0, 0.8) if box else None)


def energy(y, tilt):
    return jnp.sum(jnp.cosh(y - tilt)) + 0.5 * jnp.sum(y) ** 2


def smooth(tilt, *, equality=True, box=True):
    return kkt.Problem(energy, kkt.Sum(1.0) if equality else None, kkt.Box(0.0, 0.8) if box else None, args=(tilt,))


EVERYTHING, NO_BOX, NO_EQUALITY, NOTHING = {}, {"box": False}, {"equality": False}, {"equality": False, "box": False}


@pytest.mark.parametrize(
    ("solver", "family", "without"),
    [
        (kkt.Jaxopt("BoxOSQP"), quadratic, EVERYTHING),
        (kkt.Jaxopt("OSQP"), quadratic, NO_EQUALITY),
        (kkt.Jaxopt("EqualityConstrainedQP"), quadratic, NO_BOX),
        (kkt.Jaxopt("LBFGSB", maxiter=200), smooth, NO_EQUALITY),
        (kkt.Jaxopt("LBFGS"), smooth, NOTHING),
        (kkt.Jaxopt("ProjectedGradient"), smooth, EVERYTHING),
        (kkt.Scipy(), quadratic, EVERYTHING),
        (kkt.Scipy("trust-constr", gtol=1e-9), smooth, EVERYTHING),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "method", None)),
)
def test_same_answer_and_gradient_as_the_interior_point(solver, family, without, x64):
    slope = jnp.array([0.3, -1.0, 2.0])

    def answer(data, solver):
        solution = kkt.solve(family(data, **without), jnp.full(3, 0.3), solver=solver)
        return jnp.vdot(slope, solution.primal), solution

    data = q if family is quadratic else np.array([0.9, 0.1, -0.4])
    (_, found), gradient = jax.jit(jax.value_and_grad(answer, has_aux=True), static_argnums=1)(data, solver)
    (_, expected), expected_gradient = jax.value_and_grad(answer, has_aux=True)(data, kkt.InteriorPoint())
    found.raise_if_failed()
    np.testing.assert_allclose(found.primal, expected.primal, atol=1e-8)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
    assert found.iterations >= 0


def test_multipliers_without_polish(x64):
    """The signs of the multipliers that a solver hands over itself."""
    expected = kkt.solve(quadratic(q))
    for solver in (kkt.Jaxopt("BoxOSQP", polish=False, tol=1e-6), kkt.Jaxopt("OSQP", polish=False, tol=1e-6)):
        solution = kkt.solve(quadratic(q), solver=solver)
        assert kkt.Status(int(solution.status)).name == "SOLVED"
        for found, right in zip(jax.tree.leaves(solution.dual), jax.tree.leaves(expected.dual), strict=True):
            np.testing.assert_allclose(found, right, atol=1e-4)
    linear = kkt.Problem(kkt.Quadratic(None, q), kkt.Affine(A, b), kkt.Box(0.0, 0.8))
    solution, expected = kkt.solve(linear, solver=kkt.Scipy(polish=False)), kkt.solve(linear)
    np.testing.assert_allclose(solution.primal, expected.primal, atol=1e-9)
    for found, right in zip(jax.tree.leaves(solution.dual), jax.tree.leaves(expected.dual), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-8)


def test_scipy_in_a_batch(x64):
    totals = jnp.array([0.5, 1.0, 9.0])

    def solve(total):
        return kkt.solve(
            kkt.Problem(kkt.Quadratic(None, q), kkt.Sum(total), kkt.Box(0.0, 0.8)), solver=kkt.Scipy("highs-ds")
        )

    solutions = jax.jit(jax.vmap(solve))(totals)
    # y follows the slopes -3, 0.5, 1 until each is at its bound; the last total is out of reach.
    np.testing.assert_allclose(solutions.primal[:2], [[0.5, 0.0, 0.0], [0.8, 0.0, 0.2]], atol=1e-9)
    assert [kkt.Status(int(s)).name for s in solutions.status[:2]] == ["SOLVED", "SOLVED"]
    assert kkt.Status(int(solutions.status[2])).name != "SOLVED"


def test_refused():
    with pytest.raises(ValueError, match="name must be one of"):
        kkt.Jaxopt("Anderson")
    with pytest.raises(ValueError, match="takes no equality"):
        kkt.solve(smooth(jnp.zeros(3)), jnp.zeros(3), solver=kkt.Jaxopt("LBFGSB"))
    with pytest.raises(ValueError, match="Quadratic objective only"):
        kkt.solve(smooth(jnp.zeros(3)), jnp.zeros(3), solver=kkt.Jaxopt("BoxOSQP"))
    with pytest.raises(TypeError, match="hashable"):
        kkt.Scipy("SLSQP", bounds=[1, 2])
