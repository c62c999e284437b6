"""Reading ahead, in a thread: PyTorch, numba and the system's calls release Python's lock."""

from concurrent.futures import ThreadPoolExecutor

_END = object()


def ahead(iterator):
    """Yield from an iterator whose next item is computed while the caller works on the last.

    Two items are in memory at a time, if the caller drops one before it asks for the next.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="skdict-read") as pool:
        pending = pool.submit(next, iterator, _END)
        while (item := pending.result()) is not _END:
            pending = pool.submit(next, iterator, _END)
            yield item
            del item
