"""Solvers: small frozen dataclasses of settings with one method, `run`."""

from kkt_solvers._objectives import as_separable
from kkt_solvers._problem import FlatProblem
from kkt_solvers.solvers._base import Solver
from kkt_solvers.solvers._dual_bisection import DualBisection
from kkt_solvers.solvers._mirror_descent import MirrorDescent
from kkt_solvers.solvers._projected_gradient import ProjectedGradient

__all__ = ["DualBisection", "MirrorDescent", "ProjectedGradient", "Solver", "default_solver"]


def default_solver(problem: FlatProblem) -> Solver:
    """The choice by structure; the table stands in the docstring of `kkt_solvers.solve`."""
    return DualBisection() if as_separable(problem.objective) is not None else ProjectedGradient()
