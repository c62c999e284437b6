"""Sparse coding beside scikit-learn: samples per second at a given duality gap.

    python benchmarks/sparse_coding.py
    python benchmarks/sparse_coding.py --n-atoms 1024 4096 --kind learned --repeat 3

MLP activations of the embedded transformer on held-out files (512 features, float32), centred;
dictionaries of random directions, learned ones (solver="alternating", one pass over 100,000
activations) and samples (exemplars: strongly coherent); alpha as a multiple of "auto". skdict's
rates are those of `sparse_encode` to each gap, relative to each sample's objective; scikit-learn's
those of `sparse_encode` with n_jobs=2, which has no parameter for it (coordinate descent ends at a
gap of 1e-8 ‖x‖²; a warm-up call starts its processes). The ratio is skdict's rate at 1e-4 over the
faster of scikit-learn's two. SPAMS (LARS and matching pursuit in C++, two threads, in float32)
takes part where spams-bin is installed. All in turn, medians over the repeats.
"""

import argparse
import time
import warnings

import numpy as np
import sklearn
import torch
from activations import auto_alpha, collect_splits, load_extractor
from sklearn import decomposition

try:
    import spams
except ImportError:
    spams = None

from skdict.decomposition import SparseAutoencoderDictionary, sparse_encode

GAPS = (1e-2, 1e-4, 1e-6)
LARGEST_LEARNED = 4096


def dictionary(kind, n_atoms, X):
    """Unit-norm atoms (n_atoms, n_features) for centred X."""
    rng = np.random.default_rng(0)
    if kind == "learned":
        fit = SparseAutoencoderDictionary(
            n_atoms, solver="alternating", max_iter=1, fit_intercept=False, random_state=0
        )
        return fit.fit(X).components_
    if kind == "random":
        atoms = rng.normal(size=(n_atoms, X.shape[1])).astype(np.float32)
    else:
        atoms = X[rng.choice(len(X), n_atoms, replace=False)]
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def rate(encode, X):
    start = time.perf_counter()
    encode(X)
    return len(X) / (time.perf_counter() - start)


def sklearns(atoms, **options):
    atoms = atoms.astype(np.float64)
    return lambda X: decomposition.sparse_encode(
        X.astype(np.float64), atoms, max_iter=2000, n_jobs=2, **options
    )


def spams_rates(atoms, alpha, k):
    """By name, functions of X (n_samples, n_features) that code it with SPAMS."""
    columns = np.asfortranarray(atoms.T)
    options = {"lambda1": alpha, "mode": 2, "pos": True, "numThreads": 2}
    return {
        "spams": lambda X: spams.lasso(np.asfortranarray(X.T), D=columns, **options),
        "spams omp": lambda X: spams.omp(np.asfortranarray(X.T), D=columns, L=k, numThreads=2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-atoms", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    kinds = ["random", "learned", "exemplars"]
    parser.add_argument("--kind", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--n-samples", type=int, default=16384)
    parser.add_argument("--sklearn-seconds", type=float, default=4.0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--k", type=int, default=20, help="non-zero entries of omp")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")

    _, extractor = load_extractor()
    train, test = collect_splits(extractor, 100_000, 10 * arguments.n_samples)
    mean = train.mean(axis=0)
    X = train - mean
    test = test[np.random.default_rng(0).permutation(len(test))[: arguments.n_samples]] - mean
    auto = auto_alpha(train)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, scikit-learn "
        f"{sklearn.__version__}, {len(test)} samples, {test.shape[1]} features; samples a second"
    )
    print(
        f"{'atoms':>16} {'alpha':>6} {'L0':>6} "
        + " ".join(f"{f'gap {gap:.0e}':>9}" for gap in GAPS)
        + f" {'worst gap':>10} {'lars':>7} {'cd':>7} {'ratio':>6} {'spams':>7}"
        f"   omp: {'skdict':>7} {'sklearn':>7} {'ratio':>6} {'spams':>7}"
    )
    rates_of = {}
    for kind in arguments.kind:
        for n_atoms in arguments.n_atoms:
            if kind == "learned" and n_atoms > LARGEST_LEARNED:
                continue
            atoms = dictionary(kind, n_atoms, X)
            for multiple in arguments.alpha:
                line = measure(test, atoms, multiple * auto, arguments)
                rates_of.setdefault((kind, multiple), []).append((n_atoms, line["ours"][1]))
                print(
                    f"{kind:>10} {n_atoms:5d} {multiple:6.3g} {line['l0']:6.1f} "
                    + " ".join(f"{r:9,.0f}" for r in line["ours"])
                    + f" {line['gap']:10.1e} {line['lars']:7,.0f} {line['cd']:7,.0f} "
                    f"{line['ratio']:6.1f} {line.get('spams', np.nan):7,.0f}        "
                    f"{line['omp']:7,.0f} {line['sklearn omp']:7,.0f} "
                    f"{line['omp'] / line['sklearn omp']:6.1f} "
                    f"{line.get('spams omp', np.nan):7,.0f}",
                    flush=True,
                )
    print("\nTime of a sample at gap 1e-4 goes as atoms to the power of")
    for (kind, multiple), points in rates_of.items():
        if len(points) > 1:
            n, r = np.log(np.array(points, dtype=float)).T
            print(f"{kind:>10}, alpha {multiple:g}: {-np.polyfit(n, r, 1)[0]:.2f}")


def measure(X, atoms, alpha, arguments):
    """Rates of all solvers on one problem."""
    k = arguments.k
    few = X[:: max(1, len(X) // 64)][:64]
    lars, cd = (
        sklearns(atoms, algorithm=name, alpha=alpha, positive=True)
        for name in ("lasso_lars", "lasso_cd")
    )
    omp = sklearns(atoms, algorithm="omp", n_nonzero_coefs=k)
    theirs = {"lars": lars, "cd": cd, "sklearn omp": omp}
    if spams is not None:
        theirs |= spams_rates(atoms, alpha, k)
    found = {name: [] for name in theirs} | {"omp": []}
    ours = [[] for _ in GAPS]
    sizes = {}
    for name, encode in theirs.items():
        rate(encode, few[:2])  # starts the processes
        seconds = arguments.sklearn_seconds
        sizes[name] = int(np.clip(seconds * rate(encode, few[:16]), 16, len(X)))
    for _ in range(arguments.repeat):
        for name, encode in theirs.items():
            found[name].append(rate(encode, X[: sizes[name]]))
        for rates, gap in zip(ours, GAPS, strict=True):
            options = {"alpha": alpha, "tol": gap, "sparse_output": True}
            sparse_encode(X[:256], atoms, **options)  # compiles
            rates.append(rate(lambda x: sparse_encode(x, atoms, **options), X))  # noqa: B023
        options = {"algorithm": "omp", "n_nonzero_coefs": k, "positive": False}
        sparse_encode(X[:256], atoms, sparse_output=True, **options)
        found["omp"].append(rate(lambda x: sparse_encode(x, atoms, **options), X))  # noqa: B023
    codes, gaps = sparse_encode(X, atoms, alpha=alpha, return_gap=True, sparse_output=True)
    medians = {name: float(np.median(rates)) for name, rates in found.items()}
    ratios = np.array(ours[1]) / np.maximum(found["lars"], found["cd"])
    return medians | {
        "ours": [float(np.median(rates)) for rates in ours],
        "ratio": float(np.median(ratios)),
        "gap": gaps.max(),
        "l0": codes.nnz / len(X),
    }


if __name__ == "__main__":
    main()
