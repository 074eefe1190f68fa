"""LML on every kind of scores: against 60 digits, at the edges, with its options, and by its properties."""

import functools

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
import references

import kkt_solvers as kkt
from kkt_solvers.problems import LML, lml, log_lml

N = 24  # one shape, so that what is compiled is shared


@jax.jit
def _value_and_gradient(x, k, g):
    y, pullback = jax.vjp(lml, x, k)
    return y, *pullback(g)


@jax.jit
def _logarithms(x, k, g):
    logs, pullback = jax.vjp(log_lml, x, k)
    return *logs, *pullback((g, jnp.zeros_like(g)))


FAMILIES = {
    "normal": lambda rng: rng.normal(size=N),
    "cauchy": lambda rng: rng.standard_cauchy(size=N),
    "lognormal": lambda rng: np.exp(rng.normal(size=N)),
    "constant": lambda rng: np.ones(N),
    "one_hot": lambda rng: 30.0 * (np.arange(N) == 5),
    "clusters": lambda rng: np.where(np.arange(N) < 5, 20, -20) + rng.normal(size=N),  # the gap is at k = 5
    "ladder": lambda rng: np.arange(N) - 7.0,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_against_mpmath(family, dtype, rng):
    bound = {"float64": 4e-15, "float32": 1e-6}[dtype.name]
    x, g = FAMILIES[family](rng).astype(np.float32), rng.normal(size=N).astype(np.float32)
    for scale, k in [
        *((1e-2, 4.0), (0.1, 2.0), (1.0, 1.0), (1.0, 5.0), (3.0, 6.0), (3.0, 2.5)),
        *((10.0, 6.0), (1e2, 5.0), (1e3, 4.0), (1e6, 23.0), (1e30, 4.0)),
    ]:
        scaled = (np.float32(scale) * x).astype(np.float32)
        y, D, w = references.lml_mpmath(tuple(scaled.astype(float)), k)
        got, dx, dk = _value_and_gradient(scaled.astype(dtype), dtype.type(k), g.astype(dtype))
        np.testing.assert_allclose(got, y, rtol=0, atol=bound * max(1, k), err_msg=f"{scale} {k}")
        np.testing.assert_allclose(got.astype(float).sum(), k, rtol=0, atol=2 * bound * max(1, k))
        np.testing.assert_allclose(dx, D * (g - w @ g), rtol=0, atol=20 * bound, err_msg=f"{scale} {k}")
        if scale < 100:  # beyond, w hangs on the last digits of nu
            np.testing.assert_allclose(dk, w @ g, rtol=0, atol=50 * bound, err_msg=f"{scale} {k}")


def test_the_derivative_in_k_does_not_underflow(dtype):
    # sigmoid(300) sigmoid(-300) is zero in float32; the entries beside the gap still share a change of k.
    x = jnp.asarray([300.0, 300.0, -300.0, -300.0], dtype)
    _, dx, dk = _value_and_gradient(x, jnp.asarray(2, dtype), jnp.asarray([1.0, 2.0, 3.0, 4.0], dtype))
    np.testing.assert_allclose(dx, 0, atol=1e-30)
    np.testing.assert_allclose(dk, 2.5, rtol=1e-5)
    log_y, log_rest, log_dx, _ = _logarithms(x, jnp.asarray(2, dtype), jnp.asarray([1.0, 2.0, 3.0, 4.0], dtype))
    np.testing.assert_allclose(log_y, [0, 0, -300, -300], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(log_rest, [-300, -300, 0, 0], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(log_dx, [-7 / 4, -7 / 4, 3 - 7 / 4, 4 - 7 / 4], rtol=1e-5)  # v - w sum(v), v = g (1 - y)

    of_problem = jax.grad(lambda k: jnp.vdot(jnp.arange(1.0, 5.0, dtype=dtype), kkt.solve(LML(x, k)).primal))
    np.testing.assert_allclose(of_problem(jnp.asarray(2, dtype)), 2.5, rtol=1e-5)


def test_its_objective_over_another_box(x64, rng):
    x = rng.normal(size=6)
    problem = kkt.Problem(LML(x, 2.3).objective, kkt.Sum(2.3), kkt.Box(0.2, 0.7))
    solution, other = kkt.solve(problem), kkt.solve(problem, jnp.full(6, 2.3 / 6), solver=kkt.InteriorPoint())
    assert int(solution.status) == int(other.status) == 0
    np.testing.assert_allclose(solution.primal, other.primal, atol=1e-8)


INF = np.inf
EDGES = [
    # scores, k, y
    ([2, -1, 0.5, 0], 0, [0, 0, 0, 0]),
    ([2, -1, 0.5, 0], 4, [1, 1, 1, 1]),
    ([2, -1, 0.5, 0], 7, [1, 1, 1, 1]),
    ([-INF, 1, 2, 3], 3, [0, 1, 1, 1]),
    ([-INF, 1, 2, 3], 3.5, [0, 1, 1, 1]),
    ([-INF] * 4, 2, [0, 0, 0, 0]),
    ([INF, 1, 1, 1], 2, [1, 1 / 3, 1 / 3, 1 / 3]),
    ([INF, -INF, 0, 0], 2, [1, 0, 0.5, 0.5]),
    ([INF, INF, -INF, 0], 2, [1, 1, 0, 0]),
    ([INF, INF, INF, 0], 2, [2 / 3, 2 / 3, 2 / 3, 0]),
    ([3e38, -3e38, 0, 0], 2, [1, 0, 0.5, 0.5]),
    ([1e6, 1e6, 1e6, 1e6], 1, [0.25] * 4),
]


def test_edges(dtype):
    x, k, expected = (np.array([edge[i] for edge in EDGES], dtype) for i in range(3))
    g = np.broadcast_to(np.arange(4, dtype=dtype), x.shape)
    y, dx, dk = _value_and_gradient(x, k, g)
    np.testing.assert_allclose(y, expected, rtol=0, atol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(y[expected == 0], 0)
    np.testing.assert_array_equal(y[expected == 1], 1)
    np.testing.assert_array_equal(dx[np.isinf(x) & ((expected == 0) | (expected == 1))], 0)
    no_choice = np.all((expected == 0) | (expected == 1), axis=-1)
    np.testing.assert_array_equal(dx[no_choice], 0)
    np.testing.assert_array_equal(dk[no_choice], 0)
    np.testing.assert_allclose(dx.sum(-1), 0, atol=1e-6)
    assert np.isfinite(dk).all()
    log_y, log_rest, dx, dk = _logarithms(x, k, g)
    np.testing.assert_allclose(np.exp(log_y), expected, atol=4e-7)
    np.testing.assert_allclose(np.exp(log_rest), 1 - expected, atol=4e-7)
    assert np.isfinite(dx).all()
    np.testing.assert_array_equal(dx[(x == -INF) | (k[:, None] == 0)], 0)


def test_a_million_ties():
    y, dx, dk = _value_and_gradient(jnp.full(1_000_000, 2.5), jnp.float32(3), jnp.ones(1_000_000))
    np.testing.assert_allclose(y, 3e-6, rtol=1e-5)
    np.testing.assert_allclose(dx, 0, atol=1e-9)
    np.testing.assert_allclose(dk, 1, rtol=1e-5)


def test_axis_mask_weights_and_temperature(rng, x64):
    x, where = rng.normal(size=(3, 4, 5)), rng.random((4, 1)) < 0.7
    where[0] = True
    w, T = rng.uniform(0.5, 2, size=(4, 1)), 0.7
    y = lml(x, 1.2, axis=1, where=where, weights=w, temperature=T)
    assert y.shape == x.shape
    for i, j in np.ndindex(3, 5):
        kept = np.flatnonzero(where[:, 0])
        expected, _, _ = references.lml_mpmath(tuple(x[i, kept, j] / T), 1.2, tuple(w[kept, 0]))
        np.testing.assert_allclose(y[i, kept, j], expected, atol=1e-14)
    np.testing.assert_array_equal(np.asarray(y)[:, ~where[:, 0]], 0)
    per_row = lml(x[0], np.array([1, 2, 1, 2]), temperature=np.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(per_row[3], lml(x[0, 3] / 4, 2), atol=1e-15)


@pytest.mark.parametrize("spread", [1, 3, 6])
def test_weights_of_any_spread(spread, dtype, rng):
    bound = {"float64": 1e-14, "float32": 1e-5}[dtype.name]
    for scale in (0.1, 1, 10, 100, 1e4):
        x, w = scale * rng.normal(size=(400, 30)), np.exp(spread * rng.normal(size=(400, 30))).astype(dtype)
        k = (rng.choice([1e-3, 0.1, 0.5, 0.9, 0.999], size=400) * w.sum(1)).astype(dtype)
        y = np.asarray(_weighted(x.astype(dtype), k, w), float)
        np.testing.assert_allclose(np.sum(w * y, 1), k, rtol=bound)


@jax.jit
def _weighted(x, k, w):
    return lml(x, k, weights=w)


def test_gradient_in_everything(rng, x64):
    x, w, g = rng.normal(size=6), rng.uniform(0.5, 2, size=6), rng.normal(size=6)

    def value(x, k, w, T):
        return jnp.vdot(g, lml(x, k, weights=w, temperature=T))

    at = (x, 2.3, w, 0.8)
    jax.test_util.check_grads(jax.jit(value), at, order=2, modes=["rev"], atol=1e-6, rtol=1e-6, eps=1e-5)
    far = (x + 50.0 * (np.arange(6) < 2), 2.3, w, 0.8)  # where the problem is centred first
    jax.test_util.check_grads(jax.jit(value), far, order=1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6, eps=1e-5)


def test_sweeps(dtype):
    # Whatever the scores; a plain bisection takes 24 or 53.
    count = jax.jit(jax.vmap(lambda x, k: kkt.solve(LML(x, k)).iterations))
    rng = np.random.default_rng(0)
    scores = np.stack([family(rng) for family in FAMILIES.values() for _ in range(20)])
    # Up to four clusters far apart, of any sizes, narrow or broad: what is hardest.
    levels = rng.normal(size=(400, 4)) * 10 ** rng.uniform(-1, 1.3, (400, 1))
    of = [rng.choice(4, N, p=rng.dirichlet(np.full(4, 0.5))) for _ in levels]
    clusters = np.take_along_axis(levels, np.array(of), 1)
    clusters += rng.normal(size=clusters.shape) * 10 ** rng.uniform(-2, 0.7, (400, 1))
    scores = np.concatenate([scores, clusters])
    for scale in (1e-2, 1, 3, 6, 100, 1e6, 1e30):
        for k in (1, 2.5, 6, 12, 23):
            sweeps = count((scale * scores).astype(dtype), np.full(len(scores), k, dtype))
            assert np.max(sweeps) <= 6, (scale, k)
            assert np.mean(sweeps) <= 5, (scale, k)
    # What a network begins and goes on with is found by plain sums alone: the first in three of them in float32.
    for scale, most in ((1e-2, 3), (0.1, 3), (1, 3), (2, 4)):
        sweeps = count(scale * rng.normal(size=(512, 100)).astype(dtype), np.full(512, 5, dtype))
        assert np.max(sweeps) <= most + (dtype == np.float64)


# ------------------------------------------------------------------------------------------ properties
finite = hypothesis.extra.numpy.arrays(np.float64, 8, elements=st.floats(-1e3, 1e3, width=32))
counts = st.floats(0.01, 7.99)
checked = functools.partial(hypothesis.settings, max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.mark.usefixtures("x64")
class TestProperties:
    @checked()
    @hypothesis.given(finite, counts, st.permutations(range(8)), st.floats(-1e3, 1e3))
    def test_order_and_offset_do_not_matter(self, x, k, order, offset):
        y, _, _ = _value_and_gradient(x, k, x)
        np.testing.assert_allclose(_value_and_gradient(x[order], k, x)[0], y[jnp.asarray(order)], atol=1e-13)
        np.testing.assert_allclose(_value_and_gradient(x + offset, k, x)[0], y, atol=1e-11)

    @checked()
    @hypothesis.given(finite, counts, st.integers(0, 7), st.floats(0, 10))
    def test_monotone_in_k_and_in_its_own_score(self, x, k, i, step):
        y, _, _ = _value_and_gradient(x, k, x)
        assert np.all(_value_and_gradient(x, min(k + 0.1 * step, 7.99), x)[0] >= y - 1e-13)
        more = _value_and_gradient(x + step * (np.arange(8) == i), k, x)[0]
        assert more[i] >= y[i] - 1e-12
        assert np.all(np.delete(more, i) <= np.delete(y, i) + 1e-12)

    @checked()
    @hypothesis.given(finite, counts)
    def test_symmetry_and_sums(self, x, k):
        y, dx, dk = _value_and_gradient(x, k, np.arange(8.0))
        np.testing.assert_allclose(_value_and_gradient(-x, 8 - k, x)[0], 1 - y, atol=1e-13)
        np.testing.assert_allclose(y.sum(), k, atol=1e-13)
        np.testing.assert_allclose(dx.sum(), 0, atol=1e-12)
        np.testing.assert_allclose(_value_and_gradient(x, k, np.ones(8))[2], 1, atol=1e-12)  # dy/dk = w, of sum one
        assert -1e-12 <= dk <= 7 + 1e-12


# ------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"axis": 2}, ValueError, "axis must lie between -2 and 1"),
        ({"where": np.ones(3)}, TypeError, "where must be a boolean mask"),
        ({"where": np.ones(2, bool)}, ValueError, "where must be a scalar or broadcast"),
        ({"weights": [1.0, 0.0, 1.0]}, ValueError, "weights must be positive"),
        ({"weights": np.ones(4)}, ValueError, "weights must be a scalar or broadcast"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive"),
        ({"temperature": np.ones(3)}, ValueError, "temperature must be a scalar or broadcast"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        lml(np.zeros((2, 3)), 1, **options)


def test_traced_bad_values_make_their_row_nan():
    x, T = np.zeros((3, 3), np.float32), np.array([1.0, -1.0, 1.0], np.float32)
    w = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 0.0, 1.0]], np.float32)
    y = jax.jit(lambda w, T: lml(x, 1, weights=w, temperature=T))(w, T)
    np.testing.assert_allclose(y[0], 1 / 3, rtol=1e-6)
    assert np.isnan(y[1:]).all()
