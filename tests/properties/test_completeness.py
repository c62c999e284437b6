"""No public function is forgotten."""

from calls import CALLS
from numbers_given import PARAMETERS
from test_indices import FUNCTIONS

from skdict import callbacks, datasets, decomposition, feature_extraction, inspection, io, metrics

# They take texts, models, or what other functions return, and have tests of their own.
OTHERS = {
    "AmortisationGapDisplay",
    "ActivationSpecificityDisplay",
    "ActivationStore",
    "Checkpoint",
    "Completion",
    "Dictionary",
    "DocumentFeatures",
    "FeatureDisplay",
    "FeatureHeatmapDisplay",
    "FeatureMapDisplay",
    "CodeShards",
    "FeatureMatchDisplay",
    "FeatureSeriesDisplay",
    "FeatureSplittingDisplay",
    "InterpretationDisplay",
    "RowTransform",
    "Site",
    "Snippet",
    "SparseCodes",
    "SteeringDisplay",
    "AttributionGraph",
    "architectures",
    "attribution_graph",
    "WidthCurveDisplay",
    "feature_absorption",
    "feature_effects",
    "fit_many",
    "formats",
    "label_python_spans",
    "label_tokens",
    "load_dictionary",
    "load_one_layer_transformer",
    "load_python_corpus",
    "logit_weights",
    "loss_recovered",
    "loss_recovered_scorer",
    "metric_effects",
    "output_score",
    "python_token_labels",
    "replace_activations",
    "save_dictionary",
    "steering_effect",
    "top_logits",
}


def test_every_public_function_is_tried_or_named_here():
    tried = {
        name.split("(")[0].split(".")[0].split()[0] for name in (*CALLS, *PARAMETERS, *FUNCTIONS)
    }
    modules = callbacks, datasets, decomposition, feature_extraction, inspection, io, metrics
    public = {name for module in modules for name in module.__all__}
    assert public - tried == OTHERS
    assert tried <= public
