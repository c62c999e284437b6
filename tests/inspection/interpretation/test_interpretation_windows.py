"""Windows: what they are, and that those drawn are apart, of all levels, balanced."""

import numpy as np
import pytest
from interpretation_testing import make_tokens, planted
from numpy.testing import assert_array_equal
from sklearn.metrics import roc_auc_score

from skdict.datasets import load_one_layer_transformer
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import interpret_features
from skdict.inspection.interpretation._windows import Activity, TooFewWindows, WindowGrid
from skdict.inspection.interpretation.scorers import Intruder

SIZES = {"n_explain": 12, "n_score": 20, "near_miss_fraction": 0.5}


def ragged_tokens(seed=0):
    """Documents of any length, some run through the model in two parts."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 60, size=50)
    document = np.repeat(np.arange(50), lengths)
    position = np.concatenate([np.arange(n) % 37 for n in lengths])
    token_id = rng.integers(20, size=len(document))
    end = np.concatenate([np.cumsum(np.full(n, 4)) for n in lengths])
    token = np.array([f" t{i:02d}" for i in token_id], dtype=object)
    return {
        "document": document,
        "position": position,
        "token_id": token_id,
        "token": token,
        "start": end - 4,
        "end": end,
    }


@pytest.mark.parametrize("window_length", [2, 7, 1000])
def test_windows_tile_the_texts(window_length):
    tokens = ragged_tokens()
    n_rows = len(tokens["token"])
    grid = WindowGrid(tokens, n_rows, window_length, 0)
    assert grid.first[0] == 0
    assert_array_equal(grid.stop[:-1], grid.first[1:])  # they neither overlap nor leave gaps
    assert grid.stop[-1] == n_rows
    for first, stop in zip(grid.first, grid.stop, strict=True):
        assert stop - first <= window_length
        assert len(set(tokens["document"][first:stop])) == 1
        assert np.all(np.diff(tokens["position"][first:stop]) == 1)
    # no more of them than it takes
    runs = np.flatnonzero((np.diff(tokens["document"]) != 0) | (np.diff(tokens["position"]) != 1))
    lengths = np.diff(np.concatenate([[0], runs + 1, [n_rows]]))
    assert len(grid.first) == np.ceil(lengths / window_length).sum()


def test_text_of_windows():
    """Of a byte-level tokenizer, whose tokens may be a third of a character."""
    language = load_one_layer_transformer()
    extractor = ActivationExtractor(
        language.model, "transformer.h.0.mlp.act", tokenizer=language.tokenizer
    )
    texts = ["naïve = '☃漢字'  # ☃☃\n\tx = 1\n", "\n\n  y"]
    tokens = extractor.tokens(texts)
    assert len(tokens.token) > len(set(zip(tokens.document, tokens.start, strict=True)))
    grid = WindowGrid(tokens, len(tokens.token), 1000, 0)
    for window, text in enumerate(texts):
        pieces = grid.pieces(np.arange(grid.first[window], grid.stop[window]))
        assert "".join(pieces) == text
    assert grid.token(1) == tokens.token[1]


def test_text_of_tokens_without_spaces_and_without_text():
    tokens = {
        "document": np.zeros(4, dtype=int),
        "position": np.arange(4),
        "token_id": np.arange(4),
        "token": np.array(["<s>", "a", "cat", "!"], dtype=object),
        "start": np.array([0, 0, 2, 5]),
        "end": np.array([0, 1, 5, 6]),
    }
    assert WindowGrid(tokens, 4, 8, 0).pieces(np.arange(4)) == ["<s>", "a", " cat", "!"]


def test_examples():
    tokens = ragged_tokens()
    grid = WindowGrid(tokens, len(tokens["token"]), 7, 0)
    rng = np.random.default_rng(0)
    codes = np.maximum(rng.normal(size=len(tokens["token"])), 0)
    rows = np.flatnonzero(codes)
    examples = grid.examples(np.arange(len(grid.first)), Activity(rows, codes[rows]))
    for window, example in enumerate(examples):
        assert_array_equal(example.activations, codes[grid.first[window] : grid.stop[window]])
        assert_array_equal(example.marked, example.activations > 0)


def random_activity(n_rows, fraction, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(n_rows) < fraction)
    return Activity(rows, rng.exponential(size=len(rows)))


def peaks(grid, activity, windows):
    examples = grid.examples(np.asarray(windows), activity)
    return np.array([example.activations.max() for example in examples])


@pytest.mark.parametrize("seed", range(5))
def test_draw(seed):
    rng = np.random.default_rng(seed)
    tokens = make_tokens(rng.integers(50, size=(100, 40)))
    grid = WindowGrid(tokens, 4000, 8, seed)
    activity = random_activity(4000, 0.05, seed)
    sample = grid.draw(activity, rng, **SIZES)
    explain = np.concatenate([sample.explain_active, sample.explain_inactive])
    score = np.concatenate([sample.score_active, sample.score_inactive])
    assert len(np.unique(explain)) == len(explain) == 12 + 6
    assert len(np.unique(score)) == len(score) == 20
    assert len(sample.score_active) == len(sample.score_inactive) == 10
    assert not set(tokens["document"][grid.first[explain]]) & set(
        tokens["document"][grid.first[score]]
    )
    assert sample.split == "documents"
    for windows, is_active in zip(sample[:4], (True, False, True, False), strict=True):
        assert_array_equal(peaks(grid, activity, windows) > 0, is_active)

    all_peaks = peaks(grid, activity, range(len(grid.first)))
    assert sample.n_active == np.count_nonzero(all_peaks)
    # the most active ones of their half explain, six of them
    half = grid._halves["documents"]
    top = np.sort(all_peaks[half])[-6:]
    assert_array_equal(peaks(grid, activity, sample.explain_active)[-6:], top)
    # one of each tenth of the levels scores
    levels = np.sort(all_peaks[~half & (all_peaks > 0)])
    ranks = np.searchsorted(levels, peaks(grid, activity, sample.score_active))
    bounds = np.linspace(0, len(levels), 11).astype(int)
    assert np.all((bounds[:-1] <= ranks) & (ranks < bounds[1:]))


def test_near_misses_go_with_the_tokens_of_active_windows():
    rng = np.random.default_rng(0)
    tokens = make_tokens(rng.integers(2000, size=(200, 40)))  # most tokens are in few windows
    grid = WindowGrid(tokens, 8000, 8, 0)
    activity = random_activity(8000, 0.01)
    for fraction, n_near in ((0.0, 0), (0.5, 5), (1.0, 10)):
        sizes = SIZES | {"near_miss_fraction": fraction}
        sample = grid.draw(activity, np.random.default_rng(0), **sizes)
        ids = set()
        for example in grid.examples(np.flatnonzero(~grid._halves["documents"]), activity):
            if example.marked.any():
                ids.add(tokens["token_id"][example.rows[example.activations.argmax()]])
        contains = [
            bool(ids & set(tokens["token_id"][grid.first[w] : grid.stop[w]]))
            for w in sample.score_inactive
        ]
        assert n_near <= sum(contains) <= n_near + 4
        assert len(sample.score_inactive) == 10


def test_nothing_but_the_text_tells_active_windows():
    """Not their lengths, although longer ones are more often active, nor how much is marked."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 40, size=3000)
    position = np.concatenate([np.arange(n) for n in lengths])
    token_id = rng.integers(300, size=len(position))
    tokens = {
        "document": np.repeat(np.arange(3000), lengths),
        "position": position,
        "token_id": token_id,
        "token": token_id.astype(str).astype(object),
        "start": 3 * position,
        "end": 3 * position + 3,
    }
    grid = WindowGrid(tokens, len(position), 32, 0)
    length = grid.stop - grid.first
    aucs, shortest, marked = [], [], {True: [], False: []}
    for seed in range(20):
        rows = np.flatnonzero(np.convolve(rng.random(len(position)) < 0.008, np.ones(3)))
        rows = rows[rows < len(position)]
        activity = Activity(rows, rng.random(len(rows)))
        sample = grid.draw(activity, np.random.default_rng(seed), **(SIZES | {"n_score": 40}))
        active, idle = (
            grid.examples(windows, activity)
            for windows in (sample.score_active, sample.score_inactive)
        )
        both = np.concatenate([sample.score_active, sample.score_inactive])
        aucs.append(roc_auc_score(np.arange(40) < 20, length[both]))
        aucs.append(roc_auc_score(np.arange(18) < 12, length[np.concatenate(sample[:2])]))
        for question in Intruder().questions(active, idle, rng):
            (place,) = question.truth
            sizes = np.array([len(example.rows) for example in question.examples])
            shortest.append(np.mean(np.flatnonzero(sizes == sizes.min()) == place))
            for i, example in enumerate(question.examples):
                marked[i == place].append(example.marked.sum())
    everywhere = length[np.unique(np.searchsorted(grid.first, rows, side="right") - 1)]
    assert everywhere.mean() > length.mean() + 2
    assert abs(np.mean(aucs) - 0.5) < 0.03
    assert abs(np.mean(shortest) - 0.2) < 0.08  # 200 questions
    assert max(marked[True]) > 3
    assert abs(np.mean(marked[True]) - np.mean(marked[False])) < 0.5


