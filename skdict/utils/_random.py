"""Random numbers that are nobody else's."""

import threading
from contextlib import contextmanager

import numpy as np
from sklearn.utils import check_random_state as _check_random_state


def check_random_state(random_state):
    """scikit-learn's, but None is a new generator, with entropy of the system, and not NumPy's.

    Of that one other programs expect the numbers that they have set a seed for.
    """
    return _check_random_state(np.random.RandomState() if random_state is None else random_state)


_lock = threading.Lock()
_kept = []  # what to put back, once for each who wants it kept at the moment


@contextmanager
def global_random_state_kept():
    """Put NumPy's global generator back to what it was; also a decorator.

    For functions of scikit-learn that draw from it without need and cannot be told otherwise. The
    last to leave puts back what the first has found, whatever the number of threads; numbers that
    others draw from it meanwhile come again.
    """
    with _lock:
        _kept.append(_kept[0] if _kept else np.random.get_state())  # noqa: NPY002
    try:
        yield
    finally:
        with _lock:
            state = _kept.pop()
            if not _kept:
                np.random.set_state(state)  # noqa: NPY002
