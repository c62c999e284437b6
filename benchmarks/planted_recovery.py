"""Recovery of a planted dictionary: the sparse autoencoder beside scikit-learn, in the same time.

    python benchmarks/planted_recovery.py

Fits `SparseAutoencoderDictionary` with its defaults on `make_superposition`, then scikit-learn's
`MiniBatchDictionaryLearning` (non-negative codes, the same alpha, float64, scaled data) for the
same wall time, from its own initial atoms and from samples, with two batch sizes, and once for
four times as long. All in one process; prints mean max cosine (of each true atom to its best
learned one) and the mean cosine of a one-to-one matching.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.metrics import dictionary_recovery, mean_max_cosine


def learn_for(seconds, X, alpha, n_components, batch_size, exemplars, seed):
    """MiniBatchDictionaryLearning by partial_fit on reshuffled passes, until the time is over."""
    random = np.random.default_rng(seed)
    learner = MiniBatchDictionaryLearning(
        n_components,
        alpha=alpha,
        fit_algorithm="cd",
        positive_code=True,
        dict_init=X[random.choice(len(X), n_components, replace=False)] if exemplars else None,
        random_state=seed,
    )
    if exemplars:
        learner.dict_init /= np.linalg.norm(learner.dict_init, axis=1, keepdims=True)
    n_seen, start = 0, time.perf_counter()
    while True:
        for batch in np.split(random.permutation(len(X)), range(batch_size, len(X), batch_size)):
            if time.perf_counter() - start > seconds:
                return learner.components_, n_seen
            learner.partial_fit(X[batch])
            n_seen += len(batch)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-samples", type=int, default=100_000)
    parser.add_argument("--n-features", type=int, default=64)
    parser.add_argument("--n-components", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()

    # The Lasso problems of the first, random atoms end above scikit-learn's tolerance.
    warnings.filterwarnings("ignore", category=ConvergenceWarning)

    def row(name, atoms, seconds, n_seen):
        print(
            f"  {name:54} {seconds:7.1f} {n_seen:12,} {mean_max_cosine(atoms, truth):8.4f} "
            f"{dictionary_recovery(atoms, truth):10.4f}",
            flush=True,
        )

    for seed in arguments.seeds:
        X, truth, code = make_superposition(
            arguments.n_samples, arguments.n_features, arguments.n_components, random_state=seed
        )
        X = X.astype(np.float32)  # as activations are
        print(f"seed {seed}: {X.shape[0]:,} samples, L0 {(code > 0).sum(axis=1).mean():.2f}")
        print(f"  {'':54} {'seconds':>7} {'samples seen':>12} {'max cos.':>8} {'one-to-one':>10}")
        sae = SparseAutoencoderDictionary(arguments.n_components, random_state=seed)
        start = time.perf_counter()
        sae.fit(X)
        seconds = time.perf_counter() - start
        row("SparseAutoencoderDictionary()", sae.components_, seconds, sae.n_iter_ * len(X))
        rms = np.sqrt(np.square(X - X.mean(axis=0)).sum(axis=1).mean())
        scale = rms / np.sqrt(X.shape[1])
        Z = (X.astype(np.float64) - X.mean(axis=0)) / scale
        for factor, batch_size, exemplars in (
            (1, 256, False),
            (1, 256, True),
            (1, 1024, False),
            (1, 1024, True),
            (4, 256, True),
        ):
            atoms, n_seen = learn_for(
                factor * seconds,
                Z,
                sae.alpha_ / scale,
                arguments.n_components,
                batch_size,
                exemplars,
                seed,
            )
            start_atoms = "samples" if exemplars else "its own"
            row(
                f"sklearn, batches of {batch_size}, initial atoms: {start_atoms}",
                atoms,
                factor * seconds,
                n_seen,
            )


if __name__ == "__main__":
    main()
