"""The effect of steering by a feature on the texts that a model writes."""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import Bunch

from ..._core.language.evaluation import evaluation_mode
from ..._core.language.next_token import next_token_logits
from ..._core.language.texts import check_texts
from ..._core.language.windows import encode, special_token_ids
from ...metrics._coding import check_rows_have_one_scale
from ...utils._arrays import as_vector
from ...utils._random import check_random_state
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._directions import feature_directions
from ._interventions import steer
from ._language import Language


@validate_params(
    {
        "concept_score": [callable],
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "n_tokens": [Interval(Integral, 1, None, closed="left")],
        "n_controls": [Interval(Integral, 1, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def steering_effect(
    pipeline,
    features,
    strengths,
    concept_score,
    *,
    prompts=None,
    n_samples=32,
    n_tokens=24,
    n_controls=2,
    temperature=1.0,
    random_state=0,
):
    """Measure how much of a concept steered models write, and how fluently.

    For each strength :math:`s` the model writes texts while :math:`s d_j` is added to the
    activation at every token (see `steer`). If a feature acts on the output as its top examples
    suggest, the texts have its concept. Two controls of the same norm should not have this
    effect: random directions, and the harder one, the atoms of other features drawn at random.
    Steering that is too strong breaks the model: the cross-entropy of its texts under the
    unsteered model then rises.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; an :class:`~skdict.feature_extraction.ActivationExtractor` on a causal language
        model, then a dictionary with `inverse_transform`.

    features : int or array-like of int of shape (n_selected,)
        Which features, each to be steered by alone. `output_score` ranks them before.

    strengths : array-like of shape (n_strengths,)
        In units of the feature's code; 0 leaves the model unchanged. Choose them relative to the
        feature's greatest code: 0, 0.5, 1 and 2 times that are a good beginning.

    concept_score : callable
        Called with each written text, without its prompt. Returns whether the text is in the
        feature's context, as a bool, or the fraction of it that is.

    prompts : list of str, default=None
        Prompts, each of which is continued `n_samples` times. By default the only prompt is the
        special token at the beginning of a text (BOS). Special tokens that a chat template ends
        in are kept.

    n_samples : int, default=32
        Texts per prompt and strength.

    n_tokens : int, default=24
        Tokens per text. Special tokens are never sampled.

    n_controls : int, default=2
        Number of random directions, and of other features. As many texts are written with each as
        with a feature.

    temperature : float, default=1.0
        The logits are divided by this before a token is sampled.

    random_state : int, RandomState instance or None, default=0
        Determines the sampled tokens, the random directions and the other features.

    Returns
    -------
    effect : :class:`~sklearn.utils.Bunch`
        Columns of n_selected * n_strengths entries, feature by feature, so
        ``pandas.DataFrame(effect)`` is a table.

        feature : ndarray of int64
            The features.
        strength : ndarray of float64
            The strengths.
        concept_score : ndarray of float64
            Mean of `concept_score` over the texts.
        concept_score_error : ndarray of float64
            Its standard error; nan for a single text.
        cross_entropy : ndarray of float64
            Cross-entropy of the texts under the unsteered model, in nats per token.
        random_concept_score, random_concept_score_error, random_cross_entropy : ndarray of float64
            The same at this strength for the random directions, whose norm is the mean one of the
            features' atoms. The error is that of a mean over directions; nan for a single one.
        other_concept_score, other_concept_score_error, other_cross_entropy : ndarray of float64
            The same for the atoms of other features, scaled to that norm; nan if there are none.
        example : list of str
            The first text of each feature and strength.

    Raises
    ------
    TypeError
        If `pipeline` is not a Pipeline of these two steps, or the model has no logits.
    ValueError
        If the model is not causal, a feature is out of range, a strength is not finite,
        `prompts` is None and the tokenizer has no special token at the beginning of a text, a
        text would be longer than the model's context, or the dictionary normalises each row.

    See Also
    --------
    SteeringDisplay : Draws the result.
    steer : The intervention itself.

    Notes
    -----
    Tokens are sampled with torch generators seeded from `random_state`, independent of torch's
    global generator. All strengths of a direction use the same seed.

    References
    ----------
    Bricken et al., "Towards Monosemanticity" (2023), pin features and sample, without a random
    control and a measure of fluency.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.feature_extraction import ActivationExtractor
    >>> from skdict.inspection import steering_effect
    >>> extractor = ActivationExtractor(
    ...     load_one_layer_transformer().path, "transformer.h.0.mlp.act"
    ... )
    >>> pipeline = make_pipeline(extractor, PCA(2)).fit(["import numpy", "for i in range(10):"])
    >>> effect = steering_effect(
    ...     pipeline, 0, [0.0, 5.0], lambda text: "import" in text, n_samples=4, n_tokens=3
    ... )
    >>> effect.concept_score.shape, len(effect.example)
    ((2,), 2)
    """
    language = Language(pipeline)
    language.check_causal()
    check_rows_have_one_scale(language.dictionary)
    features = language.checked_features(features)
    given, strengths = strengths, as_vector(strengths, "strengths")
    if not np.isfinite(strengths).all():
        raise ValueError(f"strengths must be a list of finite numbers, but is {given!r:.80}.")
    random_state = check_random_state(random_state)
    seeds = random_state.randint(2**31, size=1 + n_controls).tolist()
    atoms = feature_directions(language.dictionary, features)
    controls = _controls(language, features, atoms, n_controls, random_state)
    prompts = prompt_ids(language, prompts, n_tokens)
    writer = _Writer(language, prompts, concept_score, n_samples, n_tokens, temperature)

    of_controls = [
        {
            f"{name}_{column}": value
            for name, directions in controls.items()
            for column, value in writer.of_controls(directions, strength, seeds[1:]).items()
        }
        for strength in strengths
    ]
    rows = []
    for feature, atom in zip(features, atoms, strict=True):
        for strength, beside in zip(strengths, of_controls, strict=True):
            of_feature, texts = writer.of_feature(atom, strength, seeds[0])
            row = {"feature": feature, "strength": strength} | of_feature | beside
            rows.append(row | {"example": texts[0]})
    columns = {
        name: np.array([row[name] for row in rows]) for name in rows[0] if name != "example"
    }
    return Bunch(**columns, example=[row["example"] for row in rows])


def _controls(language, features, atoms, n_controls, random_state):
    """Random directions and other features' atoms, of the mean norm of the features' atoms."""
    random = random_state.normal(size=(n_controls, atoms.shape[1]))
    others = np.setdiff1d(np.arange(language.n_components), features)
    others = random_state.permutation(others)[:n_controls]
    controls = {"random": random, "other": feature_directions(language.dictionary, others)}
    norm = np.linalg.norm(atoms, axis=1).mean()
    for directions in controls.values():
        own = np.linalg.norm(directions, axis=1, keepdims=True)
        directions *= norm / np.where(own > 0, own, 1)
    return controls


class _Writer:
    """Lets a steered model write, and judges what it writes.

    Parameters
    ----------
    language : Language
    prompts : list of tensor of int64 of shape (1, length)
    concept_score : callable
    n_samples, n_tokens : int
        Texts per prompt, and tokens per text.
    temperature : float
    """

    def __init__(self, language, prompts, concept_score, n_samples, n_tokens, temperature):
        self.language, self.prompts, self.concept_score = language, prompts, concept_score
        self.n_samples, self.n_tokens, self.temperature = n_samples, n_tokens, temperature
        # a model can have more logits than its tokenizer has tokens
        in_vocabulary = list(language.tokenizer.get_vocab().values())
        writable = np.setdiff1d(in_vocabulary, special_token_ids(language.tokenizer))
        self.writable = torch.from_numpy(writable).to(language.network.device)

    def of_feature(self, atom, strength, seed):
        """Columns of the table for one feature and strength, and the texts."""
        fractions, losses, texts = self.measure(atom[None], strength, seed)
        one = len(fractions) == 1
        error = np.nan if one else fractions.std(ddof=1) / np.sqrt(len(fractions))
        return _columns(fractions.mean(), error, losses.mean()), texts

    def of_controls(self, directions, strength, seeds):
        """The same for several directions; the error is that of a mean over directions."""
        if not len(directions):
            return _columns(np.nan, np.nan, np.nan)
        means = np.array(
            [
                [part.mean() for part in self.measure(direction[None], strength, seed)[:2]]
                for direction, seed in zip(directions, seeds, strict=False)
            ]
        )
        score, loss = means.mean(axis=0)
        one = len(means) == 1
        error = np.nan if one else means[:, 0].std(ddof=1) / np.sqrt(len(means))
        return _columns(score, error, loss)

    def measure(self, direction, strength, seed):
        """Write with ``strength * direction`` added to the activations.

        Parameters
        ----------
        direction : ndarray of shape (1, n_features)
        strength : float
        seed : int

        Returns
        -------
        fractions, losses : ndarray of shape (n_prompts * n_samples,)
            What `concept_score` returned, and the cross-entropy under the unsteered model.
        texts : list of str, length n_prompts * n_samples
        """
        fractions, losses, texts = [], [], []
        # of the CPU, so that the texts do not depend on the device
        generator = torch.Generator("cpu").manual_seed(seed)
        for prompt in self.prompts:
            ids = prompt.expand(self.n_samples, -1)
            # `concept_score` is called outside: it may wait for other threads that use the model
            with evaluation_mode(self.language.model), torch.no_grad():
                with steer(
                    self.language.model,
                    self.language.layer,
                    direction,
                    0,
                    strength=strength,
                    side=self.language.side,
                    tokenizer=self.language.tokenizer,
                    call=self.language.site.first_call,
                ):
                    written = self._sample(ids, generator)
                losses.append(_losses(self.language, ids, written))
            found = [self.language.tokenizer.decode(row) for row in written]
            fractions += [_fraction(self.concept_score, text) for text in found]
            texts += found
        return np.array(fractions), np.concatenate(losses), texts

    def _sample(self, ids, generator):
        """Draw continuations, (n_samples, n_tokens); `generate` does not take a generator."""
        cache, written, step = None, [], ids
        network, model = self.language.network, self.language.model
        for _ in range(self.n_tokens):
            whole = torch.cat([ids, *written], dim=1)
            options = attention_to_all(self.language, whole)
            if network.takes_use_cache and (cache is not None or not written):
                if cache is not None:
                    options["past_key_values"] = cache
                output = model(step, use_cache=True, **options)
                cache = getattr(output, "past_key_values", None)
            else:  # without a key-value cache the whole text is read again for each token
                step = whole
                output = model(step, **options)
            logits = next_token_logits(output, step)[:, -1].float() / self.temperature
            is_out = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
            is_out[self.writable[self.writable < logits.shape[1]]] = False
            logits[:, is_out] = -torch.inf
            probabilities = logits.softmax(dim=-1).cpu()  # (n_samples, n_vocabulary); waits
            step = torch.multinomial(probabilities, 1, generator=generator).to(logits.device)
            written.append(step)
        return torch.cat(written, dim=1)


def _columns(score, error, loss):
    names = "concept_score", "concept_score_error", "cross_entropy"
    return dict(zip(names, (score, error, loss), strict=True))


def _fraction(concept_score, text):
    found = concept_score(text)
    if not isinstance(found, Real | np.bool_) or not np.isfinite(found):
        raise TypeError(
            f"concept_score must return true or false, or a number, but returned {found!r:.80}. "
            "With a regular expression, return bool(pattern.search(text))."
        )
    return float(found)


def prompt_ids(language, prompts, n_tokens):
    """Token ids of each prompt, (1, length), without special tokens added at the end."""
    texts = [""] if prompts is None else check_texts(prompts, name="prompts")
    ids = []
    for each, added, _ in encode(language.tokenizer, texts):
        if len(each) == 0 and prompts is None:
            raise ValueError(
                "prompts=None, but the tokenizer adds no special token at the beginning of a text "
                "to start from. Give prompts."
            )
        if len(each) == 0:
            raise ValueError(
                f"prompts[{len(ids)}] has no tokens: {texts[len(ids)]!r:.50}. Leave it out."
            )
        # special tokens added at the end; one at the very beginning stays, even if it is alone
        n_closing = added[1:][::-1].cumprod().sum()
        each = each[: len(each) - n_closing]
        ids.append(torch.from_numpy(each)[None].to(language.network.device))
    longest, limit = max(each.shape[1] for each in ids), language.network.context_length
    if limit is not None and longest + n_tokens > limit:
        raise ValueError(
            f"n_tokens={n_tokens} after a prompt of {longest} tokens is more than the model's "
            f"context of {limit}. Give shorter prompts or a smaller n_tokens."
        )
    return ids


def attention_to_all(language, ids):
    """An attention mask of ones: without it, models that pad with the BOS token would mask it."""
    takes = language.network.takes_attention_mask
    return {"attention_mask": torch.ones_like(ids)} if takes else {}


def _losses(language, ids, written):
    """Cross-entropy of the written tokens given their prompt, in nats per token, (n_samples,).

    Called outside of `steer`: it is that of the unsteered model.
    """
    whole = torch.cat([ids, written], dim=1)
    output = language.model(whole, **attention_to_all(language, whole))
    logits = next_token_logits(output, whole)[:, ids.shape[1] - 1 : -1]
    log_p = logits.float().log_softmax(dim=-1).gather(2, written[..., None])
    return -log_p.double().mean(dim=(1, 2)).cpu().numpy()
