"""Signs of life of the processes of a group, by which it is told which of them is lost.

A collective that fails says that a process is gone, but not which: the error comes from a
neighbour, which may only have given up before. So each process counts in the store of the group,
from a thread, and after a failure looks whose count stands still.
"""

import itertools
import threading
import time

import torch.distributed as dist

# Seconds from one sign of life to the next, and after which one that has not come will not come.
INTERVAL, PATIENCE = 1.0, 3.5
_fits = itertools.count()  # as many in all processes: each takes part in every fit


class Heartbeat:
    """The signs of life of this process during a fit, and those of the others.

    Parameters
    ----------
    ranks : Ranks
        With ``rank``, ``size`` and ``n_calls``, how many collectives have begun.
    """

    def __init__(self, ranks):
        self.ranks = ranks
        self._prefix = f"skdict/{next(_fits)}"
        self._ended = threading.Event()
        store = dist.distributed_c10d._get_default_store()
        self._store = store.clone()  # a connection of the thread's own
        self._n_beats = 0
        self._beat()
        self._thread = threading.Thread(target=self._run, name="skdict-heartbeat", daemon=True)
        self._thread.start()

    def end(self):
        self._ended.set()
        self._thread.join()

    def lost(self):
        """Numbers of the processes that are gone or hang, as the first to ask finds them.

        Empty where that cannot be told: where the process that held the store is gone, too.
        """
        try:
            return self._lost()
        except RuntimeError:  # of a store that is gone
            return []

    def _lost(self):
        verdict = f"{self._prefix}/lost"
        before = self._counts()
        time.sleep(PATIENCE)
        if self._store.check([verdict]):
            return [int(rank) for rank in self._store.get(verdict).decode().split(",")]
        after = self._counts()
        lost = [rank for rank in before if before[rank][0] == after[rank][0]]
        if not lost:  # alive, but elsewhere: the others have begun a collective that it has not
            most = max(n_calls for _, n_calls in after.values())
            lost = [rank for rank, (_, n_calls) in after.items() if n_calls < most]
        if lost:
            self._store.set(verdict, ",".join(map(str, lost)))
        return lost

    def _counts(self):
        """Signs of life and collectives of each process."""
        found = {}
        for rank in range(self.ranks.size):
            found[rank] = tuple(map(int, self._store.get(f"{self._prefix}/{rank}").split()))
        return found

    def _beat(self):
        self._n_beats += 1
        self._store.set(
            f"{self._prefix}/{self.ranks.rank}", f"{self._n_beats} {self.ranks.n_calls}"
        )

    def _run(self):
        while not self._ended.wait(INTERVAL):
            try:
                self._beat()
            except RuntimeError:  # the store is gone, and with it the group
                return
