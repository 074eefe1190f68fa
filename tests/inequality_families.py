"""Convex problems with inequalities: random QCQPs, Hock-Schittkowski problems with published optima, and problems
without a feasible point; and the KKT conditions in NumPy, written out from the functions of the user."""

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


# ------------------------------------------------------------------------------------- Hock-Schittkowski problems
class Published(NamedTuple):
    """A problem with its start, the published value of its optimum, and to what precision that is given."""

    f: Any
    g: Any
    lower: Any
    upper: Any
    start: Any
    value: float
    precision: float = 1e-8
    A: Any = ()
    b: Any = ()


def _hs43(x):
    return jnp.stack([
        x @ x + x[0] - x[1] + x[2] - x[3] - 8,
        x[0] ** 2 + 2 * x[1] ** 2 + x[2] ** 2 + 2 * x[3] ** 2 - x[0] - x[3] - 10,
        2 * x[0] ** 2 + x[1] ** 2 + x[2] ** 2 + 2 * x[0] - x[1] - x[3] - 5,
    ])  # fmt: skip


def _hs76(x):
    return x[0] + 2 * x[1] + x[2] + x[3] - 5, 3 * x[0] + x[1] + 2 * x[2] - x[3] - 4, 1.5 - x[1] - 4 * x[2]


def _hs100_objective(x):
    first = (x[0] - 10) ** 2 + 5 * (x[1] - 12) ** 2 + x[2] ** 4 + 3 * (x[3] - 11) ** 2
    return first + 10 * x[4] ** 6 + 7 * x[5] ** 2 + x[6] ** 4 - 4 * x[5] * x[6] - 10 * x[5] - 8 * x[6]


def _hs100(x):
    return jnp.stack([
        2 * x[0] ** 2 + 3 * x[1] ** 4 + x[2] + 4 * x[3] ** 2 + 5 * x[4] - 127,
        7 * x[0] + 3 * x[1] + 10 * x[2] ** 2 + x[3] - x[4] - 282,
        23 * x[0] + x[1] ** 2 + 6 * x[5] ** 2 - 8 * x[6] - 196,
        4 * x[0] ** 2 + x[1] ** 2 - 3 * x[0] * x[1] + 2 * x[2] ** 2 + 5 * x[5] - 11 * x[6],
    ])  # fmt: skip


def _hs113_objective(x):
    first = x[0] ** 2 + x[1] ** 2 + x[0] * x[1] - 14 * x[0] - 16 * x[1] + (x[2] - 10) ** 2 + 4 * (x[3] - 5) ** 2
    second = (x[4] - 3) ** 2 + 2 * (x[5] - 1) ** 2 + 5 * x[6] ** 2 + 7 * (x[7] - 11) ** 2
    return first + second + 2 * (x[8] - 10) ** 2 + (x[9] - 7) ** 2 + 45


def _hs113(x):
    return jnp.stack([
        -105 + 4 * x[0] + 5 * x[1] - 3 * x[6] + 9 * x[7],
        10 * x[0] - 8 * x[1] - 17 * x[6] + 2 * x[7],
        -8 * x[0] + 2 * x[1] + 5 * x[8] - 2 * x[9] - 12,
        3 * (x[0] - 2) ** 2 + 4 * (x[1] - 3) ** 2 + 2 * x[2] ** 2 - 7 * x[3] - 120,
        5 * x[0] ** 2 + 8 * x[1] + (x[2] - 6) ** 2 - 2 * x[3] - 40,
        0.5 * (x[0] - 8) ** 2 + 2 * (x[1] - 4) ** 2 + 3 * x[4] ** 2 - x[5] - 30,
        x[0] ** 2 + 2 * (x[1] - 2) ** 2 - 2 * x[0] * x[1] + 14 * x[4] - 6 * x[5],
        -3 * x[0] + 6 * x[1] + 12 * (x[8] - 8) ** 2 - 7 * x[9],
    ])  # fmt: skip


