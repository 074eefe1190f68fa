"""A primal-dual interior-point method for any smooth convex objective with affine equalities and a box."""

from kkt_solvers.solvers.interior_point._solver import InteriorPoint, polished

__all__ = ["InteriorPoint", "polished"]
