"""Ways to find a dictionary. A new one is one file that registers a `Solver`."""

from . import alternating, autoencoder  # noqa: F401  # they register themselves
from .base import SOLVERS, EpochSolver, Problem, Solver, register

__all__ = ["SOLVERS", "EpochSolver", "Problem", "Solver", "register"]
