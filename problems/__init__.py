"""Ready-made problems, one file each: a builder of the `Problem` and a verb for those who do not want to know."""

from kkt_solvers.problems.control import PredictiveControl, Regulator, predictive_control, receding_horizon
from kkt_solvers.problems.design import OptimalDesign, optimal_design
from kkt_solvers.problems.equilibrium import (
    ChemicalEquilibrium,
    ElementPotentials,
    chemical_equilibrium,
    standard_gibbs,
)
from kkt_solvers.problems.fairness import FairLogisticRegression, fair_logistic_regression
from kkt_solvers.problems.geometric import GeometricProgram, Posynomial, geometric_program
from kkt_solvers.problems.isotonic import IsotonicRegression, isotonic_regression
from kkt_solvers.problems.lml import LML, lml, log_lml
from kkt_solvers.problems.lml_losses import lml_binary_cross_entropy, lml_fenchel_young_loss, lml_loss
from kkt_solvers.problems.maximum_entropy import MaximumEntropy, maximum_entropy
from kkt_solvers.problems.network import Network
from kkt_solvers.problems.network_utility import NetworkUtility, network_utility
from kkt_solvers.problems.portfolio import Portfolio, Rebalancing, portfolio, rebalance
from kkt_solvers.problems.power_flow import EconomicDispatch, OptimalPowerFlow, economic_dispatch, optimal_power_flow
from kkt_solvers.problems.qcqp import QCQP, qcqp
from kkt_solvers.problems.regression import (
    BoundedLeastSquares,
    LogisticRegression,
    QuantileRegression,
    bounded_least_squares,
    logistic_regression,
    quantile_regression,
)
from kkt_solvers.problems.risk_limits import RiskLimited, risk_limited
from kkt_solvers.problems.robust import RobustLeastSquares, robust_least_squares
from kkt_solvers.problems.simplex import CappedSimplex, EntropicSimplex, entropic_top_k, soft_top_k, sparsemax
from kkt_solvers.problems.svm import SVM, DecisionFunction, OneClassSVM, one_class_svm, rbf, svm
from kkt_solvers.problems.top_k import hard_top_k, straight_through_top_k
from kkt_solvers.problems.total_variation import TotalVariation, total_variation
from kkt_solvers.problems.transport import OptimalTransport, optimal_transport, sinkhorn_divergence
from kkt_solvers.problems.trust_region import TrustRegion, trust_region
from kkt_solvers.problems.water_filling import ChannelCapacity, WaterFilling, channel_capacity, water_filling

__all__ = [
    "LML",
    "QCQP",
    "SVM",
    "BoundedLeastSquares",
    "CappedSimplex",
    "ChannelCapacity",
    "ChemicalEquilibrium",
    "DecisionFunction",
    "EconomicDispatch",
    "ElementPotentials",
    "EntropicSimplex",
    "FairLogisticRegression",
    "GeometricProgram",
    "IsotonicRegression",
    "LogisticRegression",
    "MaximumEntropy",
    "Network",
    "NetworkUtility",
    "OneClassSVM",
    "OptimalDesign",
    "OptimalPowerFlow",
    "OptimalTransport",
    "Portfolio",
    "Posynomial",
    "PredictiveControl",
    "QuantileRegression",
    "Rebalancing",
    "Regulator",
    "RiskLimited",
    "RobustLeastSquares",
    "TotalVariation",
    "TrustRegion",
    "WaterFilling",
    "bounded_least_squares",
    "channel_capacity",
    "chemical_equilibrium",
    "economic_dispatch",
    "entropic_top_k",
    "fair_logistic_regression",
    "geometric_program",
    "hard_top_k",
    "isotonic_regression",
    "lml",
    "lml_binary_cross_entropy",
    "lml_fenchel_young_loss",
    "lml_loss",
    "log_lml",
    "logistic_regression",
    "maximum_entropy",
    "network_utility",
    "one_class_svm",
    "optimal_design",
    "optimal_power_flow",
    "optimal_transport",
    "portfolio",
    "predictive_control",
    "qcqp",
    "quantile_regression",
    "rbf",
    "rebalance",
    "receding_horizon",
    "risk_limited",
    "robust_least_squares",
    "sinkhorn_divergence",
    "soft_top_k",
    "sparsemax",
    "standard_gibbs",
    "straight_through_top_k",
    "svm",
    "total_variation",
    "trust_region",
    "water_filling",
]
