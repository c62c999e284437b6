"""Extraction, interventions and inspection on a (pretended) GPU: the numbers of the CPU."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from pretend_cuda import OnCuda, pretend_cuda
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from skdict.datasets import load_one_layer_transformer
from skdict.inspection import (
    activation_specificity,
    collect_codes,
    feature_effects,
    feature_report,
    feature_statistics,
    match_features,
    replace_activations,
    steer,
    steering_effect,
    top_activations,
)
from skdict.metrics import explained_variance, loss_recovered, mean_l0

LAYER = "transformer.h.0.mlp.act"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def assert_close(found, expected):
    """Numbers within tables, bunches, sequences and dicts."""
    assert type(found) is type(expected)
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, **CLOSE)
    elif isinstance(expected, dict):
        assert_close(list(found), list(expected))
        assert_close(list(found.values()), list(expected.values()))
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float | np.ndarray) and np.asarray(expected).dtype.kind == "f":
        np.testing.assert_allclose(found, expected, **CLOSE)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


@pytest.fixture(scope="module")
def few(texts):
    return [text[:300] for text in texts[:3]]


@pytest.fixture(scope="module")
def one_layer():
    """The folder of the transformer that comes with the package."""
    return load_one_layer_transformer().path


@pytest.fixture
def on_cuda(gpu, extractor):
    """The extractor with a model of its own, on the device."""
    moved = clone(extractor).set_params(model=copy.deepcopy(extractor.model), device="cuda")
    moved.model.to("cuda")
    return moved


def test_extraction(gpu, on_cuda, extractor, few):
    assert isinstance(next(on_cuda.model.parameters()), OnCuda)
    expected = extractor.transform(few)
    gpu.reset()
    np.testing.assert_allclose(on_cuda.transform(few), expected, **CLOSE)
    assert gpu.launches["addmm"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["auto", "lasso", "omp", "threshold"])
def test_interventions(gpu, on_cuda, language, dictionary, few, algorithm):
    coder = copy.deepcopy(dictionary).set_params(
        device="cpu", transform_algorithm=algorithm, transform_n_nonzero_coefs=3
    )
    short = [text[:60] for text in few]
    ids = language.tokenizer(short, return_tensors="pt", padding=True, add_special_tokens=False)
    moved = {name: tensor.to("cuda") for name, tensor in ids.items()}
    ways = (
        lambda model: replace_activations(model, LAYER, coder),
        lambda model: replace_activations(model, LAYER, coder, scale={1: 0}, keep_error=True),
        lambda model: steer(model, LAYER, coder, [1, 2], strength=[3, -1]),
        lambda model: steer(model, LAYER, coder, 1, clamp=2.0),
    )
    for way in ways:
        with torch.no_grad(), way(language.model):
            expected = language.model(**ids).logits
        for device in ("cpu", "cuda"):
            coder.set_params(device=device)
            with torch.no_grad(), way(on_cuda.model):
                found = on_cuda.model(**moved).logits
            np.testing.assert_allclose(found.cpu(), expected, rtol=1e-3, atol=1e-3)
        coder.set_params(device="cpu")


@pytest.mark.parametrize(
    "look",
    [
        lambda pipeline, texts: feature_effects(pipeline, texts, [1, 4]),
        lambda pipeline, texts: loss_recovered(
            pipeline[0].model, LAYER, pipeline[1], texts, tokenizer=pipeline[0].tokenizer
        ),
        lambda pipeline, texts: steering_effect(
            pipeline,
            1,
            [0.0, 2.0],
            lambda text: len(text) > 10,
            n_samples=2,
            n_tokens=4,
            random_state=0,
        ),
    ],
    ids=["feature_effects", "loss_recovered", "steering_effect"],
)
def test_what_runs_the_model(gpu, on_cuda, extractor, dictionary, few, look):
    expected = look(make_pipeline(extractor, dictionary), few)
    on_device = copy.deepcopy(dictionary).set_params(device="cuda")
    assert_close(look(make_pipeline(on_cuda, on_device), few), expected)


@pytest.mark.parametrize("kind", ["activations", "codes", "sparse codes"])
@pytest.mark.parametrize(
    "look",
    [
        lambda codes: feature_statistics(codes, [0, 3, 7]),
        lambda codes: top_activations(codes, [0, 3, 7]),
    ],
    ids=["feature_statistics", "top_activations"],
)
def test_what_looks_at_codes(gpu, activations, dictionary, kind, look):
    X = activations[:400]
    on_device = copy.deepcopy(dictionary).set_params(device="cuda")
    if kind == "activations":
        expected = look(collect_codes(dictionary, X, n_near_misses=3))
        X = torch.from_numpy(X).to("cuda")
        assert_close(look(collect_codes(on_device, X, n_near_misses=3)), expected)
        return
    expected = look(dictionary.transform(X))
    on_device.set_params(sparse_output=kind == "sparse codes")
    assert_close(look(on_device.transform(torch.from_numpy(X).to("cuda"))), expected)


def test_what_takes_tensors(gpu, activations, dictionary):
    X, labels = activations[:300], (np.arange(300) % 3 == 0)[:, None]
    codes = dictionary.transform(X)
    on_device = torch.from_numpy(codes).to("cuda")
    assert_close(feature_report(on_device, labels), feature_report(codes, labels))
    assert_close(
        activation_specificity(on_device[:, 1], labels[:, 0]),
        activation_specificity(codes[:, 1], labels[:, 0]),
    )
    assert_close(
        match_features(on_device, on_device, by="codes"), match_features(codes, codes, by="codes")
    )
    reconstruction = dictionary.inverse_transform(codes)
    moved = torch.from_numpy(X).to("cuda"), torch.from_numpy(reconstruction).to("cuda")
    assert_close(explained_variance(*moved), explained_variance(X, reconstruction))
    assert_close(mean_l0(on_device), mean_l0(codes))


def test_an_extractor_that_loads_its_model_is_stored_without_it(extractor, one_layer, few):
    """What it has loaded to a GPU is no obstacle where there is none."""
    at = {"model": one_layer, "tokenizer": "auto", "dtype": "float32"}
    with pretend_cuda() as gpu:
        moved = clone(extractor).set_params(**at, device="cuda")
        found = moved.transform(few)
        assert gpu.launches["addmm"] > 0
        stored = pickle.dumps(moved)
    np.testing.assert_allclose(found, extractor.transform(few), **CLOSE)
    loaded = pickle.loads(stored).set_params(device="cpu")
    np.testing.assert_allclose(loaded.transform(few), found, **CLOSE)
