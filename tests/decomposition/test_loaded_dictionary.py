"""Dictionaries of other libraries: what an estimator does with each of their peculiarities.

The reference is the definition in plain NumPy, in float64.
"""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skdict._core.formats import Record, Weights
from skdict._core.models.architectures import AbsTopK, GroupMax, JumpReLU, ReLU, TopK
from skdict._core.normalization import RowNormalization
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.decomposition._records import estimator_from
from skdict.inspection import replace_activations, steer
from skdict.metrics import explained_variance_scorer

D, N = 12, 30


def parts(seed=0, *, d_out=D):
    draw = np.random.default_rng(seed).normal
    return {
        "encoder": draw(size=(N, D)) / 2,
        "encoder_bias": draw(size=N) / 3,
        "decoder": draw(size=(N, d_out)) * np.linspace(0.4, 2.5, N)[:, None],
        "decoder_bias": draw(size=d_out),
    }


def rows(n=64):
    return np.random.default_rng(1).normal(size=(n, D)) * 1.5 + 0.3


def loaded(architecture=None, *, units="source", dtype=torch.float64, **given):
    weights = Weights(
        **{k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    )
    dictionary = weights.dictionary(units=units, dtype=dtype)
    return estimator_from(Record(dictionary, architecture or ReLU()), SparseAutoencoderDictionary)


def largest(score, k):
    kept = np.zeros(score.shape, bool)
    np.put_along_axis(kept, np.argsort(-score, axis=1)[:, :k], True, axis=1)
    return kept


def norms(matrix):
    return np.linalg.norm(matrix, axis=1)


def reference(X, given):
    """Codes and reconstructions by the definition."""
    g = {"offset": 0.0, "input_scale": 1.0, "threshold": 0.0, "k": None, **given}
    rule, n = g.get("selection", "positive"), norms(g["decoder"])
    mean, size, eps = 0.0, 1.0, 0.0
    normalization = g.get("normalization")
    if normalization is not None and normalization.kind == "layer_norm":
        mean = X.mean(axis=1, keepdims=True)
        size = X.std(axis=1, keepdims=True, ddof=normalization.ddof)
        eps = normalization.eps  # not when it is undone
    elif normalization is not None:
        size = norms(X)[:, None] / np.sqrt(X.shape[1])
    p = ((X - mean) / (size + eps) * g["input_scale"] - g["offset"]) @ g["encoder"].T + g[
        "encoder_bias"
    ]
    s = p * n if g.get("scales_by_norm") else p
    ranked = p * n if g.get("ranks_by_norm") else s
    if g.get("keeps_equal"):
        active = ranked >= g["threshold"]
    else:
        active = ranked > g["threshold"]
    if rule == "absolute":
        active = largest(abs(s), g["k"])
    elif rule == "signed" and g["k"]:
        active = largest(s, g["k"])
    elif rule == "positive":
        active &= s > 0
        if g["k"]:
            active &= largest(ranked, g["k"])
    codes = np.where(active, s, 0)
    decoded = codes / n if g.get("scales_by_norm") else codes
    decoded = decoded * g.get("decoder_factor", 1.0)
    found = (decoded @ g["decoder"] + g["decoder_bias"]) / g["input_scale"]
    if "skip" in g:
        found = found + X @ g["skip"].T
    return codes, found * size + mean


def cases():
    plain = parts()
    offset = {"offset": plain["decoder_bias"]}
    threshold = {"threshold": np.linspace(-0.2, 0.8, N)}
    layer_norm = RowNormalization("layer_norm", eps=1e-5, ddof=1)
    yield "no offset", {}, ReLU()
    yield "offset", offset, ReLU()
    yield "own offset", {"offset": np.linspace(-1, 1, D)}, ReLU()
    yield "threshold", threshold, JumpReLU()
    yield "threshold, sign kept", {**threshold, "selection": "signed"}, JumpReLU()
    yield "scaled", {**offset, "input_scale": 0.3}, ReLU()
    yield "factor", {"decoder_factor": np.linspace(0.5, 2, N)}, ReLU()
    yield "top-k", {**offset, "k": 4}, TopK(4)
    yield "top-k, scaled by norms", {**offset, "k": 4, "scales_by_norm": True}, TopK(4)
    yield "threshold, scaled by norms", {**threshold, "scales_by_norm": True}, JumpReLU()
    yield "top-k, ranked by norms", {"k": 4, "ranks_by_norm": True}, TopK(4)
    yield "threshold, ranked by norms", {**threshold, "ranks_by_norm": True}, JumpReLU()
    yield "absolute", {**offset, "k": 4, "selection": "absolute"}, AbsTopK(4)
    yield "signed", {"k": 20, "selection": "signed"}, TopK(20, nonnegative=False)
    yield "layer norm", {**offset, "k": 4, "normalization": layer_norm}, TopK(4)
    yield "row norm", {"normalization": RowNormalization("row_norm")}, ReLU()


CASES = {name: (extra, architecture) for name, extra, architecture in cases()}


@pytest.mark.parametrize("units", ["source", "unit"])
@pytest.mark.parametrize("name", CASES)
def test_codes_and_reconstructions(name, units):
    extra, architecture = CASES[name]
    given, X = parts() | extra, rows()
    estimator = loaded(architecture, units=units, **given)
    codes, reconstruction = reference(X, given)
    found = estimator.transform(X)
    if units == "unit":  # unit atoms times codes add up to the reconstruction
        assert not hasattr(estimator, "component_norms_")
        factor = norms(given["decoder"]) * given.get("decoder_factor", 1.0)
        factor = factor / given.get("input_scale", 1.0)
        if given.get("scales_by_norm"):
            factor = factor / norms(given["decoder"])
        codes = codes * factor
    np.testing.assert_array_equal(found != 0, codes != 0)
    np.testing.assert_allclose(found, codes, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(estimator.reconstruct(X), reconstruction, rtol=1e-9, atol=1e-9)
    if "normalization" not in given:
        np.testing.assert_allclose(estimator.inverse_transform(found), reconstruction, rtol=1e-9)
    np.testing.assert_allclose(norms(estimator.components_), 1)


@pytest.mark.parametrize("name", CASES)
def test_tensors_batches_and_copies(name):
    extra, architecture = CASES[name]
    estimator = loaded(architecture, dtype=torch.float32, **parts(), **extra)
    X = rows().astype(np.float32)
    codes = estimator.transform(X)
    one_by_one = np.concatenate([estimator.transform(X[i : i + 1]) for i in range(8)])
    np.testing.assert_allclose(one_by_one, codes[:8], rtol=1e-5, atol=1e-5)
    as_tensor = estimator.transform(torch.from_numpy(X))
    np.testing.assert_array_equal(as_tensor.numpy(), codes)
    sparse = estimator.set_params(sparse_output=True).transform(X)
    np.testing.assert_array_equal(sparse.toarray(), codes)
    estimator.set_params(sparse_output=False)
    for other in (copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))):
        np.testing.assert_array_equal(other.transform(X), codes)
        np.testing.assert_array_equal(other.reconstruct(X), estimator.reconstruct(X))


