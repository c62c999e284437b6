"""Callbacks for fits of skdict, to be set on an estimator with ``set_callbacks``.

:class:`Checkpoint` keeps the state of a long fit on disk. See :doc:`/user_guide/large_data`, and
:doc:`/user_guide/callbacks` for those of scikit-learn.
"""

from ._checkpoint import Checkpoint

__all__ = ["Checkpoint"]
