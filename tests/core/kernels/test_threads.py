"""Work gets the threads that it is worth; numbers of threads outside are left alone."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from interrupt_testing import interrupted_at
from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_info, threadpool_limits

from skdict._core.kernels.cpu import threads as threads_cpu
from skdict._core.kernels.cpu.threads import (
    LONG_WORK,
    SMALL_WORK,
    map_on_cores,
    n_cores,
    threads_for,
)


@pytest.fixture
def four_cores(monkeypatch):
    """A process that may use four cores, and uses them."""
    monkeypatch.setattr(threads_cpu, "n_cores", lambda: 4)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def run(code, **env):
    kept = {k: v for k, v in os.environ.items() if k not in threads_cpu.SPIN_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def threads_of_mkl():
    """The number that this thread has set, 0 if none; None without MKL."""
    if threads_cpu._mkl() is None:
        return None
    number = threads_cpu._set_threads_of_mkl(1)
    threads_cpu._set_threads_of_mkl(number)
    return number


class TestMapOnCores:
    def test_results_come_in_order(self):
        assert map_on_cores(lambda a, b: a - b, range(9), range(9, 0, -1)) == list(range(-9, 9, 2))

    def test_torch_has_one_thread_in_each_and_as_many_as_before_outside(self, four_cores):
        inside = map_on_cores(lambda _: (torch.get_num_threads(), threads_of_mkl()), range(8))
        assert set(inside) <= {(1, 1), (1, None)}
        assert torch.get_num_threads() == 4
        assert threads_of_mkl() in (4, None)

    def test_threads_of_the_pool_have_one_thread_whatever_ran_there(self, four_cores):
        n_threads = os.cpu_count()
        all_of_them = threading.Barrier(n_threads)

        def leave_three(_):
            all_of_them.wait(10)
            libraries = threads_cpu._openmp().lib_controllers
            threads_cpu._set_threads_of_openmp([(library, 3) for library in libraries])

        list(threads_cpu._pool(os.getpid()).map(leave_three, range(n_threads)))

        def number(_):
            threading.Event().wait(0.005)  # so that all take part
            return threading.current_thread().name, torch.get_num_threads()

        inside = set(map_on_cores(number, range(16)))
        assert len(inside) > 1
        assert {n for _, n in inside} == {1}

    def test_no_more_at_a_time_than_torch_has_threads(self, four_cores):
        lock, now, most = threading.Lock(), [0], [0]

        def count(_):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            threading.Event().wait(0.002)
            with lock:
                now[0] -= 1

        torch.set_num_threads(2)
        map_on_cores(count, range(40))
        assert most[0] <= 2

    def test_nested(self, four_cores):
        def outer(i):
            return sum(map_on_cores(lambda j: i * j, range(5)))

        assert map_on_cores(outer, range(6)) == [10 * i for i in range(6)]

    def test_no_threads_are_left_behind_for_each_number(self, four_cores):
        for n in (2, 3, 4, 2, 3, 4):
            torch.set_num_threads(n)
            map_on_cores(lambda _: None, range(20))
        ours = [thread for thread in threading.enumerate() if thread.name.startswith("skdict")]
        assert len(ours) <= os.cpu_count()

    def test_threads_that_need_the_pool_at_a_time_share_it(self, monkeypatch):
        """However long it takes to make one: each makes one, and all take the same."""
        both, made, plain = threading.Barrier(2), [], threads_cpu.ThreadPoolExecutor

        def slow(*args):
            both.wait(30)
            made.append(plain(*args))
            return made[-1]

        monkeypatch.setattr(threads_cpu, "ThreadPoolExecutor", slow)
        monkeypatch.setattr(threads_cpu, "_POOLS", {})
        taken = []
        threads = [
            threading.Thread(target=lambda: taken.append(threads_cpu._pool(0))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 2 and taken[0] is taken[1]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_the_first_error_ends_all(self, four_cores, error):
        begun = []

        def fail(i):
            begun.append(i)
            raise error("this one")

        with pytest.raises(error, match="this one"):
            map_on_cores(fail, range(1000))
        assert len(begun) <= 4
        assert map_on_cores(lambda i: i, range(3)) == [0, 1, 2]
        assert torch.get_num_threads() == 4

    def test_numpys_threads_are_left_alone(self):
        """Its BLAS has one number of threads for the whole process."""
        np.ones((2, 2)) @ np.ones((2, 2))

        def of_blas():
            return [
                pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"
            ]

        with threadpool_limits(2, user_api="blas"):
            before = of_blas()
            map_on_cores(lambda _: None, range(8))
            assert of_blas() == before


class TestThreadsFor:
    def test_small_work_has_one_thread_and_large_work_all(self, four_cores):
        with threads_for(SMALL_WORK - 1, 10**9):
            assert torch.get_num_threads() == 1
            assert threads_of_mkl() in (1, None)
        assert torch.get_num_threads() == 4
        assert threads_of_mkl() in (4, None)
        with threads_for(SMALL_WORK):
            assert torch.get_num_threads() == 4

    def test_no_more_than_the_caller_set(self, four_cores):
        torch.set_num_threads(3)
        with threads_for(SMALL_WORK):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 3

    def test_no_more_than_the_process_may_use(self, four_cores):
        torch.set_num_threads(8)
        with threads_for(SMALL_WORK):
            assert torch.get_num_threads() == 4
        assert torch.get_num_threads() == 8

    def test_large_work_inside_of_small_work(self, four_cores):
        with threads_for(1):
            with threads_for(SMALL_WORK):
                assert torch.get_num_threads() == 4
            assert torch.get_num_threads() == 1

    def test_nothing_is_left_after_an_error(self, four_cores):
        with pytest.raises(KeyboardInterrupt), threads_for(1):
            raise KeyboardInterrupt
        assert torch.get_num_threads() == 4
        torch.set_num_threads(3)  # nor is the number of then remembered
        with threads_for(SMALL_WORK):
            assert torch.get_num_threads() == 3

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_an_interrupt_at_any_point_leaves_nothing_behind(self, four_cores):
        def work():
            with threads_for(1), threads_for(SMALL_WORK):
                pass

        n, mkl = 1, threads_of_mkl()
        while interrupted_at(n, work):
            assert torch.get_num_threads() == 4, n
            assert threads_of_mkl() == mkl, n
            assert not hasattr(threads_cpu._of_caller, "n_threads"), n
            n += 1
        assert n > 30

    def test_other_threads_are_left_alone(self, four_cores):
        """`torch.set_num_threads` decides for threads that begin while it holds."""
        seen = []
        with threads_for(1):
            thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            thread.start()
            thread.join()
        assert seen == [4]

    @pytest.mark.slow
    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
    def test_affinity_counts(self):
        one = min(os.sched_getaffinity(0))
        code = (
            f"import os; os.sched_setaffinity(0, [{one}])\n"
            "import torch; torch.set_num_threads(4)\n"
            "from skdict._core.kernels.cpu.threads import *\n"
            "with threads_for(SMALL_WORK): print(n_cores(), torch.get_num_threads())"
        )
        assert run(code) == ["1", "1"]

    @pytest.mark.slow
    def test_a_quota_counts(self):
        code = "from skdict._core.kernels.cpu.threads import n_cores; print(n_cores())"
        assert run(code, LOKY_MAX_CPU_COUNT="1") == ["1"]
        assert n_cores() >= 1


class TestSpinning:
    CODE = "import os, {}; print(os.environ.get('GOMP_SPINCOUNT'))"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "imports, env, expected",
        [
            ("skdict", {}, "1000"),
            ("skdict, torch", {}, "1000"),
            ("torch, skdict", {}, "None"),
            ("skdict", {"GOMP_SPINCOUNT": "7"}, "7"),
            ("skdict", {"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
        ],
    )
    def test_set_before_torch_is_imported_unless_the_user_has(self, imports, env, expected):
        assert run(self.CODE.format(imports), **env) == [expected]

    @pytest.mark.skipif(sys.platform != "linux", reason="of libgomp")
    def test_where_torch_was_first_long_work_holds_a_team(self, four_cores, monkeypatch):
        def teams():
            return [t for t in threading.enumerate() if t.name == "skdict-spins"]

        with threads_for(SMALL_WORK, LONG_WORK):
            assert not teams()  # as this process has set the variable
        for name in threads_cpu.SPIN_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        with threads_for(SMALL_WORK):
            assert not teams()
        with threads_for(SMALL_WORK, LONG_WORK // SMALL_WORK):
            assert len(teams()) == 1
        assert not teams()
        with pytest.raises(KeyboardInterrupt), threads_for(SMALL_WORK, LONG_WORK // SMALL_WORK):
            (team,) = teams()
            raise KeyboardInterrupt
        team.join(30)
        assert not team.is_alive()


def threads_of_large_work():
    with threads_for(SMALL_WORK):
        return torch.get_num_threads()


@pytest.mark.slow
def test_workers_of_a_grid_have_no_more_threads_than_there_are_cores():
    with parallel_config("loky", n_jobs=2):
        numbers = Parallel()(delayed(threads_of_large_work)() for _ in range(2))
    assert max(numbers) <= max(1, n_cores() // 2)
