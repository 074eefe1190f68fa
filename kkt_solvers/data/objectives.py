"""Objectives whose structure the solvers and the derivative can use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from kkt_solvers.numerics.arrays import (
    Matrix,
    diagonal_matrix,
    diagonal_of,
    floating,
    floating_tree,
    largest_entries,
    matrix,
    scaled_matrix,
    where,
)
from kkt_solvers.numerics.hoist import elementwise_derivative
from kkt_solvers.numerics.pytree import pytree


@pytree()
@dataclass(frozen=True, eq=False)
class LowRank:
    """The matrix `P = diag(diagonal) + factor factor'`, never formed: a factor model's covariance.

    Arguments:
        diagonal: shape `(n,)`, nonnegative.
        factor: shape `(n, r)`, with r much less than n.

    >>> import kkt_solvers as kkt
    >>> kkt.LowRank([1.0, 1.0], [[1.0], [2.0]]) @ jax.numpy.ones(2)
    Array([4., 7.], dtype=float32)
    """

    diagonal: jax.Array
    factor: jax.Array

    def __init__(self, diagonal: Any, factor: Any):
        object.__setattr__(self, "diagonal", floating(diagonal, "diagonal"))
        object.__setattr__(self, "factor", floating(factor, "factor"))

    def __matmul__(self, y: jax.Array) -> jax.Array:
        return self.diagonal * y + self.factor @ (self.factor.T @ y)

    def dense(self) -> jax.Array:
        return diagonal_matrix(self.diagonal) + self.factor @ self.factor.T

    @property
    def ndim(self) -> int:
        return 2

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.diagonal.shape, *self.factor.shape[:-1])


@pytree(callables=("function",))
@dataclass(frozen=True, eq=False)
class SymmetricMap:
    """The matrix `P` of which only the product `function(v) = P v` is known. Internal."""

    function: Callable[[jax.Array], jax.Array]
    ndim = 2

    def __matmul__(self, y: jax.Array) -> jax.Array:
        return self.function(y)


@pytree()
@dataclass(frozen=True, eq=False)
class Quadratic:
    """A quadratic objective, `f(y) = y'Py/2 + q'y`.

    Arguments:
        P: positive semidefinite, shape `(n, n)` (an array, a scipy.sparse matrix, a `BCOO` or a `LowRank`), or
            `(n,)` for a diagonal matrix, or `None` for a linear program. Only its symmetric part matters. Or the
            linear function `v -> P v` of a symmetric one, whose matrix is formed only up to 3e7 entries.
        q: shape `(n,)`.

    Raises `TypeError` where an entry is not a real number; shapes are checked when the problem is solved.

    >>> import kkt_solvers as kkt
    >>> kkt.Quadratic([2.0, 4.0], [-1.0, 0.0])(jax.numpy.ones(2))
    Array(2., dtype=float32)
    """

    P: Matrix | LowRank | SymmetricMap | None
    q: jax.Array

    def __init__(self, P: Any, q: Any):
        if callable(P):
            P = SymmetricMap(cast("Callable[[jax.Array], jax.Array]", P))
        elif P is not None and not isinstance(P, (LowRank, SymmetricMap)):
            P = matrix(P, "P")
        object.__setattr__(self, "P", P)
        object.__setattr__(self, "q", floating(q, "q"))

    def __call__(self, y: jax.Array) -> jax.Array:
        return jnp.vdot(y, 0.5 * self.hessian_product(y) + self.q)

    def gradient(self, y: jax.Array) -> jax.Array:
        return self.hessian_product(y) + self.q

    def hessian_product(self, y: jax.Array) -> jax.Array:
        if self.P is None:
            return jnp.zeros_like(y)
        if isinstance(self.P, jax.Array) and self.P.ndim == 1:
            return self.P * y
        return self.P @ y

    def diagonal(self) -> jax.Array:
        """The diagonal of `P`; of a function the mean of it, estimated from one vector of random signs."""
        if self.P is None:
            return jnp.zeros_like(self.q)
        if isinstance(self.P, SymmetricMap):
            signs = jax.random.rademacher(jax.random.key(0), self.q.shape, self.q.dtype)
            return jnp.full_like(self.q, jnp.vdot(signs, self.P @ signs) / max(self.q.size, 1))
        return diagonal(self.P)


@pytree(callables=("phi", "minimiser", "complement", "log_slope"))
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
        log_slope: `log_slope(z, theta)`, the logarithm of the derivative of `minimiser` in `z`, which says that the
            objective is *steep*: the box is bounded, `phi'` is infinite on both of its ends (so that no bound is ever
            active) and depends on `theta` by terms that are finite there, and `minimiser` is the inverse of `phi'` on
            all of the box, with both derivatives of `log_slope` in `z` at most 1 in size, as for entropies. One
            equality is then solved for in few sweeps, and differentiated exactly even where every slope underflows.
            Needs `complement`.

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
    log_slope: Callable[..., jax.Array] | None

    def __init__(self, phi: Any, theta: Any = (), minimiser: Any = None, complement: Any = None, log_slope: Any = None):
        functions = {"phi": phi, "minimiser": minimiser, "complement": complement, "log_slope": log_slope}
        for name, function in functions.items():
            if not callable(function) and (name == "phi" or function is not None):
                raise TypeError(f"{name} must be an elementwise function of (y, theta), got {type(function).__name__}")
        if complement is not None and minimiser is None:
            raise ValueError("complement needs a minimiser: pass both or neither")
        if log_slope is not None and complement is None:
            raise ValueError("log_slope needs a complement: pass both or neither")
        object.__setattr__(self, "phi", phi)
        object.__setattr__(self, "theta", floating_tree(theta, "theta"))
        object.__setattr__(self, "minimiser", minimiser)
        object.__setattr__(self, "complement", complement)
        object.__setattr__(self, "log_slope", log_slope)

    def __call__(self, y: jax.Array) -> jax.Array:
        return jnp.sum(self.phi(y, self.theta))

    def gradient(self, y: jax.Array) -> jax.Array:
        return elementwise_derivative(self.phi, y, self.theta)

    @property
    def steep(self) -> bool:
        """Whether no bound is ever active: see `log_slope`."""
        return self.log_slope is not None


@pytree(callables=("function",), static=("unravel",))
@dataclass(frozen=True, eq=False)
class Smooth:
    """A user's `function(y, *args)` of a pytree `y`, as a function of the flat vector. Internal."""

    function: Callable[..., jax.Array]
    args: tuple[Any, ...]
    unravel: Callable[[jax.Array], Any]

    def __call__(self, y: jax.Array) -> jax.Array:
        return self.function(self.unravel(y), *self.args)

    def gradient(self, y: jax.Array) -> jax.Array:
        return jax.grad(self.__call__)(y)


