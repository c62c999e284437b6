"""What a fitted dictionary does as a scikit-learn transformer."""

from contextlib import suppress
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from .._core.coding import SparseCodes
from .._core.data.source import Source
from .._core.device import resolve_device
from .._core.models.architectures import ARCHITECTURES, Architecture, TopK
from .._core.parameters import python_number
from .._core.torch_state import plain_torch
from ..utils._arrays import check_codes, collect_dense, collect_sparse
from ..utils._sklearn_compat import validate_parameter_constraints
from ..utils._sources import source_of
from ._attributes import OF_DICTIONARY, dictionary_of, is_shared
from ._code_shards import check_writes_codes, write_codes
from ._code_statistics import DataChangedError
from ._coding import Coding
from ._likelihood import SparseCodingModel, debiased

# Those that are taken when they are asked for.
STATISTICS = ("feature_density_", "feature_magnitude_", "noise_variance_", "n_samples_seen_")
# Those that say how well rows are coded, and with `validation_score_` what that is taken from.
OF_ROWS = (
    "train_explained_variance_",
    "train_l0_",
    "validation_explained_variance_",
    "validation_l0_",
    "validation_score_",
    "validation_loss_curve_",
    "_held_out",
)
# Types of parameters whose values can be remembered.
PLAIN = {str, int, float, type(None)}


class ArchitectureParamsMixin:
    """Estimators whose ``architecture`` is a name, or an instance with parameters of its own."""

    def set_params(self, **params):
        """Set parameters by name.

        Parameters
        ----------
        **params : dict
            New values. Those of an ``architecture`` that is an instance are named as in
            ``architecture__k``.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If there is no parameter of such a name.
        """
        architecture = params.get("architecture", self.architecture)
        nested = [name for name in params if name.startswith("architecture__")]
        if nested and not isinstance(architecture, Architecture):
            known = ARCHITECTURES.get(architecture) if isinstance(architecture, str) else None
            example = TopK if known is None else known
            raise ValueError(
                f"{nested[0]} is a parameter of an instance, but architecture={architecture!r} is "
                f"none. Give an instance, such as architecture={example.__name__}(), from "
                f"{example.__module__}; then it has parameters that can be set and searched over."
            )
        return super().set_params(**params)


