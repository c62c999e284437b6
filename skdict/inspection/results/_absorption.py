"""Feature absorption: where the features of a first letter are silent and others stand in."""

from numbers import Integral, Real

import numpy as np
from scipy.sparse import csc_array
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.utils import Bunch

from ..._core.language.texts import check_texts
from ...metrics._coding import check_rows_have_one_scale
from ...metrics._rows import as_rows, float64_block
from ...utils._random import check_random_state
from ...utils._sklearn_compat import Interval, validate_params
from ..actions._language import Language
from ..codes._directions import feature_directions, transformed

MAX_MAIN, MAX_ABSORBING = 10, 3
GAIN = 0.03  # in F1, for one more main feature
SHARE = 0.4  # of the probe's projection that absorbing features have to make up
COSINE_ABSORBING, COSINE_FULL = 0.1, 0.025
TEMPLATE = "apple: A, river: R, table: T, {word}"


@validate_params(
    {
        "template": [str],
        "max_words": [Interval(Integral, 2, None, closed="left")],
        "min_words": [Interval(Integral, 2, None, closed="left")],
        "test_size": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def feature_absorption(
    pipeline,
    words=None,
    *,
    template=TEMPLATE,
    max_words=5000,
    min_words=20,
    test_size=0.5,
    random_state=0,
):
    r"""Measure how often the features of a first letter are silent while other features stand in.

    A model that can spell has a direction for "begins with S". A sparse dictionary may have a
    feature for it, too, which is nevertheless silent on the word *short*, because the feature of
    *short* alone contains the direction as well: it has *absorbed* it. A classifier by such a
    feature has holes that no look at its examples shows [1]_.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; an :class:`~skdict.feature_extraction.ActivationExtractor` on a language model,
        then a dictionary with `inverse_transform`.

    words : list of str, default=None
        Words to look at. By default those of at least three of the letters a to z that are single
        tokens of the model.

    template : str, default="apple: A, river: R, table: T, {word}"
        The text that a word is put into, with "{word}". The default has three examples of the task
        before it. Activations are those at the last token of the word.

    max_words : int, default=5000
        If there are more words, so many are drawn at random.

    min_words : int, default=20
        Letters with fewer words are left out, and so are their words.

    test_size : float, default=0.5
        Fraction of the words, drawn at random, to measure on. The others are for the probes and
        the choice of features.

    random_state : int, RandomState instance or None, default=0
        Determines which words are drawn.

    Returns
    -------
    absorption : :class:`~sklearn.utils.Bunch`
        ``pandas.DataFrame(absorption)`` is a table with a row per letter.

        letter : ndarray of str objects
            The letter, in lower case.
        n_words : ndarray of int64
            Number of words to measure on that begin with it, and that the probes get right.
        probe_f1 : ndarray of float64
            F1 of the probe of the letter on the words to measure on.
        main_features : list of ndarray of int64
            The features of the letter, the most important one first.
        main_f1 : ndarray of float64
            F1 of a logistic regression on these, on the words to measure on.
        absorption_fraction : ndarray of float64
            Mean over the words of the part of the letter's direction that other features stand in
            for; nan without a word.
        full_absorption : ndarray of float64
            Fraction of the words on which no main feature is active and a single other one stands
            in.
        absorbing_features : list of ndarray of int64
            The features that stand in on full absorption, the most frequent one first.
        mean_absorption_fraction, mean_full_absorption : float
            Means over the letters.
        probe_accuracy, chance : float
            Fraction of the words to measure on whose letter the probes get right, and that of the
            most frequent letter.

    Raises
    ------
    TypeError
        If `pipeline` is not a Pipeline of these two steps.
    ValueError
        If there are too few words, `template` has no "{word}", or the probes are not better than
        naming the most frequent letter: without a direction for the letter nothing can be
        absorbed. If the dictionary normalises each row.

    See Also
    --------
    feature_splitting : Features that split in wider dictionaries.

    Notes
    -----
    The metric is that of [2]_, after [1]_. Probes are a logistic regression from activations to
    the letter, and :math:`p` is the unit vector of a letter's weights. Features are ranked by the
    difference of their mean code between words with the letter and others; as long as the F1 of a
    logistic regression rises by more than 0.03 with one more, it is a main feature (the letter may
    be split over several). With code :math:`z_j` and atom :math:`d_j` the contribution of feature
    j is :math:`c_j = z_j \, d_j \cdot p`, to be compared with the projection
    :math:`a = (x - b) \cdot p` of the activation without the intercept of the dictionary. Let M be
    the sum of c of the main features, and A that of the at most three greatest of others whose
    atoms have a cosine of at least 0.1 with p. If :math:`M < a` and :math:`A \ge 0.4 \, a`, the
    absorption fraction of the word is

    .. math:: \frac{\min(A, a - M)}{\min(A, a - M) + \max(M, 0)}

    and otherwise 0. Full absorption is that no main feature is active, and that the feature of the
    greatest c has a cosine of at least 0.025 with p and :math:`c_j \ge 0.4 \, a`. Only words with
    :math:`a > 0` count.

    Unlike [2]_, activations are taken without the intercept, since reconstructions have it without
    any feature; features are ranked without an L1 penalty.

    References
    ----------
    .. [1] Chanin, D. et al. "A is for Absorption: Studying Feature Splitting and Absorption in
       Sparse Autoencoders", 2024, arXiv:2409.14507.
    .. [2] Karvonen, A. et al. "SAEBench: A Comprehensive Benchmark for Sparse Autoencoders in
       Language Model Interpretability", 2025, arXiv:2503.09532.

    Examples
    --------
    The small transformer of this package cannot spell, and the function says so:

    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict.datasets import load_one_layer_transformer, load_python_corpus
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.feature_extraction import ActivationExtractor
    >>> from skdict.inspection import feature_absorption
    >>> extractor = ActivationExtractor(
    ...     load_one_layer_transformer().path, "transformer.h.0.mlp.act"
    ... )
    >>> dictionary = SparseAutoencoderDictionary(
    ...     256, architecture="topk", n_nonzero_coefs=16, max_iter=5, random_state=0
    ... )
    >>> texts = [text[:1000] for text in load_python_corpus(subset="test").data[:20]]
    >>> pipeline = make_pipeline(extractor, dictionary).fit(texts)
    >>> feature_absorption(pipeline)
    Traceback (most recent call last):
    ...
    ValueError: The probes name the first letter of ... words right, and the most frequent...
    """
    language = Language(pipeline)
    check_rows_have_one_scale(language.dictionary)
    random_state = check_random_state(random_state)
    if "{word}" not in template:
        raise ValueError(f"template={template!r} has no '{{word}}', where the word is put.")
    words = _words(language, words, template)
    if len(words) > max_words:
        words = [words[i] for i in random_state.permutation(len(words))[:max_words]]
    letters = np.array([word[0].lower() for word in words])
    names, counts = np.unique(letters, return_counts=True)
    kept = np.flatnonzero(np.isin(letters, names[counts >= min_words]))
    names = names[counts >= min_words]
    if len(names) < 2:
        raise ValueError(
            f"{len(words)} words leave {len(names)} letters with at least min_words={min_words} "
            "of them, but two are needed. Give more words, or a smaller min_words."
        )
    X = _activations(language, [words[i] for i in kept], template)
    codes = transformed(language.dictionary, X)
    letters = np.searchsorted(names, letters[kept])
    atoms = feature_directions(language.dictionary, np.arange(language.n_components))
    empty = np.zeros((1, language.n_components))
    intercept = np.asarray(language.dictionary.inverse_transform(empty))[0]
    return absorption_of(X, codes, atoms, intercept, letters, names, test_size, random_state)


def absorption_of(X, codes, atoms, intercept, letters, names, test_size, random_state):
    """As `feature_absorption`, from activations at words.

    Parameters
    ----------
    X : ndarray of shape (n_words, n_neurons)
    codes : matrix of shape (n_words, n_components)
    atoms : ndarray of shape (n_components, n_neurons)
    intercept : ndarray of shape (n_neurons,)
    letters : ndarray of int64 of shape (n_words,)
        Index of each word's letter in `names`.
    names : ndarray of str of shape (n_letters,)
    test_size : float
    random_state : RandomState
    """
    n_words = len(letters)
    order = random_state.permutation(n_words)
    n_test = min(max(round(test_size * n_words), 1), n_words - 1)
    test, train = np.sort(order[:n_test]), np.sort(order[n_test:])
    missing = np.setdiff1d(np.arange(len(names)), letters[train])
    if len(missing):
        raise ValueError(
            f"test_size={test_size} leaves no word to train on that begins with "
            f"{names[missing[0]]!r}. Give more words, or a smaller test_size."
        )
    X = X.astype(np.float64)
    scale = X[train].std() or 1.0
    probe = LogisticRegression(max_iter=1000).fit(X[train] / scale, letters[train])
    guessed = probe.predict(X[test] / scale)
    chance = _check_probes(guessed, letters[test])
    weights = probe.coef_ if len(names) > 2 else np.vstack([-probe.coef_, probe.coef_])
    weights = weights - weights.mean(axis=0)  # what all letters have in common decides nothing
    directions = weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-300)
    along = atoms @ directions.T  # (n_components, n_letters)
    cosines = along / np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1e-300)
    columns = csc_array(codes, dtype=np.float64)
    columns.eliminate_zeros()
    rows = []
    for k, name in enumerate(names):
        main, main_f1 = _main_features(columns, letters == k, train, test)
        right = test[(letters[test] == k) & (guessed == k)]
        projection = (X[right] - intercept) @ directions[k]
        right, projection = right[projection > 0], projection[projection > 0]
        some = columns[right].tocsr()
        found = _absorbed(some, projection, along[:, k], cosines[:, k], main)
        row = {"letter": str(name), "n_words": len(right)}
        row["probe_f1"] = f1_score(letters[test] == k, guessed == k, zero_division=0)
        rows.append(row | {"main_features": main, "main_f1": main_f1} | found)
    table = {name: [row[name] for row in rows] for name in rows[0]}
    lists = ("main_features", "absorbing_features")
    table = Bunch(
        **{
            name: values
            if name in lists
            else np.array(values, dtype=object if name == "letter" else None)
            for name, values in table.items()
        }
    )
    some = table.n_words > 0
    for name in ("absorption_fraction", "full_absorption"):
        table[f"mean_{name}"] = float(table[name][some].mean()) if some.any() else np.nan
    accuracy = float((guessed == letters[test]).mean())
    return Bunch(**table, probe_accuracy=accuracy, chance=chance)


