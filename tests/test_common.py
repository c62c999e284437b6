"""scikit-learn's own checks of SparseAutoencoderDictionary, for every way to find codes."""

import pytest
from sklearn.base import clone
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skdict._core.models.architectures import ARCHITECTURES, BatchTopK
from skdict.decomposition import SparseAutoencoderDictionary, SparseAutoencoderDictionaryCV
from skdict.decomposition._atoms import ATOMS

# "auto" is "encoder" for the autoencoder and "lasso" for the others.
WAYS = {
    "autoencoder": ("auto", "lasso", "omp", "threshold"),
    "alternating": ("auto", "omp", "threshold"),
    "dictionary_learning": ("auto", "omp"),
    "kmeans": ("auto", "lasso"),
    "lasso": ("auto", "omp"),
}
PARAMETERS = [
    {"solver": solver, "transform_algorithm": algorithm}
    for solver, algorithms in WAYS.items()
    for algorithm in algorithms
]
PARAMETERS += [
    *({"architecture": name, "n_nonzero_coefs": 1} for name in ARCHITECTURES if name != "relu"),
    {"architecture": "jumprelu"},
    {"architecture": BatchTopK(k=1, rate=0.5)},
    *(
        {"solver": "lasso", "dict_init": name}
        for name in ATOMS
        if name not in ("exemplars", "nmf")
    ),
    {"solver": "lasso", "dict_init": "nmf", "fit_intercept": False},
    {"sparse_output": True},
    {"early_stopping": True, "fit_intercept": False, "shuffle": False},
]
ESTIMATORS = [SparseAutoencoderDictionary(max_iter=1, **options) for options in PARAMETERS]
ESTIMATORS += [
    SparseAutoencoderDictionaryCV(max_iter=1, alphas=2, cv=2),
    SparseAutoencoderDictionaryCV(max_iter=1, architecture="topk", cv=2),
]

# sklearn's blobs have a handful of features: exemplar atoms are almost collinear.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Orthogonal matching pursuit ended prematurely"),
]

# sklearn runs these on its own transformers only, in its own test suite.
NOT_YIELDED_FOR_TRANSFORMERS = [
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_global_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_get_feature_names_out_error",
    "check_dataframe_column_names_consistency",
    "check_estimators_partial_fit_n_features",
    "check_n_features_in_after_fitting",
    "check_inplace_ensure_writeable",
]


@pytest.mark.slow
@parametrize_with_checks(ESTIMATORS)  # none is expected to fail
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("check", NOT_YIELDED_FOR_TRANSFORMERS)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: " ".join(str(e).split()))
def test_more_sklearn_checks(estimator, check):
    getattr(estimator_checks, check)(type(estimator).__name__, clone(estimator))
