"""Total variation against its KKT conditions and Clarabel on the dual, and its derivative against differences and the
interior point on the problem by stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import kkt_solvers as kkt
from kkt_solvers.problems import TotalVariation, total_variation


def data(rng, n):
    i = np.arange(n)
    kinds = {
        "steps": np.floor(4 * i / n) % 2 + 0.3 * rng.normal(size=n),
        "noise": rng.normal(size=n),
        "sorted": np.sort(rng.normal(size=n)),
        "constant": np.full(n, 0.7),
        "spike": np.append(100.0, 0.01 * i[1:]),
        "sawtooth": i % 7 + 0.01 * i,
        "walk": np.cumsum(rng.normal(size=n)),
        "ties": np.round(5 * i / n + rng.normal(size=n)),
    }
    return np.stack(list(kinds.values()))


fit = jax.jit(jax.vmap(total_variation, in_axes=(0, None)))


def by_clarabel(x, strength):
    """By the forces: `y = x + D'force` for the differences D, with the least `|y|`."""
    D, n = np.diff(np.eye(len(x)), axis=0), len(x)
    force, _ = references.box_program(D @ D.T, -D @ x, np.zeros((0, n - 1)), np.zeros(0), -strength, strength)
    return x - D.T @ force


def violation(x, strength, y):
    """Of the KKT conditions, by the forces that belong to y. If there is none, y is the solution for these strengths
    moved by as much."""
    force, step = np.cumsum(y - x), np.diff(y)
    at_jumps = (force[:-1] - strength * np.sign(step))[step != 0]
    beyond = np.maximum(np.abs(force[:-1]) - strength, 0)
    return max(np.max(np.abs(at_jumps), initial=0), np.max(beyond), abs(force[-1]))


@pytest.mark.parametrize("n", [2, 3, 16, 120])
def test_all_kinds_of_data(n, rng, x64):
    x = data(rng, n)
    for strength in (np.full(n - 1, 0.5), 10 ** rng.uniform(-2, 2, n - 1)):
        y = fit(x, strength)
        expected = np.stack([by_clarabel(row, strength) for row in x])
        size = np.maximum(np.max(np.abs(x), axis=1, keepdims=True), 1)
        np.testing.assert_allclose(y / size, expected / size, atol=1e-6)  # what Clarabel reaches where levels merge
        for row, found, scale in zip(x, np.asarray(y), size[:, 0], strict=True):
            assert violation(row, strength, found) <= 1e-12 * len(row) * scale
        with jax.enable_x64(False):
            single = fit(x.astype(np.float32), strength.astype(np.float32))
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single / size, y / size, atol=1e-4)


def test_by_stages(rng, x64):
    x = data(rng, 40)[0]
    solution = jax.jit(lambda x: kkt.solve(TotalVariation(x, 0.4)))(x)
    assert kkt.Status(int(solution.status)) == kkt.Status.SOLVED
    np.testing.assert_allclose(solution.primal[::3], total_variation(x, 0.4), atol=1e-8)


def test_simple_cases(rng, x64):
    assert total_variation([3.0], 1.0).tolist() == [3.0]
    np.testing.assert_array_equal(total_variation(np.full(30, 0.7), 0.1), np.full(30, 0.7))
    x = rng.normal(size=30)
    np.testing.assert_allclose(total_variation(x, 1e6), np.full(30, x.mean()), atol=1e-14)
    np.testing.assert_allclose(total_variation(1e8 + x, 0.3) - 1e8, total_variation(x, 0.3), atol=1e-7)


def test_long_sequences(rng, x64):
    n = 50_000
    x = np.repeat(rng.normal(size=n // 100), 100) + 0.3 * rng.normal(size=n)
    one = jax.jit(total_variation)
    y = np.asarray(one(x, 2.0))
    assert violation(x, 2.0, y) <= 1e-9
    single = one(x.astype(np.float32), np.float32(2.0))
    np.testing.assert_allclose(single, y, atol=1e-4)


def test_derivatives(rng, x64):
    n = 16
    x, strength, sparsity = data(rng, n)[0], rng.uniform(0.2, 0.5, n - 1), 0.3
    args = tuple(map(jnp.asarray, (x, strength, sparsity)))
    forward, backward = jax.jit(
        lambda *args: (jax.jacfwd(total_variation, (0, 1, 2))(*args), jax.jacrev(total_variation, (0, 1, 2))(*args))
    )(*args)
    one, step = jax.jit(total_variation), 1e-6
    for i in range(3):
        np.testing.assert_allclose(forward[i], backward[i], atol=1e-14)

        def moved(t, at, i=i):
            return one(*(arg + t * (at if j == i else 0) for j, arg in enumerate(args)))

        columns = np.eye(np.size(args[i])).reshape(-1, *np.shape(args[i]))
        differences = np.stack([(moved(step, e) - moved(-step, e)) / (2 * step) for e in columns], axis=-1)
        np.testing.assert_allclose(forward[i].reshape(n, -1), differences, atol=1e-8)
    by_stages = jax.jit(jax.jacrev(lambda *args: kkt.solve(TotalVariation(*args)).primal[::3], (0, 1)))(*args[:2])
    alone = jax.jit(jax.jacrev(total_variation, (0, 1)))(*args[:2])
    for ours, other in zip(alone, by_stages, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-6)


def test_ties(rng, x64):
    """The derivative is finite where levels merge, and a total is kept."""
    for x in (np.full(16, 3.0), np.round(np.linspace(0, 5, 16) + rng.normal(size=16))):
        J = jax.jit(jax.jacobian(total_variation))(x, 0.5)
        assert np.all(np.isfinite(J))
        np.testing.assert_allclose(J.sum(axis=0), 1.0, atol=1e-14)


def test_bad_rows_leave_the_others_alone(rng, x64):
    x, strength = rng.normal(size=(4, 16)), np.full((4, 15), 0.3)
    x[1, 3], strength[2, 4] = np.nan, -1.0
    y, pullback = jax.jit(lambda *args: jax.vjp(jax.vmap(total_variation), *args))(x, strength)
    gradients = pullback(jnp.ones_like(y))
    for row in range(4):
        finite = row not in (1, 2)
        assert np.all(np.isfinite(y[row]) == finite)
        assert np.all(np.isfinite(gradients[0][row]) == finite)
        if finite:
            np.testing.assert_allclose(y[row], total_variation(x[row], strength[row]), atol=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: total_variation([1.0, np.nan], 1.0), "x has a NaN or infinite entry"),
        (lambda: total_variation([1.0, 2.0], -1.0), "strength must be positive"),
        (lambda: total_variation([1.0, 2.0], [1.0, 1.0]), r"strength must be a scalar or have the shape \(1,\)"),
        (lambda: total_variation([1.0, 2.0], 1.0, -1.0), "sparsity must be nonnegative"),
        (lambda: total_variation([], 1.0), "x has no entries"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
