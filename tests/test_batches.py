"""Batches of small problems advance in lockstep: against the same problems solved one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kkt_solvers as kkt
from kkt_solvers.numerics import batches, lapack
from kkt_solvers.numerics.batches import SMALL

N, M = 6, 3
COUNT = 200  # more than a chunk
KINDS = "plain", "linear", "dependent rows", "infeasible", "fixed variables", "unbounded", "degenerate", "no bounds"


def instance(kind, rng):
    """`(P, q, A, b, lower, upper)`."""
    root = rng.normal(size=(N, N))
    P, q, A, y = root @ root.T / N + 0.1 * np.eye(N), rng.normal(size=N), rng.normal(size=(M, N)), rng.uniform(size=N)
    lower, upper, wrong = np.zeros(N), np.ones(N), np.zeros(M)
    if kind == "linear":
        P = np.zeros((N, N))
    elif kind in ("dependent rows", "infeasible"):
        A[2] = A[0] - A[1]
        wrong[2] = 0.5 * (kind == "infeasible")
    elif kind == "fixed variables":
        lower[:2] = upper[:2] = y[:2]
    elif kind == "unbounded":
        P, A[:, 0], q[0], upper[0] = np.zeros((N, N)), 0, -1, np.inf
    elif kind == "degenerate":
        y = np.round(y)
        q = -P @ y - A.T @ rng.normal(size=M)
    elif kind == "no bounds":
        lower[:], upper[:] = -np.inf, np.inf
    return P, q, A, A @ y + wrong, lower, upper


def batch(count, rng, kinds=KINDS):
    return [np.stack(part) for part in zip(*(instance(kinds[i % len(kinds)], rng) for i in range(count)), strict=True)]


def solved(P, q, A, b, lower, upper):
    return kkt.solve(kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(A, b), kkt.Box(lower, upper)))


in_lockstep = jax.jit(jax.vmap(solved))
one_by_one = jax.jit(lambda data: jax.lax.map(lambda one: solved(*one), data))


def check(data, tolerance, rare=0):
    """A `degenerate` point has bounds with a multiplier of zero: it is as exact as the root of the residual. So many as
    `rare` may be solved in one way and nearly solved in the other, or be less exact than `tolerance` in one of them."""
    together, apart = in_lockstep(*data), one_by_one(data)
    status, other = np.asarray(together.status), np.asarray(apart.status)
    nearly = (np.minimum(status, other) == kkt.Status.SOLVED) & (np.maximum(status, other) == kkt.Status.INACCURATE)
    np.testing.assert_array_equal(status[~nearly], other[~nearly])
    good = (other == kkt.Status.SOLVED) & ~nearly
    error = np.max(np.abs(together.primal - apart.primal), axis=1)
    degenerate = np.arange(len(error)) % len(KINDS) == KINDS.index("degenerate")
    inexact = good & ~degenerate & ~(error <= tolerance)
    assert np.sum(nearly | inexact) <= rare
    assert np.max(error[good]) <= (1 if rare else 0.3) * tolerance**0.5
    np.testing.assert_allclose(together.objective[good], apart.objective[good], rtol=tolerance, atol=tolerance)
    return status


def test_all_kinds_agree_with_one_by_one(dtype, rng):
    """More than one chunk, the last one filled up."""
    data = [part.astype(dtype) for part in batch(COUNT, rng)]
    status = check(data, 1e-8 if dtype == np.float64 else 1e-4)
    kinds = np.arange(COUNT) % len(KINDS)
    expected = np.full(len(KINDS), int(kkt.Status.SOLVED))
    expected[KINDS.index("infeasible")] = kkt.Status.PRIMAL_INFEASIBLE
    expected[KINDS.index("unbounded")] = kkt.Status.DUAL_INFEASIBLE
    np.testing.assert_array_equal(status, expected[kinds])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_twenty_thousand_agree_with_one_by_one(dtype, seed):
    data = [part.astype(dtype) for part in batch(20_000, np.random.default_rng(seed))]
    # In float32 rounding decides whether a linear program with a nearly dependent basis is solved to the tolerance.
    check(data, *((1e-8,) if dtype == np.float64 else (1e-4, 8)))


def test_an_instance_that_is_not_a_number_changes_no_bit_of_the_others(x64, rng):
    data = batch(COUNT, rng)
    before = in_lockstep(*data)
    data[1][7, 2] = np.nan
    after = in_lockstep(*data)
    assert after.status[7] == kkt.Status.INVALID
    others = np.arange(COUNT) != 7
    for this, that in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(np.asarray(this)[others], np.asarray(that)[others])


def steep(y, unit, tilt):
    return jnp.sum(jnp.cosh(y / unit - tilt))


def test_equal_bounds_stay_equal_when_they_are_scaled(dtype, rng):
    """Scaled in two places of a program they may be rounded differently, and a fixed variable then seems free."""

    def solved(value, tilt, total):
        held = jnp.arange(N) < N // 2
        box = kkt.Box(jnp.where(held, value, 0.0), jnp.where(held, value, 2e6))
        return kkt.solve(kkt.Problem(steep, kkt.Sum(total), box, (1e6, tilt)))

    value = 1e6 * rng.uniform(0.1, 1.9, size=(COUNT, N))
    tilt, total = rng.normal(size=(COUNT, N)), value.sum(axis=1)
    data = [part.astype(dtype) for part in (value, tilt, total)]
    together = jax.jit(jax.vmap(solved))(*data)
    np.testing.assert_array_equal(together.status, int(kkt.Status.SOLVED))
    apart = jax.jit(lambda data: jax.lax.map(lambda one: solved(*one), data))(data)
    np.testing.assert_allclose(together.primal, apart.primal, atol=2e-2 if dtype == np.float64 else 2e3)
    np.testing.assert_array_equal(together.primal[:, : N // 2], data[0][:, : N // 2])


def test_slow_instances_queue_up_again():
    """One in fifty takes a hundred rounds and not ten; it is left behind by its chunk, and none is lost."""

    def small(left, rounds):
        def going(state):
            more = state[0] < rounds
            return more & batches.in_more_than(jnp.asarray(left), more)

        count, total = jax.lax.while_loop(going, lambda s: (s[0] + 1, s[1] + s[0]), (0, jnp.zeros((), jnp.int32)))
        return (total, left), count == rounds

    every = jax.jit(jax.vmap(batches.one_by_one(lambda rounds: small(0, rounds)[0], small=small)))
    rounds = jnp.where(jnp.arange(1000) % 50 == 17, 100, 10)
    total, left = every(rounds)
    np.testing.assert_array_equal(total, rounds * (rounds - 1) // 2)
    assert np.all(left[rounds == 100] == 0)  # those were computed anew, in a chunk that waits for all
    assert np.all(left[rounds == 10] == 15)


def test_derivatives_against_finite_differences(x64, rng):
    data = batch(COUNT, rng, ("plain", "fixed variables", "dependent rows"))
    q, change, direction = data[1], 1e-6 * rng.normal(size=(COUNT, N)), rng.normal(size=N)

    def value(q, P, *rest):
        return jnp.vdot(direction, solved(P, q, *rest).primal)

    slope = jax.jit(jax.vmap(jax.grad(value)))(q, data[0], *data[2:])
    ahead, behind = (in_lockstep(data[0], q + sign * change, *data[2:]).primal @ direction for sign in (1, -1))
    np.testing.assert_allclose(np.sum(slope * change, axis=1), (ahead - behind) / 2, rtol=0, atol=1e-12)


def test_two_axes_and_a_matrix_for_all(x64, rng):
    P, q, A, b, lower, upper = batch(COUNT // 10, rng, ("plain",))
    over_q = jax.vmap(solved, in_axes=(None, 0, None, None, None, None))
    over_both = jax.jit(jax.vmap(over_q, in_axes=(0, None, 0, 0, 0, 0)))
    found = over_both(P[:10], q, A[:10], b[:10], lower[:10], upper[:10]).primal
    i, j = np.divmod(np.arange(COUNT), COUNT // 10)
    apart = in_lockstep(P[i], q[j], A[i], b[i], lower[i], upper[i]).primal
    np.testing.assert_allclose(found.reshape(COUNT, N), apart, rtol=0, atol=1e-9)


def test_no_instance(rng):
    data = [part[:0] for part in batch(2, rng)]
    assert in_lockstep(*data).primal.shape == (0, N)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 13, 20, SMALL])
def test_inverse_root(x64, rng, n):
    root = rng.normal(size=(7, n, n))
    K = root @ root.mT + 0.1 * np.eye(n)
    found = np.asarray(jax.vmap(lapack.inverse_root)(K))
    np.testing.assert_allclose(found, np.linalg.inv(np.linalg.cholesky(K)).mT, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found[0], lapack.inverse_root(jnp.asarray(K[0])), rtol=0, atol=1e-10)
    K[3] -= 2 * np.linalg.eigvalsh(K[3])[0] * np.eye(n)
    found = np.asarray(jax.vmap(lapack.inverse_root)(K))
    np.testing.assert_array_equal(np.isfinite(found[:, -1, -1]), np.arange(7) != 3)
