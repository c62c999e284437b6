"""Reading ahead: the same items, one ahead and no more, errors where they belong."""

import threading
import time

import pytest

from skdict._core.data.ahead import ahead


def test_items_are_those_of_the_iterator():
    assert list(ahead(iter(range(5)))) == list(range(5))
    assert list(ahead(iter(()))) == []


def test_one_item_is_computed_ahead_and_no_more():
    begun = []

    def numbers():
        for i in range(10):
            begun.append((i, threading.current_thread().name))
            yield i

    for i in ahead(numbers()):
        time.sleep(0.01)
        assert len(begun) <= i + 2
    assert all(name.startswith("skdict-read") for _, name in begun)


def test_an_error_comes_after_the_items_before_it():
    def failing():
        yield 1
        raise OSError("no such block")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(OSError, match="no such block"):
        next(items)


def test_leaving_early_ends_the_thread():
    n_threads = threading.active_count()
    items = ahead(iter(range(100)))
    assert next(items) == 0
    items.close()
    assert threading.active_count() == n_threads
