"""Convex programs with quadratic constraints [boyd2004, section 4.4].

    min_y  y'P y / 2 + q'y      s.t.  y'Ps_i y / 2 + qs_i'y <= rs_i,   A y = b,   lower <= y <= upper.

A multiplier is a price: the optimal value falls by `dual.inequality_i` for one more unit of `rs_i`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers import Affine, Box, Problem, Quadratic, solve
from kkt_solvers.numerics.arrays import cast, float_dtype, floating, full_precision, is_concrete
from kkt_solvers.problems import _checks


def QCQP(
    P: Any,
    q: Any,
    Ps: Any,
    qs: Any,
    rs: Any,
    A: Any = None,
    b: Any = None,
    lower: Any = -jnp.inf,
    upper: Any = jnp.inf,
) -> Problem:
    """The program with quadratic constraints as a `Problem`.

    Arguments:
        P: positive semidefinite, shape `(n, n)`, or `(n,)` if diagonal, or `None`.
        q: `(n,)`.
        Ps: positive semidefinite, `(p, n, n)`, a matrix for each constraint; zeros for a linear one.
        qs: `(p, n)`.
        rs: `(p,)`.
        A, b: `(m, n)` and `(m,)`, or `None`.
        lower, upper: scalars or `(n,)`.

    Only the symmetric parts of `P` and `Ps` matter. `dual.inequality` has a price for each constraint, `(p,)`.

    Raises `ValueError` for shapes that do not fit, unsorted bounds, and matrices that are not positive semidefinite.
    Traced matrices that are not end in the status `INVALID`, and constraints without a feasible point in
    `PRIMAL_INFEASIBLE`.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import QCQP
    >>> disc = 2 * jnp.eye(2)[None], jnp.zeros((1, 2)), [4.0]  # y'y <= 4
    >>> solution = kkt.solve(QCQP(None, [-3.0, -4.0], *disc))
    >>> solution.primal.tolist(), solution.dual.inequality.tolist()
    ([1.20, 1.60], [1.25])
    """
    q = _checks.vector(q, "q", "slopes")
    n = q.size
    if (A is None) != (b is None):
        raise ValueError("A and b go together: pass both or neither")
    Ps, qs, rs = floating(Ps, "Ps"), floating(qs, "qs"), _checks.vector(rs, "rs", "limits, one a constraint")
    p = rs.size
    for name, value, shape in (("Ps", Ps, (p, n, n)), ("qs", qs, (p, n))):
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {shape} to go with q and rs, got {value.shape}")
    lower, upper = (_checks.like(bound, (n,), name, "q") for bound, name in ((lower, "lower"), (upper, "upper")))
    P = None if P is None else floating(P, "P")
    if P is not None and P.shape not in ((n, n), (n,)):
        raise ValueError(f"P must be square, ({n}, {n}), to go with q, or ({n},), got {P.shape}")
    parts = P, q, Ps, qs, rs, lower, upper
    P, q, Ps, qs, rs, lower, upper = cast(parts, float_dtype(*parts))
    if P is not None and is_concrete(P):
        _check_definite("P", np.diag(P) if P.ndim == 1 else np.asarray(P))
    if is_concrete(Ps):
        for i, each in enumerate(np.asarray(Ps)):
            _check_definite(f"Ps[{i}]", each)
    box = Box(jnp.broadcast_to(_checks.in_order(lower, upper), (n,)), upper)
    return Problem(Quadratic(P, q), None if A is None else Affine(A, b), box, (Ps, qs, rs), _beyond)


def qcqp(
    P: Any,
    q: Any,
    Ps: Any,
    qs: Any,
    rs: Any,
    A: Any = None,
    b: Any = None,
    lower: Any = -jnp.inf,
    upper: Any = jnp.inf,
) -> jax.Array:
    """The solution of a program with quadratic constraints, `(n,)`, differentiable in every argument.

    Arguments: as for `QCQP`. Batches go through `jax.vmap`. NaN where the program was not solved.

    >>> from kkt_solvers.problems import qcqp
    >>> disc = 2 * jnp.eye(2)[None], jnp.zeros((1, 2)), [4.0]
    >>> qcqp(None, [-3.0, -4.0], *disc, upper=[1.0, jnp.inf]).tolist()  # y2 is the root of three
    [1.000, 1.732]
    """
    return _checks.solved(solve(QCQP(P, q, Ps, qs, rs, A, b, lower, upper)))


@full_precision
def _beyond(y: jax.Array, Ps: jax.Array, qs: jax.Array, rs: jax.Array) -> jax.Array:
    return 0.5 * (Ps @ y) @ y + qs @ y - rs


def _check_definite(name: str, value: np.ndarray) -> None:
    """By Cholesky's method, with rounding added to the diagonal. What a NaN is the engine says."""
    if not np.all(np.isfinite(value)):
        return
    matrix, eps = (value + value.T).astype(float) / 2, float(np.finfo(value.dtype).eps)
    shift = 10 * len(matrix) * eps * np.max(abs(matrix), initial=0)
    try:
        np.linalg.cholesky(matrix + (shift or 1.0) * np.eye(len(matrix)))  # a matrix of zeros is semidefinite too
    except np.linalg.LinAlgError:
        raise ValueError(
            f"{name} must be positive semidefinite, its least eigenvalue is {np.linalg.eigvalsh(matrix)[0]:.2g}; "
            "without that the program is not convex"
        ) from None
