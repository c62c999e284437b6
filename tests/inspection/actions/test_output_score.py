"""Output scores by a plain loop over features, prompts and tokens."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.pipeline import make_pipeline

from skdict.inspection import output_score, steer, top_logits
from skdict.inspection.actions import _output_score

FEATURES = [3, 100, 40]


@pytest.fixture(scope="module")
def neurons(extractor, perfect):
    return make_pipeline(extractor, perfect)


def by_hand(language, neurons, feature, strength, prompt, n_top):
    """Score, total probability and token of one feature and prompt."""
    top = top_logits(neurons, feature, n_top=n_top).raised[0]
    ids = language.tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad(), steer(neurons, feature, strength=strength):
        p = language.model(ids).logits[0, -1].double().softmax(0).numpy()
    order = np.argsort(-p)
    rank = min(int(np.flatnonzero(order == token)[0]) for token in top)
    best = top[p[top].argmax()]
    return p[top].max() * (1 - rank / len(p)), p[top].sum(), best


@pytest.mark.parametrize("n_probabilities", [1, 2**25])
def test_by_hand(language, neurons, monkeypatch, n_probabilities):
    monkeypatch.setattr(_output_score, "N_PROBABILITIES", n_probabilities)
    strengths, prompts = [2.0, 8.0, 5.0], ["def f(x", "import "]
    found = output_score(neurons, FEATURES, strength=strengths, prompts=prompts, n_top=4)
    for i, (feature, strength) in enumerate(zip(FEATURES, strengths, strict=True)):
        steered = [by_hand(language, neurons, feature, strength, p, 4) for p in prompts]
        clean = [by_hand(language, neurons, feature, 0.0, p, 4) for p in prompts]
        means = np.mean([pair[:2] for pair in steered], axis=0)
        assert_allclose([found.output_score[i], found.probability[i]], means, rtol=1e-4)
        means = np.mean([pair[:2] for pair in clean], axis=0)
        assert_allclose(
            [found.unsteered_score[i], found.unsteered_probability[i]], means, rtol=1e-4
        )
        assert found.token[i] == language.tokenizer.decode([steered[0][2]])
    assert list(pd.DataFrame(found).feature) == FEATURES


def test_strong_steering_writes_what_the_weights_promise(neurons):
    weak, strong = (output_score(neurons, FEATURES, strength=s) for s in (0.0, 12.0))
    assert_allclose(weak.output_score, weak.unsteered_score, rtol=1e-5)
    assert (strong.output_score > weak.output_score).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": [1024]}, "features has 1024"),
        ({"strength": [1.0]}, "strength has 1 entries, but there are 3 features"),
        ({"strength": [1.0, np.nan, 1.0]}, "strength has entries that are not finite"),
        ({"strength": np.inf}, "strength"),
        ({"n_top": 0}, "'n_top' parameter"),
        ({"prompts": "def"}, "prompts must be a list of texts"),
        ({"path": "none"}, "path must be 'direct' or 'total'"),
    ],
)
def test_bad_input(neurons, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        output_score(neurons, **({"features": FEATURES, "strength": 1.0} | options))
