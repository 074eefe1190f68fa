"""What a solver is, and what it may ask of a problem."""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from kkt_solvers.data.constraints import Curved
from kkt_solvers.data.objectives import Separable, as_separable
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.data.solution import Dual


class Solver(abc.ABC):
    """A solver of this library: a frozen dataclass of settings, a tolerance `tol` among them.

    A solver of your own need not inherit from it. It is any hashable object with `run`; it sees flat vectors only,
    need not be differentiable, and must be traceable by JAX:

    >>> import jax, jax.numpy as jnp, kkt_solvers as kkt
    >>> class AugmentedLagrangian:
    ...     def run(self, problem, init):
    ...         def residual(y):
    ...             return problem.equality.product(y) - problem.equality.target
    ...         def step(_, state):
    ...             y, nu = state
    ...             slope = problem.objective.gradient(y) + problem.equality.adjoint(nu + residual(y))
    ...             y = jnp.clip(y - 0.2 * slope, problem.box.lower, problem.box.upper)
    ...             return y, nu + 0.2 * residual(y)
    ...         y, nu = jax.lax.fori_loop(0, 300, step, (init, problem.equality.target))
    ...         return y, kkt.Dual(nu, None, None), 300, True
    >>> problem = kkt.Problem(kkt.Quadratic([1.0, 1.0], [-3.0, 0.0]), kkt.Sum(1.0), kkt.Box(0.0, 2.0))
    >>> solution = kkt.solve(problem, solver=AugmentedLagrangian())
    >>> solution.primal.tolist(), float(solution.dual.equality), kkt.Status(int(solution.status)).name
    ([1.00, 0.00], 2.00, 'SOLVED')
    """

    tol: float | None
    takes: ClassVar[tuple[str, ...]] = ()  # the inequalities that it takes: "linear", "convex"

    @abc.abstractmethod
    def run(self, problem: FlatProblem, init: jax.Array, dual: Dual | None = None) -> tuple[jax.Array, Any, Any, Any]:
        """Solve a flat problem from `init`, an array like `y`, and, for a warm start, the multipliers `dual`.

        Returns `(primal, dual, iterations, converged)`: the point; a `Dual`, whose fields may be `None`, or `None`
        (what is missing is recovered from the point); how many iterations it took; and the solver's own claim, a
        boolean or a `Status` as an integer array, which the certificate may overrule. A claim of infeasibility comes
        with its ray: for `PRIMAL_INFEASIBLE` as the dual's `equality`, for `DUAL_INFEASIBLE` as the primal.
        """


def check_takes(solver: Any, problem: FlatProblem) -> None:
    """Raise for a solver of this library that does not take the inequalities of the problem."""
    kind = "convex" if isinstance(problem.equality, Curved) else "linear"
    if problem.slacks and isinstance(solver, Solver) and kind not in solver.takes:
        raise ValueError(
            f"{type(solver).__name__} takes no {kind} inequality; use kkt.InteriorPoint()"
            + (", or kkt.PrimalDual() for a very large Quadratic" if kind == "linear" else "")
        )


def separable(problem: FlatProblem, solver: str, instead: str) -> Separable:
    """The objective as a sum over the coordinates, which `solver` needs; `instead` says who does not."""
    objective = as_separable(problem.objective)
    if objective is None:
        raise ValueError(
            f"{solver} needs a separable objective: a Separable, or a Quadratic whose P is a vector (its diagonal); "
            f"{instead}"
        )
    return objective


def single_row(problem: FlatProblem, solver: str) -> tuple[jax.Array | None, jax.Array | None]:
    """The weights and the total of the one equality that `solver` can handle; `(None, None)` without equality."""
    equality = problem.equality
    if equality.target.size > 1:
        raise ValueError(
            f"{solver} takes at most one equality constraint, got {equality.target.size}; solve it with another "
            "solver and hand the point to kkt_solvers.differentiable"
        )
    if equality.target.size == 0:
        return None, None
    return problem.rows.dense()[0], jnp.reshape(equality.target, ())
