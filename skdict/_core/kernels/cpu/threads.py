"""How many threads torch uses, and a pool of threads in which torch and OpenMP use one each.

OpenMP's threads spin while they wait for one another. Where another program occupies a core, each
wait can last a time slice of that program, and small work consists mostly of such waits. So small
work gets one thread, and threads of large work spin only briefly.
"""

import ctypes
import os
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

import joblib
import torch
from threadpoolctl import ThreadpoolController

# Multiplications between two synchronisations of threads: with fewer, one thread is faster
# (benchmarks/README.md).
SMALL_WORK = 1 << 24
# Whatever else is done to an entry of a product takes the time of about so many multiplications.
WORK_OF_ENTRY = 256
# Multiplications of a whole call that are worth the half millisecond that `_short_spins` takes.
LONG_WORK = 1 << 31
# Environment variables that tell libgomp how long to spin. It reads them when torch is imported.
SPIN_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

_of_caller = threading.local()  # torch's number of threads outside of `threads_for`
_in_progress = threading.local()  # `blocks` of `_torch_threads`, from the outermost in
_POOLS = {}


def work_of_product(n_rows, n_summed, n_columns):
    """Multiplications of a product of matrices, and as many again as its entries are worth."""
    return n_rows * n_columns * max(n_summed, WORK_OF_ENTRY)


@contextmanager
def threads_for(work, n_times=1):
    """Have torch use as many threads as the work deserves, in this thread, in a ``with`` block.

    At most as many as the caller has set, and as the process may use by affinity and quota. It
    does not depend on what else runs: the number of threads decides the order of sums, and with
    it the last digits of a result. `map_on_cores` uses the same number.

    Parameters
    ----------
    work : int
        Work of a step, or of a block of rows, from `work_of_product`.
    n_times : int
        Number of steps or blocks.
    """
    outermost = not hasattr(_of_caller, "n_threads")
    of_caller = torch.get_num_threads() if outermost else _of_caller.n_threads
    n_threads = 1 if work < SMALL_WORK else min(of_caller, n_cores())
    is_long = n_threads > 1 and work * n_times >= LONG_WORK
    try:
        _of_caller.n_threads = of_caller
        with _torch_threads(n_threads), _short_spins() if is_long else nullcontext():
            yield
    finally:
        if outermost:
            del _of_caller.n_threads


def map_on_cores(function, *iterables):
    """Like `map`, in as many threads as torch uses, each with one core; returns a list, in order.

    Inside ``function`` torch has one thread, so nested calls run one piece after the other. After
    an error no further piece is begun.
    """
    pieces = deque(enumerate(zip(*iterables, strict=True)))
    n_threads = min(torch.get_num_threads(), len(pieces))
    if n_threads <= 1:
        with _torch_threads(1):
            return [function(*arguments) for _, arguments in pieces]
    results = [None] * len(pieces)

    def work():
        try:
            # in threads of the pool too: what ran there before may have left another number
            with _torch_threads(1):
                while (piece := _next(pieces)) is not None:
                    i, arguments = piece
                    results[i] = function(*arguments)
        except BaseException:
            pieces.clear()
            raise

    helpers = [_pool(os.getpid()).submit(work) for _ in range(n_threads - 1)]
    try:
        work()
    finally:
        pieces.clear()  # of the caller's own interrupts too
        begun = [helper for helper in helpers if not helper.cancel()]
        errors = [helper.exception() for helper in begun]
    for error in errors:
        if error is not None:
            raise error
    return results


def _next(pieces):
    """Remove and return the first of a deque, or None if it is empty; safe among threads."""
    try:
        return pieces.popleft()
    except IndexError:
        return None


def _pool(process):
    """Pool of threads with one core each, for a process: a fork has no threads of its parent."""
    if process not in _POOLS:  # of several that are made at a time one is taken, by all
        _POOLS.setdefault(process, ThreadPoolExecutor(os.cpu_count(), "skdict", _use_one_core))
    return _POOLS[process]


def _use_one_core():
    torch.get_num_threads()  # has torch set the number of this thread now, and not again later
    _openmp().limit(limits=1)
    _set_threads_of_mkl(1)


@contextmanager
def _torch_threads(n_threads):
    """Have torch use so many threads in this thread, and leave all other threads alone.

    `torch.set_num_threads` would also affect threads that start meanwhile.
    """
    if n_threads == torch.get_num_threads():
        yield
        return
    of_openmp = [(library, library.num_threads) for library in _openmp().lib_controllers]
    of_mkl, block, blocks = [], object(), vars(_in_progress).setdefault("blocks", [])
    try:
        blocks.append(block)
        if _mkl() is not None:
            # one call into C: no interrupt between the change and the note of what was before
            of_mkl.extend(map(_mkl(), [n_threads]))
        _set_threads_of_openmp([(library, n_threads) for library, _ in of_openmp])
        yield
    finally:
        # not if an outer block has: an interrupt can keep a block open until it is collected
        if block in blocks:
            try:
                _restore_threads(of_openmp, of_mkl)
            except BaseException:  # an interrupt: start again
                _restore_threads(of_openmp, of_mkl)
                raise
            finally:
                del blocks[blocks.index(block) :]


def _restore_threads(of_openmp, of_mkl):
    for n_threads in of_mkl:
        _set_threads_of_mkl(n_threads)
    _set_threads_of_openmp(of_openmp)


def _set_threads_of_openmp(numbers):
    for library, n_threads in numbers:
        library.set_num_threads(n_threads)


@cache
def _openmp():
    """The OpenMP libraries, which keep a number of threads for each thread.

    BLAS libraries with threads of their own, such as NumPy's, have one number for the whole
    process, which is not ours to change.
    """
    return ThreadpoolController().select(user_api="openmp")


def _set_threads_of_mkl(n_threads):
    """Set MKL's number of threads in this thread (0: that of OpenMP) and return the former one."""
    function = _mkl()
    return function(n_threads) if function is not None else 0


@cache
def _mkl():
    """MKL's function in torch that sets it, or None where torch comes without MKL.

    After a call of `torch.set_num_threads`, MKL no longer follows OpenMP's number.
    """
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return library.MKL_Set_Num_Threads_Local
    except (OSError, AttributeError):
        return None


def n_cores():
    """How many cores the process may use, by affinity and by the quota of a container."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return _n_cores(frozenset(affinity))


@cache
def _n_cores(affinity):
    return joblib.cpu_count()  # reads files


@contextmanager
def _short_spins():
    """Have waiting threads of libgomp go to sleep after a moment, in a ``with`` block.

    By default they spin 300,000 times, but only 100 times while libgomp has more threads than
    there are cores (its manual, GOMP_SPINCOUNT). A thread that does nothing but hold a team of
    threads brings that about. Nothing is done where one of the variables is set: by the user, or
    by skdict if it was imported before torch.
    """
    if sys.platform != "linux" or any(name in os.environ for name in SPIN_VARIABLES):
        yield
        return
    # plain locks: releasing one is one call into C, which no interrupt leaves half done
    ready, in_use = threading.Lock(), threading.Lock()
    ready.acquire()

    def hold_a_team():
        with _openmp().limit(limits=os.cpu_count()):
            torch.ones(os.cpu_count() << 15, dtype=torch.float32, device="cpu").add_(1)
        ready.release()
        in_use.acquire()

    holder = threading.Thread(target=hold_a_team, name="skdict-spins", daemon=True)
    with in_use:
        holder.start()
        ready.acquire()
        yield
    holder.join()
