"""Turn texts into pooled codes, one row per text."""

from contextlib import contextmanager

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.callback import CallbackSupportMixin
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from .._core.language.texts import check_texts, text_portions
from ..utils._arrays import read_only
from ..utils._sklearn_compat import (
    HasMethods,
    StrOptions,
    align_sparse_interface,
    fit_context,
    validate_parameter_constraints,
)
from ._activations import ActivationExtractor

# Entries of a block of dense codes: 64 MB in float32. One block is in memory at a time.
CODES_AT_ONCE = 1 << 24
# Tokens of the first block, when the number of components is not known yet.
FIRST_BLOCK = 64


class DocumentFeatures(
    CallbackSupportMixin, TransformerMixin, BaseEstimator, auto_wrap_output_keys=None
):
    """Turn texts into the features that a dictionary finds in them, one sparse row per text.

    The extractor gives the activations at the tokens of a text, the dictionary gives their codes,
    and the codes of all tokens are pooled into one row. This is a bag of words with a
    dictionary's features in place of words. A linear model on it classifies texts, and its
    weights belong to features that can be inspected.

    Parameters
    ----------
    extractor : estimator
        Gives the activations, a row for each token: an `ActivationExtractor` with
        ``pooling=None``, or another transformer of texts with a method `tokens`. Of its result
        only "document" is used, which must be ascending.

    dictionary : estimator
        Gives the codes: any transformer of activations, such as a
        :class:`~skdict.decomposition.SparseAutoencoderDictionary`,
        :class:`~sklearn.decomposition.PCA` or a :class:`~sklearn.pipeline.Pipeline` that ends in
        one. `fit` fits a clone of it to the activations at all tokens of all texts. A dictionary
        in a :class:`~sklearn.frozen.FrozenEstimator` must be fitted; it is used as it is, and
        `fit` does not run the model.

    pooling : {"max", "mean"}, default="max"
        How the codes of a text's tokens become one row. "max" is the greatest code of a feature;
        the longer a text, the more features are active in it. "mean" also depends on how often a
        feature is active and not on the length of the text, but features that are active at a
        few tokens of a long text nearly vanish.

    Attributes
    ----------
    extractor_ : estimator
        The fitted clone of `extractor`.

    dictionary_ : estimator
        The fitted clone of `dictionary`, or `dictionary` itself if it is a `FrozenEstimator`.

    See Also
    --------
    ActivationExtractor : With its own `pooling`, the pooled activations themselves.
    skdict.inspection.top_activations : The tokens at which a feature is most active.
    sklearn.feature_extraction.text.TfidfVectorizer : Words instead of features.

    Notes
    -----
    With the codes :math:`z_1, \\dots, z_T` of the tokens of a text, its row is

    .. math:: \\max_t z_{tj} \\quad \\text{or} \\quad \\frac{1}{T} \\sum_t z_{tj}

    for each feature :math:`j`. All tokens that have a row count: those of all windows of a long
    text with ``long_documents="window"``, and special tokens only with
    ``include_special_tokens=True``. An `ActivationExtractor` refuses a text without tokens. If
    another extractor gives no row for a text, the features of the text are zeros.

    `transform` holds the activations of about 131,000 characters at a time, or of a single text
    that is longer, and codes of at most 64 MB. How texts are divided into portions changes the
    result by no more than rounding. `fit` holds the activations of all tokens, 4 bytes per token
    and neuron. If that is too much, fit the dictionary before, by `fit` to some of the texts or
    portion by portion with `partial_fit`, and freeze it.

    `fit_transform` runs each text through the model once. `fit` and `transform` run it once
    each, unless the extractor has a cache. With a frozen dictionary `fit` does not run it at all.

    The output is always a sparse matrix, as that of scikit-learn's text vectorizers, so there is
    no `set_output`. For callbacks (:meth:`set_callbacks`) the extractor and the dictionary are
    subtasks of the fit.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict import ActivationExtractor, SparseAutoencoderDictionary
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.feature_extraction import DocumentFeatures
    >>> extractor = ActivationExtractor(
    ...     load_one_layer_transformer().path, "transformer.h.0.mlp.act"
    ... )
    >>> features = DocumentFeatures(extractor, SparseAutoencoderDictionary(32, random_state=0))
    >>> texts = ["import os", "for i in range(3):", "from re import match", "while i < 3:"]
    >>> features.fit_transform(texts).shape
    (4, 32)
    >>> classifier = make_pipeline(features, LogisticRegression())
    >>> classifier = classifier.fit(texts, ["import", "loop", "import", "loop"])
    >>> classifier[0].get_feature_names_out()[classifier[1].coef_[0].argmax()]
    'sparseautoencoderdictionary...'
    """

    _parameter_constraints = {
        "extractor": [HasMethods(["fit", "fit_transform", "transform", "tokens"])],
        "dictionary": [HasMethods(["fit", "transform"])],
        "pooling": [StrOptions({"max", "mean"})],
    }

    def __init__(self, extractor, dictionary, *, pooling="max"):
        self.extractor = extractor
        self.dictionary = dictionary
        self.pooling = pooling

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Fit the dictionary to the activations at all tokens of the texts.

        Parameters
        ----------
        X : list, ndarray or Series of str of length n_texts
            Non-empty texts.

        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : object
            The estimator itself.

        Raises
        ------
        ValueError, TypeError
            If a parameter or a text is not valid.
        """
        self._fit(check_texts(X))
        return self

    @fit_context(prefer_skip_nested_validation=False)
    def fit_transform(self, X, y=None):
        """Fit the dictionary, and return the features of the same texts.

        Each text goes through the extractor's model once.

        Parameters
        ----------
        X : list, ndarray or Series of str of length n_texts
            Non-empty texts.

        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        features : CSR matrix of shape (n_texts, n_components), dtype float32
            As `transform` returns them.
        """
        texts = check_texts(X)
        activations = self._fit(texts)
        portions = None if activations is None else [(0, len(texts), activations)]
        return self._pool(texts, portions)

    def transform(self, X):
        """Return the pooled codes of texts.

        Parameters
        ----------
        X : list, ndarray or Series of str of length n_texts
            Non-empty texts.

        Returns
        -------
        features : CSR matrix of shape (n_texts, n_components), dtype float32
            The features of each text.

        Raises
        ------
        ValueError, TypeError
            If `pooling` or a text is not valid.
        """
        check_is_fitted(self)
        validate_parameter_constraints(
            self._parameter_constraints,
            self.get_params(deep=False),
            caller_name=type(self).__name__,
        )
        return self._pool(check_texts(X))

    def get_feature_names_out(self, input_features=None):
        """Get output feature names for transformation: those of the dictionary.

        Parameters
        ----------
        input_features : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        feature_names_out : ndarray of str objects
            Such as "sparseautoencoderdictionary0", "sparseautoencoderdictionary1", and so on.
        """
        check_is_fitted(self)
        return self.dictionary_.get_feature_names_out()

    def _fit(self, texts):
        """Fit both steps; return the activations, or None if the dictionary is frozen."""
        step = self.extractor
        if isinstance(step, ActivationExtractor) and (step.pooling or step.tokenizer is None):
            raise ValueError(
                "extractor must give a row for each token of a text, but has "
                f"pooling={step.pooling!r} and tokenizer={step.tokenizer!r:.50}. Set pooling=None "
                "and a tokenizer: it is the codes of tokens that are pooled here."
            )
        extractor, dictionary = clone(self.extractor), clone(self.dictionary)
        is_frozen = isinstance(dictionary, FrozenEstimator)
        if is_frozen:
            check_is_fitted(dictionary)
        context = self._init_callback_context(max_subtasks=1 if is_frozen else 2)
        context.call_on_fit_task_begin(estimator=self, X=texts)
        with self._subtask(context, "extractor", extractor):
            result = extractor.fit(texts) if is_frozen else extractor.fit_transform(texts)
        if not is_frozen:
            with self._subtask(context, "dictionary", dictionary):
                dictionary.fit(read_only(result))  # `fit_transform` needs it unchanged
        self.extractor_, self.dictionary_ = extractor, dictionary
        context.call_on_fit_task_end(estimator=self, X=texts)
        return None if is_frozen else result

    @contextmanager
    def _subtask(self, context, name, step):
        """Report a part of the fit to callbacks, and through `step` also its own parts."""
        task = context.subcontext(task_name=name)
        with task.propagate_callback_context(step):
            task.call_on_fit_task_begin(estimator=self)
            yield
            task.call_on_fit_task_end(estimator=self)

    def _pool(self, texts, portions=None):
        """Pool the codes at the tokens of each text into a row of a CSR matrix."""
        n_tokens = self._count_tokens(texts)  # finds bad texts before the model runs
        blocks = self._codes(portions or self._portions(texts), n_tokens)
        reduction = np.maximum if self.pooling == "max" else np.add
        n_active = np.zeros(len(texts), dtype=np.int64)
        columns, values = [], []
        for text, pooled in _reduce(blocks, reduction):
            if self.pooling == "mean":
                pooled /= n_tokens[text]
            active = np.flatnonzero(pooled)
            n_active[text] = len(active)
            columns.append(active.astype(np.int32))
            values.append(pooled[active].astype(np.float32))
        arrays = (
            np.concatenate(values),
            np.concatenate(columns),
            np.concatenate([[0], n_active.cumsum()]),
        )
        return align_sparse_interface(csr_array(arrays, shape=(len(texts), len(pooled))))

    def _count_tokens(self, texts):
        """Number of rows that the extractor gives for each text."""
        counts = []
        for start, stop in text_portions(texts):
            portion = texts[start:stop]
            try:
                document = np.asarray(self.extractor_.tokens(portion)["document"])
            except ValueError:
                self.extractor_.tokens(texts)  # the same error, with the index of the text in X
                raise
            if (np.diff(np.concatenate([[0], document, [len(portion) - 1]])) < 0).any():
                raise ValueError(
                    'extractor.tokens(texts)["document"] must be ascending and within 0 and '
                    f"len(texts) - 1, but it is {document} for {len(portion)} texts."
                )
            counts.append(np.bincount(document, minlength=len(portion)))
        n_tokens = np.concatenate(counts)
        if not n_tokens.any():
            raise ValueError("None of the texts in X has a token. Leave such texts out.")
        return n_tokens

    def _portions(self, texts):
        """Yield (start, stop, activations at the tokens of the texts from start to stop)."""
        for start, stop in text_portions(texts):
            yield start, stop, self.extractor_.transform(texts[start:stop])

    def _codes(self, portions, n_tokens):
        """Yield (dense codes, index of the text of each row) of all tokens, in blocks."""
        n_rows = FIRST_BLOCK
        for start, stop, activations in portions:
            text_of_row = np.repeat(np.arange(start, stop), n_tokens[start:stop])
            if activations.shape[0] != len(text_of_row):
                raise ValueError(
                    f"extractor gives {activations.shape[0]} rows, but its tokens() has "
                    f"{len(text_of_row)} for the same texts. It must give a row for each token."
                )
            row = 0
            while row < len(text_of_row):
                block = slice(row, row + n_rows)
                codes = self.dictionary_.transform(read_only(activations[block]))
                codes = codes.toarray() if issparse(codes) else np.asarray(codes)
                yield codes, text_of_row[block]
                row += n_rows
                n_rows = max(1, CODES_AT_ONCE // max(1, codes.shape[1]))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []  # always float32
        return tags


def _reduce(blocks, reduction):
    """Reduce the rows of each text to one. They may be spread over several blocks.

    Parameters
    ----------
    blocks : iterable of (ndarray of shape (n_rows, n_columns), ndarray of shape (n_rows,))
        Rows, and the index of each row's text, ascending.

    reduction : ufunc
        `numpy.add` or `numpy.maximum`.

    Yields
    ------
    text : int
    reduced : ndarray of shape (n_columns,), float64
    """
    last, held = -1, None  # the last text of a block may go on in the next block
    for block, text_of_row in blocks:
        starts = np.flatnonzero(np.diff(text_of_row, prepend=-1))
        for text, rows in zip(text_of_row[starts], np.split(block, starts[1:]), strict=True):
            reduced = reduction.reduce(rows, axis=0, dtype=np.float64)
            if text == last:
                reduced = reduction(held, reduced)
            elif held is not None:
                yield last, held
            last, held = text, reduced
    yield last, held
