"""Inequalities, as equalities with slack variables: `g(y) + s = 0`, `s >= 0`.

The multiplier of such a row is that of the inequality, and that of its slack variable's bound too. So everything that
holds for equalities and a box holds for inequalities. What a curved `g` adds is a point: `linearised` gives the problem
with affine constraints that agrees with a problem there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO
from jax.flatten_util import ravel_pytree

from kkt_solvers.data.constraints import Affine, AtMost, Curved, Operator
from kkt_solvers.data.marginals import Marginals
from kkt_solvers.data.matrices import Dense, LowRank, Map, Sparse, as_matrix
from kkt_solvers.data.matrix import Matrix
from kkt_solvers.data.objectives import Objective, Quadratic, Separable, Smooth, as_it_is
from kkt_solvers.data.problem import Box, FlatProblem
from kkt_solvers.data.sizes import natural_sizes
from kkt_solvers.data.slacks import padded, stacked
from kkt_solvers.data.solution import Dual
from kkt_solvers.data.stages import BlockDiagonal
from kkt_solvers.numerics.arrays import cast, longer, where
from kkt_solvers.numerics.pytree import pytree

SPARSE_FROM = 500  # variables, from which a sparse matrix is factorised as one


@pytree()
@dataclass(frozen=True, eq=False)
class Lagrangian:
    """`weight f(x) + nu'(c(x) - c_0 - J (x - x_0))`: `c_0` and `J` are the value and the Jacobian at `x_0` of curved
    constraints `c`. There its gradient is that of `weight f`, and its Hessian that of the Lagrangian."""

    objective: Objective
    constraints: Curved
    at: jax.Array
    nu: jax.Array
    weight: Any = 1.0

    def gradient(self, x: jax.Array) -> jax.Array:
        change = self.constraints.pullback(x, self.nu) - self.constraints.pullback(self.at, self.nu)
        return self.weight * self.objective.gradient(x) + change


def linearised(problem: FlatProblem, x: jax.Array, nu: jax.Array | None = None, weight: Any = 1.0) -> FlatProblem:
    """The problem with affine constraints that agrees with `problem` at `x`, to first order. With `nu` its objective is
    a `Lagrangian`, and so its KKT matrix is that of `problem` too, with the objective times `weight`."""
    constraints = problem.equality
    if not isinstance(constraints, Curved):
        return problem
    objective: Any = problem.objective if nu is None else Lagrangian(problem.objective, constraints, x, nu, weight)
    return replace(problem, objective=objective, equality=constraints.linearised(x))


def settled(problem: FlatProblem, x: jax.Array) -> jax.Array:
    """The point, each slack variable as large as its inequality leaves it, or zero where that is violated."""
    if not problem.slacks:
        return x
    n, p = x.size - problem.slacks, problem.slacks
    rest = problem.equality.residual(longer(x[:n], after=p))[-p:]
    return jnp.concatenate([x[:n], jnp.maximum(-rest, problem.box.lower[n:])])


def settled_dual(problem: FlatProblem, dual: Dual) -> Dual:
    """The multipliers, those of an inequality and of its slack variable's bound made one."""
    p = problem.slacks
    if not p:
        return dual
    nu = jnp.concatenate([dual.equality[:-p], dual.lower[-p:]])
    return Dual(nu, dual.lower, longer(dual.upper[:-p], after=p))


# ------------------------------------------------------------------------------------------------ at the door
def with_inequality(
    flat: FlatProblem, inequality: Any, args: Any, unravel: Callable[[jax.Array], Any]
) -> tuple[FlatProblem, Callable[[jax.Array], Any]]:
    """The problem with slack variables for its inequality, and how to turn the multipliers of that into the user's
    shape."""
    n, dtype = flat.box.lower.size, flat.box.lower.dtype
    if inequality is None:
        return flat, as_it_is
    if isinstance(inequality, AtMost):
        G, h = rows_and_values(inequality.G, inequality.h, n, dtype, "G", "h", "p")
        return (_with_linear(flat, as_matrix(G), h) if h.size else flat), as_it_is
    args = cast(args, dtype)
    shapes = jax.eval_shape(inequality, unravel(flat.box.lower), *args)
    for leaf in jax.tree.leaves(shapes):
        if not jnp.issubdtype(getattr(leaf, "dtype", int), jnp.floating):
            raise TypeError(
                f"inequality must return g(y, *args), real numbers that are at most zero where it holds, got {leaf}; "
                "not whether it holds"
            )
    value, unravel_dual = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), shapes))
    if value.size == 0:
        return flat, unravel_dual
    return _with_curved(flat, inequality, args, unravel, value), unravel_dual