class DictionaryTransformer(
    ArchitectureParamsMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Codes, reconstructions and likelihoods by the fitted attributes of a dictionary.

    The fitted attributes are ndarrays, which a pickle keeps; `dictionary_` is made of them.
    """

    __metadata_request__transform: ClassVar = {"out": UNUSED}  # no metadata

    @property
    def dictionary_(self):
        """The fitted `Dictionary`: what coders, metrics and file formats work with."""
        parts = [vars(self).get(name) for name in OF_DICTIONARY]
        kept, dictionary = vars(self).get("_dictionary", (None, None))
        if kept is None or any(a is not b for a, b in zip(kept, parts, strict=True)):
            if parts[0] is None:
                raise AttributeError(f"This {type(self).__name__} is not fitted: call fit first.")
            dictionary = dictionary_of(vars(self))
            if all(map(is_shared, parts)):
                self._dictionary = parts, dictionary
        return dictionary

    @plain_torch()
    def transform(self, X, out=None):
        """Find the codes of activations.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
            Activations; or an `ActivationStore`, or a view of one.
        out : str or Path, default=None
            A folder to write the codes into, as CSR matrices of 65,536 rows each, for more codes
            than memory holds. If it was interrupted, a second call goes on with what is missing.

        Returns
        -------
        codes : ndarray, CSR matrix, tensor or CodeShards of shape (n_samples, n_components)
            Float32 if X is in single or half precision, else float64. The code of a row does
            not depend on other rows, but for its last digits. Tensors come back on the device
            of X. With ``out`` what reads the folder.

        Raises
        ------
        ValueError
            If X has another number of columns than in `fit`, or is not finite; if ``out`` has
            codes of another dictionary or X.
        NotADirectoryError
            If ``out`` is a file.
        """
        check_is_fitted(self)
        if out is not None:
            check_writes_codes(self, out)
        rows, coding = self._source(X), coding_of(self)
        if out is not None:
            return write_codes(coding, rows, out)
        n_components = len(self.components_)
        collect = collect_sparse if self.sparse_output else collect_dense
        with coding.threads(rows), coding.coder(rows) as code:
            blocks = ((block, code(x)) for block, x in rows.blocks(coding.width))
            return collect(blocks, len(rows), n_components, rows)

    def tensor_codes(self, X):
        """Find the codes of activations inside of a model: sparse, on their device, with gradient.

        As `transform`, but nothing leaves the device and no dense codes are formed. The values
        have derivatives by X, in reverse and in forward mode, with the active features held fixed;
        to ask for that of codes by "lasso", "omp" or "kmeans" is an error.

        Parameters
        ----------
        X : tensor of shape (n_samples, n_features)
            Float32 or float64.

        Returns
        -------
        codes : SparseCodes of shape (n_samples, n_components)

        Raises
        ------
        ValueError
            If X has another number of columns than in `fit`, or is not finite.

        Examples
        --------
        >>> import torch
        >>> from skdict.datasets import make_superposition
        >>> from skdict.decomposition import SparseAutoencoderDictionary
        >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
        >>> sae = SparseAutoencoderDictionary(16, random_state=0).fit(X)
        >>> x = torch.from_numpy(X[:5]).float().requires_grad_()
        >>> sae.tensor_codes(x).values.sum().backward()
        >>> x.grad.shape
        torch.Size([5, 8])
        """
        check_is_fitted(self)
        n_inputs = self.dictionary_.n_inputs
        if X.dim() != 2 or X.shape[1] != n_inputs:
            raise ValueError(
                f"X must have shape (n_samples, {n_inputs}) for this {type(self).__name__}, but "
                f"has shape {tuple(X.shape)}."
            )
        if not X.isfinite().all():
            raise ValueError("X contains NaN or infinity, which have no codes.")
        return coding_of(self).on_tensors(X)

    @plain_torch()
    def inverse_transform(self, X):
        """Reconstruct activations from codes: ``codes @ components_ + intercept_``.

        Where there are ``component_norms_``, of a dictionary that was loaded, codes are
        multiplied by them first. Where it normalises rows, this is the normalised row: use
        `reconstruct`.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_components)
            Codes.

        Returns
        -------
        X_reconstructed : ndarray or tensor of shape (n_samples, n_features)

        Raises
        ------
        ValueError
            If X has another number of columns than there are components.
        """
        check_is_fitted(self)
        X = check_codes(X, len(self.components_))
        if isinstance(X, torch.Tensor):
            dtype = torch.float64 if X.dtype == torch.float64 else torch.float32
            dictionary = self.dictionary_.to(dtype, X.device)
            return X.to(dtype) @ dictionary.atoms + dictionary.intercept
        dtype = np.float64 if X.dtype == np.float64 else np.float32
        atoms, intercept = (
            array.astype(dtype, copy=False)
            for array in (self.dictionary_.atoms.numpy(), self.intercept_)
        )
        return X.astype(dtype, copy=False) @ atoms + intercept

    @plain_torch()
    def reconstruct(self, X, codes=None):
        """Reconstruct activations through their codes.

        As ``inverse_transform(transform(X))`` but for dictionaries of other libraries, which may
        normalise each row, and so need it to give back its mean and length, or add a linear map
        of it (``skip_coef_``). Of a transcoder it is what the dictionary predicts.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
            Activations.
        codes : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_components)
            Codes to use instead of those that `transform` finds, such as changed ones.

        Returns
        -------
        X_reconstructed : ndarray or tensor of shape (n_samples, n_features)
            Float32 if X is in single or half precision, else float64.

        Raises
        ------
        ValueError
            As `transform`.
        """
        check_is_fitted(self)
        rows, coding = self._source(X), coding_of(self)
        dictionary = coding.dictionary.to(rows.dtype, rows.device)
        if codes is not None:
            codes = Source(check_codes(codes, len(self.components_)), rows.device, name="codes")
            codes.dtype = rows.dtype
            if len(codes) != len(rows):
                raise ValueError(f"codes has {len(codes)} rows, but X has {len(rows)}.")
        with coding.threads(rows), coding.coder(rows) as code:
            found = [
                dictionary.reconstruct(
                    x, code(x) if codes is None else SparseCodes.of(codes[block])
                )
                for block, x in rows.blocks(coding.width)
            ]
        found = torch.cat(found)
        return found.to(X.device) if isinstance(X, torch.Tensor) else found.cpu().numpy()

    def score_samples(self, X):
        r"""Log-likelihood of each sample under the sparse-coding model of the fit.

        With :math:`p_j` = ``feature_density_``, :math:`m_j` = ``feature_magnitude_``,
        :math:`\sigma^2` = ``noise_variance_``, :math:`\tau^2` = ``resolution`` · ``variance_`` and
        :math:`s^2 = \sigma^2 + \tau^2`,

        .. math::

            \log p(x) \approx -\tfrac d2 \log 2\pi s^2
            - \frac{\lVert x - b - zD \rVert^2 + d\tau^2}{2 s^2}
            + \sum_{z_j \ne 0} \left[ \log \frac{p_j}{m_j} - \frac{|z_j|}{m_j}
            + \tfrac12 \log 2\pi s^2 \right] + \sum_{z_j = 0} \log (1 - p_j)

        where the features that are active are those that `transform` finds, and their magnitudes,
        over which Laplace's method integrates, are a step nearer to least squares than the code's:
        an L1 penalty makes these too small, which is no noise. Its negative is a description
        length: nats for the residual plus nats for the code, where the residual is described up
        to a resolution of :math:`\tau`, as if noise of that variance were added to the data.
        Without it activations behind a ReLU, which are sparse in the basis of the neurons, would
        always be best described by copies of the neurons.

        Where there are ``component_norms_``, of a dictionary that was loaded, its codes count as
        multiplied by them, as codes of unit atoms; where it normalises rows, by the scale of the
        row.

        The noise is that of the fit, so a sample's value does not depend on the others that it is
        given with. Compare samples by it, and dictionaries by `score`, whose noise is that of
        the samples: the mean over samples is another, as a rule less.

        The statistics are those of the codes found at the end of `fit`, so a changed
        ``transform_algorithm`` calls for another `fit`. They are taken when they are first asked
        for, from the X of `fit`, which therefore must not be changed in place before.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples,), float64
            In nats.

        Raises
        ------
        ValueError
            As `transform`, or if the X of `fit` has been changed in place since.
        """
        model, parts = self._likelihood_parts(X)
        return model.log_likelihood(parts, model.noise_variance).numpy()

    def score(self, X, y=None):
        r"""Mean log-likelihood of the samples, in nats, with a noise variance of their own.

        That of `score_samples`, but for

        .. math::

            \sigma^2 = \frac1{n + 1} \Big( \sigma_\mathrm{fit}^2
            + \sum_{i=1}^n \tfrac1d \lVert x_i - b - z_i D \rVert^2 \Big)

        with the same magnitudes, at which the density of the residuals is largest, with the noise
        of the fit as one more sample. So a dictionary is not punished for residuals that are
        larger than those of its fit, which differ between folds of consecutive samples. The score
        depends on the set of samples: the mean over parts of X is not that of X.

        Unlike explained variance it does not always prefer the smaller ``alpha``: a dense code
        costs more nats than it saves. It can therefore select ``alpha`` in
        :class:`~sklearn.model_selection.GridSearchCV` without labels.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        y : None
            Ignored.

        Returns
        -------
        score : float
        """
        model, parts = self._likelihood_parts(X)
        return model.score(parts.sum(dim=0), len(parts))

    @plain_torch()
    def _likelihood_parts(self, X):
        """The model, and the parts of each sample's log-likelihood (n_samples, 3), on the host."""
        check_is_fitted(self)
        if "variance_" not in vars(self):
            raise NotFittedError(
                "score needs statistics of codes, which this dictionary was loaded without. Call "
                "calibrate(X) with activations of the place that it was trained on."
            )
        rows, coding = self._source(X), coding_of(self)
        resolution = checked(self, "resolution")
        model = SparseCodingModel.of(self, resolution, signed=coding.signed, device=rows.device)
        of = coding.dictionary.to(rows.dtype, rows.device)
        with coding.coded(rows) as blocks:
            parts = [
                model.parts(
                    *debiased(of.unit_codes(codes), residual, of.code_effects), of.scale_of(x)
                ).cpu()
                for x, codes, residual in blocks
            ]
        return model, torch.cat(parts)

    # -- statistics of the codes, taken when they are asked for ------------------------------

    def __getattr__(self, name):
        """Fitted attributes that are not there yet; called where Python finds none."""
        if name in STATISTICS and "_statistics" in vars(self):
            return self._statistics.attribute(name)
        if name == "validation_score_" and "_held_out" in vars(self):
            return self.score(self._held_out)
        return super().__getattribute__(name)  # the error of the first look-up once more

    def __dir__(self):
        """Only what is at hand: displays and `inspect.getmembers` read all that is named here."""
        statistics = vars(self).get("_statistics")
        names = [] if statistics is None else statistics.at_hand
        if "_held_out" in vars(self) and "noise_variance_" in names:
            names = [*names, "validation_score_"]
        return [*super().__dir__(), *names]

    # -- state -----------------------------------------------------------------------------

    def _publish(self, attributes):
        """Set what a fit found; nothing remains of a former fit with other parameters."""
        self._forget()
        vars(self).update(attributes)
        _ = self.dictionary_  # prepared, so that no later call changes the estimator

    def _forget(self):
        """Drop what a former fit has found; the next may not have all of it."""
        for name in (*OF_DICTIONARY, *STATISTICS, *OF_ROWS, "_stream"):
            vars(self).pop(name, None)

    def __copy__(self):
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))  # with what has been prepared
        return copied

    def __getstate__(self):
        state = dict(super().__getstate__())
        state.pop("_dictionary", None)  # made of the arrays
        for name, value in state.items():
            if isinstance(value, np.memmap):  # the numbers, not the file
                state[name] = np.asarray(value)
        if state.pop("_held_out", None) is not None:
            with suppress(DataChangedError):  # of which a warning tells
                state["validation_score_"] = self.validation_score_
        return state

    def __sklearn_is_fitted__(self):
        return hasattr(self, "components_")

    @property
    def _n_features_out(self):
        return len(self.components_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _source(self, X, *, reset=False, min_samples=1):
        if isinstance(X, Source):  # a fold, checked before
            if reset:
                self.n_features_in_ = X.n_features
            return X
        X, device = self._flattened(X), resolve_device(self.device)
        return source_of(self, X, device, reset=reset, min_samples=min_samples)

    def _flattened(self, X):
        """Rows of several axes, such as heads, as rows of columns: what was so when trained."""
        shape = getattr(self, "input_shape_", None)
        if shape is None or np.ndim(X) != 1 + len(shape):
            return X
        found, n_features = tuple(X.shape[1:]), self.n_features_in_
        same = all(size in (None, other) for size, other in zip(shape, found, strict=True))
        if not same or np.prod(found) != n_features:
            known = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(
                f"X has shape {tuple(X.shape)}, but this dictionary reads rows of shape "
                f"({known}) with {n_features} numbers, or the {n_features} columns of them."
            )
        return X.reshape(len(X), -1)


def publish(estimator, attributes):
    """Set what a fit of an estimator has found."""
    estimator._publish(attributes)


def checked(estimator, name):
    """A parameter as it is now, refused if it is out of range."""
    given = python_number(getattr(estimator, name))
    check = _check_plain if type(given) in PLAIN else _check_parameter
    check(type(estimator), name, given)
    return given


def coding_of(estimator, dictionary=None, *, algorithm="auto"):
    """How an estimator finds codes, by its parameters as they are now.

    Parameters
    ----------
    estimator : DictionaryTransformer
    dictionary : Dictionary or None
        None takes the fitted one.
    algorithm : str
        Another ``transform_algorithm``; "auto" is the estimator's own.
    """
    dictionary = estimator.dictionary_ if dictionary is None else dictionary
    if algorithm == "auto":
        algorithm = checked(estimator, "transform_algorithm")
        check_has_encoder(algorithm, dictionary.encoder is not None, estimator.solver)
    return Coding.of(
        dictionary,
        algorithm,
        alpha=checked(estimator, "transform_alpha"),
        n_nonzero_coefs=checked(estimator, "transform_n_nonzero_coefs"),
    )


def _check_parameter(kind, name, value):
    """Raise if a parameter of a class of estimators has a value that it must not have."""
    validate_parameter_constraints(kind._parameter_constraints, {name: value}, kind.__name__)


# scikit-learn makes the constraints anew each time
_check_plain = lru_cache(typed=True)(_check_parameter)


def check_has_encoder(algorithm, has_encoder, solver):
    """Raise if codes by an encoder are asked for and there is none."""
    if algorithm == "encoder" and not has_encoder:
        raise ValueError(
            f"transform_algorithm='encoder' needs an encoder, which solver={solver!r} does not "
            "train. Use transform_algorithm='auto', 'lasso', 'omp' or 'threshold', or "
            "solver='autoencoder' or 'kmeans'."
        )
