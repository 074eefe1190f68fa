"""Answers that owe nothing to this library."""

import functools

import mpmath
import numpy as np


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
