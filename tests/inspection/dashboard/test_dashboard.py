"""What a dashboard holds, against plain computation; how its file is written."""

import base64
import copy
import gzip
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skdict.datasets import python_token_labels
from skdict.inspection import (
    FeatureCodes,
    FeatureDashboard,
    FeatureDensityDisplay,
    FeatureDisplay,
    collect_codes,
    feature_effects,
    feature_statistics,
    logit_weights,
    top_activations,
)
from skdict.inspection.codes import _gather, _store
from skdict.inspection.dashboard import _dashboard, _page, _tokens
from skdict.inspection.dashboard._schema import Ragged, listed, rounded
from skdict.inspection.dashboard.panels.logits import TEXT_FOR_LOGITS
from skdict.utils._files import replacing

pytest.importorskip("jinja2")
FEATURES = [7, 0, 31, 200]


@pytest.fixture(scope="module")
def pipeline(extractor, dictionary):
    return make_pipeline(extractor, dictionary)


@pytest.fixture(scope="module")
def few_texts(texts):
    return texts[:3]


@pytest.fixture(scope="module")
def X(extractor, few_texts):
    return extractor.transform(few_texts)


@pytest.fixture(scope="module")
def few_tokens(extractor, few_texts):
    return extractor.tokens(few_texts)


@pytest.fixture(scope="module")
def dashboard(pipeline, few_texts):
    return FeatureDashboard.from_pipeline(
        pipeline,
        few_texts,
        features=FEATURES,
        n_top=5,
        n_intervals=4,
        show_texts=["import os\n"],
        names={7: ("seven", 0.5), 31: "thirty-one"},
    )


@pytest.fixture(scope="module")
def codes(dictionary, X):
    return dictionary.transform(X).astype(np.float64)


def close(value, expected):
    """Equal to the four digits that the page has."""
    assert_allclose(value, expected, rtol=2e-3, atol=1e-6)


def panel(dashboard, j):
    (found,) = [each for each in dashboard.content["features"] if each["id"] == j]
    return found


def shown(dashboard, start, stop):
    """Tokens of rows of one stretch, as the page reads them."""
    table = dashboard.content["tokens"]
    first, length = np.array(table["first"]), np.array(table["length"])
    k = int(np.searchsorted(first, start, side="right")) - 1
    assert stop <= first[k] + length[k]
    chunk = [each for each in table["chunks"] if each["stretch"] <= k][-1]
    place = length[chunk["stretch"] : k].sum() + start - first[k]
    return [chunk["names"][i] for i in chunk["ids"][place : place + stop - start]]


def test_statistics(dashboard, codes):
    assert_array_equal(dashboard.features_, FEATURES)
    assert_allclose(dashboard.density_, (codes > 0).mean(axis=0))
    expected = feature_statistics(codes, FEATURES, n_intervals=52)
    for i, j in enumerate(FEATURES):
        found = panel(dashboard, j)["statistics"]
        close(found["density"], expected.density[i])
        close(found["maximum"], expected.maximum[i])
        close(found["mean"], expected.mean[i])
        assert abs(np.array(found["histogram"]) - expected.histogram[i]).sum() <= 2  # rounding
    of_all = dashboard.content["dictionary"]
    densities, l0 = of_all["densities"], of_all["l0"]
    assert sum(densities["counts"]) + densities["n_dead"] == 256 == of_all["n_components"]
    assert sum(l0["counts"]) == len(codes) == of_all["n_counted"]
    counts = np.bincount((codes > 0).sum(axis=1))
    width = l0["width"]
    assert l0["counts"][2] == counts[2 * width : 3 * width].sum()


def test_examples(dashboard, codes, few_tokens):
    tops = top_activations(codes, FEATURES, n_top=5)
    for j, top in zip(FEATURES, tops, strict=True):
        found = panel(dashboard, j)["examples"]
        assert found["top"] == top.rows.tolist()
        assert len(found["intervals"]["counts"]) == len(found["intervals"]["sizes"]) == 4
        assert sum(found["intervals"]["sizes"]) == len(found["intervals"]["rows"])
        active = np.cumsum(found["active"]["rows"])
        assert sum(found["intervals"]["counts"]) == (codes[:, j] > 0).sum()
        edges = np.linspace(0, codes[:, j].max(), 5)
        counts, _ = np.histogram(codes[codes[:, j] > 0, j], edges)
        assert_array_equal(found["intervals"]["counts"], counts)
        every = found["top"] + found["random"] + found["intervals"]["rows"]
        for row in every + found["near_misses"]["rows"]:
            first = row - few_tokens.position[row] + 1  # what the model saw at once
            last = row
            while last + 1 < len(codes) and few_tokens.position[last + 1] > 1:
                last += 1
            rows = np.arange(max(row - 100, first), min(row + 101, last + 1))
            assert shown(dashboard, rows[0], rows[-1] + 1) == few_tokens.token[rows].tolist()
            inside = (active >= rows[0]) & (active <= rows[-1])
            assert_array_equal(active[inside], rows[codes[rows, j] > 0])
            close(np.array(found["active"]["values"])[inside], codes[active[inside], j])
        assert not set(found["near_misses"]["rows"]) & set(np.flatnonzero(codes[:, j] > 0))


