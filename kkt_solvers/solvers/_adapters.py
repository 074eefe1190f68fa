"""Solvers of other libraries. Their points are certified and differentiated like those of our own solvers."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from kkt_solvers.conditions.multipliers import complete_dual
from kkt_solvers.conditions.residuals import default_tolerance, residuals
from kkt_solvers.data.inequality import linearised, settled
from kkt_solvers.data.objectives import Quadratic
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.solution import Dual, Status
from kkt_solvers.numerics.arrays import longer
from kkt_solvers.numerics.batches import one_by_one
from kkt_solvers.solvers._base import Solver
from kkt_solvers.solvers.interior_point import polished

Result = tuple[jax.Array, Dual, jax.Array, jax.Array]


def _finished(
    problem: FlatProblem, y: jax.Array, dual: Dual | None, iterations: jax.Array, tol: float, polish: bool
) -> Result:
    complete = complete_dual(problem, y, dual)
    smallest = residuals(linearised(problem, y), y, complete).largest
    if polish:
        largest = jnp.where(jnp.isfinite(smallest), smallest, jnp.inf)
        y, complete, smallest = polished(problem, y, complete, largest)
    claim = jnp.where(smallest <= tol, Status.SOLVED, Status.MAX_ITERATIONS)
    return y, complete, iterations, claim


def _settings(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The options as a hashable value, which `jit` needs to find compiled code again."""
    settings = tuple(sorted(options.items()))
    try:
        hash(settings)
    except TypeError as error:
        raise TypeError(f"options must be hashable (numbers, strings, functions), got {options}") from error
    return settings


@dataclass(frozen=True, init=False)
class Jaxopt(Solver):
    """A solver of jaxopt, by its name.

    | name | for |
    |---|---|
    | `BoxOSQP`, `OSQP` | `Quadratic` with a matrix `P`, any equality, any box |
    | `EqualityConstrainedQP` | the same without bounds |
    | `LBFGSB` | any smooth objective over a box; no equality |
    | `LBFGS`, `BFGS`, `NonlinearCG`, `GradientDescent` | any smooth objective; no equality, no bounds |
    | `ProjectedGradient` | any smooth objective, any equality, any box (in one round: see `kkt.ProjectedGradient`) |

    jaxopt only finds the point; the derivative is that of the KKT conditions. A point that violates a bound is not
    `SOLVED`, whether or not the solver knew of the bound.

    Arguments:
        name: of the class in jaxopt.
        tol: largest relative KKT residual of a `SOLVED` point; `None` for the default of the dtype. jaxopt gets a
            tenth of it as its own tolerance.
        polish: whether to solve for the active set of the point that jaxopt finds.
        options: other arguments of the class, such as `maxiter`.

    Raises `ValueError` for a name that is not in the table and for a problem that the solver cannot take.

    >>> import kkt_solvers as kkt
    >>> problem = kkt.Problem(kkt.Quadratic([[2.0, 1.0], [1.0, 2.0]], [-3.0, 0.0]), kkt.Sum(1.0), kkt.Box(0.0, 2.0))
    >>> kkt.solve(problem, solver=kkt.Jaxopt("BoxOSQP")).primal.tolist()
    [1.00, 0.00]
    """

    name: str
    tol: float | None
    polish: bool
    options: tuple[tuple[str, Any], ...]
    takes: ClassVar[tuple[str, ...]] = ("linear",)

    def __init__(self, name: str, *, tol: float | None = None, polish: bool = True, **options: Any):
        if name not in _FITS:
            raise ValueError(f"name must be one of {', '.join(_FITS)}, got {name!r}")
        for field, value in (("name", name), ("tol", tol), ("polish", polish), ("options", _settings(options))):
            object.__setattr__(self, field, value)

    def run(self, problem: FlatProblem, init: jax.Array, dual: Dual | None = None) -> Result:
        return one_by_one(self._run, everywhere=True)(problem, init)  # the conditions of line searches compute

    def _run(self, problem: FlatProblem, init: jax.Array) -> Result:
        from kkt_solvers.solvers import _jaxopt

        tol = default_tolerance(init.dtype) if self.tol is None else self.tol
        options = {"tol": 0.1 * tol, **dict(self.options)}
        kind = _FITS[self.name]
        objective, m = problem.objective, problem.equality.target.size
        if kind == "quadratic" and not isinstance(objective, Quadratic):
            raise ValueError(f"{self.name} takes a Quadratic objective only; use Jaxopt('ProjectedGradient')")
        if kind != "quadratic" and problem.slacks:
            raise ValueError(
                f"{self.name} takes no inequality; use kkt.InteriorPoint(), or Jaxopt('OSQP') for a Quadratic"
            )
        if kind in ("bounds", "free") and m:
            raise ValueError(
                f"{self.name} takes no equality; use Jaxopt('ProjectedGradient'), or Jaxopt('BoxOSQP') for a Quadratic"
            )
        found, iterations = _jaxopt.run(self.name, kind, problem, init, options)
        if kind == "quadratic":
            y, nu, slope = found
            dual = Dual(nu.reshape(problem.equality.target.shape), jnp.maximum(-slope, 0), jnp.maximum(slope, 0))
        else:
            y, dual = found, None
        y = jnp.clip(y, problem.box.lower, problem.box.upper) if kind == "quadratic" else y
        return _finished(problem, y, dual, iterations, tol, self.polish)


