"""solver="alternating" beside scikit-learn's MiniBatchDictionaryLearning.

    python benchmarks/dictionary_learning.py
    python benchmarks/dictionary_learning.py --large

The first: 1,024 atoms for the 512 MLP neurons of the embedded transformer (float32 here, float64
there), centred, non-negative codes, the same alpha ("auto") and the same initial atoms;
scikit-learn in one pass over the training samples with its defaults (batches of 256) and
coordinate descent on two cores. Then skdict's steps, with batches of each size, on the training
samples in random order until the objective on held-out files is no larger than scikit-learn's
after its run; both objectives are those of Lasso codes with a duality gap of at most 1e-4. Then,
on planted data, how well both recover the true atoms. The second fits 4,096 atoms to 200,000
activations, with ``max_iter`` passes.
"""

import argparse
import itertools
import resource
import time
import warnings

import numpy as np
import sklearn
import torch
from activations import auto_alpha, collect_splits, load_extractor
from sklearn.decomposition import MiniBatchDictionaryLearning

from skdict._core.data.shuffle import permuted_batches
from skdict._core.solvers.alternating import LAST_FORGETTING
from skdict._core.solvers.online import OnlineDictionaryLearning
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary, sparse_encode
from skdict.metrics import dictionary_recovery


def objective(X, atoms, intercept, alpha):
    """Mean Lasso objective of X (n_samples, n_features), and L0."""
    codes = sparse_encode(X - intercept, atoms.astype(X.dtype), alpha=alpha)
    residual = X - intercept - codes @ atoms
    l0 = np.count_nonzero(codes) / len(X)
    return float(np.mean(0.5 * (residual**2).sum(axis=1) + alpha * codes.sum(axis=1))), l0


def sklearns(X, atoms, alpha):
    learner = MiniBatchDictionaryLearning(
        len(atoms),
        alpha=alpha,
        max_iter=1,
        fit_algorithm="cd",
        positive_code=True,
        dict_init=atoms.astype(np.float64),
        tol=0.0,
        max_no_improvement=None,
        n_jobs=2,
        random_state=0,
    )
    start = time.perf_counter()
    learner.fit(X.astype(np.float64))
    seconds = time.perf_counter() - start
    return learner.components_ / np.linalg.norm(learner.components_, axis=1)[:, None], seconds


def beside_sklearn(arguments, X, test, alpha):
    rng = np.random.default_rng(0)
    atoms = X[rng.choice(len(X), arguments.n_components, replace=False)]
    atoms = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    start = objective(test, atoms, 0, alpha)
    print(f"{'initial atoms':44} {0:8.2f} s  objective {start[0]:.4f}, L0 {start[1]:.1f}")
    theirs, seconds = sklearns(X[: arguments.n_samples], atoms, alpha)
    goal = objective(test, theirs, 0, alpha)
    label = f"scikit-learn, {arguments.n_samples:,} samples"
    print(f"{label:44} {seconds:8.2f} s  objective {goal[0]:.4f}, L0 {goal[1]:.1f}", flush=True)
    x = torch.from_numpy(X)
    for batch_size, fit_intercept in itertools.product(arguments.batch_size, (False, True)):
        for seed in range(3):

            def steps(batch_size=batch_size, fit_intercept=fit_intercept, seed=seed):
                learner = OnlineDictionaryLearning(
                    torch.from_numpy(atoms),
                    torch.zeros(X.shape[1]),
                    torch.Generator().manual_seed(seed),
                    fit_intercept=fit_intercept,
                )
                for batch in permuted_batches(len(x), batch_size, learner.generator):
                    learner.step(x[batch], alpha, forgetting=LAST_FORGETTING)
                    yield learner

            # how many steps it takes, and then these steps again, by the clock
            for n_steps, learner in enumerate(steps(), start=1):  # noqa: B007
                reached, l0 = objective(
                    test, learner.dictionary.numpy(), learner.intercept.numpy(), alpha
                )
                if reached <= goal[0]:
                    break
            begin = time.perf_counter()
            for _ in itertools.islice(steps(), n_steps):
                pass
            spent = time.perf_counter() - begin
            label = f"batches of {batch_size:,}, {n_steps * batch_size:,} samples"
            label += ", intercept" if fit_intercept else ""
            print(
                f"{label:44} {spent:8.2f} s  objective {reached:.4f}, L0 {l0:.1f}: "
                f"1/{seconds / spent:.0f} of the time",
                flush=True,
            )


def planted():
    X, truth = make_superposition(20_000, 64, 256, l0=3.0, random_state=0)[:2]
    X = X.astype(np.float32)
    for solver in ("alternating", "dictionary_learning"):
        fit = SparseAutoencoderDictionary(256, solver=solver, max_iter=4, random_state=0)
        start = time.perf_counter()
        fit.fit(X)
        seconds = time.perf_counter() - start
        recovery = dictionary_recovery(fit.components_, truth)
        print(
            f"{solver:22} {seconds:8.2f} s  recovery of 256 planted atoms {recovery:.4f}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-components", type=int, default=1024)
    parser.add_argument("--n-samples", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--max-iter", type=int, default=2)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")

    _, extractor = load_extractor()
    train, test = collect_splits(extractor, 200_000, 40_000)
    rng = np.random.default_rng(0)
    mean = train.mean(axis=0)
    train = rng.permutation(train) - mean
    test = rng.permutation(test)[:4000] - mean
    alpha = auto_alpha(train)
    print(f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, alpha {alpha:.3f}")
    if not arguments.large:
        beside_sklearn(arguments, train, test, alpha)
        planted()
        return
    for solver in ("alternating", "autoencoder"):
        fit = SparseAutoencoderDictionary(
            4096, alpha=alpha, solver=solver, max_iter=arguments.max_iter, random_state=0
        )
        start = time.perf_counter()
        fit.fit(train)
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        result = objective(test, fit.components_, fit.intercept_, alpha)
        print(
            f"{solver}, 4,096 atoms, 200,000 samples, {arguments.max_iter} passes: "
            f"{seconds:.0f} s, peak {memory:.2f} GiB; objective of Lasso codes {result[0]:.4f}, "
            f"L0 {result[1]:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