def test_effects(dashboard, pipeline, few_texts, codes):
    """One for each of the most active tokens."""
    tops = top_activations(codes, FEATURES, n_top=5)
    expected = feature_effects(pipeline, few_texts, FEATURES, rows=[top.rows for top in tops])
    n_found = 0
    for j, top, effect in zip(FEATURES, tops, expected, strict=True):
        by_row = dict(zip(effect.rows, effect.ablation, strict=True))
        found = panel(dashboard, j)["effects"]
        if by_row:
            close(found["mean"], np.mean(list(by_row.values())))
        for row, value in zip(top.rows, found["at_top"], strict=True):
            assert (value is None) == (row not in by_row)
            if value is not None:
                assert_allclose(value, by_row[row], rtol=2e-3, atol=1e-4)
                n_found += 1
    assert n_found > 5


@pytest.mark.slow
def test_logits(dashboard, pipeline, few_texts):
    expected = logit_weights(
        pipeline,
        FEATURES,
        texts=[few_texts[0][:TEXT_FOR_LOGITS]]
        + [text[:TEXT_FOR_LOGITS] for text in few_texts[1:2]],
        path="total",
    )
    assert "the direct path" in dashboard.content["logits_hint"]
    for i, j in enumerate(FEATURES):
        logits = panel(dashboard, j)["logits"]
        order = np.argsort(-expected.weights[i])
        close(logits["raised"]["weights"], expected.weights[i][order[:10]])
        close(logits["lowered"]["weights"], expected.weights[i][order[::-1][:10]])
        assert logits["raised"]["tokens"][0] == expected.vocabulary[order[0]]
        counts, edges = np.histogram(expected.weights[i], bins=40)
        close([logits["histogram"][end] for end in ("low", "high")], edges[[0, -1]])
        assert sum(logits["histogram"]["counts"]) == 4096
        assert abs(np.array(logits["histogram"]["counts"]) - counts).sum() <= 4  # rounding


def test_neighbours_neurons_and_encoder(dashboard, dictionary, codes):
    atoms = dictionary.components_.astype(np.float64)
    cosine = atoms @ atoms.T
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(np.corrcoef(codes.T), nan=-np.inf)
    np.fill_diagonal(cosine, -np.inf)
    np.fill_diagonal(correlation, -np.inf)
    for j in FEATURES:
        found = panel(dashboard, j)
        near = found["neighbours"]
        close(near["cosine"]["values"], np.sort(cosine[j])[::-1][:10])
        close(cosine[j, near["cosine"]["features"]], np.sort(cosine[j])[::-1][:10])
        expected = np.sort(correlation[j])[::-1][:10]
        close(near["correlation"]["values"], expected[np.isfinite(expected)])
        neurons = found["neurons"]
        assert_array_equal(abs(atoms[j, neurons["index"]]), np.sort(abs(atoms[j]))[::-1][:10])
        close(neurons["weight"], atoms[j, neurons["index"]])
        close(neurons["share"][0], abs(atoms[j]).max() / abs(atoms[j]).sum())
        encoder = dictionary.encoder_coef_[j]
        close(found["encoder"]["cosine"], encoder @ atoms[j] / np.linalg.norm(encoder))
        close(found["encoder"]["bias"], dictionary.encoder_intercept_[j])


def test_shown_text(dashboard, pipeline):
    (text,) = dashboard.content["texts"]
    codes = pipeline.transform(["import os\n"])
    assert "".join(text["tokens"]) == "import os\n"
    for features, values, row in zip(text["features"], text["codes"], codes, strict=True):
        order = np.argsort(-row, kind="stable")[: np.count_nonzero(row)]
        assert features == order.tolist()
        close(values, row[order])
    mentioned = {str(j) for features in text["features"] for j in features}
    assert set(text["maxima"]) == mentioned


def test_shown_text_has_all_its_features(pipeline, few_texts):
    dictionary = copy.deepcopy(pipeline[1])
    dictionary.encoder_intercept_ += 1
    dense = make_pipeline(pipeline[0], dictionary)
    found = FeatureDashboard.from_pipeline(
        dense, few_texts[:1], features=[0], n_top=1, show_texts=["import os\n"]
    )
    codes = dense.transform(["import os\n"])
    for features, row in zip(found.content["texts"][0]["features"], codes, strict=True):
        assert len(features) == np.count_nonzero(row) > 40


