"""Which features make a prompt's logits, and each other: attribution graphs."""

import re
from numbers import Integral

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from sklearn.pipeline import Pipeline

from ..._core.language.evaluation import evaluation_mode
from ..._core.language.hooks import Hooks
from ..._core.language.next_token import next_token_logits, output_embeddings
from ..._core.language.texts import check_texts
from ...metrics._coding import reads_rows
from ...metrics._rows import as_rows, to_numpy
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._active import nonzero_entries
from ..codes._directions import feature_directions
from ._frozen import FrozenModel
from ._graph import AttributionGraph
from ._language import Language

PROBABILITY, MOST_TARGETS = 0.95, 10  # of the logits that are explained by default
KINDS = ("feature", "error", "token", "logit")


@validate_params(
    {"max_features": [Interval(Integral, 0, None, closed="left")], "position": [Integral]},
    prefer_skip_nested_validation=True,
)
def attribution_graph(pipelines, prompt, *, targets=None, position=-1, max_features=200):
    """Attribute the logits of a prompt to features, and features to those before them.

    In the frozen model, where attention patterns, the scale of each norm and what MLPs return
    stand still, a logit is an affine function of the layers' activations :math:`x^s`. With
    :math:`x^s_t = b^s + \\sum_j z_{tj} d_j + \\varepsilon_t`, it is exactly the sum of

    .. math::
        \\sum_{s,t,j} z^s_{tj} \\, d^s_j \\cdot \\nabla^s_t
        + \\sum_{s,t} \\varepsilon^s_t \\cdot \\nabla^s_t
        + \\sum_t e_t \\cdot \\nabla^e_t + \\sum_{s,t} b^s \\cdot \\nabla^s_t + \\mathrm{rest}

    the features, the errors of the dictionaries, the token embeddings, the offsets of the
    dictionaries, and what no layer takes part in: biases, position embeddings, and MLPs that
    hold none of the layers. Gradients stop at the next layer with a dictionary, so each term is a
    direct effect. A feature of a later layer is attributed to those before it in the same way,
    by its pre-activation. Whether the sum is right is tried by a run with all activations at 0.

    Parameters
    ----------
    pipelines : Pipeline or list of Pipeline
        Fitted; each an :class:`~skdict.feature_extraction.ActivationExtractor` of the same causal
        language model with another layer, then a dictionary with `inverse_transform`. Layers in
        the order in which the model calls them.

    prompt : str
        Text that fits into one window.

    targets : list of int or str, default=None
        Token ids, or texts of a single token, whose logits are explained. By default the most
        probable ones, up to a probability of 0.95 together and at most 10.

    position : int, default=-1
        The token at which they are predicted, counted among all tokens of the prompt with its
        special ones.

    max_features : int, default=200
        Most features, the most important ones, that become nodes; the other ones count in sums.

    Returns
    -------
    graph : AttributionGraph

    Raises
    ------
    TypeError
        If `pipelines` is not a Pipeline of these two steps, or a list of them.
    ValueError
        If the model is not causal, the prompt is too long, a target is not a single token, the
        frozen model is not affine in the activations (where a layer lies before a non-linearity
        of its MLP), or the features of a later layer are not made by a linear encoder.

    See Also
    --------
    feature_effects : Effects measured by ablation.
    logit_weights : Direct effects on logits that do not depend on the text.

    Notes
    -----
    A logit counts relative to the mean of all logits, and before what the model does to logits
    after the unembedding, such as a cap. Attention is frozen where transformers computes it by
    its attention interface; other attention counts as an MLP does: it is part of the rest.

    References
    ----------
    Ameisen et al., "Circuit Tracing: Revealing Computational Graphs in Language Models" (2025).
    Marks et al., "Sparse Feature Circuits" (2024), with errors as nodes.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.feature_extraction import ActivationExtractor
    >>> from skdict.inspection import attribution_graph
    >>> extractor = ActivationExtractor(
    ...     load_one_layer_transformer().path, "transformer.h.0.mlp.act"
    ... )
    >>> pipeline = make_pipeline(extractor, PCA(2)).fit(["import numpy as np", "for i in x:"])
    >>> graph = attribution_graph(pipeline, "def area(self):", targets=[" self"])
    >>> total = sum(graph.sums[name][0] for name in ("feature", "error", "token", "bias", "rest"))
    >>> bool(abs(total - graph.values[0]) < 1e-3)
    True
    """
    if isinstance(pipelines, Pipeline):
        pipelines = [pipelines]
    sites = [_Site(Language(pipeline)) for pipeline in pipelines]
    if not sites or any(site.language.model is not sites[0].language.model for site in sites):
        raise ValueError(
            "pipelines must be at least one Pipeline, and all of the same model. Give each "
            "extractor the same ready model."
        )
    language = sites[0].language
    language.check_causal()
    (prompt,) = check_texts([prompt], name="prompt")
    windows = language.windows([prompt])
    if len(windows) > 1:
        raise ValueError(f"prompt has more tokens than a window of {windows.lengths[0]}.")
    # tensors created in inference mode cannot be differentiated
    with torch.inference_mode(False), evaluation_mode(language.model):
        run = _Run(sites, windows)
        position = range(len(run.ids))[position]
        return _Builder(run, position, run.targets(targets, position), max_features).graph(prompt)


