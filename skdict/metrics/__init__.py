"""Metrics of dictionaries: functions of arrays, scorers for model selection, displays."""

from ._loss_recovered import loss_recovered
from ._pareto import ParetoDisplay
from ._reconstruction import explained_variance, shrinkage
from ._recovery import dictionary_recovery, mean_max_cosine
from ._scorer import (
    DictionaryScorer,
    explained_variance_scorer,
    loss_recovered_scorer,
    neg_dead_fraction_scorer,
    neg_l0_scorer,
)
from ._sparsity import dead_fraction, dense_fraction, feature_density, mean_l0

__all__ = [
    "DictionaryScorer",
    "ParetoDisplay",
    "dead_fraction",
    "dense_fraction",
    "dictionary_recovery",
    "explained_variance",
    "explained_variance_scorer",
    "feature_density",
    "loss_recovered",
    "loss_recovered_scorer",
    "mean_l0",
    "mean_max_cosine",
    "neg_dead_fraction_scorer",
    "neg_l0_scorer",
    "shrinkage",
]
