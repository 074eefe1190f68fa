"""Ready-made problems, one file each: a builder of the `Problem` and a verb for those who do not want to know."""

from kkt_solvers.problems.lml import LML, lml, log_lml
from kkt_solvers.problems.lml_losses import lml_binary_cross_entropy, lml_fenchel_young_loss, lml_loss
from kkt_solvers.problems.top_k import hard_top_k, straight_through_top_k

__all__ = [
    "LML",
    "hard_top_k",
    "lml",
    "lml_binary_cross_entropy",
    "lml_fenchel_young_loss",
    "lml_loss",
    "log_lml",
    "straight_through_top_k",
]
