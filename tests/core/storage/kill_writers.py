"""Kill writers of a store at random moments: ``python kill_writers.py FOLDER N_KILLS SEED``.

After each kill the store must be readable and its rows right; the next writer goes on. What is
completed must have the bytes of a store that nobody has interrupted. Writers are forks, so that
each need not import torch.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from store_testing import content, rows_of, settings, tokens_of, view_of

from skdict._core.storage import StoreWriter
from skdict._core.storage.checking import damages
from skdict._core.storage.moments import RowMoments
from skdict._core.storage.opening import OpenStore

N_WRITERS = 2
ROWS, TOKENS = rows_of(), tokens_of()


def write(path, writer):
    """The part of one of the writers, in a process of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        with StoreWriter(path, settings(n_writers=N_WRITERS, shard_rows=110), writer) as writing:
            for _ in range(writing.cursor or 0, 1000, 70):
                time.sleep(0.002)  # the model
                append_one(writing, writer)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def append_one(writing, writer):
    """The batch that comes next; those of the other writer are passed over."""
    first = writing.cursor or 0
    mine = (first // 70) % N_WRITERS == writer
    part = slice(first, first + 70)
    rows = {name: x[part][: None if mine else 0] for name, x in ROWS.items()}
    tokens = {name: x[part][: None if mine else 0] for name, x in TOKENS.items()}
    writing.append(rows, tokens, cursor=min(first + 70, 1000))


def wait_for(children):
    return [os.waitpid(child, 0)[1] for child in children]


def check(path):
    """What is there is right."""
    if not (path / "store.json").exists():
        return 0
    store = OpenStore(path)
    assert not list(damages(store))
    view = view_of(path)
    tokens = view.tokens()
    row = tokens["document"] * 70 + tokens["position"]
    assert torch.equal(view.read(slice(None)), ROWS["mlp"][row])
    for writer in range(N_WRITERS):
        own = row[tokens["document"] % N_WRITERS == writer]
        wanted = [r for r in range(1000) if r // 70 % N_WRITERS == writer][: len(own)]
        assert own.tolist() == wanted
    return len(store.commits)


def main(folder, n_kills, seed):
    torch.set_num_threads(1)
    rng, folder = random.Random(seed), Path(folder)
    RowMoments(4).update(torch.ones(4, 4))  # imported and compiled before the forks
    start = time.perf_counter()
    whole = folder / "whole"
    assert wait_for([write(whole, i) for i in range(N_WRITERS)]) == [0] * N_WRITERS
    seconds = time.perf_counter() - start
    expected = content(whole)
    killed = completed = seen = 0
    path = folder / "killed"
    while killed < n_kills:
        children = [write(path, i) for i in range(N_WRITERS)]
        time.sleep(rng.uniform(0, 0.7 * seconds))
        seen += check(path)  # while they write
        for child in children:
            if rng.random() < 0.7:
                os.kill(child, signal.SIGKILL)
        outcomes = wait_for(children)
        assert set(outcomes) <= {0, signal.SIGKILL}, outcomes
        killed += outcomes.count(signal.SIGKILL)
        seen += check(path)
        if outcomes == [0] * N_WRITERS:
            assert content(path) == expected
            completed += 1
            shutil.rmtree(path)
    assert wait_for([write(path, i) for i in range(N_WRITERS)]) == [0] * N_WRITERS
    assert content(path) == expected
    print(f"{killed} killed, {completed + 1} completed, {seen} commits seen, {seconds:.2f} s each")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
