"""What a dashboard holds, against plain computation; how its file is written."""

import copy
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
    feature_effects,
    feature_statistics,
    interpret_features,
    logit_weights,
    top_activations,
)
from skdict.inspection.codes import _activations, _gather, _store
from skdict.inspection.dashboard._panels import TEXT_FOR_LOGITS
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
        labels={7: ("seven", 0.5), 31: "thirty-one"},
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


@pytest.mark.slow
def test_statistics(dashboard, codes):
    assert_array_equal(dashboard.features_, FEATURES)
    assert_allclose(dashboard.density_, (codes > 0).mean(axis=0))
    expected = feature_statistics(codes, FEATURES)
    for i, j in enumerate(FEATURES):
        found = panel(dashboard, j)
        close(found["density"], expected.density[i])
        close(found["maximum"], expected.maximum[i])
        assert abs(np.array(found["histogram"]) - expected.histogram[i]).sum() <= 2  # rounding
    population = dashboard.content["population"]
    assert sum(population["counts"]) + population["dead"] == 256


def test_snippets(dashboard, codes, few_tokens, few_texts):
    tops = top_activations(codes, FEATURES, n_top=5)
    table = dashboard.content["tokens"]
    for j, top in zip(FEATURES, tops, strict=True):
        (group,) = panel(dashboard, j)["snippets"]["top"]
        assert len(group) == len(top.rows)
        for (start, length, centre, active, _), row in zip(group, top.rows, strict=True):
            shown = [table["names"][k] for k in table["ids"][start : start + length]]
            # with a text, what the model saw at once
            first = row - few_tokens.position[row] + 1
            last = row
            while last + 1 < len(codes) and few_tokens.position[last + 1] > 1:
                last += 1
            rows = np.arange(max(row - 12, first), min(row + 7, last + 1))
            assert shown == few_tokens.token[rows].tolist()
            assert rows[centre] == row
            values = np.zeros(len(rows))
            values[active[::2]] = active[1::2]
            close(values, codes[rows, j])
        assert len(panel(dashboard, j)["snippets"]["intervals"]) == 4
        for group in panel(dashboard, j)["snippets"]["near"]:
            assert all(centre not in active[::2] for _, _, centre, active, _ in group)


def test_effects_stand_at_the_next_token(dashboard, pipeline, few_texts, codes):
    tops = top_activations(codes, FEATURES, n_top=5)
    expected = feature_effects(pipeline, few_texts, FEATURES, rows=[top.rows for top in tops])
    n_found = 0
    for j, top, effect in zip(FEATURES, tops, expected, strict=True):
        by_row = dict(zip(effect.rows, effect.ablation, strict=True))
        if by_row:
            close(panel(dashboard, j)["effect"], np.mean(list(by_row.values())))
        (group,) = panel(dashboard, j)["snippets"]["top"]
        for (_, _, centre, _, changed), row in zip(group, top.rows, strict=True):
            changes = dict(zip(changed[::2], changed[1::2], strict=True))
            if row in by_row and centre + 1 in changes:
                assert_allclose(changes[centre + 1], by_row[row], rtol=2e-3, atol=1e-4)
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
    for i, j in enumerate(FEATURES):
        logits = panel(dashboard, j)["logits"]
        order = np.argsort(-expected.weights[i])
        close([weight for _, weight in logits["up"]], expected.weights[i][order[:10]])
        close([weight for _, weight in logits["down"]], expected.weights[i][order[::-1][:10]])
        assert logits["up"][0][0] == expected.vocabulary[order[0]]
        assert sum(logits["counts"]) == 4096


def test_neighbours_neurons_and_encoder(dashboard, dictionary, codes):
    atoms = dictionary.components_.astype(np.float64)
    cosine = atoms @ atoms.T
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(np.corrcoef(codes.T), nan=-np.inf)
    np.fill_diagonal(cosine, -np.inf)
    np.fill_diagonal(correlation, -np.inf)
    for j in FEATURES:
        found = panel(dashboard, j)
        close([value for _, value in found["cosine"]], np.sort(cosine[j])[::-1][:10])
        close([cosine[j, k] for k, _ in found["cosine"]], np.sort(cosine[j])[::-1][:10])
        expected = np.sort(correlation[j])[::-1][:10]
        close([value for _, value in found["correlation"]], expected[np.isfinite(expected)])
        neurons = [neuron for neuron, _, _ in found["neurons"]]
        assert_array_equal(abs(atoms[j, neurons]), np.sort(abs(atoms[j]))[::-1][:10])
        close(found["neurons"][0][2], abs(atoms[j]).max() / abs(atoms[j]).sum())
        encoder = dictionary.encoder_coef_[j]
        close(found["encoder"][0], encoder @ atoms[j] / np.linalg.norm(encoder))


