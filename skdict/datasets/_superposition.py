"""More sparse features than dimensions, with the truth known."""

from numbers import Integral, Real

import numpy as np
from scipy import sparse
from scipy.special import ndtr, ndtri
from sklearn.preprocessing import normalize

from ..utils._random import check_random_state
from ..utils._sklearn_compat import Interval, align_sparse_interface, validate_params

_ENTRIES_PER_CHUNK = 2**22  # bounds the memory that dense temporaries take


@validate_params(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "n_features": [Interval(Integral, 1, None, closed="left")],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "l0": [Interval(Real, 0, None, closed="neither")],
        "zipf_exponent": [Interval(Real, 0, None, closed="left")],
        "correlation": [Interval(Real, 0, 1, closed="left")],
        "group_size": [Interval(Integral, 1, None, closed="left")],
        "magnitude_std": [Interval(Real, 0, 3, closed="both")],
        "noise": [Interval(Real, 0, None, closed="left")],
        "sparse_output": ["boolean"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_superposition(
    n_samples=1000,
    n_features=64,
    n_components=256,
    *,
    l0=3.0,
    zipf_exponent=0.0,
    correlation=0.0,
    group_size=8,
    magnitude_std=0.5,
    noise=0.0,
    sparse_output=False,
    random_state=None,
):
    r"""Generate activations that hold many sparse features in few dimensions.

    Each activation is a sparse non-negative combination of the dictionary's atoms,

    .. math:: x_i = \sum_j z_{ij} D_j + \varepsilon_i, \qquad
              \varepsilon_i \sim \mathcal{N}(0, \mathrm{noise}^2 I),

    with atoms drawn uniformly from the unit sphere, as in the superposition hypothesis of
    "Toy Models of Superposition" (Elhage et al., 2022). A code entry is :math:`z_{ij} = a_{ij}
    m_{ij}`: the feature is on (:math:`a_{ij} = 1`) or off, and the magnitude :math:`m_{ij}`
    follows a Gamma distribution with mean 1.

    Feature j = 0, 1, ... is on with probability

    .. math:: p_j = \min(1, c \, (j + 1)^{-s}), \qquad \sum_j p_j = \mathrm{l0},

    where s is `zipf_exponent`, so features come in the order of their frequency. Within a
    group of `group_size` consecutive features, they are on together more often than chance has
    it: :math:`a_{ij} = 1` where :math:`\sqrt{\rho} \, g_{i,\mathrm{group}(j)} + \sqrt{1 -
    \rho} \, e_{ij} < \Phi^{-1}(p_j)`, with independent standard normal g and e (a Gaussian
    copula with `correlation` :math:`\rho`), which leaves every :math:`p_j` as it is.
    Magnitudes are independent of everything else.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of activations.
    n_features : int, default=64
        Number of dimensions of an activation.
    n_components : int, default=256
        Number of atoms in the dictionary.
    l0 : float, default=3.0
        Expected number of non-zero entries in a row of the code, at most `n_components`.
    zipf_exponent : float, default=0.0
        How fast frequencies fall with the rank of the feature. 0 makes all equally frequent,
        1 gives Zipf's law.
    correlation : float, default=0.0
        Correlation, in [0, 1), of the normal variables that turn the features of one group on.
        0 makes all features independent.
    group_size : int, default=8
        Number of consecutive features in a group; the last group may be smaller. Without
        effect if `correlation` is 0.
    magnitude_std : float, default=0.5
        Standard deviation, in [0, 3], of the magnitude of a feature that is on, whose mean is
        1. 0 makes all magnitudes 1, and 1 makes them exponential.
    noise : float, default=0.0
        Standard deviation of the Gaussian noise in each dimension.
    sparse_output : bool, default=False
        Whether the code comes as a CSR matrix and not as a dense array.
    random_state : int, RandomState instance or None, default=None
        Determines the dictionary, the code and the noise. Pass an int for the same data at
        each call.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features), dtype float64
        The activations.
    dictionary : ndarray of shape (n_components, n_features), dtype float64
        The atoms, rows of Euclidean norm 1.
    code : ndarray or CSR matrix of shape (n_samples, n_components), dtype float64
        The true code: ``X = code @ dictionary`` up to the noise.

    Raises
    ------
    ValueError
        If a parameter is outside its range, or `l0` is larger than `n_components`.

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.datasets import make_superposition
    >>> X, dictionary, code = make_superposition(n_samples=10_000, l0=3, random_state=0)
    >>> X.shape, dictionary.shape, code.shape
    ((10000, 64), (256, 64), (10000, 256))
    >>> np.allclose(X, code @ dictionary)
    True
    >>> print(f"{np.count_nonzero(code) / len(code):.1f} features on per activation")
    3.0 features on per activation
    """
    if l0 > n_components:
        raise ValueError(
            f"l0={l0} asks for more non-zero entries per sample than n_components="
            f"{n_components}. Lower l0 or raise n_components."
        )
    rng = check_random_state(random_state)
    dictionary = normalize(rng.standard_normal((n_components, n_features)))
    frequency = _frequencies(n_components, l0, zipf_exponent)
    threshold = ndtri(frequency)
    group = np.arange(n_components) // group_size
    variance = float(magnitude_std) ** 2

    chunks = []
    n_rows = max(1, _ENTRIES_PER_CHUNK // n_components)
    for start in range(0, n_samples, n_rows):
        shape = (min(n_rows, n_samples - start), n_components)
        probability = frequency
        if correlation > 0:  # given the variable that the group shares
            shared = rng.standard_normal((shape[0], group[-1] + 1))[:, group]
            probability = ndtr(
                (threshold - np.sqrt(correlation) * shared) / np.sqrt(1 - correlation)
            )
        chunk = sparse.csr_array(rng.random_sample(shape) < probability, dtype=np.float64)
        if variance > 0:
            chunk.data = rng.gamma(1 / variance, variance, size=chunk.nnz)
        chunks.append(chunk)
    code = sparse.vstack(chunks, format="csr")
    X = code @ dictionary
    if noise > 0:
        X += noise * rng.standard_normal(X.shape)
    return X, dictionary, align_sparse_interface(code) if sparse_output else code.toarray()


def _frequencies(n_components, l0, zipf_exponent):
    """Solve sum_j min(1, c (j + 1)^-s) = l0 for c, and return the summands."""
    rank = np.arange(1, n_components + 1)
    for n_capped in range(n_components):  # the first ones are those that reach 1
        relative = (rank[n_capped] / rank[n_capped:]) ** float(zipf_exponent)
        first = (l0 - n_capped) / relative.sum()
        if first <= 1:
            break
    return np.append(np.ones(n_capped), min(1.0, first) * relative)
