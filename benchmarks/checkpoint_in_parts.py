"""Memory of a checkpoint of several processes by features: each its own atoms, or all gathered.

    python benchmarks/checkpoint_in_parts.py [--sizes 1,2,4] [--components 16384]

Processes of gloo, each of one thread, on one machine; float32, top-k. Printed are the most
memory that a process has taken, beyond what it had before, for the copy of its part and for
writing it; the same for the state of all; what each file has; and the same for the dictionary at
the end of a fit, in a file that the processes write together, and gathered in each. Memory is
what is not a page of a file (RssAnon).
"""

import argparse
import ctypes
import re
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from processes_testing import Processes

from skdict._core.distributed import tables
from skdict._core.training.checkpoint import begin_checkpoint, write_part
from skdict.decomposition import SparseAutoencoderDictionary

N_FEATURES, AT = 512, 5


def taken():
    """MB of this process that are no pages of files."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024


class Peak:
    """The most memory in a context, beyond what there was before."""

    def __enter__(self):
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed before would be taken again
        self.before = self.most = taken()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        self.mb = max(self.most, taken()) - self.before

    def _watch(self):
        while not self._ended.wait(0.001):
            self.most = max(self.most, taken())


class Watch:
    """A callback that measures, after a few steps and at the end."""

    writes_parts, is_due, is_writing = True, False, False

    def __init__(self, folder):
        self.folder = self.path = Path(folder)
        self.found = {}

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_end = setup

    def on_fit_task_begin(self, estimator, context, *, metadata=None):
        if metadata:
            metadata["resumable_fit"].listen(self)

    def in_parts(self, ranks):
        self.ranks = ranks
        return self

    def between_steps(self, fit, *_):
        if fit.n_steps != AT:
            return
        rank = self.ranks.rank
        if rank == 0:
            begin_checkpoint(self.folder, AT)
        dist.barrier()
        temporary = self.folder / f"step-{AT:09d}.tmp"
        with Peak() as peak:
            part = write_part(temporary, fit.state_dict(own=True), rank)
        self.found["own, copied and written"] = peak.mb
        self.found["own, on the disk"] = part["rows"]["size"] / 2**20
        dist.barrier()
        with Peak() as peak:
            fit.state_dict()
        self.found["all, copied alone"] = peak.mb

    def finish(self, fit):
        dist.barrier()
        loop = fit._loop
        for name, limit in (("dictionary in files", 0), ("dictionary in memory", 1 << 40)):
            tables.LARGEST_IN_MEMORY = limit
            own = loop.solver.own_dictionary(loop.rows)
            with Peak() as peak:
                whole = loop.solver.whole_dictionary(own, loop.tables)
            self.found[name] = peak.mb
            del own, whole

    def close(self):
        pass


def measured(n_components, folder):
    X = np.random.default_rng(0).standard_normal((4000, N_FEATURES), dtype=np.float32)
    params = {"architecture": "topk", "n_nonzero_coefs": 32, "max_iter": 1, "batch_size": 256}
    params |= {"early_stopping": False, "random_state": 0, "device": "cpu"}
    watch = Watch(folder)
    SparseAutoencoderDictionary(n_components, **params).set_callbacks(watch).fit(X)
    return watch.found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="2,4")
    parser.add_argument("--components", type=int, default=16_384)
    options = parser.parse_args()
    state = 6 * options.components * N_FEATURES * 4 / 2**20
    print(f"The state of all has {state:.0f} MB; MB of each process:")
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder, Processes(size, folder) as processes:
            found = processes.results(measured, options.components, folder)
        for name in found[0]:
            print(f"{size} processes, {name}: " + ", ".join(f"{each[name]:.0f}" for each in found))


if __name__ == "__main__":
    main()