def test_names(pipeline, few_texts, few_tokens, codes, dashboard):
    found = [panel(dashboard, j) for j in FEATURES]
    assert [each.get("label") for each in found] == ["seven", None, "thirty-one", None]
    assert found[0]["scores"] == {"score": {"score": 0.5}}
    assert dashboard.content["scorers"] == [{"name": "score", "chance": None}]
    labels = python_token_labels(few_texts, few_tokens)
    labelled = FeatureDashboard.from_pipeline(
        pipeline, few_texts, FEATURES, n_top=1, token_labels=labels
    )
    for j in FEATURES:
        active = codes[:, j] > 0
        together = (labels.data & active[:, None]).sum(axis=0)
        f1 = 2 * together / np.maximum(active.sum() + labels.data.sum(axis=0), 1)
        if f1.max() == 0:  # never active on a token with a label
            assert "label" not in panel(labelled, j)
            continue
        assert panel(labelled, j)["label"] == labels.target_names[f1.argmax()]
        close(panel(labelled, j)["scores"]["F1"]["score"], f1.max())
    assert sum("label" in panel(labelled, j) for j in FEATURES) >= 2


def test_labels_of_any_kind(dictionary, X, few_tokens, few_texts):
    """A DataFrame, a matrix and a CSR matrix name as the mapping of the same labels does."""

    def named(labels):
        content = FeatureDashboard.from_activations(
            dictionary, X, few_tokens, features=FEATURES, n_top=1, token_labels=labels
        ).content
        return [(each.get("label"), each.get("scores")) for each in content["features"]]

    labels = python_token_labels(few_texts, few_tokens)
    want = named(labels)
    assert any(name is not None for name, _ in want)
    assert named(pd.DataFrame(labels.data, columns=labels.target_names)) == want
    numbered = [
        (f"label{labels.target_names.index(name)}" if name else None, score)
        for name, score in want
    ]
    assert named(labels.data) == named(csr_array(labels.data)) == numbered


def test_a_table_of_explanations_names_features(codes, few_tokens):
    """With all its scorers, their chance levels and baselines."""
    chosen = [3, 5, 8]
    table = {
        "feature": np.array(chosen),
        "explanation": ["three", "", "eight"],
        "detection_chance": np.full(3, 0.5),
        "detection": np.array([0.75, np.nan, 1.0]),
        "detection_shuffled": np.array([0.5, np.nan, 0.25]),
        "own_chance": np.zeros(3),
        "own": np.array([0.1, 0.2, 0.3]),
        "detection_auc": np.ones(3),
    }
    collected = FeatureCodes.from_matrix(codes, tokens=few_tokens)
    for given in (table, pd.DataFrame(table)):
        content = FeatureDashboard.from_codes(
            collected, [8, 5, 3, 1], names=given, n_top=1
        ).content
        assert content["scorers"] == [
            {"name": "detection", "chance": 0.5},
            {"name": "own", "chance": 0.0},
        ]
        eight, five, three, one = content["features"]
        assert (eight["label"], three["label"]) == ("eight", "three")
        assert "label" not in five and "label" not in one
        assert eight["scores"] == {
            "detection": {"score": 1.0, "shuffled": 0.25},
            "own": {"score": 0.3},
        }
        assert five["scores"] == {"own": {"score": 0.2}}
        assert content["index"]["score"] == [1.0, None, 0.75, None]


def test_names_of_features_that_are_not_on_the_page(dictionary, X, few_tokens, pipeline):
    names = {j: f"name {j}" for j in range(256)}
    content = FeatureDashboard.from_activations(
        dictionary, X, few_tokens, features=[7, 31], names=names
    ).content
    near = {
        j
        for feature in content["features"]
        for each in feature["neighbours"].values()
        for j in each["features"]
    } - {7, 31}
    assert content["names"] == {str(j): f"name {j}" for j in near}
    dashboard = FeatureDashboard.from_pipeline(
        pipeline, ["import os\n"], features=[7], names=names, show_texts=["def f(x):"], n_top=1
    )
    (text,) = dashboard.content["texts"]
    active = {str(j) for features in text["features"] for j in features} - {"7"}
    assert active and active <= set(dashboard.content["names"])
    page = "".join(_dashboard.page_pieces(dashboard.content))
    found = json.loads(parts(page)["general"])["names"]
    assert all(found[j] == f"name {j}" for j in active)


def test_without_a_model_and_by_blocks(
    dictionary, X, few_tokens, dashboard, monkeypatch, tmp_path
):
    options = {"features": FEATURES, "n_top": 5, "n_intervals": 4}
    whole = FeatureDashboard.from_activations(dictionary, X, few_tokens, **options)
    found, expected = panel(whole, 7), panel(dashboard, 7)
    assert "logits" not in found and "effects" not in found
    for name in ("statistics", "neighbours", "neurons", "encoder"):
        assert found[name] == expected[name]
    first = whole.to_html(tmp_path / "a.html").read_text(encoding="utf-8")
    again = FeatureDashboard.from_activations(dictionary, X, few_tokens, **options)
    assert again.to_html(tmp_path / "b.html").read_text(encoding="utf-8") == first
    monkeypatch.setattr(_store, "BLOCK_ENTRIES", 5000)
    monkeypatch.setattr(_gather, "PRODUCTS", 300)
    blocked = panel(FeatureDashboard.from_activations(dictionary, X, few_tokens, **options), 7)
    for kind, rows in found["examples"].items():
        assert blocked["examples"][kind] == rows
    correlation = blocked["neighbours"]["correlation"]["values"]
    close(correlation, found["neighbours"]["correlation"]["values"])


