"""How much of what a dictionary could do its encoder loses."""

from numbers import Real

import numpy as np
import torch
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from .._core.data.source import Source
from .._core.device import resolve_device
from .._core.torch_state import plain_torch
from ..utils._arrays import check_activations
from ..utils._drawing import pair_of_axes
from ..utils._sklearn_compat import Interval, validate_params
from ._alpha import variation

CODERS = ("encoder", "lasso", "omp")
COLORS = {"encoder": "#0072B2", "lasso": "#D55E00", "omp": "#009E73"}


@validate_params(
    {"alpha": [Interval(Real, 0, None, closed="left"), None]}, prefer_skip_nested_validation=True
)
@plain_torch()
def amortisation_gap(estimator, X, *, alpha=None):
    r"""Codes of an encoder beside the best codes in the same dictionary, sample by sample.

    An encoder finds codes by one product with a matrix. Sparse coding finds them by optimisation,
    with the same atoms and intercept: the Lasso's have the least objective
    :math:`\tfrac12 \lVert x - b - z D \rVert_2^2 + \alpha \lVert z \rVert_1`, and those of
    matching pursuit, with as many non-zeros as the encoder's have on that sample,
    about the least error at equal sparsity. What is lost between these and the encoder's is the
    encoder's fault, what is left of the error is the dictionary's. All are non-negative where the
    encoder's are, and z are coefficients of unit atoms.

    Parameters
    ----------
    estimator : SparseAutoencoderDictionary
        Fitted, with an encoder.
    X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        Activations, preferably held out.
    alpha : float, default=None
        L1 coefficient of the Lasso and of the objective; None takes ``alpha_``.

    Returns
    -------
    result : `~sklearn.utils.Bunch`
        With the entries "encoder", "lasso" and "omp", each a Bunch of ndarrays of shape
        (n_samples,), float64: ``objective``, ``squared_error`` and ``l0`` of each sample; the
        float ``explained_variance``; for "lasso" also ``gap``, the bound on how far each objective
        is from the optimum, as a fraction of it. And ``alpha``.

    Raises
    ------
    ValueError
        If the estimator has no encoder, normalises rows or is a transcoder, X does not fit it or
        is constant, or alpha is negative or not known.

    See Also
    --------
    AmortisationGapDisplay : The same, drawn.
    sparse_encode : The codes of sparse coding.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary, amortisation_gap
    >>> X = make_superposition(n_samples=2000, n_features=16, n_components=32, random_state=0)[0]
    >>> sae = SparseAutoencoderDictionary(n_components=32, random_state=0).fit(X)
    >>> result = amortisation_gap(sae, X)
    >>> bool(result.lasso.objective.mean() < result.encoder.objective.mean())
    True
    >>> bool(result.omp.explained_variance > result.encoder.explained_variance)
    True
    """
    check_is_fitted(estimator)
    estimator = getattr(estimator, "best_estimator_", estimator)  # that of a search for alpha
    if not hasattr(estimator, "encoder_coef_"):
        raise ValueError(
            f"{type(estimator).__name__} has no encoder (solver={estimator.solver!r}): there is "
            "nothing to compare with sparse coding. Fit it with solver='autoencoder'."
        )
    X = check_activations(estimator, X, check_finite=False)
    rows = Source(X, resolve_device(estimator.device))
    alpha = estimator.alpha_ if alpha is None else alpha
    if alpha is None:
        raise ValueError(
            "The dictionary was loaded without an L1 coefficient. Give alpha=, or call its "
            "calibrate(X)."
        )
    alpha = float(alpha)
    if estimator.dictionary_.normalization is not None:
        raise ValueError(
            "The dictionary normalises each row, so that its codes and an L1 coefficient are in "
            "other units for each: there is no objective that the rows have in common."
        )
    dictionary = estimator.dictionary_.to(rows.dtype, rows.device)
    encode = dictionary.coder("encoder")
    positive = not dictionary.encoder.signed
    lasso = dictionary.coder("lasso", alpha=alpha, positive=positive)
    omp = dictionary.coder("omp", positive=positive)
    parts = {name: [] for name in CODERS}
    gaps = []
    for _, x in rows.blocks(len(dictionary.components)):
        codes = {"encoder": encode(x)}
        codes["lasso"] = lasso(x, codes["encoder"].dense())
        codes["omp"] = omp(x, codes["encoder"].counts)
        gaps.append(codes["lasso"].gaps)
        for name, z in codes.items():
            error = dictionary.residual(x, z).double().square().sum(dim=1)
            objective = 0.5 * error + alpha * dictionary.unit_codes(z).l1_norms()
            parts[name].append(torch.stack([objective, error, z.counts.double()]).cpu())
    total = len(rows) * variation(rows) ** 2
    result = Bunch(alpha=alpha)
    for name, blocks in parts.items():
        objective, error, l0 = torch.cat(blocks, dim=1).numpy()
        result[name] = Bunch(
            objective=objective,
            squared_error=error,
            l0=l0,
            explained_variance=1 - float(error.sum()) / total,
        )
    result.lasso.gap = torch.cat(gaps).cpu().numpy()
    return result


