"""skdict: dictionary learning on neural activations, the scikit-learn way."""

import importlib
import os
import sys

__version__ = "0.1.0"

_SUBPACKAGES = (
    "callbacks",
    "datasets",
    "decomposition",
    "feature_extraction",
    "inspection",
    "io",
    "metrics",
)
_PUBLIC_NAMES = {
    "ActivationExtractor": "feature_extraction",
    "ActivationStore": "feature_extraction",
    "SparseAutoencoderDictionary": "decomposition",
    "SparseAutoencoderDictionaryCV": "decomposition",
}

__all__ = [*_PUBLIC_NAMES, *_SUBPACKAGES, "__version__"]

# Threads of OpenMP that wait for one another spin, and two programs on the same cores take many
# times as long as one. libgomp reads for how long as torch is imported; what is set by then stays.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name):
    """Import a subpackage, or the public class of one, at its first use (PEP 562)."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _PUBLIC_NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
