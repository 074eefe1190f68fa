"""Random QCQPs and problems without a feasible point; and the KKT conditions in NumPy, from the user's functions."""

from typing import Any, NamedTuple

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.flatten_util import ravel_pytree

import kkt_solvers as kkt


# ---------------------------------------------------------------------------------------- the conditions, in NumPy
def flat_values(function, args, like):
    """`function(y, *args)` on flat vectors, as one vector."""
    unravel = ravel_pytree(like)[1]
    return lambda y: ravel_pytree(function(unravel(y), *args))[0]


def kkt_residuals(solution, f, g, A, b, lower, upper, args=()) -> dict[str, float]:
    """The KKT residuals in NumPy, each relative to one plus the size of its terms. `f` and `g` are functions of the
    user's `y`, `A` a matrix on `y` ravelled."""
    like, args = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (solution.primal, args))
    y = np.asarray(ravel_pytree(like)[0])
    values = flat_values(g, args, like)
    gradient = np.asarray(jax.grad(lambda y: flat_values(f, args, like)(y)[0])(y))
    J, at = np.asarray(jax.jacfwd(values)(y)), np.asarray(values(y))
    duals = solution.dual.equality, solution.dual.inequality, solution.dual.lower, solution.dual.upper
    nu, lam, zl, zu = (np.asarray(ravel_pytree(part)[0], np.float64) for part in duals)
    lower, upper = np.broadcast_to(lower, y.shape), np.broadcast_to(upper, y.shape)
    below, above = (np.where(np.isfinite(gap), gap, 0.0) for gap in (y - lower, upper - y))
    terms = [gradient, A.T @ nu, J.T @ lam, zl, zu]
    size = 1 + max(np.abs(term).max(initial=0) for term in terms)
    value = 1 + abs(float(solution.objective)) + np.abs(gradient) @ np.abs(y)
    infinite = np.concatenate([zl[~np.isfinite(lower)], zu[~np.isfinite(upper)]])  # no bound, no multiplier
    return {
        "stationarity": np.abs(gradient + A.T @ nu + J.T @ lam - zl + zu).max() / size,
        "equality": np.max(np.abs(A @ y - b) / (1 + np.abs(A) @ np.abs(y)), initial=0),
        "inequality": np.max(at / (1 + np.abs(J) @ np.abs(y)), initial=0),
        "box": max(np.max(-below), np.max(-above), 0) / (1 + np.abs(y).max()),
        "sign": max(np.max(-part, initial=0) for part in (lam, zl, zu)) / size + np.abs(infinite).max(initial=0),
        "complementarity": (np.abs(lam * at).sum() + zl @ np.abs(below) + zu @ np.abs(above)) / value,
    }


def assert_optimal(problem, solution, A, b, tol=1e-8):
    """`SOLVED`, with all KKT residuals at most `tol`."""
    assert kkt.Status(int(solution.status)).name == "SOLVED"
    f, g, box = problem.objective, problem.inequality, problem.box
    if isinstance(f, kkt.Quadratic):
        P, q = np.asarray(f.P), np.asarray(f.q)

        def f(y, *_):
            return 0.5 * y @ P @ y + q @ y

    found = kkt_residuals(solution, f, g, A, b, np.asarray(box.lower), np.asarray(box.upper), problem.args)
    assert max(found.values()) <= tol, found


# --------------------------------------------------------------------------------------------------- random QCQPs
class Data(NamedTuple):
    """`min y'Py/2 + q'y  s.t.  y'Q_i y/2 + c_i'y + d_i <= 0,  A y = b,  lower <= y <= upper`."""

    P: Any
    q: Any
    Q: Any
    c: Any
    d: Any
    A: Any
    b: Any
    lower: Any
    upper: Any


def half(y, P, q, *_):
    return 0.5 * y @ P @ y + q @ y


def quadratics(y, P, q, Q, c, d):
    return 0.5 * jnp.einsum("pij,i,j->p", Q, y, y) + c @ y + d


