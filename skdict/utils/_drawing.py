"""Where displays draw."""

import numpy as np

from ._optional import optional


def axes_for(display, ax, **figure_options):
    """`ax`, or the axes of a new figure.

    Parameters
    ----------
    display : object
        Who draws, for the message where matplotlib is missing.
    ax : matplotlib Axes or None
    **figure_options
        For a new figure.

    Returns
    -------
    ax : matplotlib Axes
    """
    with optional("matplotlib", f"{type(display).__name__}.plot", '"skdict[plot]"'):
        import matplotlib.pyplot as plt
    if ax is None:
        _, ax = plt.subplots(layout="constrained", **figure_options)
    return ax


def pair_of_axes(display, axes, **figure_options):
    """Two axes: `axes`, or those of a new figure with as many rows or columns.

    Parameters
    ----------
    display : object
        Who draws.
    axes : sequence of two matplotlib Axes or None
    **figure_options
        For a new figure; ``nrows=2`` or ``ncols=2`` among them.

    Returns
    -------
    first, second : matplotlib Axes
    """
    axes = axes_for(display, axes, **figure_options)
    if np.size(axes) != 2:
        raise ValueError(
            f"{type(display).__name__}.plot draws on two axes, but got {axes!r:.80}. Give a pair, "
            "as plt.subplots(1, 2)[1] makes one, or none for a new figure."
        )
    return axes
