"""Dictionaries that nobody trained: the atoms that ``dict_init`` can name."""

import numpy as np
import torch
from sklearn.decomposition import PCA, FastICA, MiniBatchNMF

from .._core.data.standardised import Standardised
from .._core.optim import normalize_
from .._core.tensors import away_from

ATOMS = ("exemplars", "random", "pca", "ica", "nmf", "identity")
# Those that are directions: an atom for each of their two signs.
TWO_SIDED = ("pca", "ica", "identity")


# n_components="auto" wants so many samples for each atom (benchmarks/memorising.py), but takes no
# fewer atoms than the second; of either no more than four for each feature.
SAMPLES_PER_ATOM = 16
FEWEST = 16


def default_n_components(name, n_samples, n_features):
    """What n_components="auto" takes, with atoms of this name."""
    if name == "identity":
        return 2 * n_features
    if name in TWO_SIDED:
        return 2 * min(n_samples, n_features)
    if name == "nmf":
        return min(n_samples, n_features)
    most = min(4 * n_features, max(FEWEST, n_samples // SAMPLES_PER_ATOM))
    return most if name == "random" else min(most, n_samples)


def make_atoms(name, rows, mean, scale, n_components, *, max_iter, random_state):
    """Unit-norm atoms by name.

    Parameters
    ----------
    name : one of `ATOMS`
    rows : Source
        Activations. All but "exemplars", "random" and "identity" need them in memory.
    mean : tensor of shape (n_features,)
        Intercept: what exemplars are relative to.
    scale : float
        Brings the data to about E‖x‖² = n_features.
    n_components : int or "auto"
    max_iter : int
        Passes of "nmf".
    random_state : RandomState

    Returns
    -------
    atoms : tensor of shape (n_components, n_features), float64
    """
    data = Standardised(rows, mean, scale)
    n_samples, n_features = data.shape
    most = default_n_components(name, n_samples, n_features)
    if name == "ica":
        basis, projections = _principal_basis(data)
        most = 2 * len(basis)
    if n_components == "auto":
        n_components = most
    if name == "exemplars":
        return draw_exemplars(rows, mean, n_components, random_state)
    if name != "random" and n_components > most:
        raise ValueError(
            f"dict_init={name!r} gives at most {most} atoms of these {n_samples} samples with "
            f"{n_features} features, but n_components={n_components}. Use fewer, or "
            "n_components='auto'."
        )
    if name == "random":
        atoms = random_state.standard_normal((n_components, n_features))
    elif name == "nmf":
        atoms = _nmf(data, n_components, max_iter, random_state)
    else:
        n_directions = (n_components + 1) // 2
        if name == "identity":
            directions = np.eye(n_features)[:n_directions]
        elif name == "pca":
            pca = PCA(n_directions, random_state=random_state)
            directions = pca.fit(data[:].cpu().numpy()).components_
        else:
            directions = _ica(projections, n_directions, random_state) @ basis
        # +v_1, -v_1, +v_2, ...: codes are non-negative
        atoms = np.stack([directions, -directions], axis=1).reshape(-1, n_features)[:n_components]
    atoms = torch.from_numpy(np.array(atoms, dtype=np.float64))
    return normalize_(atoms)


def _principal_basis(data):
    """Directions in which the data vary at all (rank, n_features), and the data in them.

    A neuron that is dead, or the double of another, leaves a direction without variance, which
    would be all that is left of the data when each direction is divided by its variance.
    """
    X = data[:].cpu().double().numpy()
    X -= X.mean(axis=0)
    pca = PCA(svd_solver="full").fit(X)  # from the covariance, small values would be rounding
    sizes = pca.singular_values_
    basis = pca.components_[sizes > max(X.shape) * torch.finfo(data.dtype).eps * sizes[0]]
    return basis, X @ basis.T


def _ica(X, n_directions, random_state):
    """Directions along which independent sources act on the data: columns of the mixing matrix."""
    ica = FastICA(n_directions, whiten="unit-variance", random_state=random_state)
    # may warn, and is let to: the filters of warnings are not this thread's alone
    return ica.fit(X).mixing_.T


def _nmf(data, n_components, max_iter, random_state):
    X = data[:].cpu().numpy()  # not centred: there is no intercept
    if X.min() < 0:
        raise ValueError(
            "Negative values in data passed to SparseAutoencoderDictionary with dict_init='nmf', "
            "which is for activations that are not negative. Use 'pca' or 'ica' for others."
        )
    nmf = MiniBatchNMF(
        n_components, max_iter=max_iter, init="nndsvda", random_state=random_state, tol=0
    )
    return nmf.fit(X).components_


def draw_exemplars(rows, mean, n_components, random_state):
    """Unit-norm, centred samples drawn without replacement, as atoms.

    Parameters
    ----------
    rows : Source
    mean : tensor of shape (n_features,)
        Subtracted before scaling to unit norm; a sample equal to it, up to rounding, is never
        drawn.
    n_components : int
    random_state : RandomState

    Returns
    -------
    atoms : tensor of shape (n_components, n_features), float64
    """
    order = torch.from_numpy(random_state.permutation(len(rows)))
    atoms = []
    for chunk in order.split(n_components):
        x = rows[chunk]
        candidates = (x.double() - mean)[away_from(x, mean)]
        atoms.append(candidates / torch.linalg.vector_norm(candidates, dim=1, keepdim=True))
        if sum(map(len, atoms)) >= n_components:
            return torch.cat(atoms)[:n_components]
    found = sum(map(len, atoms))
    raise ValueError(
        f"n_components={n_components} exemplars asked for, but X has only {found} samples that "
        "differ from its mean. Use fewer components or more samples."
    )
