"""How fast should online dictionary learning forget? ``solver="alternating"`` and scikit-learn's.

    python benchmarks/forgetting.py [--passes 1 4 16]

The weight of the s-th of t samples is proportional to (s / t)^(ρ - 1). "all alike" is ρ = 1
without replacing redundant atoms, about the rule of scikit-learn and of this package before; "a to
b" falls from a to b over the steps. Objective, explained variance and L0 are of held-out rows,
cosine is the mean over true atoms that are matched one to one. Data: `make_superposition` (64
columns, 256 atoms, 20,000 rows), the compositional test of compositional.py (100 latents, 2,500
rows, 20 times the passes), and the embedded model's 512 neurons (40,000 tokens, 1,024 atoms). The
last rows are `sklearn.decomposition.MiniBatchDictionaryLearning` on the compositional test, as it
is and with ρ = 64. Seconds are of the processor.
"""

import argparse
import time
import warnings

import numpy as np
from activations import collect_splits, load_extractor
from compositional import make_data as make_compositional
from compositional import matched
from sklearn.decomposition import MiniBatchDictionaryLearning

from skdict import SparseAutoencoderDictionary
from skdict._core.solvers import alternating, online
from skdict.datasets import make_superposition
from skdict.metrics import explained_variance, mean_l0

RULES = {
    "all alike": (1, 1),
    "8": (8, 8),
    "16": (16, 16),
    "64": (64, 64),
    "64 to 4": (64, 4),
}


def data_sets():
    """Yield name, X, held-out X, true atoms or None, parameters, factor of passes."""
    X, atoms, _ = make_superposition(25_000, 64, 256, random_state=0)
    yield "planted", X[:20_000], X[20_000:], atoms, {}, 1
    atoms, X, _, unseen = make_compositional(100, 5000, 0)
    options = {"alpha": 0.02, "batch_size": 256, "fit_intercept": False, "dict_init": "random"}
    yield "compositional", X, unseen, atoms, options, 20
    train, test = collect_splits(load_extractor()[1], 40_000, 10_000)
    yield "embedded model", train, test, None, {"n_components": 1024}, 1


def fit(X, held_out, atoms, options, passes):
    options = {"n_components": 256 if atoms is None else len(atoms)} | options
    estimator = SparseAutoencoderDictionary(
        solver="alternating", max_iter=passes, early_stopping=False, random_state=0, **options
    )
    start = time.process_time()
    estimator.fit(X)
    seconds = time.process_time() - start
    codes = estimator.transform(held_out)
    decoded = estimator.inverse_transform(codes)
    objective = ((held_out - decoded) ** 2).sum(axis=1).mean() / 2
    objective += estimator.alpha_ * codes.sum(axis=1).mean()
    explained = explained_variance(held_out, decoded)
    line = f"objective {objective:.4f}  EV {explained:.3f}  L0 {mean_l0(codes):5.1f}"
    return line + cosine(atoms, estimator.components_) + f"  {seconds:5.1f} s"


def cosine(atoms, found):
    return "" if atoms is None else f"  cosine {matched(atoms @ found.T).mean():.4f}"


class Forgetful(MiniBatchDictionaryLearning):
    """scikit-learn's, with another rule for the sums of former batches."""

    forgetting = 64

    def _update_inner_stats(self, X, code, batch_size, step):
        keep = (step / (step + 1)) ** self.forgetting
        for sums, new in ((self._A, code.T @ code), (self._B, X.T @ code)):
            sums *= keep
            sums += (1 - keep) / batch_size * new


def of_sklearn(kind, X, atoms, passes):
    random = np.random.default_rng(1).standard_normal(atoms.shape)  # 0 would be the true atoms
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    learner = kind(
        len(atoms),
        alpha=0.1,
        max_iter=passes,
        batch_size=256,
        fit_algorithm="cd",
        positive_code=True,
        dict_init=random,
        max_no_improvement=None,
        tol=0,
        random_state=0,
    )
    start = time.process_time()
    learner.fit(X.astype(np.float64))
    return cosine(atoms, learner.components_) + f"  {time.process_time() - start:5.1f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument(
        "--data", nargs="+", default=["planted", "compositional", "embedded model"]
    )
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    redundant = online.REDUNDANT
    for name, X, held_out, atoms, options, factor in data_sets():
        for passes in args.passes if name in args.data else ():
            for rule, limits in RULES.items():
                alternating.FIRST_FORGETTING, alternating.LAST_FORGETTING = limits
                online.REDUNDANT = 0.0 if rule == "all alike" else redundant
                line = fit(X, held_out, atoms, options, passes * factor)
                print(f"{name:15} {passes * factor:3} passes  {rule:10} {line}", flush=True)
    atoms, X, _, _ = make_compositional(100, 5000, 0)
    for kind in (MiniBatchDictionaryLearning, Forgetful):
        print(f"{kind.__name__:38}", of_sklearn(kind, X, atoms, 80), flush=True)


if __name__ == "__main__":
    main()
