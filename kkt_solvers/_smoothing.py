"""The point of relaxed complementarity, whose derivative is smooth where that of the solution jumps [tracy2024].

With `zl (y - l) = mu` and `zu (u - y) = mu` in place of zero, the KKT conditions are those of

    min  f(y) - mu sum log((y - l) (u - y))    s.t.    A y = b

where no bound is active. As `mu` goes to zero its solution goes to that of the problem, and its derivative too, where
the solution has one.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers._derivative import attach
from kkt_solvers.conditions.multipliers import Point, reduced_gradient
from kkt_solvers.data.inequality import linearised
from kkt_solvers.data.objectives import Objective, Quadratic, Smooth, as_it_is
from kkt_solvers.data.problem import Box, FlatProblem
from kkt_solvers.numerics.arrays import diagonal_matrix, in_place_of, largest, where
from kkt_solvers.numerics.batches import one_by_one
from kkt_solvers.systems.elimination import hessian
from kkt_solvers.systems.kkt import DenseKKT, KKTSystem

_ITERATIONS = 60
_TO_BOUNDARY = 0.99


def relaxed(problem: FlatProblem, mu: jax.Array) -> FlatProblem:
    """The problem with its bounds in the objective; a fixed variable keeps them."""
    box = problem.box
    fixed = box.lower == box.upper
    lower, upper = where(fixed, box.lower, -jnp.inf), where(fixed, box.upper, jnp.inf)
    return replace(
        problem, objective=Smooth(_with_barrier, (problem.objective, box, mu), as_it_is), box=Box(lower, upper)
    )


def attach_relaxed(linear: KKTSystem | None, problem: FlatProblem, point: Point, mu: jax.Array) -> Point:
    """`point`, with the derivative of the solution of `relaxed(problem, mu)`, and of its multipliers `mu / (y - l)` and
    `mu / (u - y)`."""
    near = _relaxed_point(*jax.lax.stop_gradient((problem, point, mu)))
    near = attach(linear, relaxed(problem, mu), near)
    has, distances = _distances(problem.box, near.primal)
    lower, upper = where(has, mu / distances, jnp.stack([near.lower, near.upper]))
    return jax.tree.map(in_place_of, Point(near.primal, near.equality, lower, upper, near.live), point)


class _State(NamedTuple):
    y: jax.Array
    nu: jax.Array
    z: jax.Array  # shape (2, n)
    change: jax.Array  # the largest of the last step, relative to slacks and multipliers
    rounds: jax.Array


@one_by_one
def _relaxed_point(problem: FlatProblem, point: Point, mu: jax.Array) -> Point:
    """The solution of the relaxed problem, by Newton steps on the primal-dual conditions from the solution `point`; not
    alive if they do not converge."""
    box, eps = problem.box, float(jnp.finfo(mu.dtype).eps)
    fixed, root = box.lower == box.upper, jnp.sqrt(mu)
    room = jnp.minimum(root, where(fixed, 0.0, 0.25 * (box.upper - box.lower)))
    y = jnp.clip(point.primal, box.lower + room, box.upper - room)
    has, distances = _distances(box, y)
    z = where(has, jnp.maximum(jnp.stack([point.lower, point.upper]), mu / distances), 0.0)
    mask = (~fixed).astype(y.dtype)

    def step(state: _State) -> _State:
        y, nu, z = state.y, state.nu, state.z
        _, slack = _distances(box, y)
        at_y = linearised(problem, y, nu)
        H, _ = hessian(at_y, y).densified().parts()
        H = (H if H.ndim == 2 else diagonal_matrix(H)) + diagonal_matrix(jnp.sum(z / slack, axis=0))
        local = replace(at_y, objective=Quadratic(H, jnp.zeros_like(y)))
        pull = where(has, mu / slack, 0.0)
        right = pull[0] - pull[1] - reduced_gradient(problem, y, nu), -problem.equality.residual(y)
        dy, dnu = DenseKKT().solve(local, y, mask, right)
        dy = mask * dy
        ds = jnp.stack([dy, -dy])
        dz = where(has, pull - z - z / slack * ds, 0.0)
        ratios = where(has, jnp.stack([ds / slack, dz / where(has, z, 1.0)]), 0.0)
        part = jnp.minimum(1.0, _TO_BOUNDARY / jnp.maximum(jnp.max(-ratios), eps))
        free = where(jnp.any(has, axis=0), 0.0, dy) / (1 + jnp.abs(y))
        return _State(y + part * dy, nu + part * dnu, z + part * dz, largest(ratios, free), state.rounds + 1)

    def unfinished(state: _State) -> jax.Array:
        return (state.change > eps**0.5) & (state.rounds < _ITERATIONS)

    start = _State(y, point.equality, z, jnp.full_like(mu, jnp.inf), jnp.zeros((), jnp.int32))
    end = jax.lax.while_loop(unfinished, step, start)
    # Twice as many digits as the last step changed are right.
    live = where(end.change <= eps**0.25, point.live, jnp.nan)
    return Point(end.y, end.nu, where(fixed, point.lower, 0.0), where(fixed, point.upper, 0.0), live)


def _with_barrier(y: jax.Array, objective: Objective, box: Box, mu: Any) -> jax.Array:
    has, distances = _distances(box, y)
    return objective(y) - mu * jnp.sum(where(has, jnp.log(distances), 0.0))


def _distances(box: Box, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether there is a bound that a coordinate can leave, and how far away it is; one where there is none."""
    has = jnp.isfinite(jnp.stack([box.lower, box.upper])) & (box.lower != box.upper)
    return has, where(has, jnp.stack([y - box.lower, box.upper - y]), 1.0)