def test_shown_text(dashboard, pipeline):
    (text,) = dashboard.content["texts"]
    codes = pipeline.transform(["import os\n"])
    assert "".join(token for token, _ in text) == "import os\n"
    for (_, active), row in zip(text, codes, strict=True):
        order = np.argsort(-row, kind="stable")[: np.count_nonzero(row)]
        assert active[::2] == order.tolist()
        close(active[1::2], row[order])


def test_shown_text_has_all_its_features(pipeline, few_texts):
    dictionary = copy.deepcopy(pipeline[1])
    dictionary.encoder_intercept_ += 1
    dense = make_pipeline(pipeline[0], dictionary)
    found = FeatureDashboard.from_pipeline(
        dense, few_texts[:1], features=[0], n_top=1, show_texts=["import os\n"]
    )
    codes = dense.transform(["import os\n"])
    for (_, active), row in zip(found.content["texts"][0], codes, strict=True):
        assert len(active) // 2 == np.count_nonzero(row) > 40


@pytest.mark.slow
def test_labels(pipeline, few_texts, few_tokens, codes, dashboard):
    assert [panel(dashboard, j)["label"] for j in FEATURES] == ["seven", None, "thirty-one", None]
    assert panel(dashboard, 7)["score"] == 0.5
    labels = python_token_labels(few_texts, few_tokens)
    labelled = FeatureDashboard.from_pipeline(
        pipeline, few_texts, features=FEATURES, n_top=1, labels=labels
    )
    for j in FEATURES:
        active = codes[:, j] > 0
        together = (labels.data & active[:, None]).sum(axis=0)
        f1 = 2 * together / np.maximum(active.sum() + labels.data.sum(axis=0), 1)
        if f1.max() == 0:  # never active on a token with a label
            assert panel(labelled, j)["label"] is None
            continue
        assert panel(labelled, j)["label"] == labels.target_names[f1.argmax()]
        close(panel(labelled, j)["score"], f1.max())
    assert sum(panel(labelled, j)["label"] is not None for j in FEATURES) >= 2


def test_labels_of_any_kind(dictionary, X, few_tokens, few_texts):
    """A DataFrame, a matrix and a CSR matrix name as the mapping of the same labels does."""

    def named(labels):
        content = FeatureDashboard.from_activations(
            dictionary, X, few_tokens, features=FEATURES, n_top=1, labels=labels
        ).content
        return [(feature["label"], feature["score"]) for feature in content["features"]]

    labels = python_token_labels(few_texts, few_tokens)
    want = named(labels)
    assert any(name is not None for name, _ in want)
    assert named(pd.DataFrame(labels.data, columns=labels.target_names)) == want
    numbered = [
        (f"label{labels.target_names.index(name)}" if name else None, score)
        for name, score in want
    ]
    assert named(labels.data) == named(csr_array(labels.data)) == numbered


def test_the_result_of_interpret_features_names_features(dictionary, X, few_tokens, codes):
    chosen = [int(j) for j in (codes > 0).sum(axis=0).argsort()[::-1][[0, 1, -1]]]
    result = interpret_features(
        codes, chosen, tokens=few_tokens, window_length=8, scorers=("fuzzing", "detection")
    )
    assert result.explanation[0] and not result.explanation[2]  # the last is hardly ever active
    for given in (result, pd.DataFrame(result)):
        found = FeatureDashboard.from_activations(
            dictionary, X, few_tokens, features=chosen[::-1], n_top=1, labels=given
        ).content["features"][::-1]
        for i, feature in enumerate(found):
            assert feature["label"] == (result.explanation[i] or None)
            if np.isnan(result.fuzzing[i]):
                assert feature["score"] is None
            else:
                close(feature["score"], result.fuzzing[i])


