"""What an estimator holds: who may change it, and when."""

import pickle

import numpy as np
import pandas as pd
import pytest
from dictionary_testing import make_estimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict.decomposition import (
    AmortisationGapDisplay,
    amortisation_gap,
    compare_dictionaries,
)
from skdict.inspection import feature_statistics, top_activations
from skdict.metrics import DictionaryScorer, ParetoDisplay, explained_variance_scorer

NAMES = [f"neuron{i}" for i in range(16)]

# Lasso on a handful of coherent atoms.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def frame(planted):
    return pd.DataFrame(planted, columns=NAMES)


# -- looking at an estimator -----------------------------------------------------------------


LOOKS = {
    "amortisation_gap": amortisation_gap,
    "AmortisationGapDisplay": AmortisationGapDisplay.from_estimator,
    "compare_dictionaries": lambda sae, X: compare_dictionaries(
        {"sae": sae}, X, X, transform_algorithms=("encoder", "lasso", "omp"), budgets=[3]
    ),
    "DictionaryScorer": lambda sae, X: DictionaryScorer(("score", "l0"))(sae, X),
    "explained_variance_scorer": explained_variance_scorer,
    "ParetoDisplay": lambda sae, X: ParetoDisplay.from_estimators({"sae": sae}, X),
    "feature_statistics": lambda sae, X: feature_statistics(X, dictionary=sae),
    "top_activations": lambda sae, X: top_activations(X, [0], dictionary=sae),
}


@pytest.mark.parametrize("name", LOOKS)
def test_looking_at_an_estimator_changes_nothing(frame, name):
    pytest.importorskip("matplotlib.pyplot")
    sae = make_estimator().fit(frame).set_output(transform="pandas")
    state = pickle.dumps(vars(sae))
    LOOKS[name](sae, frame)
    assert pickle.dumps(vars(sae)) == state
    assert isinstance(sae.transform(frame), pd.DataFrame)


@pytest.mark.parametrize("name", LOOKS)
def test_columns_in_another_order_are_refused(frame, name):
    sae = make_estimator().fit(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        LOOKS[name](sae, frame[NAMES[::-1]])
    assert list(sae.feature_names_in_) == NAMES


@pytest.mark.parametrize("name", ["amortisation_gap", "AmortisationGapDisplay"])
def test_another_number_of_features_is_refused(planted, name):
    sae = make_estimator().fit(planted)
    with pytest.raises(ValueError, match="X has 17 features, but"):
        LOOKS[name](sae, np.hstack([planted, planted[:, :1]]))
    assert sae.n_features_in_ == 16
    sae.transform(planted)


def test_the_steps_of_a_pipeline_are_looked_at_likewise(frame):
    pipeline = make_pipeline(StandardScaler(), make_estimator()).set_output(transform="pandas")
    pipeline.fit(frame)
    state = pickle.dumps(pipeline)
    feature_statistics(frame, dictionary=pipeline)
    assert pickle.dumps(pipeline) == state
