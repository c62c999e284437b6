"""Series with the spans in which a feature is active."""

from itertools import pairwise
from numbers import Integral
from typing import NamedTuple

import numpy as np

from ...utils._arrays import as_numbers, to_ndarray
from ...utils._drawing import COLORS
from ...utils._sklearn_compat import Interval, Options, StrOptions, validate_params
from ._placed import axes_for_each, channels_last, finish, greatest_maps, numbers_of


class Span(NamedTuple):
    """A part of a series in which a feature is active.

    Parameters
    ----------
    start, stop : float
        Its first step, and the one after its last.
    activation : float
        The greatest code in it.
    """

    start: float
    stop: float
    activation: float


class FeatureSeriesDisplay:
    """Series with the spans in which a feature is active, the stronger the darker.

    It is recommended to use `from_codes`.

    Parameters
    ----------
    series : array-like of shape (n_series, n_steps) or (n_series, n_steps, n_channels)
        The series; each channel is a line.

    maps : array-like of shape (n_series, n_places)
        The feature's code at the places of the layer, which are stretched over all steps.

    documents : array-like of int of shape (n_series,), default=None
        Number of each series, for its title; 0, 1, ... by default.

    name : str, default="feature"
        Name of the feature in the title.

    Attributes
    ----------
    spans : list of list of Span, length n_series
        Spans of each series: named tuples ``(start, stop, activation)``, start and stop in steps.

    axes_ : ndarray of matplotlib Axes of shape (n_series,)
        Axes with the series.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    See Also
    --------
    FeatureHeatmapDisplay : The same for pictures.
    skdict.feature_extraction.ActivationExtractor.positions : The place of each row.

    Examples
    --------
    >>> from skdict.inspection import FeatureSeriesDisplay
    >>> display = FeatureSeriesDisplay([[0, 1, 2, 3, 2, 1]], [[0.0, 0.5, 2.0, 0.0, 0.0, 1.0]])
    >>> display.spans[0]
    [Span(start=1.0, stop=3.0, activation=2.0), Span(start=5.0, stop=6.0, activation=1.0)]
    """

    def __init__(self, series, maps, documents=None, name="feature"):
        self.series = np.asarray(series, dtype=np.float64)
        self.maps = np.asarray(maps, dtype=np.float64)
        n_series = len(self.maps)
        self.name = name
        if self.maps.ndim != 2 or 0 in self.maps.shape:
            raise ValueError(
                "maps must have shape (n_series, n_places) without an axis of length 0, but has "
                f"shape {self.maps.shape}."
            )
        if self.series.ndim not in (2, 3) or len(self.series) != n_series:
            raise ValueError(
                f"series must have shape ({n_series}, n_steps) or ({n_series}, n_steps, "
                f"n_channels), one for each of maps, but has shape {self.series.shape}."
            )
        self.documents = numbers_of(documents, n_series, "series")
        scale = self.series.shape[1] / self.maps.shape[1]  # steps for each place
        self.spans = [_spans(codes, scale) for codes in self.maps]

    @classmethod
    @validate_params(
        {
            "feature": [Integral],
            "n_series": [Interval(Integral, 1, None, closed="left")],
            "channel_axis": [StrOptions({"auto"}), Options(Integral, {1, -1})],
        },
        prefer_skip_nested_validation=True,
    )
    def from_codes(
        cls,
        X,
        positions,
        series,
        feature,
        *,
        dictionary=None,
        n_series=4,
        channel_axis="auto",
        ax=None,
    ):
        """Find the series in which a feature is most active, and draw them.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_rows, n_components)
            Codes. With a `dictionary`, activations, or the input of the
            :class:`~skdict.feature_extraction.ActivationExtractor` that it starts with.

        positions : mapping
            For each row "document", the index in `series`, and "time", as
            ``extractor.positions(series)`` returns them.

        series : {array-like, torch.Tensor} of shape (n_samples, n_steps), \
                (n_samples, n_channels, n_steps) or (n_samples, n_steps, n_channels)
            The series, as the model was given them or with more steps of the same time.

        feature : int
            The feature.

        dictionary : estimator, default=None
            A fitted estimator (or Pipeline) with `transform`.

        n_series : int, default=4
            Maximum number of series: those with the greatest codes.

        channel_axis : {"auto", 1, -1}, default="auto"
            Axis of the channels. "auto" takes the only one of the two that has length 1, and
            there is an error if both have, or neither.

        ax : array-like of matplotlib Axes of shape (n_series,), default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : FeatureSeriesDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If the feature is not active anywhere, the axis of the channels cannot be told, or
            `positions` does not belong to the rows of `X` or to `series`.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import torch
        >>> from skdict import ActivationExtractor
        >>> from skdict.inspection import FeatureSeriesDisplay
        >>> _ = torch.manual_seed(0)
        >>> network = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
        >>> extractor = ActivationExtractor(network, "1", tokenizer=None)
        >>> series = torch.rand(5, 1, 20)
        >>> codes = extractor.transform(series)
        >>> display = FeatureSeriesDisplay.from_codes(
        ...     codes, extractor.positions(series), series, feature=codes.sum(axis=0).argmax()
        ... )
        >>> display.maps.shape[1:]
        (18,)
        """
        series = to_ndarray(as_numbers(series, "series"))
        documents, maps = greatest_maps(
            X,
            dictionary,
            positions,
            ("time",),
            feature,
            n_documents=len(series) if series.ndim else 0,
            n_greatest=n_series,
            name="series",
        )
        drawn = channels_last(series, documents, channel_axis, "series", n_axes=1, n_channels=None)
        return cls(drawn, maps, documents, name=f"feature {feature}").plot(ax=ax)

    def plot(self, ax=None):
        """Draw the series.

        Parameters
        ----------
        ax : array-like of matplotlib Axes of shape (n_series,), default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : FeatureSeriesDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there are fewer axes than series.
        """
        n_series = len(self.series)
        size = {"figsize": (7, 1.4 * n_series + 0.6), "sharex": True}
        axes = axes_for_each(self, ax, n_series, "series", nrows=n_series, **size)
        greatest = self.maps.max()
        for axis, lines, spans, document in zip(
            axes[:n_series], self.series, self.spans, self.documents, strict=True
        ):
            # step t is drawn from t - 1/2 to t + 1/2
            axis.plot(lines, color="0.2", linewidth=0.8)
            for start, stop, activation in spans:
                axis.axvspan(
                    start - 0.5,
                    stop - 0.5,
                    color=COLORS[1],
                    linewidth=0,
                    alpha=0.15 + 0.55 * activation / greatest,
                )
            largest = max((span.activation for span in spans), default=0)
            axis.set_title(f"{document}: {largest:.3g}", fontsize="small")
        axes[n_series - 1].set_xlabel("Step")
        return finish(self, axes, n_series, is_own=ax is None)


def _spans(codes, scale):
    """Runs of positive codes as spans in steps."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], codes > 0, [False]])))
    return [
        Span(float(start * scale), float(stop * scale), float(codes[start:stop].max()))
        for start, stop in list(pairwise(edges))[::2]
    ]
