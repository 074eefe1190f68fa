"""`AtMost` with every structure of objective and equality, against Clarabel and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
from jax.experimental.sparse import BCOO
from test_qp import by_clarabel, program

import kkt_solvers as kkt


def name(solution):
    return kkt.Status(int(solution.status)).name


def total(y):
    return jnp.sum(y) - 5.0


LOW_RANK = kkt.LowRank(np.linspace(0.2, 1.0, 10), np.cos(np.arange(20.0)).reshape(10, 2))
OBJECTIVES = {
    "diagonal, one row": (np.linspace(0.2, 1.0, 10), kkt.Sum(5.0)),
    "low rank, function": (LOW_RANK, total),
    "none, weighted row": (None, kkt.Sum(5.0, np.ones(10))),
    "dense": ("dense", None),
}


def data_of(rng):
    """A program with six inequalities: the fifth absent, the last redundant, and twice the first."""
    P, q, G, h, *_ = program(rng)
    G = G - G.mean(axis=1, keepdims=True)  # the rows hold strictly where all y are the same, and they cut
    h = 0.1 + 0.1 * rng.uniform(size=6)
    G[5], h[5], h[4] = 2 * G[0], 2 * h[0], np.inf
    return P, q, G, h


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_linear_inequalities_against_clarabel(kind, rng, x64):
    P, equality = OBJECTIVES[kind]
    dense, q, G, h = data_of(rng)
    P = dense if isinstance(P, str) else P
    dense = P.dense() if isinstance(P, kkt.LowRank) else np.zeros((10, 10)) if P is None else P
    dense = np.asarray(dense if np.ndim(dense) == 2 else np.diag(dense))
    A, b = (np.zeros((0, 10)), np.zeros(0)) if equality is None else (np.ones((1, 10)), np.array([5.0]))
    problem = kkt.Problem(kkt.Quadratic(P, q), equality, kkt.Box(0.0, 1.0), inequality=kkt.AtMost(G, h))
    solution = kkt.solve(problem)
    finite = np.isfinite(h)
    x, nu, lam, lower, upper = by_clarabel(dense, q, G[finite], h[finite], A, b, np.zeros(10), np.ones(10))
    assert name(solution) == "SOLVED"
    assert solution.residuals.largest < 1e-10
    np.testing.assert_allclose(solution.objective, 0.5 * x @ dense @ x + q @ x, rtol=1e-9)
    np.testing.assert_allclose(solution.primal, x, atol=1e-6)
    ours = np.asarray(solution.dual.inequality)
    assert ours[4] == 0
    assert np.sum(ours > 1e-6) >= 1
    both = np.array([lam[0] + 2 * lam[-1], *lam[1:4]])  # of the redundant pair only this sum is unique
    np.testing.assert_allclose([ours[0] + 2 * ours[5], *ours[1:4]], both, atol=1e-6)
    np.testing.assert_allclose(np.ravel(solution.dual.equality) if len(b) else [], nu, atol=1e-6)
    np.testing.assert_allclose(solution.dual.lower - solution.dual.upper, lower - upper, atol=1e-6)
    assert min(ours.min(), solution.dual.lower.min(), solution.dual.upper.min()) >= 0


def negative_entropy(y, score):
    return y * jnp.log(y) - score * y


def test_an_entropy_in_closed_form(x64, rng):
    """`y` is the softmax of `score - lam G'`, with `lam` from the row in one unknown."""
    score, row, loose = rng.normal(size=8), rng.normal(size=8), rng.normal(size=8)

    def softmax(lam):
        weight = np.exp(score - lam * row - np.max(score - lam * row))
        return weight / weight.sum()

    h = row @ softmax(0.0) - 0.3
    lam = scipy.optimize.brentq(lambda lam: row @ softmax(lam) - h, 0, 50, xtol=1e-15, rtol=1e-14)
    inequality = kkt.AtMost([row, loose], [h, np.abs(loose).max() + 1])
    problem = kkt.Problem(kkt.Separable(negative_entropy, score), kkt.Sum(1.0), kkt.Box(0.0, jnp.inf), (), inequality)
    solution = kkt.solve(problem)
    assert name(solution) == "SOLVED"
    np.testing.assert_allclose(solution.primal, softmax(lam), atol=1e-9)
    np.testing.assert_allclose(solution.dual.inequality, [lam, 0.0], atol=1e-7)


@pytest.mark.parametrize("kind", [BCOO.fromdense, sp.csr_matrix], ids=["BCOO", "scipy"])
def test_sparse_rows_of_a_large_program(kind, x64):
    rng, n = np.random.default_rng(1), 600
    bands = [rng.normal(size=n) for _ in range(3)]
    G = sp.diags_array(bands, offsets=(0, 1, -7), shape=(200, n)).tocsr()
    diagonal, q, h = rng.uniform(0.5, 1.0, n), rng.normal(size=n), G @ np.full(n, 0.5) + 0.05
    P = sp.diags_array(diagonal).tocsr()
    problem = kkt.Problem(
        kkt.Quadratic(P, q), kkt.Sum(0.5 * n), kkt.Box(0.0, 1.0), inequality=kkt.AtMost(kind(G.toarray()), h)
    )
    solution = kkt.solve(problem)
    assert name(solution) == "SOLVED"
    A, zero, one = np.ones((1, n)), np.zeros(n), np.ones(n)
    x, _, lam, _, _ = by_clarabel(P, q, G, h, A, [0.5 * n], zero, one)
    assert np.sum(lam > 1e-6) > 20
    np.testing.assert_allclose(solution.objective, 0.5 * x @ (diagonal * x) + q @ x, rtol=1e-9)
    np.testing.assert_allclose(solution.primal, x, atol=1e-6)
    np.testing.assert_allclose(solution.dual.inequality, lam, atol=1e-5)


def test_first_order_solver_takes_linear_inequalities(x64, rng):
    P, q, G, h = data_of(rng)
    problem = kkt.Problem(kkt.Quadratic(P, q), kkt.Sum(5.0), kkt.Box(0.0, 1.0), inequality=kkt.AtMost(G, h))
    solution = kkt.solve(problem, solver=kkt.PrimalDual(tol=1e-6))
    assert name(solution) == "SOLVED"
    exact = kkt.solve_qp(P, q, G, h, np.ones((1, 10)), [5.0], lb=0.0, ub=1.0)
    np.testing.assert_allclose(solution.primal, exact.primal, atol=1e-4)
    np.testing.assert_allclose(solution.objective, exact.objective, rtol=1e-5)


def test_rays_of_programs_with_inequalities(x64, rng):
    """Along `(1, 0, 1, 0)` and its like the first inequality stays as far from its bound as it is."""
    count, ray = 200, np.array([1.0, 0.0, 1.0, 0.0])
    G = np.array([[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, -1.0]])
    upper = np.array([np.inf, 1.0, np.inf, 1.0])

    def solved(roots, q, h):
        return kkt.solve_qp(roots.T @ roots, q, G, h, lb=0.0, ub=upper)

    roots = rng.normal(size=(count, 3, 4))
    roots -= 0.5 * (roots @ ray)[..., None] * ray  # flat along the ray
    q = rng.normal(size=(count, 4))
    q -= 0.5 * (q @ ray + rng.uniform(0.1, 1.0, size=count))[:, None] * ray
    found = jax.jit(jax.vmap(solved))(roots, q, rng.uniform(-0.9, 0.9, size=(count, 2)))
    np.testing.assert_array_equal(found.status, int(kkt.Status.DUAL_INFEASIBLE))
    np.testing.assert_array_equal(found.objective, -np.inf)
    d = np.asarray(found.primal)
    assert np.all(d >= 0)
    assert np.max(d @ G.T) <= 1e-6
    assert np.max(np.sum(q * d, axis=1)) < -0.01
    np.testing.assert_allclose(np.einsum("bij,bj->bi", roots, d), 0.0, atol=1e-6)