# What solvers and the derivative see: `__call__` and `gradient` on flat vectors.
Objective = Quadratic | Separable | Smooth


def is_linear(objective: Objective) -> bool:
    return isinstance(objective, Quadratic) and objective.P is None


def hessian_product(objective: Objective, y: jax.Array, v: jax.Array) -> jax.Array:
    if isinstance(objective, Quadratic):
        return objective.hessian_product(v)
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
    P = objective.P if isinstance(objective, Quadratic) else None
    if isinstance(objective, Quadratic) and isinstance(P, jax.Array) and P.ndim == 1:
        # A flat coordinate has a minimiser all the same, with a curvature that is nothing beside the others.
        size, slope = jnp.max(P, initial=0), jnp.max(jnp.abs(objective.q), initial=0)
        size = where(size > 0, size, slope)
        least = jnp.finfo(size.dtype).eps * where(size > 0, size, 1.0)
        curvature = where(P < 0, P, jnp.maximum(P, least))
        return Separable(_diagonal_phi, (curvature, objective.q), _diagonal_minimiser)
    return None


def diagonal(P: Any) -> jax.Array:
    """The diagonal of a matrix: dense, a vector (which it is), sparse or `LowRank`."""
    if isinstance(P, LowRank):
        return P.diagonal + jnp.sum(P.factor * P.factor, axis=1)
    if isinstance(P, BCOO):
        row, column = P.indices.T
        return jnp.zeros(P.shape[0], P.dtype).at[row].add(where(row == column, P.data, 0))
    return P if P.ndim == 1 else diagonal_of(P)


def column_sizes(P: Any, d: jax.Array) -> jax.Array:
    """The largest absolute entry of each column of `diag(d) P diag(d)`, or a bound of it."""
    if P is None or isinstance(P, SymmetricMap):  # whose entries are not to be seen
        return jnp.zeros_like(d)
    if isinstance(P, LowRank):  # positive semidefinite: |P_ij|^2 <= P_ii P_jj
        root = d * jnp.sqrt(jnp.abs(P.diagonal) + jnp.sum(P.factor**2, axis=1))
        return root * jnp.max(root, initial=0)
    return jnp.abs(P) * d * d if P.ndim == 1 else d * largest_entries(P, 0, d)


def scaled_hessian(P: Any, d: jax.Array, c: jax.Array) -> Any:
    """`c diag(d) P diag(d)`, of the same structure as `P`."""
    if P is None:
        return None
    if isinstance(P, LowRank):
        return LowRank(c * d * d * P.diagonal, jnp.sqrt(c) * d[:, None] * P.factor)
    if isinstance(P, SymmetricMap):
        return SymmetricMap(lambda v: c * d * (P @ (d * v)))
    return c * d * d * P if P.ndim == 1 else scaled_matrix(c * d, P, d)
