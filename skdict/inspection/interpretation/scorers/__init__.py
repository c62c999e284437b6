"""Scorers of explanations: each a file, registered by its name."""

from ._base import SCORERS, PerWindow, Question, Scorer, in_batches, register
from ._detection import Detection
from ._fuzzing import Fuzzing
from ._intruder import Intruder
from ._simulation import Simulation

# They draw from one generator, in this order, so that the choice of scorers changes no question.
IN_ORDER = (Detection, Fuzzing, Intruder, Simulation)

__all__ = [
    "IN_ORDER",
    "SCORERS",
    "Detection",
    "Fuzzing",
    "Intruder",
    "PerWindow",
    "Question",
    "Scorer",
    "Simulation",
    "in_batches",
    "register",
]
