"""The gallery's problems with curved inequalities by Clarabel, as cone programs: see `field.py`."""

import clarabel
import numpy as np
import scipy.sparse as sp


def by_cones(q, *blocks, P=None):
    """The cone program `y'Py/2 + q'y, b - A y in cone` of each block `(A, b, cones)`, to 1e-9."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-9
    A = sp.vstack([sp.csr_matrix(A) for A, _, _ in blocks]).tocsc()
    b, cones = np.concatenate([b for _, b, _ in blocks]), [cone for _, _, cones in blocks for cone in cones]
    P = sp.csc_matrix((len(q), len(q)) if P is None else sp.triu(P))
    return "Clarabel", lambda: clarabel.DefaultSolver(P, np.asarray(q), A, b, cones, settings).solve()


def risk_limited(mean, specific, loadings, risk):
    """The volatility as the norm of the factors and the specific parts of the return."""
    (n, factors), eye = loadings.shape, sp.eye(len(mean))
    root = sp.vstack([sp.diags(np.sqrt(specific)), loadings.T])
    return by_cones(
        -mean,
        (np.ones((1, n)), [1.0], [clarabel.ZeroConeT(1)]),
        (sp.vstack([-eye, eye]), np.r_[np.zeros(n), np.full(n, 0.1)], [clarabel.NonnegativeConeT(2 * n)]),
        (
            sp.vstack([sp.csr_matrix((1, n)), -root]),
            np.r_[risk, np.zeros(n + factors)],
            [clarabel.SecondOrderConeT(1 + n + factors)],
        ),
    )


def geometric_program(objective, limits):
    """With a variable for the objective and one for each term, and an exponential cone for each term."""
    posynomials, n = [objective, *limits], objective.exponents.shape[1]
    size, at, blocks = n + 1 + sum(len(each.coefficients) for each in posynomials), n + 1, []
    for i, each in enumerate(posynomials):
        total = np.zeros((1, size))
        total[0, at : at + len(each.coefficients)] = 1.0
        blocks.append((total, [1.0], [clarabel.NonnegativeConeT(1)]))
        for c, exponents in zip(each.coefficients, each.exponents, strict=True):
            A = np.zeros((3, size))
            A[0, :n], A[0, n], A[2, at] = -exponents, float(i == 0), -1.0
            blocks.append((A, [np.log(c), 1.0, 0.0], [clarabel.ExponentialConeT()]))
            at += 1
    return by_cones(np.eye(size)[n], *blocks)


def robust_least_squares(y, X, radius=5.0, ratio=1.0):
    """With a variable for each norm."""
    (m, p), none = X.shape, sp.csr_matrix
    t, s = -sp.eye(1, p + 2, p), -sp.eye(1, p + 2, p + 1)
    return by_cones(
        np.r_[np.zeros(p), 1.0, radius],
        (sp.vstack([t, -sp.hstack([X, none((m, 2))])]), np.r_[0.0, -y], [clarabel.SecondOrderConeT(1 + m)]),
        (
            sp.vstack([s, -sp.eye(p, p + 2), none((1, p + 2))]),
            np.r_[np.zeros(1 + p), ratio],
            [clarabel.SecondOrderConeT(2 + p)],
        ),
    )


def fair_logistic_regression(limit, X, labels, members, ridge=1.0):
    """With a variable for each loss t and its two exponentials: `exp(-margin - t) + exp(-t) <= 1`."""
    m, p = X.shape
    eye, none, right = sp.eye(m, format="csr"), sp.csr_matrix, np.tile([0.0, 1.0, 0.0], m)

    def exponentials(first, k):
        """`first + t` and the exponential `k` of each observation, in the exponential cone."""
        rows = [first, none((m, p + 3 * m)), sp.hstack([none((m, p + m * (k + 1))), -eye, none((m, m * (1 - k)))])]
        return sp.vstack(rows).tocsr()[np.arange(3 * m).reshape(3, m).T.ravel()], right, cones

    cones = [clarabel.ExponentialConeT()] * m
    means = members / np.sum(members, 1, keepdims=True)
    return by_cones(
        np.r_[np.zeros(p), np.ones(m), np.zeros(2 * m)],
        (np.c_[np.zeros((len(means), p)), means, np.zeros((len(means), 2 * m))], limit, [_at_most(len(means))]),
        (sp.hstack([none((m, p + m)), eye, eye]), np.ones(m), [_at_most(m)]),
        exponentials(sp.hstack([labels[:, None] * X, eye, none((m, 2 * m))]), 0),
        exponentials(sp.hstack([none((m, p)), eye, none((m, 2 * m))]), 1),
        P=sp.diags(np.r_[np.full(p, ridge), np.zeros(3 * m)]),
    )


def network_utility(capacity, routing):
    """With a variable for each logarithm."""
    (links, flows), at = routing.shape, np.arange(routing.shape[1])
    rows, columns = np.r_[3 * at, 3 * at + 2], np.r_[flows + at, at]
    logarithms = sp.csr_matrix((-np.ones(2 * flows), (rows, columns)), shape=(3 * flows, 2 * flows))
    return by_cones(
        np.r_[np.zeros(flows), -np.ones(flows)],
        (np.c_[routing, np.zeros((links, flows))], capacity, [_at_most(links)]),
        (logarithms, np.tile([0.0, 1.0, 0.0], flows), [clarabel.ExponentialConeT()] * flows),
    )


def qcqp(q, Ps, qs, rs):
    """`|u|^2 / 2 <= t` as `|(t - 1/2, u)| <= t + 1/2`."""
    n, eye = len(q), sp.eye(len(q))
    blocks = [(sp.vstack([-eye, eye]), np.ones(2 * n), [_at_most(2 * n)])]
    for P, slope, r in zip(Ps, qs, rs, strict=True):
        root = np.linalg.cholesky(P + 1e-12 * np.eye(n))
        A, b = np.r_[slope[None], slope[None], -root.T], np.r_[r + 0.5, r - 0.5, np.zeros(n)]
        blocks.append((A, b, [clarabel.SecondOrderConeT(n + 2)]))
    return by_cones(q, *blocks, P=eye)


def _at_most(rows):
    return clarabel.NonnegativeConeT(rows)


TOOLS = (risk_limited, geometric_program, robust_least_squares, fair_logistic_regression, network_utility, qcqp)
