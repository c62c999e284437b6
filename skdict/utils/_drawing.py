"""Where displays draw, and how they write what others have named."""

import numpy as np

from .._core.optional import optional

# Okabe and Ito's palette without its yellow, which is too pale for lines on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# One more than there are colours, so that 56 groups get different pairs.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

# Of a Text with a name in it: dollars and underscores in it are no mathematics.
PLAIN_TEXT = {"parse_math": False, "usetex": False}
# Before labels that legends would leave out; taken away again in the legend.
_IN_LEGEND = "\N{WORD JOINER}"


def plain(name, longest=40):
    """A name that can be drawn: long lines are cut, and control characters named."""
    lines = [
        "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in line)
        for line in str(name).split("\n")
    ]
    return "\n".join(x if len(x) <= longest else x[: longest - 1] + "…" for x in lines)


def legend_label(name):
    """A name as the label of an artist, so that legends have it, whatever it begins with."""
    name = plain(name)
    return _IN_LEGEND + name if name.startswith("_") or not name else name


def draw_legend(ax, **options):
    """A legend in which all names are shown as they are."""
    legend = ax.legend(**options)
    for text in legend.get_texts():
        text.set(text=text.get_text().removeprefix(_IN_LEGEND), **PLAIN_TEXT)


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
