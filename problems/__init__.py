"""Ready-made problems, one file each: a builder of the `Problem` and a verb for those who do not want to know."""

from kkt_solvers.problems.lml import LML, lml
from kkt_solvers.problems.maximum_entropy import MaximumEntropy, maximum_entropy
from kkt_solvers.problems.portfolio import Portfolio, Rebalancing, portfolio, rebalance
from kkt_solvers.problems.regression import (
    BoundedLeastSquares,
    IsotonicRegression,
    LogisticRegression,
    QuantileRegression,
    bounded_least_squares,
    isotonic_regression,
    logistic_regression,
    quantile_regression,
)
from kkt_solvers.problems.simplex import CappedSimplex, EntropicSimplex, entropic_top_k, soft_top_k, sparsemax
from kkt_solvers.problems.svm import SVM, DecisionFunction, OneClassSVM, one_class_svm, rbf, svm
from kkt_solvers.problems.water_filling import ChannelCapacity, WaterFilling, channel_capacity, water_filling

__all__ = [
    "LML",
    "SVM",
    "BoundedLeastSquares",
    "CappedSimplex",
    "ChannelCapacity",
    "DecisionFunction",
    "EntropicSimplex",
    "IsotonicRegression",
    "LogisticRegression",
    "MaximumEntropy",
    "OneClassSVM",
    "Portfolio",
    "QuantileRegression",
    "Rebalancing",
    "WaterFilling",
    "bounded_least_squares",
    "channel_capacity",
    "entropic_top_k",
    "isotonic_regression",
    "lml",
    "logistic_regression",
    "maximum_entropy",
    "one_class_svm",
    "portfolio",
    "quantile_regression",
    "rbf",
    "rebalance",
    "soft_top_k",
    "sparsemax",
    "svm",
    "water_filling",
]
