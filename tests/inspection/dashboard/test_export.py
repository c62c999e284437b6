"""The export, against the tables that Neuronpedia imports."""

import gzip
import json
from types import NoneType

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.pipeline import make_pipeline

from skdict.inspection import FeatureCodes, FeatureDashboard, top_activations

TEXT, OPTIONAL, FLAG, WHOLE = str, (str, NoneType), bool, int
NUMBER, MAYBE = (int, float), (int, float, NoneType)
TEXTS, NUMBERS, WHOLES = [str], [(int, float)], [int]
# Columns of the tables and their types, written down from the migrations of its database and the
# records of its own exporter.
SCHEMA = {
    "release": {
        "name": TEXT, "description": TEXT, "creatorName": TEXT, "creatorId": TEXT,
        "visibility": TEXT, "isNewUi": FLAG, "featured": FLAG, "descriptionShort": OPTIONAL,
        "urls": TEXTS, "creatorEmail": OPTIONAL, "creatorNameShort": OPTIONAL,
        "defaultSourceSetName": OPTIONAL, "defaultSourceId": OPTIONAL,
        "defaultUmapSourceIds": TEXTS, "createdAt": TEXT,
    },
    "model": {
        "id": TEXT, "instruct": FLAG, "creatorId": TEXT, "displayNameShort": TEXT,
        "displayName": TEXT, "tlensId": OPTIONAL, "dimension": (int, NoneType),
        "visibility": TEXT, "defaultSourceSetName": OPTIONAL, "defaultSourceId": OPTIONAL,
        "inferenceEnabled": FLAG, "layers": WHOLE, "neuronsPerLayer": WHOLE, "createdAt": TEXT,
        "owner": TEXT, "updatedAt": TEXT, "website": OPTIONAL,
    },
    "sourceset": {
        "modelId": TEXT, "name": TEXT, "creatorId": TEXT, "hasDashboards": FLAG,
        "visibility": TEXT, "description": TEXT, "type": TEXT, "creatorName": TEXT,
        "urls": TEXTS, "creatorEmail": OPTIONAL, "releaseName": OPTIONAL,
        "defaultOfModelId": OPTIONAL, "defaultRange": WHOLE, "defaultShowBreaks": FLAG,
        "showDfa": FLAG, "showCorrelated": FLAG, "showHeadAttribution": FLAG, "showUmap": FLAG,
        "createdAt": TEXT,
    },
    "source": {
        "id": TEXT, "modelId": TEXT, "setName": TEXT, "creatorId": TEXT, "hasDashboards": FLAG,
        "inferenceEnabled": FLAG, "inferenceHosts": TEXTS, "saelensConfig": OPTIONAL,
        "saelensRelease": OPTIONAL, "saelensSaeId": OPTIONAL, "hfRepoId": OPTIONAL,
        "hfFolderId": OPTIONAL, "visibility": TEXT, "defaultOfModelId": OPTIONAL,
        "hasUmap": FLAG, "hasUmapLogSparsity": FLAG, "hasUmapClusters": FLAG,
        "num_prompts": (int, NoneType), "num_tokens_in_prompt": (int, NoneType),
        "dataset": OPTIONAL, "notes": OPTIONAL, "createdAt": TEXT,
    },
    "features": {
        "modelId": TEXT, "layer": TEXT, "index": TEXT, "creatorId": OPTIONAL, "createdAt": TEXT,
        "maxActApprox": MAYBE, "hasVector": FLAG, "vector": NUMBERS, "vectorLabel": OPTIONAL,
        "vectorDefaultSteerStrength": MAYBE, "hookName": OPTIONAL, "topkCosSimIndices": WHOLES,
        "topkCosSimValues": NUMBERS, "neuron_alignment_indices": WHOLES,
        "neuron_alignment_values": NUMBERS, "neuron_alignment_l1": NUMBERS,
        "correlated_neurons_indices": WHOLES, "correlated_neurons_pearson": NUMBERS,
        "correlated_neurons_l1": NUMBERS, "correlated_features_indices": WHOLES,
        "correlated_features_pearson": NUMBERS, "correlated_features_l1": NUMBERS,
        "neg_str": TEXTS, "neg_values": NUMBERS, "pos_str": TEXTS, "pos_values": NUMBERS,
        "frac_nonzero": NUMBER, "freq_hist_data_bar_heights": NUMBERS,
        "freq_hist_data_bar_values": NUMBERS, "logits_hist_data_bar_heights": NUMBERS,
        "logits_hist_data_bar_values": NUMBERS, "decoder_weights_dist": NUMBERS,
        "sourceSetName": OPTIONAL,
    },
    "activations": {
        "id": TEXT, "tokens": TEXTS, "index": TEXT, "layer": TEXT, "modelId": TEXT,
        "maxValue": NUMBER, "maxValueTokenIndex": WHOLE, "minValue": NUMBER, "values": NUMBERS,
        "creatorId": TEXT, "dataSource": OPTIONAL, "dataIndex": OPTIONAL, "dfaValues": NUMBERS,
        "dfaTargetIndex": (int, NoneType), "dfaMaxValue": MAYBE, "createdAt": TEXT,
        "lossValues": NUMBERS, "logitContributions": OPTIONAL, "binMin": MAYBE, "binMax": MAYBE,
        "binContains": MAYBE, "qualifyingTokenIndex": (int, NoneType),
    },
    "explanations": {
        "id": TEXT, "modelId": TEXT, "layer": TEXT, "index": TEXT, "description": TEXT,
        "authorId": TEXT, "triggeredByUserId": OPTIONAL, "notes": OPTIONAL, "scoreV1": NUMBER,
        "scoreV2": MAYBE, "typeName": OPTIONAL, "explanationModelName": OPTIONAL,
        "createdAt": TEXT, "updatedAt": TEXT,
    },
}  # fmt: skip
FEATURES = [7, 0, 31]