def rows_and_values(
    M: Any, values: Any, n: int, dtype: Any, name: str, right: str, count: str
) -> tuple[Any, jax.Array]:
    """A matrix that acts on `n` variables and a value for each of its rows, in this dtype. Raises for wrong shapes."""
    M, values = cast((M, values), dtype)
    if len(M.shape) != 2 or M.shape[1] != n:
        raise ValueError(f"{name} must have shape ({count}, {n}) for y with {n} entries, got {M.shape}")
    if values.shape != M.shape[:1]:
        rows = f"({M.shape[0]},), one entry for each row of {name}"
        raise ValueError(f"{right} must have shape {rows}, got {values.shape}")
    return M.typed(dtype) if isinstance(M, Marginals) else M, values


def _with_linear(flat: FlatProblem, G: Matrix, h: jax.Array) -> FlatProblem:
    n, p, objective, equality = flat.box.lower.size, h.size, flat.objective, flat.equality
    # An infinite h is no constraint: its slack variable is free.
    free = h == jnp.inf
    h, lower = where(free, 0.0, h), where(free, -jnp.inf, 0.0).astype(h.dtype)
    target = jnp.concatenate([jnp.ravel(equality.target), h])
    if isinstance(equality, Operator):
        rows: Any = Operator(_stacked_residual, (equality, G, h), as_it_is, n + p, target)
    else:
        sparse = _is_sparse(objective, flat.rows, G)
        objective = _of_one_kind(objective, sparse)
        rows = Affine(stacked(flat.rows, G, sparse), target)
    flat = _lifted(flat, rows, lower, objective)
    return replace(flat, natural=natural_sizes(flat))


def _stacked_residual(x: jax.Array, equality: Operator, G: Matrix, h: jax.Array) -> jax.Array:
    y, s = x[: equality.size], x[equality.size :]
    return jnp.concatenate([jnp.ravel(equality.residual(y)), G.product(y) + s - h])


def _is_sparse(objective: Objective, A: Matrix, G: Matrix) -> bool:
    """Whether the rows are kept sparse, and not dense beside the slack variables."""
    if not isinstance(objective, Quadratic) or isinstance(objective.P, (LowRank, Map)):
        return False
    known = isinstance(objective.P, BCOO) or not (isinstance(A, Dense) and isinstance(G, Dense))
    return known and sum(G.shape) > SPARSE_FROM


def _of_one_kind(objective: Objective, sparse: bool) -> Objective:
    """The objective, its `P` sparse or dense like the rows."""
    if not isinstance(objective, Quadratic):
        return objective
    P = objective.matrix
    if sparse and isinstance(P, (Dense, BlockDiagonal)):
        return Quadratic(BCOO(P.coordinates(), shape=P.shape), objective.q)
    return Quadratic(P.dense(), objective.q) if isinstance(P, Sparse) and not sparse else objective


def _with_curved(flat: FlatProblem, function: Any, args: Any, unravel: Any, value: jax.Array) -> FlatProblem:
    objective = flat.objective
    if isinstance(flat.equality, Operator) or (isinstance(objective, Quadratic) and isinstance(objective.P, Map)):
        raise ValueError(
            "an inequality given as a function does not go with an equality, or a P, too large to be formed as a "
            "matrix; write the inequality as AtMost(G, h), or the large map as a sparse matrix"
        )
    p, one = value.size, jnp.ones((), value.dtype)
    natural = natural_sizes(flat)
    affine = Affine(jnp.pad(flat.rows.dense(), ((0, 0), (0, p))), jnp.ravel(flat.equality.target))
    ones = jnp.ones(p, value.dtype)
    rows = Curved(affine, function, args, unravel, one, ones, ones)
    flat = _lifted(flat, rows, jnp.zeros_like(value), _of_one_kind(objective, False))
    return replace(flat, natural=(natural[0], longer(natural[1], after=p)))


def _lifted(flat: FlatProblem, rows: Affine | Operator | Curved, lower: jax.Array, objective: Objective) -> FlatProblem:
    """The problem with slack variables from `lower` on, and these constraints."""
    n, p, box = flat.box.lower.size, lower.size, flat.box
    upper = jnp.full_like(lower, jnp.inf)
    box = Box(jnp.concatenate([box.lower, lower]), jnp.concatenate([box.upper, upper]))
    if isinstance(objective, Quadratic):
        objective = Quadratic(padded(objective.P, n, p), longer(objective.q, after=p))
    elif isinstance(objective, Separable):
        objective = Smooth(objective, (), as_it_is, n)
    else:
        objective = replace(objective, size=n)
    return FlatProblem(objective, rows, box, slacks=p)
