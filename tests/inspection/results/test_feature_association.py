"""Associations of features against SciPy, statsmodels, plain loops, and shuffled labels."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kruskal, mannwhitneyu, poisson, rankdata, spearmanr
from statsmodels.stats.multitest import multipletests

from skdict.inspection import FeatureCodes, feature_association
from skdict.inspection.results import _ranks


def random_codes(rng, n_rows, n_features, density=0.3):
    """Sparse codes with many ties, and some negative entries."""
    codes = rng.integers(-1, 5, size=(n_rows, n_features)).astype(float)
    return codes * (rng.random(codes.shape) < density)


def parts_of(y):
    """The rows that are tested and those that effects are measured on, as masks."""
    n = len(y)
    half = np.random.RandomState(0).permutation(n)[: round(0.5 * n)]
    measured = np.isin(np.arange(n), half)
    return ~measured, measured


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    return random_codes(rng, 240, 25), rng


def test_binary_as_scipy(drawn):
    codes, rng = drawn
    y = rng.random(240) < 0.4
    found = feature_association(codes, y)
    assert found.target == "binary" and found.unit == "samples"
    for part, prefix in zip(parts_of(y), ("", "test_"), strict=True):
        for j, of_feature in enumerate(codes[part].T):
            test = mannwhitneyu(
                of_feature[y[part]],
                of_feature[~y[part]],
                use_continuity=False,
                method="asymptotic",
            )
            auc = test.statistic / y[part].sum() / (~y[part]).sum()
            assert_allclose(found[f"{prefix}effect"][j], 2 * auc - 1, atol=1e-12)
            if not prefix:
                assert_allclose(2 * _ranks.norm.sf(abs(found.z[j])), test.pvalue)
                assert 0.9 * test.pvalue < found.p_value[j] < max(2.2 * test.pvalue, 0.2)
            else:
                assert_allclose(found.test_auc[j], auc)
    assert_allclose(found.prevalence, (codes != 0).mean(axis=0))
    assert_allclose(found.prevalence_with, (codes[y] != 0).mean(axis=0))
    assert_allclose(found.prevalence_without, (codes[~y] != 0).mean(axis=0))
    assert (found.label == 1).all()


def test_numeric_as_scipy(drawn):
    codes, rng = drawn
    y = np.round(rng.normal(size=240), 1)  # with ties
    found = feature_association(codes, y)
    assert found.target == "numeric" and "label" not in found
    tested, measured = parts_of(y)
    for j in range(25):
        expected = spearmanr(codes[tested, j], y[tested])
        assert_allclose(found.effect[j], expected.statistic)
        assert_allclose(found.z[j], expected.statistic * np.sqrt(119))
        assert_allclose(found.p_value[j], expected.pvalue, rtol=0.15, atol=0.01)
        assert_allclose(found.test_effect[j], spearmanr(codes[measured, j], y[measured])[0])


def test_classes_as_scipy(drawn):
    codes, rng = drawn
    y = rng.choice(["a", "b", "c"], size=240, p=[0.5, 0.3, 0.2])
    found = feature_association(codes, y)
    assert found.target == "multiclass"
    tested, _ = parts_of(y)
    for j, of_feature in enumerate(codes[tested].T):
        expected = kruskal(*(of_feature[y[tested] == name] for name in "abc"))
        assert_allclose(found.kruskal[j], expected.statistic)
        one_by_one = [feature_association(codes, y == name, j) for name in "abc"]
        p = [single.p_value[0] for single in one_by_one]
        best = int(np.argmin(p))
        assert found.label[j] == "abc"[best]
        assert_allclose(found.p_value[j], min(1, 3 * p[best]))
        for name in ("effect", "test_effect", "test_low", "test_high", "test_p_value"):
            assert_allclose(found[name][j], one_by_one[best][name][0])


def test_false_discovery_rates_as_statsmodels(drawn):
    codes, rng = drawn
    y = rng.random(240) < 0.4
    codes[:, :5] += 9 * y[:, None] * (rng.random((240, 5)) < 0.7)
    codes[:, 7] = 0  # is not tested
    found = feature_association(codes, y)
    assert np.isnan(found.p_value[7]) and np.isnan(found.q_value[7])
    tested = np.arange(25) != 7
    expected = multipletests(found.p_value[tested], method="fdr_bh")[1]
    assert_allclose(found.q_value[tested], expected)
    assert (found.q_value[:5] < 0.01).all()


@pytest.mark.parametrize("numeric", [False, True])
def test_p_is_that_of_shuffling(numeric):
    rng = np.random.default_rng(1)
    n = 100
    codes = rng.exponential(size=(n, 8)) * (rng.random((n, 8)) < [0.05, 0.1, 0.2, 0.5] * 2)
    y = rng.gamma(0.3, size=n) if numeric else rng.random(n) < 0.15
    ranks = rankdata(codes, axis=0) - (n + 1) / 2
    scores = rankdata(y) - (n + 1) / 2 if numeric else y - y.mean()
    sums = np.stack([ranks.T @ rng.permutation(scores) for _ in range(20000)])
    strata = _ranks.Strata.of(None, n)
    ranked = _ranks.Ranked(sp.csc_array(codes), strata)
    products = ranked.products(scores)
    assert_allclose(products * (n + 1), ranks.T @ scores)
    step = 0.0 if numeric else 1.0
    for observed in np.sort(sums, axis=0)[[40, 200, -200, -40]]:
        _, p = _ranks.permutation_test(ranked, observed / (n + 1), scores, step=step)
        near = 1e-9 * np.abs(observed).max()  # equal sums differ by rounding
        below = (sums <= observed + near).mean(axis=0)
        tail = np.minimum(below, (sums >= observed - near).mean(axis=0))
        assert (p > 1.2 * tail).all()  # twice the smaller tail, to the error of 20,000 draws
        assert (p < np.maximum(12 * tail, 0.2)).all()


def test_far_tails_of_rare_features():
    """15 coincidences where 3 are expected: the normal distribution is off by a factor 1e5."""
    n, active, labelled = 100_000, 300, 1000
    y = np.arange(n) < labelled
    rows = np.append(np.arange(15), np.arange(labelled, labelled + active - 15))
    codes = sp.csc_array((np.ones(active), (rows, np.zeros(active, int))), shape=(n, 1))
    strata = _ranks.Strata.of(None, n)
    scores = strata.centred(y.astype(float))
    ranked = _ranks.Ranked(codes, strata)
    z, p = _ranks.permutation_test(ranked, ranked.products(scores), scores, step=1.0)
    exact = 2 * poisson.sf(14, 3)
    assert 2 * _ranks.norm.sf(z[0]) < 1e-5 * exact
    assert exact < p[0] < 5 * exact


def test_within_groups_by_a_loop():
    rng = np.random.default_rng(2)
    sizes = rng.integers(2, 12, size=40)
    groups = np.repeat(np.arange(40), sizes)
    codes = random_codes(rng, len(groups), 6)
    for y in (rng.random(len(groups)) < 0.4, np.round(rng.normal(size=len(groups)), 1)):
        strata = _ranks.Strata.of(groups, len(groups))
        numeric = y.dtype != bool
        scores = strata.ranks(y) if numeric else strata.centred(y.astype(float))
        ranked = _ranks.Ranked(sp.csc_array(codes), strata)
        products = ranked.products(scores)
        z, _ = _ranks.permutation_test(ranked, products, scores)
        z_clusters, _ = _ranks.cluster_test(ranked, products)
        for j in range(6):
            sums, variance = [], 0
            for g, n in enumerate(sizes):
                a = (rankdata(codes[groups == g, j]) - (n + 1) / 2) / (n + 1)
                b = y[groups == g].astype(float)
                b = (rankdata(b) - (n + 1) / 2) / (n + 1) if numeric else b - b.mean()
                sums.append(a @ b)
                variance += (a @ a) * (b @ b) / (n - 1)
            assert_allclose(z[j], sum(sums) / np.sqrt(variance))
            assert_allclose(z_clusters[j], sum(sums) / np.linalg.norm(sums))


def false_positives(draw, n_draws, **options):
    """Fraction of features with p at most 0.05, over draws of (codes, y, groups or None)."""
    p = []
    for seed in range(n_draws):
        codes, y, groups = draw(np.random.default_rng(seed))
        found = feature_association(codes, y, groups=groups, **options)
        p += [found.p_value, found.test_p_value]
    p = np.concatenate(p)
    return (p[~np.isnan(p)] <= 0.05).mean()


@pytest.mark.parametrize("kind", ["binary", "classes", "numeric"])
def test_errors_of_the_first_kind(kind):
    def draw(rng):
        density = 10 ** rng.uniform(-2.5, 0, size=400)
        codes = rng.exponential(size=(600, 400)) * (rng.random((600, 400)) < density)
        y = rng.normal(size=600)
        return (
            codes,
            {"binary": y > 1, "classes": np.digitize(y, [-0.5, 1]), "numeric": y}[kind],
            None,
        )

    assert 0.01 < false_positives(draw, 5) <= 0.05


def clustered(rng, *, within):
    """Codes and labels of tokens with topics, and runs inside a document; they are independent."""
    n_documents, length = 120, 30
    groups = np.repeat(np.arange(n_documents), length)
    topics = rng.random((n_documents, 150)) < 0.15
    runs = rng.random((n_documents * length // 10, 150)) < 0.3
    codes = rng.exponential(size=(len(groups), 150)) * topics[groups] * np.repeat(runs, 10, axis=0)
    if within:
        y = np.repeat(rng.random(n_documents * length // 10) < 0.3, 10)
    else:
        y = (rng.random(n_documents) < 0.3)[groups]
    return codes, y, groups


@pytest.mark.parametrize("within", [False, True])
def test_dependence_inside_groups_makes_no_discoveries(within):
    def with_groups(rng):
        return clustered(rng, within=within)

    def without(rng):
        return *clustered(rng, within=within)[:2], None

    assert false_positives(with_groups, 4) <= 0.05
    assert false_positives(without, 2) > 0.2  # the same labels of tokens taken as independent


@pytest.mark.parametrize("within", [False, True])
def test_planted_features_are_found_in_groups(within):
    rng = np.random.default_rng(0)
    codes, y, groups = clustered(rng, within=within)
    codes[:, 17] += y * (rng.random(len(y)) < 0.5)
    found = feature_association(codes, y, groups=groups)
    assert_array_equal(np.flatnonzero(found.q_value < 0.01), [17])
    assert found.unit == ("samples within groups" if within else "groups")
    assert found.test_low[17] > 0.3


def test_groups_with_one_label_become_samples():
    codes, y, groups = clustered(np.random.default_rng(0), within=False)
    names = np.array([f"text {g}" for g in groups])
    shuffled = np.random.default_rng(1).permutation(len(y))
    found = feature_association(codes[shuffled], y[shuffled], groups=groups[shuffled])
    means = pd.DataFrame(codes).groupby(groups).mean().to_numpy()
    expected = feature_association(means, y[::30])
    for name in ("effect", "p_value", "test_low", "test_high", "prevalence"):
        assert_allclose(found[name], expected[name])
    by_name = feature_association(codes, y, groups=names, test_size=0.3)
    assert by_name.unit == "groups"


def test_intervals_contain_the_effect():
    """Also of rare features, for which the usual ones have no width."""
    rng = np.random.default_rng(0)
    density_with, density_without = (
        [0.004, 0.02, 0.1, 0.4, 0.95, 0.5, 0.01],
        [0.004, 0.01, 0.02, 0.1, 0.05, 0.5, 0.1],
    )
    true = np.subtract(density_with, density_without)  # effects of features that are 0 or 1
    inside = []
    for _ in range(150):
        y = rng.random(400) < 0.3
        p = np.where(y[:, None], density_with, density_without)
        found = feature_association((rng.random(p.shape) < p).astype(float), y, confidence=0.9)
        inside.append((found.test_low <= true) & (true <= found.test_high))
    assert (np.mean(inside, axis=0) > 0.85).all(), np.mean(inside, axis=0)


def test_intervals_of_correlations_and_within_groups():
    rng = np.random.default_rng(0)
    inside = []
    groups = np.repeat(np.arange(80), 10)
    true = 0.836  # within groups, as 400,000 samples have it
    for _ in range(100):
        z, u = rng.normal(size=(2, 800))
        y = 0.5 * z + np.sqrt(0.75) * u
        rho = 6 / np.pi * np.arcsin(0.25)
        found = feature_association(z[:, None], y, confidence=0.9)
        inside.append([found.test_low[0] <= rho <= found.test_high[0]])
        codes, label = z + rng.normal(size=80)[groups] + (y > 0), y > 0
        found = feature_association(codes[:, None], label, groups=groups, confidence=0.9)
        inside[-1].append(found.test_low[0] <= true <= found.test_high[0])
    spearman, groups = np.mean(inside, axis=0)
    assert 0.83 < spearman < 0.97
    assert 0.8 < groups < 0.999


def test_placements_by_a_loop(drawn):
    codes, rng = drawn
    y = rng.random(240) < 0.3
    ranked = _ranks.Ranked(sp.csc_array(codes), _ranks.Strata.of(None, 240))
    auc, error = _ranks.placement_interval(ranked, y[ranked.row], np.full(25, y.sum()))
    for j in range(25):
        ends = [-np.inf, np.inf]
        a, b = np.append(codes[y, j], ends), np.append(codes[~y, j], ends)
        above = (a[:, None] > b) + (a[:, None] == b) / 2
        assert_allclose(auc[j], above.mean())
        variance = above.mean(axis=1).var(ddof=1) / len(a) + above.mean(axis=0).var(ddof=1) / len(
            b
        )
        assert_allclose(error[j], np.sqrt(variance))


def test_blocks_and_containers_change_nothing(drawn, monkeypatch):
    codes, rng = drawn
    y = rng.random(240) < 0.4
    want = pd.DataFrame(feature_association(codes, y))
    monkeypatch.setattr("skdict.inspection.results._ranks.BLOCK_SIZE", 100)
    for convert in (
        sp.csr_array,
        sp.coo_matrix,
        torch.from_numpy,
        pd.DataFrame,
        np.asfortranarray,
    ):
        pd.testing.assert_frame_equal(pd.DataFrame(feature_association(convert(codes), y)), want)
    some = pd.DataFrame(feature_association(codes, y, [7, 3]))
    assert_array_equal(some.feature, [7, 3])
    assert_allclose(some.p_value, want.p_value[[7, 3]])
    assert feature_association(codes, y, 7).feature.tolist() == [7]


def test_a_planted_feature_among_65536():
    rng = np.random.default_rng(0)
    n, n_features = 4000, 65_536
    codes = sp.random_array((n, n_features), density=40 / n_features, rng=rng, format="lil")
    y = rng.random(n) < 0.1
    rows = np.flatnonzero(y & (rng.random(n) < 0.4))
    codes[rows, 12_345] = 1.0
    found = feature_association(codes.tocsr(), y)
    assert found.q_value[12_345] < 1e-6 and found.test_p_value[12_345] < 1e-6
    assert np.count_nonzero(found.q_value < 0.05) <= 2
    assert abs(found.test_effect[12_345] - 0.4) < 0.1


def test_what_y_is(drawn):
    codes, rng = drawn
    counts = rng.poisson(300, size=240)
    assert feature_association(codes, counts, target="numeric").target == "numeric"
    halves = rng.integers(0, 3, size=240) / 2
    assert feature_association(codes, halves).target == "numeric"
    found = feature_association(codes, halves, target="classes")
    assert set(found.label) <= {0.0, 0.5, 1.0}
    names = pd.Series(rng.choice(["no", "yes"], size=240))
    assert (feature_association(codes, names).label == "yes").all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": np.full((240, 2), np.nan)}, "codes contains NaN"),
        ({"y": np.zeros(3)}, r"y has shape \(3,\), but codes has 240 rows"),
        ({"y": np.zeros(240)}, "y has the same value, 0, on all rows"),
        ({"y": np.arange(240)}, "y has 240 classes, .* target='numeric'"),
        ({"y": np.full(240, np.nan)}, "y contains NaN"),
        ({"groups": np.zeros(3)}, "groups has shape"),
        ({"groups": np.zeros(240)}, "of 1 groups leaves none"),
        ({"groups": [0.5, np.inf] * 120}, "groups contains NaN or infinity"),
        ({"test_size": 0.001}, "of 240 samples leaves none"),
        ({"features": [25]}, "features has 25"),
        ({"y": np.arange(240) == 0}, "of one of the two parts"),
    ],
)
def test_bad_association(drawn, changes, message):
    codes, rng = drawn
    with pytest.raises(ValueError, match=message):
        feature_association(**{"codes": codes, "y": rng.random(240) < 0.4} | changes)


def test_names_are_no_numbers(drawn):
    with pytest.raises(TypeError, match="y must be numbers with target='numeric'"):
        feature_association(drawn[0], ["a", "b"] * 120, target="numeric")


def test_feature_codes_know_their_documents_and_what_counts():
    codes, y, groups = clustered(np.random.default_rng(0), within=True)
    counted = np.random.default_rng(1).random(len(y)) < 0.8
    tokens = {"document": groups, "token": np.full(len(y), "a", dtype=object)}
    kept = FeatureCodes.from_matrix(sp.csr_array(codes), tokens=tokens, counted=counted)
    found = pd.DataFrame(feature_association(kept, y))
    want = pd.DataFrame(feature_association(codes[counted], y[counted], groups=groups[counted]))
    pd.testing.assert_frame_equal(found, want)