def test_names_of_features_that_are_not_on_the_page(dictionary, X, few_tokens, pipeline):
    labels = {j: f"name {j}" for j in range(256)}
    content = FeatureDashboard.from_activations(
        dictionary, X, few_tokens, features=[7, 31], labels=labels
    ).content
    near = {j for each in content["features"] for j, _ in each["cosine"] + each["correlation"]} - {
        7,
        31,
    }
    assert content["names"] == {j: f"name {j}" for j in near}
    dashboard = FeatureDashboard.from_pipeline(
        pipeline, ["import os\n"], features=[7], labels=labels, show_texts=["def f(x):"], n_top=1
    )
    (text,) = dashboard.content["texts"]
    active = {j for _, codes in text for j in codes[::2]} - {7}
    assert active and active <= set(dashboard.content["names"])
    page = "".join(dashboard._page(dashboard.content["features"]))
    names = json.loads(shards(page)["general"])["names"]
    assert all(names[str(j)] == f"name {j}" for j in active)


def test_without_a_model_and_by_blocks(
    dictionary, X, few_tokens, dashboard, monkeypatch, tmp_path
):
    options = {"features": FEATURES, "n_top": 5, "n_intervals": 4}
    whole = FeatureDashboard.from_activations(dictionary, X, few_tokens, **options)
    found, expected = panel(whole, 7), panel(dashboard, 7)
    assert "logits" not in found and found["effect"] is None
    for name in ("density", "maximum", "cosine", "neurons", "encoder"):
        assert found[name] == expected[name]
    first = whole.to_html(tmp_path / "a.html").read_text(encoding="utf-8")
    again = FeatureDashboard.from_activations(dictionary, X, few_tokens, **options)
    assert again.to_html(tmp_path / "b.html").read_text(encoding="utf-8") == first
    monkeypatch.setattr(_activations, "PORTION_ENTRIES", 512 * 300)
    monkeypatch.setattr(_store, "BLOCK_ENTRIES", 1000)
    blocked = panel(FeatureDashboard.from_activations(dictionary, X, few_tokens, **options), 7)
    for kind, groups in found["snippets"].items():
        for group, same in zip(groups, blocked["snippets"][kind], strict=True):
            assert [each[:3] for each in group] == [each[:3] for each in same]
    close([v for _, v in blocked["correlation"]], [v for _, v in found["correlation"]])


def test_dictionaries_without_encoder(X, few_tokens):
    found = FeatureDashboard.from_activations(PCA(4).fit(X), X, few_tokens).content["features"]
    assert [each["id"] for each in found] == [0, 1, 2, 3]
    assert all("encoder" not in each for each in found)
    # the greatest weights are those by absolute value, and some of these are negative
    assert any(value < 0 for each in found for _, value, _ in each["neurons"])


def shards(page):
    return dict(re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', page))


def test_page(dashboard, tmp_path):
    path = dashboard.to_html(str(tmp_path / "page.html"))
    page = path.read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    assert '<meta charset="utf-8">' in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    found = shards(page)
    assert set(found) == {"general", "texts", *(f"data-{j}" for j in FEATURES)}
    general = json.loads(found["general"])
    assert [row[0] for row in general["index"]] == FEATURES
    assert json.loads(found["data-31"])["label"] == "thirty-one"


def test_no_such_folder(dashboard, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere to write page\.html in"):
        dashboard.to_html(tmp_path / "nowhere" / "page.html")


def test_nothing_is_lost_if_writing_fails(dashboard, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("precious")

    def fail(self, features):
        yield "half"
        raise RuntimeError("disk full")

    monkeypatch.setattr(FeatureDashboard, "_page", fail)
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
        ({"labels": ["a"]}, TypeError, r"labels must be a dict from features to names"),
        (
            {"labels": {"data": np.ones((2, 1), bool), "target_names": ["a"]}},
            ValueError,
            r"labels has rows for 2 tokens, but there are \d+",
        ),
        ({"n_top": 0}, ValueError, r"'n_top' parameter of FeatureDashboard.from_activations"),
    ],
)
def test_bad_input(dictionary, X, few_tokens, options, error, message):
    with pytest.raises(error, match=message):
        FeatureDashboard.from_activations(dictionary, X, few_tokens, **options)


def test_bad_pipeline_and_tokens(dictionary, X, few_tokens, few_texts):
    with pytest.raises(TypeError, match=r"pipeline must be a fitted Pipeline"):
        FeatureDashboard.from_pipeline(dictionary, few_texts)
    with pytest.raises(ValueError, match=r"are 5 rows, but tokens has .*'document': \(\d+"):
        FeatureDashboard.from_activations(dictionary, X[:5], few_tokens)


class TestDisplays:
    @pytest.fixture(autouse=True)
    def plt(self):
        plt = pytest.importorskip("matplotlib.pyplot")
        yield plt
        plt.close("all")

    def test_feature(self, dashboard):
        display = dashboard.plot(7)
        heights = [bar.get_height() for bar in display.ax_.patches]
        assert heights == panel(dashboard, 7)["histogram"]
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
        return ["".join(token for token, _ in text) for text in dashboard.content["texts"]]

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
        assert set(found.content["tokens"]["names"]) <= {"in", "##to", " the", "[SEP]"}

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
            dictionary, X[:9], tokens, features=[0], labels={0: odd}, title=odd
        )
        assert found.to_html(tmp_path / "page.html").exists()


