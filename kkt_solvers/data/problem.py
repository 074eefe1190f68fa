"""`Problem` and its parts: data only, no algorithm."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kkt_solvers.data.constraints import AtMost, Curved, Equality
from kkt_solvers.data.matrices import as_matrix
from kkt_solvers.data.matrix import Matrix
from kkt_solvers.data.objectives import Objective, Quadratic
from kkt_solvers.numerics.arrays import floating, floating_tree
from kkt_solvers.numerics.pytree import pytree


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


@pytree(callables=("objective", "equality", "inequality"))
@dataclass(frozen=True, eq=False)
class Problem:
    """A convex problem with affine equality constraints, convex inequality constraints and a box:

        minimise f(y, *args)    subject to    A y = b,    g(y, *args) <= 0,    lower <= y <= upper.

    A `Problem` is a pytree whose arrays are its leaves: it can be jitted, vmapped and differentiated like an array.

    Arguments:
        objective: a convex differentiable `f(y, *args)` with a scalar value, or a `Quadratic` or `Separable`.
        equality: `None`, an `Affine`, a `Sum`, or any affine function `h(y, *args)`, whose value (an array or a
            pytree of arrays) is zero at a feasible point.
        box: a `Box`.
        args: a tuple of pytrees, handed to `f`, `h` and `g` after `y`, and differentiable.
        inequality: `None`, an `AtMost`, or any function `g(y, *args)` that is convex and twice differentiable, whose
            value (an array or a pytree of arrays) is at most zero at a feasible point.

    >>> import jax, kkt_solvers as kkt
    >>> problem = kkt.Problem(kkt.Quadratic([1.0, 1.0], [-3.0, 0.0]), kkt.Sum(1.0), kkt.Box(0.0, 1.0))
    >>> jax.grad(lambda problem: kkt.solve(problem).objective)(problem).objective.q
    Array([1., 0.], dtype=float32)
    """

    objective: Callable[..., Any]
    equality: Any
    box: Box
    args: tuple[Any, ...]
    inequality: Any

    def __init__(
        self, objective: Any, equality: Any = None, box: Box | None = None, args: Any = (), inequality: Any = None
    ):
        if not callable(objective):
            raise TypeError(
                f"objective must be a function f(y, *args), a Quadratic or a Separable, got {type(objective).__name__}"
            )
        if isinstance(equality, AtMost):
            raise TypeError("equality is an AtMost, an inequality; pass it as inequality=")
        if equality is not None and not isinstance(equality, Equality) and not callable(equality):
            raise TypeError(
                "equality must be None, an Affine, a Sum or an affine function h(y, *args), "
                f"got {type(equality).__name__}"
            )
        if isinstance(inequality, Equality):
            raise TypeError(f"inequality is an equality, {type(inequality).__name__}; pass AtMost(G, h) for G y <= h")
        if inequality is not None and not isinstance(inequality, AtMost) and not callable(inequality):
            raise TypeError(
                "inequality must be None, an AtMost or a convex function g(y, *args) that is at most zero where it "
                f"holds, got {type(inequality).__name__}"
            )
        box = Box() if box is None else box
        if not isinstance(box, Box):
            raise TypeError(f"box must be a Box, got {type(box).__name__}; write kkt.Box(lower, upper)")
        if not isinstance(args, tuple):
            raise TypeError(f"args must be a tuple, got {type(args).__name__}; write args=(value,)")
        args = jax.tree.map(_number, args)
        for name, function in (("objective", objective), ("equality", equality), ("inequality", inequality)):
            if not isinstance(function, (Objective, Equality, AtMost, NoneType)):
                _check_arguments(function, name, args)
        object.__setattr__(self, "objective", objective)
        object.__setattr__(self, "equality", equality)
        object.__setattr__(self, "box", box)
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "inequality", inequality)


@pytree(static=("slacks",))
@dataclass(frozen=True, eq=False)
class FlatProblem:
    """A problem as solvers and the derivative see it: a vector, and every array of one dtype.

    Inequalities have slack variables: the vector is `x = (y, s)`, the last rows of the equality are `g(y) + s = 0`, and
    the bounds of `s` are zero and infinity.

    Fields: `objective`, with `objective(x)` and `objective.gradient(x)`; `equality`, with `equality.residual(x)`,
    `equality.pullback(x, nu)` (the gradient of `nu'residual`), `equality.target` and, unless it is a `Curved` (see
    `linearised`), `equality.product(x)`, `equality.adjoint(nu)` and `equality.rows(n)` (an `Affine` without rows where
    there is none); `box`, whose bounds are vectors; `natural`, sizes of `x` and of each coordinate from the data alone
    (`None` where they are not known: see `sizes`); `slacks`, how many of the coordinates are slack variables.
    """

    objective: Objective
    equality: Any  # an `Affine`, a `Sum`, an `Operator` or a `Curved`
    box: Box
    natural: Any = None
    slacks: int = 0

    @property
    def is_quadratic(self) -> bool:
        """Whether it is a quadratic or linear program."""
        return isinstance(self.objective, Quadratic) and not isinstance(self.equality, Curved)

    @property
    def rows(self) -> Matrix:
        """The matrix of the equality, by structure."""
        return as_matrix(self.equality.rows(self.box.lower.size))


def _check_arguments(function: Any, name: str, args: tuple[Any, ...]) -> None:
    try:
        signature = inspect.signature(function, follow_wrapped=False)  # a wrapper may add or drop some
    except (TypeError, ValueError):  # some builtins have none
        return
    try:
        signature.bind(None, *args)
    except TypeError:
        raise TypeError(
            f"{name} must take y and each of the {len(args)} args, got a function of {signature}; objective, equality "
            "and inequality get the same args"
        ) from None


def _number(leaf: Any) -> Any:
    """Python numbers become arrays, so that a gradient with respect to them exists; arrays keep their dtype."""
    if isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
        return floating(leaf, "args")
    if isinstance(leaf, (str, bytes)):
        raise TypeError(f"args must hold numbers and arrays, got the text {leaf!r}; close over options instead")
    return jnp.asarray(leaf) if isinstance(leaf, (np.ndarray, np.generic)) else leaf