_HS86 = (
    np.array([-15.0, -27, -36, -18, -12]),
    np.array(
        [[30, -20, -10, 32, -10], [-20, 39, -6, -31, 32], [-10, -6, 10, -6, -10], [32, -31, -6, 39, -20],
         [-10, 32, -10, -20, 30.0]]
    ),
    np.array([4.0, 8, 10, 6, 2]),
    np.array(
        [[-16, 2, 0, 1, 0], [0, -2, 0, 4, 2], [-3.5, 0, 2, 0, 0], [0, -2, 0, -4, -1], [0, -9, -2, 1, -2.8],
         [2, 0, -4, 0, 0], [-1, -1, -1, -1, -1], [-1, -2, -3, -2, -1], [1, 2, 3, 4, 5], [1, 1, 1, 1, 1.0]]
    ),
    np.array([-40, -2, -0.25, -4, -4, -1, -40, -60, 5, 1.0]),
)  # fmt: skip
_HS268 = (
    np.array(
        [[-74, 80, 18, -11, -4], [14, -69, 21, 28, 0], [66, -72, -5, 7, 1], [-12, 66, -30, -23, 3],
         [3, 8, -7, -4, 1], [4, -12, 4, 4, 0.0]]
    ),
    np.array([51, -61, -56, 69, 10, -12.0]),
    np.array(
        [[1, 1, 1, 1, 1], [-10, -10, 3, -5, -4], [8, -1, 2, 5, -3], [-8, 1, -2, -5, 3], [4, 2, -3, 5, -1.0]]
    ),
    np.array([5.0, -20, 40, -11, 30]),
)  # fmt: skip

_HS14 = {"A": [[1.0, -2.0]], "b": [-1.0]}


def exponentials(x):
    return jnp.exp(x[0]) - x[1], jnp.exp(x[1]) - x[2]


def distance(x):
    return (x[0] - 2) ** 2 + (x[1] - 1) ** 2