_FITS = {
    "BoxOSQP": "quadratic",
    "OSQP": "quadratic",
    "EqualityConstrainedQP": "quadratic",
    "LBFGSB": "bounds",
    "LBFGS": "free",
    "BFGS": "free",
    "NonlinearCG": "free",
    "GradientDescent": "free",
    "ProjectedGradient": "set",
}


@dataclass(frozen=True, init=False)
class Scipy(Solver):
    """A solver of SciPy, through a host callback: `scipy.optimize.linprog` (HiGHS) for a linear program, else
    `scipy.optimize.minimize`.

    It runs in float64 on the host, under `jit` too; `vmap` runs it for one instance after the other. It is slow, and
    useful as an independent check.

    Arguments:
        method: of `linprog` (`"highs"`, ...) or `minimize` (`"trust-constr"`, `"SLSQP"`, ...); `None` for `"highs"` for
            a linear program, else `"SLSQP"`.
        tol: largest relative KKT residual of a `SOLVED` point; `None` for the default of the dtype.
        polish: whether to solve for the active set of the point that SciPy finds.
        options: for the method, such as `maxiter`.

    >>> import kkt_solvers as kkt
    >>> problem = kkt.Problem(kkt.Quadratic(None, [1.0, 2.0, 0.0]), kkt.Sum(1.0), kkt.Box(0.0, 0.75))
    >>> kkt.solve(problem, solver=kkt.Scipy()).primal.tolist()
    [0.25, 0.00, 0.75]
    """

    method: str | None
    tol: float | None
    polish: bool
    options: tuple[tuple[str, Any], ...]
    takes: ClassVar[tuple[str, ...]] = ("linear", "convex")

    def __init__(self, method: str | None = None, *, tol: float | None = None, polish: bool = True, **options: Any):
        for field, value in (("method", method), ("tol", tol), ("polish", polish), ("options", _settings(options))):
            object.__setattr__(self, field, value)

    def run(self, problem: FlatProblem, init: jax.Array, dual: Dual | None = None) -> Result:
        objective, (lower, upper) = problem.objective, (problem.box.lower, problem.box.upper)
        tol = default_tolerance(init.dtype) if self.tol is None else self.tol
        rows = linearised(problem, init)
        A, b = rows.rows.dense(), jnp.ravel(rows.equality.target)
        linear = problem.is_quadratic and isinstance(objective, Quadratic) and objective.P is None
        like = jax.ShapeDtypeStruct(init.shape, init.dtype)
        out = like, jax.ShapeDtypeStruct(b.shape, b.dtype), like, like, jax.ShapeDtypeStruct((), jnp.int32)
        if isinstance(objective, Quadratic) and linear:
            found = jax.pure_callback(self._linprog, out, objective.q, A, b, lower, upper, vmap_method="sequential")
        else:
            found = jax.pure_callback(self._minimize, out, problem, A, b, init, vmap_method="sequential")
        y, nu, zl, zu, iterations = found
        dual = Dual(nu.reshape(problem.equality.target.shape), zl, zu) if linear else None
        y = settled(problem, jnp.clip(y, lower, upper))
        return _finished(problem, y, dual, iterations, tol, self.polish)

    def _linprog(self, q: Any, A: Any, b: Any, lower: Any, upper: Any) -> tuple[Any, ...]:
        dtype = np.asarray(q).dtype
        q, A, b, lower, upper = (np.asarray(part, float) for part in (q, A, b, lower, upper))
        equality = {"A_eq": A, "b_eq": b} if b.size else {}
        found = scipy.optimize.linprog(
            q, bounds=np.stack([lower, upper], 1), method=self.method or "highs", options=dict(self.options), **equality
        )
        if found.x is None:
            nothing = np.full(q.shape, np.nan)
            return _cast(dtype, found.nit, nothing, np.full(b.shape, np.nan), nothing, nothing)
        # SciPy's marginals are the derivatives of the optimal value in b and in the bounds.
        nu = -found.eqlin.marginals if b.size else b
        return _cast(dtype, found.nit, found.x, nu, found.lower.marginals, -found.upper.marginals)

    def _minimize(self, problem: FlatProblem, A: Any, b: Any, init: Any) -> tuple[Any, ...]:
        dtype, n = np.asarray(init).dtype, init.size - problem.slacks
        A, b, lower, upper, init = (
            np.asarray(part, float) for part in (A, b, problem.box.lower, problem.box.upper, init)
        )
        m = b.size - problem.slacks

        def lifted(y: np.ndarray) -> jax.Array:
            """The point, its slack variables zero."""
            return longer(jnp.asarray(y, dtype), after=problem.slacks)

        def value_and_slope(y: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = _value_and_slope(problem.objective, lifted(y))
            return float(value), np.asarray(slope, float)[:n]

        def values(y: np.ndarray) -> np.ndarray:
            return np.asarray(_rows(problem, lifted(y)), float)[m:]

        def jacobian(y: np.ndarray) -> np.ndarray:
            return np.asarray(_jacobian(problem, lifted(y)), float)[m:, :n]

        optimize: Any = scipy.optimize
        constraints: list[Any] = [optimize.LinearConstraint(A[:m, :n], b[:m], b[:m])] if m else []
        if problem.slacks:  # a free slack variable is no constraint
            most = np.where(np.isfinite(np.asarray(problem.box.lower[n:])), 0.0, np.inf)
            constraints.append(optimize.NonlinearConstraint(values, -np.inf, most, jac=jacobian))
        found = optimize.minimize(
            value_and_slope,
            np.clip(init, lower, upper)[:n],
            jac=True,
            method=self.method or "SLSQP",
            bounds=optimize.Bounds(lower[:n], upper[:n]),
            constraints=constraints,
            options=dict(self.options),
        )
        zero = np.zeros(init.shape)
        return _cast(dtype, found.nit, np.pad(found.x, (0, problem.slacks)), np.zeros(b.shape), zero, zero)


def _cast(dtype: Any, iterations: Any, *arrays: Any) -> tuple[Any, ...]:
    return (*(np.asarray(array, dtype) for array in arrays), np.asarray(iterations, np.int32))


@jax.jit
def _rows(problem: FlatProblem, x: jax.Array) -> jax.Array:
    return problem.equality.residual(x)


@jax.jit
def _jacobian(problem: FlatProblem, x: jax.Array) -> jax.Array:
    return linearised(problem, x).rows.dense()


@jax.jit
def _value_and_slope(objective: Any, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return objective(y), objective.gradient(y)
