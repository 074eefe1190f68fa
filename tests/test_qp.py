"""`solve_qp` against Clarabel, with every kind of constraint, dense and sparse, and its derivative."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import kkt_solvers as kkt


def by_clarabel(P, q, G, h, A, b, lb, ub):
    n = len(q)
    rows = sp.vstack([sp.csr_matrix(A), sp.csr_matrix(G), sp.eye(n), -sp.eye(n)]).tocsc()
    right = np.concatenate([b, h, ub, -lb])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-13
    cones = [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(len(right) - len(b))]
    answer = clarabel.DefaultSolver(sp.triu(sp.csc_matrix(P)).tocsc(), q, rows, right, cones, settings).solve()
    z = np.array(answer.z)
    m, p = len(b), len(h)
    return np.array(answer.x), z[:m], z[m : m + p], z[m + p + n :], z[m + p : m + p + n]


def program(rng, n=10, p=6, m=2):
    F, G, A = rng.normal(size=(n, n)), rng.normal(size=(p, n)), rng.normal(size=(m, n))
    x = rng.uniform(0.2, 0.8, size=n)
    return F @ F.T / n, rng.normal(size=n), G, G @ x + 0.1 * rng.uniform(size=p), A, A @ x, np.zeros(n), np.ones(n)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix], ids=["dense", "sparse"])
def test_against_clarabel(kind, rng, x64):
    P, q, G, h, A, b, lb, ub = program(rng)
    solution = kkt.solve_qp(kind(P), q, kind(G), h, kind(A), b, lb, ub)
    assert kkt.Status(int(solution.status)).name == "SOLVED"
    x, equality, inequality, lower, upper = by_clarabel(P, q, G, h, A, b, lb, ub)
    assert np.sum(inequality > 1e-6) > 0
    np.testing.assert_allclose(solution.primal, x, atol=1e-7)
    for ours, theirs in zip(
        (solution.dual.equality, solution.dual.inequality, solution.dual.lower, solution.dual.upper),
        (equality, inequality, lower, upper),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(solution.objective, 0.5 * x @ P @ x + q @ x, atol=1e-8)


def test_derivative(rng, x64):
    data = program(rng)
    step = [rng.normal(size=part.shape) for part in data]
    step[0] = step[0] + step[0].T

    def at(t):
        return kkt.solve_qp(*(part + t * s for part, s in zip(data, step, strict=True))).primal

    def elsewhere(t):
        return by_clarabel(*(part + t * s for part, s in zip(data, step, strict=True)))[0]

    h = 1e-5
    tangent = jax.jvp(at, (0.0,), (1.0,))[1]
    np.testing.assert_allclose(tangent, (elsewhere(h) - elsewhere(-h)) / (2 * h), atol=1e-5 * np.abs(tangent).max())
    gradient = jax.grad(lambda h: kkt.solve_qp(*data[:3], h, *data[4:]).objective)(data[3])
    np.testing.assert_allclose(gradient, -kkt.solve_qp(*data).dual.inequality, atol=1e-9)


def test_parts_may_be_missing(x64):
    P, q = 2 * np.eye(2), np.array([-2.0, 4.0])
    np.testing.assert_allclose(kkt.solve_qp(P, q).primal, [1, -2], atol=1e-9)
    np.testing.assert_allclose(kkt.solve_qp(P, q, lb=0).primal, [1, 0], atol=1e-9)
    np.testing.assert_allclose(kkt.solve_qp(P, q, A=[[1, 1]], b=[0]).primal, [1.5, -1.5], atol=1e-9)
    np.testing.assert_allclose(kkt.solve_qp(P, q, [[1, 0], [0, 1]], [0.5, np.inf]).primal, [0.5, -2], atol=1e-9)
    linear = kkt.solve_qp(None, [1.0, 1.0], [[-1.0, -2.0]], [-2.0], lb=0.0)
    np.testing.assert_allclose(linear.primal, [0, 1], atol=1e-9)
    assert kkt.Status(int(kkt.solve_qp(P, q, [[1, 0], [-1, 0]], [0, -1]).status)).name == "PRIMAL_INFEASIBLE"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"P": np.eye(3), "q": [1.0, 2.0]}, "P must have shape"),
        ({"P": None, "q": [[1.0, 2.0]]}, "q must be a vector"),
        ({"P": None, "q": [1.0, 2.0], "G": [[1.0, 2.0]]}, "G and h go together"),
        ({"P": None, "q": [1.0, 2.0], "A": [[1.0]], "b": [1.0]}, "A must have shape"),
        ({"P": None, "q": [1.0, 2.0], "A": [[1.0, 2.0]], "b": 1.0}, "b must have shape"),
        ({"P": None, "q": [1.0, 2.0], "lb": [0.0]}, "lb must be a scalar"),
        ({"P": None, "q": [1.0, 2.0], "lb": 1.0, "ub": 0.0}, "lower is above upper"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kkt.solve_qp(**arguments)


def test_batch(rng):
    P, q, G, h, A, b, lb, ub = (part.astype(np.float32) for part in program(rng))
    qs = jnp.stack([q, -q, jnp.asarray(q).at[0].set(jnp.nan)])
    solution = jax.vmap(lambda q: kkt.solve_qp(P, q, G, h, A, b, lb, ub))(qs)
    assert [kkt.Status(int(s)).name for s in solution.status] == ["SOLVED", "SOLVED", "INVALID"]


def test_a_warm_start_needs_no_iterations(x64, rng):
    n, p = 30, 12
    F = rng.normal(size=(n, n))
    P, q, G = F @ F.T / n + np.eye(n), rng.normal(size=n), rng.normal(size=(p, n))
    h = G @ rng.uniform(-0.5, 0.5, n) + 0.05
    cold = kkt.solve_qp(P, q, G, h, np.ones((1, n)), [0.3], lb=-0.5, ub=0.5)
    warm = kkt.solve_qp(P, q + 1e-4, G, h, np.ones((1, n)), [0.3], lb=-0.5, ub=0.5, init=cold)
    assert cold.iterations > 3
    assert warm.iterations == 0
    warm.raise_if_failed()
    again = kkt.solve_qp(P, q + 1e-4, G, h, np.ones((1, n)), [0.3], lb=-0.5, ub=0.5)
    np.testing.assert_allclose(warm.primal, again.primal, atol=1e-9)