PUBLISHED = {
    "HS4": Published(
        lambda x: (x[0] + 1) ** 3 / 3 + x[1], lambda x: jnp.stack([1 - x[0], -x[1]]), -0.5, np.inf, [1.125, 0.125], 8 / 3
    ),
    "HS10": Published(
        lambda x: x[0] - x[1],
        lambda x: 3 * x[0] ** 2 - 2 * x[0] * x[1] + x[1] ** 2 - 1, -np.inf, np.inf, [-10, 10], -1.0,
    ),
    "HS11": Published(
        lambda x: (x[0] - 5) ** 2 + x[1] ** 2 - 25,
        lambda x: x[0] ** 2 - x[1], -np.inf, np.inf, [4.9, 0.1], -8.498464223,
    ),
    "HS12": Published(
        lambda x: 0.5 * x[0] ** 2 + x[1] ** 2 - x[0] * x[1] - 7 * x[0] - 7 * x[1],
        lambda x: 4 * x[0] ** 2 + x[1] ** 2 - 25, -np.inf, np.inf, [0, 0], -30.0,
    ),
    "HS14": Published(
        distance, lambda x: 0.25 * x[0] ** 2 + x[1] ** 2 - 1, -np.inf, np.inf, [2, 2], 9 - 2.875 * 7**0.5, **_HS14
    ),
    "HS21": Published(
        lambda x: 0.01 * x[0] ** 2 + x[1] ** 2 - 100,
        lambda x: 10 - 10 * x[0] + x[1], [2, -50], [50, 50], [-1, -1], -99.96,
    ),
    "HS22": Published(
        distance, lambda x: (x[0] + x[1] - 2, x[0] ** 2 - x[1]), -np.inf, np.inf, [2, 2], 1.0
    ),
    "HS34": Published(lambda x: -x[0], exponentials, 0, [100, 100, 10], [0, 1.05, 2.9], -np.log(np.log(10))),
    "HS35": Published(
        lambda x: 9 - 8 * x[0] - 6 * x[1] - 4 * x[2] + 2 * x[0] ** 2 + 2 * x[1] ** 2 + x[2] ** 2
        + 2 * x[0] * x[1] + 2 * x[0] * x[2],
        lambda x: x[0] + x[1] + 2 * x[2] - 3, 0, np.inf, [0.5, 0.5, 0.5], 1 / 9,
    ),
    "HS43": Published(
        lambda x: x[0] ** 2 + x[1] ** 2 + 2 * x[2] ** 2 + x[3] ** 2 - 5 * x[0] - 5 * x[1] - 21 * x[2] + 7 * x[3],
        _hs43, -np.inf, np.inf, [0, 0, 0, 0], -44.0,
    ),
    "HS64": Published(
        lambda x: 5 * x[0] + 50000 / x[0] + 20 * x[1] + 72000 / x[1] + 10 * x[2] + 144000 / x[2],
        lambda x: 4 / x[0] + 32 / x[1] + 120 / x[2] - 1, 1e-5, np.inf, [1, 1, 1], 6299.842428,
    ),
    "HS65": Published(
        lambda x: (x[0] - x[1]) ** 2 + (x[0] + x[1] - 10) ** 2 / 9 + (x[2] - 5) ** 2,
        lambda x: x @ x - 48, [-4.5, -4.5, -5], [4.5, 4.5, 5], [-5, 5, 0], 0.9535288567,
    ),
    "HS66": Published(
        lambda x: 0.2 * x[2] - 0.8 * x[0], exponentials, 0, [100, 100, 10], [0, 1.05, 2.9], 0.5181632741
    ),
    "HS76": Published(
        lambda x: x[0] ** 2 + 0.5 * x[1] ** 2 + x[2] ** 2 + 0.5 * x[3] ** 2 - x[0] * x[2] + x[2] * x[3]
        - x[0] - 3 * x[1] + x[2] - x[3],
        _hs76, 0, np.inf, [0.5] * 4, -4.681818181,
    ),
    "HS86": Published(
        lambda x: _HS86[0] @ x + x @ _HS86[1] @ x + _HS86[2] @ x**3,
        lambda x: _HS86[4] - _HS86[3] @ x, 0, np.inf, [0, 0, 0, 0, 1], -32.34867897,
    ),
    "HS100": Published(_hs100_objective, _hs100, -np.inf, np.inf, [1, 2, 0, 4, 0, 1, 1], 680.6300573),
    "HS113": Published(_hs113_objective, _hs113, -np.inf, np.inf, [2, 3, 5, 5, 1, 2, 7, 3, 6, 10], 24.3062091),
    "HS215": Published(lambda x: x[1], lambda x: x[0] ** 2 - x[1], [0, -np.inf], np.inf, [1, 1], 0.0),
    "HS224": Published(
        lambda x: 2 * x[0] ** 2 + x[1] ** 2 - 48 * x[0] - 40 * x[1],
        lambda x: (-x[0] - 3 * x[1], x[0] + 3 * x[1] - 18, -x[0] - x[1], x[0] + x[1] - 8), 0, 6, [0.1, 0.1], -304.0,
    ),
    "HS227": Published(
        distance, lambda x: (x[0] ** 2 - x[1], x[1] ** 2 - x[0]), -np.inf, np.inf, [0.5, 0.5], 1.0
    ),
    "HS268": Published(
        lambda x: (_HS268[0] @ x - _HS268[1]) @ (_HS268[0] @ x - _HS268[1]),
        lambda x: _HS268[2] @ x - _HS268[3], -np.inf, np.inf, [1] * 5, 0.0, 1e-6,
    ),
    "HS323": Published(
        lambda x: x[0] ** 2 + x[1] ** 2 - 4 * x[0] + 4,
        lambda x: (x[1] - x[0] - 2, x[0] ** 2 - x[1] + 1), 0, np.inf, [0, 1], 3.79894, 1e-5,
    ),
}  # fmt: skip


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
    """The problem, its `A` and `b`, and the number of variables."""
    rng, kind = np.random.default_rng(100 + seed), seed % 6
    n = int(rng.integers(2, 12))
    objective = (
        squares,
        kkt.Quadratic(np.eye(n), rng.normal(size=n)),
        kkt.Quadratic(None, rng.normal(size=n)),
        kkt.Separable(from_target, rng.normal(size=n)),
    )[seed % 4]
    A, b, middle = np.zeros((0, n)), np.zeros(0), np.zeros((1, n))
    if kind == 0:
        centres = rng.normal(size=(2, n))
        radius = np.linalg.norm(centres[0] - centres[1]) / 2 * (0.5 + 0.45 * rng.uniform())
        return kkt.Problem(objective, args=(centres, np.full(2, radius)), inequality=balls), A, b
    if kind == 1:
        return kkt.Problem(objective, kkt.Sum(0.0), inequality=log_sum_exp), np.ones((1, n)), b
    if kind == 2:
        args = middle, np.array([0.8 * n**0.5])
        return kkt.Problem(objective, box=kkt.Box(1.0, 3.0), args=args, inequality=balls), A, b
    if kind == 3:
        args = middle, np.array([1.5 * n**0.5])
        return kkt.Problem(objective, kkt.Sum(2.0 * n), args=args, inequality=balls), np.ones((1, n)), np.array([2.0 * n])
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
