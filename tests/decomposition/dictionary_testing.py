"""What the tests of SparseAutoencoderDictionary share."""

import numpy as np
from sklearn.decomposition import MiniBatchDictionaryLearning

from skdict.decomposition import SparseAutoencoderDictionary

SOLVERS = ("autoencoder", "alternating", "dictionary_learning", "kmeans", "lasso")
LEARN_FROM_STREAMS = SOLVERS[:3]


# Parameters that would have no effect, which a fit warns of.
NOT_USED_BY = {
    "alternating": ("learning_rate_init",),
    "dictionary_learning": ("learning_rate_init",),
    "kmeans": ("batch_size", "learning_rate_init", "dict_init", "early_stopping"),
    "lasso": ("max_iter", "batch_size", "learning_rate_init", "early_stopping"),
}


def make_estimator(defaults=(), **params):
    """A small, quick estimator that does not depend on the defaults of the training loop.

    It has those of its defaults, and of others that are given, that its solver uses.
    """
    defaults = {
        "n_components": 32,
        "max_iter": 4,
        "batch_size": 100,
        "learning_rate_init": 3e-3,
        "early_stopping": False,
        "device": "cpu",
        "random_state": 0,
    } | dict(defaults)
    for name in NOT_USED_BY.get(params.get("solver"), ()):
        defaults.pop(name, None)
    return SparseAutoencoderDictionary(**(defaults | params))


def fitted_attributes(estimator):
    return {name for name in vars(estimator) if name.endswith("_")}


def objective(estimator, X, codes, alpha):
    """The objective of the class docstring, in numpy."""
    X, codes = np.asarray(X, dtype=np.float64), np.asarray(codes, dtype=np.float64)
    residual = X - estimator.intercept_ - codes @ estimator.components_
    return np.mean(0.5 * (residual**2).sum(axis=1) + alpha * np.abs(codes).sum(axis=1))


def debiased(estimator, X, codes):
    """Codes with magnitudes a step nearer to least squares, row by row, and what these leave."""
    X, codes = np.asarray(X, dtype=np.float64), np.array(codes, dtype=np.float64)
    residuals = []
    for x, z in zip(X, codes, strict=True):
        atoms, active = estimator.components_, z != 0
        residual = x - estimator.intercept_ - z @ atoms
        slope = np.where(active, atoms @ residual, 0)
        change = slope @ atoms
        if change.any():
            better = z + slope * (residual @ change) / (change @ change)
            better = np.where(better * z > 0, better, z)  # no entry changes its sign
            left = x - estimator.intercept_ - better @ atoms
            if left @ left < residual @ residual:
                z[:], residual = better, left
        residuals.append(residual)
    return codes, np.array(residuals)


def fit_sklearns(X, alpha, **params):
    """scikit-learn's own estimator as solver="dictionary_learning" should run it, with its atoms
    scaled to unit norm."""
    centred = X - X.mean(axis=0)
    scale = np.sqrt(np.mean(centred**2))
    learner = MiniBatchDictionaryLearning(
        32,
        alpha=alpha / scale,
        fit_algorithm="cd",
        positive_code=True,
        batch_size=100,
        tol=0.0,
        max_no_improvement=None,
        random_state=0,
        **params,
    ).fit(centred / scale)
    return learner, learner.components_ / np.linalg.norm(
        learner.components_, axis=1, keepdims=True
    )
