"""The smoothed derivative against differences of the relaxed problem, which NumPy solves along its central path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kkt_solvers as kkt

N, M = 6, 2


def data(rng):
    """P, q, A, b, l, u with bounds of all kinds: both, one, none, fixed."""
    root, A = rng.normal(size=(N, N)), rng.normal(size=(M, N))
    lower, upper = np.zeros(N), np.ones(N)
    upper[2], lower[4], upper[4] = np.inf, -np.inf, np.inf
    lower[3] = upper[3] = 0.4
    return root @ root.T / N + 0.1 * np.eye(N), rng.normal(size=N), A, A @ middle(lower, upper), lower, upper


def middle(lower, upper):
    half = np.where(np.isfinite(lower), lower, 0) + np.where(np.isfinite(upper), upper, 1)
    return np.where(lower == upper, lower, half / 2)


def central(mu, slope, hessian, A, b, lower, upper):
    """`y` and the multipliers on the central path at `mu`, by Newton's method on the logarithmic barrier."""
    y, nu, moves, weight = middle(lower, upper), np.zeros(len(b)), lower != upper, 1.0
    while True:
        for _ in range(80):
            low, high = (np.where(moves, gap, np.inf) for gap in (y - lower, upper - y))
            gradient = slope(y) - weight / low + weight / high + A.T @ nu
            H = (hessian(y) + np.diag(weight / low**2 + weight / high**2))[np.ix_(moves, moves)]
            K = np.block([[H, A[:, moves].T], [A[:, moves], np.zeros((len(b), len(b)))]])
            step = np.linalg.solve(K, -np.concatenate([gradient[moves], A @ y - b]))
            dy = np.zeros(len(y))
            dy[moves] = step[: moves.sum()]
            part = min(1, 0.9 / np.max(np.concatenate([-dy / low, dy / high, [1e-30]])))
            y, nu = y + part * dy, nu + part * step[moves.sum() :]
            if np.abs(step).max() < 1e-13:
                break
        if weight <= mu:
            return np.concatenate([y, nu, np.where(moves, mu / low, 0), np.where(moves, mu / high, 0)])
        weight = max(mu, 0.3 * weight)


def quartic(y, P, q):
    return 0.5 * y @ P @ y + q @ y + jnp.sum(y**4)


def reference(kind, mu, P, q, *rest):
    if kind == "quadratic":
        return central(mu, lambda y: P @ y + q, lambda y: P, *rest)
    return central(mu, lambda y: P @ y + q + 4 * y**3, lambda y: P + np.diag(12 * y**2), *rest)


def stacked(kind, mu, P, q, A, b, lower, upper):
    objective = kkt.Quadratic(P, q) if kind == "quadratic" else quartic
    args = () if kind == "quadratic" else (P, q)
    problem = kkt.Problem(objective, kkt.Affine(A, b), kkt.Box(lower, upper), args=args)
    solution = kkt.solve(problem, jnp.zeros(N), smoothing=mu)
    moves = lower != upper
    dual = solution.dual
    bounds = [jnp.where(moves, part, 0) for part in (dual.lower, dual.upper)]
    return jnp.concatenate([solution.primal, dual.equality, *bounds])


@pytest.mark.parametrize("mu", [1e-1, 1e-5])
@pytest.mark.parametrize("kind", ["quadratic", "quartic"])
def test_differences_of_the_relaxed_problem(kind, mu, rng, x64):
    given = data(rng)
    step = [rng.normal(size=part.shape) for part in given]
    step[0] = step[0] + step[0].T
    step[5][3] = step[4][3]  # a fixed variable stays fixed
    step = [np.where(np.isfinite(part), s, 0) for part, s in zip(given, step, strict=True)]

    def along(t):
        return [part + t * s for part, s in zip(given, step, strict=True)]

    h = 1e-5
    by_differences = (reference(kind, mu, *along(h)) - reference(kind, mu, *along(-h))) / (2 * h)
    forward = jax.jit(lambda given, step: jax.jvp(lambda *a: stacked(kind, mu, *a), given, step)[1])
    ours = forward(tuple(map(jnp.asarray, given)), tuple(map(jnp.asarray, step)))
    np.testing.assert_allclose(ours, by_differences, atol=1e-6, rtol=1e-6)
    # In reverse, the same number.
    w = rng.normal(size=ours.shape)
    back = jax.grad(lambda *a: jnp.vdot(w, stacked(kind, mu, *a)), tuple(range(6)))(*map(jnp.asarray, given))
    total = sum(np.vdot(np.where(np.isfinite(g), g, 0), s) for g, s in zip(back, step, strict=True))
    np.testing.assert_allclose(total, w @ by_differences, rtol=1e-6)


