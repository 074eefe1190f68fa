"""`Problem` and its parts: data only, no algorithm."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from kkt_solvers.data.matrices import as_matrix
from kkt_solvers.data.matrix import Matrix
from kkt_solvers.data.objectives import Objective
from kkt_solvers.numerics.arrays import block_sum, floating, floating_tree, largest, matrix, signs
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


@pytree()
@dataclass(frozen=True, eq=False)
class Box:
    """The bounds `lower <= y <= upper`.

    Arguments:
        lower, upper: scalars, arrays that broadcast to `y`, or pytrees like `y`. Entries may be infinite, and
            equal to each other, which fixes a variable.

    `solve` raises a `ValueError` for a NaN, for `lower > upper`, and for a bound that no number can meet.
    """

    lower: Any
    upper: Any

    def __init__(self, lower: Any = -jnp.inf, upper: Any = jnp.inf):
        object.__setattr__(self, "lower", floating_tree(lower, "lower"))
        object.__setattr__(self, "upper", floating_tree(upper, "upper"))


@pytree(callables=("objective", "equality"))
@dataclass(frozen=True, eq=False)
class Problem:
    """A convex problem with affine equality constraints and a box:

        minimise f(y, *args)    subject to    A y = b,    lower <= y <= upper.

    A `Problem` is a pytree whose arrays are its leaves: it can be jitted, vmapped and differentiated like an array.

    Arguments:
        objective: a convex differentiable `f(y, *args)` with a scalar value, or a `Quadratic` or `Separable`.
        equality: `None`, an `Affine`, a `Sum`, or any affine function `h(y, *args)`, whose value (an array or a
            pytree of arrays) is zero at a feasible point.
        box: a `Box`.
        args: a tuple of pytrees, handed to `f` and `h` after `y`, and differentiable.

    >>> import jax, kkt_solvers as kkt
    >>> problem = kkt.Problem(kkt.Quadratic([1.0, 1.0], [-3.0, 0.0]), kkt.Sum(1.0), kkt.Box(0.0, 1.0))
    >>> jax.grad(lambda problem: kkt.solve(problem).objective)(problem).objective.q
    Array([1., 0.], dtype=float32)
    """

    objective: Callable[..., Any]
    equality: Any
    box: Box
    args: tuple[Any, ...]

    def __init__(
        self, objective: Any, equality: Any = None, box: Box | None = None, args: Any = (), *, inequality: Any = None
    ):
        if inequality is not None:
            raise TypeError(
                "inequality is not taken by Problem: linear ones go to kkt.solve_qp(P, q, G, h), or become equalities "
                "with slack variables, G y + s = h with s >= 0; convex ones can only be added to the objective"
            )
        if not callable(objective):
            raise TypeError(
                f"objective must be a function f(y, *args), a Quadratic or a Separable, got {type(objective).__name__}"
            )
        if equality is not None and not isinstance(equality, Equality) and not callable(equality):
            raise TypeError(
                "equality must be None, an Affine, a Sum or an affine function h(y, *args), "
                f"got {type(equality).__name__}"
            )
        box = Box() if box is None else box
        if not isinstance(box, Box):
            raise TypeError(f"box must be a Box, got {type(box).__name__}; write kkt.Box(lower, upper)")
        if not isinstance(args, tuple):
            raise TypeError(f"args must be a tuple, got {type(args).__name__}; write args=(value,)")
        object.__setattr__(self, "objective", objective)
        object.__setattr__(self, "equality", equality)
        object.__setattr__(self, "box", box)
        object.__setattr__(self, "args", jax.tree.map(_number, args))


@pytree()
@dataclass(frozen=True, eq=False)
class FlatProblem:
    """A problem as solvers and the derivative see it: `y` is a vector, and every array is of one dtype.

    Fields: `objective`, with `objective(y)` and `objective.gradient(y)`; `equality`, with
    `equality.product(y)`, `equality.adjoint(nu)`, `equality.target` and `equality.rows(n)` (an `Affine` without rows
    where there is none); `box`, whose bounds are vectors; `natural`, sizes of `y` and of each coordinate from the data
    alone (`None` where they are not known: see `_residuals`).
    """

    objective: Objective
    equality: Equality | Operator
    box: Box
    natural: Any = None

    @property
    def rows(self) -> Matrix:
        """The matrix of the equality, by structure."""
        return as_matrix(self.equality.rows(self.box.lower.size))


def _number(leaf: Any) -> Any:
    """Python numbers become arrays, so that a gradient with respect to them exists; arrays keep their dtype."""
    if isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
        return floating(leaf, "args")
    if isinstance(leaf, (str, bytes)):
        raise TypeError(f"args must hold numbers and arrays, got the text {leaf!r}; close over options instead")
    return jnp.asarray(leaf) if isinstance(leaf, (np.ndarray, np.generic)) else leaf
