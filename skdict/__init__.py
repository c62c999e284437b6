"""skdict: dictionary learning on neural activations, the scikit-learn way."""

import importlib

__version__ = "0.1.0"

_SUBPACKAGES = ("datasets", "decomposition", "feature_extraction", "inspection", "metrics")
_PUBLIC_NAMES = {
    "ActivationExtractor": "feature_extraction",
    "SparseAutoencoderDictionary": "decomposition",
    "SparseAutoencoderDictionaryCV": "decomposition",
}

__all__ = [*_PUBLIC_NAMES, *_SUBPACKAGES, "__version__"]


def __getattr__(name):
    """Import a subpackage, or the public class of one, at its first use (PEP 562)."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _PUBLIC_NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
