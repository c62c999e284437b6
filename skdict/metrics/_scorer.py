"""Metrics of a fitted dictionary, as scorers for model selection."""

from dataclasses import dataclass

import numpy as np
from sklearn.pipeline import Pipeline

from ..utils._arrays import read_only
from ..utils._extractors import extractor_of
from ._coding import coding_blocks, with_sparse_codes
from ._loss_recovered import loss_recovered
from ._reconstruction import ReconstructionSums
from ._rows import as_lazy_rows, as_rows, float64_block
from ._sparsity import DENSE, count_active

CODING_METRICS = ("explained_variance", "shrinkage", "l0", "dead_fraction", "dense_fraction")
LOSS_METRICS = (
    "loss_recovered_zero",
    "loss_recovered_mean",
    "cross_entropy_clean",
    "cross_entropy_dictionary",
    "cross_entropy_zero",
    "cross_entropy_mean",
    "delta_cross_entropy",
    "kl_divergence",
)
METRICS = ("score", *CODING_METRICS, *LOSS_METRICS)


@dataclass(frozen=True)
class DictionaryScorer:
    """Several metrics at once, for ``scoring=`` in a search.

    All metrics of codes and reconstructions share one coding of the activations, in blocks of
    rows, with sparse codes if the dictionary can make them. The other steps of a Pipeline run
    once.

    Parameters
    ----------
    metrics : tuple of str, default=("score", "explained_variance", "l0", "dead_fraction")
        Any of

        - "score": the dictionary's own method ``score``;
        - "explained_variance", "shrinkage": functions of this module;
        - "l0": `mean_l0`; "dead_fraction", "dense_fraction": functions of this module;
        - "loss_recovered_zero", "loss_recovered_mean", "cross_entropy_clean",
          "cross_entropy_dictionary", "cross_entropy_zero", "cross_entropy_mean",
          "delta_cross_entropy", "kl_divergence": entries of `loss_recovered`. These need a
          Pipeline that starts with an :class:`~skdict.feature_extraction.ActivationExtractor`
          on a language model.

    Raises
    ------
    ValueError
        If a metric is unknown.

    See Also
    --------
    explained_variance_scorer, neg_l0_scorer, neg_dead_fraction_scorer, loss_recovered_scorer :
        Scorers of a single metric; greater is better.

    Notes
    -----
    Metrics keep their own sign and scale. A search selects the greatest value, so set ``refit`` to
    a metric for which greater is better: "score", "loss_recovered_zero" or "loss_recovered_mean".
    Explained variance alone would select the least sparse dictionary.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skdict.metrics import DictionaryScorer
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> search = GridSearchCV(
    ...     PCA(), {"n_components": [1, 2]}, scoring=DictionaryScorer(), refit="score"
    ... )
    >>> search.fit(X).cv_results_["mean_test_l0"]
    array([1., 2.])
    >>> DictionaryScorer(metrics=("l0", "dead_fraction"))(search.best_estimator_, X)
    {'l0': 1.0, 'dead_fraction': 0.0}
    """

    metrics: tuple = ("score", "explained_variance", "l0", "dead_fraction")

    def __post_init__(self):
        if isinstance(self.metrics, str) or not self.metrics:
            raise ValueError(
                f"metrics must be a tuple of names, but is {self.metrics!r}. The names are "
                f"{list(METRICS)}."
            )
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise ValueError(f"metrics has unknown names {unknown}. Known are {list(METRICS)}.")

    def __call__(self, estimator, X, y=None):
        """Score a fitted dictionary, or a Pipeline whose last step is one.

        Parameters
        ----------
        estimator : estimator
            Fitted, with `transform` and `inverse_transform`.

        X : array-like
            Activations of shape (n_samples, n_features), or what the Pipeline takes.

        y : None
            Ignored.

        Returns
        -------
        scores : dict of str to float
            One entry per metric. For a Pipeline, metrics of codes and reconstructions refer to
            the input of the last step.
        """
        scores = {}
        if not set(self.metrics).isdisjoint(("score", *CODING_METRICS)):
            dictionary, activations = _last_step(estimator, X)
            if "score" in self.metrics:
                scores["score"] = dictionary.score(activations)
            wanted = [name for name in self.metrics if name in CODING_METRICS]
            if wanted:
                scores |= _coding_metrics(dictionary, activations, wanted)
        if not set(self.metrics).isdisjoint(LOSS_METRICS):
            scores |= _dictionary_model(estimator, X)
        return {name: float(scores[name]) for name in self.metrics}


def _last_step(estimator, X):
    """The last step of nested Pipelines, and the activations that it is given."""
    if not isinstance(estimator, Pipeline):
        return estimator, X
    if len(estimator) > 1:
        X = estimator[:-1].transform(read_only(X))
    return _last_step(estimator[-1], X)