def test_the_same_text_is_used_once():
    rng = np.random.default_rng(0)
    token_id = rng.integers(50, size=(100, 16))
    token_id[:, :8] = token_id[0, :8]  # all begin alike
    tokens = make_tokens(token_id)
    grid = WindowGrid(tokens, 1600, 8, 0)
    rows = np.arange(0, 1600, 16)  # active on the first token of each
    with pytest.raises(TooFewWindows, match="active in 1 windows and inactive in 100"):
        grid.draw(Activity(rows, np.ones(100)), rng, **SIZES)
    for seed in range(20):
        sample = grid.draw(random_activity(1600, 0.1), np.random.default_rng(seed), **SIZES)
        drawn = np.concatenate(sample[:4])
        assert np.sum(drawn % 2 == 0) <= 1


def test_windows_are_divided_where_documents_cannot_be():
    tokens = make_tokens(np.random.default_rng(0).integers(50, size=(1, 400)))
    grid = WindowGrid(tokens, 400, 8, 0)
    sample = grid.draw(random_activity(400, 0.08), np.random.default_rng(0), **SIZES)
    assert sample.split == "windows"
    assert not set(np.concatenate(sample[:2])) & set(np.concatenate(sample[2:4]))


def test_fewer_windows_than_asked_for_stay_balanced():
    tokens = make_tokens(np.random.default_rng(0).integers(50, size=(60, 8)))
    grid = WindowGrid(tokens, 480, 8, 0)
    rows = 8 * np.arange(14)
    sample = grid.draw(Activity(rows, 1.0 + rows), np.random.default_rng(0), **SIZES)
    assert 5 <= len(sample.explain_active) <= 9
    assert (
        len(sample.score_active) == len(sample.score_inactive) == 14 - len(sample.explain_active)
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64])
def test_small_and_unsigned_integers(dtype):
    """Positions and token ids that reach the end of their type."""
    top = int(min(np.iinfo(dtype).max, 255))
    n = 2 * (top + 1)
    tokens = {name: np.zeros(n, np.int64) for name in ("document", "start", "end")}
    tokens["position"] = np.tile(np.arange(top + 1), 2)
    tokens["token_id"] = top - tokens["position"]
    tokens["token"] = np.array(["x"] * n, dtype=object)
    expected = WindowGrid(tokens, n, 7, 0)
    small = {
        name: column if name == "token" else column.astype(dtype)
        for name, column in tokens.items()
    }
    grid = WindowGrid(small, n, 7, 0)
    assert top + 1 in grid.first  # the second text begins a window of its own
    assert_array_equal(grid.first, expected.first)
    assert_array_equal(grid.token_id, expected.token_id)


@pytest.mark.parametrize("dtype", [str, object, float])
def test_documents_that_have_names(dtype):
    tokens = ragged_tokens()
    n = len(tokens["token"])
    names = np.char.mod("%02d", tokens["document"]).astype(dtype)  # sorted as the numbers are
    expected, grid = (WindowGrid(each, n, 7, 0) for each in (tokens, tokens | {"document": names}))
    assert_array_equal(grid.first, expected.first)
    for how in ("documents", "windows"):
        assert_array_equal(grid._halves[how], expected._halves[how])


def test_numpys_scalars_as_parameters():
    codes, tokens = planted(3, n_documents=1200)  # active in more windows than an int8 counts
    params = {"window_length": 8, "n_explain": 20, "n_score": 20, "random_state": 1}
    expected = interpret_features(codes, [0, 2], tokens=tokens, **params)
    params = {name: np.int8(value) for name, value in params.items()}
    found = interpret_features(codes, np.array([0, 2], np.uint8), tokens=tokens, **params)
    for name in ("detection", "fuzzing", "n_active_windows", "explanation"):
        assert_array_equal(found[name], expected[name])
