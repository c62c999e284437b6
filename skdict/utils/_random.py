"""Random numbers that do not disturb, or depend on, NumPy's global generator."""

import threading
from contextlib import contextmanager

import numpy as np
from sklearn.utils import check_random_state as _check_random_state


def check_random_state(random_state):
    """As in scikit-learn, but None is a new generator and not NumPy's global one.

    Other code may have seeded the global generator, and expects its numbers.
    """
    return _check_random_state(np.random.RandomState() if random_state is None else random_state)


_lock = threading.Lock()
_kept = []  # the state to put back, once for each block in progress


@contextmanager
def global_random_state_kept():
    """Put NumPy's global generator back to what it was; also a decorator.

    For functions of scikit-learn that always draw from it. With several threads, the last block to
    end restores the state that the first has found. Numbers that other code draws meanwhile are
    drawn again afterwards.
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