def test_dictionaries_without_encoder(X, few_tokens):
    found = FeatureDashboard.from_activations(PCA(4).fit(X), X, few_tokens).content["features"]
    assert [each["id"] for each in found] == [0, 1, 2, 3]
    assert all("encoder" not in each for each in found)
    # the greatest weights are those by absolute value, and some of these are negative
    assert any(value < 0 for each in found for value in each["neurons"]["weight"])


def parts(page):
    """The page's parts as JSON."""
    kind = r'<script type="(?:application/json|text/plain)" id="([\w-]+)">(.*?)</script>'
    return {
        name: text if name == "general" else unpacked(text)
        for name, text in re.findall(kind, page)
    }


def unpacked(letters):
    return gzip.decompress(base64.b64decode(letters)).decode("utf-8")


def test_page(dashboard, tmp_path):
    path = dashboard.to_html(str(tmp_path / "page.html"))
    page = path.read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    assert '<meta charset="utf-8">' in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    found = parts(page)
    assert set(found) == {"general", "texts", "tokens-0", "features-0"}
    general = json.loads(found["general"])
    assert general["index"]["id"] == FEATURES and general["version"] == 1
    assert json.loads(found["features-0"])[2]["label"] == "thirty-one"


def test_folder(dashboard, tmp_path, monkeypatch):
    """The same parts, in scripts beside the page."""
    monkeypatch.setattr(_page, "N_SHARD", 3)
    path = dashboard.to_html(tmp_path / "page")
    assert path == tmp_path / "page" / "index.html"
    data = {
        each.stem: each.read_text(encoding="utf-8") for each in (path.parent / "data").iterdir()
    }
    assert set(data) == {"features-0", "features-1", "tokens-0", "texts"}
    shards = [
        json.loads(unpacked(data[name].removeprefix(f'arrived("{name}","').removesuffix('");\n')))
        for name in ("features-0", "features-1")
    ]
    assert [len(shard) for shard in shards] == [3, 1]
    assert [each for shard in shards for each in shard] == list(dashboard.content["features"])
    assert set(parts(path.read_text(encoding="utf-8"))) == {"general"}
    dashboard.to_html(tmp_path / "page")  # takes the place of the old one
    (path.parent / "precious.txt").write_text("x")
    with pytest.raises(FileExistsError, match=r"files that would be lost: precious\.txt"):
        dashboard.to_html(tmp_path / "page")


def test_save_and_load(dashboard, tmp_path):
    saved = dashboard.save(tmp_path / "dashboard.json.gz")
    written = dashboard.to_json(tmp_path / "dashboard.json")
    assert json.loads(dashboard.to_json()) == json.loads(written.read_text(encoding="utf-8"))
    assert dashboard.save(tmp_path / "again.gz").read_bytes() == saved.read_bytes()
    for path in (saved, written):
        loaded = FeatureDashboard.load(path)
        assert loaded.content == dashboard.content
        assert_array_equal(loaded.features_, dashboard.features_)
        assert_array_equal(loaded.density_, dashboard.density_)
    page = loaded.to_html(tmp_path / "a.html").read_bytes()
    assert page == dashboard.to_html(tmp_path / "b.html").read_bytes()


def test_what_cannot_be_loaded(dashboard, tmp_path):
    path = dashboard.save(tmp_path / "dashboard.gz")
    data = path.read_bytes()
    for bad in (data[:-20], b"", b"[1]", b"no json", b"{}"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"dashboard\.gz' holds no dashboard"):
            FeatureDashboard.load(path)
    path.write_text(json.dumps(dashboard.content | {"version": 99, "features": []}))
    with pytest.raises(ValueError, match=r"version 99 of the dashboard's format, but .* reads"):
        FeatureDashboard.load(path)


