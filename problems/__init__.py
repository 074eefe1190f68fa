"""Ready-made problems, one file each: a builder of the `Problem` and a verb for those who do not want to know."""

from kkt_solvers.problems.lml import LML, lml

__all__ = ["LML", "lml"]
