"""Programs with quadratic constraints against Clarabel (second-order cones, 1e-5 in float64), and the prices of their
limits."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import kkt_solvers as kkt
from kkt_solvers.problems import QCQP

N, LIMITS = 8, 3


def program(rng):
    """A strictly convex program around a point that meets it: the first two constraints are ellipsoids, one of them
    flat, and the last is linear."""
    roots = rng.normal(size=(LIMITS, N, N)) / 2
    roots[1, :, 4:] = 0
    roots[2] = 0
    B, inside = rng.normal(size=(N, N)), rng.normal(size=N) / 2
    qs, A = rng.normal(size=(LIMITS, N)), rng.normal(size=(2, N))
    Ps = np.einsum("pij,pkj->pik", roots, roots)
    rs = np.einsum("pij,i,j->p", Ps, inside, inside) / 2 + qs @ inside + [0.2, 0.2, 0.1]
    return B @ B.T / 4, 3 * rng.normal(size=N), Ps, qs, rs, A, A @ inside, roots


def reference(P, q, roots, qs, rs, A, b, lower):
    """Clarabel's: `|u|^2 / 2 <= t` is `|(t - 1/2, u)| <= t + 1/2`, here with `t = r - q'y`."""
    blocks = [(A, b, clarabel.ZeroConeT(len(b))), (-np.eye(N), np.full(N, -lower), clarabel.NonnegativeConeT(N))]
    for root, slope, r in zip(roots, qs, rs, strict=True):
        right = np.r_[r + 0.5, r - 0.5, np.zeros(N)]
        blocks.append((np.r_[slope[None], slope[None], -root.T], right, clarabel.SecondOrderConeT(N + 2)))
    y, _ = references.cone_program(P, q, *blocks)
    return y, y @ P @ y / 2 + q @ y


def test_prices_and_sensitivity(rng, x64):
    P, q, Ps, qs, rs, A, b, roots = program(rng)
    lower, turn = -1.0, 0.1 * rng.normal(size=Ps.shape[1:])

    def solved(rs, sign, angle):
        # The last argument turns the first ellipsoid, so that the derivative in Ps is tested.
        root = jnp.asarray(roots[0]) + angle * turn
        curved = jnp.asarray(Ps).at[0].set(sign * root @ root.T)
        solution = kkt.solve(QCQP(P, q, curved, qs, rs, A, b, lower))
        return solution.primal, (solution.primal, solution.objective, solution.dual.inequality, solution.status)

    # The first program has a solution, no point meets the limits of the second, and the last is not convex.
    slopes = jax.jit(jax.vmap(jax.jacobian(solved, (0, 2), has_aux=True), in_axes=(0, 0, None)))
    limits, signs = np.stack([rs, rs - [10.0, 0.0, 0.0], rs]), np.array([1.0, 1.0, -1.0])
    (by_rs, by_angle), (y, value, prices, status) = slopes(limits, signs, 0.0)
    assert status.tolist() == [kkt.Status.SOLVED, kkt.Status.PRIMAL_INFEASIBLE, kkt.Status.INVALID]
    assert np.all(np.isnan(by_rs[1:]))

    expected, least = reference(P, q, roots, qs, rs, A, b, lower)
    np.testing.assert_allclose(y[0], expected, atol=1e-5)
    np.testing.assert_allclose(value[0], least, rtol=1e-8)
    assert np.sum(prices[0] > 1e-3) >= 2
    h = 3e-3  # Clarabel's point has six digits
    for k, step in enumerate(h * np.eye(LIMITS)):
        (up, more), (down, less) = (reference(P, q, roots, qs, rs + s * step, A, b, lower) for s in (1, -1))
        np.testing.assert_allclose(by_rs[0][:, k], (up - down) / (2 * h), atol=2e-3 * np.abs(by_rs[0]).max())
        np.testing.assert_allclose(prices[0][k], -(more - less) / (2 * h), atol=1e-3 * prices[0].max())
    ends = [roots + s * np.r_[turn[None], np.zeros((2, N, N))] for s in (h, -h)]
    up, down = (reference(P, q, end, qs, rs, A, b, lower)[0] for end in ends)
    np.testing.assert_allclose(by_angle[0], (up - down) / (2 * h), atol=2e-3 * np.abs(by_angle[0]).max())


DISC = {"P": None, "q": [-1.0, 0.0], "Ps": np.eye(2)[None], "qs": np.zeros((1, 2)), "rs": [1.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": 1.0}, "q must be a vector"),
        ({"P": np.eye(3)}, r"P must be square, \(2, 2\)"),
        ({"P": [1.0, -1.0]}, "P must be positive semidefinite, its least eigenvalue is -1"),
        ({"Ps": np.eye(2)}, r"Ps must have shape \(1, 2, 2\)"),
        ({"Ps": np.diag([1.0, -0.5])[None]}, r"Ps\[0\] must be positive semidefinite, its least eigenvalue is -0.5"),
        ({"qs": [0.0, 0.0]}, r"qs must have shape \(1, 2\)"),
        ({"rs": 1.0}, "rs must be a vector"),
        ({"A": [[1.0, 1.0]]}, "A and b go together"),
        ({"lower": np.zeros(3)}, r"lower .* shape \(2,\) of q"),
        ({"lower": 1.0, "upper": 0.0}, "lower is above upper"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        QCQP(**DISC | change)