def test_no_such_folder(dashboard, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere to write page\.html in"):
        dashboard.to_html(tmp_path / "nowhere" / "page.html")


def test_nothing_is_lost_if_writing_fails(dashboard, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("precious")

    def fail(content):
        yield "half"
        raise RuntimeError("disk full")

    monkeypatch.setattr(_dashboard, "page_pieces", fail)
    with pytest.raises(RuntimeError, match=r"disk full"):
        dashboard.to_html(path)
    assert path.read_text() == "precious"
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    "name", ["x" * 250 + ".html", "a b[1]*?.html", "ünï $x_.html", "%s {}.html"]
)
@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_names_of_files(dashboard, tmp_path, name, kind):
    path = dashboard.to_html(kind(os.path.join(tmp_path, name)))
    assert path == tmp_path / name
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_what_killed_writers_left_is_removed(dashboard, tmp_path):
    """And nothing else: neither what others write at this moment, nor other pages' files."""
    code = (
        "import os, pathlib, signal, sys\n"
        "from skdict.utils._files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "page.html"
    subprocess.run([sys.executable, "-c", code, path])
    (left,) = tmp_path.iterdir()
    with replacing(path) as file:
        assert not left.exists()
        file.write("first")
        (temporary,) = tmp_path.iterdir()
        dashboard.to_html(path)  # by another, who is faster
        dashboard.to_html(tmp_path / "other.html")
        assert temporary.exists()
    assert path.read_text() == "first"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other.html", "page.html"]


def test_in_a_notebook(dashboard):
    html = dashboard._repr_html_()
    assert html.startswith("<iframe srcdoc=") and 'sandbox="allow-scripts"' in html
    assert html.count("<") == 2  # the frame itself; its page is escaped


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": [999]}, ValueError, r"features has 999, but there are 256"),
        (
            {"features": [1, 1]},
            ValueError,
            r"at least one feature, and each only once",
        ),
        ({"names": ["a"]}, TypeError, r"names must be a dict from features to names"),
        (
            {"token_labels": {"data": np.ones((2, 1), bool), "target_names": ["a"]}},
            ValueError,
            r"token_labels has rows for 2 tokens, but there are \d+",
        ),
        ({"n_top": 0}, ValueError, r"'n_top' parameter of FeatureDashboard.from_codes"),
        ({"positions": np.zeros((3, 2))}, ValueError, r"positions must have shape \(256, 2\)"),
        ({"show_texts": ["a"]}, ValueError, r"show_texts need a pipeline"),
    ],
)
def test_bad_input(dictionary, X, few_tokens, options, error, message):
    with pytest.raises(error, match=message):
        FeatureDashboard.from_activations(dictionary, X, few_tokens, **options)


def test_bad_pipeline_and_tokens(extractor, dictionary, X, few_tokens, few_texts):
    with pytest.raises(TypeError, match=r"pipeline must be a fitted Pipeline"):
        FeatureDashboard.from_pipeline(dictionary, few_texts)
    with pytest.raises(ValueError, match=r"are 5 rows, but tokens has .*'document': \(\d+"):
        FeatureDashboard.from_activations(dictionary, X[:5], few_tokens)
    with pytest.raises(ValueError, match=r"codes must know the token of each row"):
        FeatureDashboard.from_codes(np.eye(3))
    with pytest.raises(ValueError, match=r"Give dictionary=pipeline\[1:\] instead"):
        codes = FeatureCodes.from_matrix(dictionary.transform(X), tokens=few_tokens)
        FeatureDashboard.from_codes(codes, pipeline=make_pipeline(extractor, dictionary))


class TestDisplays:
    @pytest.fixture(autouse=True)
    def plt(self):
        plt = pytest.importorskip("matplotlib.pyplot")
        yield plt
        plt.close("all")

    def test_feature(self, dashboard):
        display = dashboard.plot(7)
        heights = [bar.get_height() for bar in display.ax_.patches]
        assert heights == panel(dashboard, 7)["statistics"]["histogram"]
        assert len(display.ax_logits_.patches) == 20
        assert "seven" in display.figure_.get_suptitle()
        display.figure_.canvas.draw()  # tokens such as "$" are no formulas
        with pytest.raises(ValueError, match=r"feature=5 is not in the dashboard, which has 4"):
            dashboard.plot(5)
        FeatureDisplay([0, 1], [3], [("$x$ $", 1.0), ("\n", -1.0)]).plot().figure_.canvas.draw()
        with pytest.raises(ValueError, match=r"counts must have one entry for each of the 1 bins"):
            FeatureDisplay([0, 1], [3, 4])

    def test_density(self, codes):
        display = FeatureDensityDisplay.from_codes(codes, marked=[7, 0])
        density = (codes > 0).mean(axis=0)
        assert_allclose(display.density, density)
        assert sum(bar.get_height() for bar in display.ax_.patches) == np.count_nonzero(density)
        with pytest.raises(ValueError, match=r"density must be one number between 0 and 1"):
            FeatureDensityDisplay([2.0])
        with pytest.raises(ValueError, match=r"marked has 900, but there are 256"):
            FeatureDensityDisplay.from_codes(codes, marked=[900])


