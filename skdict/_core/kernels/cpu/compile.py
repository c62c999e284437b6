"""Compile loops with Numba, and keep the machine code on disk where that is possible."""

import inspect
import pickle
from contextlib import suppress
from hashlib import sha256

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.serialize import dumps

# What Numba compiles into a function as a constant.
CONSTANTS = int, float, complex, str, tuple, np.generic, np.ndarray
# Their functions are compiled in too, but do not change between two runs of one installation.
LIBRARIES = "numpy", "numba"


def compiled(**options):
    """Decorator for a loop; ``options`` are those of `numba.njit`.

    The machine code is kept in Numba's cache folder. Where that cannot be written, every process
    compiles anew, without a warning: the cache saves time, and nothing depends on it.
    """

    def decorate(function):
        kernel = numba.njit(nogil=True, **options)(function)
        with suppress(RuntimeError, OSError):  # no folder can be written
            kernel._cache = _Cache(function)
        return kernel

    return decorate


def call_interruptibly(kernel, *arguments):
    """Call a kernel that returns arrays; an interrupt during the call is raised as it is.

    Numba creates the arrays while the exception is set, which Python reports as a SystemError.
    """
    try:
        return kernel(*arguments)
    except SystemError as error:
        first = error
        while isinstance(first, SystemError) and first.__context__ is not None:
            first = first.__context__
        raise first from None


class _Cache(FunctionCache):
    """Numba's cache, with a complete key, and without errors for the caller.

    Numba looks for changes only in the file of the function itself. But constants and functions
    of other files are compiled into it too, so the key has a digest of all of them.
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
    """Numba's files with checksums: Numba itself would run whatever they hold.

    Two processes that store at the same time can give their entries the same name, and a disk can
    damage them.
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
        for name, value in _from_outside(function):
            value = getattr(value, "py_func", value)
            if inspect.isfunction(value):
                if value not in known and value.__module__.split(".")[0] not in LIBRARIES:
                    known.add(value)
                    left.append(value)
            elif isinstance(value, CONSTANTS):
                digest.update(dumps((function.__qualname__, name, value)))
    for source in sorted(files):
        digest.update(source.encode())
    return digest.digest()


def _from_outside(function):
    """Names and values of the globals of a function, and of what it takes from modules."""
    names = _names(function.__code__)
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        if inspect.ismodule(value):
            for attribute in sorted(names & vars(value).keys()):
                yield f"{name}.{attribute}", vars(value)[attribute]
        else:
            yield name, value


def _names(code):
    """Names of globals, attributes and others in a function and those inside it."""
    inner = (constant for constant in code.co_consts if inspect.iscode(constant))
    return set(code.co_names).union(*map(_names, inner))
