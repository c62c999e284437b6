"""Memory of a fit, of codes and of statistics, as rows grow; and a fit of 8 GB on a disk.

Each figure is the peak resident memory of a process of its own (Linux). Rows of the first table
come from a view that computes them, as a store would read them.

    python benchmarks/large_data.py [--rows 1000000 100000000]   # the table
    python benchmarks/large_data.py --gigabytes 8 [--folder /tmp/large]   # the store
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from skdict._core.data.statistics import Spread, Summary
from skdict._core.storage.ranges import RowRanges
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationStore

WIDTH = 40
N_KNOWN = 65_521  # a prime
LAYER = "mlp"


class Synthetic:
    """As many rows as asked for, which repeat some thousands in a scattered order."""

    ndim, dtype, chunk_rows, buffer_bytes = 2, torch.float32, 64, 1 << 31

    def __init__(self, n_rows, ranges=None, known=None):
        self.ranges = RowRanges([0], [n_rows]) if ranges is None else ranges
        self.shape = (len(self.ranges), WIDTH)
        self.identity = f"synthetic {self.ranges.digest()}"
        if known is None:
            X, _, _ = make_superposition(
                n_samples=N_KNOWN, n_features=WIDTH, n_components=64, random_state=0
            )
            known = torch.from_numpy(X).float()
        self.known = known

    def __len__(self):
        return self.shape[0]

    def take_ranges(self, starts, stops):
        return Synthetic(None, self.ranges.take_ranges(starts, stops), self.known)

    def read(self, index):
        starts, stops = map(torch.from_numpy, self.ranges.segments(index))
        lengths = stops - starts
        index = torch.arange(int(lengths.sum()))
        index += torch.repeat_interleave(stops - lengths.cumsum(0), lengths)
        return self.known[(index * 40_503) % N_KNOWN]

    def moments(self):
        mean = self.known.double().mean(dim=0)
        squares = float((self.known - mean).square().sum()) / N_KNOWN * len(self)
        spread = Spread(len(self), mean, squares, float((self.known - mean).norm(dim=1).max()))
        return Summary(spread, spread, 0)


def peak():
    """Megabytes. `getrusage` would count what the parent had before this program began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def fitted(X, **params):
    params = {"architecture": "topk", "n_nonzero_coefs": 3, "max_iter": 1} | params
    params = {"early_stopping": False} | params
    return SparseAutoencoderDictionary(64, batch_size=1024, random_state=0, **params).fit(X)


def of_rows(what, n_rows):
    """Peak memory and seconds of one thing done with so many rows."""
    X = Synthetic(n_rows)
    began = time.perf_counter()
    if what in ("fit", "held-out"):
        fitted(X, early_stopping=what == "held-out")
    else:
        estimator = fitted(Synthetic(200_000))
        if what == "statistics":
            estimator.calibrate(X)
            estimator.score(Synthetic(200_000))
        else:
            with tempfile.TemporaryDirectory() as folder:
                estimator.transform(X, out=Path(folder) / "codes")
    return {"MB": peak(), "seconds": time.perf_counter() - began}


def make_store(folder, gigabytes):
    n_rows, piece = int(gigabytes * 1e9 / 1024), 16_384
    generator = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(1024, 512, generator=generator), dim=1)
    codes = torch.relu(torch.rand(4 * piece, 1024, generator=generator) - 0.98) * 50
    known = (codes @ atoms).half()  # rows repeat, which changes nothing of memory
    with ActivationStore.create(folder, {LAYER: 512}) as writer:
        for start in range(0, n_rows, piece):
            index = torch.randint(len(known), (min(piece, n_rows - start),), generator=generator)
            writer.append(known[index])


def of_store(folder):
    store, began = ActivationStore(folder), time.perf_counter()
    estimator = SparseAutoencoderDictionary(
        1024, architecture="topk", n_nonzero_coefs=32, max_iter=1, batch_size=1024, random_state=0
    ).fit(store)
    explained = estimator.train_explained_variance_
    return {
        "rows": len(store),
        "MB": peak(),
        "seconds": time.perf_counter() - began,
        "explained": explained,
    }


def in_a_process(*arguments):
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 100_000_000])
    parser.add_argument("--gigabytes", type=float)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/large"))
    parser.add_argument("--one", nargs=2, help="of a process of its own")
    options = parser.parse_args()
    if options.one:
        what, value = options.one
        found = of_store(value) if what == "store" else of_rows(what, int(value))
        print(json.dumps(found))
    elif options.gigabytes:
        if not (options.folder / "store.json").exists():
            make_store(options.folder, options.gigabytes)
        size = sum(file.stat().st_size for file in options.folder.rglob("*") if file.is_file())
        found = in_a_process("--one", "store", options.folder)
        print(
            f"{size / 1e9:.2f} GB on disk, {found['rows']} rows of 512: peak {found['MB']:.0f} MB,"
            f" {found['seconds']:.0f} s, explained variance {found['explained']:.3f}"
        )
        shutil.rmtree(options.folder)
    else:
        for what in ("fit", "held-out", "statistics", "transform"):
            row = [in_a_process("--one", what, n_rows) for n_rows in options.rows]
            figures = ", ".join(f"{x['MB']:.0f} MB in {x['seconds']:.0f} s" for x in row)
            more = row[-1]["MB"] - row[0]["MB"]
            print(f"{what}: {figures}; {more:+.0f} MB", flush=True)


if __name__ == "__main__":
    main()
