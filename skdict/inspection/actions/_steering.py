"""The effect of steering by a feature on the texts that a model writes."""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import Bunch

from ..._core.language.evaluation import evaluation_mode
from ..._core.language.next_token import next_token_logits
from ..._core.language.texts import check_texts
from ..._core.language.windows import encode, special_token_ids
from ...utils._arrays import as_vector
from ...utils._drawing import COLORS, draw_legend, legend_label, pair_of_axes
from ...utils._random import check_random_state
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._active import check_indices
from ..codes._directions import feature_directions
from ._interventions import steer
from ._language import Language


@validate_params(
    {
        "feature": [Interval(Integral, None, None, closed="neither")],
        "in_context": [callable],
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
    feature,
    strengths,
    in_context,
    *,
    prompts=None,
    n_samples=32,
    n_tokens=24,
    n_controls=2,
    temperature=1.0,
    random_state=0,
):
    """Measure how often a steered model writes in a feature's context, and how fluently.

    For each strength :math:`s` the model writes texts while :math:`s d_j` is added to the
    activation at every token (see `steer`). If a feature acts on the output as its top examples
    suggest, the texts are in its context; a random direction of the same norm, the control,
    should not have this effect. Steering that is too strong breaks the model: the cross-entropy
    of its texts under the unsteered model then rises.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; an :class:`~skdict.feature_extraction.ActivationExtractor` on a causal language
        model, then a dictionary with `inverse_transform`.

    feature : int
        Which feature.

    strengths : array-like of shape (n_strengths,)
        In units of the feature's code; 0 leaves the model unchanged. Choose them relative to the
        feature's greatest code: 0, 0.5, 1 and 2 times that are a good beginning.

    in_context : callable
        Called with each written text, without its prompt. Returns whether the text is in the
        feature's context, as a bool, or the fraction of it that is.

    prompts : list of str, default=None
        Prompts, each of which is continued `n_samples` times. By default the only prompt is the
        special token at the beginning of a text (BOS).

    n_samples : int, default=32
        Texts per prompt and strength.

    n_tokens : int, default=24
        Tokens per text. Special tokens are never sampled.

    n_controls : int, default=2
        Number of random directions. As many texts are written with each as with the feature.

    temperature : float, default=1.0
        The logits are divided by this before a token is sampled.

    random_state : int, RandomState instance or None, default=0
        Determines the sampled tokens and the random directions.

    Returns
    -------
    effect : :class:`~sklearn.utils.Bunch`
        Arrays of shape (n_strengths,), so ``pandas.DataFrame(effect)`` is a table.

        strength : ndarray of float64
            The strengths.
        in_context : ndarray of float64
            Mean of `in_context` over the texts.
        in_context_error : ndarray of float64
            Its standard error; nan for a single text.
        cross_entropy : ndarray of float64
            Cross-entropy of the texts under the unsteered model, in nats per token.
        control_in_context, control_in_context_error, control_cross_entropy : ndarray of float64
            The same for the random directions, pooled.
        example : list of str
            The first text of each strength.

    Raises
    ------
    TypeError
        If `pipeline` is not a Pipeline of these two steps, or the model has no logits.
    ValueError
        If the model is not causal, `feature` is out of range, a strength is not finite,
        `prompts` is None and the tokenizer has no special token at the beginning of a text, or a
        text would be longer than the model's context.

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
    >>> effect.in_context.shape, len(effect.example)
    ((2,), 2)
    """
    language = Language(pipeline)
    language.check_causal()
    of = "features of the dictionary"
    features = check_indices([feature], language.n_components, name="feature", of=of)
    given, strengths = strengths, as_vector(strengths, "strengths")
    if not np.isfinite(strengths).all():
        raise ValueError(f"strengths must be a list of finite numbers, but is {given!r:.80}.")
    random_state = check_random_state(random_state)
    seeds = random_state.randint(2**31, size=1 + n_controls).tolist()
    atom = feature_directions(language.dictionary, features)
    controls = random_state.normal(size=(n_controls, atom.shape[1]))
    controls *= np.linalg.norm(atom) / np.linalg.norm(controls, axis=1, keepdims=True)
    prompts = _prompts(language, prompts, n_tokens)
    writer = _Writer(language, prompts, in_context, n_samples, n_tokens, temperature)

    table = {name: [] for name in ("in_context", "in_context_error", "cross_entropy")}
    table |= {f"control_{name}": [] for name in list(table)}
    examples = []
    for strength in strengths:
        *of_feature, texts = writer.measure(atom, strength, seeds[0])
        of_controls = [
            writer.measure(row[None], strength, seed)
            for row, seed in zip(controls, seeds[1:], strict=True)
        ]
        examples.append(texts[0])
        pooled = [np.concatenate(parts) for parts in list(zip(*of_controls, strict=True))[:2]]
        for prefix, (fractions, losses) in (("", of_feature), ("control_", pooled)):
            table[f"{prefix}in_context"].append(fractions.mean())
            one = len(fractions) == 1
            error = np.nan if one else fractions.std(ddof=1) / np.sqrt(len(fractions))
            table[f"{prefix}in_context_error"].append(error)
            table[f"{prefix}cross_entropy"].append(losses.mean())
    columns = {name: np.array(values) for name, values in table.items()}
    return Bunch(strength=strengths, **columns, example=examples)


class _Writer:
    """Lets a steered model write, and judges what it writes.

    Parameters
    ----------
    language : Language
    prompts : list of tensor of int64 of shape (1, length)
    in_context : callable
    n_samples, n_tokens : int
        Texts per prompt, and tokens per text.
    temperature : float
    """

    def __init__(self, language, prompts, in_context, n_samples, n_tokens, temperature):
        self.language, self.prompts, self.in_context = language, prompts, in_context
        self.n_samples, self.n_tokens, self.temperature = n_samples, n_tokens, temperature
        # a model can have more logits than its tokenizer has tokens
        in_vocabulary = list(language.tokenizer.get_vocab().values())
        writable = np.setdiff1d(in_vocabulary, special_token_ids(language.tokenizer))
        self.writable = torch.from_numpy(writable).to(language.network.device)

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
            What `in_context` returned, and the cross-entropy under the unsteered model.
        texts : list of str, length n_prompts * n_samples
        """
        fractions, losses, texts = [], [], []
        # of the CPU, so that the texts do not depend on the device
        generator = torch.Generator("cpu").manual_seed(seed)
        for prompt in self.prompts:
            ids = prompt.expand(self.n_samples, -1)
            # `in_context` is called outside: it may wait for other threads that use the model
            with evaluation_mode(self.language.model), torch.no_grad():
                with steer(
                    self.language.model,
                    self.language.layer,
                    direction,
                    0,
                    strength=strength,
                    side=self.language.side,
                    tokenizer=self.language.tokenizer,
                    call=self.language.call,
                ):
                    written = self._sample(ids, generator)
                losses.append(_losses(self.language, ids, written))
            found = [self.language.tokenizer.decode(row) for row in written]
            fractions += [_fraction(self.in_context, text) for text in found]
            texts += found
        return np.array(fractions), np.concatenate(losses), texts

    def _sample(self, ids, generator):
        """Draw continuations, (n_samples, n_tokens); `generate` does not take a generator."""
        cache, written, step = None, [], ids
        network, model = self.language.network, self.language.model
        for _ in range(self.n_tokens):
            whole = torch.cat([ids, *written], dim=1)
            options = _nothing_padded(self.language, whole)
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


def _fraction(in_context, text):
    found = in_context(text)
    if not isinstance(found, Real | np.bool_) or not np.isfinite(found):
        raise TypeError(
            f"in_context must return true or false, or a number, but returned {found!r:.80}. With "
            "a regular expression, return bool(pattern.search(text))."
        )
    return float(found)


def _prompts(language, prompts, n_tokens):
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


def _nothing_padded(language, ids):
    """An attention mask of ones: without it, models that pad with the BOS token would mask it."""
    takes = language.network.takes_attention_mask
    return {"attention_mask": torch.ones_like(ids)} if takes else {}


def _losses(language, ids, written):
    """Cross-entropy of the written tokens given their prompt, in nats per token, (n_samples,).

    Called outside of `steer`: it is that of the unsteered model.
    """
    whole = torch.cat([ids, written], dim=1)
    output = language.model(whole, **_nothing_padded(language, whole))
    logits = next_token_logits(output, whole)[:, ids.shape[1] - 1 : -1]
    log_p = logits.float().log_softmax(dim=-1).gather(2, written[..., None])
    return -log_p.double().mean(dim=(1, 2)).cpu().numpy()


class SteeringDisplay:
    """How often a steered model writes in a feature's context, and how fluently.

    Parameters
    ----------
    effect : mapping
        What `steering_effect` returned.

    name : str, default="feature"
        Name of the feature in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the fractions in context.

    ax_cross_entropy_ : matplotlib Axes
        Axes with the cross-entropies.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    See Also
    --------
    steering_effect : Computes what is drawn.

    Examples
    --------
    >>> from skdict.inspection import SteeringDisplay
    >>> effect = {
    ...     "strength": [0.0, 1.0],
    ...     "in_context": [0.1, 0.8],
    ...     "in_context_error": [0.02, 0.03],
    ...     "cross_entropy": [3.0, 4.0],
    ...     "control_in_context": [0.1, 0.1],
    ...     "control_in_context_error": [0.02, 0.02],
    ...     "control_cross_entropy": [3.0, 5.0],
    ... }
    >>> SteeringDisplay(effect, name="comments").plot().ax_.get_ylabel()
    'In context (fraction)'
    """

    def __init__(self, effect, name="feature"):
        self.effect = effect
        self.name = name

    def plot(self, ax=None):
        """Draw the fractions in context above, the cross-entropies below.

        Parameters
        ----------
        ax : pair of matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : SteeringDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `ax` is not a pair.
        """
        above, below = pair_of_axes(self, ax, nrows=2, sharex=True)
        strength = np.asarray(self.effect["strength"])
        for prefix, name, color, style in (
            ("", self.name, COLORS[0], "o-"),
            ("control_", "random direction", COLORS[1], "s--"),
        ):
            above.errorbar(
                strength,
                self.effect[f"{prefix}in_context"],
                yerr=self.effect[f"{prefix}in_context_error"],
                fmt=style,
                color=color,
                capsize=2,
                label=legend_label(name),
            )
            below.plot(
                strength,
                self.effect[f"{prefix}cross_entropy"],
                style,
                color=color,
                label=legend_label(name),
            )
        above.set_ylabel("In context (fraction)")
        above.set_ylim(bottom=0)
        draw_legend(above)
        below.set_ylabel("Cross-entropy (nats)")
        below.set_xlabel("Strength (units of the code)")
        for axes in (above, below):
            axes.grid(alpha=0.3)
        self.ax_, self.ax_cross_entropy_, self.figure_ = above, below, above.figure
        return self