class TestTokensReadAsTheText:
    def joined(self, dashboard):
        return ["".join(text["tokens"]) for text in dashboard.content["texts"]]

    def test_characters_of_several_tokens(self, pipeline, few_texts):
        odd = ["print('😀é')\n", "x\u202ey = 'ü'  # " + "a b " * 400]
        shown = FeatureDashboard.from_pipeline(
            pipeline, few_texts[:1], features=[0], n_top=1, show_texts=odd
        )
        assert self.joined(shown) == odd  # the second is longer than the model's context

    def test_dropped_spaces(self, dictionary, X):
        tokens = {
            "document": np.repeat([0, 1], 4),
            "token": np.array(["in", "##to", "the", "[SEP]"] * 2, dtype=object),
            "start": np.array([0, 2, 5, 0] * 2),
            "end": np.array([2, 4, 8, 0] * 2),
        }
        found = FeatureDashboard.from_activations(
            dictionary, X[:8], tokens, features=range(20), n_top=2
        )
        (chunk,) = found.content["tokens"]["chunks"]
        assert set(chunk["names"]) <= {"in", "##to", " the", "[SEP]"}

    def test_frames_are_taken_by_position(self, dictionary, X, few_tokens):
        import pandas as pd

        columns = {key: few_tokens[key] for key in ("document", "token", "start", "end")}
        frame = pd.DataFrame(columns, index=np.arange(len(X))[::-1])
        a, b = (
            FeatureDashboard.from_activations(dictionary, X, each, features=FEATURES)
            for each in (columns, frame)
        )
        assert a.content["features"] == b.content["features"]
        assert a.content["tokens"] == b.content["tokens"]

    def test_lone_surrogates_can_be_written(self, dictionary, X, tmp_path):
        odd = "a\ud800\0"
        tokens = {"document": np.zeros(9, int), "token": np.array([odd] * 9, dtype=object)}
        found = FeatureDashboard.from_activations(
            dictionary, X[:9], tokens, features=[0], names={0: odd}, title=odd
        )
        assert found.to_html(tmp_path / "page.html").exists()


def test_dead_features(pipeline, few_texts, few_tokens):
    dictionary = copy.deepcopy(pipeline[1])
    dictionary.encoder_intercept_[7] = -1e6
    labels = python_token_labels(few_texts, few_tokens)
    found = FeatureDashboard.from_pipeline(
        make_pipeline(pipeline[0], dictionary), few_texts, features=[7, 0], token_labels=labels
    )
    feature = found.content["features"][0]
    assert feature["statistics"]["density"] == 0
    assert "label" not in feature and feature.get("scores", {}) == {}
    assert found.content["index"]["rank"] == [1, 0]


def test_nothing_to_show(dictionary, X, few_tokens, tmp_path):
    """Neither active anywhere nor near it."""
    dead = copy.deepcopy(dictionary)
    dead.encoder_intercept_[7], dead.components_[7] = -1e6, 0
    found = FeatureDashboard.from_activations(dead, X, few_tokens, features=[7])
    assert found.to_html(tmp_path / "page.html").exists() and found._repr_html_()


@pytest.mark.parametrize("first", [-1, 0, 5])
def test_documents_can_be_numbered_from_anywhere(first, dictionary, X):
    tokens = {
        "document": np.repeat([first, first + 2], 4).astype(np.int32),
        "token": np.array(["a", "b", "c", "d"] * 2, dtype=object),
        "start": np.array([0, 1, 2, 3] * 2, dtype=np.int32),
        "end": np.array([1, 2, 3, 2**31 - 1] * 2, dtype=np.int32),
    }
    found = FeatureDashboard.from_activations(dictionary, X[:8], tokens, n_top=8)
    table = found.content["tokens"]
    assert table["document"] == [first, first + 2] and table["length"] == [4, 4]
    assert all("".join(shown(found, row, row + 4)) == "abcd" for row in table["first"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"data": lambda n: np.full((n, 1), 3), "target_names": "a"}, "true or false"),
        ({"data": lambda n: np.ones((n, 2)), "target_names": "a"}, "2 columns of data, but 1"),
        (
            {"data": lambda n: np.ones((n - 1, 1)), "target_names": "a"},
            r"token_labels has rows for \d+ tokens",
        ),
    ],
)
def test_bad_labels_of_tokens(labels, message, dictionary, X, few_tokens):
    labels = labels | {"data": labels["data"](len(X)).tolist()}
    with pytest.raises(ValueError, match=message):
        FeatureDashboard.from_activations(
            dictionary, X, few_tokens, features=[0], token_labels=labels
        )


def test_documents_are_numbers(dictionary, X, few_tokens):
    tokens = {"document": few_tokens.document.astype(str), "token": few_tokens.token}
    with pytest.raises(ValueError, match=r"tokens\['document'\] must be integers, but has dtype"):
        FeatureDashboard.from_activations(dictionary, X, tokens, features=[0])


def test_encoder_behind_a_scaler(dictionary, X, few_tokens):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(X)
    found = FeatureDashboard.from_activations(
        make_pipeline(scaler, dictionary), X, few_tokens, features=[3]
    ).content["features"]
    encoder, atom = dictionary.encoder_coef_[3], dictionary.components_[3]
    close(found[0]["encoder"]["cosine"], encoder @ atom / np.linalg.norm(encoder))


