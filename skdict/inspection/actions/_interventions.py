"""Run a model on a dictionary's reconstructions, or with its features scaled or steered."""

from collections.abc import Mapping
from functools import partial
from numbers import Integral

import numpy as np
import torch
from scipy.sparse import issparse

from ..._core.torch_state import without_autocast
from ...metrics._coding import check_dictionary, check_rows_have_one_scale
from ...metrics._in_model import in_model, reconstruction_function
from ...metrics._place import PLACES, at_site
from ...metrics._rows import as_rows, check_finite, to_numpy
from ...utils._arrays import as_numbers, to_ndarray
from ...utils._sklearn_compat import HasMethods, Interval, StrOptions, validate_params
from ..codes._active import check_indices
from ..codes._directions import feature_directions, n_components_of

_SETTING = {
    "model": PLACES,
    "side": [StrOptions({"input", "output"}), None],
    "tokenizer": [HasMethods(["__call__", "convert_tokens_to_ids"]), None],
    "feature_axis": [StrOptions({"auto"}), Integral, None],
    "call": [Interval(Integral, 0, None, closed="left"), None],
}


@validate_params(
    {**_SETTING, "scale": [Mapping, None], "keep_error": ["boolean"]},
    prefer_skip_nested_validation=True,
)
def replace_activations(
    model,
    layer=None,
    dictionary=None,
    *,
    scale=None,
    keep_error=False,
    where=None,
    side=None,
    tokenizer=None,
    feature_axis=None,
    call=None,
):
    """Run a model on the reconstructions of a layer's activations, in a ``with`` block.

    Inside the block the model is the dictionary model: each activation :math:`x` of the layer
    is replaced by

    .. math::
        \\hat{x}(s \\odot z) = b + \\sum_j s_j z_j d_j
        \\qquad \\text{or with } \\texttt{keep_error} \\qquad
        x + \\sum_j (s_j - 1) z_j d_j

    with its code :math:`z`, the atoms :math:`d_j` and a factor :math:`s_j` for each feature,
    which is 1 unless `scale` gives another; 0 ablates the feature. On exit, also after an
    exception, the model is restored. Blocks can be nested: the inner block sees the activations
    that the outer block has replaced.

    Parameters
    ----------
    model : Pipeline, Site or torch.nn.Module
        A fitted Pipeline of an :class:`~skdict.feature_extraction.ActivationExtractor` and a
        dictionary, which says where: then nothing else is needed, as in
        ``replace_activations(pipeline)``. After a :class:`~skdict.feature_extraction.Site` the
        dictionary follows. Of a model itself both `layer` and `dictionary` are needed. Inside the
        block the model is called as usual, also by ``generate``.

    layer : str, default=None
        Dotted path of the layer, as in ``model.named_modules()``, or a name, see
        :class:`~skdict.feature_extraction.Site`.

    dictionary : estimator or callable, default=None
        A fitted estimator (or Pipeline) with `transform` and `inverse_transform`. Without
        `scale` and `keep_error`, a function from activations to reconstructions, both tensors
        of shape (n_tokens, n_features), is accepted too.

    scale : dict of int to float, default=None
        Factors by which the codes of some features are multiplied.

    keep_error : bool, default=False
        Whether to keep the dictionary's error :math:`x - \\hat{x}`, so that only `scale` changes
        the activations.

    where : array-like of bool, or callable, default=None
        Tokens at which activations are replaced; all by default. An array has shape (length,)
        or (n_sequences, length). Its columns are those of the token ids, including padding on
        the left; with a key-value cache they count from the beginning of the sequence. Nothing
        is replaced after the last column. A function is called with the token ids of a forward
        pass, a tensor of shape (n_sequences, length) or None, and the positions of its columns,
        an integer tensor of shape (length,); it returns booleans that broadcast to
        (n_sequences, length). Special tokens and padding are never changed.

    side : {"output", "input"}, default=None
        Whether what the layer returns is meant or its input. This and what follows is for a
        model alone: Pipeline and Site have their own. None is "output".

    tokenizer : tokenizer of transformers, default=None
        Its special tokens are not changed. By default the special tokens are the BOS, EOS and
        padding tokens of the model's config.

    feature_axis : "auto" or int, default=None
        Axis of the layer's activation that holds the features, as in
        :class:`~skdict.feature_extraction.ActivationExtractor`. "auto", which None means, is the
        last axis if the model is given tokens; otherwise it is inferred from the layer and those
        before it.

    call : int, default=None
        Of a layer that a forward pass calls several times, the only call to change, counted from
        0 in each forward pass of `model`. None for all calls.

    Returns
    -------
    context : context manager
        Returns the model, as in ``with replace_activations(...) as model:``.

    Raises
    ------
    TypeError
        If `dictionary` is not a dictionary, or what is needed after `model` is missing.
    ValueError
        If the layer or a feature does not exist. Inside the block, if the shapes of activations,
        reconstructions and `where` do not fit.
    NotImplementedError
        If a gradient through the replaced activations is asked for and not known: of codes that
        are found by a search or by NumPy.

    Warns
    -----
    UserWarning
        On exit, if the layer was never called in the block, or there was no such `call`.

    See Also
    --------
    ablate : Remove features, without replacing the rest.
    steer : Add to features or set their codes, without replacing the rest.
    skdict.metrics.loss_recovered : How much the language model loses on reconstructions.

    Notes
    -----
    A dictionary of skdict stays in torch, on the model's device and in sparse codes, and gradients
    pass through it: those of the encoder, with the active features held fixed.

    Examples
    --------
    >>> import torch
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.inspection import replace_activations
    >>> language = load_one_layer_transformer()
    >>> ids = language.tokenizer("import numpy as", return_tensors="pt").input_ids
    >>> with torch.no_grad(), replace_activations(
    ...     language.model, "transformer.h.0.mlp.act", lambda X: 0 * X
    ... ) as ablated:
    ...     without_neurons = ablated(ids).logits
    >>> with torch.no_grad():
    ...     bool((language.model(ids).logits == without_neurons).all())
    False
    """
    given = {"layer": layer, "dictionary": dictionary}
    site, (dictionary,) = at_site(
        "replace_activations",
        model,
        given,
        side=side,
        tokenizer=tokenizer,
        feature_axis=feature_axis,
        call=call,
    )
    if scale is None and not keep_error:
        return site.replace(reconstruction_function(dictionary), where=where)
    check_dictionary(dictionary, "With scale and keep_error, ")
    factors = _check_scale(scale or {}, n_components_of(dictionary))
    return site.replace(_scaled(dictionary, factors, keep_error), where=where)


