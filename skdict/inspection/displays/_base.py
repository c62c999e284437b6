"""What the figures of one pair of axes have in common."""

from ...utils._drawing import axes_for


class Display:
    """A figure that is drawn by `plot`.

    A subclass has `_draw`, and `_figure_options` if a new figure is not to have matplotlib's
    size.
    """

    def plot(self, ax=None):
        """Draw what the display holds.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : object
            The display itself, with the attributes `ax_` and `figure_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = axes_for(self, ax, **self._figure_options())
        self._draw(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _figure_options(self):
        """Options of a new figure, a dict."""
        return {}

    def _draw(self, ax):
        """Draw on matplotlib Axes."""
        raise NotImplementedError