def test_correlation_far_from_zero(monkeypatch):
    rng = np.random.default_rng(0)
    codes = 5000 + rng.normal(size=(2000, 3)) @ rng.normal(size=(3, 4))
    monkeypatch.setattr(_store, "BLOCK_ENTRIES", 4 * 300)
    kept = FeatureCodes.from_matrix(codes)
    index, values = _gather.nearest_by_correlation(kept, np.arange(4), 3)
    expected = np.corrcoef(codes.T)
    for j in range(4):
        assert_allclose(values[j], expected[j, index[j]], atol=1e-6)


@pytest.mark.parametrize("constants", [(0.1, 0.3), (0.7, 1.1)])
def test_features_that_never_vary_are_nobodys_neighbours(constants):
    codes = np.random.default_rng(0).random((1000, 4))
    codes[:, [1, 3]] = constants
    kept = FeatureCodes.from_matrix(codes)
    _, values = _gather.nearest_by_correlation(kept, np.arange(4), 3)
    assert_array_equal(np.isfinite(values).sum(axis=1), [1, 0, 1, 0])


def test_a_page_of_some_features_has_their_tokens_only(dashboard):
    """And the same ones."""
    rows = [*panel(dashboard, 31)["examples"]["top"], panel(dashboard, 200)["examples"]["top"][0]]
    part = _tokens.only_stretches(dashboard.content["tokens"], np.array(rows))
    assert sum(part["length"]) < sum(dashboard.content["tokens"]["length"])
    assert sum(len(chunk["ids"]) for chunk in part["chunks"]) == sum(part["length"])
    only = FeatureDashboard(dashboard.content | {"tokens": part})
    for row in rows:
        assert shown(only, row, row + 1) == shown(dashboard, row, row + 1)


@pytest.mark.parametrize("n_chunk", [1, 300, 10**6])
def test_chunks_of_tokens(n_chunk, dictionary, X, few_tokens, monkeypatch):
    monkeypatch.setattr(_tokens, "N_CHUNK", n_chunk)
    found = FeatureDashboard.from_activations(dictionary, X, few_tokens, features=FEATURES)
    table = found.content["tokens"]
    for first, length in zip(table["first"], table["length"], strict=True):
        expected = few_tokens.token[first : first + length].tolist()
        assert shown(found, first, first + length) == expected
    rows = np.array(panel(found, 7)["examples"]["top"])
    only = FeatureDashboard(found.content | {"tokens": _tokens.only_stretches(table, rows)})
    assert all(shown(only, row, row + 1) == shown(found, row, row + 1) for row in rows)


def test_rounded():
    rng = np.random.default_rng(0)
    values = rng.normal(size=2000) * 10.0 ** rng.integers(-15, 15, size=2000)
    assert rounded(values).tolist() == [float(f"{x:.4g}") for x in values]
    assert listed(np.array([0.0, np.nan, np.inf, 12345.6, -0.00012345])) == [
        0.0,
        None,
        None,
        12350.0,
        -0.0001234,
    ]
    ragged = Ragged.of([np.array([1.0]), np.empty(0), np.array([2.0, 3.00001])])
    assert ragged.listed(slice(1, 3)) == [[], [2.0, 3.0]]


