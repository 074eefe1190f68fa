"""Objectives whose structure the solvers and the derivative can use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers.data.matrices import Diagonal, Map, Zero, as_matrix
from kkt_solvers.data.matrix import Matrix
from kkt_solvers.numerics.arrays import floating, floating_tree, matrix, where
from kkt_solvers.numerics.hoist import elementwise_derivative
from kkt_solvers.numerics.pytree import pytree


@pytree()
@dataclass(frozen=True, eq=False)
class Quadratic:
    """A quadratic objective, `f(y) = y'Py/2 + q'y`.

    Arguments:
        P: positive semidefinite, shape `(n, n)` (an array, a scipy.sparse matrix, a `BCOO`, a `LowRank` or a
            `BlockDiagonal`), or `(n,)` for a diagonal matrix, or `None` for a linear program. Only its symmetric part
            matters. Or the linear function `v -> P v` of a symmetric one, whose matrix is formed only up to 3e7
            entries.
        q: shape `(n,)`.

    Raises `TypeError` where an entry is not a real number; shapes are checked when the problem is solved.

    >>> import kkt_solvers as kkt
    >>> kkt.Quadratic([2.0, 4.0], [-1.0, 0.0])(jax.numpy.ones(2))
    Array(2., dtype=float32)
    """

    P: Any
    q: jax.Array

    def __init__(self, P: Any, q: Any):
        if callable(P):
            P = Map(P)
        elif P is not None and not isinstance(P, Matrix):
            P = matrix(P, "P")
        object.__setattr__(self, "P", P)
        object.__setattr__(self, "q", floating(q, "q"))

    def __call__(self, y: jax.Array) -> jax.Array:
        return jnp.vdot(y, 0.5 * self.matrix.product(y) + self.q)

    def gradient(self, y: jax.Array) -> jax.Array:
        return self.matrix.product(y) + self.q

    @property
    def matrix(self) -> Matrix:
        """`P`, as one of the classes of `matrices`."""
        return as_matrix(self.P, self.q)


@pytree(callables=("phi", "minimiser", "complement"))
@dataclass(frozen=True, eq=False)
class Separable:
    """A separable objective, `f(y) = sum_i phi(y_i, theta_i)` with `phi` convex in its first argument.

    Arguments:
        phi: `phi(y, theta)`, elementwise: it is called with whole arrays.
        theta: an array, or a pytree of arrays, that broadcast with `y`.
        minimiser: `minimiser(z, theta)`, elementwise, `argmin_y phi(y, theta) - z y` over the domain of `phi`: the
            inverse of `phi'`. It need not know the box. Without it the minimiser is found by a safeguarded scalar
            Newton iteration, and the box must then lie inside the domain of `phi` (its ends may be limits).
        complement: `complement(z, theta) = upper - minimiser(z, theta)` without cancellation, for a `phi` whose
            minimiser stays below the upper bound and comes so near to it that the difference is lost in rounding.

    >>> import kkt_solvers as kkt
    >>> def phi(y, v):
    ...     return (y - v) ** 2 / 2
    >>> problem = kkt.Problem(kkt.Separable(phi, [0.2, 0.9, 3.0]), kkt.Sum(1.0), kkt.Box(0.0, 1.0))
    >>> kkt.solve(problem).primal
    Array([0., 0., 1.], dtype=float32)
    """

    phi: Callable[..., jax.Array]
    theta: Any
    minimiser: Callable[..., jax.Array] | None
    complement: Callable[..., jax.Array] | None

    def __init__(self, phi: Any, theta: Any = (), minimiser: Any = None, complement: Any = None):
        functions = {"phi": phi, "minimiser": minimiser, "complement": complement}
        for name, function in functions.items():
            if not callable(function) and (name == "phi" or function is not None):
                raise TypeError(f"{name} must be an elementwise function of (y, theta), got {type(function).__name__}")
        if complement is not None and minimiser is None:
            raise ValueError("complement needs a minimiser: pass both or neither")
        object.__setattr__(self, "phi", phi)
        object.__setattr__(self, "theta", floating_tree(theta, "theta"))
        object.__setattr__(self, "minimiser", minimiser)
        object.__setattr__(self, "complement", complement)

    def __call__(self, y: jax.Array) -> jax.Array:
        return jnp.sum(self.phi(y, self.theta))

    def gradient(self, y: jax.Array) -> jax.Array:
        return elementwise_derivative(self.phi, y, self.theta)


@pytree(callables=("function",), static=("unravel", "size"))
@dataclass(frozen=True, eq=False)
class Smooth:
    """A user's `function(y, *args)` of a pytree `y`, as a function of the flat vector, or of its first `size` entries.
    Internal."""

    function: Callable[..., jax.Array]
    args: tuple[Any, ...]
    unravel: Callable[[jax.Array], Any]
    size: int | None = None

    def __call__(self, y: jax.Array) -> jax.Array:
        return self.function(self.unravel(y if self.size is None else y[: self.size]), *self.args)

    def gradient(self, y: jax.Array) -> jax.Array:
        return jax.grad(self.__call__)(y)


def as_it_is(y: jax.Array) -> jax.Array:
    """The `unravel` of a `Smooth` whose function takes the flat vector."""
    return y


# Solvers and the derivative use `__call__` and `gradient`, on flat vectors.
Objective = Quadratic | Separable | Smooth


def is_linear(objective: Objective) -> bool:
    return isinstance(objective, Quadratic) and isinstance(objective.matrix, Zero)


def hessian_product(objective: Objective, y: jax.Array, v: jax.Array) -> jax.Array:
    if isinstance(objective, Quadratic):
        return objective.matrix.product(v)
    return jax.jvp(objective.gradient, (y,), (v,))[1]


def _diagonal_phi(y: jax.Array, theta: Any) -> jax.Array:
    curvature, slope = theta
    return 0.5 * curvature * y * y + slope * y


def _diagonal_minimiser(z: jax.Array, theta: Any) -> jax.Array:
    curvature, slope = theta
    return (z - slope) / curvature


def as_separable(objective: Objective) -> Separable | None:
    """The objective as a sum over the coordinates, where its type says that it is one."""
    if isinstance(objective, Separable):
        return objective
    if isinstance(objective, Quadratic) and isinstance(objective.matrix, Diagonal):
        P = objective.matrix.entries
        # A flat coordinate has a minimiser all the same, with a curvature that is nothing beside the others.
        size, slope = jnp.max(P, initial=0), jnp.max(jnp.abs(objective.q), initial=0)
        size = where(size > 0, size, slope)
        least = jnp.finfo(size.dtype).eps * where(size > 0, size, 1.0)
        curvature = where(P < 0, P, jnp.maximum(P, least))
        return Separable(_diagonal_phi, (curvature, objective.q), _diagonal_minimiser)
    return None
