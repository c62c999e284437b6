"""Time and memory of `feature_association` on random codes, with one planted feature.

    python benchmarks/association.py --n-features 65536 --n-rows 200000

The columns say which fraction of the features has a p of at most 0.05, and how many of them have
such a q. The codes have 50 non-zeros a row, the frequencies of the features are those of Zipf's
law. y is a label of 5 % of the rows, one of ten classes, or numbers; rows are independent, or
tokens of documents of 200.
"""

import argparse
import resource
import time

import numpy as np
from scipy.sparse import csr_array

from skdict.inspection import feature_association

L0 = 50
PLANTED = 12_345


def draw_codes(n_rows, n_features, rng):
    """Codes whose features have frequencies between 1e-5 and 0.1 or so."""
    weights = 1 / np.arange(10, n_features + 10)
    columns = rng.choice(n_features, size=(n_rows, L0), p=weights / weights.sum())
    indptr = np.arange(0, n_rows * L0 + 1, L0)
    values = rng.exponential(size=n_rows * L0).astype(np.float32)
    codes = csr_array((values, columns.ravel().astype(np.int32), indptr), (n_rows, n_features))
    codes.sum_duplicates()
    return codes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-rows", type=int, default=200_000)
    parser.add_argument("--n-features", type=int, default=65_536)
    arguments = parser.parse_args()
    n, rng = arguments.n_rows, np.random.default_rng(0)
    codes = draw_codes(n, arguments.n_features, rng)
    label = rng.random(n) < 0.05
    rows = np.flatnonzero(label)[::50]  # 2 % of the rows with the label
    codes += csr_array(
        (np.ones(len(rows), np.float32), (rows, [PLANTED] * len(rows))), codes.shape
    )
    documents = np.arange(n) // 200
    cases = {
        "label": (label, None),
        "label, within documents": (label, documents),
        "ten classes": (rng.integers(10, size=n), None),
        "numbers": (rng.normal(size=n), None),
        "label of documents": ((rng.random(documents[-1] + 1) < 0.3)[documents], documents),
    }
    print(f"{n:,} rows, {arguments.n_features:,} features, {codes.nnz:,} non-zeros, ", end="")
    print(f"{memory():.2f} GB before")
    print("| y | CPU seconds | peak, GB | p <= 0.05 | q <= 0.05 | q of the planted one |")
    print("|---|---|---|---|---|---|")
    for name, (y, groups) in cases.items():
        start = time.process_time()
        found = feature_association(codes, y, groups=groups)
        seconds = time.process_time() - start
        below = (found.p_value[~np.isnan(found.p_value)] <= 0.05).mean()
        print(
            f"| {name} | {seconds:.1f} | {memory():.2f} | {below:.4f}"
            f" | {np.count_nonzero(found.q_value <= 0.05)} | {found.q_value[PLANTED]:.1e} |"
        )


def memory():
    """The greatest memory so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