def test_group_maxima():
    given = parts()
    estimator = loaded(GroupMax(5), k=5, selection="groups", **given)
    p = rows() @ given["encoder"].T + given["encoder_bias"]
    groups = p.reshape(-1, 5, 6)
    expected = np.where((groups == groups.max(axis=2, keepdims=True)) & (groups > 0), groups, 0)
    np.testing.assert_allclose(estimator.transform(rows()), expected.reshape(p.shape), rtol=1e-12)


def test_equal_to_the_threshold():
    """A rule with ≥ is that with > at the next smaller number."""
    given = parts() | {"encoder": np.eye(N, D), "encoder_bias": np.zeros(N)}
    X = np.zeros((3, D))
    X[:, 0] = [0.5, np.nextafter(0.5, 0), np.nextafter(0.5, 1)]
    for keeps_equal, expected in ((True, [True, False, True]), (False, [False, False, True])):
        estimator = loaded(JumpReLU(), threshold=0.5, keeps_equal=keeps_equal, **given)
        assert (estimator.transform(X)[:, 0] > 0).tolist() == expected


def test_a_transcoder():
    given = parts(d_out=7) | {"skip": np.random.default_rng(2).normal(size=(7, D))}
    estimator = loaded(is_transcoder=True, **given)
    codes, expected = reference(rows(), given)
    np.testing.assert_allclose(estimator.transform(rows()), codes, rtol=1e-12)
    assert estimator.n_features_in_ == D and estimator.components_.shape == (N, 7)
    np.testing.assert_allclose(estimator.reconstruct(rows()), expected, rtol=1e-12)
    for refused in (
        lambda: estimator.calibrate(rows()),
        lambda: estimator.set_params(transform_algorithm="omp").transform(rows()),
        lambda: clone(estimator).set_params(dict_init=estimator).fit(rows()),
    ):
        with pytest.raises(ValueError, match="transcoder"):
            refused()
    estimator.set_params(transform_algorithm="auto")
    with pytest.raises(TypeError, match="transcoder"):
        explained_variance_scorer(estimator, rows())


