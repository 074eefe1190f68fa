"""Ready-made problems, one file each: a builder of the `Problem` and a verb for those who do not want to know."""

from kkt_solvers.problems.control import PredictiveControl, Regulator, predictive_control, receding_horizon
from kkt_solvers.problems.equilibrium import (
    ChemicalEquilibrium,
    ElementPotentials,
    chemical_equilibrium,
    standard_gibbs,
)
from kkt_solvers.problems.lml import LML, lml
from kkt_solvers.problems.power_flow import (
    EconomicDispatch,
    Network,
    OptimalPowerFlow,
    economic_dispatch,
    optimal_power_flow,
)
from kkt_solvers.problems.transport import OptimalTransport, optimal_transport, sinkhorn_divergence

__all__ = [
    "LML",
    "ChemicalEquilibrium",
    "EconomicDispatch",
    "ElementPotentials",
    "Network",
    "OptimalPowerFlow",
    "OptimalTransport",
    "PredictiveControl",
    "Regulator",
    "chemical_equilibrium",
    "economic_dispatch",
    "lml",
    "optimal_power_flow",
    "optimal_transport",
    "predictive_control",
    "receding_horizon",
    "sinkhorn_divergence",
    "standard_gibbs",
]
