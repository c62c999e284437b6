"""A page of features: a file, or a folder, that opens from disk."""

import gzip
import json
import os
from html import escape
from numbers import Integral
from pathlib import Path

import numpy as np

from ...metrics._coding import check_dictionary
from ...utils._files import replacing, replacing_folder
from ...utils._random import check_random_state
from ...utils._sklearn_compat import Interval, validate_params
from ...utils._warnings import warn
from ..actions._language import Language
from ..codes._collecting import collect_codes
from ..codes._directions import feature_directions, n_components_of
from ..displays._feature import FeatureDisplay
from ._content import gather_content
from ._context import Context
from ._export import write_neuronpedia
from ._inputs import checked_codes, language_of, shown_codes
from ._names import Names
from ._page import json_pieces, page_pieces, write_folder
from ._schema import VERSION, EncodedFeatures, encoded

N_NEAR_MISSES = 10
N_IN_NOTEBOOK = 50  # features of the page that a notebook embeds


class FeatureDashboard:
    """Features with their examples and statistics, as a page, in a notebook, or as figures.

    Create it with `from_codes`, or `from_pipeline` and `from_activations`, which collect the
    codes.

    Parameters
    ----------
    content : dict
        The content that these gather.

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
    The page needs no network and no server: it opens from disk, and its content security policy
    forbids requests. Text from the data is never interpreted as HTML or script. A feature's
    content is parsed only when the feature is opened, so that a page of thousands of features
    opens at once. Beyond some thousand, write a folder.

    The first view lists the features. It says what the numbers come from, shows the densities of
    all features, how many are active at once, and a map, and filters and sorts. It opens with the
    features that a person can make most of: those with a name that are neither dense (active on
    more than 5 % of the tokens) nor rare (on fewer than ten), by score and effect; then those
    without a name; then the dense and the rare ones.

    For each feature the page shows

    - its name with its scores, beside chance and baselines;
    - its density, a histogram of its activations, and the share of their sum in each bin;
    - tokens in context: the most active ones, samples from intervals of equal width with the
      share of the active tokens in each, a sample of all tokens on which it is active, and near
      misses, the tokens on which it is inactive but closest to active: with the greatest
      pre-activation of the encoder, or the greatest projection on the atom if the codes are not
      made by an encoder. Shading shows the activation. A click shows the whole context. With a
      language model, an underline on the next token shows that the feature helped to predict it
      (solid) or hurt (dotted), measured by ablation at the most active tokens;
    - the logits that it raises and lowers (`top_logits`), along the direct path, or in total if
      there is none;
    - the neurons with the greatest weights in its atom, by absolute value;
    - the nearest of all features by cosine of the atoms and by correlation of the codes;
    - the cosine of encoder row and atom, and the encoder's bias. A low cosine is typical of
      features that are hardly ever active.

    Keys: ``/`` searches, ``j`` and ``k`` go to the next and previous feature, ``r`` to a random
    one, ``Escape`` goes to the list, and the left and right arrows move along the tokens of a
    line. Append ``#feature-17`` to the page's address to open feature 17, ``#compare-17-4`` to
    compare it with feature 4.

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
        self.features_ = np.array(content["index"]["id"], dtype=np.int64)
        dictionary = content["dictionary"]
        self.density_ = np.array(dictionary["n_active"]) / max(dictionary["n_counted"], 1)

    @classmethod
    @validate_params(
        {
            "n_top": [Interval(Integral, 1, None, closed="left")],
            "n_intervals": [Interval(Integral, 1, None, closed="left")],
            "n_per_interval": [Interval(Integral, 1, None, closed="left")],
            "random_state": ["random_state"],
        },
        prefer_skip_nested_validation=True,
    )
    def from_codes(
        cls,
        codes,
        features=None,
        *,
        pipeline=None,
        dictionary=None,
        names=None,
        token_labels=None,
        show_texts=(),
        images=None,
        steering=None,
        positions=None,
        provenance=None,
        n_top=20,
        n_intervals=10,
        n_per_interval=3,
        title="Features",
        random_state=0,
    ):
        """Gather the content from codes that were collected.

        The model is run for effects, logits and `show_texts` only.

        Parameters
        ----------
        codes : FeatureCodes
            With tokens; with near misses if these are to be shown. If each row is a document of
            its own, such as after ``codes.pooled()``, the page shows documents.

        features : int or array-like of int of shape (n_selected,), default=None
            Which features; all of them by default.

        pipeline : Pipeline, default=None
            The fitted extractor and dictionary that made the codes of these texts, for effects
            and logits. Codes need their texts then.

        dictionary : estimator, default=None
            The fitted dictionary alone, with `inverse_transform`, for what is known from its
            atoms: neurons, neighbours by direction, the map. A pipeline has one.

        names : mapping or DataFrame, default=None
            Names of features: a dict from features to names, or to pairs of a name and its
            score; or a table with the columns "feature" and "explanation", such as
            `interpret_features` returns. Of such a table the page shows each scorer NAME
            that has columns "NAME" and "NAME_chance", with its baselines "NAME_shuffled" and
            "NAME_neuron" if they are there.

        token_labels : mapping, DataFrame or matrix, default=None
            Labels of the rows: "data" and "target_names" as `label_tokens` and
            :func:`~skdict.datasets.python_token_labels` return them, or a DataFrame or matrix
            with a column per label. A feature that has no other name is named after the label
            that it detects best, with the F1 of "the feature is active" as score.

        show_texts : list of str, default=()
            Further texts to show whole, with the active features of each token, at most the 256
            most active ones. Long texts are run in windows. They need a `pipeline`.

        images : array-like of shape (n_images, height, width) or (n_images, height, width, \
                n_channels), default=None
            Pictures that the rows are places in, or are: "document" of the tokens is the
            picture, "y" and "x" are the place, if any, as the extractor's `positions` returns
            them. Of uint8, or of floats, which are scaled from their minimum to their maximum.
            The page draws the codes on the pictures.

        steering : mapping, default=None
            Texts written under steering, to show with the feature: from features to mappings
            from strengths to a text or a list of texts.

        positions : array-like of shape (n_components, 2), default=None
            Places of the features on the map, such as the `positions` of a
            :class:`FeatureMapDisplay`; by default the two greatest principal components of the
            atoms.

        provenance : mapping, default=None
            What else to say of where the numbers come from, such as ``{"corpus": "WikiText-103",
            "loss recovered": 0.98}``. It is added to what the codes know: model, layer,
            dictionary, L0, explained variance, number of texts and tokens, date and versions.

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
            If a feature is out of range, the codes have no tokens, `token_labels` belong to other
            tokens, or the extractor of `pipeline` finds other tokens in the texts.

        Warns
        -----
        UserWarning
            If a part of the page cannot be made, such as the logits of a model without a language
            modelling head. The page says so too.
        """
        codes, columns = checked_codes(codes, features, images)
        language, reason = (None, None) if pipeline is None else language_of(pipeline, codes)
        if language is not None:
            dictionary = language.dictionary
        elif dictionary is not None:
            check_dictionary(dictionary)
        if dictionary is not None and n_components_of(dictionary) != codes.n_components:
            raise ValueError(
                f"codes has {codes.n_components} features, but the dictionary has "
                f"{n_components_of(dictionary)}. Give the dictionary that made the codes."
            )
        context = Context(
            codes,
            dictionary,
            columns,
            images=images,
            language=language if reason is None else None,
            shown=shown_codes(language, show_texts),
            seed=check_random_state(random_state).randint(2**31),
            n_top=n_top,
            n_intervals=n_intervals,
            n_per_interval=n_per_interval,
        )
        context.missing += [] if reason is None else [reason]
        content = gather_content(
            context,
            Names.of(codes, columns, names, token_labels),
            title=title,
            provenance=provenance,
            positions=positions,
            steering=steering,
        )
        for message in content["missing"]:
            warn(message)
        return cls(content)

    @classmethod
    def from_pipeline(cls, pipeline, texts, features=None, **options):
        """Gather the content from texts and the model that reads them.

        Parameters
        ----------
        pipeline : Pipeline
            Fitted; an :class:`~skdict.feature_extraction.ActivationExtractor` on a language
            model, then a dictionary with `inverse_transform`.

        texts : list, ndarray or Series of str
            The texts that examples are taken from. One pass of the model finds their codes.

        features : int or array-like of int of shape (n_selected,), default=None
            Which features; all of them by default.

        **options
            Further parameters of `from_codes`.

        Returns
        -------
        dashboard : FeatureDashboard

        Raises
        ------
        TypeError
            If `pipeline` is not a Pipeline of these two steps.
        ValueError
            As `from_codes`.
        """
        Language(pipeline)  # its errors come before the pass
        codes = collect_codes(pipeline, texts, n_near_misses=N_NEAR_MISSES)
        return cls.from_codes(codes, features, pipeline=pipeline, **options)

    @classmethod
    def from_activations(cls, dictionary, X, tokens=None, features=None, *, texts=None, **options):
        """Gather the content from activations and their tokens.

        No language model is needed; the page has no logits and no effects on the next token.

        Parameters
        ----------
        dictionary : estimator
            Fitted, with `transform` and `inverse_transform`.

        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Activations. A memory map is read in blocks of rows, and so is an `ActivationStore`.

        tokens : mapping, default=None
            For each row "document", an ascending number, and "token", its text. With "position",
            the token's place in the window that the model saw, contexts end with the window.
            With "start" and "end", the token's characters, spaces are shown as in the text. If
            each row has a document of its own, "token" is its text: the page shows documents.
            With `images`, "document" is the image, and "y" and "x" are places in it.

        features : int or array-like of int of shape (n_selected,), default=None
            Which features; all of them by default.

        texts : sequence of str, default=None
            The texts of a store, which stand for "token"; it knows its other tokens.

        **options
            Further parameters of `from_codes`.

        Returns
        -------
        dashboard : FeatureDashboard

        Raises
        ------
        ValueError
            If `tokens` have another number of rows; and as `from_codes`.
        """
        check_dictionary(dictionary)
        codes = collect_codes(
            dictionary, X, tokens=tokens, texts=texts, n_near_misses=N_NEAR_MISSES
        )
        return cls.from_codes(codes, features, dictionary=dictionary, **options)

    def to_html(self, path):
        """Write the page.

        Parameters
        ----------
        path : str, bytes or path-like
            File to write, whose name ends in ".html" or ".htm"; it appears when it is complete.
            With another name, a folder: the page is its "index.html" and loads the features one
            by one when they are opened, still from disk. Beyond some thousand features a folder
            opens faster.

        Returns
        -------
        path : pathlib.Path
            The page to open.

        Raises
        ------
        ImportError
            If jinja2 is not installed.
        FileNotFoundError
            If the folder that is to hold it does not exist.
        FileExistsError
            If `path` is a folder with files that are not of such a page.
        """
        path = self._path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            with replacing_folder(path, overwrite=True) as folder:
                write_folder(self.content, folder)
            return path / "index.html"
        with replacing(path) as file:
            for piece in page_pieces(self.content):
                file.write(piece)
        return path

    def to_json(self, path=None):
        """The content as JSON.

        Parameters
        ----------
        path : str, bytes or path-like, default=None
            File to write.

        Returns
        -------
        json : str or pathlib.Path
            The JSON, or the path of the file. Its fields are those of `content`, which has a
            "version"; numbers have four significant digits.
        """
        if path is None:
            return b"".join(json_pieces(self.content)).decode("utf-8")
        path = self._path(path)
        with replacing(path) as file:
            for piece in json_pieces(self.content):
                file.buffer.write(piece)
        return path

    def save(self, path):
        """Write the content to a file that `load` reads, compressed JSON.

        Parameters
        ----------
        path : str, bytes or path-like
            File to write.

        Returns
        -------
        path : pathlib.Path
        """
        path = self._path(path)
        with (
            replacing(path) as file,
            # no time and no name, so that equal contents are equal files
            gzip.GzipFile("", "wb", compresslevel=5, fileobj=file.buffer, mtime=0) as compressed,
        ):
            for piece in json_pieces(self.content):
                compressed.write(piece)
        return path

    @classmethod
    def load(cls, path):
        """Read what `save` or `to_json` wrote.

        Parameters
        ----------
        path : str, bytes or path-like

        Returns
        -------
        dashboard : FeatureDashboard

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not one of these, or of a version that this version does not read.
        """
        file = Path(os.fsdecode(path))
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no file {str(file)!r}. Give a file that FeatureDashboard.save wrote."
            )
        data = file.read_bytes()
        try:
            content = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
            found = content["version"]
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(path)!r} holds no dashboard ({type(error).__name__}: {error}). Give a file "
                "that FeatureDashboard.save wrote."
            ) from error
        if found != VERSION:
            raise ValueError(
                f"{str(path)!r} has version {found!r} of the dashboard's format, but this skdict "
                f"reads version {VERSION}. Gather the dashboard again."
            )
        content["features"] = EncodedFeatures([encoded(each) for each in content["features"]])
        return cls(content)

    def to_neuronpedia(self, folder, *, model_id, sae_id, creator_id="skdict", dictionary=None):
        """Write the features in the format that Neuronpedia imports.

        Parameters
        ----------
        folder : str, bytes or path-like
            Folder to write: it gets ``MODEL_ID/SAE_ID`` with release, model, source set and
            source, and batches of features, activations and explanations, all as lines of JSON,
            compressed.

        model_id : str
            Neuronpedia's name of the model, such as "gpt2-small".

        sae_id : str
            Name of the source, by convention the layer and the name of its set, such as
            "6-res-mine".

        creator_id : str, default="skdict"
            Key of the account that the records belong to.

        dictionary : estimator, default=None
            The dictionary, whose atoms are added, for steering.

        Returns
        -------
        source : pathlib.Path
            The folder ``MODEL_ID/SAE_ID``.

        Raises
        ------
        ValueError
            If the features are not those of tokens, or an id is not a name of a folder.
        FileExistsError
            If the folder holds files that are not of such an export.

        Notes
        -----
        Examples are the most active tokens (whose bin is -1) and the samples of the intervals,
        with up to 64 tokens on each side; "binContains" is the share of the active tokens in the
        interval. Fields of what is not computed here, such as correlated neurons or DFA, are
        empty.
        """
        if self.content["unit"] != "token":
            raise ValueError(
                f"The features are those of a {self.content['unit']} each, but Neuronpedia takes "
                "examples of tokens."
            )
        for name, value in (("model_id", model_id), ("sae_id", sae_id)):
            if not isinstance(value, str) or value in ("", ".", "..") or set(value) & set("/\\"):
                raise ValueError(f"{name} must be a name without slashes, but is {value!r}.")
        vectors = None
        if dictionary is not None:
            vectors = feature_directions(dictionary, np.arange(len(self.density_)))
        return write_neuronpedia(
            self.content,
            self._path(folder),
            model_id=model_id,
            sae_id=sae_id,
            creator_id=creator_id,
            vectors=vectors,
        )

    def _path(self, path):
        """The path of a file to write, whose folder exists."""
        path = Path(os.fsdecode(path))
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"There is no folder {path.parent} to write {path.name} in. Create it."
            )
        return path

    def _repr_html_(self):
        """The page in an iframe, with only the first features if there are many."""
        first = np.argsort(self.content["index"]["rank"])[:N_IN_NOTEBOOK].tolist()
        page = "".join(page_pieces(self.content, first))
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
        of_feature = self.content["features"][int(index[0])]
        statistics, logits = of_feature["statistics"], of_feature.get("logits")
        words = []
        if logits:
            words = [
                pair
                for each, step in ((logits["raised"], 1), (logits["lowered"], -1))
                for pair in [*zip(each["tokens"], each["weights"], strict=True)][::step]
            ]
        edges = np.linspace(0, statistics["maximum"], len(statistics["histogram"]) + 1)
        label = of_feature.get("label")
        return FeatureDisplay(
            edges,
            statistics["histogram"],
            words,
            name=f"feature {feature}" + (f": {label}" if label else ""),
        ).plot(ax=ax)
