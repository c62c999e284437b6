"""Time and memory against the size of the dictionary, of the activations and of the batch.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --whole-fit 65536
    python benchmarks/scaling.py --memory-map 8

The first prints the time of a training step of "topk" (k = 32), each size in a process of its own,
and the exponents of a power law in each of the three. The second fits the default architecture
with so many atoms from beginning to end, features resampled; the third fits 1,024 atoms to a
float32 file of so many gigabytes. Both print the peak of resident memory, which includes the
pages of the file that are mapped (Linux). Data have a planted dictionary: 32 of 2,048 directions a
sample.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from peers import skdict

from skdict._core.models.architectures import TopK
from skdict._core.solvers.schedule import Schedule
from skdict.decomposition import SparseAutoencoderDictionary

BASE = {"n_components": 4096, "n_features": 512, "batch_size": 4096}
GRID = {
    "n_components": (512, 1024, 2048, 8192, 16_384, 32_768, 65_536),
    "n_features": (128, 256, 1024, 2048, 4096),
    "batch_size": (512, 1024, 2048, 8192, 16_384),
}


def write_planted(path, n_samples, n_features):
    """A float32 .npy file of sparse sums of planted directions, written block by block."""
    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((2048, n_features), dtype=np.float32) / n_features**0.5
    out = np.lib.format.open_memmap(path, "w+", np.float32, (n_samples, n_features))
    for start in range(0, n_samples, 16_384):
        block = out[start : start + 16_384]
        block[:] = 0.05 * rng.standard_normal(block.shape, dtype=np.float32)
        for _ in range(32):
            which = rng.integers(len(atoms), size=len(block))
            block += rng.exponential(size=(len(block), 1)).astype(np.float32) * atoms[which]
    out.flush()


def time_steps(path, n_components, batch_size):
    """In a process of its own: median seconds of eight steps, after two."""
    x = torch.from_numpy(np.load(path))
    x *= (x.shape[1] / x.square().sum(dim=1).mean()).sqrt()
    training = skdict(x, TopK(32), n_components)
    schedule = Schedule(alpha=1.0, learning_rate=1e-3, from_scratch=False)
    batches = [x[i * 512 :][:batch_size].clone() for i in range(10)]
    seconds = []
    for batch in batches:
        start = time.perf_counter()
        training.step(batch, schedule)
        seconds.append(time.perf_counter() - start)
    return {"seconds": float(np.median(seconds[2:]))}


def peak_of_resident_memory():
    """Bytes, of this process since it began."""
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def whole_fit(path, n_components, max_iter):
    """In a process of its own: the time of a whole fit of the default architecture."""
    X = np.load(path, mmap_mode="r")
    start = time.perf_counter()
    dictionary = SparseAutoencoderDictionary(
        n_components, batch_size=4096, max_iter=max_iter, random_state=0
    ).fit(X)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "n_steps": dictionary.n_steps_,
        "alive": float((dictionary.feature_density_ > 0).mean()),
        "peak": peak_of_resident_memory() / 1e9,
    }


def alone(function, *arguments):
    """What the function returns in a process of its own."""
    command = [sys.executable, __file__, "--call", function, json.dumps(arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def scan(folder):
    files = {}

    def measure(**size):
        n_features = size["n_features"]
        if n_features not in files:
            files[n_features] = str(folder / f"{n_features}.npy")
            write_planted(files[n_features], 40_000, n_features)
        found = alone("time_steps", files[n_features], size["n_components"], size["batch_size"])
        row = [size[name] for name in BASE]
        per_sample = 1e6 * found["seconds"] / size["batch_size"]
        print(
            f"{row[0]:>12,} {row[1]:>10,} {row[2]:>10,} {1e3 * found['seconds']:>9.1f} "
            f"{per_sample:>10.1f}",
            flush=True,
        )
        return per_sample

    print(f"{'n_components':>12} {'n_features':>10} {'batch_size':>10} {'ms a step':>9} "
          f"{'µs/sample':>10}")  # fmt: skip
    middle = measure(**BASE)
    for name, values in GRID.items():
        sizes, times = [BASE[name]], [middle]
        for value in values:
            sizes.append(value)
            times.append(measure(**BASE | {name: value}))
        upper = np.array(sizes) >= BASE[name]
        slopes = [
            np.polyfit(np.log(np.array(sizes)[part]), np.log(np.array(times)[part]), 1)[0]
            for part in (slice(None), upper)
        ]
        print(f"time a sample ~ {name}^{slopes[0]:.2f}; from {BASE[name]:,} up ^{slopes[1]:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole-fit", type=int, metavar="ATOMS")
    parser.add_argument("--memory-map", type=float, metavar="GIGABYTES")
    parser.add_argument("--max-iter", type=int, default=1)
    parser.add_argument("--call", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        name, values = arguments.call
        function = {"time_steps": time_steps, "whole_fit": whole_fit}[name]
        print(json.dumps(function(*json.loads(values))))
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if arguments.whole_fit:
            write_planted(folder / "x.npy", 122_880, 512)
            found = alone(
                "whole_fit", str(folder / "x.npy"), arguments.whole_fit, arguments.max_iter
            )
        elif arguments.memory_map:
            n_samples = round(arguments.memory_map * 1e9 / 2048)
            write_planted(folder / "x.npy", n_samples, 512)
            found = alone("whole_fit", str(folder / "x.npy"), 1024, arguments.max_iter)
        else:
            return scan(folder)
        print(
            f"{found['n_steps']} steps of up to 4,096 in {found['seconds']:.0f} s, peak of "
            f"resident memory {found['peak']:.2f} GB, {found['alive']:.1%} of the features alive"
        )


if __name__ == "__main__":
    main()
