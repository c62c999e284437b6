"""How features split as dictionaries get wider."""

from itertools import pairwise
from numbers import Integral, Real

import numpy as np
from scipy.sparse import csr_array, vstack
from sklearn.utils import Bunch, gen_batches

from ...metrics._rows import BLOCK_SIZE
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._active import positive_entries
from ..codes._whole import whole_matrices


@validate_params(
    {
        "threshold": [Interval(Real, 0, 1, closed="neither")],
        "min_active": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def feature_splitting(*codes, threshold=0.4, min_active=10):
    r"""Link features of a dictionary to those that they split into in wider ones.

    A feature of a narrow dictionary often splits into several features of a wider one, each for
    some of its cases. A parent and a child, from two successive widths, are linked if the masked
    cosine of their activations is at least `threshold`. With their codes :math:`a, b \ge 0` over
    the samples, the masked cosine is

    .. math::

        \max \left(
        \frac{\sum_i a_i b_i}{\lVert a \rVert \sqrt{\sum_{i : a_i > 0} b_i^2}}, \;
        \frac{\sum_i a_i b_i}{\lVert b \rVert \sqrt{\sum_{i : b_i > 0} a_i^2}} \right)

    which is the cosine over the samples where the one is active, or over those where the other
    is, whichever is greater [1]_. A child that is active on few of its parent's samples, but as
    strongly, has a masked cosine near 1. Links need not form a tree: a child may have several
    parents.

    Parameters
    ----------
    *codes : FeatureCodes, or matrix of shape (n_samples, n_components)
        Codes of the same samples by two or more dictionaries, from the narrowest to the widest.
        A feature is active where its code is positive. Rows that do not count in one of them
        are left out.

    threshold : float, default=0.4
        Minimum masked cosine of a link, in (0, 1). [1]_ use about 0.4.

    min_active : int, default=10
        Features that are active on fewer samples get no links, because on few samples the cosine
        can be high by chance. [1]_ left out "ultralow density" features.

    Returns
    -------
    splitting : :class:`~sklearn.utils.Bunch`
        Lists; level k is the k-th of `codes`. Those with an entry for each level but the last:

        links : list of csr_array of shape (n_components_k, n_components_k+1), float64
            The masked cosines of linked features: row i has the children of feature i.
        n_children : list of ndarray of shape (n_components_k,), int64
            Number of children of each feature.
        recall : list of ndarray of shape (n_components_k,), float64
            Fraction of the samples where the feature is active on which at least one of its
            children is active too; 0 without children, nan if the feature is active on fewer than
            `min_active` samples.
        activation_recall : list of ndarray of shape (n_components_k,), float64
            The same, weighted by the feature's activations.

        And for all levels:

        n_active : list of ndarray of shape (n_components_k,), int64
            Number of samples on which each feature is active.

    Raises
    ------
    ValueError
        If there are fewer than two matrices, or if they differ in their number of rows, get
        narrower, or contain NaN or infinity.

    See Also
    --------
    FeatureSplittingDisplay : Draws what one feature splits into.
    match_features : Features that are the same in two dictionaries.

    Notes
    -----
    A feature that is active on a large fraction of the samples is the parent of many, because it
    is active together with everything: for independent, exponentially distributed activations the
    cosine over the child's samples is half the square root of the parent's density. Check
    ``n_active`` before you interpret a family.

    References
    ----------
    .. [1] Bricken et al., "Towards Monosemanticity: Decomposing Language Models With Dictionary
       Learning", Transformer Circuits Thread, 2023, section "Feature Splitting" and its
       footnote 32.

    Examples
    --------
    One feature of the narrow dictionary splits into two, and another has no counterpart:

    >>> import numpy as np
    >>> from skdict.inspection import feature_splitting
    >>> narrow = np.array([[1.0, 0], [2, 0], [1, 0], [2, 0], [0, 1], [0, 1]])
    >>> wide = np.array([[1.0, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    >>> splitting = feature_splitting(narrow, wide, min_active=1)
    >>> splitting.links[0].toarray()
    array([[1., 1., 0.],
           [0., 0., 0.]])
    >>> splitting.n_children[0], splitting.recall[0], splitting.activation_recall[0].round(2)
    (array([2, 0]), array([0.75, 0.  ]), array([0.67, 0.  ]))
    """
    codes = _check_levels(codes)
    splitting = Bunch(links=[], n_children=[], recall=[], activation_recall=[], n_active=[])
    splitting.n_active = [(level > 0).sum(axis=0).astype(np.int64) for level in codes]
    for k, (parents, children) in enumerate(pairwise(codes)):
        shown = [n_active >= min_active for n_active in splitting.n_active[k : k + 2]]
        links = _links(parents, children, *shown, threshold)
        recall, activation_recall = _recall(parents, children, links)
        for fraction in (recall, activation_recall):
            fraction[~shown[0]] = np.nan
        splitting.links.append(links)
        splitting.n_children.append(np.diff(links.indptr).astype(np.int64))
        splitting.recall.append(recall)
        splitting.activation_recall.append(activation_recall)
    return splitting


def _check_levels(codes):
    if len(codes) < 2:
        raise ValueError(
            "feature_splitting needs the codes of at least two dictionaries, but got "
            f"{len(codes)}. Call feature_splitting(codes_narrow, codes_wide)."
        )
    names = [f"codes[{k}]" for k in range(len(codes))]
    codes = [
        positive_entries(matrix, name)
        for matrix, name in zip(whole_matrices(codes, names), names, strict=True)
    ]
    for k, (narrow, wide) in enumerate(pairwise(codes)):
        if narrow.shape[0] != wide.shape[0]:
            raise ValueError(
                f"codes[{k}] has {narrow.shape[0]} rows, but codes[{k + 1}] has {wide.shape[0]}. "
                "Give all with one row for each of the same samples."
            )
        if narrow.shape[1] > wide.shape[1]:
            raise ValueError(
                f"codes[{k}] has {narrow.shape[1]} columns, but codes[{k + 1}] has "
                f"{wide.shape[1]}. Pass codes from the narrowest dictionary to the widest."
            )
    return codes


def _links(parents, children, parent_shown, child_shown, threshold):
    """Masked cosines of at least `threshold`, as CSR of shape (n_parents, n_children)."""
    squares = [parents.power(2), children.power(2)]
    active = (children > 0).astype(np.float64)
    norms = [np.sqrt(square.sum(axis=0)) for square in squares]
    parent_columns, parent_squares = parents.tocsc(), squares[0].tocsc()
    blocks = []
    for block in gen_batches(parents.shape[1], max(1, BLOCK_SIZE // children.shape[1])):
        columns = parent_columns[:, block]
        products = (columns.T @ children).toarray()
        of_children = ((columns > 0).astype(np.float64).T @ squares[1]).toarray()
        of_parents = (parent_squares[:, block].T @ active).toarray()
        # the denominators can be zero only where the products are
        cosines = np.maximum(
            _divide(products, norms[0][block, None] * np.sqrt(of_children)),
            _divide(products, norms[1] * np.sqrt(of_parents)),
        )
        cosines = np.minimum(cosines, 1)  # rounding can exceed 1
        cosines[(cosines < threshold) | ~parent_shown[block, None] | ~child_shown] = 0
        blocks.append(csr_array(cosines))
    return vstack(blocks, format="csr")


def _divide(numerator, denominator):
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _recall(parents, children, links):
    """Fraction of each parent's active samples, and activation, that its children cover."""
    parent_columns, child_columns = parents.tocsc(), children.tocsc()
    recall, activation_recall = np.zeros((2, parents.shape[1]))
    covered = np.zeros(parents.shape[0], dtype=bool)
    for i in np.flatnonzero(np.diff(links.indptr)):
        covered[:] = False
        covered[child_columns[:, links.indices[links.indptr[i] : links.indptr[i + 1]]].indices] = 1
        own = slice(*parent_columns.indptr[i : i + 2])
        hit, activations = covered[parent_columns.indices[own]], parent_columns.data[own]
        recall[i] = hit.mean()
        activation_recall[i] = activations[hit].sum() / activations.sum()
    return recall, activation_recall