def lines(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def check(row, columns):
    assert set(row) == set(columns)
    for name, kind in columns.items():
        value = row[name]
        if isinstance(kind, list):
            assert isinstance(value, list) and all(isinstance(x, kind[0]) for x in value), name
        elif kind in (WHOLE, NUMBER):
            assert isinstance(value, kind) and not isinstance(value, bool), name
        else:
            assert isinstance(value, kind), name


@pytest.fixture(scope="module")
def dashboard(extractor, dictionary, texts):
    names = {7: ("seven", 0.75), 31: "thirty-one", 200: "elsewhere"}
    return FeatureDashboard.from_pipeline(
        make_pipeline(extractor, dictionary), texts[:2], FEATURES, n_top=4, names=names
    )


@pytest.fixture(scope="module")
def source(dashboard, dictionary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "v1"
    return dashboard.to_neuronpedia(
        folder, model_id="tiny", sae_id="0-mlp-mine", creator_id="me", dictionary=dictionary
    )


def test_every_field_is_there(source):
    assert source.parts[-3:] == ("v1", "tiny", "0-mlp-mine")
    for name in ("release", "model", "sourceset", "source"):
        (row,) = lines(source / f"{name}.jsonl.gz")
        check(row, SCHEMA[name])
    for name in ("features", "activations", "explanations"):
        (path,) = (source / name).iterdir()
        assert path.name == "batch-0.jsonl.gz"
        rows = lines(path)
        assert rows
        for row in rows:
            check(row, SCHEMA[name])
            assert (row["modelId"], row["layer"]) == ("tiny", "0-mlp-mine")


def test_records_refer_to_each_other(source):
    release, model, sources, of = (
        lines(source / f"{name}.jsonl.gz")[0]
        for name in ("release", "model", "sourceset", "source")
    )
    assert of["id"] == "0-mlp-mine" == model["defaultSourceId"]
    assert of["setName"] == sources["name"] == "mlp-mine" == release["defaultSourceSetName"]
    assert sources["releaseName"] == release["name"] and sources["modelId"] == model["id"]
    activations = lines(source / "activations" / "batch-0.jsonl.gz")
    keys = [row["id"] for row in activations]
    assert len(set(keys)) == len(keys)
    assert {row["index"] for row in activations} <= {"7", "0", "31"}


def test_values(source, dashboard, dictionary, extractor, texts):
    codes = dictionary.transform(extractor.transform(texts[:2])).astype(float)
    tokens = extractor.tokens(texts[:2])
    features = lines(source / "features" / "batch-0.jsonl.gz")
    assert [row["index"] for row in features] == ["7", "0", "31"]
    for row, feature in zip(features, dashboard.content["features"], strict=True):
        j = int(row["index"])
        assert_allclose(row["vector"], dictionary.components_[j], rtol=1e-6)
        assert_allclose(row["frac_nonzero"], (codes[:, j] > 0).mean(), rtol=2e-3)
        assert_allclose(row["maxActApprox"], codes[:, j].max(), rtol=2e-3)
        assert sum(row["freq_hist_data_bar_heights"]) == (codes[:, j] > 0).sum()
        assert row["pos_str"] == feature["logits"]["raised"]["tokens"]
        assert max(row["neg_values"]) < min(row["pos_values"])
        width = np.diff(row["logits_hist_data_bar_values"])
        assert_allclose(width, width[0])
    activations = lines(source / "activations" / "batch-0.jsonl.gz")
    tops = top_activations(FeatureCodes.from_matrix(codes, tokens=tokens), FEATURES, n_top=4)
    for j, top in zip(FEATURES, tops, strict=True):
        shown = [row for row in activations if row["index"] == str(j)]
        for row, at in zip(shown, top.rows, strict=False):
            assert row["binContains"] == row["binMin"] == row["binMax"] == -1
            first = at - row["qualifyingTokenIndex"]
            rows = np.arange(first, first + len(row["tokens"]))
            assert row["tokens"] == tokens.token[rows].tolist()
            assert_allclose(row["values"], codes[rows, j], rtol=2e-3, atol=1e-9)
            assert row["dataIndex"] == str(tokens.document[at])
            assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"]
            assert row["minValue"] == min(row["values"])
        for row in shown[len(top.rows) :]:
            value = row["values"][row["qualifyingTokenIndex"]]
            assert row["binMin"] * 0.998 <= value <= row["binMax"] * 1.002
            inside = (codes[:, j] >= row["binMin"]) & (codes[:, j] < row["binMax"] * 1.001)
            inside &= codes[:, j] > 0
            share = inside.sum() / (codes[:, j] > 0).sum()
            assert_allclose(row["binContains"], share, atol=0.02)
    names = lines(source / "explanations" / "batch-0.jsonl.gz")
    assert [(row["index"], row["description"]) for row in names] == [
        ("7", "seven"),
        ("31", "thirty-one"),
    ]
    assert names[0]["scoreV2"] == 0.75 and names[1]["scoreV2"] is None


def test_what_is_refused(dashboard, tmp_path):
    for bad in ("", "a/b", "..", "a\\b", None):
        with pytest.raises(ValueError, match=r"model_id must be a name without slashes"):
            dashboard.to_neuronpedia(tmp_path / "v1", model_id=bad, sae_id="0-x")
    tokens = {"document": [0, 1], "token": ["a", "b"]}
    codes = FeatureCodes.from_matrix(np.eye(2), tokens=tokens)
    with pytest.raises(ValueError, match=r"those of a document each, but Neuronpedia takes"):
        FeatureDashboard.from_codes(codes).to_neuronpedia(
            tmp_path / "v1", model_id="m", sae_id="0-x"
        )
