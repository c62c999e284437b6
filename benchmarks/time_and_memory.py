"""Seconds and memory of a fit, measured and estimated, by rows, columns, atoms and k.

    python benchmarks/time_and_memory.py [--passes 1]

Each row of the table is a program of its own: planted data in memory, the fit, then
`estimate_fit`. "MB" is how far resident memory rose above what the program held with its data.
"""

import argparse
import json
import subprocess
import sys
import time

# rows, columns, atoms, k, architecture or solver
SIZES = [
    (10_000, 64, 256, 8, "relu"),
    (100_000, 64, 256, 8, "relu"),
    (100_000, 512, 2048, 32, "relu"),
    (100_000, 512, 2048, 32, "topk"),
    (100_000, 512, 8192, 32, "topk"),
    (100_000, 768, 3072, 32, "topk"),
    (30_000, 768, 16_384, 32, "topk"),
    (30_000, 2048, 8192, 64, "topk"),
    (10_000, 256, 1024, 0, "alternating"),
]


def resident(name):
    """Resident memory in bytes, now ("VmRSS") or at its highest ("VmHWM"); Linux."""
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(name))


def planted(n_samples, n_features, l0=10, seed=0):
    """Rows of ten of 4 n_features random directions each, float32."""
    import numpy as np

    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((4 * n_features, n_features), dtype="f4") / n_features**0.5
    X = np.empty((n_samples, n_features), "f4")
    for x in X:
        x[:] = rng.exponential(size=l0).astype("f4") @ atoms[rng.integers(len(atoms), size=l0)]
    return X + 0.05 * rng.standard_normal(X.shape, dtype="f4")


def measure(n_samples, n_features, n_components, k, how, n_passes):
    """One row, in this program."""
    from skdict.decomposition import SparseAutoencoderDictionary, estimate_fit

    options = {"architecture": how} if how != "alternating" else {"solver": how}
    if how == "topk":
        options["n_nonzero_coefs"] = k
    sae = SparseAutoencoderDictionary(n_components, max_iter=n_passes, random_state=0, **options)
    X = planted(n_samples, n_features)
    SparseAutoencoderDictionary(64, max_iter=1, **options).fit(X[:1000, :32])  # compiles
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")  # the highest so far is forgotten
    begin = time.perf_counter()
    sae.fit(X)
    seconds = time.perf_counter() - begin
    peak = resident("VmHWM") - before
    estimate = estimate_fit(sae, X)
    return {
        "seconds": seconds,
        "estimated": estimate.seconds,
        "peak": peak,
        "computed": estimate.memory,
        "steps": sae.n_steps_,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(*json.loads(arguments.row), arguments.passes)))
        return
    print("rows     columns atoms  k  architecture  steps  seconds estimated  MB computed")
    for size in SIZES:
        command = [sys.executable, __file__, "--passes", str(arguments.passes)]
        done = subprocess.run(
            [*command, "--row", json.dumps(size)], check=True, capture_output=True, text=True
        )
        row = json.loads(done.stdout.splitlines()[-1])
        n_samples, n_features, n_components, k, how = size
        print(
            f"{n_samples:8,} {n_features:7} {n_components:6} {k:2} {how:13} {row['steps']:5}"
            f" {row['seconds']:8.1f} {row['estimated']:9.1f} {row['peak'] / 1e6:6.0f}"
            f" {row['computed'] / 1e6:6.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
