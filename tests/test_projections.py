"""Projections against a root found by scipy, and against the projection's own characterisation."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
from references import lml, lml_gradient

import kkt_solvers as kkt
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


@pytest.mark.parametrize("kind", ["euclidean", "entropic", "binary_entropic"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_a_batch_is_its_rows(kind, axis, rng, x64):
    project = getattr(projections, kind)
    v, lower = rng.uniform(0.2, 0.8, size=(2, 3, 4)), 0.1 * rng.uniform(size=(3, 4))
    n = v.shape[axis]
    total, weights = rng.uniform(0.3, 0.6, size=(2, 12 // n)) * n, rng.uniform(0.9, 1.1, size=(2, 1, 4))
    total[1, 0] = 9 * n  # no such row

    def whole(v, total, weights, lower):
        return project(v, total, weights=weights, lower=lower, upper=1.0, axis=axis)

    y = jax.jit(whole)(v, total, weights, lower)
    slopes = jax.jit(jax.grad(lambda *point: jnp.sum(jnp.sin(whole(*point))[0]), argnums=(0, 1)))(
        v, total, weights, lower
    )
    assert y.shape == v.shape
    full = [np.moveaxis(np.broadcast_to(part, v.shape), axis, -1) for part in (v, weights, lower, y, slopes[0])]
    for index in np.ndindex(total.shape):
        row, w, low, found, slope = (part[index] for part in full)

        def one(row, t, w=w, low=low):
            return project(row, t, weights=w, lower=low, upper=1.0)

        np.testing.assert_allclose(found, one(row, total[index]), atol=1e-12)
        assert np.isnan(found).all() == (index == (1, 0))
        if index[0] == 0:
            d_row, d_total = jax.grad(lambda row, t, one=one: jnp.sum(jnp.sin(one(row, t))), (0, 1))(row, total[index])
            np.testing.assert_allclose(slope, d_row, atol=1e-12)
            np.testing.assert_allclose(slopes[1][index], d_total, atol=1e-12)
    if kind == "euclidean":
        simplex = projections.simplex(v, 1.0, axis=axis)
        np.testing.assert_allclose(simplex.sum(axis), 1.0, atol=1e-14)
        np.testing.assert_allclose(simplex, project(v, 1.0, lower=0.0, axis=axis), atol=1e-12)
    assert project(np.ones((0, 3)), 1.0).shape == (0, 3)


def test_a_batch_of_plans_is_its_matrices(rng, x64):
    V, rows, columns = rng.uniform(0.1, 1, size=(2, 3, 4)), rng.dirichlet(np.ones(3), size=2), rng.dirichlet(np.ones(4))
    for project in (
        projections.transport,
        projections.entropic_transport,
        lambda *parts: projections.optimal_transport(*parts, 0.1),
    ):
        plans = jax.jit(project)(V, rows, columns)
        for plan, one, sums in zip(plans, V, rows, strict=True):
            np.testing.assert_allclose(plan, project(one, sums, columns), atol=1e-12)


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
        ({"v": 1.0}, "v must have at least one axis"),
        ({"v": [[1.0, 2.0]], "total": [1.0, 2.0]}, "total must be a scalar or broadcast to the shape of v without"),
        ({"v": [[1.0, 2.0]], "lower": [0.0, 0.0, 0.0]}, r"lower must be a scalar or broadcast to the shape of v, \(1"),
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


# ------------------------------------------------------------------------------------- several equalities
def affine_constraint(A, b):
    return {"type": "eq", "fun": lambda y: A @ y - b, "jac": lambda y: A}


def by_slsqp(value, slope, start, A, b, bounds):
    options = {"ftol": 1e-15, "maxiter": 1000}
    arguments = {"jac": slope, "bounds": bounds, "constraints": affine_constraint(A, b), "options": options}
    return scipy.optimize.minimize(value, start, method="SLSQP", **arguments).x


def test_several_equalities_against_scipy(rng, x64):
    n = 10
    A, inside, v = rng.normal(size=(3, n)), rng.uniform(0.1, 0.5, size=n), rng.uniform(0.05, 0.95, size=n)
    equality, b = kkt.Affine(A, A @ inside), A @ inside
    bounds = [(0.02, 0.6)] * n
    for project, value, slope in (
        (projections.euclidean, lambda y: 0.5 * np.sum((y - v) ** 2), lambda y: y - v),
        (projections.entropic, lambda y: np.sum(y * np.log(y / v) - y), lambda y: np.log(y / v)),
    ):
        y = project(v, equality=equality, lower=0.02, upper=0.6)
        np.testing.assert_allclose(y, by_slsqp(value, slope, inside, A, b, bounds), atol=1e-6)
        np.testing.assert_allclose(A @ y, b, atol=1e-12)
    y = projections.binary_entropic(v, equality=equality)
    expected = by_slsqp(
        lambda y: np.sum(y * np.log(y / v) + (1 - y) * np.log((1 - y) / (1 - v))),
        lambda y: np.log(y / v) - np.log((1 - y) / (1 - v)),
        inside,
        A,
        b,
        [(1e-6, 1 - 1e-6)] * n,
    )
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_binary_entropic_is_lml(rng, x64):
    x = rng.normal(size=9)
    project = jax.jit(lambda x, k: projections.binary_entropic(jax.nn.sigmoid(x), k))
    np.testing.assert_allclose(project(x, 3.0), lml(x, 3)[0].astype(float), atol=1e-12)
    g = rng.normal(size=9)
    expected = lml_gradient(x, 3, g)
    for ours, theirs in zip(jax.vjp(project, x, 3.0)[1](g), expected, strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs, float), atol=1e-12)
    moved = projections.binary_entropic(-1 + 4 * jax.nn.sigmoid(x), 4 * 3.0 - 9, lower=-1.0, upper=3.0)
    np.testing.assert_allclose(moved, -1 + 4 * project(x, 3.0), atol=1e-12)


def test_simplex_against_the_sort(rng, x64):
    v, total = rng.normal(size=12), 1.7
    u = np.sort(v)[::-1]
    excess = (np.cumsum(u) - total) / np.arange(1, 13)
    expected = np.maximum(v - excess[np.sum(u > excess) - 1], 0)
    assert 0 < np.sum(expected == 0) < 11
    np.testing.assert_allclose(projections.simplex(v, total), expected, atol=1e-14)


def marginals(a, b):
    return np.vstack([np.repeat(np.eye(a), b, axis=1), np.tile(np.eye(b), a)])


def test_transport_against_clarabel(rng, x64):
    a, b = 4, 5
    V, rows, columns = rng.normal(size=(a, b)), rng.dirichlet(np.ones(a)), rng.dirichlet(np.ones(b))
    A, n = sp.csc_matrix(marginals(a, b)), a * b
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    answer = clarabel.DefaultSolver(
        sp.eye(n, format="csc"),
        -V.ravel(),
        sp.vstack([A, -sp.eye(n)], format="csc"),
        np.concatenate([rows, columns, np.zeros(n)]),
        [clarabel.ZeroConeT(a + b), clarabel.NonnegativeConeT(n)],
        settings,
    ).solve()
    y = projections.transport(V, rows, columns)
    np.testing.assert_allclose(y, np.reshape(answer.x, (a, b)), atol=1e-9)
    assert np.sum(np.asarray(y) == 0) > 5


def by_scaling(V, rows, columns):
    p, q = np.ones(len(rows)), np.ones(len(columns))
    for _ in range(3000):
        p = rows / (V @ q)
        q = columns / (p @ V)
    return p[:, None] * V * q


def test_entropic_transport_against_scaling(rng, dtype):
    V, rows, columns = rng.uniform(size=(4, 5)), rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(5))
    V[1, 2] = 0
    expected = by_scaling(V, rows, columns)
    V, rows, columns = (x.astype(dtype) for x in (V, rows, columns))
    y = projections.entropic_transport(V, rows, columns)
    assert y.dtype == dtype
    bound = {"float64": 1e-11, "float32": 1e-6}[dtype.name]
    np.testing.assert_allclose(y, expected, atol=bound)
    assert y[1, 2] == 0
    if dtype == np.float32:
        return
    rest = np.where(V > 0, V, 1)
    plan = projections.optimal_transport(-0.1 * np.log(rest), rows, columns, 0.1)
    np.testing.assert_allclose(plan, by_scaling(rest.astype(float), rows, columns), atol=20 * bound)


def test_optimal_transport_at_a_small_epsilon(rng, x64):
    size, epsilon = 64, 0.005
    C, rows, columns = rng.uniform(size=(size, size)), rng.dirichlet(np.ones(size)), rng.dirichlet(np.ones(size))
    y = np.asarray(projections.optimal_transport(C, rows, columns, epsilon))
    np.testing.assert_allclose(y.sum(axis=1), rows, atol=1e-12)
    np.testing.assert_allclose(y.sum(axis=0), columns, atol=1e-12)
    # epsilon log y + C = f_i + g_j: what makes such a plan optimal. Where y underflows there is nothing to see.
    potential = epsilon * np.log(np.where(y > 1e-300, y, 1)) + C
    i, j = np.unravel_index(y.argmax(), y.shape)
    rest = potential - potential[:, j : j + 1] - potential[i : i + 1] + potential[i, j]
    seen = (y > 1e-300) & (y[:, j : j + 1] > 1e-300) & (y[i : i + 1] > 1e-300)
    assert seen.sum() > 4000
    np.testing.assert_allclose(rest[seen], 0, atol=1e-9)


@pytest.mark.parametrize("kind", ["transport", "entropic_transport"])
def test_derivatives_of_transport(kind, rng, x64):
    project = getattr(projections, kind)
    V, rows, columns = rng.uniform(0.1, 1, size=(4, 5)), rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(5))
    d_rows, d_columns = rng.normal(size=(3, 4)), rng.normal(size=(3, 5))
    d_rows, d_columns = d_rows - d_rows.mean(axis=1)[:, None], d_columns - d_columns.mean(axis=1)[:, None]
    steps = rng.normal(size=(3, 4, 5)), 0.1 * d_rows, 0.1 * d_columns
    value = jax.jit(
        jax.vmap(
            lambda t, step: project(*(p + t * d for p, d in zip((V, rows, columns), step, strict=True))), (None, 0)
        )
    )
    h = 1e-6
    expected = (value(h, steps) - value(-h, steps)) / (2 * h)
    assert np.abs(expected).max() > 0.1
    if kind == "transport":
        forward = jax.jit(jax.vmap(lambda step: jax.jvp(project, (V, rows, columns), step)[1]))(steps)
        np.testing.assert_allclose(forward, expected, atol=1e-7)
    g = rng.normal(size=(4, 5))
    reverse = jax.jit(jax.grad(lambda *point: jnp.vdot(g, project(*point)), argnums=(0, 1, 2)))(V, rows, columns)
    for i in range(3):
        along = sum(np.vdot(part, step[i]) for part, step in zip(reverse, steps, strict=True))
        np.testing.assert_allclose(along, np.vdot(g, expected[i]), atol=1e-6)


def test_transport_that_cannot_be_is_nan_and_wrong_shapes_are_refused():
    V, half = jnp.ones((2, 2)), jnp.array([0.5, 0.5])
    rows = jnp.array([[0.5, 0.5], [0.5, 0.6], [1.2, -0.2]])
    y = jax.vmap(lambda rows: projections.transport(V, rows, half))(rows)
    np.testing.assert_allclose(y[0], 0.25, atol=1e-6)
    assert np.isnan(y[1:]).all()
    for arguments, message in (
        ((V[0], half, half), "V must be a matrix"),
        ((V, half[:1], half), r"rows must have shape \(2,\)"),
        ((V, half, rows), r"columns must have shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            projections.transport(*arguments)
    with pytest.raises(ValueError, match="rows must be a scalar or broadcast to the shape of the sums of V"):
        projections.transport(jnp.ones((2, 2, 2)), rows, half)
    with pytest.raises(ValueError, match="epsilon must be a scalar"):
        projections.optimal_transport(V, half, half, half)
    with pytest.raises(ValueError, match="in place of total"):
        projections.euclidean(half, 1.0, equality=kkt.Affine(V, half))
    with pytest.raises(TypeError, match="equality must be an Affine"):
        projections.euclidean(half, equality=kkt.Sum(1.0))
    with pytest.raises(ValueError, match="upper must be a scalar or broadcast to the shape of v"):
        projections.binary_entropic(half, 1.0, upper=jnp.ones(3))
