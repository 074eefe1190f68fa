"""Quadratic programs, in the argument order people know."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from kkt_solvers._solve import solve
from kkt_solvers.data.constraints import Affine, AtMost
from kkt_solvers.data.objectives import Quadratic
from kkt_solvers.data.problem import Box, Problem
from kkt_solvers.data.solution import Solution
from kkt_solvers.numerics.arrays import floating, full_precision, matrix

Entries = jax.Array | BCOO


@full_precision
def solve_qp(
    P: Any,
    q: Any,
    G: Any = None,
    h: Any = None,
    A: Any = None,
    b: Any = None,
    lb: Any = None,
    ub: Any = None,
    *,
    init: Any = None,
    solver: Any = None,
    smoothing: Any = None,
    progress: Any = False,
) -> Solution:
    """Solve `min x'Px/2 + q'x  s.t.  G x <= h,  A x = b,  lb <= x <= ub`.

    Arguments:
        P: `(n, n)`, positive semidefinite, or `None` for a linear program.
        q: `(n,)`.
        G, h: `(p, n)` and `(p,)`, or `None`. Entries of `h` may be infinite: no constraint.
        A, b: `(m, n)` and `(m,)`, or `None`.
        lb, ub: scalars or `(n,)`, or `None`; may be infinite.
        init: where to start, a vector or the `Solution` of a similar program.
        solver, smoothing, progress: as for `solve`; smoothing relaxes the inequalities too.

    Matrices are arrays, scipy.sparse matrices or `BCOO`; all are differentiable.

    Returns a `Solution` whose `primal` is x and whose `dual` has `inequality` too, the multipliers of `G x <= h`: in
    `L = f + inequality'(G x - h) + equality'(A x - b) - lower'(x - lb) + upper'(x - ub)` all but `equality` are
    nonnegative.

    Raises `ValueError` for wrong shapes and for one of `G, h` or `A, b` without the other.

    >>> import kkt_solvers as kkt
    >>> solution = kkt.solve_qp([[2.0, 0.0], [0.0, 2.0]], [-2.0, -6.0], [[1.0, 1.0]], [2.0], lb=0.0)
    >>> solution.primal.tolist(), solution.dual.inequality.tolist()
    ([0.00, 2.00], [2.00])
    """
    q = floating(q, "q")
    if q.ndim != 1:
        raise ValueError(f"q must be a vector, got shape {q.shape}; batches go through jax.vmap")
    n = q.size
    P = None if P is None else matrix(P, "P")
    if P is not None and P.shape != (n, n):
        raise ValueError(f"P must have shape ({n}, {n}) to go with q, got {P.shape}")
    G, h = _rows(G, h, q, "G", "h")
    A, b = _rows(A, b, q, "A", "b")
    lower = _bound(lb, -jnp.inf, n, "lb")
    upper = _bound(ub, jnp.inf, n, "ub")
    inequality = AtMost(G, h) if h.size else None
    problem = Problem(Quadratic(P, q), Affine(A, b) if b.size else None, Box(lower, upper), inequality=inequality)
    return _with_all_multipliers(solve(problem, init, solver=solver, smoothing=smoothing, progress=progress), q.dtype)


def _with_all_multipliers(solution: Solution, dtype: Any) -> Solution:
    """The solution; where there is no constraint of a kind its multipliers are a vector without entries."""
    dual, none = solution.dual, jnp.zeros(0, dtype)
    equality, inequality = (none if part is None else part for part in (dual.equality, dual.inequality))
    return dataclasses.replace(solution, dual=dataclasses.replace(dual, equality=equality, inequality=inequality))


def _rows(M: Any, right: Any, q: jax.Array, M_name: str, right_name: str) -> tuple[Entries, jax.Array]:
    n = q.size
    if (M is None) != (right is None):
        raise ValueError(f"{M_name} and {right_name} go together: pass both or neither")
    if M is None:
        return jnp.zeros((0, n), q.dtype), jnp.zeros(0, q.dtype)
    M, right = matrix(M, M_name), floating(right, right_name)
    if M.ndim != 2 or M.shape[1] != n:
        raise ValueError(f"{M_name} must have shape (rows, {n}) to go with q, got {M.shape}")
    if right.shape != M.shape[:1]:
        raise ValueError(f"{right_name} must have shape ({M.shape[0]},) to go with {M_name}, got {right.shape}")
    return M, right


def _bound(value: Any, default: float, n: int, name: str) -> jax.Array:
    bound = floating(default if value is None else value, name)
    if bound.shape not in ((), (n,)):
        raise ValueError(f"{name} must be a scalar or have shape ({n},), got {bound.shape}")
    return bound