class AmortisationGapDisplay:
    """What an encoder loses against sparse coding in the same dictionary, drawn.

    On the left how much the encoder's objective exceeds the least one, a histogram over
    samples whose last bar holds all that are beyond the 99th percentile; on the right the
    variance explained by the encoder, by the Lasso and by matching pursuit at equal sparsity.
    It is recommended to use `from_estimator`.

    Parameters
    ----------
    result : `~sklearn.utils.Bunch`
        As `amortisation_gap` returns it.

    Attributes
    ----------
    axes_ : tuple of two matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    amortisation_gap : The numbers.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import AmortisationGapDisplay, SparseAutoencoderDictionary
    >>> X = make_superposition(n_samples=2000, n_features=16, n_components=32, random_state=0)[0]
    >>> sae = SparseAutoencoderDictionary(n_components=32, random_state=0).fit(X)
    >>> AmortisationGapDisplay.from_estimator(sae, X)
    <...AmortisationGapDisplay object at ...>
    """

    def __init__(self, result):
        self.result = result

    @classmethod
    def from_estimator(cls, estimator, X, *, alpha=None, axes=None):
        """Code X in all three ways and draw it.

        Parameters
        ----------
        estimator : SparseAutoencoderDictionary
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        alpha : float, default=None
            As for `amortisation_gap`.
        axes : sequence of two matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : AmortisationGapDisplay
        """
        return cls(amortisation_gap(estimator, X, alpha=alpha)).plot(axes=axes)

    def plot(self, *, axes=None):
        """Draw it.

        Parameters
        ----------
        axes : sequence of two matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : AmortisationGapDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `axes` are not two.
        """
        left, right = self.axes_ = tuple(pair_of_axes(self, axes, ncols=2, figsize=(9, 3.5)))
        self.figure_ = left.figure
        result = self.result
        positive = result.lasso.objective > 0
        excess = result.encoder.objective[positive] / result.lasso.objective[positive] - 1
        top = max(float(np.quantile(excess, 0.99)), 1e-6)
        left.hist(
            np.clip(excess, 0, top),
            bins=50,
            weights=np.full(len(excess), 1 / max(len(excess), 1)),
            color=COLORS["encoder"],
        )
        left.axvline(
            float(np.median(excess)) if len(excess) else 0.0,
            color="black",
            linestyle="--",
            label="median",
        )
        left.set(
            xlabel="encoder's objective over the least, minus 1",
            ylabel="fraction of samples",
        )
        left.legend()
        for i, name in enumerate(CODERS):
            coder = result[name]
            right.bar(i, coder.explained_variance, color=COLORS[name])
            right.annotate(
                f"{coder.explained_variance:.3f}\nL0 {coder.l0.mean():.1f}",
                (i, max(coder.explained_variance, 0)),
                ha="center",
                va="bottom",
            )
        right.set_xticks(range(len(CODERS)), ["encoder", "Lasso", "matching\npursuit"])
        right.set(ylabel="explained variance")
        right.margins(y=0.2)
        return self
