"""How an extractor of activations is recognised, by who may not import its class."""

from sklearn.pipeline import Pipeline


class ExtractorMixin:
    """A transformer that runs a network: what it is given has rows of its own."""


def extractor_of(pipeline):
    """The extractor that a Pipeline of several steps starts with, or None."""
    if not isinstance(pipeline, Pipeline) or len(pipeline) < 2:
        return None
    return pipeline[0] if isinstance(pipeline[0], ExtractorMixin) else None
