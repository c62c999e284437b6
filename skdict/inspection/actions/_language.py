"""The parts of a Pipeline from texts to codes: language model, windows, dictionary."""

from functools import cached_property

import numpy as np

from ..._core.language.next_token import sees_later_tokens
from ..._core.language.rest import Rest
from ..._core.language.texts import check_texts
from ...metrics._coding import check_dictionary, with_sparse_codes
from ...utils._arrays import as_numbers, to_ndarray
from ...utils._extractors import extractor_of, layer_of, windows_of
from ..codes._active import check_indices
from ..codes._directions import n_components_of


class Language:
    """The parts of a Pipeline of an ActivationExtractor and a dictionary.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; its first step is an ActivationExtractor on a language model.

    Attributes
    ----------
    extractor : ActivationExtractor
    dictionary : Pipeline
        All steps after it, with CSR codes if the last one can make them.
    model, tokenizer
        As the extractor uses them.
    """

    def __init__(self, pipeline):
        extractor = extractor_of(pipeline)
        if extractor is None:
            raise TypeError(
                "pipeline must be a fitted Pipeline whose first step is an ActivationExtractor "
                f"and whose last is a dictionary, but is {pipeline!r:.200}. Join fitted steps by "
                "make_pipeline(extractor, dictionary)."
            )
        if extractor.tokenizer is None or extractor.pooling is not None:
            raise ValueError(
                "pipeline must start with an ActivationExtractor on a language model with one "
                f"row per token, but it has tokenizer={extractor.tokenizer!r:.50} and "
                f"pooling={extractor.pooling!r}. FeatureDashboard.from_activations shows features "
                "of other rows, with a text of yours for each; FeatureHeatmapDisplay and "
                "FeatureSeriesDisplay show them in pictures and series."
            )
        check_dictionary(pipeline[1:], "After the extractor, ")
        self.extractor, self.dictionary = extractor, with_sparse_codes(pipeline[1:])
        self.site = site = extractor.site()
        self.layer, self.side = site.layer, site.side
        self.model, self.tokenizer, self.network = site.model, site.tokenizer, site.network
        self.n_components = n_components_of(self.dictionary)

    def checked_features(self, features):
        """`features` as an array of indices: one of them, some, or all for None."""
        if features is None:
            return np.arange(self.n_components)
        features = np.atleast_1d(to_ndarray(as_numbers(features, "features")))
        of = "features of the dictionary"
        return check_indices(features, self.n_components, name="features", of=of)

    def why_not_causal(self):
        """Why the model is not a causal language model; None if it is one."""
        try:
            causal = not sees_later_tokens(self.network, self.tokenizer)
        except (TypeError, ValueError) as error:  # no logits, or it wants more than token ids
            return f"{type(error).__name__}: {error}"
        return None if causal else "its predictions depend on later tokens"

    def check_causal(self):
        """Raise a ValueError unless the model is a causal language model."""
        reason = self.why_not_causal()
        if reason is not None:
            raise ValueError(
                f"pipeline must start with an extractor of a causal language model, but with a "
                f"{type(self.model).__name__}: {reason:.300}"
            )

    def windows(self, texts):
        """The windows that the extractor runs; row r belongs to the r-th kept token."""
        return windows_of(self.extractor, self.site, check_texts(texts, name="texts"))

    def _layer(self, windows):
        return layer_of(self.extractor, self.site, windows)

    @cached_property
    def n_logits(self):
        """Number of logits, as far as the model or its tokenizer says."""
        return self.network.n_token_ids or len(self.tokenizer)

    @cached_property
    def rest(self):
        """The part of the model after the layer."""
        return Rest(self.network, self.layer, side=self.side, call=self.site.first_call)

    def batches(self, windows, indices=None):
        """Iterate over batches of windows of similar length, see `TokenWindows.passes`."""
        return windows.passes(self.network, self.indices_of_batches(windows, indices))

    def indices_of_batches(self, windows, indices=None):
        """Divide windows, all or some, into batches of similar length, the longest first."""
        layer = self._layer(windows)
        if not layer.has_vectors_at_tokens:
            raise ValueError(
                f"layer={self.layer!r} gives no activation of shape (n_texts, n_tokens, "
                "n_features), which is needed to change it token by token. Name a layer with such "
                "an activation."
            )
        indices = range(len(windows)) if indices is None else indices
        return layer.batches(indices)


def first_rows(windows):
    """Index of the first row of each window, and at the end the number of rows."""
    return np.append(0, np.cumsum(windows.n_rows(None)))
