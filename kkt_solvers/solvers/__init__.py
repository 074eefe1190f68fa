"""Solvers: small frozen dataclasses of settings with one method, `run`."""

from kkt_solvers.data.constraints import Curved, Operator
from kkt_solvers.data.matrices import Map
from kkt_solvers.data.matrix import Matrix
from kkt_solvers.data.objectives import Quadratic, Separable, as_separable
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.solvers._adapters import Jaxopt, Scipy
from kkt_solvers.solvers._base import Solver, check_takes
from kkt_solvers.solvers._dual_bisection import DualBisection
from kkt_solvers.solvers._dual_newton import DualNewton
from kkt_solvers.solvers._mirror_descent import MirrorDescent
from kkt_solvers.solvers._primal_dual import PrimalDual
from kkt_solvers.solvers._projected_gradient import ProjectedGradient
from kkt_solvers.solvers.interior_point import InteriorPoint
from kkt_solvers.systems.kkt import SparseKKT, choose

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
    "check_takes",
    "default_solver",
]

# Entries of P and A together, beyond which InteriorPoint would take minutes an iteration.
_SPARSE_UP_TO = 1e7
_DENSE_UP_TO = 1e8


def default_solver(problem: FlatProblem) -> Solver:
    """The choice by structure; the table stands in the docstring of `kkt_solvers.solve`."""
    if problem.slacks == 0 and as_separable(problem.objective) is not None and problem.equality.target.size <= 1:
        return DualBisection()
    if isinstance(problem.objective, Separable):
        return DualNewton()
    if isinstance(problem.objective, Quadratic) and _is_large(problem, problem.objective.matrix):
        return PrimalDual()
    return InteriorPoint()


def _is_large(problem: FlatProblem, P: Matrix) -> bool:
    """Whether a factorisation would take minutes, or the matrix of the equality is not even there."""
    if isinstance(problem.equality, Curved):
        return False
    if isinstance(problem.equality, Operator) or isinstance(P, Map):
        return True
    return P.stored() + problem.rows.stored() > (
        _SPARSE_UP_TO if isinstance(choose(problem), SparseKKT) else _DENSE_UP_TO
    )
