"""ActivationExtractor on arrays, and scikit-learn's own checks."""

import gc
import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from skdict.feature_extraction import ActivationExtractor


def any_width():
    """A model for the X of the checks, which has any number of columns."""
    return nn.Sequential(nn.Tanh(), nn.Identity())


CHECKED = [
    ActivationExtractor(any_width(), "0", tokenizer=None),
    ActivationExtractor(any_width(), "1", side="input", tokenizer=None, pooling="mean"),
]


@parametrize_with_checks(CHECKED, xfail_strict=True)
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")  # they try it
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_param_validation,
        estimator_checks.check_set_output_transform,
        estimator_checks.check_set_output_transform_pandas,
        estimator_checks.check_set_output_transform_polars,
        estimator_checks.check_global_output_transform_pandas,
        estimator_checks.check_global_set_output_transform_polars,
        estimator_checks.check_transformer_get_feature_names_out,
        estimator_checks.check_transformer_get_feature_names_out_pandas,
        estimator_checks.check_get_feature_names_out_error,
        estimator_checks.check_dataframe_column_names_consistency,
    ],
    ids=lambda check: check.__name__,
)
def test_checks_that_sklearn_does_not_yield(check):
    check("ActivationExtractor", clone(CHECKED[0]))


@pytest.fixture
def mlp():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 1))


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(70, 3))


def expected_hidden(mlp, X):
    with torch.no_grad():
        return mlp[0](torch.as_tensor(X, dtype=torch.float32)).relu().numpy()


@pytest.mark.parametrize(
    "container",
    [
        np.asarray,
        lambda X: X.astype(np.float16),
        lambda X: X.tolist(),
        pd.DataFrame,
        lambda X: pl.DataFrame(X, schema=["a", "b", "c"]),
        torch.tensor,
        lambda X: torch.tensor(X, dtype=torch.bfloat16),
        lambda X: torch.tensor(X, requires_grad=True),
        lambda X: (10 * X).astype(np.int32),
        lambda X: X > 0,
    ],
)
def test_containers(container, mlp, X):
    data = container(X)
    extractor = ActivationExtractor(mlp, "1", tokenizer=None)
    values = data.float().detach() if isinstance(data, torch.Tensor) else np.array(data)
    np.testing.assert_allclose(
        extractor.fit_transform(data), expected_hidden(mlp, values), rtol=1e-5, atol=1e-6
    )
    assert mlp.training
    assert extractor.n_features_in_ == 3


def test_sides(mlp, X):
    extractor = ActivationExtractor(mlp, "3", side="input", tokenizer=None)
    np.testing.assert_allclose(
        extractor.fit_transform(X), expected_hidden(mlp, X), rtol=1e-5, atol=1e-6
    )
    extractor.set_params(side="output")
    assert extractor.fit_transform(X).shape == (70, 1)
    extractor.set_params(side="input", layer="0")
    np.testing.assert_allclose(extractor.fit_transform(X), X, rtol=1e-6)


def test_double_precision_model(mlp, X):
    expected = expected_hidden(mlp, X)
    extractor = ActivationExtractor(mlp.double(), "1", tokenizer=None)
    activations = extractor.fit_transform(X)
    assert activations.dtype == np.float32
    np.testing.assert_allclose(activations, expected, rtol=1e-5, atol=1e-6)


def test_a_row_per_position(X):
    model = nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Linear(1, 5))
    with torch.no_grad():
        whole = model(torch.tensor(X, dtype=torch.float32)).numpy()
    extractor = ActivationExtractor(model, "1", tokenizer=None)
    np.testing.assert_allclose(extractor.fit_transform(X), whole.reshape(-1, 5), rtol=1e-5)
    extractor.set_params(pooling="mean")
    np.testing.assert_allclose(extractor.fit_transform(X), whole.mean(1), rtol=1e-4, atol=1e-6)
    extractor.set_params(pooling="max")
    np.testing.assert_allclose(extractor.fit_transform(X), whole.max(1), rtol=1e-5)
    extractor.set_params(pooling="last")
    np.testing.assert_allclose(extractor.fit_transform(X), whole[:, -1], rtol=1e-5)


def test_a_row_per_pixel():
    images = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
    model = nn.Sequential(nn.Conv2d(2, 6, kernel_size=1), nn.Flatten(), nn.Linear(120, 1))
    extractor = ActivationExtractor(model, "0", tokenizer=None)
    rows = extractor.fit_transform(images)
    assert rows.shape == (3 * 4 * 5, 6)
    weight, bias = model[0].weight.detach().numpy()[:, :, 0, 0], model[0].bias.detach().numpy()
    pixels = images.transpose(0, 2, 3, 1).reshape(-1, 2)
    np.testing.assert_allclose(rows, pixels @ weight.T + bias, rtol=1e-4, atol=1e-6)


