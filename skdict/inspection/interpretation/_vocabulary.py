"""name_features: the nearest entries of a vocabulary."""

from numbers import Integral

import numpy as np
import torch
from sklearn.utils import Bunch
from torch.nn.functional import normalize

from ..._core.torch_state import plain_torch
from ...metrics._rows import as_rows, check_finite, float64_block, row_blocks, to_numpy, unit_rows
from ...utils._random import check_random_state
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._active import selected
from ..codes._directions import unit_directions

# Cosines at a time: 64 MB in float32.
_BLOCK_SIZE = 2**24
_N_RANDOM = 256  # directions for the chance level


@validate_params(
    {
        "n_names": [Interval(Integral, 1, None, closed="left")],
        "center": ["boolean"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
@plain_torch()
def name_features(
    dictionary,
    vocabulary_embeddings,
    names,
    features=None,
    *,
    n_names=5,
    center=False,
    random_state=0,
):
    """Name features by the entries of a vocabulary that are nearest to their atoms.

    An entry's nearness is the cosine of its embedding and the atom. The embeddings must lie in the
    space of the atoms: the texts of words or labels, embedded by the same CLIP-like model as the
    pictures [1]_ or by the same sentence encoder; or a language model's token embeddings or its
    unembedding, for dictionaries of its residual stream.

    Parameters
    ----------
    dictionary : estimator, Pipeline, or {array-like, torch.Tensor} of shape \
            (n_components, n_features)
        A fitted dictionary, or its atoms.

    vocabulary_embeddings : {array-like, torch.Tensor} of shape (n_entries, n_features)
        An embedding for each entry of the vocabulary. Their norms do not matter. If it is a
        tensor, the cosines are computed on its device.

    names : sequence of str of length n_entries
        The entries.

    features : int or array-like of int of shape (n_selected,), default=None
        Which atoms to name; all of them by default.

    n_names : int, default=5
        How many of the nearest entries to give, at most n_entries.

    center : bool, default=False
        Whether the mean of the embeddings, scaled to unit norm, is taken away from them first.
        Embeddings of texts by a CLIP-like model have a large part in common, which those of
        pictures do not have; without it their differences count [2]_.

    random_state : int, RandomState instance or None, default=0
        Determines the random directions of the chance level.

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        With an entry for each selected feature, so ``pandas.DataFrame(result)`` is a table. It can
        be given to :class:`FeatureDashboard` as `names`.

        feature : ndarray of int64
            As in `features`.
        explanation : ndarray of object
            The nearest entries, a str; empty for features without a direction.
        reason : ndarray of object
            Why the explanation is missing, a str; otherwise empty.
        cosine : ndarray of float64
            Cosine of the nearest entry; nan if missing.
        cosine_chance : ndarray of float64
            What it is for random directions, on average: random combinations of the atoms.
        names : list of list of str
            The `n_names` nearest entries, in descending order of their cosines.
        cosines : list of ndarray of float64 of shape (n_names,)
            Their cosines.

    Raises
    ------
    ValueError
        If the embeddings do not fit the atoms or the names, or are not finite.
    TypeError
        If `dictionary` has no atoms.

    See Also
    --------
    interpret_features : Explanations from texts, with scores.
    logit_weights : The effect of atoms on the output, which needs a model.

    Notes
    -----
    A name is a hypothesis: something in the vocabulary is always nearest. Compare the cosine with
    its chance level, and look at examples or score the name by :func:`interpret_features`.

    References
    ----------
    .. [1] Rao, S., Mahajan, S., Boehle, M. and Schiele, B. "Discover-then-Name: Task-Agnostic
       Concept Bottlenecks via Automated Concept Discovery", 2024, arXiv:2407.14499.
    .. [2] Bhalla, U. et al. "Interpreting CLIP with Sparse Linear Concept Embeddings (SpLiCE)",
       2024, arXiv:2402.10376.

    Examples
    --------
    >>> from skdict.inspection import name_features
    >>> atoms = [[1.0, 0.1], [0.0, -2.0]]
    >>> embeddings = [[3.0, 0.0], [0.0, 1.0], [1.0, -1.0]]
    >>> result = name_features(atoms, embeddings, ["east", "north", "south-east"], n_names=2)
    >>> result.explanation.tolist()
    ['east, south-east', 'south-east, east']
    >>> result.cosine.round(2)
    array([1.  , 0.71])
    """
    directions, alive = unit_directions(dictionary, "dictionary")
    features = selected(features, len(directions), of="atoms")
    vocabulary, names = _check_vocabulary(vocabulary_embeddings, names, directions.shape[1])
    if center:
        vocabulary = normalize(vocabulary - vocabulary.mean(dim=0), dim=1)
    n_names = min(n_names, len(names))
    cosines, entries = _nearest(directions[features], vocabulary, n_names)
    rng = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
    random = rng.normal(size=(_N_RANDOM, np.count_nonzero(alive))) @ directions[alive]
    chance = _nearest(random, vocabulary, 1)[0].mean()
    alive = alive[features]
    found = [[names[k] for k in row] if ok else [] for row, ok in zip(entries, alive, strict=True)]
    reason = "the atom is zero, or was never active in training"
    return Bunch(
        feature=features,
        explanation=np.array([*map(", ".join, found), None], dtype=object)[:-1],
        reason=np.array(["" if ok else reason for ok in alive] + [None], dtype=object)[:-1],
        cosine=np.where(alive, cosines[:, 0], np.nan),
        cosine_chance=np.full(len(features), chance),
        names=found,
        cosines=[row if ok else row[:0] for row, ok in zip(cosines, alive, strict=True)],
    )


def _check_vocabulary(embeddings, names, n_features):
    """The embeddings as a float32 tensor of unit rows, and the names as a list of str."""
    embeddings = as_rows(embeddings, "vocabulary_embeddings")
    names = [str(name) for name in names]
    if embeddings.shape[1] != n_features:
        raise ValueError(
            f"vocabulary_embeddings has shape {tuple(embeddings.shape)}, but the atoms have "
            f"{n_features} features. Give one row per entry, in the space of the atoms."
        )
    if len(names) != embeddings.shape[0]:
        raise ValueError(
            f"vocabulary_embeddings has {embeddings.shape[0]} rows, but there are {len(names)} "
            "names."
        )
    if isinstance(embeddings, torch.Tensor) and embeddings.device.type != "cpu":
        check_finite(embeddings, "vocabulary_embeddings")
        return normalize(embeddings.detach().to(torch.float32), dim=1), names
    unit = torch.empty(embeddings.shape, dtype=torch.float32, device="cpu")
    for rows in row_blocks(embeddings):
        block = float64_block(embeddings, rows)
        check_finite(block, "vocabulary_embeddings")
        unit[rows] = torch.from_numpy(unit_rows(block))
    return unit, names


def _nearest(directions, vocabulary, n):
    """Cosines of the nearest entries, descending, and which they are: (n_directions, n)."""
    step = max(1, _BLOCK_SIZE // len(vocabulary))
    cosines, entries = np.empty((len(directions), n)), np.empty((len(directions), n), np.int64)
    for start in range(0, len(directions), step):
        rows = slice(start, start + step)
        block = torch.from_numpy(directions[rows]).to(vocabulary.device, torch.float32)
        found = torch.topk(normalize(block, dim=1) @ vocabulary.T, n)
        cosines[rows], entries[rows] = to_numpy(found.values), found.indices.cpu().numpy()
    return cosines, entries
