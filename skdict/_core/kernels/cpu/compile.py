"""Compile the loops of the CPU with Numba, and keep them on disk where that is possible."""

import inspect
import pickle
from contextlib import suppress
from hashlib import sha256

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.serialize import dumps


def compiled(**options):
    """Decorator for a loop; ``options`` are those of `numba.njit`.

    The machine code is stored where Numba stores it, and compiled anew in every process where
    that cannot be: a cache saves time, and nothing depends on it.
    """

    def decorate(function):
        kernel = numba.njit(nogil=True, **options)(function)
        with suppress(RuntimeError, OSError):  # there is no folder to write to
            kernel._cache = _Cache(function)
        return kernel

    return decorate


def call_interruptibly(kernel, *arguments):
    """Call a kernel that returns arrays; an interrupt that arrives meanwhile is raised as one.

    Numba makes the arrays with the exception set, and Python takes that for a SystemError.
    """
    try:
        return kernel(*arguments)
    except SystemError as error:
        first = error
        while isinstance(first, SystemError) and first.__context__ is not None:
            first = first.__context__
        raise first from None


class _Cache(FunctionCache):
    """Numba's cache, of which no error is one of the caller.

    Numba looks for changes in the file of the function alone. But constants and other functions
    are compiled into it, wherever they come from.
    """

    def __init__(self, function):
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _CheckedFile(self.cache_path, self._impl.filename_base, stamp)

    def _index_key(self, sig, codegen):
        return *super()._index_key(sig, codegen), _digest(self._py_func)

    def load_overload(self, sig, target_context):
        with suppress(Exception):  # damaged
            return super().load_overload(sig, target_context)

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError:  # a full disk, for instance
            return
        except Exception:  # the index is damaged
            with suppress(Exception):
                self.flush()
                super().save_overload(sig, data)


class _CheckedFile(IndexDataCacheFile):
    """Numba's files, which it runs without looking whether they are what was written.

    Two processes that store at the same time can give their entries the same name.
    """

    def save(self, key, data):
        entry = dumps((key, data))
        super().save(key, (sha256(entry).digest(), entry))

    def load(self, key):
        found = super().load(key)
        if found is None or sha256(found[1]).digest() != found[0]:
            return None
        of_key, data = pickle.loads(found[1])
        return data if of_key == key else None


def _digest(function):
    """Digest of all that is compiled into a function: sources of what it calls, and constants."""
    digest, files, left = sha256(), set(), [function]
    known = set(left)
    while left:
        function = left.pop()
        files.add(inspect.getsource(inspect.getmodule(function)))
        for name in sorted(_names(function.__code__) & function.__globals__.keys()):
            value = function.__globals__[name]
            value = getattr(value, "py_func", value)
            if inspect.isfunction(value):
                if value not in known:
                    known.add(value)
                    left.append(value)
            elif isinstance(value, (int, float, np.generic, np.ndarray)):
                digest.update(dumps((function.__qualname__, name, value)))
    for source in sorted(files):
        digest.update(source.encode())
    return digest.digest()


def _names(code):
    """Names of globals, and others, in a function and those inside it."""
    inner = (constant for constant in code.co_consts if inspect.iscode(constant))
    return set(code.co_names).union(*map(_names, inner))