def test_useful_features_come_first(few_tokens):
    """Named, neither dense nor rare; then by score and effect."""
    n = len(few_tokens.token)
    codes = np.zeros((n, 6))
    codes[: n // 2, 0] = 1  # dense
    codes[:50, [1, 2, 4]] = 1
    codes[:3, 3] = 1  # rare
    names = {0: ("dense", 0.99), 1: ("good", 0.7), 3: ("rare", 0.8), 4: ("better", 0.9)}
    collected = FeatureCodes.from_matrix(codes, tokens=few_tokens)
    content = FeatureDashboard.from_codes(collected, names=names).content
    assert np.argsort(content["index"]["rank"]).tolist() == [4, 1, 2, 0, 3, 5]


def test_provenance(dashboard, few_texts, codes, few_tokens):
    found = dashboard.content["provenance"]
    assert found["layer"] == "transformer.h.0.mlp.act" and found["features"] == 256
    close(found["L0"], (codes > 0).sum(axis=1).mean())
    assert found["corpus"] == f"3 texts, {len(codes):,} tokens" and "skdict" in found["versions"]
    collected = FeatureCodes.from_matrix(
        codes, tokens=few_tokens, counted=few_tokens.position > 1, provenance={"model": "a <b>"}
    )
    left = FeatureDashboard.from_codes(
        collected, [3], provenance={"loss recovered": np.float32(0.98766)}
    ).content["provenance"]
    assert left["model"] == "a <b>" and left["loss recovered"] == 0.9877
    hidden = FeatureCodes.from_matrix(
        codes,
        tokens=few_tokens,
        provenance={"model": "GPT2 /home/me/models/one google/b C:\\x\\two"},
    )
    found = FeatureDashboard.from_codes(hidden, [3]).content["provenance"]
    assert found["model"] == "GPT2 one google/b two"
    assert left["left out"] == f"{(few_tokens.position == 1).sum()} tokens"


class TestOtherUnits:
    def test_documents(self, pipeline, few_texts, dictionary, codes, few_tokens):
        collected = collect_codes(pipeline, few_texts)
        pooled = FeatureDashboard.from_codes(collected.pooled("max"), dictionary=dictionary)
        content = pooled.content
        assert content["unit"] == "document" and len(content["features"]) == 256
        greatest = [codes[few_tokens.document == i, 7].max() for i in range(3)]
        feature = panel(pooled, 7)
        rows = feature["examples"]["top"]
        assert rows == [i for i in np.argsort(greatest)[::-1] if greatest[i] > 0]
        assert all(shown(pooled, row, row + 1) == [few_texts[row]] for row in rows)
        assert content["provenance"]["corpus"] == "3 texts"

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_pictures(self, dtype):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, size=(3, 8, 12, 3)).astype(dtype)
        images.flat[:2] = 0, 255
        y, x = np.meshgrid(np.arange(2), np.arange(3), indexing="ij")
        tokens = {
            "document": np.repeat([0, 1, 2], 6),
            "y": np.tile(y.ravel(), 3),
            "x": np.tile(x.ravel(), 3),
        }
        codes = np.zeros((18, 2))
        codes[[1, 13], 0] = 2.0, 1.0
        found = FeatureDashboard.from_codes(
            FeatureCodes.from_matrix(codes, tokens=tokens), images=images
        )
        table = found.content["tokens"]
        assert found.content["unit"] == "image" and table["grid"] == [2, 3]
        assert table["first"] == [0, 12] and set(table["pictures"]) == {"0", "2"}
        feature = panel(found, 0)
        assert np.cumsum(feature["examples"]["active"]["rows"]).tolist() == [1, 13]
        plt = pytest.importorskip("matplotlib.pyplot")
        read = plt.imread(io.BytesIO(base64.b64decode(table["pictures"]["2"])))
        assert_array_equal(np.rint(read[..., :3] * 255), images[2])

    def test_bad_pictures(self):
        codes = FeatureCodes.from_matrix(np.eye(4), tokens={"document": np.arange(4)})
        with pytest.raises(ValueError, match=r"images must have shape .* but has shape \(4, 3\)"):
            FeatureDashboard.from_codes(codes, images=np.zeros((4, 3)))
        with pytest.raises(ValueError, match=r"\['document'\] has 3, but there are 2 images"):
            FeatureDashboard.from_codes(codes, images=np.zeros((2, 3, 3)))
        tokens = {"document": [0, 0], "y": [0, 0], "x": [1, 0]}
        codes = FeatureCodes.from_matrix(np.eye(2), tokens=tokens)
        with pytest.raises(ValueError, match=r"must go through each image row by row"):
            FeatureDashboard.from_codes(codes, images=np.zeros((1, 3, 3)))


def test_steering_samples(codes, few_tokens):
    collected = FeatureCodes.from_matrix(codes, tokens=few_tokens)
    steering = {3: {4.0: ["b", "c"], 0: "a"}}
    three, five = FeatureDashboard.from_codes(collected, [3, 5], steering=steering).content[
        "features"
    ]
    assert three["steering"] == {"strengths": [0.0, 4.0], "texts": [["a"], ["b", "c"]]}
    assert "steering" not in five


def test_density_of_one_is_drawn():
    plt = pytest.importorskip("matplotlib.pyplot")
    display = FeatureDensityDisplay([1.0, 1.0, 0.5, 1e-6]).plot()
    assert sum(bar.get_height() for bar in display.ax_.patches) == 4
    plt.close("all")


def test_names_of_unknown_features(dictionary, X, few_tokens):
    with pytest.raises(ValueError, match=r"names has names for \['3', 999\], but the features"):
        FeatureDashboard.from_activations(
            dictionary, X, few_tokens, features=[0], names={"3": "a", 999: "b", 0: "c"}
        )


def test_a_dictionary_of_another_width_is_refused(few_tokens, X, dictionary):
    codes = FeatureCodes.from_matrix(np.ones((len(X), 3)), tokens=few_tokens)
    with pytest.raises(ValueError, match=r"codes has 3 features, but the dictionary has 256"):
        FeatureDashboard.from_codes(codes, dictionary=dictionary)


def test_rows_of_one_column(few_tokens):
    X = np.random.default_rng(0).random((len(few_tokens["token"]), 1))
    pca = PCA(1).fit(X)
    content = FeatureDashboard.from_activations(pca, X, few_tokens).content
    assert [each["id"] for each in content["features"]] == [0]


def test_there_is_no_file_to_load(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=r"There is no file .*FeatureDashboard.save"):
            FeatureDashboard.load(path)
