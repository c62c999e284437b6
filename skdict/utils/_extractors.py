"""Recognise an extractor of activations, without importing its class."""

from sklearn.pipeline import Pipeline

from .._core.language.layers import Layer
from .._core.language.site import Site
from .._core.language.windows import tokenize


class ExtractorMixin:
    """A transformer that runs a network. The rows of its output are not those of its input."""

    def site(self):
        """Return where the activations are read: to read them as tensors, or to replace them.

        Returns
        -------
        site : Site
            With the model and the tokenizer that `transform` uses.

        Examples
        --------
        >>> from skdict.datasets import load_one_layer_transformer
        >>> from skdict.feature_extraction import ActivationExtractor
        >>> folder = load_one_layer_transformer().path
        >>> site = ActivationExtractor(folder, "layers.0.mlp.act").site()
        >>> site.layer, site.side
        ('transformer.h.0.mlp.c_proj', 'input')
        """
        language = self.load()
        return Site(
            language.model,
            self.layer,
            side=self.side,
            call=self.call,
            tokenizer=language.tokenizer,
            feature_axis=self.feature_axis,
        )


def extractor_of(pipeline):
    """The extractor that a Pipeline of several steps starts with, or None."""
    if not isinstance(pipeline, Pipeline) or len(pipeline) < 2:
        return None
    return pipeline[0] if isinstance(pipeline[0], ExtractorMixin) else None


def windows_of(extractor, site, texts):
    """The windows that an extractor runs at its site; row r belongs to the r-th kept token."""
    return tokenize(
        texts,
        site.tokenizer,
        site.network,
        max_length=extractor.max_length,
        long_documents=extractor.long_documents,
        include_special_tokens=extractor.include_special_tokens,
    )


def layer_of(extractor, site, inputs):
    """The layer that an extractor reads at its site, for windows or samples."""
    return Layer(
        site.network,
        *site.one_place,
        inputs,
        batch_size=extractor.batch_size,
        feature_axis=extractor.feature_axis,
        call=extractor.call,
    )