def _words(language, words, template):
    """The words asked for; by default the tokens that are words, and single tokens in the text."""
    if words is not None:
        words = list(dict.fromkeys(check_texts(words, name="words")))
        bad = [word for word in words if not (word[0].isascii() and word[0].isalpha())]
        if bad:
            raise ValueError(
                f"words has {bad[0]!r}, which begins with none of the letters a to z."
            )
        return words
    vocabulary = sorted(language.tokenizer.get_vocab().values())
    found = {language.tokenizer.decode([token]).strip() for token in vocabulary}
    words = sorted(word for word in found if len(word) > 2 and word.isascii() and word.isalpha())
    if not words:
        return words
    _, n_tokens = _rows_of_words(language.extractor, words, template)
    return [word for word, n in zip(words, n_tokens, strict=True) if n == 1]


def _rows_of_words(extractor, words, template):
    """The row of the last token of each word, and how many tokens it has."""
    start = template.index("{word}")
    tokens = extractor.tokens([template.replace("{word}", word) for word in words])
    document = np.asarray(tokens["document"])
    ends = start + np.array([len(word) for word in words])[document]
    inside = (np.asarray(tokens["end"]) > start) & (np.asarray(tokens["start"]) < ends)
    inside &= np.asarray(tokens["end"]) > np.asarray(tokens["start"])
    n_tokens = np.bincount(document[inside], minlength=len(words))
    if (n_tokens == 0).any():
        word = words[int(np.flatnonzero(n_tokens == 0)[0])]
        raise ValueError(
            f"The word {word!r} has no token in {template!r}: the model may cut texts that are "
            "longer than its context. Give a shorter template."
        )
    rows = np.flatnonzero(inside)
    return rows[np.cumsum(n_tokens) - 1], n_tokens


