"""Problems in stages against Clarabel, the same problems with dense matrices, and differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_derivative import clarabel_qp
from test_weight import equations

import kkt_solvers as kkt
from kkt_solvers.data.matrices import as_matrix
from kkt_solvers.systems.kkt import choose

SHAPES = [(7, 2, 3), (12, 1, 2), (30, 1, 1), (5, 4, 4), (1, 1, 3)]  # stages, rows and variables of each


def matrices(rng, N, p, n):
    roots = rng.normal(size=(N, n, n))
    P = kkt.BlockDiagonal(roots @ roots.swapaxes(1, 2) / n + 0.1 * np.eye(n))
    return P, kkt.BlockBidiagonal(rng.normal(size=(N, p, n)), rng.normal(size=(N - 1, p, n)))


def written_out(M):
    """The dense matrix, block by block."""
    bands = [M.blocks] if isinstance(M, kkt.BlockDiagonal) else [M.diagonal, M.below]
    N, p, n = bands[0].shape
    dense = np.zeros((N * p, N * n))
    for k, band in enumerate(bands):
        for t, block in enumerate(np.asarray(band)):
            dense[(t + k) * p : (t + k + 1) * p, t * n : (t + 1) * n] = block
    return dense


def program(rng, N, p, n, kind="blocks"):
    P, A = matrices(rng, N, p, n)
    P = {"blocks": P, "diagonal": rng.uniform(0.1, 1.0, N * n), "linear": None}[kind]
    b, lower, upper = written_out(A) @ rng.uniform(0.2, 0.8, N * n), np.zeros(N * n), np.ones(N * n)
    upper[2 % (N * n)] = np.inf if kind != "linear" else 3.0
    return P, rng.normal(size=N * n), A, b, lower, upper


def dense(P):
    return written_out(P) if isinstance(P, kkt.BlockDiagonal) else None if P is None else np.diag(P)


def solved(P, q, A, b, lower, upper, **options):
    return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(lower, upper)), **options)


def check_the_same(M, D, rng):
    """Every method of a matrix gives what the dense array gives."""
    v, w = rng.normal(size=D.shape[1]), rng.normal(size=D.shape[0])
    np.testing.assert_allclose(M.dense(), D)
    np.testing.assert_allclose(M @ v, D @ v, atol=1e-13)
    np.testing.assert_allclose(M.product(v), D @ v, atol=1e-13)
    np.testing.assert_allclose(M.adjoint(w), D.T @ w, atol=1e-13)
    np.testing.assert_allclose(M.absolute().dense(), np.abs(D))
    np.testing.assert_allclose(M.scaled(jnp.asarray(w), jnp.asarray(v)).dense(), w[:, None] * D * v)
    for axis, weights in ((0, np.abs(w)), (1, np.abs(v))):
        np.testing.assert_allclose(M.sums(axis), np.abs(D).sum(axis))
        np.testing.assert_allclose(M.largest(axis), np.abs(D).max(axis))
        weighted = np.abs(D) * (weights[:, None] if axis == 0 else weights)
        np.testing.assert_allclose(M.largest(axis, jnp.asarray(weights)), weighted.max(axis))
    values, at = M.coordinates()
    again = np.zeros(D.shape)
    again[tuple(np.asarray(at).T)] = values
    np.testing.assert_array_equal(again, D)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("which", [0, 1])
def test_the_same_matrix(which, shape, rng, x64):
    M = matrices(rng, *shape)[which]
    D, M = written_out(M), as_matrix(M)
    check_the_same(M, D, rng)
    v = rng.normal(size=D.shape[1])
    if which == 0:
        np.testing.assert_allclose(M.diagonal_entries(), np.diag(D))
        np.testing.assert_allclose(M.off_diagonal().dense(), D - np.diag(np.diag(D)))
        own, rest = M.split()
        np.testing.assert_allclose(own * v + rest(jnp.asarray(v)), D @ v, atol=1e-13)


@pytest.mark.parametrize("kind", ["blocks", "diagonal", "linear"])
@pytest.mark.parametrize("shape", [(7, 2, 3), (30, 1, 1)])
def test_against_clarabel(shape, kind, rng, x64):
    P, q, A, *rest = program(rng, *shape, kind)
    solution = jax.jit(solved)(P, q, A, *rest)
    assert kkt.Status(int(solution.status)).name == "SOLVED"
    y, dual = clarabel_qp(np.zeros((len(q), len(q))) if P is None else dense(P), q, written_out(A), *rest)
    np.testing.assert_allclose(solution.primal, y, atol=1e-7)
    np.testing.assert_allclose(solution.dual.equality, dual.equality, atol=1e-6)
    np.testing.assert_allclose(solution.dual.lower - solution.dual.upper, dual.lower - dual.upper, atol=1e-6)


@pytest.mark.parametrize("kind", ["blocks", "diagonal"])
def test_derivatives_are_those_of_dense_matrices(kind, rng, x64):
    P, q, A, b, lower, upper = program(rng, 6, 2, 3, kind)
    problem = kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(lower, upper))
    weights = rng.normal(size=len(q))

    def value(P, q, A, b, of_matrix):
        A, P = (of_matrix(M) if isinstance(M, (kkt.BlockDiagonal, kkt.BlockBidiagonal)) else M for M in (A, P))
        solution = solved(P, q, A, b, lower, upper)
        return jnp.vdot(weights, solution.primal) + jnp.sum(solution.dual.equality * jnp.arange(len(b)))

    assert isinstance(choose(kkt.data.flatten.flatten(problem, None)[0]), kkt.linear.StagesKKT)
    data = jax.tree.map(jnp.asarray, (P, q, A, b))
    ours, theirs = (
        jax.jit(jax.grad(lambda *a, f=f: value(*a, f), (0, 1, 2, 3)))(*data) for f in (lambda M: M, lambda M: M.dense())
    )
    for a, c in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, c, atol=1e-9 * np.abs(c).max())
    # Forward, and to second order, against differences.
    step = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), data)

    @jax.jit
    def slope(t):
        at = jax.tree.map(lambda leaf, s: leaf + t * s, data, step)
        return jax.jvp(lambda *a: value(*a, lambda M: M), at, step)[1]

    inner = sum(np.vdot(g, s) for g, s in zip(jax.tree.leaves(ours), jax.tree.leaves(step), strict=True))
    np.testing.assert_allclose(slope(0.0), inner, rtol=1e-9)
    curvature = jax.jit(lambda t: jax.jvp(slope, (t,), (1.0,))[1])(0.0)
    np.testing.assert_allclose(curvature, (slope(1e-6) - slope(-1e-6)) / 2e-6, rtol=1e-5)


def test_a_batch_with_bad_instances(rng, x64):
    P, q, A, b, lower, upper = program(rng, 5, 2, 3)
    blocks = np.stack([P.blocks, P.blocks, -np.asarray(P.blocks), P.blocks, P.blocks])
    far = np.stack([b, b + 1e3, b, b, b])
    costs = np.stack([q, q, q, np.full_like(q, np.nan), q])

    def one(blocks, q, b):
        return solved(kkt.BlockDiagonal(blocks), q, A, b, lower, upper)

    batch = jax.jit(jax.vmap(one))(blocks, costs, far)
    names = [kkt.Status(int(status)).name for status in batch.status]
    assert names == ["SOLVED", "PRIMAL_INFEASIBLE", "INVALID", "INVALID", "SOLVED"]
    for i in (0, 4):
        np.testing.assert_allclose(batch.primal[i], solved(P, q, A, b, lower, upper).primal, atol=1e-9)


def test_single_precision(rng):
    P, q, A, b, lower, upper = program(rng, 20, 2, 4)
    y, _ = clarabel_qp(dense(P), q, written_out(A), b, lower, upper)
    solution = solved(*(jax.tree.map(lambda x: np.asarray(x, np.float32), part) for part in (P, q, A, b, lower, upper)))
    assert kkt.Status(int(solution.status)).name == "SOLVED"
    assert solution.primal.dtype == jnp.float32
    np.testing.assert_allclose(solution.primal, y, atol=1e-4)


def test_dependent_and_empty_rows(rng, x64):
    """A stage without an equality has a row of zeros; a row twice has multipliers that are not unique."""
    P, q, A, b, lower, upper = program(rng, 6, 2, 4)
    diagonal, below, b = np.array(A.diagonal), np.array(A.below), b.reshape(6, 2).copy()
    diagonal[2, 1], below[1, 1], b[2, 1] = 0, 0, 0
    diagonal[4, 1], below[3, 1], b[4, 1] = diagonal[4, 0], below[3, 0], b[4, 0]
    solution = solved(P, q, kkt.BlockBidiagonal(diagonal, below), b.ravel(), lower, upper)
    assert kkt.Status(int(solution.status)).name == "SOLVED"
    keep = [i for i in range(12) if i not in (5, 9)]
    rows = written_out(kkt.BlockBidiagonal(diagonal, below))[keep]
    y, _ = clarabel_qp(dense(P), q, rows, b.ravel()[keep], lower, upper)
    np.testing.assert_allclose(solution.primal, y, atol=1e-7)


def test_other_solvers_and_mixed_structure(rng, x64):
    P, q, A, *rest = program(rng, 6, 2, 3)
    expected = solved(P, q, A, *rest).primal
    np.testing.assert_allclose(solved(P, q, A, *rest, solver=kkt.PrimalDual(tol=1e-9)).primal, expected, atol=1e-6)
    np.testing.assert_allclose(solved(P, q, written_out(A), *rest).primal, expected, atol=1e-8)
    np.testing.assert_allclose(solved(dense(P), q, A, *rest).primal, expected, atol=1e-8)
    other_stages = kkt.BlockDiagonal(np.asarray(dense(P))[None])
    np.testing.assert_allclose(solved(other_stages, q, A, *rest).primal, expected, atol=1e-8)


def test_the_program_does_not_grow_with_the_stages(rng, x64):
    sizes = []
    for N in (10, 100):
        data = program(rng, N, 2, 3)
        sizes.append(equations(jax.make_jaxpr(lambda *a: solved(*a).primal)(*data).jaxpr))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: kkt.BlockDiagonal(np.ones((3, 2, 4))), r"blocks must have shape \(N, n, n\), square blocks"),
        (lambda: kkt.BlockDiagonal(np.ones((2, 2))), r"blocks must have shape \(N, n, n\)"),
        (lambda: kkt.BlockBidiagonal(np.ones((2, 3)), np.ones((1, 3))), r"diagonal must have shape \(N, p, n\)"),
        (lambda: kkt.BlockBidiagonal(np.ones((3, 2, 4)), np.ones((3, 2, 4))), r"below must have shape \(2, 2, 4\)"),
        (
            lambda: solved(
                None, np.ones(5), kkt.BlockBidiagonal(np.ones((3, 1, 2)), np.ones((2, 1, 2))), [0] * 3, 0, 1
            ),
            r"A must have shape \(m, 5\)",
        ),
        (
            lambda: solved(kkt.BlockDiagonal(np.full((3, 1, 1), np.nan)), np.ones(3), np.ones((1, 3)), [1.0], 0, 1),
            "P has a NaN",
        ),
    ],
)
def test_errors_name_the_argument(build, message):
    with pytest.raises(ValueError, match=message):
        build()