def qcqp(seed, n=None, p=None, m=None) -> Data:
    """A feasible bounded program: of four kinds, by the seed: with a box and a flat objective; linear with ellipsoids;
    with a ball; with a box and a strictly convex objective."""
    rng, kind = np.random.default_rng(seed), seed % 4
    sizes = int(rng.integers(2, 31)), int(rng.integers(1, 13))
    n, p = (drawn if given is None else given for drawn, given in zip(sizes, (n, p), strict=True))
    m = int(rng.integers(0, max(1, n // 3))) if m is None else m
    B = rng.normal(size=(n, n if kind == 3 else int(rng.integers(1, n + 1))))
    P, q = B @ B.T * (kind != 1), rng.normal(size=n) * 10 ** rng.uniform(-1, 1)
    inside = rng.normal(size=n)
    Q, c, d = np.zeros((p, n, n)), rng.normal(size=(p, n)), np.zeros(p)
    for i in range(p):
        C = rng.normal(size=(n, int(rng.integers(1, n + 1)))) * 10 ** rng.uniform(-1, 0.5)
        Q[i] = C @ C.T + np.eye(n) * (kind == 1)
        d[i] = -(0.5 * inside @ Q[i] @ inside + c[i] @ inside) - abs(rng.normal()) - 0.05
    A = rng.normal(size=(m, n))
    lower, upper = np.full(n, -np.inf), np.full(n, np.inf)
    if kind in (0, 3):
        lower, upper = (inside + sign * (np.abs(rng.normal(size=n)) + 0.1) for sign in (-1, 1))
    elif kind == 2:
        Q[0], c[0], d[0] = np.eye(n), 0, -0.5 * inside @ inside - 1.0
    return Data(P, q, Q, c, d, A, A @ inside, lower, upper)


def problem_of(data: Data) -> kkt.Problem:
    equality = kkt.Affine(data.A, data.b) if len(data.b) else None
    box = kkt.Box(data.lower, data.upper)
    return kkt.Problem(kkt.Quadratic(data.P, data.q), equality, box, data[:5], quadratics)


def value_by_clarabel(data: Data) -> float:
    """The optimal value by Clarabel, the quadratics as cones: `|u|^2/2 <= t` is `|(t - 1/2, u)| <= t + 1/2`."""
    n, free = len(data.q), np.eye(len(data.q))
    has = np.isfinite(data.upper), np.isfinite(data.lower)
    blocks = [data.A, free[has[0]], -free[has[1]]]
    rights = [data.b, data.upper[has[0]], -data.lower[has[1]]]
    cones: list[Any] = [clarabel.ZeroConeT(len(data.b)), clarabel.NonnegativeConeT(int(has[0].sum() + has[1].sum()))]
    for Q, c, d in zip(data.Q, data.c, data.d, strict=True):
        values, vectors = np.linalg.eigh(Q)
        kept = values > 1e-12 * values.max()
        L = vectors[:, kept] * np.sqrt(values[kept])
        blocks.append(np.vstack([c, c, -L.T]))
        rights.append(np.concatenate([[-d + 0.5, -d - 0.5], np.zeros(L.shape[1])]))
        cones.append(clarabel.SecondOrderConeT(L.shape[1] + 2))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    rows, right = sp.csc_matrix(np.vstack(blocks).reshape(-1, n)), np.concatenate(rights)
    cones = [cone for cone in cones if not isinstance(cone, clarabel.ZeroConeT) or len(data.b)]
    answer = clarabel.DefaultSolver(sp.csc_matrix(np.triu(data.P)), data.q, rows, right, cones, settings).solve()
    assert str(answer.status) in ("Solved", "AlmostSolved")
    return answer.obj_val


# -------------------------------------------------------------------------------------- without a feasible point
def balls(y, centres, radii):
    return jnp.sum((y - centres) ** 2, 1) - radii**2


def log_sum_exp(y, *_):
    return jax.nn.logsumexp(y) + 1.0  # above one where the sum of y is zero


def constant(y, *_):
    return jnp.ones(2)


def squares(y, *_):
    return jnp.sum(y**2)


def from_target(y, target):
    return (y - target) ** 2


def infeasible(seed):
    """The problem, and its `A` and `b`."""
    rng, kind = np.random.default_rng(100 + seed), seed % 6
    n = int(rng.integers(2, 12))
    objective = (
        squares,
        kkt.Quadratic(np.eye(n), rng.normal(size=n)),
        kkt.Quadratic(None, rng.normal(size=n)),
        kkt.Separable(from_target, rng.normal(size=n)),
    )[seed % 4]
    A, b, row, middle = np.zeros((0, n)), np.zeros(0), np.ones((1, n)), np.zeros((1, n))
    if kind == 0:
        centres = rng.normal(size=(2, n))
        radius = np.linalg.norm(centres[0] - centres[1]) / 2 * (0.5 + 0.45 * rng.uniform())
        return kkt.Problem(objective, args=(centres, np.full(2, radius)), inequality=balls), A, b
    if kind == 1:
        return kkt.Problem(objective, kkt.Sum(0.0), inequality=log_sum_exp), row, np.zeros(1)
    if kind == 2:
        args = middle, np.array([0.8 * n**0.5])
        return kkt.Problem(objective, box=kkt.Box(1.0, 3.0), args=args, inequality=balls), A, b
    if kind == 3:
        args = middle, np.array([1.5 * n**0.5])
        return kkt.Problem(objective, kkt.Sum(2.0 * n), args=args, inequality=balls), row, np.array([2.0 * n])
    if kind == 4:
        return kkt.Problem(objective, inequality=constant), A, b
    G, w = rng.normal(size=(3, n)), rng.uniform(size=3) + 0.1
    G[2] = -(w[0] * G[0] + w[1] * G[1]) / w[2]
    h = np.array([1.0, 1.0, -(w[0] + w[1]) / w[2] - 0.3])
    return kkt.Problem(objective, inequality=kkt.AtMost(G, h)), A, b


def least_over_the_box(w, lower, upper) -> float:
    """The smallest `w'y` over the box."""
    ends = np.where(w > 0, lower, upper)
    return float(np.sum(np.where(w == 0, 0.0, w * np.where(np.isfinite(ends) | (w != 0), ends, 0.0))))
