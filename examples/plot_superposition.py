"""
Choosing alpha where the truth is known
=======================================

A network that has more features to represent than it has dimensions can store them as
directions that are almost orthogonal, as long as few features are active at a time. This is
superposition, and a dictionary is the way back: its atoms should be the directions, its codes
the features.

Here the features are planted, so that what a dictionary finds can be compared with what is
there. The question is which L1 coefficient ``alpha`` to use, and whether it can be chosen
without knowing the truth.
"""

# %%
# Planted features
# ----------------
# Each activation of 32 dimensions is the sum of 2 of 64 features on average, and some noise.

from skdict.datasets import make_superposition

X, dictionary, code = make_superposition(
    n_samples=6000, n_features=32, n_components=64, l0=2, noise=0.05, random_state=0
)
print(f"{(code != 0).sum(axis=1).mean():.2f} features are active per activation")

# %%
# A grid over alpha
# -----------------
# :func:`~skdict.decomposition.alpha_grid` spans the values worth trying on data of this scale.
# A quarter of the activations is held out, and each candidate is scored on it: by its own
# ``score``, by explained variance and L0, and, since the true dictionary is known here, by
# how well the atoms match it.

from sklearn.model_selection import GridSearchCV, ShuffleSplit

from skdict.decomposition import SparseAutoencoderDictionary, alpha_grid
from skdict.metrics import DictionaryScorer, dictionary_recovery


def scoring(estimator, X, y=None):
    scores = DictionaryScorer(("score", "explained_variance", "l0"))(estimator, X)
    return scores | {"recovery": dictionary_recovery(estimator.components_, dictionary)}


alphas = alpha_grid(X)
held_out = ShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
sae = SparseAutoencoderDictionary(64, max_iter=40, batch_size=256, random_state=0)
search = GridSearchCV(sae, {"alpha": alphas}, scoring=scoring, refit="score", cv=held_out)
search.fit(X)
print(f"alpha with the best score: {search.best_params_['alpha']:.3f}")

# %%
# The score peaks where the truth is found
# ----------------------------------------
# Explained variance falls as ``alpha`` grows and so has nothing to say about it but "less".
# The score is the held-out log-likelihood: a dense code costs more nats than its smaller
# residual saves, and an empty code leaves everything in the residual. In between it has a
# maximum, and there the atoms are closest to the true ones. The encoder has more than twice
# as many features active as were planted, though: it looks at each feature by itself, and
# turns on some that only resemble the true ones.

import matplotlib.pyplot as plt

results = search.cv_results_
panels = {
    "score": "Score (nats per activation)",
    "explained_variance": "Explained variance (fraction)",
    "l0": "L0 (active features per activation)",
    "recovery": "Recovery (mean cosine to the true atoms)",
}
figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, layout="constrained")
for ax, (metric, label) in zip(axes.flat, panels.items(), strict=True):
    ax.plot(alphas, results[f"mean_test_{metric}"], "o-", color="#0072B2")
    ax.axvline(search.best_params_["alpha"], color="0.5", linestyle="--", label="best score")
    ax.set(xscale="log", title=label)
    ax.grid(alpha=0.3)
axes[1, 0].axhline(2, color="#D55E00", linestyle=":", label="planted")
axes[1, 0].set_yscale("log")
axes[1, 0].legend()
for ax in axes[1]:
    ax.set_xlabel("alpha")
plt.show()

# %%
# The same objective, other solvers
# ---------------------------------
# ``solver`` and ``transform_algorithm`` are parameters like any other, and ``alpha`` means the
# same to all of them. Compared with the autoencoder are: its own codes replaced by those of
# the Lasso on the atoms that it has learned; scikit-learn's online dictionary learning, given
# two passes, for its passes are slow; and atoms that are not learned at all but drawn from the
# data. The values of ``alpha`` are those of the first search without its extremes.

import warnings

from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skdict.metrics import ParetoDisplay

# The Lasso of a few activations does not reach scikit-learn's tolerance on untrained atoms.
warnings.filterwarnings("ignore", category=ConvergenceWarning)

candidates = {
    "Autoencoder, Lasso codes": {"transform_algorithm": "lasso"},
    "Dictionary learning": {"solver": "dictionary_learning", "max_iter": 2},
    "Exemplars": {"solver": "lasso"},
}
cv_results = {"Autoencoder": search.cv_results_}
for name, parameters in candidates.items():
    estimator = clone(sae).set_params(**parameters)
    grid = {"alpha": alphas[2:7]}
    other = GridSearchCV(estimator, grid, scoring=scoring, refit=False, cv=held_out).fit(X)
    cv_results[name] = other.cv_results_

print(f"{'':26}{'alpha':>8}{'score':>8}{'L0':>8}{'recovery':>10}{'fit (s)':>9}")
for name, results in cv_results.items():
    best = results["mean_test_score"].argmax()
    row = [results[f"mean_test_{metric}"][best] for metric in ("score", "l0", "recovery")]
    print(
        f"{name:26}{results['param_alpha'][best]:8.3f}{row[0]:8.1f}{row[1]:8.2f}{row[2]:10.3f}"
        f"{results['mean_fit_time'][best]:9.1f}"
    )

# %%
# On the left, a better dictionary lies higher or further to the left: it explains more with
# fewer active features. The encoder finds a code with one matrix product, and pays for it: the
# Lasso on the same atoms explains more with fewer features. With codes from the Lasso, atoms
# that were learned explain far more than exemplars, whoever learned them. On the right, the
# score of all of them on one scale: it is best at the same ``alpha`` wherever atoms are
# learned.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
lines = ParetoDisplay.from_cv_results(cv_results, ax=left).lines_
for name, results in cv_results.items():
    style = {"color": lines[name].get_color(), "marker": lines[name].get_marker()}
    right.plot(results["param_alpha"], results["mean_test_score"], label=name, **style)
right.set(xscale="log", xlabel="alpha", ylabel="Score (nats per activation)")
right.grid(alpha=0.3)
plt.show()
