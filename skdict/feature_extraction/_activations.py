"""Turn texts or arrays into the activations of one layer of a network."""

import copy
import os
from numbers import Integral

import joblib
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import Bunch

from .._core.language.extraction import pool_rows, stack_rows
from .._core.language.layers import Layer
from .._core.language.sites import find_place
from .._core.language.texts import check_texts
from .._core.language.windows import TokenWindows
from ..utils._extractors import ExtractorMixin
from ..utils._sklearn_compat import (
    Interval,
    StrOptions,
    clone_parametrized,
    fit_context,
    validate_parameter_constraints,
)
from ._cache import open_cache
from ._for_dictionary import extractor_for
from ._inputs import check_inputs, network_of, ready_tokenizer, tokenized
from ._large import LargeDataMixin


class ActivationExtractor(
    LargeDataMixin,
    ExtractorMixin,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Turn texts into the activations of one layer of a transformer, one row per token.

    The texts are tokenized and run through the model in batches of similar length, up to the
    layer and no further. Rows are in the order of the texts, and within a text in the order of
    its tokens; :meth:`tokens` tells which token each row belongs to. With ``tokenizer=None``
    arrays are run through any `torch.nn.Module` instead: pictures, series, grids, tables. Then
    :meth:`positions` tells where each row is: sample, and time, or y and x.

    Parameters
    ----------
    model : str, path-like or torch.nn.Module
        The model whose activations are taken:

        - the id of a model on the Hugging Face Hub, or a local folder written by
          ``save_pretrained``, which never causes a request to the network. The class that the
          checkpoint was saved from is loaded (`GPT2LMHeadModel`, say, not `GPT2Model`), so that
          the dotted names of its layers are those in the checkpoint; `AutoModel` where the
          checkpoint names no class. The estimator holds only the name, so its pickles are small.
          The two models used last stay in memory, and clones share them.
        - a ready module, which clones share too. It is used as it is, on its own device and in
          its own dtype. During `transform` it is in evaluation mode, and afterwards in the mode
          that it was in before.

    layer : str
        Dotted path of the layer, as in ``model.named_modules()``, such as
        "transformer.h.0.mlp.act"; or a name that has its own side, "layers.0.mlp.out" or
        "blocks.0.hook_mlp_out", see :class:`Site`. If a forward pass calls the layer several
        times, `call` says which call is meant. Of a tuple, the first tensor is taken.

    side : {"output", "input"}, default="output"
        Whether to take what the layer returns or what it is given.

    feature_axis : "auto" or int, default="auto"
        Axis of the layer's activation that holds the features: 1, 2, ... or -1, -2, ... Axis 0
        is that of the texts or samples. "auto" looks at the layer and at those before it: a
        convolution has its channels on axis 1, a linear layer or a norm on the last. If nothing
        tells, an error asks for this parameter.

    call : int, default=None
        Of a layer that a forward pass calls several times, as ALBERT does its only block, the
        call whose activation is taken: 0, 1, ... from the first, or -1, -2, ... from the last.
        With a negative one the forward pass cannot stop at the layer. None for a layer that is
        called once; any other is refused.

    tokenizer : "auto", None or a fast tokenizer of transformers, default="auto"
        "auto" loads the tokenizer that belongs to `model`. None is for a model that takes
        arrays. The tokenizer need not have a padding token, and it is not changed.

    pooling : {"mean", "max", "last"} or None, default=None
        How the rows of a text (or sample) become one: their mean, their maximum, or the last
        one. None for one row per token.

    max_length : int, default=None
        Greatest number of tokens that the model is given at once, special tokens included. None
        for the context length of the model or the tokenizer, whichever is less.

    long_documents : {"truncate", "window"}, default="truncate"
        What to do with a text of more than `max_length` tokens: keep its first tokens, or run
        it in consecutive windows, with a row for each of its tokens. The windows do not
        overlap, so the first tokens of each have little context.

    include_special_tokens : bool, default=False
        Whether tokens such as "[CLS]" or "<s>" get a row. The token for unknown text is not a
        special token in this sense.

    batch_size : int, default=32
        Texts (windows, samples) per forward pass. If the rows of a text depend on how far it is
        padded, only texts of equal length are run together. If they still depend on the other
        texts, only 1 is allowed.

    device : str, default="auto"
        Where a model given by name is run: "auto" (CUDA if there is one, else the CPU) or a
        device name of torch. A ready module stays where it is.

    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision that a model given by name is run in. "auto" is float32 on the CPU; on a GPU
        bfloat16, or float16 where it has no bfloat16. A ready module stays as it is.

    cache : str, path-like, joblib.Memory or None, default=None
        Folder in which activations are stored. With it, each text goes through the model once,
        whatever cross-validation folds, grid candidates, processes or later sessions it occurs
        in. The key of a file is made of the token ids and of a digest of everything that decides
        what the model computes (weights, attributes, adapters, hooks, your own code, autocast).
        The digest is taken at each call, so `max_length`, `pooling`, the tokenizer and the model
        may change. A model that has no digest is run without the cache, with a warning. Damaged
        files are computed again. If the folder cannot be written to, results are the same and
        are not stored. Processes that share the folder wait for each other instead of computing
        twice. Inside a `steer` or `replace_activations` block the cache is not used. Delete the
        folder to free the space: 4 bytes per token and feature, special tokens included.

    trust_remote_code : bool, default=False
        Whether code that comes with a model given by name may be run.

    Attributes
    ----------
    n_features_in_ : int
        Size of the second axis of `X`. Only with ``tokenizer=None``.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names of `X`. Only with ``tokenizer=None`` and when `X` has column names that
        are all strings.

    See Also
    --------
    skdict.decomposition.SparseAutoencoderDictionary : Sparse dictionary of the activations.
    ActivationStore : Activations on disk, which `to_store` writes.
    sklearn.feature_extraction.text.HashingVectorizer : Token counts, stateless as well.

    Notes
    -----
    This estimator is stateless: `fit` only checks parameters, layer and `X`, and `transform`
    works without it. The first use of a layer in a process takes additional forward passes. One
    pass of two tokens (or one sample) goes through the whole model, and tells how often the layer
    is called, how wide it is and which axis holds its features. A few passes of two texts of at
    most 16 tokens (or two samples), together and alone, go as far as the layer. They tell whether
    its rows depend on the batch, and whether it is given each token at its place in the text: a
    decoder that is given them shifted by one, as BART's is, is refused. If the model has been
    changed, the passes are made again.

    The progress of `fit_transform`, and so of fitting a `Pipeline`, and of `transform` can be
    followed through callbacks (:meth:`set_callbacks`): each batch is a subtask, of a task named
    "fit" or "transform". `fit` is a single task.

    Batches change the results by no more than rounding. In arrays, integers are token ids for a
    model with a token embedding, and numbers for any other. Numbers are given to a ready module in
    the widest floating-point type of its parameters that its forward pass accepts.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skdict.feature_extraction import ActivationExtractor
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> extractor = ActivationExtractor(model, "1", tokenizer=None)
    >>> extractor.fit_transform(np.eye(3)).shape
    (3, 8)

    The neurons of a transformer, at each token of two texts:

    >>> from skdict.datasets import load_one_layer_transformer
    >>> bunch = load_one_layer_transformer()
    >>> extractor = ActivationExtractor(
    ...     bunch.model, "transformer.h.0.mlp.act", tokenizer=bunch.tokenizer
    ... )
    >>> texts = ["import numpy as np", "return"]
    >>> extractor.fit_transform(texts).shape
    (8, 512)
    >>> tokens = extractor.tokens(texts)
    >>> tokens.token.tolist()
    ['import', ' n', 'ump', 'y', ' as', ' n', 'p', 'return']
    >>> tokens.document
    array([0, 0, 0, 0, 0, 0, 0, 1])
    """

    _parameter_constraints = {
        "model": "no_validation",  # `network_of` and `ready_tokenizer` check
        "layer": [str],
        "side": [StrOptions({"output", "input"})],
        "feature_axis": [StrOptions({"auto"}), Integral],
        "call": [Interval(Integral, None, None, closed="neither"), None],
        "tokenizer": "no_validation",
        "pooling": [StrOptions({"mean", "max", "last"}), None],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "long_documents": [StrOptions({"truncate", "window"})],
        "include_special_tokens": ["boolean"],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "dtype": [StrOptions({"auto", "float32", "float16", "bfloat16"})],
        "cache": [str, os.PathLike, joblib.Memory, None],
        "trust_remote_code": ["boolean"],
    }

    def __init__(
        self,
        model,
        layer,
        *,
        side="output",
        feature_axis="auto",
        call=None,
        tokenizer="auto",
        pooling=None,
        max_length=None,
        long_documents="truncate",
        include_special_tokens=False,
        batch_size=32,
        device="auto",
        dtype="auto",
        cache=None,
        trust_remote_code=False,
    ):
        self.model = model
        self.layer = layer
        self.side = side
        self.feature_axis = feature_axis
        self.call = call
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_length = max_length
        self.long_documents = long_documents
        self.include_special_tokens = include_special_tokens
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.cache = cache
        self.trust_remote_code = trust_remote_code

    @classmethod
    def for_dictionary(cls, dictionary, model=None, **params):
        """Make the extractor of the activations that a loaded dictionary was trained on.

        It follows ``dictionary.activation_``: model, layer and side (or the name of a hook in
        TransformerLens), special tokens that were left out, the context length, and what was done
        with each row.

        Parameters
        ----------
        dictionary : estimator
            As :func:`skdict.io.load_dictionary` returns it.

        model : str, path or torch.nn.Module, default=None
            None takes the name that the dictionary knows.

        **params : dict
            Other parameters, to be used instead of what the dictionary says.

        Returns
        -------
        extractor : ActivationExtractor or Pipeline
            A Pipeline with a :class:`RowTransform` where rows were centred or scaled.

        Raises
        ------
        ValueError
            If the dictionary does not say model or layer, and they are not given, or the model
            has no such place.

        Examples
        --------
        >>> from skdict import ActivationExtractor, SparseAutoencoderDictionary
        >>> from skdict.datasets import load_one_layer_transformer
        >>> bunch = load_one_layer_transformer()
        >>> sae = SparseAutoencoderDictionary(64)
        >>> sae.activation_ = {"hook": "blocks.0.mlp.hook_post"}  # as loaded ones have it
        >>> extractor = ActivationExtractor.for_dictionary(
        ...     sae, bunch.model, tokenizer=bunch.tokenizer
        ... )
        >>> extractor.layer, extractor.side
        ('transformer.h.0.mlp.c_proj', 'input')
        """
        return extractor_for(cls, dictionary, model, params)

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the parameters, the layer and the input.

        Parameters
        ----------
        X : list, ndarray or Series of str of length n_texts; or array-like of shape \
                (n_samples, ...) with ``tokenizer=None``
            Non-empty texts.

        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : object
            The estimator itself.
        """
        context = self._init_callback_context()
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self._fit(X)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None):
        """Check the parameters, the layer and the input, and return the activations.

        Parameters
        ----------
        X : list, ndarray or Series of str of length n_texts; or array-like of shape \
                (n_samples, ...) with ``tokenizer=None``
            Non-empty texts.

        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        activations : ndarray of shape (n_rows, n_features), dtype float32
            As `transform` returns them.
        """
        return self._activations(self._fit(X), self._follower("fit", X, y))

    def transform(self, X):
        """Return the activations.

        Parameters
        ----------
        X : list, ndarray or Series of str of length n_texts; or array-like of shape \
                (n_samples, ...) with ``tokenizer=None``
            Non-empty texts.

        Returns
        -------
        activations : ndarray of shape (n_rows, n_features), dtype float32
            One row per token, or with `pooling` per text. With ``tokenizer=None``, a layer of
            shape (n_samples, n_features) gives one row per sample. A layer of more axes, such as
            (n_samples, n_positions, n_features) or (n_samples, n_channels, height, width), gives
            one row per position, in the order of the axes that are not `feature_axis`;
            :meth:`positions` tells which.

        Raises
        ------
        ValueError, TypeError
            If a parameter, the layer or a text is not valid.
        """
        self._validate()
        network = network_of(self)
        inputs = check_inputs(self, X, network)
        layer = self._layer(network, inputs)
        if layer.n_features != getattr(self, "_n_features_out", layer.n_features):
            raise ValueError(
                f"layer={self.layer!r} has {layer.n_features} features, but had "
                f"{self._n_features_out} in fit. Fit again."
            )
        return _transform_followed(copy.copy(self), layer, X)

    def get_feature_names_out(self, input_features=None):
        """Get output feature names for transformation.

        With texts as input, they can be had before `fit`.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Only compared with `feature_names_in_`, if there are any.

        Returns
        -------
        feature_names_out : ndarray of str objects
            "activationextractor0", "activationextractor1", and so on.
        """
        fitted = copy.copy(self)
        if self.tokenizer is not None:
            fitted._n_features_out = self._layer(network_of(self), TokenWindows.first()).n_features
        return super(ActivationExtractor, fitted).get_feature_names_out(input_features)

    def positions(self, X):
        """Return the place that each row of ``transform(X)`` belongs to.

        Parameters
        ----------
        X : list, ndarray or Series of str of length n_texts; or array-like of shape \
                (n_samples, ...) with ``tokenizer=None``
            Non-empty texts.

        Returns
        -------
        positions : :class:`~sklearn.utils.Bunch`
            Arrays of length n_rows, dtype int64:

            document : ndarray
                Index of the text or sample in `X`. With `pooling` there is nothing else.
            position : ndarray
                For texts and arrays of token ids, the place of the token in what the model was
                given. Special tokens count, so the first token after a "<s>" is at 1. In each
                window of a long text the count starts again. Also the place in a sequence that
                a model makes of larger samples, such as the patches of a picture.
            time : ndarray
                For series, numbers of shape (n_samples, n_steps) or of three axes: the place on
                the activation's axis that does not hold features.
            y, x : ndarray
                For pictures, where the activation has two more axes: row and column, from the
                top and from the left. With three axes there is `z` before them, with more there
                are `axis_1`, `axis_2` and so on.

        See Also
        --------
        skdict.inspection.FeatureHeatmapDisplay : Draws features where they are active.

        Notes
        -----
        Places are those of the layer's activation, whose grid is coarser than the input where
        the model strides, pools or cuts patches. Arrays need the shape of the activation, so
        the first use of a layer runs the model on a sample. Texts are only tokenized.

        Examples
        --------
        >>> import torch
        >>> from skdict.feature_extraction import ActivationExtractor
        >>> extractor = ActivationExtractor(torch.nn.Conv2d(1, 4, 3), "", tokenizer=None)
        >>> images = torch.zeros(2, 1, 4, 5)
        >>> extractor.transform(images).shape
        (12, 4)
        >>> positions = extractor.positions(images)
        >>> positions.document
        array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
        >>> positions.y, positions.x
        (array([0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]), array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]))
        """
        self._validate()
        network = network_of(self)
        inputs = check_inputs(self, X, network)
        if self.pooling is not None:
            return Bunch(document=np.unique(inputs.document))
        if self.tokenizer is not None:
            return Bunch(**inputs.positions())
        return Bunch(**inputs.positions(self._layer(network, inputs).grid))

    def tokens(self, X):
        """Return the token that each row of ``transform(X)`` belongs to.

        Parameters
        ----------
        X : list, ndarray or Series of str of length n_texts; or array-like of shape \
                (n_samples, ...) with ``tokenizer=None``
            Non-empty texts.

        Returns
        -------
        tokens : :class:`~sklearn.utils.Bunch`
            What :meth:`positions` returns, "document" and "position", and for texts further
            arrays of length n_rows:

            token_id : ndarray of int
                Index in the vocabulary.
            token : ndarray of object
                The piece of text, ``X[document][start:end]``. Several tokens can share a
                piece, such as those that make up one character. A token that does not stand for
                text is given by its name in the vocabulary.
            start, end : ndarray of int
                Its first character in the text, and the one after its last.

        Raises
        ------
        ValueError
            If rows do not belong to the tokens of texts, because of `pooling`.
        """
        self._validate()
        if self.tokenizer is None:
            return self.positions(X)
        if self.pooling is not None:
            raise ValueError(
                "tokens() tells the token of each row, but rows do not belong to tokens with "
                f"pooling={self.pooling!r}: there is one for each text. positions() numbers them."
            )
        network = network_of(self)
        texts, tokenizer = check_texts(X, may_be_empty=True), ready_tokenizer(self)
        windows = tokenized(self, texts, tokenizer, network, with_spans=True)
        return Bunch(**windows.tokens(texts, tokenizer))

    def load(self):
        """Return the model and the tokenizer, loaded if they are given by name.

        They are those that `transform` uses, shared and not copied. The estimator does not keep
        a reference to them, so its pickles stay small.

        Returns
        -------
        bunch : :class:`~sklearn.utils.Bunch`
            Dictionary-like object with the following attributes.

            model : torch.nn.Module
                The model, on the device and in the dtype in which it is run. Do not change it.
            tokenizer : transformers.PreTrainedTokenizerBase or None
                Its tokenizer; None with ``tokenizer=None``.

        Raises
        ------
        ValueError
            If a parameter is not valid, or there is no such model or tokenizer.

        Examples
        --------
        >>> from skdict.datasets import load_one_layer_transformer
        >>> from skdict.feature_extraction import ActivationExtractor
        >>> folder = load_one_layer_transformer().path
        >>> language = ActivationExtractor(folder, "transformer.h.0.mlp.act").load()
        >>> language.model.config.n_layer, len(language.tokenizer)
        (1, 4096)
        """
        self._validate()
        tokenizer = None if self.tokenizer is None else ready_tokenizer(self)
        return Bunch(model=network_of(self).module, tokenizer=tokenizer)

    def _validate(self):
        """Check the parameters, outside of `fit`."""
        params = self.get_params(deep=False)
        validate_parameter_constraints(self._parameter_constraints, params, type(self).__name__)

    def _fit(self, X):
        network = network_of(self)
        inputs = check_inputs(self, X, network, reset=True)
        layer = self._layer(network, inputs)
        if self.tokenizer is None:
            self._n_features_out = layer.n_features
        return layer

    def _layer(self, network, inputs):
        """Return the layer, which is examined at its first use."""
        layer, side, _ = find_place(network.module, self.layer, self.side)
        return Layer(
            network,
            layer,
            side,
            inputs,
            batch_size=self.batch_size,
            feature_axis=self.feature_axis,
            call=self.call,
        )

    def _follower(self, task_name, X, y=None):
        """Function that yields batches, each a subtask that callbacks are told of."""

        def follow(batches):
            context = self._init_callback_context(task_name, max_subtasks=len(batches))
            context.call_on_fit_task_begin(estimator=self, X=X, y=y)
            for batch in batches:
                subtask = context.subcontext(task_name="batch")
                subtask.call_on_fit_task_begin(estimator=self)
                yield batch
                # a request to stop is ignored: rows would be missing
                subtask.call_on_fit_task_end(estimator=self)
            context.call_on_fit_task_end(estimator=self, X=X, y=y)

        return follow

    def _activations(self, layer, follow):
        """Return the rows of all inputs."""
        cache = open_cache(self.cache, layer)
        results = layer.read_all(follow) if cache is None else cache.read_all(layer, follow)
        if self.pooling is None:
            return stack_rows(results, layer.inputs)
        return pool_rows(results, layer.inputs, self.pooling)

    def __sklearn_clone__(self):
        # model and tokenizer are shared, everything else is as in any other clone
        template = copy.copy(self)
        template.model = template.tokenizer = None
        clone = clone_parametrized(template)
        clone.model, clone.tokenizer = self.model, self.tokenizer
        return clone

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = self.tokenizer is not None
        tags.input_tags.two_d_array = self.tokenizer is None
        tags.input_tags.three_d_array = self.tokenizer is None
        tags.transformer_tags.preserves_dtype = []  # always float32
        return tags


@with_callbacks
def _transform_followed(extractor, layer, X):
    """The rows of all inputs; a copy of the extractor holds the callbacks meanwhile."""
    return extractor._activations(layer, extractor._follower("transform", X))
