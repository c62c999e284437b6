"""What features stand for: what activates them, what they do, how they relate to each other."""

from .actions._attribution import attribution_graph
from .actions._effects import feature_effects
from .actions._graph import AttributionGraph
from .actions._interventions import ablate, replace_activations, steer
from .actions._logits import logit_weights, top_logits
from .actions._metric import metric_effects
from .actions._output_score import output_score
from .actions._steering import steering_effect
from .codes._collecting import collect_codes
from .codes._store import FeatureCodes
from .dashboard._dashboard import FeatureDashboard
from .displays._density import FeatureDensityDisplay
from .displays._feature import FeatureDisplay
from .displays._heatmap import FeatureHeatmapDisplay
from .displays._interpretation import InterpretationDisplay
from .displays._map import FeatureMapDisplay
from .displays._matching import FeatureMatchDisplay
from .displays._series import FeatureSeriesDisplay
from .displays._specificity import ActivationSpecificityDisplay
from .displays._splitting import FeatureSplittingDisplay
from .displays._steering import SteeringDisplay
from .displays._width import WidthCurveDisplay
from .interpretation._interpret import interpret_features
from .interpretation._vocabulary import name_features
from .interpretation.clients._asking import Completion
from .interpretation.clients._openai import OpenAIChat
from .results._absorption import feature_absorption
from .results._association import feature_association
from .results._detectors import evaluate_feature_detectors, select_feature_detectors
from .results._examples import Snippet, context_snippets, top_activations
from .results._labels import label_tokens
from .results._probing import k_sparse_probe
from .results._report import feature_report
from .results._specificity import activation_specificity
from .results._statistics import feature_statistics
from .structure._communities import feature_communities
from .structure._matching import match_features
from .structure._splitting import feature_splitting
from .structure._stability import stability_report
from .structure._width import width_curve

__all__ = [
    "ActivationSpecificityDisplay",
    "AttributionGraph",
    "Completion",
    "FeatureCodes",
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
    "ablate",
    "activation_specificity",
    "attribution_graph",
    "collect_codes",
    "context_snippets",
    "evaluate_feature_detectors",
    "feature_absorption",
    "feature_association",
    "feature_communities",
    "feature_effects",
    "feature_report",
    "feature_splitting",
    "feature_statistics",
    "interpret_features",
    "k_sparse_probe",
    "label_tokens",
    "logit_weights",
    "match_features",
    "metric_effects",
    "name_features",
    "output_score",
    "replace_activations",
    "select_feature_detectors",
    "stability_report",
    "steer",
    "steering_effect",
    "top_activations",
    "top_logits",
    "width_curve",
]
