"""Activations of neural networks as features."""

from .._core.language.site import Site
from ._activations import ActivationExtractor
from ._documents import DocumentFeatures
from ._row_transform import RowTransform
from ._store import ActivationStore

__all__ = ["ActivationExtractor", "ActivationStore", "DocumentFeatures", "RowTransform", "Site"]
