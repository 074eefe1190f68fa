"""Solvers: small frozen dataclasses of settings with one method, `run`."""

from kkt_solvers._objectives import Quadratic, Separable, as_separable
from kkt_solvers._problem import FlatProblem, Operator
from kkt_solvers.solvers._adapters import Jaxopt, Scipy
from kkt_solvers.solvers._base import Solver
from kkt_solvers.solvers._dual_bisection import DualBisection
from kkt_solvers.solvers._dual_newton import DualNewton
from kkt_solvers.solvers._interior_point import InteriorPoint
from kkt_solvers.solvers._mirror_descent import MirrorDescent
from kkt_solvers.solvers._primal_dual import PrimalDual
from kkt_solvers.solvers._projected_gradient import ProjectedGradient

__all__ = [
    "DualBisection",
    "DualNewton",
    "InteriorPoint",
    "Jaxopt",
    "MirrorDescent",
    "PrimalDual",
    "ProjectedGradient",
    "Scipy",
    "Solver",
    "default_solver",
]


def default_solver(problem: FlatProblem) -> Solver:
    """The choice by structure; the table stands in the docstring of `kkt_solvers.solve`."""
    if as_separable(problem.objective) is not None and problem.equality.target.size <= 1:
        return DualBisection()
    if isinstance(problem.objective, Separable):
        return DualNewton()
    if isinstance(problem.equality, Operator) and isinstance(problem.objective, Quadratic):
        return PrimalDual()
    return InteriorPoint()