def at_a_vertex(q, smoothing=None):
    """Capped weights: nothing is free, so nothing moves."""
    P, one = jnp.eye(3), jnp.ones((1, 3))
    problem = kkt.Problem(kkt.Quadratic(P, q), kkt.Affine(one, jnp.ones(1)), kkt.Box(0.0, 0.5))
    return kkt.solve(problem, smoothing=smoothing)


def test_a_vertex_answers_and_the_value_stays(x64):
    q = jnp.array([-3.0, -2.0, 0.0])
    plain, smooth = at_a_vertex(q), at_a_vertex(q, 1e-2)
    for ours, theirs in zip(jax.tree.leaves(smooth), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.any(jax.jacobian(lambda q: at_a_vertex(q).primal)(q))
    by_scores = jax.jit(jax.jacobian(lambda q, mu: at_a_vertex(q, mu).primal))
    large, small, tiny = (np.linalg.norm(by_scores(q, mu)) for mu in (1e-1, 1e-3, 1e-5))
    assert large > 1e-2
    assert large > 10 * small > 100 * tiny > 0


def test_second_order(rng, x64):
    P, q, *rest = map(jnp.asarray, data(rng))
    along = jnp.asarray(rng.normal(size=q.shape))

    def slope(t):
        return jax.jvp(lambda q: stacked("quadratic", 1e-2, P, q, *rest), (q + t * along,), (along,))[1]

    slope = jax.jit(slope)
    curvature = jax.jit(lambda t: jax.jvp(slope, (t,), (1.0,))[1])(0.0)
    np.testing.assert_allclose(curvature, (slope(1e-5) - slope(-1e-5)) / 2e-5, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_inequalities_in_a_batch_with_one_infeasible(dtype, x64):
    """`min |x - c|^2 / 2` over `x1 + x2 <= h`, `x >= 0`: by hand along the diagonal, NaN where it is infeasible."""
    mu = 1e-3

    @jax.jit
    def both(h):
        def first(h):
            zero = jnp.zeros(2, dtype)
            x = kkt.solve_qp(jnp.eye(2, dtype=dtype), zero - 1, jnp.ones((1, 2), dtype), h[None], lb=zero, smoothing=mu)
            return x.primal[0]

        return jax.vmap(jax.value_and_grad(first))(h)

    value, slope = both(jnp.array([1.0, -1.0, 4.0], dtype))

    def relaxed(h):
        """x - 1 - mu / x + mu / (h - 2 x) = 0, increasing in x."""
        low, high = 0.0, h / 2
        for _ in range(200):
            x = (low + high) / 2
            low, high = (low, x) if x - 1 - mu / x + mu / (h - 2 * x) > 0 else (x, high)
        return x

    np.testing.assert_allclose(value[jnp.array([0, 2])], [0.5, 1.0], atol=1e-5)
    expected = [(relaxed(h + 1e-6) - relaxed(h - 1e-6)) / 2e-6 for h in (1.0, 4.0)]
    np.testing.assert_allclose(slope[jnp.array([0, 2])], expected, rtol=1e-4 if dtype == jnp.float64 else 1e-2)
    assert np.all(np.isnan([value[1], slope[1]]))


@pytest.mark.parametrize(("smoothing", "message"), [(0.0, "positive"), (-1.0, "positive"), ([1.0, 1.0], "scalar")])
def test_bad_smoothing(smoothing, message):
    with pytest.raises(ValueError, match=f"smoothing must be .*{message}"):
        at_a_vertex(jnp.zeros(3), smoothing)
