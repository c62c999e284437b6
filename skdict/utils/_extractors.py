"""Recognise an extractor of activations, without importing its class."""

from sklearn.pipeline import Pipeline


class ExtractorMixin:
    """A transformer that runs a network. The rows of its output are not those of its input."""


def extractor_of(pipeline):
    """The extractor that a Pipeline of several steps starts with, or None."""
    if not isinstance(pipeline, Pipeline) or len(pipeline) < 2:
        return None
    return pipeline[0] if isinstance(pipeline[0], ExtractorMixin) else None