def test_other_coders_use_the_same_scale_of_codes():
    """Codes of Lasso on a dictionary with norms decode by the same inverse_transform."""
    estimator = loaded(**parts())
    estimator.set_params(transform_algorithm="lasso", transform_alpha=1e-6)
    codes = estimator.transform(rows())
    np.testing.assert_allclose(estimator.inverse_transform(codes), rows(), atol=1e-2)
    estimator.set_params(transform_alpha=None)
    with pytest.raises(ValueError, match="transform_alpha"):
        estimator.transform(rows())


def test_changed_codes_are_decoded_with_their_rows():
    normalization = RowNormalization("layer_norm", eps=1e-5, ddof=1)
    estimator, X = loaded(normalization=normalization, **parts()), rows()
    codes = estimator.transform(X)
    both = estimator.reconstruct(X, 2 * codes) - estimator.reconstruct(X, 0 * codes)
    one = estimator.reconstruct(X, codes) - estimator.reconstruct(X, 0 * codes)
    np.testing.assert_allclose(both, 2 * one, rtol=1e-8, atol=1e-9)
    with pytest.raises(ValueError, match="codes has 3 rows"):
        estimator.reconstruct(X, codes[:3])


def test_metrics_and_interventions_reconstruct_rows():
    normalization = RowNormalization("layer_norm", eps=1e-5, ddof=1)
    estimator, X = loaded(normalization=normalization, **parts()), rows()
    expected = 1 - ((X - estimator.reconstruct(X)) ** 2).sum() / ((X - X.mean(0)) ** 2).sum()
    assert explained_variance_scorer(estimator, X) == pytest.approx(expected)
    double = FunctionTransformer(lambda X: 2 * X, lambda X: X / 2, check_inverse=False).fit(X)
    piped = make_pipeline(double, estimator)
    given = ((X - estimator.reconstruct(2 * X) / 2) ** 2).sum() / ((X - X.mean(0)) ** 2).sum()
    assert explained_variance_scorer(piped, X) == pytest.approx(1 - given)
    model = torch.nn.Sequential(torch.nn.Identity())
    x = torch.from_numpy(X).float()
    with torch.no_grad(), replace_activations(model, "0", estimator, keep_error=False):
        np.testing.assert_allclose(model(x), estimator.reconstruct(X), atol=1e-4)
    with (
        pytest.raises(ValueError, match="normalises each row"),
        steer(model, "0", estimator, 3, strength=1.0),
    ):
        pass


