"""Top activations and their snippets, against sorting by hand."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_array_equal

from skdict.datasets import load_one_layer_transformer
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import Snippet, context_snippets, top_activations

TOKENS = {
    "document": np.array([0, 0, 0, 1]),
    "token": np.array(["def", " f", "():", "<s>"], dtype=object),
    "start": np.array([0, 3, 5, 0]),
    "end": np.array([3, 5, 8, 0]),
}
TEXTS = ["def f():\n    pass", "x = 1"]


@pytest.fixture
def codes():
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 6, (40, 7)) * (rng.random((40, 7)) < 0.5)  # many ties
    codes = codes.astype(np.float32)
    codes[:, 3] = 0  # never active
    codes[:, 4] *= -1  # nor is a negative one
    return codes


@pytest.mark.parametrize("n_top", [1, 5, 100])
def test_against_sorting(codes, n_top):
    features = [5, 0, 3, 4, 0]
    tops = top_activations(codes, features, n_top=n_top)
    assert len(tops) == 5
    for feature, top in zip(features, tops, strict=True):
        expected = sorted(np.flatnonzero(codes[:, feature] > 0), key=lambda i: -codes[i, feature])
        assert_array_equal(top.rows, expected[:n_top])
        assert_array_equal(top.codes, codes[top.rows, feature])
        assert top.rows.dtype == np.int64
    assert len(tops[2].rows) == len(tops[3].rows) == 0


def sparse_with_zeros(codes):
    """CSR that stores its zeros too, and one entry in two halves."""
    n, m = codes.shape
    rows, columns = (index.ravel() for index in np.indices((n, m)))
    data = np.concatenate([codes.ravel(), [codes[1, 5]]])
    data[m + 5] = 0
    indices = np.append(columns, 5)
    order = np.argsort(np.append(rows, 1), kind="stable")
    indptr = np.append(0, np.cumsum(np.bincount(np.append(rows, 1))))
    return sp.csr_array((data[order], indices[order], indptr), shape=(n, m))


@pytest.mark.parametrize(
    "convert",
    [
        sp.csr_array,
        sp.csc_matrix,
        sparse_with_zeros,
        torch.from_numpy,
        lambda codes: torch.from_numpy(codes).to(torch.bfloat16),
        lambda codes: torch.from_numpy(codes).to_sparse_csr(),
        np.ndarray.tolist,
    ],
)
def test_containers(codes, convert):
    expected = top_activations(codes, range(7), n_top=4)
    for top, same in zip(
        top_activations(convert(codes), range(7), n_top=4), expected, strict=True
    ):
        assert_array_equal(top.rows, same.rows)
        assert_array_equal(top.codes, same.codes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0, 2.0]], [2]), "features has 2, but there are 2 columns of codes, from 0 to 1"),
        (([[1.0, 2.0]], [-1]), "features has -1"),
        (([[1.0, 2.0]], [0.5]), "must be an integer or a list of integers.* float64"),
        (([[1.0, np.nan]], [1]), "codes contains NaN"),
        ((sp.csr_array([[1.0, np.inf]]), [1]), "codes contains NaN or infinity"),
        (([1.0, 2.0], [0]), "codes must be a matrix"),
    ],
)
def test_bad_codes_and_features(arguments, message):
    with pytest.raises(ValueError, match=message):
        top_activations(*arguments)


def test_bad_n_top():
    with pytest.raises(ValueError, match="'n_top' parameter of top_activations"):
        top_activations([[1.0]], [0], n_top=0)


def test_snippets():
    assert context_snippets(TEXTS, TOKENS, [2, 0], before=4, after=5) == [
        Snippet("ef f", "():", "\n    "),
        Snippet("", "def", " f():"),
    ]
    assert context_snippets(TEXTS, TOKENS, [1], before=0, after=0) == [("", " f", "")]
    # a special token stands for no text, and is known by its name
    assert context_snippets(TEXTS, TOKENS, [3]) == [("", "<s>", "x = 1")]
    assert context_snippets(TEXTS, TOKENS, []) == []


@pytest.mark.slow
def test_snippets_of_an_extractors_tokens():
    language = load_one_layer_transformer()
    extractor = ActivationExtractor(
        language.model, "transformer.h.0.mlp.act", tokenizer=language.tokenizer
    )
    texts = ["for i in range(10):", "import os\nimport sys"]
    tokens = extractor.tokens(texts)
    activations = extractor.fit_transform(texts)
    top = top_activations(activations, [activations.max(axis=0).argmax()], n_top=4)[0]
    snippets = context_snippets(texts, tokens, top.rows, before=100, after=100)
    assert len(snippets) > 0
    for row, snippet in zip(top.rows, snippets, strict=True):
        assert "".join(snippet) == texts[tokens.document[row]]
        assert len(snippet.before) == tokens.start[row]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [4]}, "rows has 4, but there are 4 tokens"),
        ({"rows": [-1]}, "rows has -1"),
        ({"rows": [0.0]}, "must be an integer or a list of integers"),
        ({"texts": ["def f(): pass"], "rows": [3]}, "texts has 1 entries"),
        ({"texts": ["def f", ""], "rows": [2]}, "characters 5 to 8 of text 0, which do not"),
        ({"tokens": TOKENS | {"document": [-1, 0, 0, 0]}}, "of text -1, which do not exist"),
        ({"tokens": TOKENS | {"start": [-2, 3, 5, 0]}}, "characters -2 to"),
        ({"tokens": TOKENS | {"end": [1, 2]}, "rows": [2]}, "rows has 2, but there are 2 tokens"),
        ({"tokens": {"document": []}}, r"tokens has no \['start', 'end'\]"),
        ({"before": -1}, "'before' parameter of context_snippets"),
    ],
)
def test_bad_snippets(change, message):
    arguments = {"texts": TEXTS, "tokens": TOKENS, "rows": [0]} | change
    with pytest.raises(ValueError, match=message):
        context_snippets(**arguments)
