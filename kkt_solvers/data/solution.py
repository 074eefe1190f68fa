"""What comes back: `Solution`, its `Dual`, `Residuals` and `Status`."""

import dataclasses
import enum
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from kkt_solvers.numerics.pytree import pytree


class Status(enum.IntEnum):
    """How a solve ended, one per instance; an integer array under `jax.vmap`. `Status(int(s)).message` says it in
    words."""

    SOLVED = 0
    MAX_ITERATIONS = 1
    PRIMAL_INFEASIBLE = 2
    DUAL_INFEASIBLE = 3
    INVALID = 4
    NUMERICAL_ERROR = 5
    INACCURATE = 6

    @property
    def message(self) -> str:
        return _MESSAGES[self]


_MESSAGES = {
    Status.SOLVED: "solved: the KKT residuals are below the tolerance",
    Status.MAX_ITERATIONS: (
        "stopped before the KKT residuals reached the tolerance; the best point is returned and its derivative is "
        "that of the KKT conditions there. Allow more iterations, loosen `tol` or choose another solver"
    ),
    Status.PRIMAL_INFEASIBLE: (
        "no point satisfies all of the constraints; derivatives are NaN, and primal is NaN or a part of the proof"
    ),
    Status.DUAL_INFEASIBLE: "the objective is unbounded below on the feasible set; derivatives are NaN",
    Status.INVALID: (
        "the data are not those of a convex problem (a NaN, an infinite coefficient, lower > upper, or an objective "
        "or inequality found not to be convex; an inequality is at most zero where it holds); results are NaN"
    ),
    Status.NUMERICAL_ERROR: (
        "the point is not finite or is far from satisfying the KKT conditions; derivatives are NaN. Check that the "
        "objective is finite at the starting point and attains its infimum, or choose another solver"
    ),
    Status.INACCURATE: (
        "the KKT residuals stopped falling before they reached the tolerance, mostly because rounding allows no more; "
        "the best point is returned and its derivative is that of the KKT conditions there. Compute in float64 "
        "(jax_enable_x64), loosen `tol`, or check that the objective attains its infimum"
    ),
}


def is_differentiable(status: jax.Array) -> jax.Array:
    """Whether derivatives are numbers; under all other statuses they are NaN."""
    return (status == Status.SOLVED) | (status == Status.MAX_ITERATIONS) | (status == Status.INACCURATE)


@pytree()
@dataclass(frozen=True, eq=False)
class Dual:
    """The multipliers in `L = f(y) + nu'(A y - b) + lam'g(y) - zl'(y - l) + zu'(y - u)`, with `lam, zl, zu >= 0`.

    Fields: `equality` is `nu`, like `b` (or like the residual of an equality given as a function; `None` without
    equality); `lower` and `upper` are `zl` and `zu`, like `y`; `inequality` is `lam`, like `h` or like the value of `g`
    (`None` without inequalities). So `d f* / d b = -nu` and `d f* / d h = -lam`.
    """

    equality: Any
    lower: Any
    upper: Any
    inequality: Any = None


@pytree()
@dataclass(frozen=True, eq=False)
class Residuals:
    """Relative KKT residuals, computed from problem and point alone, not by the solver.

    Each is relative to the terms that cancel in it: the data may be in cents or in millions. All are infinite where
    something is not a finite number.

    - `stationarity`: `|grad f + A'nu - zl + zu|`, relative to its largest term: `|P y|`, `|q|`, `|A'nu|` or
      `|zu - zl|`, in the infinity norm. For an objective given as a function `|H S y|` and `|grad f|` stand for the
      first two, with `H` its Hessian and `S` a diagonal of signs. For a separable objective: `|y - psi(-A'nu)|`
      relative to `|y|`, with `psi` the elementwise minimiser over the box, which stays meaningful where `grad f` is
      infinite.
    - `equality`: the largest of the rows' `|A y - b|`, each relative to `|b|` or `|A| |y|` of its own row.
    - `box`: the violation of a bound, relative to the sizes of that bound and of `y`.
    - `complementarity`: `sum_i zl_i (y_i - l_i) + zu_i (u_i - y_i)` in absolute value, relative to the size of the
      objective: `|f(y)|` or the sum of `|y_i|` times the largest term of coordinate i in the stationarity condition.
      The products of inequalities, `lam_i g_i(y)`, are in the sum. So is the size of a multiplier of the wrong sign.
    - `gap`: `|grad f'y + b'nu - l'zl + u'zu|`, the duality gap of a linear or quadratic program, relative to the same
      size. Zero for a separable objective, where the other four bound it.
    - `inequality`: the largest `max(g, 0)`, each relative to `|h|` or `|G| |y|` of its own row; for an inequality given
      as a function `G` is its Jacobian at `y`, and `h = G y - g(y)`. `None` without inequalities.
    """

    stationarity: jax.Array
    equality: jax.Array
    box: jax.Array
    complementarity: jax.Array
    gap: jax.Array
    inequality: jax.Array | None = None

    @property
    def largest(self) -> jax.Array:
        """The largest of them."""
        parts = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return functools.reduce(jnp.maximum, [part for part in parts if part is not None])


@pytree()
@dataclass(frozen=True, eq=False)
class Solution:
    """A point, its multipliers, and what they are worth.

    `primal` (like `y`), `dual` and `objective` carry the derivative of the KKT conditions with respect to every
    leaf of the problem. `status` (a `Status` as an integer), `residuals` and `iterations` do not.

    Where there is no solution, it holds the proof, checked, its largest entry one:

    - `PRIMAL_INFEASIBLE`: `dual` is a ray, `A'nu = zl - zu` with `l'zl - u'zu - b'nu > 0` (Farkas), `objective` is inf
      and `primal` NaN. With inequalities the ray has `lam >= 0` too, and `lam'g(y) + nu'(A y - b) > 0` on the box. For
      a `g` that is a function, `primal` is the point whose linearisation of `g` proves it.
    - `DUAL_INFEASIBLE`: `primal` is a ray, a direction of the box with `A y = 0`, `P y = 0` and `q'y < 0`, along which
      the objective falls without end; `objective` is -inf.
    """

    primal: Any
    dual: Dual
    objective: jax.Array
    status: jax.Array
    residuals: Residuals
    iterations: jax.Array

    def raise_if_failed(self) -> "Solution":
        """The solution itself if every instance is `SOLVED`, else a `RuntimeError` in words. Not under `jit`."""
        if isinstance(self.status, jax.core.Tracer):
            raise TypeError("raise_if_failed needs concrete values; under jit or vmap inspect `status` instead")
        codes = [Status(int(code)) for code in jnp.ravel(self.status)]
        failed = {index: code for index, code in enumerate(codes) if code != Status.SOLVED}
        if failed:
            where = f"{len(failed)} of {len(codes)} instances, first at {min(failed)}: " if len(codes) > 1 else ""
            first = failed[min(failed)]
            raise RuntimeError(f"{where}{first.name}: {first.message}")
        return self