def _coding_metrics(dictionary, X, wanted):
    matrix, sums, n_active = as_lazy_rows(X, "X"), ReconstructionSums(), 0
    if not hasattr(X, "columns"):  # keep a DataFrame: the dictionary may check its column names
        X = matrix
    for rows, codes, reconstruction in coding_blocks(with_sparse_codes(dictionary), X):
        n_active = n_active + count_active(as_rows(codes, "codes"))
        rows, reconstruction = as_rows(rows, "X"), as_rows(reconstruction, "X_reconstructed")
        sums.update(float64_block(rows, slice(None)), float64_block(reconstruction, slice(None)))
    density = n_active / sums.n_samples
    functions = {
        "explained_variance": sums.explained_variance,
        "shrinkage": sums.shrinkage,
        "l0": lambda: n_active.sum() / sums.n_samples,
        "dead_fraction": lambda: np.mean(density == 0),
        "dense_fraction": lambda: np.mean(density > DENSE),
    }
    return {name: functions[name]() for name in wanted}


def _dictionary_model(estimator, texts):
    """`loss_recovered` for a Pipeline that starts with an ActivationExtractor."""
    extractor = extractor_of(estimator)
    if extractor is None:
        found = estimator[0] if isinstance(estimator, Pipeline) else estimator
        raise TypeError(
            f"The metrics {list(LOSS_METRICS)} need a Pipeline that starts with an "
            f"ActivationExtractor, but got a {type(found).__name__}. Put an extractor before the "
            "dictionary with make_pipeline, or leave these metrics out."
        )
    if extractor.tokenizer is None:
        raise ValueError(
            f"The metrics {list(LOSS_METRICS)} need a language model, but the "
            f"{type(extractor).__name__} has tokenizer=None. Leave these metrics out."
        )
    return loss_recovered(
        estimator, texts, max_length=extractor.max_length, batch_size=extractor.batch_size
    )


def explained_variance_scorer(estimator, X, y=None):
    """Explained variance, as a scorer; greater is better, but see `DictionaryScorer`.

    Parameters
    ----------
    estimator : estimator
        Fitted, with `transform` and `inverse_transform`; or a Pipeline that ends in one.

    X : array-like
        Activations of shape (n_samples, n_features), or what the Pipeline takes.

    y : None
        Ignored.

    Returns
    -------
    score : float
        See `explained_variance`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.model_selection import cross_val_score
    >>> from skdict.metrics import explained_variance_scorer
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> cross_val_score(PCA(4), X, scoring=explained_variance_scorer, cv=2).round(6)
    array([1., 1.])
    """
    return DictionaryScorer(("explained_variance",))(estimator, X)["explained_variance"]


def neg_l0_scorer(estimator, X, y=None):
    """Negative L0, as a scorer; greater is better.

    Parameters
    ----------
    estimator : estimator
        Fitted, with `transform` and `inverse_transform`; or a Pipeline that ends in one.

    X : array-like
        Activations of shape (n_samples, n_features), or what the Pipeline takes.

    y : None
        Ignored.

    Returns
    -------
    score : float
        Minus the mean number of active features, see `mean_l0`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import PCA
    >>> from skdict.metrics import neg_l0_scorer
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> neg_l0_scorer(PCA(3).fit(X), X)
    -3.0
    """
    return -DictionaryScorer(("l0",))(estimator, X)["l0"]


def neg_dead_fraction_scorer(estimator, X, y=None):
    """Negative fraction of dead features, as a scorer; greater is better.

    Parameters
    ----------
    estimator : estimator
        Fitted, with `transform` and `inverse_transform`; or a Pipeline that ends in one.

    X : array-like
        Activations of shape (n_samples, n_features), or what the Pipeline takes.

    y : None
        Ignored.

    Returns
    -------
    score : float
        Minus the fraction of features that are active on no sample, see `dead_fraction`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import SparseCoder
    >>> from skdict.metrics import neg_dead_fraction_scorer
    >>> X = 2 * np.eye(4)[:3]
    >>> dictionary = SparseCoder(np.eye(4), transform_algorithm="threshold").fit(X)
    >>> neg_dead_fraction_scorer(dictionary, X)
    -0.25
    """
    return -DictionaryScorer(("dead_fraction",))(estimator, X)["dead_fraction"]


def loss_recovered_scorer(estimator, X, y=None):
    """Loss recovered against zero ablation, as a scorer; greater is better.

    Parameters
    ----------
    estimator : Pipeline
        Fitted; the first step is an :class:`~skdict.feature_extraction.ActivationExtractor` on
        a causal language model. The other steps have `transform` and `inverse_transform`.

    X : array-like of str
        Texts.

    y : None
        Ignored.

    Returns
    -------
    score : float
        See `loss_recovered`.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.feature_extraction import ActivationExtractor
    >>> from skdict.metrics import loss_recovered_scorer
    >>> folder = load_one_layer_transformer().path
    >>> texts = ["import numpy as np", "for i in range(10):"]
    >>> extractor = ActivationExtractor(folder, "transformer.h.0.mlp.act")
    >>> pipeline = make_pipeline(extractor, PCA()).fit(texts)
    >>> round(loss_recovered_scorer(pipeline, texts), 3)  # as many components as tokens
    1.0
    """
    return DictionaryScorer(("loss_recovered_zero",))(estimator, X)["loss_recovered_zero"]
