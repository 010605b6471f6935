"""Lower-level dynamics: how y_{k+1} follows from y_k."""

from jboat.gm_ol.di import DI
from jboat.gm_ol.dm import DM
from jboat.gm_ol.dynamical_system import DynamicalSystem, LowerLevelOperator
from jboat.gm_ol.gda import GDA
from jboat.gm_ol.ngd import NGD
from jboat.gm_ol.sequential_ds import DynamicalSystemRules, SequentialDS, makes_functional_dynamical_system

__all__ = [
    "DI",
    "DM",
    "GDA",
    "NGD",
    "DynamicalSystem",
    "DynamicalSystemRules",
    "LowerLevelOperator",
    "SequentialDS",
    "makes_functional_dynamical_system",
]
