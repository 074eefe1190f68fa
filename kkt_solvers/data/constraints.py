"""Constraints: what a user writes, and how solvers and the derivative see it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from kkt_solvers.data.matrices import Dense, as_matrix
from kkt_solvers.data.matrix import Matrix
from kkt_solvers.data.slacks import WithSlacks
from kkt_solvers.numerics.arrays import block_sum, floating, largest, matrix, signs
from kkt_solvers.numerics.pytree import pytree


@pytree()
@dataclass(frozen=True, eq=False)
class Affine:
    """The equality constraints `A y = b`.

    Arguments:
        A: shape `(m, n)`: an array, a scipy.sparse matrix, a `BCOO`, a `BlockBidiagonal` or a `Marginals`; it acts on
            `y` ravelled, in row-major order.
        b: shape `(m,)`.

    For a linear map that is not a matrix, pass the affine function itself: `Problem(..., equality=h)` with
    `h(y, *args) = A(y) - b`. Up to 3e7 entries its matrix is formed; beyond, `h` and its transpose are called instead,
    for which `PrimalDual` is the solver and `MatrixFreeKKT` the linear system of the derivative.
    """

    A: Any
    b: jax.Array

    def __init__(self, A: Any, b: Any):
        if callable(A):
            raise TypeError("A must be a matrix; for a linear function pass equality=lambda y: A(y) - b instead")
        object.__setattr__(self, "A", A if isinstance(A, Matrix) else matrix(A, "A"))
        object.__setattr__(self, "b", floating(b, "b"))

    @property
    def target(self) -> jax.Array:
        return self.b

    def residual(self, y: jax.Array) -> jax.Array:
        return self.product(y) - self.b

    def pullback(self, y: jax.Array, nu: jax.Array) -> jax.Array:
        return self.adjoint(nu)

    def product(self, y: jax.Array) -> jax.Array:
        return as_matrix(self.A).product(y)

    def adjoint(self, nu: jax.Array) -> jax.Array:
        return as_matrix(self.A).adjoint(nu)

    def rows(self, n: int) -> Any:
        return self.A

    def terms(self, y: jax.Array) -> jax.Array:
        """`|A| |y|`."""
        return as_matrix(self.A).absolute().product(jnp.abs(y))

    def adjoint_terms(self, nu: jax.Array) -> jax.Array:
        return as_matrix(self.A).absolute().adjoint(jnp.abs(nu))

    def row_sizes(self) -> jax.Array:
        """The largest absolute entry of each row."""
        return as_matrix(self.A).largest(1)


@pytree()
@dataclass(frozen=True, eq=False)
class Sum:
    """One equality constraint, `sum_i weights_i y_i = total`.

    Arguments:
        total: a scalar.
        weights: `None` (ones) or an array like `y`; any signs.
    """

    total: jax.Array
    weights: jax.Array | None

    def __init__(self, total: Any, weights: Any = None):
        object.__setattr__(self, "total", floating(total, "total"))
        object.__setattr__(self, "weights", None if weights is None else floating(weights, "weights"))

    @property
    def target(self) -> jax.Array:
        return self.total

    def residual(self, y: jax.Array) -> jax.Array:
        return self.product(y) - self.total

    def pullback(self, y: jax.Array, nu: jax.Array) -> jax.Array:
        return self.adjoint(nu)

    def product(self, y: jax.Array) -> jax.Array:
        return block_sum(y if self.weights is None else self.weights * y)

    def adjoint(self, nu: jax.Array) -> jax.Array:
        return nu if self.weights is None else nu * self.weights

    def rows(self, n: int) -> jax.Array:
        return jnp.ones((1, n), self.total.dtype) if self.weights is None else self.weights[None, :]

    def _absolute(self) -> "Sum":
        return self if self.weights is None else Sum(self.total, jnp.abs(self.weights))

    def terms(self, y: jax.Array) -> jax.Array:
        return self._absolute().product(jnp.abs(y))

    def adjoint_terms(self, nu: jax.Array) -> jax.Array:
        return self._absolute().adjoint(jnp.abs(nu))

    def row_sizes(self) -> jax.Array:
        return jnp.ones(1, self.total.dtype) if self.weights is None else largest(self.weights)[None]


@pytree()
@dataclass(frozen=True, eq=False)
class AtMost:
    """The linear inequality constraints `G y <= h`.

    Arguments:
        G: shape `(p, n)`: an array, a scipy.sparse matrix, a `BCOO` or another matrix that `Affine` takes; it acts on
            `y` ravelled, in row-major order.
        h: shape `(p,)`; an infinite entry is no constraint.

    Raises `ValueError` for an entry of `h` that is NaN or -inf, which no `y` can meet.

    >>> import kkt_solvers as kkt
    >>> problem = kkt.Problem(kkt.Quadratic([1.0, 1.0], [-2.0, -1.0]), inequality=kkt.AtMost([[1.0, 1.0]], [1.0]))
    >>> solution = kkt.solve(problem)
    >>> solution.primal.tolist(), solution.dual.inequality.tolist()
    ([1.00, 0.00], [1.00])
    """

    G: Any
    h: jax.Array

    def __init__(self, G: Any, h: Any):
        if callable(G):
            raise TypeError("G must be a matrix; for a function pass inequality=lambda y: G(y) - h instead")
        object.__setattr__(self, "G", G if isinstance(G, Matrix) else matrix(G, "G"))
        object.__setattr__(self, "h", floating(h, "h"))


Equality = Affine | Sum


@pytree(callables=("function",), static=("unravel", "size"))
@dataclass(frozen=True, eq=False)
class Operator:
    """The equality `function(y, *args) = 0` of an affine function whose matrix is too large to form, on flat vectors.
    Internal; `size` is that of `y`, `target` the function's value at zero with the opposite sign."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    unravel: Callable[[jax.Array], Any]
    size: int
    target: jax.Array

    def residual(self, y: jax.Array) -> jax.Array:
        return ravel_pytree(self.function(self.unravel(y), *self.args))[0]

    def product(self, y: jax.Array) -> jax.Array:
        return jax.jvp(self.residual, (jnp.zeros_like(y),), (y,))[1]

    def adjoint(self, nu: jax.Array) -> jax.Array:
        return jax.vjp(self.residual, jnp.zeros(self.size, nu.dtype))[1](nu)[0]

    def pullback(self, y: jax.Array, nu: jax.Array) -> jax.Array:
        return self.adjoint(nu)

    def rows(self, n: int) -> jax.Array:
        """The matrix all the same, for methods that cannot do without."""
        return jax.jacfwd(self.residual)(jnp.zeros(n, self.target.dtype))

    def terms(self, y: jax.Array) -> jax.Array:
        """`|A S y|`, which is no larger than `|A| |y|`, with a diagonal `S` of signs."""
        return jnp.abs(self.product(signs(y) * y))

    def adjoint_terms(self, nu: jax.Array) -> jax.Array:
        return jnp.abs(self.adjoint(signs(nu) * nu))

    def row_sizes(self) -> jax.Array:
        """Ones: the entries are not to be seen."""
        return jnp.ones(self.target.size, self.target.dtype)


