"""Activations of neural networks as features."""

from ._activations import ActivationExtractor

__all__ = ["ActivationExtractor"]
