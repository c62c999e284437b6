"""The effect of features on any number that is computed from the model's output."""

from functools import partial
from numbers import Integral

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from sklearn.utils import Bunch, gen_batches

from ..._core.language.evaluation import evaluation_mode
from ..._core.language.hooks import run_replaced
from ..._core.language.samples import Samples
from ..._core.language.texts import check_texts
from ...metrics._coding import check_dictionary, reconstructed, scale_of_rows, with_sparse_codes
from ...metrics._rows import BLOCK_SIZE, as_rows, to_numpy
from ...utils._arrays import as_matrix, as_numbers, to_ndarray
from ...utils._extractors import extractor_of, layer_of, windows_of
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._active import check_indices, nonzero_entries
from ..codes._directions import feature_directions, n_components_of


@validate_params(
    {
        "metric": [callable],
        "ablate": ["boolean"],
        "n_steps": [Interval(Integral, 0, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def metric_effects(pipeline, X, features=None, *, metric, ablate=True, n_steps=1):
    """Measure the effect of features on a metric of the model's output.

    For each sample or text, the effect of a feature by ablation is

    .. math:: m(x) - m(x - z_j d_j)

    with the metric :math:`m`, where the feature's part :math:`z_j d_j` is subtracted from the
    layer's activation :math:`x` at every token or position. To first order it is code times
    gradient,

    .. math:: \\sum_{t} z_{tj} \\, \\nabla_{x_t} m(x) \\cdot d_j ,

    which one pass back gives for all features at once. Any model will do, not only one of
    language.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; an :class:`~skdict.feature_extraction.ActivationExtractor` of any model, then a
        dictionary with `inverse_transform`.

    X : texts or array-like of shape (n_samples, ...)
        What the extractor takes. A long text is run in windows, whose effects are added.

    features : int or array-like of int of shape (n_selected,), default=None
        Which features; all of them by default.

    metric : callable
        Called as ``metric(output, index)`` with the model's output for some samples and their
        indices in `X`, a tensor of int64 of shape (n_in_batch,); returns a tensor of shape
        (n_in_batch,), the metric of each sample. Samples may be repeated.

    ablate : bool, default=True
        Whether to measure by ablation: a run for each feature and each sample on which it is
        active.

    n_steps : int, default=1
        Points at which the gradient is taken, as in `feature_effects`; 0 to leave the first order
        out, for a metric without a gradient.

    Returns
    -------
    effects : :class:`~sklearn.utils.Bunch`

        feature : ndarray of shape (n_selected,), int64
            The features.
        value : ndarray of shape (n_samples,), float64
            The metric with all features.
        ablation, first_order : csr_array of shape (n_samples, n_selected), float64
            The effects, stored where the feature is active on the sample; None if left out.

    Raises
    ------
    TypeError
        If `pipeline` is not a Pipeline of these two steps.
    ValueError
        If a feature is out of range, or `metric` returns another shape, or no gradient.

    See Also
    --------
    feature_effects : Effects on the log-probability of each next token.

    References
    ----------
    Marks et al., "Sparse Feature Circuits" (2024), indirect effects on a metric.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict.feature_extraction import ActivationExtractor
    >>> from skdict.inspection import metric_effects
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
    ... )
    >>> X = np.random.default_rng(0).random((20, 3), dtype=np.float32)
    >>> y = torch.arange(20) % 2
    >>> pipeline = make_pipeline(ActivationExtractor(model, "1", tokenizer=None), PCA(2)).fit(X)
    >>> effects = metric_effects(
    ...     pipeline, X, metric=lambda logits, i: logits.log_softmax(1)[range(len(i)), y[i]]
    ... )
    >>> effects.ablation.shape
    (20, 2)
    """
    runs = _Runs(pipeline, X, features, metric)
    n_inputs, shape = len(runs.inputs), (runs.n_samples, len(runs.features))
    value, ablation, first_order = np.zeros(runs.n_samples), [], []
    # tensors created in inference mode cannot be differentiated
    with torch.inference_mode(False), evaluation_mode(runs.network.module):
        for batch in runs.layer.batches(range(n_inputs)) if n_inputs else ():
            coded = _Coded(runs, batch)
            np.add.at(value, runs.inputs.document[batch], coded.value)
            if n_steps:
                first_order.append(coded.first_order(n_steps))
            if ablate:
                ablation.append(coded.ablation())
    return Bunch(
        feature=runs.features,
        value=value,
        ablation=_matrix(ablation, shape) if ablate else None,
        first_order=_matrix(first_order, shape) if n_steps else None,
    )


def _matrix(parts, shape):
    """Entries (sample, feature, value), added up where there are several."""
    empty = (np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
    values, sample, feature = (np.concatenate(each) for each in zip(empty, *parts, strict=True))
    return csr_array(coo_array((values, (sample, feature)), shape=shape))


class _Runs:
    """A model, its inputs and a dictionary of a layer.

    Parameters
    ----------
    pipeline, X, features, metric
        As in `metric_effects`.
    """

    def __init__(self, pipeline, X, features, metric):
        extractor = extractor_of(pipeline)
        if extractor is None or extractor.pooling is not None:
            raise TypeError(
                "pipeline must be a fitted Pipeline whose first step is an ActivationExtractor "
                f"without pooling and whose last is a dictionary, but is {pipeline!r:.200}."
            )
        check_dictionary(pipeline[1:], "After the extractor, ")
        self.dictionary, self.metric = with_sparse_codes(pipeline[1:]), metric
        site = extractor.site()
        self.network = site.network
        n_components = n_components_of(self.dictionary)
        if features is None:
            features = np.arange(n_components)
        features = np.atleast_1d(to_ndarray(as_numbers(features, "features")))
        of = "features of the dictionary"
        self.features = check_indices(features, n_components, name="features", of=of)
        directions = feature_directions(self.dictionary, self.features).astype(np.float32)
        self.directions = torch.from_numpy(directions).to(self.network.device)
        if extractor.tokenizer is None:
            self.inputs = Samples(self._samples(X))
            self.n_samples = len(self.inputs)
        else:
            texts = check_texts(X, name="X")
            self.inputs = windows_of(extractor, site, texts)
            self.n_samples = len(texts)
        self.layer = layer_of(extractor, site, self.inputs)
        self.batch_size = extractor.batch_size
        if extractor.tokenizer is not None and not self.layer.has_vectors_at_tokens:
            raise ValueError(
                f"layer={site.layer!r} gives no activation of shape (n_texts, n_tokens, "
                "n_features), which is needed to change it token by token. Name a layer with such "
                "an activation."
            )

    def _samples(self, X):
        samples = to_ndarray(as_matrix(X, "X", allow_nd=True))
        if samples.dtype.kind in "biu" and self.network.takes_token_ids:
            return samples.astype(np.int64, copy=False)
        return samples if samples.dtype in (np.float32, np.float64) else samples.astype(np.float32)

    def mask(self, batch, shape):
        """Which positions of a batch have a row, bool of the shape."""
        if isinstance(self.inputs, Samples):
            return torch.ones(shape, dtype=torch.bool, device=self.network.device)
        return self.inputs.kept_mask(batch).to(self.network.device)

    def run(self, batch, function):
        """The metric with a function of the activations, (n_in_batch,).

        The function takes and returns a tensor with the features on the last axis.
        """
        arguments, keywords = self.inputs.arguments(self.network, batch, self.layer.dtype)
        axis = self.layer.feature_axis

        def replace(activations):
            return function(activations.movedim(axis, -1).clone()).movedim(-1, axis)

        output = run_replaced(
            self.network.module,
            self.layer.path,
            replace,
            partial(self.network.run, arguments, keywords),
            side=self.layer.side,
            call=self.layer.call_from_first,
        )
        index = torch.from_numpy(self.inputs.document[batch].astype(np.int64))
        value = self.metric(output, index)
        if not isinstance(value, torch.Tensor) or value.shape != (len(batch),):
            found = getattr(value, "shape", None)
            shape = f"with shape {tuple(found)}" if found is not None else ""
            raise ValueError(
                f"metric must return a tensor of shape ({len(batch)},), a number for each sample, "
                f"but returned a {type(value).__name__} {shape}."
            )
        return value


class _Coded:
    """A batch of inputs, the codes of its rows, and the metric of each input.

    Parameters
    ----------
    runs : _Runs
    batch : list of int
    """

    def __init__(self, runs, batch):
        self.runs, self.batch = runs, np.array(batch)
        self._leaf(0.0)
        rows = to_numpy(self._activations[self._mask])
        self._given = rows
        self._codes = as_rows(runs.dictionary.transform(rows), "codes")
        row, self.feature, code = nonzero_entries(self._codes, runs.features)
        scale = scale_of_rows(runs.dictionary, rows)
        self.amount = code if scale is None else code * scale[row]
        self.place = [each.cpu().numpy()[row] for each in self._mask.nonzero(as_tuple=True)]
        self._row = torch.from_numpy(row).to(runs.network.device)

    def _leaf(self, share, *, differentiate=False):
        """Run the batch, with a share of all features taken away; the gradient at each row."""
        runs, leaves = self.runs, []

        def leaf(activations):
            if share:
                activations[self._mask] -= share * self._parts().to(activations)
            else:
                self._activations = activations.detach().clone()
                self._mask = runs.mask(self.batch, activations.shape[:-1])
            leaves.append(activations.detach().requires_grad_(differentiate))
            return leaves[0].clone()

        with torch.set_grad_enabled(differentiate):
            value = runs.run(self.batch, leaf)
        if not differentiate:
            self.value = value.detach().to("cpu", torch.float64).numpy()
            return None
        if not value.requires_grad:
            raise ValueError(
                "metric returns no gradient, which the first order needs. Set n_steps=0 to leave "
                "it out."
            )
        (gradient,) = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
        gradient = torch.zeros_like(leaves[0]) if gradient is None else gradient
        return gradient[self._mask].to(torch.promote_types(gradient.dtype, torch.float32))

    def _parts(self):
        """What all features add to each row; without the offset."""
        dictionary, given, codes = self.runs.dictionary, self._given, self._codes
        parts = np.asarray(reconstructed(dictionary, given, codes))
        parts = parts - np.asarray(reconstructed(dictionary, given, codes * 0))
        return torch.from_numpy(parts).to(self.runs.network.device)

    def first_order(self, n_steps):
        """Entries of code times gradient, as (values, samples, features)."""
        steps = [self._leaf(step / n_steps, differentiate=True) for step in range(n_steps)]
        gradient = sum(steps) / n_steps
        feature = torch.from_numpy(self.feature).to(gradient.device)
        along = np.empty(len(feature))
        for some in gen_batches(len(along), max(1, BLOCK_SIZE // gradient.shape[1])):
            directions = self.runs.directions[feature[some]].to(gradient)
            products = (gradient[self._row[some]] * directions).sum(dim=1)
            along[some] = products.to("cpu", torch.float64).numpy()
        return self.amount * along, self._samples(self.place[0]), self.feature

    def _samples(self, place):
        """Samples of some inputs of the batch."""
        return self.runs.inputs.document[self.batch[place]]

    def ablation(self):
        """Entries of measured effects, as (values, samples, features)."""
        n = len(self.runs.features)
        pairs, pair = np.unique(self.place[0] * n + self.feature, return_inverse=True)
        place, feature = pairs // max(n, 1), pairs % max(n, 1)
        found = [
            self._ablated(place[some], feature[some], pair - some.start)
            for some in gen_batches(len(pairs), max(1, self.runs.batch_size))
        ]
        return np.concatenate([np.empty(0), *found]), self._samples(place), feature

    def _ablated(self, place, feature, pair):
        """Effects of some pairs of an input and a feature: runs with it, then runs without."""
        clean, of_clean = np.unique(place, return_inverse=True)
        inside = np.flatnonzero((pair >= 0) & (pair < len(place)))
        at = (len(clean) + pair[inside], *(axis[inside] for axis in self.place[1:]))
        at = tuple(torch.from_numpy(axis) for axis in at)
        amount = torch.from_numpy(self.amount[inside].astype(np.float32))[:, None]
        amount = amount.to(self.runs.network.device)
        direction = self.runs.directions[torch.from_numpy(feature[pair[inside]])]

        def without(activations):
            activations[at] -= (amount * direction).to(activations)
            return activations

        with torch.no_grad():
            runs = self.batch[np.concatenate([clean, place])]
            value = self.runs.run(runs, without).to("cpu", torch.float64).numpy()
        return value[: len(clean)][of_clean] - value[len(clean) :]
