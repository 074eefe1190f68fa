"""The families of the fuzz: how a problem is drawn, how a user writes it, and its KKT conditions in numpy."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import certificates
import fuzz_draws
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from certificates import Conditions
from jax.experimental.sparse import BCOO

import kkt_solvers as kkt


class Family(NamedTuple):
    name: str
    draw: Callable[..., fuzz_draws.Draw]  # draw(rng, dtype)
    solve: Callable[[dict[str, Any]], kkt.Solution]  # of one problem, traced
    conditions: Callable[[dict[str, Any], np.ndarray], Conditions]
    problem: Callable[[dict[str, Any]], kkt.Problem] | None = None
    # Whether infeasible problems must be found so: nothing promises that of a general objective, nor does `DualNewton`,
    # which may end with MAX_ITERATIONS.
    proves: bool = True


def box(d):
    return kkt.Box(d["lower"], d["upper"])


# ------------------------------------------------------------------------------- linear and quadratic programs
def curvature(d):
    """The Hessian as `certificates.conditions` takes it."""
    return (d["diagonal"], d["factor"]) if "factor" in d else d.get("P")


def quadratic_conditions(d, y):
    return certificates.conditions(y, curvature(d), d["q"], d["A"], d["b"], d["lower"], d["upper"])


def quadratic_problem(d):
    P = kkt.LowRank(*curvature(d)) if "factor" in d else d.get("P")
    return kkt.Problem(kkt.Quadratic(P, d["q"]), kkt.Affine(d["A"], d["b"]) if d["b"].size else None, box(d))


def weighted_problem(d):
    return kkt.Problem(kkt.Quadratic(d["P"], d["q"]), kkt.Sum(d["b"][0], d["A"][0]), box(d))


def sparse(matrix):
    """A `BCOO` with every entry stored: which are zero differs from one problem of a batch to the next."""
    rows, columns = np.indices(matrix.shape).reshape(2, -1)
    return BCOO((matrix.ravel(), jnp.asarray(np.stack([rows, columns], 1))), shape=matrix.shape)


def sparse_problem(d):
    return kkt.Problem(kkt.Quadratic(sparse(d["P"]), d["q"]), kkt.Affine(sparse(d["A"]), d["b"]), box(d))


def quadratic_function(y, P, q, A, b):
    return jnp.vdot(y, 0.5 * P @ y + q)


def rows_function(y, P, q, A, b):
    return {"rows": A @ y - b}


def function_problem(d):
    return kkt.Problem(quadratic_function, rows_function, box(d), args=(d["P"], d["q"], d["A"], d["b"]))


def solve_inequalities(d):
    return kkt.solve_qp(d["P"], d["q"], d["G"], d["h"], d["A"], d["b"], d["lower"], d["upper"])


# ----------------------------------------------------------------------------------------- general objectives
def in_units(core):
    """`unit[0] core(y / unit[1:], ...)`, and its derivative."""

    @functools.wraps(core)
    def objective(y, unit, *args):
        return unit[0] * core(y / unit[1:], *args)

    return objective


@in_units
def log_sum_exp(x, B, c, q):
    return jax.nn.logsumexp(B @ x + c) + 0.05 * jnp.vdot(x, x) + q @ x


def log_sum_exp_terms(x, B, c, q):
    weights = np.exp(B @ x + c - np.max(B @ x + c))
    weights /= weights.sum()
    return B.T @ weights + 0.1 * x + q, np.abs(B.T) @ weights + 0.1 * np.abs(x) + np.abs(q)


@in_units
def entropy(x, t):
    return jnp.sum(x * jnp.log(x)) - t @ x


def entropy_terms(x, t):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(x) + 1 - t, np.abs(np.log(x)) + 1 + np.abs(t)


@in_units
def power(x, q):
    return jnp.sum(jnp.abs(x) ** 1.5) + q @ x


def power_terms(x, q):
    root = 1.5 * np.sqrt(np.abs(x))
    return np.sign(x) * root + q, root + np.abs(q)


@in_units
def norm(x, q):
    return jnp.sqrt(jnp.sum(x**2)) + q @ x / (1 + jnp.sum(jnp.abs(q)))


def norm_terms(x, q):
    q, unit = q / (1 + np.sum(np.abs(q))), x / np.linalg.norm(x)
    return unit + q, np.abs(unit) + np.abs(q)


@in_units
def logistic(x, X):
    return jnp.sum(jnp.logaddexp(0, -X @ x)) + 0.05 * jnp.vdot(x, x)


def logistic_terms(x, X):
    weights = scipy.special.expit(-X @ x)
    return 0.1 * x - X.T @ weights, 0.1 * np.abs(x) + np.abs(X.T) @ weights


def entropy_phi(y, theta):
    s, v, t = theta
    x = y / v
    return s * (jax.scipy.special.xlogy(x, x) - t * x)


def entropy_minimiser(z, theta):
    s, v, t = theta
    return v * jnp.exp(z * v / s + t - 1)


def quartic_phi(y, theta):
    s, v, c, t = theta
    x = y / v
    return s * (jnp.abs(c) * (x**2 + x**4) / 4 + t * x)


def quartic_terms(x, c, t):
    curved = np.abs(c) * (x / 2 + x**3)
    return curved + t, np.abs(curved) + np.abs(t)


def unit_conditions(terms, names, separable, d, y):
    s, v = d["unit"][0], d["unit"][1:]
    args = tuple(d[name] for name in names)
    gradient, sizes = (part * s / v for part in terms(y / v, *args))
    slope = (lambda y: terms(y / v, *args)[0] * s / v) if separable else None
    return Conditions(y, d["lower"], d["upper"], gradient, sizes, d["A"], d["A"] @ y - d["b"], d["b"], slope)


def smooth_problem(objective, names, d):
    return kkt.Problem(objective, kkt.Affine(d["A"], d["b"]), box(d), args=(d["unit"], *(d[name] for name in names)))


def separable_problem(phi, minimiser, names, d):
    theta = (jnp.broadcast_to(d["unit"][0], d["b"].shape[:0] + d["lower"].shape), d["unit"][1:])
    objective = kkt.Separable(phi, (*theta, *(d[name] for name in names)), minimiser)
    single = d["b"].size == 1
    equality = kkt.Sum(d["b"][0], d["A"][0]) if single else kkt.Affine(d["A"], d["b"])
    return kkt.Problem(objective, equality, box(d))


# ------------------------------------------------------------------------------------------------------ table
ALL = ("plain", "plain", "weak", "fixed", "dependent", "infeasible", "unbounded")
ONE_ROW = ("plain", "plain", "weak", "fixed", "infeasible", "unbounded")
NO_ROW = ("plain", "weak", "fixed", "unbounded")
SMOOTH = ("plain", "plain", "fixed", "dependent", "infeasible")
SEPARABLE = ("plain", "plain", "fixed", "infeasible")


def _solved(problem):
    return lambda d: kkt.solve(problem(d))


def _program(name, shape, m, problem=quadratic_problem, kinds=ALL, n=8):
    draw = functools.partial(fuzz_draws.quadratic, shape=shape, m=m, n=n, kinds=kinds)
    return Family(name, draw, _solved(problem), quadratic_conditions, problem, problem is not function_problem)


def _smooth(name, objective, terms, parts, m=2, n=6, positive=False, separable=False, kinds=SMOOTH):
    draw = functools.partial(fuzz_draws.smooth, parts=parts, m=m, n=n, kinds=kinds, positive=positive)
    conditions = functools.partial(unit_conditions, terms, tuple(parts), separable)
    problem = functools.partial(smooth_problem, objective, tuple(parts))
    return Family(name, draw, _solved(problem), conditions, problem, proves=False)


def _separable(name, phi, minimiser, terms, parts, m, n=6, positive=False):
    kinds = SEPARABLE if m == 1 else SMOOTH
    family = _smooth(name, None, terms, parts, m, n, positive, separable=True, kinds=kinds)
    problem = functools.partial(separable_problem, phi, minimiser, tuple(parts))
    return family._replace(solve=_solved(problem), problem=problem, proves=m == 1)


FAMILIES = (
    _program("QP, dense", "dense", 3),
    _program("LP", "none", 3),
    _program("QP, diagonal", "diagonal", 3),
    _program("QP, diagonal, one row", "diagonal", 1, weighted_problem, ONE_ROW),
    _program("QP, dense, one row", "dense", 1, weighted_problem, ONE_ROW),
    _program("QP, low rank", "low rank", 3),
    _program("QP, sparse", "dense", 3, sparse_problem),
    _program("QP, dense, box only", "dense", 0, kinds=NO_ROW),
    _program("QP and rows as functions", "dense", 3, function_problem, tuple(k for k in ALL if k != "unbounded")),
    Family(
        "QP, inequalities",
        functools.partial(
            fuzz_draws.quadratic, shape="dense", m=2, n=6, p=3, kinds=tuple(k for k in ALL if k != "weak") + ("weak",)
        ),
        solve_inequalities,
        quadratic_conditions,
    ),
    _smooth("log-sum-exp", log_sum_exp, log_sum_exp_terms, {"B": (5, 6), "c": (5,), "q": (6,)}),
    _smooth("entropy", entropy, entropy_terms, {"t": (6,)}, positive=True, separable=True),
    _smooth("power 1.5", power, power_terms, {"q": (6,)}, separable=True),
    _smooth("norm", norm, norm_terms, {"q": (6,)}),
    _smooth("logistic", logistic, logistic_terms, {"X": (9, 6)}),
    _separable("separable, minimiser, one row", entropy_phi, entropy_minimiser, entropy_terms, {"t": (6,)}, 1, 6, True),
    _separable("separable, minimiser, rows", entropy_phi, entropy_minimiser, entropy_terms, {"t": (6,)}, 2, 6, True),
    _separable("separable, one row", quartic_phi, None, quartic_terms, {"c": (6,), "t": (6,)}, 1),
    _separable("separable, rows", quartic_phi, None, quartic_terms, {"c": (6,), "t": (6,)}, 2),
)
