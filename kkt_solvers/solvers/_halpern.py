"""Restarted Halpern primal-dual hybrid gradient [lu2024] on a scaled linear or quadratic program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers.data.objectives import Quadratic
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.solution import Status
from kkt_solvers.numerics.arrays import tree_where

_CHECK_EVERY = 64
_SUFFICIENT, _NECESSARY, _ARTIFICIAL = 0.2, 0.8, 0.36  # [lu2024]'s conditions for a restart


class Iterate(NamedTuple):
    y: jax.Array
    nu: jax.Array
    w: jax.Array  # the dual copy of y that belongs to the quadratic term
    Rw: jax.Array  # R w


class Steps(NamedTuple):
    primal: jax.Array
    dual: jax.Array
    copy: jax.Array


class State(NamedTuple):
    now: Iterate
    anchor: Iterate
    inner: jax.Array  # iterations since the restart
    first: jax.Array  # length of the first step after the restart
    previous: jax.Array  # length of the last step
    weight: jax.Array
    best: tuple[jax.Array, jax.Array]  # y and nu of the original problem
    smallest: jax.Array  # their largest KKT residual
    claim: jax.Array
    iterations: jax.Array


class Method:
    """The iteration on a scaled problem."""

    def __init__(self, problem: FlatProblem):
        objective = problem.objective
        assert isinstance(objective, Quadratic)
        self.problem, self.q = problem, objective.q
        self.p, self.R = objective.matrix.split()
        y = problem.box.lower
        self.A_norm = jnp.sqrt(_norm(lambda v: problem.equality.adjoint(problem.equality.product(v)), y))
        self.R_norm = jnp.zeros((), y.dtype) if self.R is None else _norm(self.R, y)
        unit = jnp.where(self.A_norm > 0, self.A_norm, jnp.sqrt(self.R_norm))
        self.unit = jnp.where(unit > 0, unit, 1.0)
        self.ratio = self.unit**2 / jnp.where(self.R_norm > 0, self.R_norm, 1.0)

    def start(self, y: jax.Array, nu: jax.Array, best: Any, smallest: jax.Array) -> State:
        w = y if self.R is not None else jnp.zeros(0, y.dtype)
        point = Iterate(y, nu, w, w if self.R is None else self.R(w))
        zero, none = jnp.zeros((), y.dtype), jnp.zeros((), jnp.int32)
        convex = _is_convex(self.p, self.R, self.R_norm)
        claim = jnp.where(convex, Status.MAX_ITERATIONS, Status.INVALID).astype(jnp.int32)
        return State(point, point, none, zero, zero + jnp.inf, zero + 1, best, smallest, claim, none)

    def steps(self, weight: jax.Array) -> Steps:
        """`tau (sigma |A|^2 + rho |R|) = 0.998`."""
        dual = weight / self.unit
        copy = jnp.minimum(dual * self.ratio, 1.0)
        bound = dual * self.A_norm**2 + copy * self.R_norm
        return Steps(0.998 / jnp.where(bound > 0, bound, 1.0), dual, copy)

    def step(self, z: Iterate, by: Steps) -> Iterate:
        equality, box = self.problem.equality, self.problem.box
        slope = self.q + equality.adjoint(z.nu) + (0.0 if self.R is None else z.Rw)
        y = jnp.clip((z.y - by.primal * slope) / (1 + by.primal * self.p), box.lower, box.upper)
        beyond = 2 * y - z.y
        nu = z.nu + by.dual * (equality.product(beyond) - equality.target)
        if self.R is None:
            return Iterate(y, nu, z.w, z.Rw)
        w = (z.w + by.copy * beyond) / (1 + by.copy)
        return Iterate(y, nu, w, (z.Rw + by.copy * self.R(beyond)) / (1 + by.copy))

    def length(self, step: Iterate, by: Steps) -> jax.Array:
        """The length of a step in the norm in which the iteration is firmly nonexpansive."""
        square = jnp.vdot(step.y, step.y) / by.primal + jnp.vdot(step.nu, step.nu) / by.dual
        square += jnp.vdot(step.w, step.Rw) / by.copy
        coupling = self.problem.equality.adjoint(step.nu) + (0.0 if self.R is None else step.Rw)
        return jnp.sqrt(jnp.maximum(square - 2 * jnp.vdot(step.y, coupling), 0.0))

    def advance(self, state: State) -> tuple[State, Iterate, Iterate]:
        """The state after a round of iterations, the last step, and the point after that step."""
        by = self.steps(state.weight)

        def halpern(z: Iterate, moved: Iterate, k: jax.Array) -> Iterate:
            part = (k + 1) / (k + 2).astype(z.y.dtype)
            return jax.tree.map(lambda a, b, c: part * (2 * b - a) + (1 - part) * c, z, moved, state.anchor)

        z, k = state.now, state.inner
        moved = self.step(z, by)
        first = jnp.where(k == 0, self.length(_difference(moved, z), by), state.first)
        z = halpern(z, moved, k)
        z = jax.lax.fori_loop(1, _CHECK_EVERY - 1, lambda i, z: halpern(z, self.step(z, by), k + i), z)
        moved = self.step(z, by)
        step = _difference(moved, z)
        last = self.length(step, by)
        inner, total = k + _CHECK_EVERY, state.iterations + _CHECK_EVERY
        restart = (last <= _SUFFICIENT * first) | (inner >= _ARTIFICIAL * total)
        restart |= (last <= _NECESSARY * first) & (last > state.previous)

        fresh = moved if self.R is None else moved._replace(Rw=self.R(moved.w))
        now = tree_where(restart, fresh, halpern(z, moved, k + _CHECK_EVERY - 1))
        following = state._replace(
            now=now,
            anchor=tree_where(restart, fresh, state.anchor),
            inner=jnp.where(restart, 0, inner),
            first=first,
            previous=jnp.where(restart, jnp.inf, last),
            weight=jnp.where(restart, self.balanced(state, moved), state.weight),
            iterations=total,
        )
        return following, step, moved

    def balanced(self, state: State, moved: Iterate) -> jax.Array:
        """The geometric mean of the weight and of the weight that would balance the primal and the dual distance
        travelled since the restart."""
        way = _difference(moved, state.anchor)
        primal = jnp.linalg.norm(way.y)
        dual = jnp.sqrt(jnp.vdot(way.nu, way.nu) + jnp.maximum(jnp.vdot(way.w, way.Rw), 0) / self.ratio)
        good = (primal > 1e-10) & (dual > 1e-10) & (primal < 1e12) & (dual < 1e12)
        return jnp.where(good, jnp.sqrt(state.weight * dual / jnp.where(good, primal, 1.0)), state.weight)


def _difference(a: Iterate, b: Iterate) -> Iterate:
    return jax.tree.map(jnp.subtract, a, b)


def _is_convex(p: jax.Array, R: Callable[[jax.Array], jax.Array] | None, largest: jax.Array) -> jax.Array:
    """False if a direction of negative curvature is found: a negative entry of `p`, or, by power iteration on
    `largest I - R`, a negative eigenvalue of `R`."""
    least = -10 * float(jnp.finfo(p.dtype).eps) ** 0.6 * (largest + jnp.max(jnp.abs(p), initial=0))
    separable = jnp.min(p, initial=0) >= least
    if R is None:
        return separable

    def step(_: int, state: Any) -> Any:
        v, curvature = state
        image = R(v)
        following = largest * v - image
        size = jnp.linalg.norm(following)
        return following / jnp.where(size > 0, size, 1.0), jnp.minimum(curvature, jnp.vdot(v, image))

    start = _random_direction(p), jnp.zeros((), p.dtype)
    return separable & (jax.lax.fori_loop(0, 100, step, start)[1] >= least)


def _random_direction(like: jax.Array) -> jax.Array:
    v = jax.random.normal(jax.random.key(0), like.shape, like.dtype)
    return v / jnp.linalg.norm(v)


def _norm(product: Callable[[jax.Array], jax.Array], like: jax.Array) -> jax.Array:
    """The largest eigenvalue of a positive semidefinite matrix by power iteration, plus the error of the iteration."""

    def step(state: Any) -> Any:
        v, _, _, count, _ = state
        image = product(v)
        following = jnp.vdot(v, image)
        error = jnp.linalg.norm(image - following * v)
        size = jnp.linalg.norm(image)
        rough = error > 1e-2 * following
        return image / jnp.where(size > 0, size, 1.0), following, error, count + 1, rough

    start = _random_direction(like), jnp.zeros((), like.dtype), jnp.asarray(jnp.inf, like.dtype), 0, jnp.ones((), bool)
    _, value, error, *_ = jax.lax.while_loop(lambda state: state[4] & (state[3] < 200), step, start)
    return value + error
