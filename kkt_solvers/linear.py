"""The linear systems of the derivative, to name one in `solve(..., linear=...)`: see `KKTSystem` for the choice."""

from kkt_solvers.systems.kkt import DenseKKT, DiagonalKKT, KKTSystem, LowRankKKT, MatrixFreeKKT, SparseKKT, StagesKKT

__all__ = ["DenseKKT", "DiagonalKKT", "KKTSystem", "LowRankKKT", "MatrixFreeKKT", "SparseKKT", "StagesKKT"]
