"""skdict before torch, so that threads that wait do not spin for long (`skdict/__init__.py`)."""

import skdict  # noqa: F401