def _activations(language, words, template):
    """Activations (n_words, n_neurons) at the last token of each word, portion by portion."""
    parts = []
    for start in range(0, len(words), 500):
        some = words[start : start + 500]
        rows, _ = _rows_of_words(language.extractor, some, template)
        texts = [template.replace("{word}", word) for word in some]
        X = as_rows(language.extractor.transform(texts), "activations")
        parts.append(float64_block(X, slice(None))[rows].astype(np.float32))
    return np.concatenate(parts)


def _check_probes(guessed, letters):
    """The accuracy of the most frequent letter; raises if the probes have no greater one."""
    chance = np.bincount(letters).max() / len(letters)
    n_right = int((guessed == letters).sum())
    if binomtest(n_right, len(letters), chance, alternative="greater").pvalue > 0.01:
        raise ValueError(
            f"The probes name the first letter of {n_right} of {len(letters)} words right, and "
            f"the most frequent letter would be right for {chance:.1%}: these activations have no "
            "direction for the first letter that could be absorbed. Take another layer (later "
            "than the embedding, and the residual stream rather than a part of it), a model that "
            "can spell, or more words."
        )
    return float(chance)


def _main_features(columns, has, train, test):
    """Features of a letter, and the F1 of a probe on them on the words to measure on."""
    with_letter, others = columns[train[has[train]]], columns[train[~has[train]]]
    difference = np.asarray(with_letter.mean(axis=0) - others.mean(axis=0)).ravel()
    ranked = np.argsort(-difference, kind="stable")[:MAX_MAIN]
    ranked = ranked[difference[ranked] > 0]
    best, best_test, n_main = 0.0, 0.0, 0
    for n in range(1, len(ranked) + 1):
        chosen = columns[:, ranked[:n]].toarray()
        scale = chosen[train].std(axis=0)
        chosen = chosen / np.where(scale > 0, scale, 1)
        probe = LogisticRegression(class_weight="balanced", max_iter=1000)
        probe.fit(chosen[train], has[train])
        f1, f1_test = (
            f1_score(has[rows], probe.predict(chosen[rows]), zero_division=0)
            for rows in (train, test)
        )
        if f1 <= best + GAIN:
            break
        best, best_test, n_main = f1, f1_test, n
    return ranked[:n_main], best_test


