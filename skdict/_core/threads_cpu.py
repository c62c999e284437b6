"""Threads that work on a piece each; every library that they call has one core."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from threadpoolctl import threadpool_limits


def map_on_cores(function, *iterables):
    """As `map`, in as many threads as torch uses; an iterator over the results, in order."""
    return _threads(os.getpid(), torch.get_num_threads()).map(function, *iterables)


@cache
def _threads(process, n_threads):
    """Threads of this process (a fork has none of its parent's) in which torch uses one each."""
    return ThreadPoolExecutor(n_threads, "skdict", _use_one_core)


def _use_one_core():
    torch.get_num_threads()  # makes torch set the number for this thread, once and for all
    # of OpenMP the number is one of the thread; BLAS libraries with threads of their own, as
    # NumPy's, have one for the whole process, which is not ours to change
    threadpool_limits(1, user_api="openmp")