def test_dead_features(pipeline, few_texts, few_tokens):
    dictionary = copy.deepcopy(pipeline[1])
    dictionary.encoder_intercept_[7] = -1e6
    labels = python_token_labels(few_texts, few_tokens)
    found = FeatureDashboard.from_pipeline(
        make_pipeline(pipeline[0], dictionary), few_texts, features=[7], labels=labels
    )
    (feature,) = found.content["features"]
    assert feature["density"] == 0 and feature["label"] is None and feature["score"] is None


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
    for feature in found.content["features"]:
        for start, length, *_ in feature["snippets"]["top"][0]:
            table = found.content["tokens"]
            assert length == 4
            assert "".join(table["names"][k] for k in table["ids"][start : start + 4]) == "abcd"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"data": lambda n: np.full((n, 1), 3), "target_names": "a"}, "true or false"),
        ({"data": lambda n: np.ones((n, 2)), "target_names": "a"}, "2 columns of data, but 1"),
        (
            {"data": lambda n: np.ones((n - 1, 1)), "target_names": "a"},
            r"labels has rows for \d+ tokens",
        ),
    ],
)
def test_bad_labels_of_tokens(labels, message, dictionary, X, few_tokens):
    labels = labels | {"data": labels["data"](len(X)).tolist()}
    with pytest.raises(ValueError, match=message):
        FeatureDashboard.from_activations(dictionary, X, few_tokens, features=[0], labels=labels)


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
    close(found[0]["encoder"][0], encoder @ atom / np.linalg.norm(encoder))


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


def test_a_page_of_some_features_has_their_tokens_only(dashboard, monkeypatch):
    from skdict.inspection.dashboard import _dashboard

    tokens, features = _dashboard._only(
        dashboard.content["tokens"], dashboard.content["features"][:1]
    )
    assert len(tokens["ids"]) < len(dashboard.content["tokens"]["ids"])

    def shown(tokens, snippet):
        start, length = snippet[:2]
        ids = tokens["ids"][start : start + length]
        return [tokens["names"][k] for k in ids], tokens["document"][start]

    for kind, groups in features[0]["snippets"].items():
        for group, whole in zip(
            groups, dashboard.content["features"][0]["snippets"][kind], strict=True
        ):
            for snippet, original in zip(group, whole, strict=True):
                assert shown(tokens, snippet) == shown(dashboard.content["tokens"], original)


def test_density_of_one_is_drawn():
    plt = pytest.importorskip("matplotlib.pyplot")
    display = FeatureDensityDisplay([1.0, 1.0, 0.5, 1e-6]).plot()
    assert sum(bar.get_height() for bar in display.ax_.patches) == 4
    plt.close("all")


def test_labels_of_unknown_features(dictionary, X, few_tokens):
    with pytest.raises(ValueError, match=r"labels has names for \['3', 999\], but the features"):
        FeatureDashboard.from_activations(
            dictionary, X, few_tokens, features=[0], labels={"3": "a", 999: "b", 0: "c"}
        )
