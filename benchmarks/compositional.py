"""Compositional generalisation: planted features in combinations that the fit has never seen.

    python benchmarks/compositional.py [--sizes 100 500 1000 1000x20000 5000x50000] [--seeds 0 1 2]

The test of "Stop Probing, Start Coding" (arXiv 2603.28744), drawn anew as its text and code
describe it: n latents in d dimensions, of which ten are on, uniform on [0, 1]; half of the rows
are trained on. There the first latent is always on in half of the rows, beside nine of the first
half of all, and ten of all are on in the others. In the rows that are judged the first latent is
on beside nine of the second half. The figure is theirs: true and found latents are matched one to
one by the absolute correlation of their codes over the judged rows, and its mean is printed
(MCC). `cosine` is the mean cosine of true and found atoms, matched likewise.

Rows: "alternating", and "topk" by its own codes and by Lasso codes; "oracle" has the true atoms.
All Lasso codes of judged rows are of ``--alpha``.
"""

import argparse
import time
import warnings

import numpy as np
from scipy.optimize import linear_sum_assignment

from skdict import SparseAutoencoderDictionary
from skdict.decomposition import sparse_encode

N_ACTIVE = 10
# Dimensions by number of latents, as published; passes of "alternating" by latents and rows.
DIMENSIONS = {100: 47, 500: 79, 1000: 93, 5000: 125}
PASSES = {(100, 5000): 80, (500, 5000): 80, (1000, 5000): 150, (1000, 20000): 60}
# Best published result of an autoencoder and of any method, and with the true atoms.
PUBLISHED = {
    (100, 5000): (0.71, 0.945, 0.986),
    (500, 5000): (0.22, 0.955, 0.992),
    (1000, 5000): (0.19, 0.475, 0.993),
    (5000, 5000): (0.34, 0.262, 0.992),
}


def make_data(n, n_rows, seed):
    """Atoms (n, d), rows to train on, and true codes and rows to judge."""
    random = np.random.default_rng(seed)
    atoms = random.standard_normal((n, DIMENSIONS[n]))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    first, second, every = np.arange(1, n // 2), np.arange(n // 2, n), np.arange(n)

    def codes(pools):
        z = np.zeros((len(pools), n), np.float32)
        for row, (pool, has_first) in zip(z, pools, strict=True):
            on = random.choice(pool, N_ACTIVE - has_first, replace=False)
            on = np.append(on, 0) if has_first else on
            row[on] = random.uniform(0, 1, N_ACTIVE)
        return z

    half = n_rows // 2
    seen = codes([(first, 1) if random.random() < 0.5 else (every, 0) for _ in range(half)])
    unseen = codes([(second, 1)] * half)
    return atoms, (seen @ atoms).astype(np.float32), unseen, (unseen @ atoms).astype(np.float32)


def mean_correlation(true, found):
    """Of true latents that vary with the found ones they are matched to."""
    varies = true.std(axis=0) > 0
    normal = []
    for codes in (true, found):
        centred = codes - codes.mean(axis=0)
        norms = np.linalg.norm(centred, axis=0)
        normal.append(centred / np.where(norms > 0, norms, 1))
    return matched(normal[0].T @ normal[1])[varies].mean()


def matched(similarity):
    """Absolute similarity of each row to the column that it is matched to."""
    rows, columns = linear_sum_assignment(-abs(similarity))
    best = np.zeros(len(similarity))
    best[rows] = abs(similarity[rows, columns])
    return best


def compare(size, seed, args):
    n, n_rows = size
    atoms, X, codes, unseen = make_data(n, n_rows, seed)
    head = f"{n:5} {n_rows:6} {seed}"

    def line(name, found, own, seconds):
        by_lasso = mean_correlation(codes, sparse_encode(unseen, found, alpha=args.alpha))
        own = "     " if own is None else f"{mean_correlation(codes, own):.3f}"
        print(
            f"{head} {name:12} {seconds:6.0f} s  cosine {matched(atoms @ found.T).mean():.3f}  "
            f"own codes {own}  Lasso {by_lasso:.3f}",
            flush=True,
        )

    line("oracle", atoms.astype(np.float32), None, 0)
    options = {"fit_intercept": False, "early_stopping": False, "random_state": seed}
    fits = {
        "alternating": {"alpha": args.alpha, "batch_size": 256, "dict_init": "random"},
        "topk": {"n_nonzero_coefs": N_ACTIVE, "batch_size": 64},
    }
    fits["alternating"]["max_iter"] = PASSES.get(size, 40)
    fits["topk"]["max_iter"] = args.topk_passes
    for name in args.fits:
        solver = {"solver": name} if name == "alternating" else {"architecture": name}
        estimator = SparseAutoencoderDictionary(n, **solver, **fits[name], **options)
        start = time.perf_counter()
        estimator.fit(X)
        seconds = time.perf_counter() - start
        own = estimator.transform(unseen) if name == "topk" else None
        line(name, estimator.components_, own, seconds)
    if size in PUBLISHED:
        print(f"{head} published: autoencoder, any, oracle:", *PUBLISHED[size])


def size_of(text):
    n, _, n_rows = text.partition("x")
    return int(n), int(n_rows or 5000)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=size_of, nargs="+", default=["100", "500", "1000"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fits", nargs="+", default=["alternating", "topk"])
    parser.add_argument("--alpha", type=float, default=0.02)
    parser.add_argument("--topk-passes", type=int, default=400)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    args.sizes = [size_of(size) if isinstance(size, str) else size for size in args.sizes]
    for size in args.sizes:
        for seed in args.seeds:
            compare(size, seed, args)


if __name__ == "__main__":
    main()
