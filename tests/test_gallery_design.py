"""D-optimal designs: of polynomials, in closed form; the equivalence theorem of Kiefer and Wolfowitz; and SciPy's SLSQP
with caps and a budget (1e-6 in float64)."""

import jax
import numpy as np
import pytest
import scipy.optimize

import kkt_solvers as kkt
from kkt_solvers.problems import OptimalDesign, optimal_design


def variances(w, points):
    """Of the estimate at every candidate, `a_i' M^{-1} a_i`."""
    return np.einsum("ij,ji->i", points, np.linalg.solve((points.T * w) @ points, points.T))


def reference(points, upper, cost, budget):
    """SLSQP's weights."""
    limits = [
        {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)},
        {"type": "ineq", "fun": lambda w: budget - cost @ w, "jac": lambda w: -cost},
    ]
    found = scipy.optimize.minimize(
        lambda w: -np.linalg.slogdet((points.T * w) @ points)[1],
        np.full(len(points), 1 / len(points)),
        jac=lambda w: -variances(w, points),
        bounds=[(0, upper)] * len(points),
        constraints=limits,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x, -found.fun


def test_polynomials(x64):
    # A cubic is measured best at both ends and at the roots of the derivative of a Legendre polynomial, as often each.
    x = np.concatenate([np.linspace(-1, 1, 21), [-np.sqrt(0.2), np.sqrt(0.2)]])
    points = np.vander(x, 4)
    w = optimal_design(points)
    np.testing.assert_allclose(w[np.isin(x, [-1, 1, -np.sqrt(0.2), np.sqrt(0.2)])], 0.25, atol=1e-8)
    assert np.max(variances(np.asarray(w), points)) <= 4 * (1 + 1e-8)


def test_caps_a_budget_and_its_price(rng, x64):
    n, p, upper = 14, 3, 0.3
    points, cost = rng.normal(size=(n, p)), rng.uniform(1, 3, size=n)

    def solved(budget):
        solution = kkt.solve(OptimalDesign(points, upper, cost=cost, budget=budget))
        return solution.primal, (solution.primal, solution.dual.inequality, solution.status)

    # The budget binds; it does not; no weights meet it, because of the caps.
    budgets = np.array([0.5 * (cost.min() + cost.mean()), 3.0, cost.min() + 1e-3])
    by_budget, (w, price, status) = jax.jit(jax.vmap(jax.jacobian(solved, has_aux=True)))(budgets)
    assert status.tolist() == [kkt.Status.SOLVED, kkt.Status.SOLVED, kkt.Status.PRIMAL_INFEASIBLE]
    assert np.all(np.isnan(by_budget[-1]))
    assert price[0, 0] > 0.1
    h = 1e-3
    for row, budget in enumerate(budgets[:2]):
        np.testing.assert_allclose(w[row], reference(points, upper, cost, budget)[0], atol=1e-6)
        (up, more), (down, less) = (reference(points, upper, cost, budget + s) for s in (h, -h))
        np.testing.assert_allclose(
            by_budget[row], (up - down) / (2 * h), atol=1e-3 * (1 + np.abs(by_budget[row]).max())
        )
        np.testing.assert_allclose(price[row, 0], (more - less) / (2 * h), atol=1e-4 * (1 + price[row, 0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": np.ones(3)}, "points must be a matrix"),
        ({"points": np.ones((1, 2))}, "points must have at least as many rows as columns"),
        ({"upper": -1.0}, "upper must be nonnegative"),
        ({"upper": 0.3}, "upper must have a sum of one at least"),
        ({"upper": np.ones(3)}, r"upper .* shape \(2,\) of the rows of points"),
        ({"cost": np.ones(2)}, "cost and budget go together"),
        ({"budget": 1.0}, "cost and budget go together"),
        ({"cost": np.ones(3), "budget": 1.0}, r"cost must have shape \(2,\)"),
        ({"cost": np.ones(2), "budget": 0.5}, "budget must be above the least cost"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        OptimalDesign(**{"points": np.eye(2)} | options)
