"""A page of features: a single file that opens from disk."""

import os
from html import escape
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from ..._core.language.texts import check_texts
from ..._core.optional import optional
from ...metrics._coding import check_dictionary
from ...utils._files import replacing
from ...utils._random import check_random_state
from ...utils._sklearn_compat import Interval, validate_params
from ...utils._warnings import warn
from ..actions._language import Language
from ..codes._active import selected
from ..codes._collecting import collect_codes
from ..codes._tokens import token_table, writable
from ..displays._feature import FeatureDisplay
from ..results._feature_names import feature_names
from ._panels import N_NEAR_MISSES, density_histogram, gather, shown_texts

_OPTIONS = {
    "n_top": [Interval(Integral, 1, None, closed="left")],
    "n_intervals": [Interval(Integral, 1, None, closed="left")],
    "n_per_interval": [Interval(Integral, 1, None, closed="left")],
    "random_state": ["random_state"],
}
N_IN_NOTEBOOK = 50  # features of the page that a notebook embeds


class FeatureDashboard:
    """Features with their examples and statistics, as a page, in a notebook, or as figures.

    Create it with `from_pipeline`, or without a language model with `from_activations`.

    Parameters
    ----------
    content : dict
        The content that these two gather.

    Attributes
    ----------
    features_ : ndarray of shape (n_selected,), int64
        The features.

    density_ : ndarray of shape (n_components,), float64
        Density of all features of the dictionary: the fraction of the tokens on which each is
        active.

    See Also
    --------
    top_activations : The examples of the page, as arrays.
    feature_effects, top_logits : Its effects and logits, as arrays.

    Notes
    -----
    The page is a single file without external resources: it opens from disk, offline, and its
    content security policy forbids requests. Text from the data is never interpreted as HTML or
    script. A feature's content is parsed only when the feature is opened, so that a page of
    thousands of features opens at once.

    For each feature the page shows

    - its density among those of all features, a histogram of its activations, and the share of
      their sum in each bin;
    - tokens in context: the most active ones, samples from intervals of equal width, a sample of
      all tokens on which it is active, and near misses, the tokens on which it is inactive but
      closest to active: with the greatest pre-activation of the encoder, or the greatest
      projection on the atom if the codes are not made by an encoder. Shading shows the
      activation. With a language model, an underline on the next token shows that the feature
      helped to predict it (solid) or hurt (dotted), measured by ablation at the most active
      tokens;
    - the logits that it raises and lowers (`top_logits`), along the direct path, or along all
      paths if there is no direct one;
    - the neurons with the greatest weights in its atom, by absolute value;
    - the nearest of all features by cosine of the atoms and by correlation of the codes;
    - the cosine of encoder row and atom, and the encoder's bias. A low cosine is typical of
      features that are hardly ever active.

    Keys: ``/`` searches, ``j`` and ``k`` go to the next and previous feature, ``Escape`` goes
    to the index, and the left and right arrows move along the tokens of a line. Append
    ``#feature-17`` to the page's address to open feature 17.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict import ActivationExtractor, SparseAutoencoderDictionary
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.inspection import FeatureDashboard
    >>> texts = ["import numpy as np", "for i in range(10):", "return x"]
    >>> extractor = ActivationExtractor(
    ...     load_one_layer_transformer().path, "transformer.h.0.mlp.act"
    ... )
    >>> dictionary = SparseAutoencoderDictionary(16, max_iter=1, random_state=0)
    >>> pipeline = make_pipeline(extractor, dictionary).fit(texts)
    >>> dashboard = FeatureDashboard.from_pipeline(pipeline, texts, features=[0, 3])
    >>> path = dashboard.to_html("features.html")
    """

    def __init__(self, content):
        self.content = content
        self.features_ = np.array([feature["id"] for feature in content["features"]])
        self.density_ = content["density_"]

    @classmethod
    @validate_params(_OPTIONS, prefer_skip_nested_validation=True)
    def from_pipeline(
        cls,
        pipeline,
        texts,
        *,
        features=None,
        labels=None,
        show_texts=(),
        n_top=20,
        n_intervals=10,
        n_per_interval=3,
        title="Features",
        random_state=0,
    ):
        """Gather the content from texts and the model that reads them.

        Parameters
        ----------
        pipeline : Pipeline
            Fitted; an :class:`~skdict.feature_extraction.ActivationExtractor` on a language
            model, then a dictionary with `inverse_transform`.

        texts : list, ndarray or Series of str
            The texts that examples are taken from. Codes are computed in blocks of rows and not
            kept: three or four passes over the texts. If the model is slow, give the extractor a
            cache.

        features : array-like of int of shape (n_selected,), default=None
            Which features; all of them by default.

        labels : mapping, DataFrame or matrix, default=None
            Names of features: a dict from features to names, or to pairs of a name and its
            score; or what `interpret_features` returned, whose explanations are the names
            and whose first score (detection by default) is shown. Or labels of the tokens:
            "data" and "target_names" as `label_tokens` and
            :func:`~skdict.datasets.python_token_labels` return them, or a DataFrame or matrix
            with a row per token and a column per label. Each feature is then named after the
            label that it detects best, with the F1 of "the feature is active" as score.

        show_texts : list of str, default=()
            Further texts to show whole, with the active features of each token, at most the 256
            most active ones. Long texts are run in windows.

        n_top : int, default=20
            Most active tokens per feature. The effect on the next token is measured at these.

        n_intervals : int, default=10
            Intervals of activation.

        n_per_interval : int, default=3
            Tokens sampled from each interval.

        title : str, default="Features"
            Heading of the page.

        random_state : int, RandomState instance or None, default=0
            Determines the samples.

        Returns
        -------
        dashboard : FeatureDashboard

        Raises
        ------
        TypeError
            If `pipeline` is not a Pipeline of these two steps.
        ValueError
            If a feature is out of range, or `labels` belong to other tokens.

        Warns
        -----
        UserWarning
            If a part of the page cannot be made, such as the logits of a model without a language
            modelling head. The page says so too.
        """
        language = Language(pipeline)
        reason = language.why_not_causal()
        texts = check_texts(texts, name="texts")
        codes = collect_codes(pipeline, texts, n_near_misses=N_NEAR_MISSES)
        shown = None
        if len(show_texts):
            show_texts = check_texts(show_texts, name="show_texts")
            whole = clone(language.extractor).set_params(long_documents="window")
            steps = [("extractor", whole), ("dictionary", language.dictionary)]
            shown = collect_codes(Pipeline(steps), show_texts)
        dashboard = cls._gather(
            codes,
            language.dictionary,
            features,
            labels,
            shown,
            title,
            random_state,
            n_top=n_top,
            n_intervals=n_intervals,
            n_per_interval=n_per_interval,
            language=language if reason is None else None,
        )
        missing = dashboard.content["missing"]
        if reason is not None:
            missing.append(
                "No logits and no effects on the next token: these need a causal language model, "
                f"but {type(language.model).__name__} is not one: {writable(reason):.300}"
            )
        for message in missing:
            warn(message)
        return dashboard

    @classmethod
    @validate_params(_OPTIONS, prefer_skip_nested_validation=True)
    def from_activations(
        cls,
        dictionary,
        X,
        tokens,
        *,
        features=None,
        labels=None,
        n_top=20,
        n_intervals=10,
        n_per_interval=3,
        title="Features",
        random_state=0,
    ):
        """Gather the content from activations and their tokens.

        No language model is needed; the page has no logits and no effects on the next token.

        Parameters
        ----------
        dictionary : estimator
            Fitted, with `transform` and `inverse_transform`.

        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Activations. A memory map is read in blocks of rows.

        tokens : mapping
            For each row "document", an ascending number, and "token", its text. With "position",
            the token's place in the window that the model saw, snippets end with the window.
            With "start" and "end", the token's characters, spaces are shown as in the text.

        features : array-like of int of shape (n_selected,), default=None
            Which features; all of them by default.

        labels : mapping, DataFrame or matrix, default=None
            Names of features, or labels of the rows, as in `from_pipeline`.

        n_top : int, default=20
            Most active tokens per feature.

        n_intervals : int, default=10
            Intervals of activation.

        n_per_interval : int, default=3
            Tokens sampled from each interval.

        title : str, default="Features"
            Heading of the page.

        random_state : int, RandomState instance or None, default=0
            Determines the samples.

        Returns
        -------
        dashboard : FeatureDashboard

        Raises
        ------
        ValueError
            If a feature is out of range, or if `tokens` or `labels` have another number of rows.
        """
        check_dictionary(dictionary)
        codes = collect_codes(dictionary, X, tokens=tokens, n_near_misses=N_NEAR_MISSES)
        return cls._gather(
            codes,
            dictionary,
            features,
            labels,
            None,
            title,
            random_state,
            n_top=n_top,
            n_intervals=n_intervals,
            n_per_interval=n_per_interval,
        )

    @classmethod
    def _gather(
        cls,
        codes,
        dictionary,
        features,
        labels,
        shown,
        title,
        random_state,
        *,
        language=None,
        **sizes,
    ):
        columns = selected(features, codes.n_components)
        if len(columns) == 0 or len(np.unique(columns)) < len(columns):
            raise ValueError(
                "features must be at least one feature, and each only once, but is "
                f"{columns.tolist()!r:.80}."
            )
        names, scores, others = feature_names(codes, columns, labels, codes.n_rows)
        seed = check_random_state(random_state).randint(2**31)
        panels = gather(codes, dictionary, columns, seed=seed, language=language, **sizes)
        statistics = panels["statistics"]
        density = panels["n_active"] / statistics.n_samples
        for j, feature, name, score in zip(
            columns, panels["features"], names, scores, strict=True
        ):
            feature |= {"id": int(j), "label": name, "score": score}
        texts = [] if shown is None else shown_texts(shown)
        mentioned = {j for text in texts for _, active in text for j in active[::2]}
        for feature in panels["features"]:
            mentioned.update(j for j, _ in feature["cosine"] + feature["correlation"])
        return cls(
            {
                "title": writable(str(title)),
                "n_samples": statistics.n_samples,
                "n_components": codes.n_components,
                "population": density_histogram(density),
                "near_by": panels["near_by"],
                "missing": panels["missing"],
                "names": {j: name for j, name in others.items() if j in mentioned},
                "tokens": panels["tokens"],
                "features": panels["features"],
                "texts": texts,
                "density_": density,
            }
        )

    def to_html(self, path):
        """Write the page.

        Parameters
        ----------
        path : str, bytes or path-like
            File to write. It appears when it is complete.

        Returns
        -------
        path : pathlib.Path
            The path of the file.

        Raises
        ------
        ImportError
            If jinja2 is not installed.
        FileNotFoundError
            If the folder does not exist.
        """
        path = Path(os.fsdecode(path))
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"There is no folder {path.parent} to write {path.name} in. Create it."
            )
        with replacing(path) as file:
            for piece in self._page(self.content["features"]):
                file.write(piece)
        return path

    def _repr_html_(self):
        """The page in an iframe, with only the first features if there are many."""
        page = "".join(self._page(self.content["features"][:N_IN_NOTEBOOK]))
        return (
            f'<iframe srcdoc="{escape(page)}" sandbox="allow-scripts" '
            'style="width: 100%; height: 700px; border: 1px solid #888"></iframe>'
        )

    def plot(self, feature, *, ax=None):
        """Draw a feature's activations and logits.

        Parameters
        ----------
        feature : int
            One of `features_`.

        ax : pair of matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : FeatureDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If the feature is not in the dashboard.
        ImportError
            If matplotlib is not installed.
        """
        (index,) = np.nonzero(self.features_ == feature)
        if len(index) == 0:
            raise ValueError(
                f"feature={feature!r} is not in the dashboard, which has {len(self.features_)}: "
                f"{self.features_[:8].tolist()}..."
            )
        of_feature = self.content["features"][index[0]]
        logits = of_feature.get("logits", {"up": [], "down": []})
        edges = np.linspace(0, of_feature["maximum"], len(of_feature["histogram"]) + 1)
        label = of_feature["label"]
        return FeatureDisplay(
            edges,
            of_feature["histogram"],
            logits["up"] + logits["down"][::-1],
            name=f"feature {feature}" + (f": {label}" if label else ""),
        ).plot(ax=ax)

    def _page(self, features):
        """Yield the page in pieces."""
        with optional("jinja2", "FeatureDashboard", '"skdict[plot]"'):
            from jinja2 import Environment, PackageLoader
        environment = Environment(
            loader=PackageLoader("skdict.inspection.dashboard"), autoescape=True, trim_blocks=True
        )
        environment.policies["json.dumps_kwargs"] = {
            "separators": (",", ":"),
            "ensure_ascii": False,
            "allow_nan": False,
        }
        listed = ("id", "label", "score", "density", "maximum", "effect", "words")
        content = self.content
        tokens = content["tokens"]
        shown = {feature["id"] for feature in features}
        names = content["names"] | {
            feature["id"]: feature["label"] for feature in content["features"] if feature["label"]
        }
        if len(features) < len(content["features"]):
            tokens, features = _only(tokens, features)
        yield from environment.get_template("dashboard.html.jinja").generate(
            title=content["title"],
            general={
                **{
                    key: content[key]
                    for key in ("n_samples", "n_components", "population", "near_by", "missing")
                },
                "names": {j: name for j, name in names.items() if j not in shown},
                "tokens": {**tokens, "document": _runs(tokens["document"])},
                "n_texts": len(content["texts"]),
                "index": [[feature[key] for key in listed] for feature in features],
            },
            features=features,
            texts=content["texts"],
        )


def _runs(values):
    """Run-length encoding: a flat list [value, start of its run, value, start, ...]."""
    values = np.asarray(values)
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))[: len(values)]
    return [int(x) for start in starts for x in (values[start], start)]


def _only(tokens, features):
    """The token table reduced to the snippets of some features, and the features adapted to it."""
    every = [
        snippet
        for feature in features
        for groups in feature["snippets"].values()
        for group in groups
        for snippet in group
    ]
    used = np.unique(np.concatenate([np.arange(s[0], s[0] + s[1]) for s in every] or [[]]))
    used = used.astype(np.int64)
    names = [tokens["names"][tokens["ids"][place]] for place in used]
    table = token_table(names, [tokens["document"][place] for place in used])

    def moved(snippet):
        return [int(np.searchsorted(used, snippet[0])), *snippet[1:]]

    features = [
        feature
        | {
            "snippets": {
                kind: [[moved(snippet) for snippet in group] for group in groups]
                for kind, groups in feature["snippets"].items()
            }
        }
        for feature in features
    ]
    return table, features
