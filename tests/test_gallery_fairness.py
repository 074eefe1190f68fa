"""Bounded group loss against Clarabel (exponential cones, 1e-4 in float64) and the roots of its conditions by SciPy
(1e-8), and the limit at which two groups lose the same, by Newton's method."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import scipy.optimize

import kkt_solvers as kkt
from kkt_solvers.problems import FairLogisticRegression, fair_logistic_regression

M, MINORITY, P = 40, 12, 3


def people(rng):
    """A majority and a minority whose labels follow different coefficients."""
    X = np.c_[np.ones(M), rng.normal(size=(M, P - 1))]
    first = np.arange(M) < MINORITY
    slopes = np.where(first[:, None], [0.5, -1.5, 1.0], [-0.5, 1.5, 1.0])
    labels = np.where(rng.random(M) < 1 / (1 + np.exp(-np.sum(X * slopes, 1))), 1.0, -1.0)
    return X, labels, np.stack([first, ~first]).astype(float)


def reference(X, labels, members, limit, ridge=0.0, shared=False):
    """Clarabel's coefficients and the prices of the limits: a loss of at most t is `exp(-margin - t) + exp(-t) <= 1`.
    With `shared` the limits are one variable, which alone is minimised."""
    (m, p), groups = X.shape, len(members)
    size = p + 3 * m + 1  # coefficients, losses, both exponentials, a limit
    rows = np.arange(m)
    total, cones = np.zeros((m, size)), np.zeros((2, m, 3, size))
    total[rows, p + m + rows] = total[rows, p + 2 * m + rows] = 1
    cones[0, :, 0, :p] = labels[:, None] * X
    for k in (0, 1):
        cones[k, rows, 0, p + rows], cones[k, rows, 2, p + (k + 1) * m + rows] = 1, -1
    means = np.zeros((groups, size))
    means[:, p : p + m] = members / np.sum(members, 1, keepdims=True)
    means[:, -1] = -1.0
    end = np.eye(size)[-1:]
    blocks = [
        (means, np.zeros(groups) if shared else limit - limit[0], clarabel.NonnegativeConeT(groups)),
        (total, np.ones(m), clarabel.NonnegativeConeT(m)),
        (cones.reshape(-1, size), np.tile([0.0, 1.0, 0.0], 2 * m), [clarabel.ExponentialConeT()] * (2 * m)),
    ]
    if not shared:
        blocks.append((end, [limit[0]], clarabel.ZeroConeT(1)))
    quadratic = np.diag(np.r_[np.full(p, ridge), np.zeros(3 * m + 1)])
    v, multipliers = references.cone_program(
        quadratic, end[0] if shared else np.r_[np.zeros(p), np.ones(m), np.zeros(2 * m + 1)], *blocks
    )
    return v[:p], multipliers[0]


def refined(X, labels, members, limit, ridge):
    """The same in more digits: where the conditions of optimality are zero, of the limits that bind."""
    b, prices = reference(X, labels, members, limit, ridge)
    active = prices > 1e-3
    means = (members / np.sum(members, 1, keepdims=True))[active]

    def conditions(v):
        b, prices = v[:P], v[P:]
        margins = labels * (X @ b)
        slopes = -labels / (1 + np.exp(margins))
        beyond = means @ np.logaddexp(0, -margins) - limit[active]
        return np.r_[X.T @ (slopes * (1 + prices @ means)) + ridge * b, beyond]

    found = scipy.optimize.root(conditions, np.r_[b, prices[active]], tol=1e-13).x
    prices[active] = found[P:]
    return found[:P], prices


def test_prices_and_sensitivity(rng, x64):
    X, labels, members = people(rng)
    ridge = 0.5

    def solved(limit):
        solution = kkt.solve(FairLogisticRegression(X, labels, members, limit, ridge=ridge))
        return solution.primal, (solution.primal, solution.dual.inequality, solution.status)

    # The minority's limit binds; neither does; no coefficients meet the last.
    limits = np.array([[0.65, 2.0], [3.0, 3.0], [0.2, 0.2]])
    by_limit, (b, prices, status) = jax.jit(jax.vmap(jax.jacobian(solved, has_aux=True)))(limits)
    assert status.tolist() == [kkt.Status.SOLVED, kkt.Status.SOLVED, kkt.Status.PRIMAL_INFEASIBLE]
    assert prices[0][0] > 1
    assert np.all(np.isnan(by_limit[-1]))
    for row, limit in enumerate(limits[:2]):
        expected, worth = reference(X, labels, members, limit, ridge)
        np.testing.assert_allclose(b[row], expected, atol=1e-4)
        np.testing.assert_allclose(prices[row], worth, atol=1e-4 * max(1, prices[row].max()))
        np.testing.assert_allclose(b[row], refined(X, labels, members, limit, ridge)[0], atol=1e-8)
        for k, step in enumerate(1e-4 * np.eye(2)):
            up, down = (refined(X, labels, members, limit + s * step, ridge)[0] for s in (1, -1))
            np.testing.assert_allclose(by_limit[row][:, k], (up - down) / 2e-4, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_equal_losses_by_newton(rng, x64):
    # As the limit of the minority falls, the majority loses more. Where both lose the same, no coefficients are better
    # for the worse-off of the two: the largest mean loss is smallest there.
    X, labels, members = people(rng)

    def gap(limit):
        b = fair_logistic_regression(X, labels, members[:1], limit)
        losses = jnp.logaddexp(0.0, -labels * (X @ b))
        return losses @ members[1] / members[1].sum() - limit, b

    step = jax.jit(jax.value_and_grad(gap, has_aux=True))
    limit = jnp.asarray(0.7)
    for _ in range(6):
        (value, b), slope = step(limit)
        limit = limit - value / slope
    assert abs(value) < 1e-9
    np.testing.assert_allclose(b, reference(X, labels, members, None, shared=True)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1]}, r"labels must be \+1 or -1"),
        ({"members": [1.0, 1.0]}, r"members must have shape \(groups, 2\)"),
        ({"members": [[1.0, -1.0]]}, "members must be nonnegative"),
        ({"members": [[1.0, 1.0], [0.0, 0.0]]}, "members must have an observation in each group"),
        ({"limit": 0.0}, "limit must be positive and finite"),
        ({"limit": np.inf}, "limit must be positive and finite"),
        ({"limit": np.ones(3)}, r"limit .* shape \(1,\) of the rows of members"),
        ({"ridge": -1.0}, "ridge must be nonnegative"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        FairLogisticRegression(**{"X": np.eye(2), "labels": [1, -1], "members": [[1.0, 0.0]], "limit": 1.0} | change)