class _Site:
    """A layer with its dictionary."""

    def __init__(self, language):
        self.language = language
        if reads_rows(language.dictionary[-1]):
            raise ValueError(
                f"The dictionary of layer={language.layer!r} normalises rows or adds a map of "
                "them, so that its reconstruction is not a sum of features alone."
            )

    @property
    def place(self):
        parts = self.language
        return {"layer": parts.layer, "side": parts.side, "call": parts.site.first_call}

    def code(self, activations, kept):
        """Codes, errors and offsets of a prompt's activations, (length, n_features)."""
        dictionary, self.kept = self.language.dictionary, kept
        self.error = activations.astype(np.float64)
        rows = activations[kept]
        codes = as_rows(dictionary.transform(rows), "codes")
        every = np.arange(self.language.n_components)
        at, self.feature, self.code_value = nonzero_entries(codes, every)
        self.position = np.flatnonzero(kept)[at]
        self.offset = np.asarray(dictionary.inverse_transform(codes[:1] * 0), np.float64)[0]
        used = np.unique(self.feature)
        self.atoms = np.zeros((0, activations.shape[1]))
        self._row_of = np.zeros(self.language.n_components, np.int64)
        self._row_of[used] = np.arange(len(used))
        if len(used):
            self.atoms = feature_directions(dictionary, used)
        parts = np.zeros((len(activations), self.atoms.shape[1]))
        np.add.at(parts, self.position, self.code_value[:, None] * self.atom())
        self.error[kept] -= self.offset
        self.error -= parts

    def atom(self):
        """The atom of each active feature, (n_active, n_features)."""
        return self.atoms[self._row_of[self.feature]]

    def encoder_row(self, i, activations):
        """Encoder row and constant of the i-th active feature: its code is their affine map."""
        steps = self.language.dictionary.steps
        coder, feature = steps[-1][1], self.feature[i]
        if len(steps) > 1 or getattr(coder, "encoder_coef_", None) is None:
            raise ValueError(
                f"The features of layer={self.language.layer!r} cannot be attributed to those "
                "before them: their codes are not made by a linear encoder alone. Give a "
                "dictionary of one step with an encoder, or only one pipeline."
            )
        row = np.asarray(coder.encoder_coef_[feature], np.float64)
        origin = np.asarray(getattr(coder, "input_offset_", coder.intercept_), np.float64)
        constant = float(coder.encoder_intercept_[feature]) - origin @ row
        found = activations[self.position[i]].astype(np.float64) @ row + constant
        if abs(found - self.code_value[i]) > 1e-2 * max(abs(self.code_value[i]), 1e-6):
            raise ValueError(
                f"The code of feature {feature} of layer={self.language.layer!r} is "
                f"{self.code_value[i]:.4g}, but the encoder's pre-activation {found:.4g}. Only "
                "features whose code is the pre-activation can be attributed to others."
            )
        return row, constant


