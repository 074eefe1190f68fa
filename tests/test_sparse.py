"""Sparse matrices: what the door takes, the factors on the host against dense ones, and solves against Clarabel."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental.sparse import BCOO

import kkt_solvers as kkt
from kkt_solvers.data.matrices import Sparse, as_matrix
from kkt_solvers.systems import factors, sparse


@pytest.fixture(params=["qdldl", "SuperLU"])
def library(request, monkeypatch):
    """With the optional package and as if it were not installed; no factor is left of an earlier test."""
    if request.param == "SuperLU":
        monkeypatch.setattr(factors, "qdldl", None)
    monkeypatch.setattr(sparse, "_idle", [])
    return request.param


# ------------------------------------------------------------------------------------------------ factors
def parts_of(seed, n=12, m=5, dtype=float):
    """`P`, `A`, `mask`, `d` and `delta` of a KKT matrix; `P` has duplicates, as it is the sum of two halves."""
    rng = np.random.default_rng(seed)
    root = sp.random(n, n, 0.2, random_state=rng)
    half = sp.coo_matrix(0.5 * (root @ root.T + 0.1 * sp.eye(n)))
    A = sp.coo_matrix(sp.random(m, n, 0.2, random_state=rng) + sp.eye(m, n))
    P_at, A_at = (np.stack([M.row, M.col], axis=1) for M in (half, A))
    P_at = np.concatenate([P_at, P_at[:, ::-1], [[n, n]]])  # the last one is padding
    P = BCOO((jnp.asarray([*half.data, *half.data, 0.0], dtype), jnp.asarray(P_at)), shape=(n, n))
    A = BCOO((jnp.asarray(A.data, dtype), jnp.asarray(A_at)), shape=(m, n))
    mask, d = np.ones(n), rng.uniform(0.1, 2.0, n) * 10.0 ** rng.integers(-2, 4, n)
    mask[:3] = 0
    return P, A, *(jnp.asarray(v, dtype) for v in (mask, d, np.full(m, 1e-6)))


def dense(P, A, mask, d, delta):
    P, A, mask, d, delta = (np.asarray(part.todense() if isinstance(part, BCOO) else part, float)
                            for part in (P, A, mask, d, delta))  # fmt: skip
    A = A * mask
    return np.block([[mask[:, None] * P * mask + np.diag(d), A.T], [A, -np.diag(delta)]])


@jax.jit
def solved(parts, b):
    P, A, *rest = parts
    return sparse.factorised(Sparse(P), Sparse(A), *rest)(b)


def error_of(parts, b):
    """The backward error, and that the answer is near the dense one."""
    K, b = dense(*parts), np.asarray(b, float)
    x = np.asarray(solved(parts, jnp.asarray(b, parts[2].dtype)), float)
    known = np.linalg.solve(K, b)
    np.testing.assert_allclose(x, known, atol=1e-2 * np.max(np.abs(known)))
    return np.max(np.abs(K @ x - b)) / (np.max(np.abs(K)) * np.max(np.abs(x)) + np.max(np.abs(b)))


def test_equals_the_dense_answer(library, dtype, rng):
    for seed in range(3):
        assert error_of(parts_of(seed, dtype=dtype), rng.normal(size=17)) < 1e-6


def test_instances_of_a_batch_each_have_their_own_factor(library, x64, rng):
    """More instances than are kept, of one pattern."""
    parts, d = parts_of(0), rng.uniform(0.1, 2.0, (2 * sparse._KEPT, 12))
    b = rng.normal(size=(len(d), 17))
    x = jax.vmap(lambda d, b: solved((*parts[:3], d, parts[4]), b))(jnp.asarray(d), jnp.asarray(b))
    assert len(sparse._idle) == 1
    for i in range(len(d)):
        np.testing.assert_allclose(x[i], np.linalg.solve(dense(*parts[:3], d[i], parts[4]), b[i]), rtol=1e-5, atol=1e-5)


def test_patterns_that_alternate(library, x64, rng):
    many, b = [parts_of(seed) for seed in range(sparse._KEPT + 4)], rng.normal(size=17)
    for _ in range(2):
        assert max(error_of(parts, b) for parts in many) < 1e-6
        assert len(sparse._idle) == sparse._KEPT


def test_host_threads(library, x64, rng):
    """More threads than patterns, and more patterns than are kept."""
    many, b = [parts_of(seed) for seed in range(sparse._KEPT + 2)], rng.normal(size=17)
    solved(many[0], b)
    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(partial(error_of, b=b), [parts for parts in many for _ in range(8)])) < 1e-6
    assert len(sparse._idle) == sparse._KEPT


@pytest.mark.parametrize("small", [1e-2, 0.9])
def test_small_entries_left_out(library, x64, rng, monkeypatch, small):
    """Leaving out nearly all entries takes refinement too long: then all of them are factorised."""
    monkeypatch.setattr(factors, "_LARGE", 10)
    monkeypatch.setattr(factors, "_SMALL", small)
    parts = parts_of(0)
    for _ in range(2):
        assert error_of(parts, rng.normal(size=17)) < 1e-6
        assert error_of((*parts[:3], 10 * parts[3], parts[4]), rng.normal(size=17)) < 1e-6


def test_a_zero_pivot_is_avoided(library, x64):
    A = BCOO.fromdense(jnp.eye(2))
    zeros, b = jnp.zeros(2), jnp.arange(4.0)
    x = solved((BCOO.fromdense(jnp.zeros((2, 2)), nse=1), A, jnp.ones(2), zeros, zeros), b)
    np.testing.assert_allclose(x, [2.0, 3.0, 0.0, 1.0])


def test_no_answer_is_nan(library, x64):
    P, A, mask, d, delta = parts_of(0)
    b = jnp.ones(17)
    nothing = BCOO((0 * P.data, P.indices), shape=P.shape), BCOO((0 * A.data, A.indices), shape=A.shape)
    assert np.all(np.isnan(solved((*nothing, mask, 0 * d, delta), b)))
    assert np.all(np.isnan(solved((P, A, mask, d.at[0].set(jnp.inf), delta), b)))
    assert np.all(np.isnan(solved((P, A, mask, d, delta), b.at[0].set(jnp.nan))))
    assert error_of((P, A, mask, d, delta), b) < 1e-6


# ------------------------------------------------------------------------------------------------- solves
N = 540  # enough for the sparse system


def program(dtype=np.float64):
    """A chain: `P` is tridiagonal, and a row of the equality ties neighbours."""
    rng = np.random.default_rng(1)
    P = sp.diags([np.full(N - 1, -1.0), np.full(N, 2.5), np.full(N - 1, -1.0)], [-1, 0, 1])
    A = sp.csr_matrix(sp.kron(sp.eye(N // 6), np.array([[1.0, 1, 0, 1, 0, 0]])))
    return P.astype(dtype), rng.normal(size=N), A.astype(dtype), A @ rng.uniform(size=N)


def by_clarabel(P, q, A, b):
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.tol_gap_abs, settings.tol_gap_rel, settings.tol_feas = False, 1e-11, 1e-11, 1e-11
    cones = [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(2 * N)]
    G, h = sp.vstack([A, sp.eye(N), -sp.eye(N)]).tocsc(), np.concatenate([b, np.ones(N), np.zeros(N)])
    return np.array(clarabel.DefaultSolver(sp.triu(P).tocsc(), q, G, h, cones, settings).solve().x)


def test_solve_and_derivatives(library, x64):
    P, q, A, b = program()
    quadratic, affine = kkt.Quadratic(P, q), kkt.Affine(A, b)

    @jax.jit
    def primal(q, b):
        return kkt.solve(kkt.Problem(kkt.Quadratic(quadratic.P, q), kkt.Affine(affine.A, b), kkt.Box(0.0, 1.0))).primal

    y = primal(q, b)
    np.testing.assert_allclose(y, by_clarabel(P, q, A, b), atol=1e-7)
    # On the free coordinates, in numpy.
    rng = np.random.default_rng(2)
    dq, db = rng.normal(size=N), 1e-2 * rng.normal(size=len(b))
    free = (np.asarray(y) > 0) & (np.asarray(y) < 1)
    F, B = P.toarray()[np.ix_(free, free)], A.toarray()[:, free]
    K = np.block([[F, B.T], [B, np.zeros((len(b),) * 2)]])
    step = np.zeros(N)
    step[free] = np.linalg.lstsq(K, np.concatenate([-dq[free], db]), rcond=1e-12)[0][: free.sum()]
    np.testing.assert_allclose(jax.jvp(primal, (q, b), (dq, db))[1], step, atol=1e-9)
    pulled = jax.vjp(primal, q, b)[1](jnp.asarray(dq))
    np.testing.assert_allclose(pulled[0] @ dq + pulled[1] @ db, dq @ step, rtol=1e-9)
    if library == "SuperLU":
        return
    # The solution is affine in q and b as long as the active set stays.
    slope = jax.jit(jax.grad(lambda t: jnp.sum(primal(q + t * dq, b + t * db) ** 2)))
    np.testing.assert_allclose(jax.jit(jax.grad(slope))(0.0), 2 * step @ step, rtol=1e-8)


def test_batch(library, x64):
    P, q, A, b = program()
    problem = kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(0.0, 1.0))
    several = np.stack([q, 2 * q, q[::-1]])
    batch = jax.vmap(
        lambda q: kkt.solve(kkt.Problem(kkt.Quadratic(problem.objective.P, q), problem.equality, problem.box))
    )
    solutions = jax.jit(batch)(several)
    assert np.all(solutions.status == kkt.Status.SOLVED)
    for y, q in zip(solutions.primal, several, strict=True):
        np.testing.assert_allclose(y, by_clarabel(P, q, A, b), atol=1e-6)


def test_float32(library):
    P, q, A, b = program(np.float32)
    solution = kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(0.0, 1.0)))
    assert solution.primal.dtype == jnp.float32
    assert int(solution.status) == kkt.Status.SOLVED
    np.testing.assert_allclose(solution.primal, by_clarabel(P.astype(float), q, A.astype(float), b), atol=1e-4)


# ------------------------------------------------------------------------------------------------- the door
def bcoo(entries, shape):
    rows, columns, values = zip(*entries, strict=True)
    return BCOO((jnp.asarray(values), jnp.stack([jnp.asarray(rows), jnp.asarray(columns)], axis=1)), shape=shape)


OUTSIDE = {
    "row": bcoo([(0, 0, 1.0), (2, 1, 1.0)], (2, 2)),
    "column": bcoo([(0, 0, 1.0), (1, 2, 1.0)], (2, 2)),
    "negative": bcoo([(0, 0, 1.0), (-1, 1, 1.0)], (2, 2)),
    "counted from one": bcoo([(1, 1, 1.0), (2, 2, 1.0)], (2, 2)),
    "scipy": sp.csr_matrix((np.ones(2), np.array([0, 2]), np.array([0, 1, 2])), shape=(2, 2)),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_an_index_outside_of_the_shape(kind):
    with pytest.raises(ValueError, match=r"P has shape \(2, 2\) and an entry at .*count rows and columns from zero"):
        kkt.Quadratic(OUTSIDE[kind], jnp.ones(2))
    with pytest.raises(ValueError, match=r"A has shape \(2, 2\) and an entry at"):
        kkt.Affine(OUTSIDE[kind], jnp.ones(2))
    with pytest.raises(ValueError, match=r"G has shape"):
        kkt.solve_qp(None, jnp.ones(2), OUTSIDE[kind], jnp.ones(2))


def test_a_traced_index_outside_of_the_shape_is_invalid():
    @jax.jit
    def status(indices):
        A = BCOO((jnp.ones(2), indices), shape=(1, 2))
        return kkt.solve(kkt.Problem(kkt.Quadratic(jnp.ones(2), jnp.zeros(2)), kkt.Affine(A, jnp.ones(1)))).status

    assert int(status(jnp.array([[0, 0], [0, 1]]))) == kkt.Status.SOLVED
    assert int(status(jnp.array([[0, 0], [0, 2]]))) == kkt.Status.INVALID


def test_padding_is_no_entry():
    padded = BCOO.fromdense(jnp.eye(2), nse=4)
    P = kkt.Quadratic(padded, jnp.array([-1.0, -2.0])).P
    assert P.nse == 4
    np.testing.assert_array_equal(P.todense(), jnp.eye(2))
    solution = kkt.solve(kkt.Problem(kkt.Quadratic(padded, jnp.array([-1.0, -2.0]))))
    np.testing.assert_allclose(solution.primal, [1.0, 2.0], rtol=1e-6)


def test_duplicates_are_summed(x64):
    """Terms that cancel must not count: |A| |y| is what residuals are relative to."""
    entries = [(0, 0, 1e8), (0, 1, 2.0), (0, 0, 1.0 - 1e8), (1, 1, 3.0), (1, 1, -1.0)]
    wanted = np.array([[1.0, 2.0], [0.0, 2.0]])
    rows, columns, values = zip(*entries, strict=True)
    for A in (bcoo(entries, (2, 2)), sp.coo_matrix((values, (rows, columns)), shape=(2, 2))):
        A = as_matrix(kkt.Affine(A, jnp.ones(2)).A)
        np.testing.assert_array_equal(A.dense(), wanted)
        np.testing.assert_array_equal(A.product(jnp.ones(2)), wanted.sum(1))
        np.testing.assert_array_equal(A.largest(0), wanted.max(0))
        np.testing.assert_array_equal(A.sums(1), wanted.sum(1))
        np.testing.assert_array_equal(A.absolute().product(jnp.ones(2)), wanted.sum(1))
    data = jax.grad(
        lambda A: jnp.sum(jnp.asarray([2.0, 3.0]) * kkt.Affine(A, jnp.ones(2)).product(jnp.ones(2))), allow_int=True
    )(bcoo(entries, (2, 2))).data
    np.testing.assert_array_equal(data, [2.0, 2.0, 2.0, 3.0, 3.0])


def test_a_batch_of_small_programs_shares_a_sparse_matrix(rng, x64):
    A = sp.eye(4, 12, format="csr")
    b = rng.uniform(0.1, 0.9, size=(3, 4))

    def primal(b):
        problem = kkt.Problem(kkt.Quadratic(np.ones(12), -np.ones(12)), kkt.Affine(A, b), kkt.Box(0.0, 1.0))
        return kkt.solve(problem, solver=kkt.InteriorPoint()).primal

    y = jax.jit(jax.vmap(primal))(b)
    np.testing.assert_allclose(y, np.concatenate([b, np.ones((3, 8))], axis=1), atol=1e-8)
    slope = jax.jit(jax.vmap(jax.jacobian(primal)))(b)
    np.testing.assert_allclose(slope, np.tile(np.eye(12, 4), (3, 1, 1)), atol=1e-8)
