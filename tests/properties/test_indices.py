"""Indices of any kind, for every parameter that takes some."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from calls import CODES, FITTED, LABEL, NET, TOKENS, X, differences
from outcomes import outcome_of, verdict_on

from skdict import inspection

TEXTS = ["ab cd ef"]
SPANS = {
    "document": [0, 0, 0],
    "token": ["ab", "cd", "ef"],
    "start": [0, 3, 6],
    "end": [2, 5, 8],
}


def steer(features):
    with torch.no_grad(), inspection.steer(NET, "1", np.eye(4), features, strength=2.0):
        return NET(torch.tensor(X, dtype=torch.float32, device="cpu"))


def interpret(features):
    tokens = TOKENS | {
        "position": np.tile(np.arange(10), 6),
        "token_id": np.arange(60) % 7,
        "start": np.tile(3 * np.arange(10), 6),
        "end": np.tile(3 * np.arange(10) + 2, 6),
    }
    sizes = {"window_length": 5, "n_explain": 4, "n_score": 10}
    return inspection.interpret_features(CODES, features, tokens=tokens, **sizes)


# {what: (function of indices, name of the parameter, how many there are to choose from)}
FUNCTIONS = {
    "top_activations": (
        lambda given: inspection.top_activations(CODES, given, n_top=2),
        "features",
        6,
    ),
    "top_activations random": (
        lambda given: inspection.top_activations(
            CODES, given, n_top=1, n_random=2, random_state=0
        ),
        "features",
        6,
    ),
    "feature_statistics": (
        lambda given: inspection.feature_statistics(CODES, given),
        "features",
        6,
    ),
    "feature_association": (
        lambda given: inspection.feature_association(CODES, LABEL, given),
        "features",
        6,
    ),
    "steer": (steer, "features", 4),
    "FeatureDashboard.from_activations": (
        lambda given: vars(
            inspection.FeatureDashboard.from_activations(
                FITTED, X, TOKENS, features=given, n_top=2
            )
        ),
        "features",
        8,
    ),
    "context_snippets": (
        lambda given: inspection.context_snippets(TEXTS, SPANS, given),
        "rows",
        3,
    ),
    "FeatureDensityDisplay.from_codes": (
        lambda given: inspection.FeatureDensityDisplay.from_codes(CODES, marked=given).marked,
        "marked",
        6,
    ),
    "interpret_features": (
        interpret,
        "features",
        6,
    ),
}


KINDS = {
    "int8": lambda i: np.array(i, np.int8),
    "uint8": lambda i: np.array(i, np.uint8),
    "int64": lambda i: np.array(i, np.int64),
    "uint64": lambda i: np.array(i, np.uint64),
    "big-endian": lambda i: np.array(i, ">i4"),
    "list": list,
    "tuple": tuple,
    "range": lambda i: range(i[0], i[-1] + 1),
    "list of NumPy's": lambda i: list(np.array(i, np.uint8)),
    "Series": pd.Series,
    "Index": pd.Index,
    "polars": lambda i: pl.Series("i", i),
    "tensor": torch.tensor,
    "tensor uint8": lambda i: torch.tensor(i, dtype=torch.uint8),
    "read-only": lambda i: np.broadcast_to(np.array(i), (len(i),)),
}
BAD = {
    "floats": lambda i, n: np.array(i, float),
    "halves": lambda i, n: [0.5],
    "NaN": lambda i, n: [np.nan],
    "words": lambda i, n: ["0"],
    "None inside": lambda i, n: [0, None],
    "negative": lambda i, n: [-1],
    "beyond": lambda i, n: [n],
    "huge": lambda i, n: [2**63],
    "very huge": lambda i, n: [2**70],
    "matrix": lambda i, n: np.array([i, i]),
    "ragged": lambda i, n: [[0], [0, 1]],
    "complex": lambda i, n: np.array(i, complex),
    "dates": lambda i, n: np.array(i, "datetime64[s]"),
    "meta tensor": lambda i, n: torch.tensor(i, device="meta"),
    "float tensor": lambda i, n: torch.tensor(i).float(),
    "a set": lambda i, n: {0, 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("public", FUNCTIONS)
def test_indices(public):
    function, name, n = FUNCTIONS[public]
    indices, faults = [1, 2], []
    want, error = outcome_of(function, indices)
    assert error is None, error
    for kind, make in KINDS.items():
        verdict, why = verdict_on(function, make(indices), name, (want,))
        if verdict != "right":
            faults.append(f"{public} of {kind}: {verdict}: {why}")
    for kind, make in BAD.items():
        verdict, why = verdict_on(function, make(indices, n), name)
        if verdict != "refused":
            faults.append(f"{public} of {kind}: {verdict}: {why}")
    mask = np.isin(np.arange(n), indices)
    for given in (np.array(indices, dtype=object), mask):
        verdict, why = verdict_on(function, given, name, (want,))
        if verdict not in ("right", "refused"):
            faults.append(f"{public} of {given!r}: {verdict}: {why}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("public", ["top_activations", "top_activations random"])
def test_what_is_found_of_a_feature_does_not_depend_on_the_others(public):
    function, _, n = FUNCTIONS[public]
    for features in ([2], [0, 2], [2, 2], list(range(n))):
        found = function(features)[features.index(2)]
        alone = function([2])[0]
        assert not differences(found, alone, rtol=0, atol=0)