class _Run:
    """The frozen model on a prompt, and gradients of its numbers at each layer.

    Parameters
    ----------
    sites : list of _Site
    windows : TokenWindows
        With the prompt's only window.
    """

    def __init__(self, sites, windows):
        self.sites, self.language = sites, sites[0].language
        arguments, keywords = windows.arguments(self.language.network, [0])
        self.ids, self.kept = windows.token_ids[0], windows.kept[0]
        self._device_ids = arguments[0]
        self.head = output_embeddings(self.language.model)
        places = [site.place for site in sites]
        embedding = self._embedding({(place["layer"], place["side"]) for place in places})
        self.has_tokens = embedding is not None
        places += [embedding] if self.has_tokens else []

        def forward():
            return self.language.network.run(arguments, keywords)

        with torch.no_grad():
            output = next_token_logits(forward(), arguments[0])[0]
            self.probabilities = output.double().softmax(-1).cpu().numpy()
        self.frozen = FrozenModel(self.language.model, forward, places)
        self.activations = [to_numpy(each[0]) for each in self.frozen.activations]
        for site, activations in zip(sites, self.activations, strict=False):
            site.code(activations, self.kept)
        self.logits = self._run(1.0)
        self.at_zero = self._run(0.0, keep=False)

    def _embedding(self, taken):
        """The place of the token embeddings; None if the model names none, or it has a site."""
        try:
            module = self.language.model.get_input_embeddings()
        except (AttributeError, NotImplementedError):  # the class does not say where it is
            return None
        names = [name for name, each in self.language.model.named_modules() if each is module]
        if not names or (names[0], "output") in taken:
            return None
        return {"layer": names[0], "side": "output", "call": None}

    def _run(self, factor, *, keep=True):
        """Logits (length, vocabulary) with the activations times a factor."""
        leaves, given, found = [], [], []
        for activation in self.frozen.activations:
            leaves.append((factor * activation).requires_grad_(keep))
            given.append(None)

        def leaf(i, activation):
            given[i] = activation
            return leaves[i].clone()

        hooks = []
        if self.head is not None:

            def note(module, args, output):
                found.append(output)

            hooks = [lambda: self.head.register_forward_hook(note)]
        with torch.set_grad_enabled(keep), Hooks(hooks):
            functions = [lambda x, i=i: leaf(i, x) for i in range(len(leaves))]
            output = self.frozen.run(functions)
            logits = next_token_logits(output, self._device_ids)
            if found and found[-1].shape == logits.shape:
                logits = found[-1]  # before a cap
        if keep:
            self.leaves, self.given = leaves, given
        return logits[0]

    def targets(self, targets, position):
        """Token ids to explain the logits of."""
        p = self.probabilities[position]
        if targets is None:
            order = np.argsort(-p, kind="stable")[:MOST_TARGETS]
            n = int(np.searchsorted(np.cumsum(p[order]), PROBABILITY)) + 1
            return order[:n].tolist()
        found = []
        if not len(targets):
            raise ValueError("targets is empty. Give token ids or texts of one token, or None.")
        for target in targets:
            ids = [target]
            if isinstance(target, str):
                encoded = self.language.tokenizer(target, add_special_tokens=False)
                ids = encoded["input_ids"]
            if len(ids) != 1 or not isinstance(ids[0], Integral) or not 0 <= ids[0] < len(p):
                raise ValueError(
                    f"targets must be token ids below {len(p)} or texts of one token, but "
                    f"{target!r} is not: it is the tokens {ids}."
                )
            found.append(int(ids[0]))
        return found

    def gradients(self, value):
        """Gradient of a number at each layer, and at the embeddings; (length, n_features)."""
        if not value.requires_grad:
            return [np.zeros(each.shape) for each in self.activations]
        found = torch.autograd.grad(value, self.leaves, retain_graph=True, allow_unused=True)
        return [
            np.zeros(each.shape) if gradient is None else to_numpy(gradient[0]).astype(np.float64)
            for gradient, each in zip(found, self.activations, strict=True)
        ]

    def effects(self, value):
        """What features, errors and tokens add to a number, and the sum over offsets."""
        *of_sites, of_tokens = self.gradients(value) + ([] if self.has_tokens else [None])
        features, errors, bias = [], [], 0.0
        for site, gradient in zip(self.sites, of_sites, strict=True):
            along = (gradient[site.position] * site.atom()).sum(axis=1)
            features.append(site.code_value * along)
            errors.append((site.error * gradient).sum(axis=1))
            bias += float(gradient[self.kept].sum(axis=0) @ site.offset)
        tokens = np.zeros(0)
        if self.has_tokens:
            tokens = (self.activations[-1].astype(np.float64) * of_tokens).sum(axis=1)
        return {"feature": features, "error": np.array(errors), "token": tokens, "bias": bias}