@validate_params({**_SETTING, "keep_error": ["boolean"]}, prefer_skip_nested_validation=True)
def ablate(
    model,
    layer=None,
    dictionary=None,
    features=None,
    *,
    keep_error=True,
    where=None,
    side=None,
    tokenizer=None,
    feature_axis=None,
    call=None,
):
    """Run a model without some features, in a ``with`` block.

    Each activation :math:`x` of the layer is replaced by :math:`x - \\sum_j z_j d_j` over the
    chosen features, with their codes :math:`z_j` and atoms :math:`d_j`. It is short for
    `replace_activations` with ``scale={feature: 0}`` and ``keep_error=True``.

    Parameters
    ----------
    model : Pipeline, Site or torch.nn.Module
        As in `replace_activations`: ``ablate(pipeline, features)``,
        ``ablate(site, dictionary, features)`` or ``ablate(model, layer, dictionary, features)``.

    layer : str, default=None
        The layer, for a model.

    dictionary : estimator, default=None
        A fitted estimator (or Pipeline) with `transform` and `inverse_transform`.

    features : int or array-like of int of shape (n_selected,), default=None
        Which features.

    keep_error : bool, default=True
        Whether to keep the dictionary's error; else the rest is replaced by its reconstruction.

    where : array-like of bool, or callable, default=None
        Tokens at which the features are removed, as in `replace_activations`.

    side : {"output", "input"}, default=None
        Of a model alone, as what follows: Pipeline and Site have their own. None is "output".

    tokenizer : tokenizer of transformers, default=None
        Its special tokens are not changed; without one, those of the model's config.

    feature_axis : "auto" or int, default=None
        Axis of the activation that holds the features. None is "auto".

    call : int, default=None
        Of a layer that a forward pass calls several times, the only call to change.

    Returns
    -------
    context : context manager
        Returns the model, as in ``with ablate(...) as model:``.

    Raises
    ------
    TypeError
        If `dictionary` is not a dictionary, or what is needed after `model` is missing.
    ValueError, NotImplementedError
        As `replace_activations`.

    Warns
    -----
    UserWarning
        On exit, if the layer was never called in the block, or there was no such `call`.

    See Also
    --------
    feature_effects : The effect of ablation on the next token.

    Examples
    --------
    >>> import torch
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict import ActivationExtractor, SparseAutoencoderDictionary
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.inspection import ablate
    >>> language = load_one_layer_transformer()
    >>> extractor = ActivationExtractor(
    ...     language.model, "layers.0.mlp.act", tokenizer=language.tokenizer
    ... )
    >>> dictionary = SparseAutoencoderDictionary(16, max_iter=2, random_state=0)
    >>> pipeline = make_pipeline(extractor, dictionary)
    >>> pipeline = pipeline.fit(["import numpy as np", "for i in range(10):"] * 8)
    >>> ids = language.tokenizer("import numpy as", return_tensors="pt").input_ids
    >>> with torch.no_grad(), ablate(pipeline, [0, 3]) as model:
    ...     logits = model(ids).logits
    """
    given = {"layer": layer, "dictionary": dictionary, "features": features}
    site, (dictionary, features) = at_site(
        "ablate",
        model,
        given,
        side=side,
        tokenizer=tokenizer,
        feature_axis=feature_axis,
        call=call,
    )
    check_dictionary(dictionary)
    factors = np.ones(n_components_of(dictionary))
    factors[_check_features(features, len(factors))] = 0
    return site.replace(_scaled(dictionary, factors, keep_error), where=where)


