"""Quadratic programs with general inequalities, in the argument order people know."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from kkt_solvers._solve import solve
from kkt_solvers.data.constraints import Affine
from kkt_solvers.data.matrices import as_matrix
from kkt_solvers.data.objectives import Quadratic
from kkt_solvers.data.problem import Box, Problem
from kkt_solvers.data.solution import Dual, Solution
from kkt_solvers.numerics.arrays import cast, float_dtype, floating, full_precision, is_concrete, matrix

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
    nonnegative. The inequalities become equalities with slack variables `s = h - G x >= 0`; `residuals` are those of
    that problem.

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
    dtype = float_dtype(P, q, G, h, A, b, lower, upper)
    if is_concrete(h) and np.any(np.isnan(np.asarray(h)) | (np.asarray(h) == -np.inf)):
        raise ValueError("h has an entry that is NaN or -inf, which no x can meet; write inf for no constraint")
    problem, no_constraint = _with_slack_variables(P, q, G, h, A, b, lower, upper, dtype)
    if init is not None and h.size:
        init = _with_slacks(init, G, problem.equality.b[b.size :])
    solution = solve(problem, init, solver=solver, smoothing=smoothing, progress=progress)
    return _without_slack_variables(solution, no_constraint, n)


# Jitted, so that a call outside `jit` is one compiled function and not twenty operations.
@functools.partial(jax.jit, static_argnames="dtype", inline=True)
def _with_slack_variables(
    P: Any, q: Any, G: Any, h: Any, A: Any, b: Any, lower: Any, upper: Any, dtype: Any
) -> tuple[Problem, jax.Array]:
    """`min x'P x/2 + q'x  s.t.  G x + s = h, A x = b` with a slack `s >= 0` for each inequality."""
    n, p, m = q.size, h.size, b.size
    lower, upper = (jnp.broadcast_to(bound, (n,)) for bound in (lower, upper))
    P, q, G, h, A, b, lower, upper = cast((P, q, G, h, A, b, lower, upper), dtype)
    # An infinite h is no constraint: its slack is free.
    no_constraint = h == jnp.inf
    h, least = jnp.where(no_constraint, 0.0, h), jnp.where(no_constraint, -jnp.inf, 0.0).astype(dtype)
    sparse = any(isinstance(M, BCOO) for M in (P, G, A))
    if p:
        identity = jnp.arange(p)
        eye = BCOO((jnp.ones(p, dtype), jnp.stack([identity, identity], 1)), shape=(p, p))
        A, b = _assembled([(A, 0, 0), (G, m, 0), (eye, m, n)], (m + p, n + p), sparse), jnp.concatenate([b, h])
        P = None if P is None else _assembled([(P, 0, 0)], (n + p, n + p), sparse)
        q = jnp.concatenate([q, jnp.zeros(p, dtype)])
        lower = jnp.concatenate([lower, least])
        upper = jnp.concatenate([upper, jnp.full(p, jnp.inf, dtype)])
    return Problem(Quadratic(P, q), Affine(A, b) if m + p else None, Box(lower, upper)), no_constraint


@functools.partial(jax.jit, static_argnums=2, inline=True)
def _without_slack_variables(solution: Solution, no_constraint: jax.Array, n: int) -> Solution:
    """The solution in `x`; the multiplier of an inequality is that of its row."""
    dual, p = solution.dual, no_constraint.size
    nu = jnp.zeros(0, solution.primal.dtype) if dual.equality is None else dual.equality
    m = nu.size - p
    # Also for a ray: a negative entry is rounding.
    of_rows = jnp.where(no_constraint, 0.0, jnp.maximum(nu[m:], 0.0))
    dual = Dual(nu[:m], dual.lower[:n], dual.upper[:n], of_rows)
    return dataclasses.replace(solution, primal=solution.primal[:n], dual=dual)


def _with_slacks(init: Any, G: Entries, h: jax.Array) -> Any:
    """A start for the problem with slack variables, with `h` its right-hand side."""
    x = floating(init.primal if isinstance(init, Solution) else init, "init")
    y = jnp.concatenate([x, h - G @ x])
    if not isinstance(init, Solution):
        return y
    # The multiplier of a slack variable's bound is that of its inequality.
    dual, multiplier = init.dual, init.dual.inequality
    lower, upper = jnp.concatenate([dual.lower, multiplier]), jnp.concatenate([dual.upper, 0 * multiplier])
    return dataclasses.replace(init, primal=y, dual=Dual(jnp.concatenate([dual.equality, multiplier]), lower, upper))


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


def _assembled(blocks: list[tuple[Any, int, int]], shape: tuple[int, int], sparse: bool) -> Entries:
    """A matrix from blocks and the row and column where each begins."""
    if not sparse:
        whole = jnp.zeros(shape, blocks[0][0].dtype)
        for block, row, column in blocks:
            whole = jax.lax.dynamic_update_slice(whole, as_matrix(block).dense(), (row, column))
        return whole
    parts = [
        (block if isinstance(block, BCOO) else BCOO.fromdense(block), row, column) for block, row, column in blocks
    ]
    data = jnp.concatenate([block.data for block, _, _ in parts])
    indices = jnp.concatenate([block.indices + jnp.asarray([row, column]) for block, row, column in parts])
    return BCOO((data, indices), shape=shape)
