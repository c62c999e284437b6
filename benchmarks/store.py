"""What writing and reading a store costs: beside .npy with a memory map, Arrow, and a prototype.

All write the same rows of float16 to the same folder, and read them back: in order, 4096 rows at
a time; by 64 random blocks of 256 rows, which are shuffled into batches of 4096; and 4096 random
rows at a time, sorted. To ours they are also given again, to be compared with what is there, and
as a list whose digest is taken. The unit is the CPU second (user and system), with one thread.
Each engine runs in a process of its own, in turn, and the best of all rounds counts. Arrow is left
out where pyarrow is not installed, and the prototype unless its file is given.
"""

import argparse
import functools
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

BATCH, BLOCK, N_BLOCKS = 4096, 256, 64
ALIGNMENT = ("document", "position", "start", "end", "token_id")


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@functools.cache
def pool_of(width):
    """Rows of 32 MB, more than the caches of a core hold."""
    x = np.random.default_rng(0).standard_normal(((1 << 24) // width, width), np.float32)
    return x.astype(np.float16)


def batches_of(args):
    pool = pool_of(args.width)
    for i in range(args.rows // BATCH):
        start = i * BATCH % (len(pool) - BATCH)
        yield pool[start : start + BATCH]


def tokens_of(i):
    row = np.arange(i * BATCH, (i + 1) * BATCH)
    return {"document": row // 500, **dict.fromkeys(ALIGNMENT[1:], row)}


class Npy:
    def __init__(self, folder):
        self.path = folder / "x.npy"

    def write(self, args):
        x = np.lib.format.open_memmap(self.path, "w+", np.float16, (args.rows, args.width))
        for i, batch in enumerate(batches_of(args)):
            x[i * BATCH : (i + 1) * BATCH] = batch
        x.flush()

    def open(self, args):
        self.x = np.load(self.path, mmap_mode="r")

    def rows(self, start, stop):
        return np.array(self.x[start:stop])

    def blocks(self, starts):
        return np.concatenate([self.x[start : start + BLOCK] for start in starts])

    def random(self, index):
        return self.x[index]


class Arrow:
    """IPC file, a record batch for each batch, memory-mapped."""

    def __init__(self, folder):
        import pyarrow

        self.pa, self.path = pyarrow, folder / "x.arrow"

    def write(self, args):
        pa = self.pa
        kind = pa.list_(pa.float16(), args.width)
        schema = pa.schema([("x", kind)])
        with pa.OSFile(str(self.path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in batches_of(args):
                column = pa.FixedSizeListArray.from_arrays(pa.array(batch.reshape(-1)), args.width)
                writer.write_batch(pa.record_batch([column], schema=schema))
        os.sync()

    def open(self, args):
        self.width = args.width
        self.file = self.pa.ipc.open_file(self.pa.memory_map(str(self.path)))

    def rows(self, start, stop):
        batch = self.file.get_batch(start // BATCH).column(0)
        part = batch.slice(start % BATCH, stop - start).flatten()
        return np.array(part.to_numpy(zero_copy_only=False).reshape(-1, self.width))

    def blocks(self, starts):
        return np.concatenate([self.rows(start, start + BLOCK) for start in starts])

    def random(self, index):
        return np.concatenate([self.rows(i, i + 1) for i in index.tolist()])


class Store:
    """Ours; with `layers` 2 and `tokens`, as an extractor writes it."""

    verify = True

    def __init__(self, folder):
        from skdict import ActivationStore

        self.kind, self.path = ActivationStore, folder / "store"

    def write(self, args):
        names = [f"layer{i}" for i in range(args.layers)]
        tokens = ALIGNMENT if args.tokens else ()
        with self.kind.create(
            self.path, dict.fromkeys(names, args.width), tokens=tokens, shard_rows=args.shard_rows
        ) as writer:
            for i, batch in enumerate(batches_of(args)):
                writer.append(dict.fromkeys(names, batch), tokens_of(i) if tokens else None)

    def again(self, args):
        """Give the rows again, which are compared with those that are there."""
        self.write(args)

    def digest(self, args):
        """What `to_store` does first with a list of activations and their tokens."""
        from skdict.feature_extraction._text_sources import text_source

        text_source([(batch, np.arange(BATCH)) for batch in batches_of(args)])

    def open(self, args):
        self.view = self.kind(self.path, verify=self.verify)["layer0"]

    def rows(self, start, stop):
        return self.view.read(slice(start, stop)).numpy()

    def blocks(self, starts):
        return self.random((starts[:, None] + np.arange(BLOCK)).reshape(-1))

    def random(self, index):
        return self.view.read(index).numpy()


class Unverified(Store):
    verify = False


class Prototype:
    def __init__(self, folder, file):
        spec = importlib.util.spec_from_file_location("prototype", file)
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.path = folder / "prototype"

    def write(self, args):
        names = [f"layer{i}" for i in range(args.layers)]
        layers = dict.fromkeys(names, args.width)
        writer = self.module.Writer(str(self.path), layers, "F16", args.shard_rows)
        for i, batch in enumerate(batches_of(args)):
            tokens = tokens_of(i) if args.tokens else {}
            writer.append(dict.fromkeys(names, batch), tokens, lambda row: row)
        writer.close(None)

    def open(self, args):
        self.store = self.module.Store(str(self.path), "layer0")

    def rows(self, start, stop):
        first, per_shard = start // BLOCK, self.store.rows[0] // BLOCK
        parts = range(first, stop // BLOCK)
        return np.concatenate([self.store.read_block(*divmod(b, per_shard)) for b in parts])

    def blocks(self, starts):
        per_shard = self.store.rows[0] // BLOCK
        parts = (starts // BLOCK).tolist()
        return np.concatenate([self.store.read_block(*divmod(b, per_shard)) for b in parts])

    def random(self, index):
        return None


def measure(args):
    """Thousands of rows, or megabytes written, per CPU second."""
    import torch

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    kinds = {"npy": Npy, "arrow": Arrow, "store": Store, "unverified": Unverified}
    kinds["prototype"] = functools.partial(Prototype, file=args.prototype)
    try:
        warm = folder / "warm"
        warm.mkdir()  # imports and compiled code are there before the clock runs
        kinds[args.engine](warm).write(argparse.Namespace(**vars(args) | {"rows": BATCH}))
        engine = kinds[args.engine](folder)
        start = cpu_seconds()
        engine.write(args)
        made = cpu_seconds()
        n_bytes = args.rows * args.width * 2 * args.layers + args.tokens * args.rows * 40
        found = {"write": n_bytes / 1e6 / (made - start)}
        for name in ("again", "digest"):
            if hasattr(engine, name):
                start = cpu_seconds()
                getattr(engine, name)(args)
                found[name] = n_bytes / 1e6 / (cpu_seconds() - start)
        engine.open(args)
        found |= read(engine, args)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(found))


def read(engine, args):
    """Thousands of rows per CPU second, read in three orders."""
    rng, found = np.random.default_rng(1), {}
    checksum = 0.0
    start = cpu_seconds()
    for first in range(0, args.rows, BATCH):
        checksum += float(engine.rows(first, first + BATCH)[0, 0])
    found["seq"] = args.rows / 1e3 / (cpu_seconds() - start)
    order = rng.permutation(args.rows // BLOCK) * BLOCK
    start = cpu_seconds()
    for i in range(0, len(order), N_BLOCKS):
        x = engine.blocks(np.sort(order[i : i + N_BLOCKS]))
        shuffled = rng.permutation(len(x))
        for first in range(0, len(x), BATCH):
            checksum += float(x[shuffled[first : first + BATCH]][0, 0])
    found["block"] = args.rows / 1e3 / (cpu_seconds() - start)
    start = cpu_seconds()
    for _ in range(args.random):
        x = engine.random(np.sort(rng.choice(args.rows, BATCH, replace=False)))
        if x is None:
            return found
    found["rand"] = args.random * BATCH / 1e3 / (cpu_seconds() - start)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", help="measure this one, and print JSON")
    parser.add_argument("--prototype", help="file of another store with Writer and Store")
    parser.add_argument("--folder", default=None, help="where to write; a file system in memory")
    parser.add_argument("--rows", type=int, default=1 << 20)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--tokens", action="store_true")
    parser.add_argument("--shard-rows", type=int, default=1 << 18)
    parser.add_argument("--random", type=int, default=4, help="batches of random rows")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.engine:
        measure(args)
        return
    engines = ["npy", "arrow", "prototype", "store", "unverified"]
    if importlib.util.find_spec("pyarrow") is None:
        engines.remove("arrow")
    if args.prototype is None:
        engines.remove("prototype")
    if args.layers > 1 or args.tokens:
        engines = [name for name in engines if name not in ("npy", "arrow", "unverified")]
    best = {name: {} for name in engines}
    for _ in range(args.rounds):
        for name in engines:
            command = [sys.executable, __file__, *sys.argv[1:], "--engine", name]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            for key, value in json.loads(result.stdout.splitlines()[-1]).items():
                best[name][key] = max(value, best[name].get(key, 0))
    keys = ("write", "again", "digest", "seq", "block", "rand")
    print("MB/s: write, again, digest; else thousands of rows per second")
    print(f"{'':12}" + "".join(f"{key:>10}" for key in keys))
    for name, found in best.items():
        print(f"{name:12}" + "".join(f"{found.get(key, float('nan')):10.0f}" for key in keys))


if __name__ == "__main__":
    main()
