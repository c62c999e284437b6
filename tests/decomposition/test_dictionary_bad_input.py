"""Whatever is wrong is said by name, with what was found and what to do."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from dictionary_testing import LEARN_FROM_STREAMS, SOLVERS, make_estimator
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from views_testing import ArrayView

from skdict._core.data import in_memory
from skdict._core.sizes import size_of
from skdict.decomposition import SparseAutoencoderDictionary, alpha_grid

# Lasso on a handful of coherent atoms.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NO_CUDA = not torch.cuda.is_available()

KINDS = {
    "float64": np.asarray,
    "float32": lambda X: X.astype(np.float32),
    "float16": lambda X: X.astype(np.float16),
    "Fortran order": np.asfortranarray,
    "list": lambda X: X.tolist(),
    "DataFrame": lambda X: pd.DataFrame(X, columns=[f"n{i}" for i in range(X.shape[1])]),
    "CSR matrix": sp.csr_matrix,
    "CSR array": sp.csr_array,
    "tensor float32": lambda X: torch.from_numpy(X).float(),
    "tensor bfloat16": lambda X: torch.from_numpy(X).bfloat16(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
def test_nan_and_infinity_are_named_with_row_and_column(planted, fitted, kind, value, name):
    X = planted.copy()
    X[437, 11] = value
    X[438, 2] = -np.inf  # the first in order is named; sums of both signs are no obstacle
    message = rf"Input X contains {name} \({value}\) at row 437, column 11\. Drop or impute"
    X = KINDS[kind](X)
    methods = [make_estimator().fit, make_estimator().partial_fit, alpha_grid]
    if kind != "DataFrame":
        methods += [fitted["autoencoder"].transform, fitted["autoencoder"].score]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in methods:
            with pytest.raises(ValueError, match=message):
                method(X)


def test_nan_is_found_in_every_block(planted, fitted, monkeypatch):
    monkeypatch.setattr("skdict._core.data.source.BLOCK_BYTES", 16 * 8 * 10)  # ten rows a block
    for row, column in ((0, 0), (9, 3), (10, 0), (599, 15)):
        X = planted.copy()
        X[8] = 0
        X[row, column] = np.nan
        for array in (X, torch.from_numpy(X), sp.csr_matrix(X)):
            with pytest.raises(ValueError, match=f"at row {row}, column {column}"):
                fitted["autoencoder"].transform(array)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("as_kind", [np.asarray, torch.as_tensor], ids=["array", "tensor"])
@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((1, 4)), r"1 sample\(s\) \(shape=\(1, 4\)\) while a minimum of 2 is required by"),
        (np.ones((0, 4)), r"0 sample\(s\) \(shape=\(0, 4\)\) while a minimum of 2 is required"),
        (np.ones((9, 0)), r"0 feature\(s\) \(shape=\(9, 0\)\) while a minimum of 1 is required"),
        (np.zeros((9, 4)), r"X has zero variance: all 9 samples are equal .* that differ"),
        (np.full((9, 4), 0.1), "X has zero variance: all 9 samples are equal"),
        (np.full((9, 4), 1e6 / 3), "X has zero variance: all 9 samples are equal"),
        (np.ones(9), "Expected 2D array"),
        (np.ones((9, 4, 2)), "got 3D (array|tensor) instead"),
        (np.ones((9, 4)) * 1j, "Complex data not supported"),
    ],
    ids=lambda value: str(getattr(value, "shape", "")),
)
def test_data_without_a_dictionary(solver, as_kind, X, message):
    estimator = make_estimator(solver=solver)
    with pytest.raises(ValueError, match=message):
        estimator.fit(as_kind(X))
    if solver in LEARN_FROM_STREAMS:
        with pytest.raises(ValueError, match=message):
            estimator.partial_fit(as_kind(X))
    with pytest.raises(NotFittedError):  # a failed fit is no fit
        estimator.transform(np.ones((9, 4)))


def test_a_constant_matrix_in_float32_is_recognised():
    X = np.full((3000, 5), 0.1, dtype=np.float32)
    with pytest.raises(ValueError, match="X has zero variance"):
        make_estimator().fit(X)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_pairs_of_atoms_for_which_there_is_no_memory(planted, method):
    estimator = make_estimator(solver="alternating", n_components=10**7)
    with pytest.raises(MemoryError, match=r"with 10000000 components 800 TB, where .*available"):
        getattr(estimator, method)(planted[:, :2])


@pytest.mark.parametrize(
    ("params", "n_arrays", "itemsize", "instead"),
    [
        ({"solver": "kmeans"}, 2, 4, "solver='autoencoder' or 'alternating'"),
        ({"solver": "dictionary_learning"}, 2, 8, "solver='autoencoder' or 'alternating'"),
        ({"solver": "dictionary_learning", "shuffle": False}, 1, 8, "solver='autoencoder' or"),
        ({"dict_init": "pca"}, 1, 4, "dict_init='exemplars' or 'random'"),
        ({"dict_init": "ica"}, 3, 8, "dict_init='exemplars' or 'random'"),
        ({"dict_init": "nmf", "fit_intercept": False}, 1, 4, "dict_init='exemplars' or 'random'"),
        ({"solver": "lasso", "dict_init": "pca"}, 1, 4, "dict_init='exemplars' or 'random'"),
    ],
)
def test_rows_for_which_there_is_no_memory(
    planted, monkeypatch, params, n_arrays, itemsize, instead
):
    """Said before it is tried, and by how much; as many rows as there is memory for do."""
    X = np.abs(planted[:200]).astype(np.float32)
    needed = n_arrays * itemsize * X.shape[1]
    estimator = make_estimator(n_components=6, max_iter=1, **params)
    monkeypatch.setattr(in_memory, "available_memory", lambda device: 100.5 * needed)
    user = next(f"{key}={params[key]!r}" for key in ("dict_init", "solver") if key in params)
    message = re.escape(
        f"{user} needs all rows of X in memory: 200 rows take {size_of(200 * needed)}, where "
        f"{size_of(100.5 * needed)} are available. Give no more than 100 rows, or use "
        f"{instead}"
    )
    for of_kind in (X, ArrayView(X)):
        with pytest.raises(MemoryError, match=message):
            estimator.fit(of_kind)
    estimator.fit(X[:100])


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_constant_column_is_handled(planted, solver):
    X = planted.copy()
    X[:, 5] = 7.25
    estimator = make_estimator(solver=solver, max_iter=20).fit(X)
    reconstruction = estimator.inverse_transform(estimator.transform(X))
    assert np.isfinite(reconstruction).all()
    assert np.sqrt(np.mean((reconstruction[:, 5] - 7.25) ** 2)) < 0.15
    assert np.isfinite(estimator.score(X))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_components": 0}, r"'n_components' .* in the range \[1, inf\).* Got 0 instead"),
        ({"n_components": -3}, "'n_components' .* Got -3 instead"),
        ({"n_components": 2.5}, "'n_components' .* must be .*'auto'.* Got 2.5 instead"),
        ({"alpha": -0.1}, r"'alpha' .* in the range \[0.0, inf\). Got -0.1 instead"),
        ({"alpha": "foo"}, r"'alpha' .* must be a str among {'auto'} or a float .* Got 'foo'"),
        ({"alpha": np.nan}, "'alpha' .* Got nan instead"),
        ({"alpha": np.inf}, "'alpha' .* Got inf instead"),
        (
            {"architecture": "gelu"},
            "'architecture' .*'topk'.* Got 'gelu' instead",
        ),
        ({"n_nonzero_coefs": 0}, "'n_nonzero_coefs' .* Got 0 instead"),
        ({"solver": "sgd"}, "'solver' .* must be a str among .*'autoencoder'.* Got 'sgd'"),
        ({"transform_algorithm": "lars"}, "'transform_algorithm' .*'encoder'.* Got 'lars'"),
        ({"transform_alpha": -1.0}, "'transform_alpha' .* Got -1.0 instead"),
        ({"transform_n_nonzero_coefs": 0}, "'transform_n_nonzero_coefs' .* Got 0 instead"),
        ({"max_iter": 0}, "'max_iter' .* Got 0 instead"),
        ({"batch_size": 0}, "'batch_size' .* Got 0 instead"),
        ({"learning_rate_init": 0.0}, "'learning_rate_init' .* Got 0.0 instead"),
        ({"validation_fraction": 1.0}, "'validation_fraction' .* Got 1.0 instead"),
        ({"device": 0}, "'device' .* must be an instance of 'str'. Got 0 instead"),
        ({"device": "abacus"}, "device='abacus' is not a device name of torch. Use 'auto'"),
        ({"device": "meta"}, "device='meta' cannot be used on this machine: .* Use device='auto'"),
        (
            {"dict_init": np.ones((32, 5))},
            r"dict_init has shape \(32, 5\), but \(n_components, n_features\) is \(32, 16\)",
        ),
        (
            {"dict_init": np.ones((31, 16))},
            r"dict_init has shape \(31, 16\), .* is \(32, 16\)\. Make them agree, or leave",
        ),
        ({"dict_init": np.full((32, 16), np.nan)}, "dict_init contains NaN"),
        (
            {"dict_init": np.vstack([np.ones((4, 16)), np.zeros((28, 16))])},
            r"dict_init has a zero row \(4\)\. An atom needs a direction",
        ),
        ({"random_state": "seed"}, "'random_state' .* Got 'seed' instead"),
    ],
    ids=lambda value: (
        " ".join(f"{k}={v!r:.20}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_parameters(planted, params, message):
    for method in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match=message):
            getattr(make_estimator(**params), method)(planted)


@pytest.mark.skipif(not NO_CUDA, reason="there is CUDA")
def test_cuda_where_there_is_none(planted, fitted):
    message = r"device='cuda(:1)?' asks for CUDA, but this machine has 0 .*Use device='auto' or"
    for device in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=message):
            make_estimator(device=device).fit(planted)


@pytest.mark.parametrize("solver", ["alternating", "dictionary_learning", "lasso"])
def test_an_encoder_that_the_solver_does_not_train(planted, solver):
    estimator = make_estimator(solver=solver, transform_algorithm="encoder")
    message = (
        f"transform_algorithm='encoder' needs an encoder, which solver='{solver}' does not "
        "train. Use transform_algorithm='auto', 'lasso', 'omp' or 'threshold', or "
        "solver='autoencoder' or 'kmeans'."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        estimator.fit(planted)
    fitted = make_estimator(solver=solver).fit(planted).set_params(transform_algorithm="encoder")
    for method in (fitted.transform, fitted.score):
        with pytest.raises(ValueError, match=re.escape(message)):
            method(planted)


@pytest.mark.parametrize("solver", ["lasso", "kmeans"])
def test_solvers_that_do_not_learn_from_streams(planted, solver):
    estimator = make_estimator(solver=solver)
    assert not hasattr(estimator, "partial_fit")
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'") as raised:
        estimator.partial_fit(planted)
    reason = f"not available with solver='{solver}': its atoms .* Use fit, or solver="
    assert re.search(reason, str(raised.value.__cause__))
    assert hasattr(estimator.set_params(solver="autoencoder"), "partial_fit")


def test_more_exemplars_than_samples(planted):
    message = "n_components=32 exemplars asked for, but X has only 20 samples .* Use fewer"
    with pytest.raises(ValueError, match=message):
        make_estimator(solver="lasso").fit(planted[:20])
    # copies of the mean cannot be atoms
    X = np.vstack([planted[:20], np.tile(planted[:20].mean(axis=0), (20, 1))])
    with pytest.raises(ValueError, match="only 20 samples that differ from its mean"):
        make_estimator(solver="lasso", n_components=32).fit(X)
    assert make_estimator(solver="lasso", n_components=20).fit(X).components_.shape == (20, 16)


@pytest.mark.parametrize("method", ["transform", "inverse_transform", "score", "score_samples"])
def test_not_fitted(planted, method):
    message = "instance is not fitted yet. Call 'fit' with appropriate arguments"
    with pytest.raises(NotFittedError, match=message):
        getattr(SparseAutoencoderDictionary(), method)(planted)
    with pytest.raises(NotFittedError, match=message):
        SparseAutoencoderDictionary().get_feature_names_out()


@pytest.mark.parametrize("as_kind", [np.asarray, torch.tensor, sp.csr_matrix])
def test_another_number_of_columns(planted, fitted, as_kind):
    estimator = fitted["autoencoder"]
    for method in (estimator.transform, estimator.score):
        with pytest.raises(ValueError, match=r"X has 15 features, but .* expecting 16 features"):
            method(as_kind(planted[:, 1:]))
    with pytest.raises(ValueError, match="X has 16 columns, but the dictionary has 32 compon"):
        estimator.inverse_transform(as_kind(planted))


@pytest.mark.parametrize("as_sparse", [torch.Tensor.to_sparse, lambda X: X.to_sparse_bsr((2, 2))])
@pytest.mark.filterwarnings("ignore:Sparse (CSR|BSR) tensor support is in beta")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
def test_sparse_tensors_are_csr(planted, fitted, as_sparse):
    X = as_sparse(torch.from_numpy(planted.copy()))
    message = r"X is a sparse tensor \(layout torch.sparse_(bsr|coo)\).* Use X.to_dense\(\) or"
    for method in (
        make_estimator().fit,
        fitted["autoencoder"].transform,
        fitted["autoencoder"].inverse_transform,
        alpha_grid,
    ):
        with pytest.raises(TypeError, match=message):
            method(X)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
def test_csr_tensors_that_are_none(fitted):
    """Unsorted and repeated columns, and columns that do not exist, are not read."""
    for columns in ([1, 0], [1, 1], [0, 16]):
        parts = torch.tensor([0, 2]), torch.tensor(columns), torch.ones(2)
        X = torch.sparse_csr_tensor(*parts, size=(1, 16), check_invariants=False)
        with pytest.raises(ValueError, match=r"X must be a matrix .*, but: `.*col_indices"):
            fitted["autoencoder"].transform(X)


def test_sums_of_entries_are_checked(planted):
    """A CSR matrix may have several entries at a place: what they sum up to must be finite."""
    dense = sp.csr_array(planted)
    parts = (
        np.concatenate([[1.5e308, 1.5e308], dense.data]),
        np.concatenate([[2, 2], dense.indices]),
        np.concatenate([[0], dense.indptr[1:] + 2]),
    )
    X = sp.csr_array(parts, shape=planted.shape)
    for method in (make_estimator().fit, alpha_grid):
        with pytest.raises(ValueError, match=r"X contains infinity \(inf\) at row 0, column 2"):
            method(X)
    assert X.nnz == dense.nnz + 2  # the caller's stays what it is


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
def test_codes_must_be_finite_and_two_dimensional(planted, fitted):
    estimator = fitted["autoencoder"]
    codes = estimator.transform(planted)
    codes[3, 4] = np.nan
    tensor = torch.from_numpy(codes)
    for array in (
        codes,
        sp.csr_matrix(codes),
        sp.coo_array(codes),
        tensor,
        tensor.to_sparse_csr(),
    ):
        with pytest.raises(ValueError, match=r"X contains NaN \(nan\) at row 3, column 4"):
            estimator.inverse_transform(array)
    with pytest.raises(TypeError, match="X is a sparse tensor"):  # transform returns CSR
        estimator.inverse_transform(tensor.to_sparse())
    for array in (codes[0], torch.from_numpy(codes[0])):
        with pytest.raises(ValueError, match="Expected 2D array"):
            estimator.inverse_transform(array)


def test_sparse_output_is_no_data_frame(planted):
    estimator = make_estimator(sparse_output=True).set_output(transform="pandas").fit(planted)
    with pytest.raises(ValueError, match="outputs a scipy sparse matrix"):
        estimator.transform(planted)


@pytest.mark.parametrize("n_alphas", [1, 0, -2, 2.5, "8", True])
def test_alpha_grid_needs_two_values(planted, n_alphas):
    with pytest.raises(ValueError, match=rf"'n_alphas' .* \[2, inf\). Got {n_alphas!r}"):
        alpha_grid(planted, n_alphas=n_alphas)


def test_alpha_grid_of_nothing():
    with pytest.raises(ValueError, match="X has zero variance"):
        alpha_grid(np.ones((10, 3)))
    with pytest.raises(ValueError, match="minimum of 2"):
        alpha_grid(np.ones((1, 3)))


@pytest.mark.parametrize(
    ("params", "grid", "message"),
    [
        ({"architecture": "topk"}, {"alpha": [0.1, 0.2]}, "alpha=0.1 has hardly any effect"),
        ({"architecture": "relu"}, {"n_nonzero_coefs": [1, 2]}, "does not use n_nonzero_coefs"),
    ],
)
def test_a_search_over_what_has_no_effect_warns_once(planted, params, grid, message):
    """scikit-learn's, which fits each candidate in each fold, and the best one again."""
    for _ in range(2):  # each search for itself
        estimator = make_estimator(max_iter=1, **params)
        search = GridSearchCV(estimator, grid, cv=2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            search.fit(planted)
        assert len([w for w in caught if "effect" in str(w.message)]) == 1
        assert sum(bool(re.search(message, str(w.message))) for w in caught) == 1
    for _ in range(2):  # and each fit by itself
        with pytest.warns(UserWarning, match=message):
            make_estimator(max_iter=1, **params).set_params(
                **{name: values[0] for name, values in grid.items()}
            ).fit(planted)