def _absorbed(codes, projection, along, cosine, main):
    """Absorption fraction and full absorption of some words, and who absorbs.

    Parameters
    ----------
    codes : csr_array of shape (n_words, n_components)
    projection : ndarray of shape (n_words,)
        Of the activations on the probe; positive.
    along, cosine : ndarray of shape (n_components,)
        Product and cosine of each atom with the probe.
    main : ndarray of int64
    """
    fractions, absorbing = np.zeros(len(projection)), []
    is_main = np.isin(np.arange(len(along)), main)
    for i, whole in enumerate(projection):
        features = codes.indices[codes.indptr[i] : codes.indptr[i + 1]]
        parts = codes.data[codes.indptr[i] : codes.indptr[i + 1]] * along[features]
        of_main = parts[is_main[features]].sum()
        others = parts[~is_main[features] & (cosine[features] >= COSINE_ABSORBING) & (parts > 0)]
        others = np.sort(others)[-MAX_ABSORBING:].sum()
        if of_main < whole and others >= SHARE * whole:
            missing = min(others, whole - of_main)
            fractions[i] = missing / (missing + max(of_main, 0))
        if len(features) and not is_main[features].any():
            top = parts.argmax()
            if cosine[features[top]] >= COSINE_FULL and parts[top] >= SHARE * whole:
                absorbing.append(features[top])
    found, counts = np.unique(np.array(absorbing, dtype=np.int64), return_counts=True)
    return {
        "absorption_fraction": fractions.mean() if len(fractions) else np.nan,
        "full_absorption": len(absorbing) / len(fractions) if len(fractions) else np.nan,
        "absorbing_features": found[np.argsort(-counts, kind="stable")],
    }
