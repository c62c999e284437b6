"""How many threads work is worth, and threads that work on a piece each.

OpenMP's threads wait for one another by spinning. Where another program has a core, each wait
can last a time slice of that program, and small work waits all the time. So small work gets one
thread, and large work spins for a moment only.
"""

import ctypes
import os
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import joblib
import torch
from threadpoolctl import ThreadpoolController

# Multiplications between two points at which threads wait for each other that are worth more
# threads than one (benchmarks/README.md).
SMALL_WORK = 1 << 24
# What else is done to an entry of a product takes the time of about so many.
WORK_OF_ENTRY = 256
# And those of a whole call that are worth the half millisecond that `_short_spins` takes.
LONG_WORK = 1 << 31
# What tells libgomp how long to spin. It reads them once, as torch is imported.
SPIN_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

_of_caller = threading.local()  # torch's number of threads outside of `threads_for`


def work_of_product(n_rows, n_summed, n_columns):
    """Work of a product of matrices and of what is done to its entries."""
    return n_rows * n_columns * max(n_summed, WORK_OF_ENTRY)


@contextmanager
def threads_for(work, n_times=1):
    """Have torch use as many threads as work is worth, in this thread, during a ``with`` block.

    No more than the caller has set, and than the process may use by affinity and quota. What other
    threads do does not count: the order of sums, and with it the last digits of a result, goes by
    the number of threads. `map_on_cores` goes by it too.

    Parameters
    ----------
    work : int
        Of a step, or of a block of rows: as `work_of_product` has it.
    n_times : int
        How many of these there are.
    """
    outermost = not hasattr(_of_caller, "n_threads")
    if outermost:
        _of_caller.n_threads = torch.get_num_threads()
    n_threads = 1 if work < SMALL_WORK else min(_of_caller.n_threads, n_cores())
    try:
        with ExitStack() as stack:
            stack.enter_context(_torch_threads(n_threads))
            if n_threads > 1 and work * n_times >= LONG_WORK:
                stack.enter_context(_short_spins())
            yield
    finally:
        if outermost:
            del _of_caller.n_threads


def map_on_cores(function, *iterables):
    """As `map`, in as many threads as torch uses, each with one core; a list, in order.

    Inside of ``function`` torch has one thread, so that what is nested in it runs one piece after
    the other. After an error no more pieces are begun.
    """
    pieces = deque(enumerate(zip(*iterables, strict=True)))
    n_threads = min(torch.get_num_threads(), len(pieces))
    results = [None] * len(pieces)

    def work():
        try:
            while (piece := _next(pieces)) is not None:
                i, arguments = piece
                results[i] = function(*arguments)
        except BaseException:
            pieces.clear()
            raise

    helpers = [_pool(os.getpid()).submit(work) for _ in range(n_threads - 1)]
    try:
        with _torch_threads(1):
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
    """The first of a deque, which it loses, or None: safe among threads."""
    try:
        return pieces.popleft()
    except IndexError:
        return None


@cache
def _pool(process):
    """Threads of this process (a fork has none of its parent's) in which torch uses one each."""
    return ThreadPoolExecutor(os.cpu_count(), "skdict", _use_one_core)


def _use_one_core():
    torch.get_num_threads()  # makes torch set the number for this thread, once and for all
    _openmp().limit(limits=1)
    _set_threads_of_mkl(1)


@contextmanager
def _torch_threads(n_threads):
    """Have torch use so many threads in this thread; what it uses in others stays.

    `torch.set_num_threads` would decide for all threads that begin meanwhile.
    """
    if n_threads == torch.get_num_threads():
        yield
        return
    with _openmp().limit(limits=n_threads):
        before = _set_threads_of_mkl(n_threads)
        try:
            yield
        finally:
            _set_threads_of_mkl(before)


@cache
def _openmp():
    """The OpenMP libraries, whose number of threads is one of each thread.

    BLAS libraries with threads of their own, as NumPy's, have one for the whole process, which is
    not ours to change.
    """
    return ThreadpoolController().select(user_api="openmp")


def _set_threads_of_mkl(n_threads):
    """Set MKL's number of threads in this thread, 0 for that of OpenMP; returns the former one."""
    function = _mkl()
    return function(n_threads) if function is not None else 0


@cache
def _mkl():
    """MKL's function of this kind in torch, None where torch comes without MKL.

    Where somebody has called `torch.set_num_threads` MKL does not go by OpenMP's number.
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
    """Have threads of libgomp that wait go to sleep after a moment, during a ``with`` block.

    Left to itself it spins 300,000 times, and 100 times if there are more of its threads than
    cores (its manual, GOMP_SPINCOUNT). A thread that does nothing but hold a team sees to that.
    Nothing happens where the variables were set before: by the user or, if it was imported before
    torch, by skdict.
    """
    if sys.platform != "linux" or any(name in os.environ for name in SPIN_VARIABLES):
        yield
        return
    ready, done = threading.Event(), threading.Event()

    def hold_a_team():
        with _openmp().limit(limits=os.cpu_count()):
            torch.ones(os.cpu_count() << 15, dtype=torch.float32, device="cpu").add_(1)
        ready.set()
        done.wait()

    holder = threading.Thread(target=hold_a_team, name="skdict-spins", daemon=True)
    holder.start()
    try:
        ready.wait()
        yield
    finally:
        done.set()
        holder.join()
