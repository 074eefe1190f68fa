"""Constrained convex problems in JAX, and the exact derivatives of their solutions."""

from kkt_solvers import linear, plot, projections, solvers
from kkt_solvers._degeneracy import Degeneracy, degeneracy
from kkt_solvers._qp import solve_qp
from kkt_solvers._solve import differentiable, solve
from kkt_solvers.data.constraints import Affine, AtMost, Sum
from kkt_solvers.data.marginals import Marginals
from kkt_solvers.data.matrices import LowRank
from kkt_solvers.data.objectives import Quadratic, Separable
from kkt_solvers.data.problem import Box, Problem
from kkt_solvers.data.solution import Dual, Residuals, Solution, Status
from kkt_solvers.data.stages import BlockBidiagonal, BlockDiagonal
from kkt_solvers.solvers import (
    DualBisection,
    DualNewton,
    InteriorPoint,
    Jaxopt,
    MirrorDescent,
    PrimalDual,
    ProjectedGradient,
    Scipy,
)

__version__ = "0.1.0"

__all__ = [
    "Affine",
    "AtMost",
    "BlockBidiagonal",
    "BlockDiagonal",
    "Box",
    "Degeneracy",
    "Dual",
    "DualBisection",
    "DualNewton",
    "InteriorPoint",
    "Jaxopt",
    "LowRank",
    "Marginals",
    "MirrorDescent",
    "PrimalDual",
    "Problem",
    "ProjectedGradient",
    "Quadratic",
    "Residuals",
    "Scipy",
    "Separable",
    "Solution",
    "Status",
    "Sum",
    "degeneracy",
    "differentiable",
    "linear",
    "plot",
    "projections",
    "solve",
    "solve_qp",
    "solvers",
]
