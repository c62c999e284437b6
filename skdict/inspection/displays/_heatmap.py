"""Pictures with the places where a feature is active."""

from numbers import Integral

import numpy as np

from ...utils._arrays import as_numbers, to_ndarray
from ...utils._drawing import COLORS
from ...utils._sklearn_compat import Interval, Options, StrOptions, validate_params
from ._placed import (
    axes_for_each,
    axes_of_grid,
    channels_last,
    finish,
    greatest_maps,
    numbers_of,
)


class FeatureHeatmapDisplay:
    """Pictures under a heat map of a feature, or the parts of them where it is most active.

    It is recommended to use `from_codes`.

    Parameters
    ----------
    images : array-like of shape (n_images, height, width) or (n_images, height, width, 3)
        Grey levels or colours, from 0 to 1.

    maps : array-like of shape (n_images, n_rows, n_columns)
        The feature's code on the layer's grid. Each map is stretched over its whole picture.
        Where convolutions do not pad, this draws places near the edge too far outside, by up to
        the width of what was not padded.

    documents : array-like of int of shape (n_images,), default=None
        Number of each picture, for its title; 0, 1, ... by default.

    crop : int, default=None
        Show only a square of so many pixels around the greatest code, without the heat map. None
        for whole pictures.

    name : str, default="feature"
        Name of the feature in the title.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes of shape (n_images,)
        Axes with the pictures.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    See Also
    --------
    FeatureSeriesDisplay : The same for series.
    skdict.feature_extraction.ActivationExtractor.positions : The place of each row.

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.inspection import FeatureHeatmapDisplay
    >>> image = np.linspace(0, 1, 64).reshape(8, 8)
    >>> display = FeatureHeatmapDisplay([image], [[[0.0, 1.0], [0.0, 0.0]]]).plot()
    >>> display.axes_[0].get_title()
    '0: 1'
    """

    def __init__(self, images, maps, documents=None, crop=None, name="feature"):
        self.images = np.asarray(images, dtype=np.float64)
        self.maps = np.asarray(maps, dtype=np.float64)
        n_images = len(self.maps)
        self.crop, self.name = crop, name
        is_color = self.images.ndim == 4 and self.images.shape[3] == 3
        if not (self.images.ndim == 3 or is_color) or self.images.shape[0] != n_images:
            raise ValueError(
                f"images must have shape ({n_images}, height, width) or ({n_images}, height, "
                f"width, 3), one for each of maps, but has shape {self.images.shape}."
            )
        if self.maps.ndim != 3 or 0 in self.maps.shape:
            raise ValueError(
                "maps must have shape (n_images, n_rows, n_columns) without an axis of length 0, "
                f"but has shape {self.maps.shape}."
            )
        self.documents = numbers_of(documents, n_images, "images")

    @classmethod
    @validate_params(
        {
            "feature": [Integral],
            "n_images": [Interval(Integral, 1, None, closed="left")],
            "channel_axis": [StrOptions({"auto"}), Options(Integral, {1, -1})],
            "crop": [Interval(Integral, 1, None, closed="left"), None],
        },
        prefer_skip_nested_validation=True,
    )
    def from_codes(
        cls,
        X,
        positions,
        images,
        feature,
        *,
        dictionary=None,
        n_images=6,
        channel_axis="auto",
        crop=None,
        ax=None,
    ):
        """Find the pictures in which a feature is most active, and draw them.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_rows, n_components)
            Codes. With a `dictionary`, activations, or the input of the
            :class:`~skdict.feature_extraction.ActivationExtractor` that it starts with.

        positions : mapping
            For each row "document", the index in `images`, and "y" and "x", as
            ``extractor.positions(images)`` returns them.

        images : {array-like, torch.Tensor} of shape (n_samples, height, width), \
                (n_samples, n_channels, height, width) or (n_samples, height, width, n_channels)
            The pictures, with 1 or 3 channels. They may be larger than those that the model was
            given, if they show the same. Bytes and numbers from 0 to 1 are shown as they are,
            others from the least (black) to the greatest in the pictures that are shown.

        feature : int
            The feature.

        dictionary : estimator, default=None
            A fitted estimator (or Pipeline) with `transform`.

        n_images : int, default=6
            Maximum number of pictures: those with the greatest codes, each of them once.

        channel_axis : {"auto", 1, -1}, default="auto"
            Axis of the channels. "auto" takes the only one of the two that has length 1 or 3,
            and there is an error if both have, or neither. Without an axis of channels only
            "auto" is allowed.

        crop : int, default=None
            Show only a square of so many pixels around the greatest code. None for whole
            pictures with a heat map.

        ax : array-like of matplotlib Axes of shape (n_images,), default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : FeatureHeatmapDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If the feature is not active anywhere, the axis of the channels cannot be told, or
            `positions` does not belong to the rows of `X` or to `images`.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import torch
        >>> from skdict import ActivationExtractor
        >>> from skdict.inspection import FeatureHeatmapDisplay
        >>> _ = torch.manual_seed(0)
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
        >>> extractor = ActivationExtractor(network, "1", tokenizer=None)
        >>> images = torch.rand(5, 1, 8, 8)
        >>> codes = extractor.transform(images)
        >>> display = FeatureHeatmapDisplay.from_codes(
        ...     codes, extractor.positions(images), images, feature=codes.sum(axis=0).argmax()
        ... )
        >>> display.maps.shape[1:]
        (6, 6)
        """
        images = to_ndarray(as_numbers(images, "images"))
        n_samples = len(images) if images.ndim else 0
        documents, maps = greatest_maps(
            X,
            dictionary,
            positions,
            ("y", "x"),
            feature,
            n_documents=n_samples,
            n_greatest=n_images,
            name="images",
        )
        drawn = channels_last(
            images, documents, channel_axis, "images", n_axes=2, n_channels=(1, 3)
        )
        low, high = drawn.min(), drawn.max()
        if low < 0 or high > 1:
            drawn = (drawn - low) / (high - low or 1)
        drawn = drawn[..., 0] if drawn.shape[-1] == 1 else drawn
        return cls(drawn, maps, documents, crop, name=f"feature {feature}").plot(ax=ax)

    def plot(self, ax=None):
        """Draw the pictures.

        Parameters
        ----------
        ax : array-like of matplotlib Axes of shape (n_images,), default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : FeatureHeatmapDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there are fewer axes than pictures.
        """
        n_images = len(self.images)
        n_rows, n_columns = axes_of_grid(n_images)
        size = {"figsize": (2.2 * n_columns + 0.8, 2.4 * n_rows + 0.4)}
        axes = axes_for_each(self, ax, n_images, "pictures", nrows=n_rows, ncols=n_columns, **size)
        from matplotlib.colors import LinearSegmentedColormap, to_rgb

        red, green, blue = to_rgb(COLORS[1])
        heat = LinearSegmentedColormap.from_list(
            "heat", [(red, green, blue, 0), (red, green, blue, 0.9)]
        )
        height, width = self.images.shape[1:3]
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        shown = None
        for axis, image, codes, document in zip(
            axes[:n_images], self.images, self.maps, self.documents, strict=True
        ):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent)
            if self.crop is None:
                shown = axis.imshow(
                    codes, cmap=heat, vmin=0, vmax=self.maps.max() or 1, extent=extent
                )
            else:
                left, right, bottom, top = self._window(codes)
                axis.set_xlim(left, right)
                axis.set_ylim(bottom, top)
            axis.set_title(f"{document}: {codes.max():.3g}", fontsize="small")
        for axis in axes:
            axis.set_axis_off()
        if shown is not None and ax is None:
            axes[0].figure.colorbar(shown, ax=list(axes), label="Activation")
        return finish(self, axes, n_images, is_own=ax is None)

    def _window(self, codes):
        """Limits of the part to show: left, right, bottom, top; inside the picture."""
        limits = []
        for place, n_cells, n_pixels in zip(
            np.unravel_index(codes.argmax(), codes.shape),
            codes.shape,
            self.images.shape[1:3],
            strict=True,
        ):
            size = min(self.crop, n_pixels)
            centre = (place + 0.5) * n_pixels / n_cells
            start = int(np.clip(round(centre - size / 2), 0, n_pixels - size))
            limits.append((start - 0.5, start + size - 0.5))
        (top, bottom), (left, right) = limits
        return left, right, bottom, top
