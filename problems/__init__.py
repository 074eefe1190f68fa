"""Ready-made problems, one file each: a builder of the `Problem` and a verb for those who do not want to know."""

from kkt_solvers.problems.control import PredictiveControl, Regulator, predictive_control, receding_horizon
from kkt_solvers.problems.lml import LML, lml
from kkt_solvers.problems.power_flow import (
    EconomicDispatch,
    Network,
    OptimalPowerFlow,
    economic_dispatch,
    optimal_power_flow,
)

__all__ = [
    "LML",
    "EconomicDispatch",
    "Network",
    "OptimalPowerFlow",
    "PredictiveControl",
    "Regulator",
    "economic_dispatch",
    "lml",
    "optimal_power_flow",
    "predictive_control",
    "receding_horizon",
]
