"""Recovery of true atoms by learned ones."""

from scipy.optimize import linear_sum_assignment

from ._rows import as_rows, check_finite, float64_block, unit_rows


def _cosines(components, true_components):
    """Cosines of all true atoms with all learned ones, (n_true, n_learned); 0 for zero atoms."""
    learned = as_rows(components, "components")
    true = as_rows(true_components, "true_components")
    if learned.shape[1] != true.shape[1]:
        raise ValueError(
            "components and true_components must have the same number of features (columns), "
            f"but have {learned.shape[1]} and {true.shape[1]}."
        )
    unit = []
    for name, atoms in (("true_components", true), ("components", learned)):
        atoms = float64_block(atoms, slice(None))
        check_finite(atoms, name)
        unit.append(unit_rows(atoms))
    return unit[0] @ unit[1].T


def dictionary_recovery(components, true_components):
    """Mean cosine of the true atoms with the learned atoms that are matched to them.

    Learned and true atoms are matched one to one, by the assignment with the largest total cosine
    (Hungarian algorithm). This is the mean correlation coefficient (MCC) of the sparse coding
    literature, computed on atoms.

    Cosines are signed: codes are non-negative, so an atom with the opposite direction is another
    feature. Surplus learned atoms are ignored. If there are fewer learned atoms than true ones,
    each true atom without a partner counts as 0, so that a value of 1 always means that all true
    atoms were found.

    Parameters
    ----------
    components : array-like of shape (n_components, n_features)
        Learned atoms, of any norm; a zero atom has cosine 0 with all others.

    true_components : array-like of shape (n_true_components, n_features)
        True atoms.

    Returns
    -------
    recovery : float
        In [-1, 1]; 1 if all true atoms were learned, up to norm and order.

    Raises
    ------
    ValueError
        If the numbers of features differ, or if there is NaN or infinity.

    See Also
    --------
    mean_max_cosine : The same without the one-to-one constraint.

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.metrics import dictionary_recovery
    >>> true_components = np.eye(3)
    >>> dictionary_recovery(2 * true_components[[2, 0, 1]], true_components)
    1.0
    >>> dictionary_recovery(true_components[[0, 0]], true_components[:2])
    0.5
    """
    cosines = _cosines(components, true_components)
    matched = cosines[linear_sum_assignment(cosines, maximize=True)]
    return float(matched.sum() / len(cosines))


def mean_max_cosine(components, true_components):
    """Mean over the true atoms of the largest cosine with a learned atom.

    Unlike in `dictionary_recovery`, several true atoms may share a learned one. With at least as
    many learned as true atoms the value is therefore at least as large. Cosines are signed: codes
    are non-negative, so an atom with the opposite direction is another feature.

    Parameters
    ----------
    components : array-like of shape (n_components, n_features)
        Learned atoms, of any norm; a zero atom has cosine 0 with all others.

    true_components : array-like of shape (n_true_components, n_features)
        True atoms.

    Returns
    -------
    mean_max_cosine : float
        In [-1, 1]. Not symmetric in its arguments.

    Raises
    ------
    ValueError
        If the numbers of features differ, or if there is NaN or infinity.

    See Also
    --------
    dictionary_recovery : The same with one-to-one matches.

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.metrics import mean_max_cosine
    >>> mean_max_cosine([[1.0, 1.0, 0.0]], np.eye(3)[:2]).__round__(3)
    0.707
    """
    return float(_cosines(components, true_components).max(axis=1).mean())