def test_calibration_gives_the_score_of_a_fit():
    X, _, _ = make_superposition(n_samples=2000, n_features=D, n_components=N, random_state=0)
    fitted = SparseAutoencoderDictionary(N, max_iter=2, early_stopping=False, random_state=0).fit(
        X
    )
    given = {
        "encoder": fitted.encoder_coef_,
        "encoder_bias": fitted.encoder_intercept_,
        "decoder": fitted.components_,
        "decoder_bias": fitted.intercept_,
        "offset": fitted.intercept_,
    }
    estimator = loaded(**given)
    with pytest.raises(NotFittedError, match="calibrate"):
        estimator.score(X)
    assert estimator.calibrate(X) is estimator
    assert estimator.score(X) == pytest.approx(fitted.score(X), rel=1e-9)
    assert estimator.alpha_ == pytest.approx(fitted.alpha_)
    np.testing.assert_allclose(estimator.feature_density_, fitted.feature_density_)
    with pytest.warns(UserWarning, match="fraction of variance unexplained"):
        estimator.calibrate(X / 100)  # beside the biases


@pytest.mark.parametrize("name", [name for name in CASES if "norm" not in name.split()[-1]])
def test_training_goes_on(name):
    extra, architecture = CASES[name]
    X = rows(300)
    given = parts() | extra
    given["decoder"] = 0.1 * given["decoder"]  # random codes should not be worse than none
    estimator = loaded(architecture, dtype=torch.float32, **given)
    for fitted in (
        SparseAutoencoderDictionary(
            N, architecture=architecture, max_iter=1, dict_init=estimator, random_state=0
        ).fit(X),
        SparseAutoencoderDictionary(dict_init=estimator.dictionary_, random_state=0).partial_fit(
            X
        ),
        copy.deepcopy(estimator).partial_fit(X),
        copy.deepcopy(estimator).set_params(warm_start=True, max_iter=1).fit(X),
        clone(estimator).set_params(max_iter=1).fit(X),
    ):
        assert np.isfinite(fitted.score(X))
        assert not hasattr(fitted, "component_norms_") and not hasattr(fitted, "input_offset_")


@pytest.mark.parametrize("name", ["no offset", "offset", "threshold", "factor", "scaled"])
def test_what_is_trained_begins_as_the_loaded_one(name):
    extra, architecture = CASES[name]
    estimator = loaded(architecture, **parts(), **extra)
    trained = estimator.dictionary_.to_train()
    assert trained.norms is None and trained.offset is None
    x = torch.from_numpy(rows())
    codes = trained.coder("encoder")(x)
    np.testing.assert_allclose(
        trained.reconstruct(x, codes), estimator.reconstruct(rows()), rtol=1e-8, atol=1e-9
    )


def test_training_goes_on_beside_a_dead_latent():
    """Its atom is zero: that is no divergence."""
    given = parts()
    given["decoder"] = 0.1 * given["decoder"]
    given["encoder"][3], given["encoder_bias"][3], given["decoder"][3] = 0, -1, 0
    estimator = loaded(dtype=torch.float32, **given).partial_fit(rows(300).astype(np.float32))
    assert np.isfinite(estimator.components_).all()
    assert np.isfinite(estimator.score(rows(300)))


def test_a_clone_of_what_training_begins_with_is_refused():
    estimator = SparseAutoencoderDictionary(dict_init=loaded(**parts()))
    with pytest.raises(ValueError, match=r"dict_init=loaded\.dictionary_"):
        clone(estimator).fit(rows())


def test_rows_of_several_axes():
    estimator = loaded(**parts())
    estimator.input_shape_ = (3, 4)
    X = rows()
    np.testing.assert_array_equal(estimator.transform(X.reshape(-1, 3, 4)), estimator.transform(X))
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        estimator.transform(X.reshape(-1, 4, 3))
