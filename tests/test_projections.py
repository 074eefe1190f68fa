"""Projections against a root found by scipy, and against the projection's own characterisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from kkt_solvers import projections


def by_brentq(psi, weights, total):
    """`psi(w s)` at the root of the monotone `w'psi(w s) - total`."""
    low, high = -1.0, 1.0
    while weights @ psi(weights * low) > total:
        low *= 2
    while weights @ psi(weights * high) < total:
        high *= 2
    s = scipy.optimize.brentq(lambda s: weights @ psi(weights * s) - total, low, high, xtol=1e-15, rtol=1e-14)
    return psi(weights * s)


def cases(rng):
    for n in (1, 2, 7, 200):
        for weights in (
            np.ones(n),
            rng.normal(size=n),
            rng.uniform(0.1, 5, size=n),
            np.where(np.arange(n) % 3, 1, 0.0),
        ):
            for bounds in ("finite", "lower", "none", "mixed"):
                lower, upper = -rng.uniform(size=n), rng.uniform(size=n)
                if bounds == "lower":
                    upper[:] = np.inf
                if bounds == "none":
                    lower[:], upper[:] = -np.inf, np.inf
                if bounds == "mixed":
                    lower[::2], upper[1::3] = -np.inf, np.inf
                if not np.any(weights):
                    continue
                inside = np.clip(rng.normal(size=n), lower, upper)
                yield n, weights, lower, upper, weights @ inside, 3 * rng.normal(size=n)


def test_euclidean_against_brentq(rng, x64):
    project = jax.jit(
        lambda v, t, w, l, u: projections.euclidean(v, t, weights=w, lower=l, upper=u)  # noqa: E741
    )
    checked = 0
    for n, weights, lower, upper, total, v in cases(rng):
        y = np.asarray(project(v, total, weights, lower, upper))
        expected = by_brentq(lambda z, v=v, lo=lower, up=upper: np.clip(v + z, lo, up), weights, total)
        scale = 1 + np.abs(v).max()
        np.testing.assert_allclose(y, expected, atol=1e-9 * scale, err_msg=f"n={n} weights={weights[:3]}")
        np.testing.assert_allclose(weights @ y, total, atol=1e-11 * scale * n)
        checked += 1
    assert checked == 60


def test_entropic_against_brentq(rng, x64):
    for n in (2, 9, 300):
        v, weights = rng.uniform(0.1, 3, size=n), rng.uniform(0.2, 2, size=n)
        lower, upper = 0.05 * rng.uniform(size=n), rng.uniform(0.5, 1, size=n)
        total = weights @ rng.uniform(lower, upper)
        y = projections.entropic(v, total, weights=weights, lower=lower, upper=upper)
        expected = by_brentq(lambda z, v=v, lo=lower, up=upper: np.clip(v * np.exp(z), lo, up), weights, total)
        np.testing.assert_allclose(y, expected, atol=1e-10)
    np.testing.assert_allclose(projections.entropic(np.exp([1.0, 2, 3]), 1.0), jax.nn.softmax(jnp.arange(3.0)))


def test_box_alone_and_zero_entries(x64):
    np.testing.assert_array_equal(projections.euclidean([-1.0, 0.5, 2.0], lower=0.0, upper=1.0), [0, 0.5, 1])
    np.testing.assert_allclose(projections.entropic([0.0, 1.0, 3.0], 1.0), [0, 0.25, 0.75], atol=1e-15)


@pytest.mark.parametrize("kind", ["euclidean", "entropic"])
def test_derivatives_against_finite_differences(kind, rng, x64):
    project = getattr(projections, kind)
    n = 8
    v, weights = rng.uniform(0.2, 1, size=n), rng.uniform(0.5, 2, size=n)
    lower, upper = 0.1 * rng.uniform(size=n), rng.uniform(0.4, 0.8, size=n)
    point = (v, np.array(3.8), weights, lower, upper)
    step = tuple(rng.normal(size=p.shape) for p in point)

    @jax.jit
    def at(t):
        v, total, weights, lower, upper = (p + t * d for p, d in zip(point, step, strict=True))
        return project(v, total, weights=weights, lower=lower, upper=upper)

    y = np.asarray(at(0.0))
    assert 0 < np.sum((y > lower) & (y < upper)) < n  # some bounds are active
    h = 1e-5
    expected = (at(h) - at(-h)) / (2 * h)
    np.testing.assert_allclose(jax.jvp(at, (0.0,), (1.0,))[1], expected, atol=1e-8)
    np.testing.assert_allclose(jax.jacrev(at)(0.0), expected, atol=1e-8)


def test_float32_stays_float32(rng):
    v = rng.normal(size=50).astype(np.float32)
    with jax.enable_x64(True):
        y = projections.euclidean(v, 3.0, lower=0.0, upper=1.0)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.sum(), 3, rtol=1e-5)


def test_an_empty_set_is_nan():
    assert np.isnan(projections.euclidean([1.0, 2.0], 5.0, lower=0.0, upper=1.0)).all()
    batch = jax.vmap(lambda total: projections.euclidean(jnp.ones(2), total, lower=0.0, upper=1.0))(
        jnp.array([1.0, 5.0])
    )
    np.testing.assert_allclose(batch[0], 0.5)
    assert np.isnan(batch[1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"v": [[1.0]]}, "v must be a vector"),
        ({"v": [1.0, 2.0], "weights": [1.0, 1.0]}, "weights need a total"),
        ({"v": [1.0, 2.0], "total": 1.0, "weights": [1.0, 1.0, 1.0]}, "weights"),
        ({"v": [1.0, 2.0], "total": np.nan}, "total has a NaN"),
        ({"v": [1.0, np.nan]}, "theta has a NaN"),
        ({"v": [1.0, 2.0], "lower": 2.0, "upper": 1.0}, "lower is above upper"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        projections.euclidean(**arguments)