@validate_params(_SETTING, prefer_skip_nested_validation=True)
def steer(
    model,
    layer=None,
    dictionary=None,
    features=None,
    *,
    strength=None,
    clamp=None,
    where=None,
    side=None,
    tokenizer=None,
    feature_axis=None,
    call=None,
):
    """Run a model steered by features, in a ``with`` block.

    Each activation :math:`x` of the layer is replaced by

    .. math::
        x + \\sum_j s_j d_j
        \\qquad \\text{with } \\texttt{clamp} \\qquad
        x + \\sum_j (v_j - z_j) d_j

    with the atoms :math:`d_j` of the chosen features and for each a `strength` :math:`s_j`, or a
    value :math:`v_j` that replaces the feature's code :math:`z_j`. The dictionary's error is
    kept. This works in ``generate`` of a transformers model, with a key-value cache or without.
    On exit, also after an exception, the model is restored.

    Parameters
    ----------
    model : Pipeline, Site or torch.nn.Module
        As in `replace_activations`: ``steer(pipeline, features)``,
        ``steer(site, dictionary, features)`` or ``steer(model, layer, dictionary, features)``.

    layer : str, default=None
        The layer, for a model.

    dictionary : estimator or array-like of shape (n_components, n_features), default=None
        A fitted estimator (or Pipeline) with `transform` and `inverse_transform`. With
        `strength`, a matrix of directions in activation space, one per row, is accepted too.

    features : int or array-like of int of shape (n_selected,), default=None
        Which features.

    strength : float or array-like of shape (n_selected,), default=None
        What is added, in the units of the feature's code. The feature's greatest code is the
        scale to measure it by: begin with half, once and twice that, and watch the cross-entropy
        that `steering_effect` returns. In the model that ships with skdict once is as much as the
        texts bear (3.8 nats instead of 3.1), and at three times (5.6) they fall apart. Of a large
        model, Templeton et al. report 5 to 10 times.

    clamp : float or array-like of shape (n_selected,), default=None
        What the feature's code is set to, at every token. Either this or `strength`.

    where : array-like of bool, or callable, default=None
        Tokens to steer at, as in `replace_activations`.

    side : {"output", "input"}, default=None
        Of a model alone, as what follows: Pipeline and Site have their own. None is "output".

    tokenizer : tokenizer of transformers, default=None
        Its special tokens are not changed; without one, those of the model's config.

    feature_axis : "auto" or int, default=None
        Axis of the activation that holds the features. None is "auto".

    call : int, default=None
        Of a layer that a forward pass calls several times, the only call to change.

    Returns
    -------
    context : context manager
        Returns the model, as in ``with steer(...) as model:``.

    Raises
    ------
    TypeError
        If `dictionary` is not a dictionary, or what is needed after `model` is missing.
    ValueError
        If the layer or a feature does not exist, or unless exactly one of `strength` and
        `clamp` is given. Inside the block, if the shapes of activations, atoms and `where` do
        not fit.
    NotImplementedError
        With `clamp`, as `replace_activations`.

    Warns
    -----
    UserWarning
        On exit, if the layer was never called in the block, or there was no such `call`.

    See Also
    --------
    ablate : Remove features.
    replace_activations : Run the model on reconstructions.
    steering_effect : The effect of steering on the texts that a model writes.

    References
    ----------
    Bricken et al., "Towards Monosemanticity" (2023), clamp a feature to its greatest code;
    Templeton et al., "Scaling Monosemanticity" (2024), to several times that.

    Examples
    --------
    >>> import torch
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.inspection import steer
    >>> language = load_one_layer_transformer()
    >>> ids = language.tokenizer("import numpy as", return_tensors="pt").input_ids
    >>> neurons = torch.eye(512)  # as a dictionary
    >>> with torch.no_grad(), steer(
    ...     language.model, "transformer.h.0.mlp.act", neurons, 3, strength=10.0
    ... ):
    ...     steered = language.model(ids).logits
    """
    if (strength is None) == (clamp is None):
        raise ValueError(
            f"Exactly one of strength and clamp is needed, but strength={strength!r} and "
            f"clamp={clamp!r}."
        )
    given = {"layer": layer, "dictionary": dictionary, "features": features}
    site, (dictionary, features) = at_site(
        "steer",
        model,
        given,
        side=side,
        tokenizer=tokenizer,
        feature_axis=feature_axis,
        call=call,
    )
    name, amount = ("strength", strength) if clamp is None else ("clamp", clamp)
    if clamp is not None or hasattr(dictionary, "inverse_transform"):
        check_dictionary(dictionary, f"With {name}, ")
        check_rows_have_one_scale(dictionary)
        n_components = n_components_of(dictionary)
    else:
        dictionary = as_rows(dictionary, "dictionary")
        check_finite(dictionary.data if issparse(dictionary) else dictionary, "dictionary")
        n_components = dictionary.shape[0]
    features = _check_features(features, n_components)
    if len(np.unique(features)) < len(features):
        raise ValueError(f"features must be different features, but is {features.tolist()!r:.80}.")
    amount = _check_amount(amount, len(features), name)
    constant = amount @ feature_directions(dictionary, features)
    if clamp is None:
        edit = _Shift(constant)
    else:
        without = np.zeros(n_components)
        without[features] = -1
        edit = _Shift(constant, in_model(dictionary), without)
    return site.replace(edit, where=where)


