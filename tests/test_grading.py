"""The certificate of the test session refuses what it should, in the user's own terms."""

import dataclasses

import certificates
import grading
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kkt_solvers as kkt


def squares(y, target):
    return {"sphere": jnp.sum(y["a"] ** 2) + y["b"] - target}


def cost(y, target):
    return jnp.sum(y["a"]) + 0.1 * jnp.sum(y["a"] ** 2)


def plane(y, target):
    return {"plane": jnp.sum(y["a"]) + y["b"] - target}


def test_a_wrong_point_and_wrong_multipliers_are_refused(x64):
    problem = kkt.Problem(cost, plane, kkt.Box(-5.0, 5.0), args=(1.0,))
    solution = kkt.solve(problem, {"a": jnp.zeros(2), "b": jnp.zeros(())})
    grading.grade(problem, solution)
    moved = dataclasses.replace(solution, primal=jax.tree.map(lambda leaf: leaf + 0.1, solution.primal))
    with pytest.raises(AssertionError, match="equality"):
        grading.grade(problem, moved)
    other = dataclasses.replace(solution.dual, equality={"plane": solution.dual.equality["plane"] + 1})
    with pytest.raises(AssertionError, match="stationarity"):
        grading.grade(problem, dataclasses.replace(solution, dual=other))
    # The equality is graded as the user wrote it, whatever `solve` made of it.
    with pytest.raises(AssertionError, match="equality"):
        grading.grade(kkt.Problem(cost, squares, problem.box, args=(1.0,)), solution)


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_units_change_no_residual(unit, rng):
    n, m = 6, 2
    F, A, y, nu = rng.normal(size=(n, n)), rng.normal(size=(m, n)), rng.uniform(size=n), rng.normal(size=m)
    P, zl = F @ F.T, 1e-3 * rng.uniform(size=n)
    q = -(P @ y + A.T @ nu) * (1 + 1e-4)

    def residuals(s, v):
        at = certificates.conditions(y * v, P * s / v**2, q * s / v, A / v, A @ y * 1.001, -0.1 * v, np.inf)
        return certificates.residuals(at, certificates.Multipliers(nu * s, zl * s / v, 0 * zl))

    expected = residuals(1.0, 1.0)
    assert min(expected[name] for name in ("stationarity", "equality", "complementarity")) > 1e-6
    for found in (residuals(unit, 1.0), residuals(1.0, unit)):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-15)


def test_rays(rng):
    # y1 + y2 = 3 in [0, 1]^2, and the ray (1, 1) of q'd < 0 with A d = 0.
    at = certificates.conditions(np.zeros(2), None, [0.0, 0.0], [[1.0, 1.0]], [3.0], 0.0, 1.0)
    proof = certificates.Multipliers(np.array([-1.0]), np.zeros(2), np.ones(2))
    assert not certificates.is_proof_of_infeasibility(at, proof, 1e-6)
    assert certificates.is_proof_of_infeasibility(at, proof._replace(equality=np.array([1.0])), 1e-6)
    assert certificates.is_proof_of_infeasibility(at._replace(target=np.array([1.5])), proof, 1e-6)
    at = certificates.conditions(np.ones(2), None, [0.0, 0.0], [[1.0, -1.0]], [0.0], 0.0, np.inf)
    assert not certificates.is_proof_of_unboundedness(at, None, np.array([-1.0, 0.5]), 1e-6)
    assert certificates.is_proof_of_unboundedness(at, None, np.array([-1.0, 1.5]), 1e-6)
    assert certificates.is_proof_of_unboundedness(at, np.ones(2), np.array([-1.0, 0.5]), 1e-6)
    assert certificates.is_proof_of_unboundedness(at._replace(upper=np.ones(2)), None, np.array([-1.0, 0.5]), 1e-6)
