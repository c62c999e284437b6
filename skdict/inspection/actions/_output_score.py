"""Which features act on the output, before any of them is steered by."""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import Bunch, gen_batches

from ..._core.language.evaluation import evaluation_mode
from ..._core.language.next_token import next_token_logits
from ...metrics._coding import check_rows_have_one_scale
from ...utils._arrays import as_vector
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._directions import feature_directions
from ._language import Language
from ._logits import top_logits
from ._steering import attention_to_all, prompt_ids

PROMPTS = ("From my experience,",)
N_PROBABILITIES = 2**25  # of a batch of features: 128 MB


@validate_params(
    {
        "strength": [Interval(Real, None, None, closed="neither"), "array-like"],
        "n_top": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def output_score(
    pipeline, features=None, *, strength, prompts=PROMPTS, n_top=20, texts=None, path="direct"
):
    r"""Rank features by whether steering by them writes what their logit weights promise.

    Many features only read: their top examples have a meaning, but adding them changes the output
    in no way that fits it. Steering works much better with features that pass this test, which
    takes one forward pass per feature [1]_: with the tokens T that a feature raises most
    (`top_logits`), the next-token probabilities p after a neutral prompt at which the feature is
    added, and V tokens in the vocabulary, the score is

    .. math:: \max_{t \in T} p_t \; \Big( 1 - \frac{\min_{t \in T} \mathrm{rank}(t)}{V} \Big)

    where the most probable token has rank 0.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; an :class:`~skdict.feature_extraction.ActivationExtractor` on a causal language
        model, then a dictionary with `inverse_transform`.

    features : int or array-like of int of shape (n_selected,), default=None
        Which features; all of them by default.

    strength : float, or array-like of shape (n_selected,)
        What is added to the activation at every token of the prompt, in units of the feature's
        code. [1]_ take 10 times the code that the feature has there; a multiple of the greatest
        code of each feature is a good choice, such as that of `feature_statistics`.

    prompts : list of str, default=("From my experience,",)
        Neutral prompts. Scores are means over them.

    n_top : int, default=20
        Number of tokens T.

    texts : list of str, default=None
        Over whose tokens logit weights are averaged, see `logit_weights`.

    path : {"direct", "total"}, default="direct"
        Which logit weights decide the tokens T, see `logit_weights`.

    Returns
    -------
    scores : :class:`~sklearn.utils.Bunch`
        ``pandas.DataFrame(scores)`` is a table with a row per feature.

        feature : ndarray of int64
            The features.
        output_score : ndarray of float64
            The score, from 0 to 1.
        unsteered_score : ndarray of float64
            The same of the tokens T without steering: tokens that are probable anyway prove
            nothing.
        probability, unsteered_probability : ndarray of float64
            Total probability of T with and without steering.
        token : ndarray of str objects
            The token of T that is most probable with steering, after the first prompt.

    Raises
    ------
    TypeError, ValueError
        As `logit_weights` and `steering_effect`; if `strength` is not finite, or does not have an
        entry for each feature.

    See Also
    --------
    steering_effect : What a model writes when it is steered.
    top_logits : The tokens that features raise and lower.

    References
    ----------
    .. [1] Arad, D., Mueller, A. and Belinkov, Y. "SAEs Are Good for Steering - If You Select the
       Right Features", EMNLP 2025, arXiv:2505.20063.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.feature_extraction import ActivationExtractor
    >>> from skdict.inspection import output_score
    >>> extractor = ActivationExtractor(
    ...     load_one_layer_transformer().path, "transformer.h.0.mlp.act"
    ... )
    >>> pipeline = make_pipeline(extractor, PCA(2)).fit(["import numpy", "for i in range(10):"])
    >>> scores = output_score(pipeline, strength=8.0, prompts=["x = "])
    >>> scores.output_score.shape
    (2,)
    """
    language = Language(pipeline)
    language.check_causal()
    check_rows_have_one_scale(language.dictionary)
    features = language.checked_features(features)
    strength = _strengths(strength, len(features))
    top = top_logits(pipeline, features, n_top=n_top, texts=texts, path=path)
    directions = feature_directions(language.dictionary, features) * strength[:, None]
    names = "output_score", "unsteered_score", "probability", "unsteered_probability"
    totals = {name: np.zeros(len(features)) for name in names}
    first = np.zeros(len(features), dtype=np.int64)
    ids_of_prompts = prompt_ids(language, prompts, 0)
    with evaluation_mode(language.model), torch.no_grad():
        for i, ids in enumerate(ids_of_prompts):
            step = max(1, N_PROBABILITIES // (len(top.vocabulary) * ids.shape[1]))
            clean = _next_probabilities(language, ids, None)
            for batch in gen_batches(len(features), step):
                tokens = torch.from_numpy(top.raised[batch])
                steered = _next_probabilities(language, ids, directions[batch])
                score, total, best = _scores(steered, tokens)
                unsteered, unsteered_total, _ = _scores(clean.expand(len(tokens), -1), tokens)
                found = score, unsteered, total, unsteered_total
                for name, values in zip(names, found, strict=True):
                    totals[name][batch] += values / len(ids_of_prompts)
                if i == 0:
                    first[batch] = best
    return Bunch(feature=features, **totals, token=top.vocabulary[first])


def _strengths(strength, n_features):
    given = np.ndim(strength)
    strength = as_vector([strength] if given == 0 else strength, "strength")
    if not np.isfinite(strength).all():
        raise ValueError("strength has entries that are not finite.")
    if given and len(strength) != n_features:
        raise ValueError(
            f"strength has {len(strength)} entries, but there are {n_features} features. Give one "
            "number, or one for each."
        )
    return np.broadcast_to(strength, n_features)


def _next_probabilities(language, ids, directions):
    """Probabilities of the next token, float64 of (n_directions, n_vocabulary); None: unsteered.

    The directions are added one by one to copies of the prompt, in a single batch.
    """
    ids = ids if directions is None else ids.expand(len(directions), -1)
    options = attention_to_all(language, ids)
    if directions is None:
        output = language.model(ids, **options)
    else:
        added = torch.tensor(directions, device="cpu")

        def add(activations):
            return activations + added.to(activations)[:, None]

        output = language.site.run_replaced(add, lambda: language.model(ids, **options))
    return next_token_logits(output, ids)[:, -1].double().softmax(dim=-1).cpu()


def _scores(probabilities, tokens):
    """The score and total probability of each row's tokens, and the most probable of them."""
    chosen = probabilities.gather(1, tokens)  # (n_features, n_top)
    greatest, which = chosen.max(dim=1)
    rank = (probabilities > greatest[:, None]).sum(dim=1)
    score = greatest * (1 - rank / probabilities.shape[1])
    best = tokens.gather(1, which[:, None])[:, 0]
    return score.numpy(), chosen.sum(dim=1).numpy(), best.numpy()
