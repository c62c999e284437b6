"""Processes of a group of torch.distributed, which are started once and called often.

They are forked from a server that has imported what they need, and compute in one thread.
"""

import multiprocessing
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist

from skdict._core.distributed.ranks import ALL_GATHER

TIMEOUT = 120  # seconds that a call may take


class Processes:
    """Use as a context manager.

    Parameters
    ----------
    size : int
    folder : Path
        Where they meet.
    timeout : float, default=60
        Seconds until a process that does not answer the others is given up.
    """

    def __init__(self, size, folder, timeout=60):
        self.size = size
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["skdict.decomposition", "skdict.datasets"])
        self.pipes, self.processes = [], []
        for rank in range(size):
            here, there = context.Pipe()
            arguments = there, rank, size, f"file://{folder}/meet", timeout
            self.processes.append(context.Process(target=_serve, args=arguments, daemon=True))
            self.pipes.append(here)

    def __enter__(self):
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.join()

    def call(self, function, *arguments, answering=None):
        """Call a function of a module in all of them; what it returns, or the error, of each."""
        for pipe in self.pipes:
            pipe.send((function, arguments))
        return [self.result(rank) for rank in answering or range(self.size)]

    def result(self, rank):
        if not self.pipes[rank].poll(TIMEOUT):
            raise TimeoutError(f"process {rank} does not answer")
        return self.pipes[rank].recv()

    def results(self, function, *arguments):
        """As `call`, where an error is one of the test."""
        found = self.call(function, *arguments)
        for result in found:
            if isinstance(result, Exception):
                raise result
        return found


def _serve(pipe, rank, size, address, timeout):
    torch.set_num_threads(1)
    timeout = timedelta(seconds=timeout)
    dist.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=size, timeout=timeout
    )
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send(function(*arguments))
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))
            pipe.send(error)


class Sent:
    """Bytes that this process sends in a context, where collectives are rings."""

    def __enter__(self):
        self.n_bytes, size = 0, dist.get_world_size()
        factors = {"all_reduce": 2 / size, ALL_GATHER: 1, "all_to_all_single": 1 / size}
        self.kept = {name: getattr(dist, name) for name in factors}
        for name, function in self.kept.items():
            given = 0 if name == "all_reduce" else 1
            setattr(dist, name, self._counted(function, given, factors[name] * (size - 1)))
        return self

    def __exit__(self, *_):
        for name, function in self.kept.items():
            setattr(dist, name, function)

    def _counted(self, function, given, factor):
        def counted(*args, **kwargs):
            self.n_bytes += factor * args[given].numel() * args[given].itemsize
            return function(*args, **kwargs)

        return counted
