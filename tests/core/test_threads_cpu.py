"""Threads of ours use one core each; those of other libraries are left alone."""

import numpy as np
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from skdict._core.threads_cpu import map_on_cores


def test_results_come_in_order():
    assert list(map_on_cores(lambda a, b: a - b, range(9), range(9, 0, -1))) == list(
        range(-9, 9, 2)
    )


def test_torch_has_one_thread_in_each_and_as_many_as_before_outside():
    before = torch.get_num_threads()
    assert set(map_on_cores(lambda _: torch.get_num_threads(), range(8))) == {1}
    assert torch.get_num_threads() == before


def test_numpys_threads_are_left_alone():
    """Its BLAS has one number of threads for the whole process."""
    np.ones((2, 2)) @ np.ones((2, 2))

    def of_blas():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        before = of_blas()
        list(map_on_cores(lambda _: None, range(8)))
        assert of_blas() == before
