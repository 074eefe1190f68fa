"""Geometric programs [boyd2007].

    min_x  f(x)        s.t.  g_i(x) <= 1,   h_j(x) = 1,   x > 0

with posynomials f, g_i, that is sums `sum_k c_k prod_l x_l^(a_kl)` with `c_k > 0`, and monomials h_j, posynomials of
one term. In the logarithms `y = log x` the problem is convex,

    min_y  log f(exp y)   s.t.   log g_i(exp y) <= 0,   log h_j(exp y) = 0,

as the logarithm of a posynomial is a log-sum-exp of affine functions of y. A multiplier is a sensitivity in percent: if
the right-hand side of `g_i <= 1` is raised by one percent, the optimal value falls by `lam_i` percent.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from kkt_solvers import Affine, Box, Problem, solve
from kkt_solvers.numerics.arrays import cast, float_dtype, full_precision
from kkt_solvers.problems import _checks


class Posynomial(NamedTuple):
    """`sum_k coefficients_k prod_l x_l^(exponents_kl)`; a monomial, if it has one term.

    Arguments:
        coefficients: positive, shape `(terms,)`.
        exponents: real numbers, shape `(terms, n)`.

    >>> from kkt_solvers.problems import Posynomial
    >>> Posynomial(jnp.array([2.0, 1.0]), jnp.array([[1.0, 0.0], [0.0, -1.0]]))(jnp.array([3.0, 2.0])).item()
    6.5
    """

    coefficients: Any
    exponents: Any

    def __call__(self, x: Any) -> jax.Array:
        return jnp.exp(_logarithm(self, jnp.log(x)))


def GeometricProgram(
    objective: Posynomial, inequalities: Sequence[Posynomial] = (), equalities: Sequence[Posynomial] = ()
) -> Problem:
    """The geometric program as a `Problem` in the logarithms of its variables.

    Arguments:
        objective: a `Posynomial`, to be minimised.
        inequalities: a `Posynomial` each, at most one.
        equalities: a monomial each, equal to one.

    `dual.inequality` has a sensitivity for each inequality, in a vector.

    Raises `ValueError` for shapes that do not fit, for coefficients that are not positive, and for an equality of
    several terms.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import GeometricProgram, Posynomial
    >>> cost, need = Posynomial([1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]]), Posynomial([4.0], [[-1.0, -1.0]])
    >>> solution = kkt.solve(GeometricProgram(cost, [need]))  # x1 + x2, where x1 x2 >= 4
    >>> jnp.exp(solution.primal).tolist(), solution.dual.inequality[0].tolist()
    ([2.00, 2.00], 0.50)
    """
    n = _checks.matrix_of(objective.exponents, "the exponents of objective", "a term in each row").shape[1]
    objective = _checked(objective, "objective", n)
    inequalities = tuple(_checked(each, f"inequalities[{i}]", n) for i, each in enumerate(inequalities))
    equalities = tuple(_checked(each, f"equalities[{j}]", n) for j, each in enumerate(equalities))
    for j, each in enumerate(equalities):
        if len(each.coefficients) != 1:
            raise ValueError(f"equalities[{j}] must be a monomial, of one term, got {len(each.coefficients)}")
    dtype = float_dtype(objective, inequalities, equalities)
    objective, inequalities, equalities = cast((objective, inequalities, equalities), dtype)
    affine = None
    if equalities:
        A = jnp.concatenate([each.exponents for each in equalities])
        affine = Affine(A, -jnp.log(jnp.concatenate([each.coefficients for each in equalities])))
    box = Box(jnp.full(n, -jnp.inf, dtype))  # no bound; it tells the number of variables
    stack = _stacked(inequalities) if inequalities else None
    return Problem(_log_objective, affine, box, (objective, stack), _log_values if inequalities else None)


def geometric_program(
    objective: Posynomial, inequalities: Sequence[Posynomial] = (), equalities: Sequence[Posynomial] = ()
) -> jax.Array:
    """The variables of a geometric program, `(n,)`, positive, differentiable in every coefficient and exponent.

    Arguments: as for `GeometricProgram`. Batches go through `jax.vmap`. NaN where the program was not solved.

    >>> from kkt_solvers.problems import Posynomial, geometric_program
    >>> cost, need = Posynomial([1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]]), Posynomial([4.0], [[-1.0, -1.0]])
    >>> geometric_program(cost, [need]).tolist()
    [2.00, 2.00]

    Source: [boyd2007].
    """
    return jnp.exp(_checks.solved(solve(GeometricProgram(objective, inequalities, equalities))))


@full_precision
def _logarithm(posynomial: Posynomial, y: jax.Array) -> jax.Array:
    """`log` of the posynomial at `exp(y)`."""
    return logsumexp(jnp.log(posynomial.coefficients) + posynomial.exponents @ y)


def _log_objective(y: jax.Array, objective: Posynomial, inequalities: Posynomial) -> jax.Array:
    return _logarithm(objective, y)


@full_precision
def _log_values(y: jax.Array, objective: Posynomial, inequalities: Posynomial) -> jax.Array:
    there = inequalities.coefficients != 0  # the others fill the rows up; a NaN is there
    logs = jnp.where(there, jnp.log(jnp.where(there, inequalities.coefficients, 1.0)), -jnp.inf)
    return logsumexp(logs + inequalities.exponents @ y, axis=1)


def _stacked(posynomials: Sequence[Posynomial]) -> Posynomial:
    """All in one, with a row for each, `(p, terms)` and `(p, terms, n)`; a short one is filled up with zeros. So a
    program of many posynomials is no longer than one of a few."""
    sizes = np.array([len(each.coefficients) for each in posynomials])
    column = np.arange(sizes.max())
    place = np.where(column < sizes[:, None], np.cumsum(sizes)[:, None] - sizes[:, None] + column, sizes.sum())
    parts = (jnp.concatenate(each) for each in zip(*posynomials, strict=True))
    return Posynomial(*(part.at[place].get(mode="fill", fill_value=0) for part in parts))


def _checked(posynomial: Posynomial, name: str, n: int) -> Posynomial:
    coefficients = _checks.vector(posynomial.coefficients, f"the coefficients of {name}", "a factor for each term")
    exponents = _checks.matrix_of(posynomial.exponents, f"the exponents of {name}", "a term in each row")
    if exponents.shape != (coefficients.size, n):
        raise ValueError(
            f"the exponents of {name} must have shape ({coefficients.size}, {n}), a row for each coefficient and a "
            f"column for each variable of the objective, got {exponents.shape}"
        )
    message = f"the coefficients of {name} must be positive, got {coefficients}"
    return Posynomial(_checks.where_valid(coefficients, message, lambda xp, value: value > 0), exponents)