def _scaled(dictionary, factors, keep_error):
    """Function from activations to what replaces them, with codes times factors."""
    tensors = in_model(dictionary)
    if keep_error:
        return _Shift(None, tensors, factors - 1)
    return partial(tensors.reconstruct, factors=factors)


class _Shift:
    """Add to activations a constant, and parts of features that are in them.

    Parameters
    ----------
    constant : ndarray of shape (n_features,) or None
        What is added to all; None is nothing.
    dictionary : InTorch or InNumPy, or None
        None if no parts are added.
    factors : ndarray of shape (n_components,)
        What parts are multiplied by: -1 removes a feature.
    """

    def __init__(self, constant, dictionary=None, factors=None):
        self.constant, self.dictionary, self.factors = constant, dictionary, factors

    @without_autocast()
    def __call__(self, activations):
        dtype = torch.promote_types(activations.dtype, torch.float32)
        changed = activations.to(dtype)
        if self.constant is not None:
            n_features = len(self.constant)
            if n_features != activations.shape[1]:
                raise ValueError(
                    f"dictionary has atoms of {n_features} features, but the layer's activations "
                    f"have {activations.shape[1]}. Name the layer that it was fitted on."
                )
            changed = changed + torch.from_numpy(self.constant).to(changed)
        if self.dictionary is not None:
            changed = changed + self.dictionary.part(activations, self.factors).to(dtype)
        return changed


def _check_features(features, n_components):
    """Numbers of features, one or several, int64 of shape (n_selected,)."""
    features = np.atleast_1d(to_ndarray(as_numbers(features, "features")))
    return check_indices(features, n_components, name="features", of="features of the dictionary")


def _check_scale(scale, n_components):
    """The factor of each feature, float64 of shape (n_components,)."""
    features = check_indices(
        np.array(list(scale), dtype=None if scale else int),
        n_components,
        name="scale",
        of="features of the dictionary",
    )
    factors = np.ones(n_components)
    factors[features] = _check_amount(list(scale.values()), len(features), "scale")
    return factors


def _check_amount(amount, n, name):
    """`amount` as float64 of shape (n,)."""
    numbers = as_numbers(amount, name)
    if isinstance(numbers, torch.Tensor):
        numbers = to_numpy(numbers)
    if numbers.shape not in ((), (n,)):
        raise ValueError(
            f"{name} must be a number, or one for each of the {n} features, but is {amount!r}."
        )
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite, but is {amount!r}.")
    return np.broadcast_to(numbers.astype(np.float64), (n,))
