"""Statistics of the codes of a fit's samples, taken when something asks for them."""

import math

import torch

from .._core.tensors import Unchanged
from ..utils._warnings import warn
from ._code_quality import quality_of
from ._likelihood import CodeStatistics

# Samples that the statistics are estimated on, evenly spread: coding all of millions would take
# as long as another epoch.
N_ENCODED_SAMPLES = 100_000
N_SPARSE_CODED_SAMPLES = 20_000
# Samples that tell whether the data are still those of the fit.
N_WITNESSES = 64


class DataChangedError(ValueError, AttributeError):
    """What a fit went by has changed, so that there are no statistics: no attribute, no score."""

    def __init__(self, who_has):
        super().__init__(
            f"{who_has} been changed in place since fit, and the statistics of the codes, which "
            "score needs, are taken when they are first asked for. Fit again, or call score "
            "before the change."
        )


class FitStatistics:
    """Statistics of the codes of a fit, which only `score` needs, taken when they are asked for.

    Until then the samples to take them from are kept, and not copied, so that a fit costs no
    memory and no pass for what may never be asked for. A few are, to notice if the data change.
    The dictionary shares its memory with the fitted attributes, and is looked after likewise.

    Parameters
    ----------
    rows : Source
        What was fitted to.
    coding : Coding
        The way to find codes at the end of the fit.
    """

    def __init__(self, rows, coding):
        n_samples = N_ENCODED_SAMPLES if coding.name == "encoder" else N_SPARSE_CODED_SAMPLES
        self.n_features = rows.n_features
        self._found = None
        unchanged = Unchanged(coding.dictionary.tensors)
        self._pending = rows, coding, n_samples, _witnesses(rows), unchanged
        self._attributes = {"n_samples_seen_": len(rows.spread(n_samples))}

    @classmethod
    def known(cls, statistics, n_features):
        """Of a stream, where they have been taken portion by portion."""
        self = cls.__new__(cls)
        self.n_features = n_features
        self._found, self._pending, self._attributes = statistics, None, {}
        return self

    def attribute(self, name):
        """A fitted attribute by its name."""
        if name not in self._attributes:
            self._attributes = self.found().attributes(self.n_features)
        return self._attributes[name]

    @property
    def at_hand(self):
        """Names of the fitted attributes that cost no pass over the samples."""
        found = self._found
        return list(self._attributes if found is None else found.attributes(self.n_features))

    def found(self):
        """`CodeStatistics` of the samples.

        Raises
        ------
        DataChangedError
            If the data or the dictionary have been changed since the fit.
        """
        pending = self._pending  # read first: another thread may take the statistics meanwhile
        if self._found is None:
            if pending is None:
                raise DataChangedError("X or the dictionary has")
            rows, coding, n_samples, witnesses, is_unchanged = pending
            if not torch.equal(_witnesses(rows), witnesses):
                raise DataChangedError("X has")
            if not is_unchanged():
                raise DataChangedError("The dictionary has")
            origin = coding.dictionary.intercept
            found = quality_of(coding, rows, n_samples, origin=origin).statistics
            if not math.isfinite(found.squared_error):  # the fit has seen finite samples only
                raise DataChangedError("X has")
            self._found = found
            self._pending = None
        return self._found

    def state_dict(self):
        """The statistics, and not the samples, in plain containers."""
        try:
            found = vars(self.found())
        except DataChangedError as error:
            warn(f"{error} What is saved cannot score.")
            found = None
        return {"n_features": self.n_features, "found": found}

    @classmethod
    def from_state_dict(cls, state):
        """The statistics that `state_dict` gave."""
        self = cls.__new__(cls)
        self.__setstate__(state)
        return self

    def __getstate__(self):
        return self.state_dict()

    def __setstate__(self, state):
        self.n_features, found = state["n_features"], state["found"]
        self._found = None if found is None else CodeStatistics(**found)
        self._pending, self._attributes = None, {}


def _witnesses(rows):
    return rows[rows.spread(N_WITNESSES)].clone()
