"""Codes in a dictionary that is given."""

import math
from numbers import Integral, Real

import torch
from sklearn.exceptions import ConvergenceWarning

from .._core.coding import CODERS
from .._core.data.source import Source
from .._core.device import resolve_device
from .._core.kernels.cpu.threads import threads_for, work_of_product
from .._core.torch_state import plain_torch
from ..utils._arrays import check_activations, collect_dense, collect_sparse
from ..utils._sklearn_compat import Interval, StrOptions, validate_params
from ..utils._warnings import warn


@validate_params(
    {
        "algorithm": [StrOptions(CODERS.keys())],
        "alpha": [Interval(Real, 0, None, closed="left"), None],
        "n_nonzero_coefs": [Interval(Integral, 1, None, closed="left"), None],
        "positive": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "sparse_output": ["boolean"],
        "return_gap": ["boolean"],
        "device": [str],
    },
    prefer_skip_nested_validation=True,
)
@plain_torch()
def sparse_encode(
    X,
    dictionary,
    *,
    algorithm="lasso",
    alpha=None,
    n_nonzero_coefs=None,
    positive=True,
    tol=1e-4,
    max_iter=1000,
    init=None,
    sparse_output=False,
    return_gap=False,
    device="auto",
):
    r"""Sparse codes of activations in a given dictionary.

    As :func:`sklearn.decomposition.sparse_encode`, some five to a hundred times faster, on many
    samples at a time, with non-negative codes by default and with a certificate.

    Parameters
    ----------
    X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        Activations; an intercept, if there is one, already subtracted.
    dictionary : array-like or torch.Tensor of shape (n_components, n_features)
        Atoms, of any norm.
    algorithm : {"lasso", "omp", "threshold"}, default="lasso"
        - "lasso": the codes that minimise :math:`\tfrac12 \lVert x - z D \rVert_2^2 + \alpha
          \lVert z \rVert_1`, by a working set for each sample: the atoms that violate optimality
          most enter it, and its problem is solved exactly [1]_.
        - "omp": orthogonal matching pursuit [2]_.
        - "threshold": :math:`z = \max(0, D x - \alpha)`, the Lasso codes if atoms were
          orthonormal; :math:`\operatorname{sign}(D x) \max(0, |D x| - \alpha)` if signed.
    alpha : float, default=None
        L1 coefficient of "lasso" and "threshold"; None takes 1, as scikit-learn does. With "omp"
        the squared norm of the residual at which to end, where ``n_nonzero_coefs`` is None.
    n_nonzero_coefs : int, default=None
        Non-zero entries of a code of "omp", at most; None takes a tenth of the columns.
    positive : bool, default=True
        Whether codes must not be negative.
    tol : float, default=1e-4
        Duality gap of every sample, as a fraction of its objective, at which "lasso" ends: no
        codes have an objective lower by more.
    max_iter : int, default=1000
        How often atoms may enter the working set of a sample.
    init : ndarray, CSR matrix or torch.Tensor of shape (n_samples, n_components), default=None
        Codes from which "lasso" starts.
    sparse_output : bool, default=False
        Whether to return a CSR matrix (a sparse CSR tensor for tensors).
    return_gap : bool, default=False
        Whether to return the certificate as well. Only with "lasso".
    device : str, default="auto"
        Where to compute: a device name of torch, or "auto": where X is, if that is a tensor, else
        CUDA if there is one, else the CPU.

    Returns
    -------
    codes : ndarray, CSR matrix or tensor of shape (n_samples, n_components)
        Float32 if X and dictionary are in single or half precision, else float64. A tensor is on
        the device of X.
    gap : ndarray of shape (n_samples,), float64
        Only with ``return_gap=True``. The duality gap

        .. math::

            1 - \frac1{P(z)} \max_s \left( s\, x \cdot r - \tfrac{s^2}2 \lVert r \rVert^2 \right),
            \qquad r = x - z D, \quad 0 \le s \le \alpha / \max_j D_j \cdot r

        (:math:`|D_j \cdot r|` if signed) of the codes as they are returned, in float64: at most
        1, or NaN where the norms of the atoms are too far apart for numbers in this precision.

    Raises
    ------
    ValueError
        If a parameter is out of range, X and dictionary differ in their number of columns, or
        codes of "omp" or "threshold" are too large for their dtype.

    Warns
    -----
    ConvergenceWarning
        If the gap of some samples stays above ``tol``. In float32 the rounding of the codes
        limits it to some 1e-5 where alpha is small. Where alpha is less than 1e-8 of a sample's
        largest correlation with an atom (1e-6 in float32) the codes are those of that alpha, and
        the gap, which is that of the alpha given, is large: 1 with ``alpha=0``, where no dual
        point bounds the objective.

    See Also
    --------
    sklearn.decomposition.sparse_encode : The same problems, one sample after the other.

    References
    ----------
    .. [1] Massias, Gramfort and Salmon, "Celer: a fast solver for the Lasso with dual
       extrapolation", ICML 2018, for working sets and the certificate; Lee et al., "Efficient
       sparse coding algorithms", NIPS 2006, for exact solutions at the support.
    .. [2] Pati, Rezaiifar and Krishnaprasad, "Orthogonal matching pursuit", Asilomar 1993.

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.decomposition import sparse_encode
    >>> X = np.array([[3.0, 1.0], [0.0, -2.0]])
    >>> sparse_encode(X, np.eye(2), alpha=0.5)
    array([[2.5, 0.5],
           [0. , 0. ]])
    >>> codes, gap = sparse_encode(X, np.eye(2), alpha=0.5, positive=False, return_gap=True)
    >>> codes
    array([[ 2.5,  0.5],
           [ 0. , -1.5]])
    >>> bool((gap < 1e-4).all())
    True
    """
    for given, name in ((return_gap, "return_gap"), (init is not None, "init")):
        if given and algorithm != "lasso":
            raise ValueError(f"{name} is for algorithm='lasso', but algorithm={algorithm!r}.")
    rows, atoms = _read_both(X, dictionary, device)
    n_components = len(atoms)
    code = CODERS[algorithm](
        atoms,
        alpha=alpha,
        n_nonzero_coefs=n_nonzero_coefs,
        positive=positive,
        tol=tol,
        max_iter=max_iter,
    )
    init = None if init is None else _read_start(init, rows, n_components)
    gaps = []

    def coded():
        for block, x in rows.blocks(n_components):
            codes = code(x) if init is None else code(x, init[block])
            gaps.append(codes.gaps)
            yield block, codes

    n_rows = min(len(rows), rows.block_size(n_components))
    work = work_of_product(n_rows, rows.shape[1], n_components)
    with threads_for(work, math.ceil(len(rows) / n_rows)):
        collect = collect_sparse if sparse_output else collect_dense
        codes = collect(coded(), len(rows), n_components, rows)
    if algorithm != "lasso":
        return codes
    warn_of_gaps(gaps, tol)
    return (codes, torch.cat(gaps).cpu().numpy()) if return_gap else codes


