"""FeatureCodes: collected, from matrices, on disk, resumed after an interruption."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skdict import inspection
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import FeatureCodes, collect_codes, feature_statistics, top_activations
from skdict.inspection.codes import _collecting, _store
from skdict.inspection.codes._files import Writer


def dense(codes):
    found = np.zeros(codes.shape)
    for first, block in codes.blocks():
        assert block.has_sorted_indices and (block.data > 0).all()
        found[first : first + block.shape[0]] = block.toarray()
    return found


@pytest.fixture(scope="module")
def pipeline(extractor, dictionary):
    return make_pipeline(extractor, dictionary)


@pytest.fixture(scope="module")
def few(texts):
    return [text[:600] for text in texts[:8]]


@pytest.fixture(scope="module")
def collected(pipeline, few):
    return collect_codes(pipeline, few, n_near_misses=3)


def test_codes_and_tokens_are_those_of_the_parts(collected, extractor, dictionary, few):
    X = extractor.transform(few)
    assert_allclose(dense(collected), np.maximum(dictionary.transform(X), 0), atol=1e-5)
    for name, column in extractor.tokens(few).items():
        assert_array_equal(collected.tokens[name], column)
    assert collected.texts == few
    assert collected.counted.all() and collected.n_counted == len(X)
    known = collected.provenance
    assert known["layer"] == extractor.layer and known["n_documents"] == len(few)
    assert known["l0"] == pytest.approx((dictionary.transform(X) > 0).sum(axis=1).mean())
    json.dumps(known)


@pytest.mark.parametrize("name", ["layers.0.mlp.act", "blocks.0.mlp.hook_post"])
def test_layers_by_their_friendly_names(language, dictionary, few, collected, name):
    extractor = ActivationExtractor(
        language.model, name, tokenizer=language.tokenizer, long_documents="window"
    )
    codes = collect_codes(make_pipeline(extractor, dictionary), few)
    assert_array_equal(dense(codes), dense(collected))


def test_the_model_runs_once(pipeline, few, monkeypatch):
    seen = []
    forward = torch.nn.Embedding.forward

    def counting(self, ids):
        seen.append(ids.numel())
        return forward(self, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", counting)
    codes = collect_codes(pipeline, few, n_near_misses=2)
    n = sum(seen) / 2  # tokens and positions
    top_activations(codes, n_intervals=3, n_random=2)
    feature_statistics(codes)
    assert sum(seen) / 2 == n
    assert n < 1.5 * codes.n_rows


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array, sp.coo_array, torch.from_numpy])
def test_from_matrix(convert):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(50, 7)) * (rng.random((50, 7)) < 0.4)
    codes = FeatureCodes.from_matrix(convert(matrix))
    positive = np.maximum(matrix, 0)
    assert_array_equal(dense(codes), positive)
    assert_array_equal(codes.columns([6, 2, 6]).toarray(), positive[:, [6, 2, 6]])
    assert_allclose(codes.moments.total, positive.sum(axis=0))
    assert_allclose(codes.moments.squares, (positive**2).sum(axis=0))
    assert_array_equal(codes.moments.maximum, positive.max(axis=0))


def test_blocks_are_cut_anywhere(monkeypatch, collected):
    expected = dense(collected)
    statistics = feature_statistics(collected)
    monkeypatch.setattr(_store, "BLOCK_ENTRIES", 37)
    assert len(list(collected.blocks())) > 20
    assert_array_equal(dense(collected), expected)
    found = feature_statistics(collected)
    assert_array_equal(found.histogram, statistics.histogram)


class TestRules:
    def test_positions(self, pipeline, few, collected):
        codes = collect_codes(pipeline, few, exclude_positions=[0, 1])
        out = np.isin(collected.tokens["position"], [0, 1])
        assert_array_equal(codes.counted, ~out)
        assert codes.provenance["left_out"] == {"positions": out.sum()}
        expected = dense(collected)
        expected[out] = 0
        assert_allclose(dense(codes), expected, atol=1e-6)
        statistics = feature_statistics(codes)
        assert statistics.n_samples == (~out).sum()
        assert_allclose(statistics.density, (expected[~out] > 0).mean(axis=0))

    def test_tokens_and_norms(self, pipeline, extractor, few, collected):
        norms = np.linalg.norm(extractor.transform(few), axis=1)
        dots = collected.tokens["token"] == "."
        codes = collect_codes(pipeline, few, exclude_tokens=".", max_norm=1.2)
        large = norms > 1.2 * np.median(norms)
        assert dots.any() and large.any()
        assert_array_equal(codes.counted, ~(dots | large))
        left_out = {"tokens": dots.sum(), "norms": (large & ~dots).sum()}
        assert codes.provenance["left_out"] == left_out

    @pytest.mark.parametrize(
        "convert",
        [
            np.asarray,
            lambda X: X.astype(np.float16),
            np.ndarray.tolist,
            sp.csr_array,
            sp.csr_matrix,
            torch.from_numpy,
            lambda X: torch.from_numpy(X).half(),
            lambda X: pytest.importorskip("pandas").DataFrame(X),
        ],
    )
    def test_norms_of_any_matrix(self, dictionary, activations, convert):
        X = activations[:60].astype(np.float32)
        X[7] *= 3e4 / np.abs(X[7]).max()  # its square is infinite in half precision
        codes = collect_codes(dictionary, convert(X), max_norm=50)
        assert_array_equal(np.flatnonzero(~codes.counted), [7])

    def test_positions_of_a_data_frame(self, activations):
        X = pytest.importorskip("pandas").DataFrame(activations[:40]).add_prefix("neuron ")
        tokens = {"document": np.zeros(40, int), "position": np.arange(40)}
        codes = collect_codes(PCA(3).fit(X), X, tokens=tokens, exclude_positions=[0, 5])
        assert_array_equal(np.flatnonzero(~codes.counted), [0, 5])

    def test_left_out_rows_are_no_near_misses(self, pipeline, few):
        codes = collect_codes(pipeline, few, exclude_positions=range(5), n_near_misses=4)
        assert codes.counted[codes.near_misses.rows].all()

    def test_counted_of_a_matrix(self):
        codes = FeatureCodes.from_matrix([[1.0, 2.0], [3.0, 0.0]], counted=[True, False])
        assert_array_equal(dense(codes), [[1, 2], [0, 0]])
        assert feature_statistics(codes).density.tolist() == [1, 1]
        with pytest.raises(ValueError, match="counted must be true or false for each of 2 rows"):
            FeatureCodes.from_matrix([[1.0], [2.0]], counted=[1, 0])

    def test_rules_need_columns(self, dictionary, activations):
        with pytest.raises(ValueError, match="exclude_positions needs tokens with a column"):
            collect_codes(dictionary, activations[:50], exclude_positions=0)


class TestOnDisk:
    def same(self, found, expected):
        assert_allclose(dense(found), dense(expected), rtol=1e-4, atol=1e-6)  # other batches
        assert_array_equal(found.counted, expected.counted)
        for name in ("document", "token", "position", "start", "end"):
            assert_array_equal(found.tokens[name], expected.tokens[name])
        assert list(found.texts) == list(expected.texts)
        for name in ("count", "total", "squares", "maximum", "n_rows"):
            values = getattr(expected.moments, name)
            assert_allclose(getattr(found.moments, name), values, rtol=1e-4)
        for name in ("indptr", "rows", "scores"):
            close = {"rtol": 1e-4, "atol": 1e-6}
            assert_allclose(found.near_misses[name], expected.near_misses[name], **close)

    def test_save_and_load(self, collected, tmp_path):
        path = collected.save(tmp_path / "codes")
        found = FeatureCodes.load(path, verify=True)
        self.same(found, collected)
        assert found.provenance == collected.provenance
        with pytest.raises(FileExistsError):
            collected.save(path)

    def test_collect_to_a_folder(self, pipeline, few, collected, tmp_path, monkeypatch):
        monkeypatch.setattr("skdict._core.language.texts.CHARACTERS_AT_ONCE", 700)
        monkeypatch.setattr(_collecting, "ENTRIES_PER_COMMIT", 1)
        found = collect_codes(pipeline, few, n_near_misses=3, path=tmp_path / "codes")
        self.same(found, collected)
        again = collect_codes(pipeline, few, n_near_misses=3, path=tmp_path / "codes")
        self.same(again, collected)

    def test_goes_on_after_an_interruption(self, pipeline, few, collected, tmp_path, monkeypatch):
        monkeypatch.setattr("skdict._core.language.texts.CHARACTERS_AT_ONCE", 700)
        monkeypatch.setattr(_collecting, "ENTRIES_PER_COMMIT", 1)
        add = _collecting._Collector.add
        for _ in range(3):  # each call gets two portions further
            portions = []

            def stopped(self, portion, portions=portions):
                if len(portions) == 2:
                    raise KeyboardInterrupt
                portions.append(portion)
                return add(self, portion)

            monkeypatch.setattr(_collecting._Collector, "add", stopped)
            with pytest.raises(KeyboardInterrupt):
                collect_codes(pipeline, few, n_near_misses=3, path=tmp_path / "codes")
        with pytest.raises(ValueError, match=r"was not completed: [0-9]+ rows are there"):
            FeatureCodes.load(tmp_path / "codes")
        with open(tmp_path / "codes" / "indices.i32", "ab") as file:
            file.write(b"what was written after the last commit")
        monkeypatch.setattr(_collecting._Collector, "add", add)
        found = collect_codes(pipeline, few, n_near_misses=3, path=tmp_path / "codes")
        self.same(FeatureCodes.load(tmp_path / "codes", verify=True), collected)
        self.same(found, collected)

    def test_goes_on_if_stopped_before_the_first_commit(
        self, pipeline, few, collected, tmp_path, monkeypatch
    ):
        append = Writer.append

        def stopped(self, *args):
            append(self, *args)
            raise KeyboardInterrupt

        monkeypatch.setattr(Writer, "append", stopped)
        with pytest.raises(KeyboardInterrupt):
            collect_codes(pipeline, few, n_near_misses=3, path=tmp_path / "codes")
        monkeypatch.setattr(Writer, "append", append)
        found = collect_codes(pipeline, few, n_near_misses=3, path=tmp_path / "codes")
        self.same(found, collected)

    @pytest.mark.parametrize("convert", [np.asarray, sp.csr_array, torch.from_numpy])
    def test_the_same_matrix_is_known_again(self, dictionary, activations, tmp_path, convert):
        X = activations[:3000]
        tokens = {"document": np.zeros(len(X), int), "token": ["a"] * len(X)}
        path = tmp_path / "codes"
        codes = collect_codes(dictionary, convert(X), tokens=tokens, path=path)
        again = collect_codes(dictionary, convert(X.copy()), tokens=tokens, path=path)
        assert_array_equal(dense(codes), dense(again))
        other = X.copy()
        other[1500] += 1
        with pytest.raises(ValueError, match="holds codes of another X"):
            collect_codes(dictionary, convert(other), tokens=tokens, path=path)
        for others in (None, tokens | {"token": ["b"] * len(X)}):
            with pytest.raises(ValueError, match="holds codes of another tokens"):
                collect_codes(dictionary, convert(X), tokens=others, path=path)

    @pytest.mark.parametrize("what", ["X", "dictionary", "rules"])
    def test_another_corpus_is_refused(self, pipeline, few, tmp_path, what):
        collect_codes(pipeline, few[:2], path=tmp_path / "codes")
        options, texts, other = {}, few[:2], pipeline
        if what == "X":
            texts = few[1:3]
        elif what == "rules":
            options = {"exclude_positions": 0}
        else:
            import copy

            last = copy.copy(pipeline[-1])
            last.components_ = last.components_ * np.float32(1.5)
            other = make_pipeline(pipeline[0], last)
        with pytest.raises(ValueError, match=f"holds codes of another {what}"):
            collect_codes(other, texts, path=tmp_path / "codes", **options)

    def test_any_fitted_array_counts(self, activations, tmp_path):
        X = activations[:100, :6]
        pca = PCA(2).fit(X)
        collect_codes(pca, X, path=tmp_path / "codes")
        collect_codes(pca, X, path=tmp_path / "codes")
        pca.mean_ = pca.mean_ + 1
        with pytest.raises(ValueError, match="holds codes of another dictionary"):
            collect_codes(pca, X, path=tmp_path / "codes")

    def test_damage_is_named(self, collected, tmp_path):
        path = collected.save(tmp_path / "codes")
        values = path / "values.f32"
        whole = values.read_bytes()
        values.write_bytes(whole[:-4])
        with pytest.raises(ValueError, match=r"values.f32' has \d+ bytes, but codes.json says"):
            FeatureCodes.load(path)
        values.write_bytes(whole[:10] + bytes([whole[10] ^ 1]) + whole[11:])
        FeatureCodes.load(path)
        with pytest.raises(ValueError, match=r"values.f32' is damaged: its checksum"):
            FeatureCodes.load(path, verify=True)
        values.unlink()
        with pytest.raises(FileNotFoundError, match=r"values.f32', which codes.json names"):
            FeatureCodes.load(path)
        index = json.loads((path / "codes.json").read_text())
        for change in ({"version": 99}, {"format": "x"}, {"n_rows": "many"}, {"files": 3}):
            (path / "codes.json").write_text(json.dumps(index | change))
            with pytest.raises(ValueError, match=r"codes.json' is not an index of codes"):
                FeatureCodes.load(path)
        (path / "codes.json").write_text(json.dumps(index | {"state": "../state-1.npz"}))
        values.write_bytes(whole)
        with pytest.raises(ValueError, match=r"names the file '../state-1.npz' elsewhere"):
            FeatureCodes.load(path)
        with pytest.raises(FileNotFoundError, match=r"holds no codes.json"):
            FeatureCodes.load(tmp_path)

    def test_others_files_are_left_alone(self, pipeline, few, tmp_path):
        (tmp_path / "mine.txt").write_text("x")
        with pytest.raises(FileExistsError, match="holds files, but no codes"):
            collect_codes(pipeline, few, path=tmp_path)


@pytest.mark.parametrize("how", ["max", "mean"])
def test_pooled(collected, how, monkeypatch):
    monkeypatch.setattr(_store, "BLOCK_ENTRIES", 500)
    document = collected.tokens["document"]
    codes = dense(collected)
    of_document = [codes[document == i] for i in range(len(collected.texts))]
    expected = np.array([getattr(each, how)(axis=0) for each in of_document])
    pooled = collected.pooled(how)
    assert_allclose(dense(pooled), expected, rtol=1e-6)
    assert pooled.tokens["token"][3] == collected.texts[3]
    assert pooled.provenance["pooling"] == how


def test_samples_and_pooled_texts(language, dictionary, few):
    ids = np.random.default_rng(0).integers(1, 4000, size=(9, 11))
    extractor = ActivationExtractor(
        language.model, "transformer.h.0.mlp.act", tokenizer=None, batch_size=4
    ).fit(ids)
    codes = collect_codes(make_pipeline(extractor, dictionary), ids)
    assert_array_equal(codes.tokens["document"], np.repeat(np.arange(9), 11))
    assert_array_equal(codes.tokens["position"], np.tile(np.arange(11), 9))
    pooling = ActivationExtractor(
        language.model, "transformer.h.0.mlp.act", tokenizer=language.tokenizer, pooling="max"
    )
    codes = collect_codes(make_pipeline(pooling, dictionary), few)
    assert codes.n_rows == len(few)
    assert_allclose(
        dense(codes), np.maximum(dictionary.transform(pooling.transform(few)), 0), atol=1e-5
    )


def test_a_cache_gives_the_activations(language, dictionary, few, collected, tmp_path):
    extractor = ActivationExtractor(
        language.model,
        "transformer.h.0.mlp.act",
        tokenizer=language.tokenizer,
        long_documents="window",
        cache=tmp_path,
    )
    codes = collect_codes(make_pipeline(extractor, dictionary), few)
    assert_allclose(dense(codes), dense(collected), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("on_disk", [False, True])
def test_others_take_them(pipeline, few, tmp_path, on_disk):
    """As they take the matrix of the rows that count."""
    path = tmp_path / "codes" if on_disk else None
    collected = collect_codes(pipeline, few, exclude_positions=range(9), path=path)
    rows = collected.counted
    codes = sp.csr_array(dense(collected)[rows]).astype(np.float32)
    every = np.stack([collected.tokens["token"] == token for token in (".", "(")], axis=1)
    document = collected.tokens["document"]
    X = np.random.default_rng(0).normal(size=(len(rows), 4))
    for function in (
        lambda codes, some: inspection.select_feature_detectors(codes, every[some]),
        lambda codes, some: inspection.feature_report(codes, every[some]),
        lambda codes, some: inspection.feature_communities(codes, random_state=0),
        lambda codes, some: inspection.feature_splitting(codes, codes),
        lambda codes, some: inspection.match_features(codes, codes, by="codes"),
        lambda codes, some: inspection.match_features(codes, X[some], by="codes"),
        lambda codes, some: inspection.match_features(torch.tensor(X[some]), codes, by="codes"),
        lambda codes, some: inspection.feature_association(
            codes, every[some, 0], groups=document[some]
        ),
        lambda codes, some: inspection.k_sparse_probe(
            codes, every[some], X=X[some], k=2, groups=document[some]
        ),
    ):
        found, expected = function(collected, slice(None)), function(codes, rows)
        for name in expected:
            assert str(found[name]) == str(expected[name])


def test_rows_that_count_in_both(collected):
    """Codes of the same rows by different rules."""
    matrix, n = collected.to_csr(), collected.n_rows
    counted = [np.arange(n) % 3 > 0, np.arange(n) % 5 > 0]
    codes = [FeatureCodes.from_matrix(matrix, counted=some) for some in counted]
    both = matrix[counted[0] & counted[1]]
    for function in (
        lambda *codes: inspection.match_features(*codes, by="codes").best_similarity,
        lambda *codes: inspection.feature_splitting(*codes).recall[0],
    ):
        assert_allclose(function(*codes), function(both, both))


class TestOddInputs:
    @pytest.mark.parametrize("convert", [np.asarray, torch.tensor, sp.csr_array, pd.DataFrame])
    def test_extreme_norms_of_any_matrix(self, dictionary, activations, convert):
        X = np.array(activations[:40], dtype=np.float32)
        X[7] *= 1e3
        codes = collect_codes(dictionary, convert(X), max_norm=50)
        assert_array_equal(np.flatnonzero(~codes.counted), [7])
        X[7, 0] = np.inf  # is not encoded
        codes = collect_codes(dictionary, convert(X), max_norm=50)
        assert_array_equal(np.flatnonzero(~codes.counted), [7])

    def test_rules_that_leave_no_row(self, pipeline, few, tmp_path):
        with pytest.raises(ValueError, match=r"leave none of .* rows; they took"):
            collect_codes(pipeline, few, exclude_positions=range(10_000))
        with pytest.raises(ValueError, match="leave none of"):
            collect_codes(pipeline, few, exclude_positions=range(10_000), path=tmp_path / "codes")
        with pytest.raises(ValueError, match="true for at least one"):
            FeatureCodes.from_matrix(np.eye(3), counted=[False] * 3)

    def test_tokens_that_never_occur(self, pipeline, few):
        with pytest.warns(UserWarning, match=r"exclude_tokens has \['no such token'\]"):
            collect_codes(pipeline, few, exclude_tokens=["no such token"])

    def test_a_file_is_no_folder(self, pipeline, few, collected, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(NotADirectoryError, match=r"path=.* is a file, or below"):
            collect_codes(pipeline, few, path=tmp_path / "file")
        with pytest.raises(FileExistsError, match="Give a new or an empty folder"):
            collected.save(tmp_path / "file")
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_folder_of_other_rows_or_tokens(self, dictionary, activations, tmp_path):
        X = np.tile(np.asarray(activations[:100], dtype=np.float32), (30, 1))
        tokens = {"document": np.arange(len(X)), "token": ["a"] * len(X)}
        collect_codes(dictionary, X, tokens=tokens, path=tmp_path / "codes")
        with pytest.raises(ValueError, match="holds codes of another tokens"):
            tokens["token"][5] = "b"
            collect_codes(dictionary, X, tokens=tokens, path=tmp_path / "codes")
        tokens["token"][5] = "a"
        X[1500, 3] += 1  # neither among the first rows nor the last
        with pytest.raises(ValueError, match="holds codes of another X"):
            collect_codes(dictionary, X, tokens=tokens, path=tmp_path / "codes")

    def test_a_model_whose_weights_have_changed_places(self, language, dictionary, few, tmp_path):
        model = copy.deepcopy(language.model)
        extractor = ActivationExtractor(
            model, "transformer.h.0.mlp.act", tokenizer=language.tokenizer
        )
        pipeline = make_pipeline(extractor, dictionary)
        collect_codes(pipeline, few, path=tmp_path / "codes")
        weight = model.transformer.h[0].mlp.c_fc.weight.data
        weight.copy_(weight.flip(1))  # with the same sum
        with pytest.raises(ValueError, match="holds codes of another model"):
            collect_codes(pipeline, few, path=tmp_path / "codes")

    @pytest.mark.parametrize("features", [1, [1], np.arange(3) == 1, np.int64(1)])
    def test_columns_take_features(self, features):
        codes = FeatureCodes.from_matrix(np.arange(6.0).reshape(2, 3))
        assert_array_equal(codes.columns(features).toarray(), [[1], [4]])
        with pytest.raises(ValueError, match="features has -1"):
            codes.columns([-1])

    def test_what_cannot_be_kept(self, tmp_path):
        with pytest.raises(TypeError, match="provenance must have values that JSON can hold"):
            FeatureCodes.from_matrix(np.eye(2), provenance={"model": object()})
        with pytest.raises(TypeError, match="texts must be a list of str"):
            FeatureCodes.from_matrix(np.eye(2), texts="ab")
        tokens = {"document": [0, 1], "token": ["a", "b"]}
        with pytest.raises(ValueError, match="There are 1 texts, but"):
            FeatureCodes.from_matrix(np.eye(2), tokens=tokens, texts=["a"])
        tokens["document"] = [0, 2**40]
        codes = FeatureCodes.from_matrix(np.eye(2), tokens=tokens)
        with pytest.raises(ValueError, match="32 bits cannot hold"):
            codes.save(tmp_path / "codes")
