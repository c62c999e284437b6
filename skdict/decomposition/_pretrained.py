"""Fitted estimators made of dictionaries that were saved, and what those still lack."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._core.torch_state import plain_torch
from ..utils._warnings import warn
from ._alpha import ALPHA_FRACTION, location_and_scale
from ._code_statistics import FitStatistics
from ._fitting import variance_of
from ._judging import measure, spread

# Samples that a calibration looks at, evenly spread.
N_CALIBRATED = 100_000


class PretrainedMixin:
    """What estimators can do with dictionaries that they have not trained."""

    @plain_torch()
    def calibrate(self, X, y=None):
        """Take from activations what a dictionary of another library lacks, and look at the fit.

        `score` needs the density and magnitude of each feature, the noise variance and the
        variance of the data; coders with an L1 coefficient need ``alpha_``. The dictionary itself
        is not changed.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
            Activations of the place that the dictionary was trained on.
        y : None
            Ignored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If X has another number of columns, or the dictionary is a transcoder, which does not
            reconstruct what it reads.

        Warns
        -----
        UserWarning
            If reconstructions are further from X than its mean is: then X is not what the
            dictionary was trained on.
        """
        check_is_fitted(self)
        rows = self._source(X)
        mean, rms = location_and_scale(rows)
        if self.alpha_ is None:
            self.alpha_ = ALPHA_FRACTION * rms
        coding = self._coding()
        found = measure(coding, rows, spread(len(rows), N_CALIBRATED), mean)
        vars(self).pop("feature_density_", None)  # of other data, where a file had it
        self.variance_ = variance_of(rms, rows)
        self._statistics = FitStatistics.known(found.statistics, rows.n_features)
        unexplained = 1 - found.explained_variance
        if unexplained > 1:
            warn(self._misfit(unexplained, found.l0, mean))
        return self

    def _misfit(self, unexplained, l0, mean):
        """Why a dictionary may leave more of X than its mean does."""
        known = {k: v for k, v in getattr(self, "activation_", {}).items() if v is not None}
        trained_on = ", ".join(f"{name} {value}" for name, value in known.items())
        offset = float(np.abs(np.asarray(mean.cpu())).max())
        return (
            f"The dictionary leaves {unexplained:.3g} times the variance of X (fraction of "
            f"variance unexplained; L0 {l0:.3g}), more than the mean of X alone. So X is not what "
            "it was trained on. Look at: the layer, and whether its input or output is read; the "
            "scale of X (some libraries divide by a norm); whether the model's weights were "
            "centred, as TransformerLens does by default, so that each row has mean zero (the "
            f"largest column mean of X is {offset:.3g}); special tokens and the first position, "
            f"which most training leaves out. It was trained on: {trained_on or 'not known'}."
        )
