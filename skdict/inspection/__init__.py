"""What a feature stands for: where it is most active, which labels it detects."""

from ._detectors import evaluate_feature_detectors, select_feature_detectors
from ._examples import Snippet, context_snippets, top_activations

__all__ = [
    "Snippet",
    "context_snippets",
    "evaluate_feature_detectors",
    "select_feature_detectors",
    "top_activations",
]
