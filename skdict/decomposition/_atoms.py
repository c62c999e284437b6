"""Dictionaries that nobody trained: the atoms that ``dict_init`` can name."""

import numpy as np
import torch
from sklearn.decomposition import PCA, FastICA, MiniBatchNMF

from .._core.data.in_memory import all_in_memory
from .._core.data.permutation import Permutation
from .._core.data.reading import row_slices
from .._core.data.shuffle import MAX_PERMUTED
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
            directions = pca.fit(_in_memory(data, data.dtype, name)).components_
        else:
            directions = _ica(projections, n_directions, random_state) @ basis
        # +v_1, -v_1, +v_2, ...: codes are non-negative
        atoms = np.stack([directions, -directions], axis=1).reshape(-1, n_features)[:n_components]
    atoms = torch.from_numpy(np.array(atoms, dtype=np.float64))
    return normalize_(atoms)


def _in_memory(data, dtype, name, n_arrays=1):
    """All standardised rows, for atoms by name: an ndarray."""
    return all_in_memory(
        data.source,
        lambda x: data.standardise(x).cpu(),
        str(dtype).removeprefix("torch."),
        n_arrays=n_arrays,
        user=f"dict_init={name!r}",
        instead="use dict_init='exemplars' or 'random'",
    )


def _principal_basis(data):
    """Directions in which the data vary at all (rank, n_features), and the data in them.

    A neuron that is dead, or the double of another, leaves a direction without variance, which
    would be all that is left of the data when each direction is divided by its variance.
    """
    # a centred copy and left singular vectors besides
    X = _in_memory(data, torch.float64, "ica", n_arrays=3)
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
    X = _in_memory(data, data.dtype, "nmf")  # not centred: there is no intercept
    if X.min() < 0:
        raise ValueError(
            "Negative values in data passed to SparseAutoencoderDictionary with dict_init='nmf', "
            "which is for activations that are not negative. Use 'pca' or 'ica' for others."
        )
    nmf = MiniBatchNMF(
        n_components, max_iter=max_iter, init="nndsvda", random_state=random_state, tol=0
    )
    return nmf.fit(X).components_


def _random_order(rows, n_at_once, random_state):
    """Yield the numbers of all rows in random order, so many at once."""
    if len(rows) <= MAX_PERMUTED:
        yield from torch.from_numpy(random_state.permutation(len(rows))).split(n_at_once)
        return
    # the numbers of all rows would be much to hold
    order = Permutation(len(rows), int(random_state.randint(2**31 - 1)))
    for places in row_slices(len(rows), n_at_once):
        yield torch.from_numpy(order(np.arange(places.start, places.stop)))


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
    atoms = []
    for chunk in _random_order(rows, n_components, random_state):
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
