"""Derivatives of solutions with inequalities: against central differences, and against the KKT system of the active
set, written out here and solved in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kkt_solvers as kkt

pytestmark = pytest.mark.usefixtures("x64")

N, PAIRS, ROWS = 6, 4, 1


# ------------------------------------------------------------------------------------------- two problems, flat data
def linear_cost(y, d):
    return 0.5 * y @ d["P"] @ y + d["q"] @ y


def linear_rows(y, d):
    return d["G"] @ y - d["h"]


def linear_problem(d):
    inequality = kkt.AtMost(d["G"], d["h"])
    return kkt.Problem(
        kkt.Quadratic(d["P"], d["q"]), kkt.Affine(d["A"], d["b"]), kkt.Box(d["l"], d["u"]), inequality=inequality
    )


def curved_cost(y, d):
    return 0.5 * y @ d["P"] @ y + d["q"] @ y + 0.1 * jnp.sum(jnp.exp(d["w"] * y))


def curved_rows(y, d):
    return 0.5 * jnp.einsum("pij,i,j->p", d["Q"], y, y) + d["c"] @ y + d["e"]


def curved_problem(d):
    return kkt.Problem(_cost, kkt.Affine(d["A"], d["b"]), kkt.Box(d["l"], d["u"]), (d,), _limits)


def _cost(y, d):
    return curved_cost(y, d)


def _limits(y, d):
    return {"first": curved_rows(y, d)[:1], "rest": curved_rows(y, d)[1:]}


def box(inside, width):
    """Some bounds are infinite, and one variable is fixed."""
    lower, upper = inside - width, inside + width
    lower[0], upper[1], lower[2], upper[2] = -np.inf, np.inf, -np.inf, np.inf
    lower[3] = upper[3] = inside[3]
    return lower, upper


def symmetric(B):
    return B + np.swapaxes(B, -1, -2)


# Chosen such that one or two inequalities, lower and upper bounds are active.
DRAWS = {"linear": (5, 0.15, 0.1), "curved": (0, 0.5, 0.02)}


@functools.cache
def data(kind):
    seed, width, room = DRAWS[kind]
    rng = np.random.default_rng(seed)
    B, inside, A = rng.normal(size=(N, N)), 0.3 * rng.normal(size=N), rng.normal(size=(ROWS, N))
    d = {"P": B @ B.T / N + 0.1 * np.eye(N), "q": 2 * rng.normal(size=N), "A": A, "b": A @ inside}
    d["l"], d["u"] = box(inside, width)
    if kind == "linear":
        d["G"] = rng.normal(size=(PAIRS, N))
        d["h"] = d["G"] @ inside + room * rng.uniform(size=PAIRS)
    else:
        C = rng.normal(size=(PAIRS, N, 3))
        Q = C @ np.swapaxes(C, 1, 2) + 0.05 * np.eye(N)  # a small change leaves it definite
        d["Q"], d["c"], d["w"] = Q, rng.normal(size=(PAIRS, N)), rng.uniform(0.5, 1.0, N)
        rest = 0.5 * np.einsum("pij,i,j->p", d["Q"], inside, inside) + d["c"] @ inside
        d["e"] = -rest - room * rng.uniform(size=PAIRS)
    return d


KINDS = {
    "linear": (linear_problem, linear_cost, linear_rows),
    "curved": (curved_problem, curved_cost, curved_rows),
}
LEAVES = [("linear", name) for name in ("P", "q", "A", "b", "G", "h", "l", "u")]
LEAVES += [("curved", name) for name in ("P", "q", "w", "A", "b", "Q", "c", "e", "l", "u")]


def outputs(kind, d, smoothing=None):
    """The primal and all duals, flat, and the optimal value."""
    solution = kkt.solve(KINDS[kind][0](d), smoothing=smoothing)
    dual = solution.dual
    inequality = dual.inequality
    lam = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(inequality)])
    parts = {"primal": solution.primal, "nu": dual.equality, "lam": lam, "zl": dual.lower, "zu": dual.upper}
    return {**parts, "value": solution.objective}, (solution.status, solution.residuals.largest)


value_of = {kind: jax.jit(functools.partial(outputs, kind)) for kind in KINDS}
forward = {
    kind: jax.jit(lambda d, t, kind=kind: jax.jvp(lambda d: outputs(kind, d)[0], (d,), (t,))[1]) for kind in KINDS
}
backward = {kind: jax.jit(lambda d, w, kind=kind: jax.vjp(lambda d: outputs(kind, d)[0], d)[1](w)[0]) for kind in KINDS}


def direction(d, name, rng):
    step = rng.normal(size=np.shape(d[name]))
    step = symmetric(step) if name in ("P", "Q") else step
    tangent = {key: np.zeros_like(part) for key, part in d.items()}
    tangent[name] = np.where(np.isfinite(d[name]), step, 0.0)
    if name in ("l", "u"):  # the fixed variable stays fixed
        tangent["l"][3] = tangent["u"][3] = 1.0
    return tangent


def moved(d, tangent, t):
    return {key: part + t * tangent[key] for key, part in d.items()}


# ------------------------------------------------------------------------------------------ the system, written out
def by_the_active_set(kind, d, at, tangent):
    """The derivative of `(y, nu, lam, zl, zu)`: the KKT conditions with the active set of the solution are as many
    equations as unknowns, `F(z, d) = 0`, and so `dz = -(dF/dz)^-1 dF/dd`."""
    _, cost, rows = KINDS[kind]
    z = [np.asarray(at[key]) for key in ("primal", "nu", "lam", "zl", "zu")]
    ends = np.cumsum([len(part) for part in z])[:-1]
    held, low, high = (part > 1e-7 for part in z[2:])
    fixed = d["l"] == d["u"]
    low, high = low & ~fixed, high & ~fixed

    def conditions(z, d):
        y, nu, lam, zl, zu = jnp.split(z, ends)
        slope = jax.grad(cost)(y, d) + d["A"].T @ nu + jax.vjp(lambda y: rows(y, d), y)[1](lam)[0] - zl + zu
        # Of a fixed variable one multiplier is zero: the one that is zero at the solution.
        at_lower = jnp.where(low | fixed, y - jnp.where(low | fixed, d["l"], 0.0), zl)
        at_upper = jnp.where(high, jnp.where(high, d["u"], 0.0) - y, zu)
        smaller = jnp.where(np.asarray(at["zl"]) > np.asarray(at["zu"]), zu, zl)
        at_upper = jnp.where(fixed, smaller, at_upper)
        return jnp.concatenate([slope, d["A"] @ y - d["b"], jnp.where(held, rows(y, d), lam), at_lower, at_upper])

    z = np.concatenate(z)
    np.testing.assert_allclose(conditions(z, d), 0, atol=1e-9)
    matrix = np.asarray(jax.jacfwd(conditions)(z, d))
    right = np.asarray(jax.jvp(lambda d: conditions(z, d), (d,), (tangent,))[1])
    return np.split(-np.linalg.solve(matrix, right), ends), (held.sum(), low.sum(), high.sum())


@pytest.mark.parametrize(("kind", "name"), LEAVES)
def test_every_leaf_forward_and_backward(kind, name, rng):
    d = data(kind)
    at, (status, residual) = value_of[kind](d)
    assert kkt.Status(int(status)).name == "SOLVED"
    assert residual < 1e-10
    tangent = direction(d, name, rng)
    found = forward[kind](d, tangent)
    exact, active = by_the_active_set(kind, d, at, tangent)
    assert min(active) >= 1  # an inequality, a lower and an upper bound
    assert active[0] < PAIRS
    for key, expected in zip(("primal", "nu", "lam", "zl", "zu"), exact, strict=True):
        np.testing.assert_allclose(found[key], expected, atol=1e-9 * max(1, np.abs(expected).max()), err_msg=key)

    h = 1e-5
    above, below = (value_of[kind](moved(d, tangent, step))[0] for step in (h, -h))
    for key, ours in found.items():
        expected = (np.asarray(above[key]) - np.asarray(below[key])) / (2 * h)
        np.testing.assert_allclose(ours, expected, atol=1e-6 * max(1, np.abs(expected).max()), err_msg=key)

    weights = {key: rng.normal(size=np.shape(part)) for key, part in found.items()}
    gradient = backward[kind](d, weights)
    left = sum(np.vdot(weights[key], found[key]) for key in found)
    right = sum(np.vdot(gradient[key], tangent[key]) for key in d)
    assert all(np.all(np.isfinite(part)) for part in gradient.values())
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------------------------- the optimal value
@jax.jit
def value_of_shift(shift):
    d = data("curved") | {"e": data("curved")["e"] - shift}
    return outputs("curved", d)[0]["value"]


def test_the_optimal_value():
    for kind, name, sign in (("linear", "h", -1), ("curved", "e", 1)):
        d = data(kind)
        at, _ = value_of[kind](d)
        weights = {key: np.zeros_like(part) for key, part in at.items()} | {"value": 1.0}
        gradient = backward[kind](d, weights)
        np.testing.assert_allclose(gradient[name], sign * at["lam"], atol=1e-9)
        np.testing.assert_allclose(gradient["b"], -at["nu"], atol=1e-9)
        np.testing.assert_allclose(gradient["q"], at["primal"], atol=1e-9)
        np.testing.assert_allclose(gradient["l"], np.where(np.isfinite(d["l"]), at["zl"], 0), atol=1e-9)
        np.testing.assert_allclose(gradient["u"], np.where(np.isfinite(d["u"]), -at["zu"], 0), atol=1e-9)


def test_second_derivatives_of_the_optimal_value():
    """With `h` moved by `shift` the gradient is `-lam`, so the Hessian is `-d lam / d shift`."""
    d = data("curved")
    hessian = np.asarray(jax.hessian(value_of_shift)(jnp.zeros(PAIRS)))
    expected = []
    for unit in np.eye(PAIRS):
        tangent = {key: np.zeros_like(part) for key, part in d.items()} | {"e": -unit}
        expected.append(-by_the_active_set("curved", d, value_of["curved"](d)[0], tangent)[0][2])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(hessian, np.stack(expected), atol=1e-8 * np.abs(expected).max())
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-9 * np.abs(expected).max())
    assert np.linalg.eigvalsh(hessian).min() > -1e-8  # the optimal value is convex in h


def linear(y, c):
    return c @ y


def test_a_function_that_closes_over_a_tracer():
    """The minimum of `c'y` over `y'y <= r` is `-|c| sqrt(r)`."""
    c = jnp.array([3.0, 0.0, -4.0])

    def value(r):
        solution = kkt.solve(kkt.Problem(linear, args=(c,), inequality=lambda y, _: y @ y - r), jnp.zeros(3))
        return solution.objective, solution

    (found, solution), slope = jax.jit(jax.value_and_grad(value, has_aux=True))(2.0)
    np.testing.assert_allclose(found, -5 * 2**0.5, rtol=1e-9)
    np.testing.assert_allclose(slope, -5 / (2 * 2**0.5), rtol=1e-9)
    np.testing.assert_allclose(solution.dual.inequality, 5 / (2 * 2**0.5), rtol=1e-9)
    primal = jax.jit(jax.jacfwd(lambda r: value(r)[1].primal))(2.0)
    np.testing.assert_allclose(primal, -c / 5 / (2 * 2**0.5), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_smoothing_tends_to_the_exact_derivative(kind, rng):
    d = data(kind)
    tangent = direction(d, "q", rng)
    exact = forward[kind](d, tangent)

    @jax.jit
    def smooth(mu):
        return jax.jvp(lambda d: outputs(kind, d, mu)[0], (d,), (tangent,))

    errors = []
    for mu in (1e-2, 1e-4, 1e-6, 1e-8):
        at, change = smooth(mu)
        np.testing.assert_allclose(at["primal"], value_of[kind](d)[0]["primal"], atol=1e-8)  # no value changes
        errors.append(max(np.abs(change[key] - exact[key]).max() for key in ("primal", "nu", "lam")))
    assert errors[0] > 1e-3  # of a problem with active constraints
    assert errors[1] < errors[0]
    assert errors[3] < 1e-3 * errors[1]
    assert errors[3] < 1e-4 * max(np.abs(exact[key]).max() for key in ("primal", "nu", "lam"))


def test_an_infeasible_problem_has_no_derivative():
    d = data("linear")
    h = d["h"] - np.array([1e3, 0, 0, 0])  # out of reach of the box
    apart = d | {"h": h, "l": np.maximum(d["l"], -1.0), "u": np.minimum(d["u"], 1.0)}
    _, (status, _) = value_of["linear"](apart)
    assert kkt.Status(int(status)).name == "PRIMAL_INFEASIBLE"
    tangent = forward["linear"](apart, direction(d, "q", np.random.default_rng(0)))
    assert np.all(np.isnan(tangent["lam"]))
    assert np.all(np.isnan(tangent["primal"]))