@pytree(callables=("function",), static=("unravel",))
@dataclass(frozen=True, eq=False)
class Curved:
    """The constraints `A y = b` and `scale g(unit y) + slack s = 0` on vectors `x = (y, s)`, `g` convex. Internal.

    `affine` is `A y = b` as a condition on `x`; `function(y, *args)` is `g`.
    """

    affine: Affine
    function: Callable[..., Any]
    args: tuple[Any, ...]
    unravel: Callable[[jax.Array], Any]
    unit: jax.Array
    scale: jax.Array
    slack: jax.Array

    @property
    def target(self) -> jax.Array:
        return jnp.concatenate([jnp.ravel(self.affine.b), jnp.zeros_like(self.slack)])

    def split(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        n = x.size - self.slack.size
        return x[:n], x[n:]

    def values(self, y: jax.Array) -> jax.Array:
        """`scale g(unit y)`."""
        return self.scale * ravel_pytree(self.function(self.unravel(self.unit * y), *self.args))[0]

    def residual(self, x: jax.Array) -> jax.Array:
        y, s = self.split(x)
        return jnp.concatenate([self.affine.residual(x), self.values(y) + self.slack * s])

    def pullback(self, x: jax.Array, nu: jax.Array) -> jax.Array:
        """The gradient of `nu'residual(x)`."""
        own = nu[self.affine.b.size :]
        slope = jax.vjp(self.values, self.split(x)[0])[1](own)[0]
        return self.affine.adjoint(nu[: self.affine.b.size]) + jnp.concatenate([slope, self.slack * own])

    def curvature(self, y: jax.Array, weights: jax.Array) -> jax.Array:
        """The Hessian of `weights'values(y)`."""
        return jax.hessian(lambda y: jnp.vdot(weights, self.values(y)))(y)

    def linearised(self, x: jax.Array) -> Affine:
        """The affine constraints that agree with these at `x` to first order."""
        y, _ = self.split(x)
        p, n = self.slack.size, y.size
        if p <= n:
            g, pull = jax.vjp(self.values, y)
            J = jax.vmap(lambda v: pull(v)[0])(jnp.eye(p, dtype=g.dtype))
        else:
            g, push = jax.linearize(self.values, y)
            J = jax.vmap(push)(jnp.eye(n, dtype=g.dtype)).T
        rows = jnp.concatenate([as_matrix(self.affine.A).dense()[:, :n], J])
        return Affine(WithSlacks(Dense(rows), self.slack), jnp.concatenate([self.affine.b, J @ y - g]))

    def scaled(self, rows: jax.Array, variables: jax.Array) -> "Curved":
        """The same constraints, in other units; all entries of `y` have the same."""
        m, n = self.affine.b.size, variables.size - self.slack.size
        affine = Affine(as_matrix(self.affine.A).scaled(rows[:m], variables), rows[:m] * self.affine.b)
        unit, scale, slack = variables[0] * self.unit, rows[m:] * self.scale, rows[m:] * variables[n:] * self.slack
        return Curved(affine, self.function, self.args, self.unravel, unit, scale, slack)

    def row_sizes(self) -> jax.Array:
        """Those of the affine rows, and ones."""
        return jnp.concatenate([self.affine.row_sizes(), jnp.ones_like(self.slack)])