def test_token_ids_stay_integers():
    ids = np.random.default_rng(0).integers(0, 7, size=(5, 4))
    model = nn.Sequential(nn.Embedding(7, 3), nn.Tanh())
    rows = ActivationExtractor(model, "1", tokenizer=None).fit_transform(ids)
    expected = model[0].weight.detach().tanh().numpy()[ids].reshape(-1, 3)
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_vision_transformer(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    images = np.random.default_rng(0).normal(size=(3, 3, 8, 8))
    layer = "vit.layernorm"
    extractor = ActivationExtractor(tmp_path, layer, tokenizer=None)
    rows = extractor.fit_transform(images)
    assert rows.shape == (3 * 5, 8)  # a class token and four patches
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = model.vit(torch.tensor(images, dtype=torch.float32)).last_hidden_state
    np.testing.assert_allclose(rows, expected.flatten(0, 1).numpy(), rtol=1e-6, atol=1e-6)


def test_names_before_fit(mlp, X):
    extractor = ActivationExtractor(mlp, "1", tokenizer=None)
    assert extractor.transform(X).shape == (70, 8)
    with pytest.raises(NotFittedError):
        extractor.get_feature_names_out()
    assert len(extractor.fit(X).get_feature_names_out()) == 8


def test_another_number_of_columns(mlp, X):
    extractor = ActivationExtractor(mlp, "1", tokenizer=None).fit(X)
    with pytest.raises(ValueError, match="X has 2 features, but ActivationExtractor is expecting"):
        extractor.transform(X[:, :2])


@pytest.mark.parametrize(
    ("X", "match"),
    [
        (np.array([[1.0, np.nan, 2.0]]), "contains NaN"),
        (np.array([[1.0, np.inf, 2.0]]), "contains infinity"),
        (np.zeros((0, 3)), "0 sample"),
        (np.zeros((4, 0)), "0 feature"),
        (np.zeros(3), "Expected 2D array"),
        (["some", "texts"], "Expected 2D array"),
    ],
)
def test_bad_arrays(X, match, mlp):
    with pytest.raises(ValueError, match=match):
        ActivationExtractor(mlp, "1", tokenizer=None).fit(X)


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (nn.Flatten(0), r"The layer gives shape \(3,\) for 1 samples"),
        (nn.Unflatten(0, (1, 1)), None),
    ],
)
def test_layer_of_a_wrong_shape(module, match, X):
    extractor = ActivationExtractor(nn.Sequential(module), "0", tokenizer=None, batch_size=1)
    if match is None:
        assert extractor.set_params(feature_axis=-1).fit_transform(X).shape == (70, 3)
    else:
        with pytest.raises(ValueError, match=match):
            extractor.fit(X)


class Repeated(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, width), nn.ReLU())
        self.n_times = 1

    def forward(self, x):
        for _ in range(self.n_times):
            hidden = self.inner(x)
        return hidden


def test_a_layer_is_looked_at_again_when_its_model_changes():
    model, X = Repeated(), np.eye(3, dtype=np.float32)
    extractor = ActivationExtractor(model, "inner", tokenizer=None).fit(X)
    model.inner[0] = nn.Linear(3, 5)
    with pytest.raises(ValueError, match=r"'inner' has 5 features, but had 3 in fit. Fit again"):
        extractor.transform(X)
    assert extractor.fit(X).transform(X).shape == (3, 5)
    assert len(extractor.get_feature_names_out()) == 5
    model.n_times = 2
    with pytest.raises(ValueError, match=r"'inner' is called 2 times"):
        extractor.transform(X)
    model.n_times = 1
    assert extractor.transform(X).shape == (3, 5)


def test_a_layer_is_looked_at_once_in_a_model_that_stays_the_same():
    model, X = Repeated(), np.eye(3, dtype=np.float32)
    outer, n_passes = nn.Sequential(model, nn.Identity()).train(), []
    outer[1].register_forward_hook(lambda *call: n_passes.append(call))
    extractor = ActivationExtractor(outer, "0.inner", tokenizer=None).fit(X)
    extractor.transform(X)
    outer.eval()
    extractor.transform(X)
    assert len(n_passes) == 1


@pytest.mark.slow
def test_samples_of_many_shapes_are_not_remembered_at_length():
    model = nn.Sequential(*(nn.ReLU() for _ in range(200)))
    extractor = ActivationExtractor(model, "0", tokenizer=None)
    extractor.transform(np.ones((1, 1)))
    gc.collect()
    tracemalloc.start()
    try:
        for n_features in range(2, 32):
            extractor.transform(np.ones((1, n_features)))
        gc.collect()
        n_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_bytes < 30 * 10_000  # to keep what is known of 200 modules takes five times as much


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([[1, 99]], r"on X, which has .* shape \(1, 2\) .* to 99: .* in embeddings of 16 rows"),
        ([[1.5, 2.0]], r"on X, which has dtype float64, shape \(1, 2\) .* give them as integers"),
    ],
)
def test_what_the_model_does_not_take(X, message):
    model = nn.Sequential(nn.Embedding(16, 4), nn.Flatten())
    extractor = ActivationExtractor(model, "0", tokenizer=None)
    for _ in range(2):  # the first call examines the layer
        with pytest.raises(ValueError, match=message):
            extractor.transform(X)
        extractor.transform([[1, 2]])


def test_a_list_with_none_is_not_taken_for_nan(mlp):
    with pytest.raises(ValueError, match="X contains NaN"):
        ActivationExtractor(mlp, "1", tokenizer=None).transform([[1.0, None, 2.0]])
