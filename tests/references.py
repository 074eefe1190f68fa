"""Answers that owe nothing to this library."""

import functools

import clarabel
import jax
import mpmath
import numpy as np
import scipy.sparse as sp


def lml(x, k):
    """LML in extended precision by bisection on its dual: `y`, and `D = y (1 - y)` without cancellation."""
    x = np.asarray(x, np.longdouble)
    n = x.size
    odds = np.log(np.longdouble(k)) - np.log(np.longdouble(n) - np.longdouble(k))
    low, high = x.min() - odds - 1, x.max() - odds + 1
    order = np.argsort(-x, kind="stable")
    top = np.zeros(n, bool)
    top[order[: int(k)]] = True  # for a whole k: sum y = k  <=>  sum of the rest's y = sum of the top's 1 - y
    for _ in range(100):
        nu = (low + high) / 2
        t = x - nu
        if k == int(k):
            excess = np.log(_sigmoid(t[~top]).sum()) - np.log(_sigmoid(-t[top]).sum())
        else:
            excess = _sigmoid(t).sum() - k
        low, high = (nu, high) if excess > 0 else (low, nu)
    t = x - (low + high) / 2
    return _sigmoid(t), _sigmoid(t) * _sigmoid(-t)


def lml_gradient(x, k, g):
    """The vector-Jacobian product with `g`, and the derivative in k, in closed form."""
    _, D = lml(x, k)
    g = np.asarray(g, np.longdouble)
    w = D / D.sum()
    return D * (g - w @ g), w @ g


@functools.cache
def lml_mpmath(x, k, weights=None):
    """The same for any finite scores, tuples of floats, with 60 digits: `y`, `D` and `D / w'D w`, as floats."""
    with mpmath.workdps(60):
        t = [mpmath.mpf(value) for value in x]
        w = [mpmath.mpf(value) for value in weights or np.ones(len(t))]
        steps = [a / b for a, b in zip(t, w, strict=True)]
        reach = (mpmath.log(len(t) + 1) + abs(mpmath.log(k)) + abs(mpmath.log(sum(w) - k)) + 10) / min(w)
        low, high = min(steps) - reach, max(steps) + reach

        def odds(nu):
            return [mpmath.exp(a - b * nu) for a, b in zip(t, w, strict=True)]

        for _ in range(mpmath.mp.prec + 100):
            nu = (low + high) / 2
            excess = sum(b * o / (1 + o) for b, o in zip(w, odds(nu), strict=True)) - k
            low, high = (nu, high) if excess > 0 else (low, nu)
        y, D = [o / (1 + o) for o in odds(nu)], [o / (1 + o) ** 2 for o in odds(nu)]
        pivot = sum(b * b * d for b, d in zip(w, D, strict=True))
        return tuple(np.array([float(v) for v in values]) for values in (y, D, [d / pivot for d in D]))


def _sigmoid(t):
    e = np.exp(-np.abs(t))
    return np.where(t >= 0, 1 / (1 + e), e / (1 + e))


def cone_program(P, q, *blocks):
    """Clarabel's solution of `min x'Px/2 + q'x  s.t.  b - A x in cone` for each block `(A, b, cone)`: x, and the
    multipliers of each block."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    A = sp.vstack([sp.csr_matrix(A) for A, _, _ in blocks]).tocsc()
    b, q = np.concatenate([np.ravel(b) for _, b, _ in blocks]), np.asarray(q, float)
    P = sp.csc_matrix((q.size, q.size)) if P is None else sp.triu(sp.csc_matrix(P)).tocsc()
    cones = [cone for _, _, each in blocks for cone in (each if isinstance(each, list) else [each])]
    solution = clarabel.DefaultSolver(P, q, A, b, cones, settings).solve()
    assert str(solution.status) in ("Solved", "AlmostSolved"), solution.status
    sizes = np.cumsum([np.size(b) for _, b, _ in blocks])[:-1]
    return np.asarray(solution.x), np.split(np.asarray(solution.z), sizes)


def box_program(P, q, A, b, lower, upper):
    """The same for `A x = b, lower <= x <= upper` with finite or infinite bounds: x, and the multipliers of A."""
    n = len(q)
    lower, upper = np.broadcast_to(lower, n), np.broadcast_to(upper, n)
    low, high = np.isfinite(lower), np.isfinite(upper)
    eye = sp.eye(n, format="csr")
    x, (nu, _, _) = cone_program(
        P,
        q,
        (A, b, clarabel.ZeroConeT(len(A) if isinstance(A, np.ndarray) else A.shape[0])),
        (-eye[low], -lower[low], clarabel.NonnegativeConeT(int(low.sum()))),
        (eye[high], upper[high], clarabel.NonnegativeConeT(int(high.sum()))),
    )
    return x, nu


def value_and_jacobian(function, argnums=0):
    """Both from one solve."""

    def twice(*args):
        value = function(*args)
        return value, value

    def both(*args):
        jacobian, value = jax.jacobian(twice, argnums, has_aux=True)(*args)
        return value, jacobian

    return both
