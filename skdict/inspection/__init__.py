"""What features stand for: what activates them, what they do, how they relate to each other."""

from ._communities import feature_communities
from ._dashboard import FeatureDashboard
from ._detectors import evaluate_feature_detectors, select_feature_detectors
from ._display import FeatureDensityDisplay, FeatureDisplay
from ._effects import feature_effects
from ._examples import Snippet, context_snippets, top_activations
from ._heatmap_display import FeatureHeatmapDisplay
from ._interpretation._asking import Completion
from ._interpretation._display import InterpretationDisplay
from ._interpretation._interpreter import AutoInterpreter
from ._interpretation._openai import OpenAIChat
from ._interventions import replace_activations, steer
from ._labels import label_tokens
from ._logits import logit_attribution
from ._map import FeatureMapDisplay
from ._matching import match_features
from ._matching_display import FeatureMatchDisplay
from ._probing import sparse_probing
from ._report import feature_report
from ._series_display import FeatureSeriesDisplay
from ._specificity import ActivationSpecificityDisplay, activation_specificity
from ._splitting import feature_splitting
from ._splitting_display import FeatureSplittingDisplay
from ._statistics import feature_statistics
from ._steering import SteeringDisplay, steering_effect
from ._width import WidthCurveDisplay, width_curve

__all__ = [
    "ActivationSpecificityDisplay",
    "AutoInterpreter",
    "Completion",
    "FeatureDashboard",
    "FeatureDensityDisplay",
    "FeatureDisplay",
    "FeatureHeatmapDisplay",
    "FeatureMapDisplay",
    "FeatureMatchDisplay",
    "FeatureSeriesDisplay",
    "FeatureSplittingDisplay",
    "InterpretationDisplay",
    "OpenAIChat",
    "Snippet",
    "SteeringDisplay",
    "WidthCurveDisplay",
    "activation_specificity",
    "context_snippets",
    "evaluate_feature_detectors",
    "feature_communities",
    "feature_effects",
    "feature_report",
    "feature_splitting",
    "feature_statistics",
    "label_tokens",
    "logit_attribution",
    "match_features",
    "replace_activations",
    "select_feature_detectors",
    "sparse_probing",
    "steer",
    "steering_effect",
    "top_activations",
    "width_curve",
]