class _Builder:
    """Collects what is explained, from the logits back to the first layer.

    Parameters
    ----------
    run : _Run
    position : int
    targets : list of int
        Token ids.
    max_features : int
    """

    def __init__(self, run, position, targets, max_features):
        self.run, self.position, self.targets = run, position, targets
        self.most = max_features // len(run.sites)
        self.explained, self.values, self.rest = [], [], []  # one entry per target
        for target in targets:
            self._explain_logit(target)
        p = run.probabilities[position][targets]
        importance = [
            sum(w * abs(each["feature"][s]) for w, each in zip(p, self.explained, strict=True))
            for s in range(len(run.sites))
        ]
        self.kept = [None] * len(run.sites)
        self.rows = []  # (site, index of its active feature) of each further target
        for s in reversed(range(len(run.sites))):
            self.kept[s] = np.sort(np.argsort(-importance[s], kind="stable")[: self.most])
            if s == 0 and not (run.has_tokens and _is_linear(run.sites[0])):
                continue
            for i in self.kept[s]:
                self._explain_feature(s, i, importance)

    def _explain_logit(self, target):
        logits, zero = self.run.logits[self.position], self.run.at_zero[self.position]
        value = logits[target] - logits.mean()
        effects = self.run.effects(value)
        rest = (zero[target] - zero.mean()).item()
        parts = _sums(effects)
        difference = abs(sum(parts.values()) + rest - value.item())
        size = sum(map(abs, parts.values())) + abs(rest) + abs(value.item())
        if not difference <= 1e-3 * size:
            layers = [site.language.layer for site in self.run.sites]
            raise ValueError(
                f"With attention patterns, norms and MLPs frozen, the logits are not an affine "
                f"function of the activations at {layers}: the sum of all effects on a logit is "
                f"off by {difference:.3g} of {value.item():.3g}. Name layers after the "
                "non-linearity of an MLP."
            )
        self._add(effects, value.item(), rest)

    def _explain_feature(self, s, i, importance):
        site = self.run.sites[s]
        row, constant = site.encoder_row(i, self.run.activations[s])
        given = self.run.given[s][0, site.position[i]]
        value = (given.double() * torch.from_numpy(row).to(given.device)).sum() + constant
        effects = self.run.effects(value)
        self._add(effects, value.item(), value.item() - sum(_sums(effects).values()))
        self.rows.append((s, i))
        total = sum(abs(each).sum() for each in effects["feature"][:s]) or 1.0
        for earlier in range(s):
            share = abs(effects["feature"][earlier]) / total
            importance[earlier] = importance[earlier] + importance[s][i] * share

    def _add(self, effects, value, rest):
        self.explained.append(effects)
        self.values.append(value)
        self.rest.append(rest)

    def graph(self, prompt):
        """The AttributionGraph."""
        run = self.run
        chosen = [(s, i) for s in range(len(run.sites)) for i in self.kept[s]]
        sums = [_sums(each) for each in self.explained]
        effects, target_node = self._effects(chosen)
        decode, layers = run.language.tokenizer.decode, [x.language.layer for x in run.sites]
        return AttributionGraph(
            **self._nodes(chosen),
            effects=effects,
            values=np.array(self.values),
            target_node=target_node,
            sums={name: np.array([each[name] for each in sums]) for name in sums[0]}
            | {"rest": np.array(self.rest)},
            probabilities=run.probabilities[self.position][self.targets],
            prompt=prompt,
            tokens=[decode([j]) for j in run.ids.tolist()],
            words={j: decode([j]) for j in self.targets},
            layers=layers,
            depths=_depths(layers),
        )

    def _effects(self, chosen):
        """The matrix of effects between nodes, and the nodes that are explained."""
        entries = [
            np.concatenate(
                [
                    *(
                        of_site[kept]
                        for of_site, kept in zip(x["feature"], self.kept, strict=True)
                    ),
                    x["error"].ravel(),
                    x["token"],
                ]
            )
            for x in self.explained
        ]
        node, first_logit = {pair: n for n, pair in enumerate(chosen)}, len(entries[0])
        n_nodes = first_logit + len(self.targets)
        target_node = np.array([*range(first_logit, n_nodes), *(node[pair] for pair in self.rows)])
        row = np.repeat(target_node, first_logit)
        column = np.tile(np.arange(first_logit), len(entries))
        shape = n_nodes, n_nodes
        effects = csr_array(coo_array((np.concatenate(entries), (row, column)), shape=shape))
        effects.eliminate_zeros()
        return effects, target_node

    def _nodes(self, chosen):
        """Columns of the nodes: features, errors, tokens, logits."""
        run, length, n_targets = self.run, len(self.run.ids), len(self.targets)
        n_sites, tokens = len(run.sites), np.arange(length if run.has_tokens else 0)
        at = [(run.sites[s], i) for s, i in chosen]
        n_of_kinds = [len(chosen), n_sites * length, len(tokens), n_targets]
        activation = [
            [site.code_value[i] for site, i in at],
            *(np.linalg.norm(site.error, axis=1) for site in run.sites),
            np.ones(len(tokens)),
            run.probabilities[self.position][self.targets],
        ]
        return {
            "kind": np.repeat(KINDS, n_of_kinds),
            "site": _joined(
                [s for s, _ in chosen],
                np.repeat(np.arange(n_sites), length),
                np.full(len(tokens), -1),
                np.full(n_targets, n_sites),
            ),
            "position": _joined(
                [site.position[i] for site, i in at],
                np.tile(np.arange(length), n_sites),
                tokens,
                np.full(n_targets, self.position),
            ),
            "feature": _joined(
                [site.feature[i] for site, i in at],
                np.full(n_sites * length, -1),
                run.ids[tokens],
                self.targets,
            ),
            "activation": np.concatenate(activation).astype(np.float64),
        }


def _joined(*parts):
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])


def _sums(effects):
    """Sums of the effects on a target by their kind."""
    return {
        "feature": float(sum(each.sum() for each in effects["feature"])),
        "error": float(effects["error"].sum()),
        "token": float(effects["token"].sum()),
        "bias": float(effects["bias"]),
    }


def _is_linear(site):
    steps = site.language.dictionary.steps
    return len(steps) == 1 and getattr(steps[0][1], "encoder_coef_", None) is not None


def _depths(layers):
    """Number of the block of each layer; where these do not ascend, the layers are counted."""
    found = [re.search(r"(?:^|\.)(\d+)(?:\.|$)", layer) for layer in layers]
    depths = [int(match[1]) if match else -1 for match in found]
    is_ascending = all(a < b for a, b in zip([-1, *depths], depths, strict=False))
    return depths if is_ascending else list(range(len(layers)))
