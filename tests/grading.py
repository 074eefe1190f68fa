"""A certificate for certificates: `kkt.solve` of the test session, its claims of success checked on the user's problem.

`certificates` does the sums. What it is given comes from the fields of the `Problem` as the user wrote them and from
the user's functions, called in double precision: not from what `solve` made of them.
"""

import functools
from typing import Any

import certificates
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCOO

import kkt_solvers as kkt
from kkt_solvers.data.matrix import Matrix

# A solver's own tolerance, times this. The norms here are not those of the library, and a few tests solve loosely: what
# is looked for is a wrong problem solved, not a digit.
ROOM = 1e3
# Least size that a residual is relative to: general functions hide the size of the terms that cancel in them.
FLOOR = 1e-3
_LARGEST = 4_000_000  # entries of a dense matrix, beyond which a solution is not graded


def graded(solve):
    """`solve`, which raises an `AssertionError` where a `SOLVED` is not borne out. Traced calls go through unseen."""

    @functools.wraps(solve)
    def wrapped(problem, init=None, **options):
        solution = solve(problem, init, **options)
        leaves = jax.tree.leaves((problem, solution))
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            grade(problem, solution, getattr(options.get("solver"), "tol", None))
        return solution

    return wrapped


def grade(problem: kkt.Problem, solution: kkt.Solution, tol: float | None = None) -> None:
    dtype = jnp.result_type(*jax.tree.leaves(solution.primal))
    if kkt.Status(int(solution.status)) != kkt.Status.SOLVED or dtype.itemsize < 4:
        return
    tol = (1e-8 if dtype.itemsize == 8 else 1e-5) if tol is None else tol
    with jax.enable_x64(True):
        at = conditions(problem, solution.primal, solution.dual.equality)
    if at is None:
        return
    dual = certificates.Multipliers(
        *map(certificates.vector, (solution.dual.equality, solution.dual.lower, solution.dual.upper))
    )
    if problem.inequality is not None:
        with jax.enable_x64(True):
            rows = _inequality(problem, solution.primal)
        at, dual = certificates.with_slacks(at, dual, *rows, certificates.vector(solution.dual.inequality))
    found = certificates.residuals(at, dual, ROOM * tol, FLOOR)
    wrong = {name: value for name, value in found.items() if not value <= ROOM * tol}
    assert not wrong, f"SOLVED, but on the functions and arrays of the problem: {wrong}"


def conditions(problem: kkt.Problem, primal: Any, nu: Any) -> certificates.Conditions | None:
    """The KKT conditions of the user's problem at a point; `None` where they would take too long to write out."""
    y = jax.tree.map(_double, primal)
    flat, unravel = jax.flatten_util.ravel_pytree(y)
    args = jax.tree.map(_double, problem.args)
    equality = _equality(problem.equality, y, flat, unravel, args, nu)
    objective = _objective(problem.objective, y, flat, unravel, args)
    if equality is None or objective is None:
        return None
    bounds = (_like(bound, y) for bound in (problem.box.lower, problem.box.upper))
    gradient, terms, slope = objective
    return certificates.Conditions(np.asarray(flat), *bounds, gradient, terms, *equality, slope)


def _double(leaf: Any) -> Any:
    """A floating leaf in double precision, others as they are."""
    return jnp.asarray(leaf, jnp.float64) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf


def _like(value: Any, y: Any) -> np.ndarray:
    """A scalar, an array or a pytree like `y`, as a flat vector."""
    if jax.tree_util.all_leaves([value]):
        value = jax.tree.map(lambda _: value, y)
    return certificates.vector(jax.tree.map(lambda part, leaf: np.broadcast_to(part, leaf.shape), value, y))


def _matrix(value: Any) -> Any:
    if isinstance(value, BCOO):
        inside = np.all(np.asarray(value.indices) < value.shape, axis=1)  # the rest is padding
        entries, (rows, columns) = np.asarray(value.data, np.float64)[inside], np.asarray(value.indices)[inside].T
        return sp.coo_array((entries, (rows, columns)), shape=value.shape).tocsr()
    if isinstance(value, Matrix) and not isinstance(value, kkt.LowRank):
        value = value.dense()
    return np.asarray(value, np.float64)


def _equality(equality, y, flat, unravel, args, nu) -> Any:
    """The matrix, the value, and the constant part of it."""
    n = flat.size
    if equality is None:
        return np.zeros((0, n)), np.zeros(0), np.zeros(0)
    if isinstance(equality, kkt.Sum):
        A = np.ones((1, n)) if equality.weights is None else _like(equality.weights, y)[None]
        b = np.asarray(equality.total, np.float64).reshape(1)
    elif isinstance(equality, kkt.Affine):
        A, b = _matrix(equality.A), np.asarray(equality.b, np.float64)
    else:

        def residual(flat):
            return jax.flatten_util.ravel_pytree(equality(unravel(flat), *args))[0]

        if certificates.vector(nu).size * n > _LARGEST:
            return None
        A = np.asarray(jax.jacfwd(residual)(flat))  # at the point: of a function that is not affine, its slope there
        rest = np.asarray(residual(flat))
        return A, rest, A @ np.asarray(flat) - rest
    return A, A @ np.asarray(flat) - b, b


def _inequality(problem, primal) -> Any:
    """`G` and `h`; for a function those of its linearisation at the point."""
    inequality = problem.inequality
    if isinstance(inequality, kkt.AtMost):
        G = _matrix(inequality.G)
        return G.toarray() if sp.issparse(G) else G, np.asarray(inequality.h, np.float64)
    y, args = jax.tree.map(_double, primal), jax.tree.map(_double, problem.args)
    flat, unravel = jax.flatten_util.ravel_pytree(y)

    def values(flat):
        return jax.flatten_util.ravel_pytree(inequality(unravel(flat), *args))[0]

    G = np.asarray(jax.jacfwd(values)(flat))
    return G, G @ np.asarray(flat) - np.asarray(values(flat))


def _objective(objective, y, flat, unravel, args) -> Any:
    """The gradient, the sizes of its terms, and of a separable objective the slope as a function."""
    if isinstance(objective, kkt.Quadratic):
        P, q = objective.P, np.asarray(objective.q, np.float64)
        if isinstance(P, kkt.LowRank):
            P = P.diagonal, P.factor
        elif P is not None and not isinstance(P, (jax.Array, BCOO, kkt.BlockDiagonal)):  # a function
            if flat.size**2 > _LARGEST:
                return None
            P = np.asarray(jax.vmap(lambda v: P @ v)(jnp.eye(flat.size)))
        elif P is not None:
            P = _matrix(P)
        nothing = np.zeros((0, flat.size)), np.zeros(0), -np.inf, np.inf
        at = certificates.conditions(np.asarray(flat), P, q, *nothing)
        return at.gradient, at.terms, None
    if isinstance(objective, kkt.Separable):
        theta = jax.tree.map(_double, objective.theta)

        def slope(flat):
            with jax.enable_x64(True):  # it is called later too
                part = jnp.asarray(flat).reshape(y.shape)
                return np.ravel(jax.jvp(lambda part: objective.phi(part, theta), (part,), (jnp.ones_like(part),))[1])

        return slope(flat), np.abs(slope(flat)), slope

    def gradient(flat):
        return jax.grad(lambda flat: objective(unravel(flat), *args))(flat)

    # What cancels in the gradient of a function is unknown; of a quadratic one it is H y and the gradient less that.
    value, bend = (np.asarray(part) for part in jax.jvp(gradient, (flat,), (flat,)))
    bend = np.where(np.isfinite(bend), bend, 0)
    return value, np.abs(bend) + np.abs(value - bend), None