def _read_both(X, dictionary, device):
    """X as a source, and the atoms (n_components, n_features), in one dtype on one device."""
    X = check_activations(None, X, check_finite=False)
    dictionary = check_activations(None, dictionary, name="dictionary")
    if X.shape[1] != dictionary.shape[1]:
        raise ValueError(
            f"X has {X.shape[1]} features, but the atoms of the dictionary have "
            f"{dictionary.shape[1]}. Give both in the same space: X of shape (n_samples, "
            "n_features), dictionary of shape (n_components, n_features)."
        )
    if device != "auto" or not isinstance(X, torch.Tensor):
        device = resolve_device(device)
    else:
        device = X.device
    rows, atoms = Source(X, device), Source(dictionary, device)
    rows.dtype = atoms.dtype = torch.promote_types(rows.dtype, atoms.dtype)
    return rows, atoms[:]


def _read_start(init, rows, n_components):
    """Codes to start from, as a source that goes along with the rows."""
    init = Source(check_activations(None, init, name="init"), rows.device)
    if init.shape != (len(rows), n_components):
        raise ValueError(
            f"init has shape {init.shape}, but (n_samples, n_components) is "
            f"{(len(rows), n_components)}."
        )
    init.dtype = rows.dtype
    return init


def warn_of_gaps(gaps, tol):
    """Warn where the duality gap of some samples has stayed above ``tol``, or is not known.

    Parameters
    ----------
    gaps : list of tensors of shape (n,)
        Of all blocks of a call, which gives one warning.
    """
    gaps = torch.cat(gaps) if gaps else torch.zeros(0, dtype=torch.float64, device="cpu")
    if not (gaps <= tol).all():
        n_above = int((~(gaps <= tol)).sum())
        known = gaps[~gaps.isnan()]
        size = f"at most {float(known.max()):.1e} of the objective" if len(known) else "unknown"
        if 0 < len(known) < len(gaps):
            size += f", {len(gaps) - len(known)} unknown"
        warn(
            f"The Lasso codes of {n_above} of {len(gaps)} samples have a duality gap above "
            f"tol={tol:g} ({size}). Use float64 and atoms of similar norms, raise alpha, tol or "
            "max_iter.",
            ConvergenceWarning,
        )
