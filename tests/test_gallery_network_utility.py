"""Proportionally fair rates against Clarabel (exponential cones, 1e-6 in float64), and a line of links."""

import clarabel
import jax
import numpy as np
import pytest
import references

from kkt_solvers.problems import NetworkUtility, network_utility

LINKS, FLOWS = 5, 8


def reference(routing, capacity, weights):
    """Clarabel's rates, and the prices of the links: `(u, 1, x)` in the exponential cone is `u <= log x`."""
    links, flows = routing.shape
    cones, at = np.zeros((flows, 3, 2 * flows)), np.arange(flows)
    cones[at, 0, flows + at] = cones[at, 2, at] = -1
    v, (prices, _) = references.cone_program(
        None,
        np.r_[np.zeros(flows), -weights],
        (np.c_[routing, np.zeros((links, flows))], capacity, clarabel.NonnegativeConeT(links)),
        (cones.reshape(-1, 2 * flows), np.tile([0.0, 1.0, 0.0], flows), [clarabel.ExponentialConeT()] * flows),
    )
    return v[:flows], prices


def test_rates_prices_and_their_sensitivity(rng, x64):
    routing = (rng.random((LINKS, FLOWS)) < 0.4).astype(float)
    routing[np.arange(FLOWS) % LINKS, np.arange(FLOWS)] = 1
    weights = rng.uniform(0.5, 2, size=FLOWS)
    # Every link is a bottleneck in the first row; one has more than it needs in the second.
    capacity = np.stack([rng.uniform(1, 2, size=LINKS)] * 2)
    capacity[1, 0] = 50.0

    def found(capacity):
        return network_utility(routing, capacity, weights)

    (rates, prices), slopes = jax.jit(jax.vmap(references.value_and_jacobian(found)))(capacity)
    h = 1e-2  # Clarabel's rates have six digits
    for row, limit in enumerate(capacity):
        expected = reference(routing, limit, weights)
        np.testing.assert_allclose(rates[row], expected[0], atol=1e-6)
        np.testing.assert_allclose(prices[row], expected[1], atol=1e-5)
        np.testing.assert_allclose(rates[row] * (prices[row] @ routing), weights, rtol=1e-7)
        for k, step in enumerate(h * np.eye(LINKS)):
            for slope, up, down in zip(
                slopes,
                reference(routing, limit + step, weights),
                reference(routing, limit - step, weights),
                strict=True,
            ):
                np.testing.assert_allclose(
                    slope[row][:, k], (up - down) / (2 * h), atol=1e-3 * (1 + np.abs(slope[row]).max())
                )
        # The prices are the gradient of a function of the capacities, so their Jacobian is symmetric.
        np.testing.assert_allclose(slopes.prices[row], slopes.prices[row].T, atol=1e-7)
    assert prices[1, 0] < 1e-9


def test_a_line_of_links(x64):
    # One flow takes all links and shares each with another one. Its part is w0 / (w0 + sum w).
    weights = np.array([[2.0, 1.0, 1.0, 1.0], [1.0, 0.5, 2.0, 3.0], [1.0, 1.0, -1.0, 1.0]])
    routing = np.c_[np.ones(3), np.eye(3)]
    rates, prices = jax.jit(jax.vmap(lambda weights: network_utility(routing, np.ones(3), weights)))(weights)
    part = weights[:2, 0] / weights[:2].sum(1)
    np.testing.assert_allclose(rates[:2], np.c_[part, np.tile(1 - part, (3, 1)).T], rtol=1e-8)
    np.testing.assert_allclose(prices[:2], weights[:2, 1:] / (1 - part)[:, None], rtol=1e-7)
    assert np.all(np.isnan(rates[2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"routing": [1.0, 1.0]}, "routing must be a matrix"),
        ({"routing": [[1.0, -1.0]]}, "routing must be nonnegative"),
        ({"routing": [[1.0, 0.0]]}, "routing must take each flow over a link of finite capacity"),
        ({"capacity": [np.inf]}, "routing must take each flow over a link of finite capacity"),
        ({"capacity": [0.0]}, "capacity must be positive"),
        ({"capacity": 1.0}, r"capacity must have shape \(1,\)"),
        ({"weights": [1.0, 0.0]}, "weights must be positive"),
        ({"weights": np.ones(3)}, r"weights .* shape \(2,\) of the columns of routing"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        NetworkUtility(**{"routing": [[1.0, 1.0]], "capacity": [1.0]} | change)
