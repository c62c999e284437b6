"""Change a layer's activations at some tokens of each forward pass."""

from contextlib import contextmanager, nullcontext

from .hooks import replace_activation
from .layers import Channels, check_axis, untold_axis
from .network import Network
from .positions import TokenSelection


def edit_rows(activations, mask, edit):
    """Return activations of which the selected ones are replaced by `edit` of them.

    Parameters
    ----------
    activations : torch.Tensor of shape (..., n_features)

    mask : torch.Tensor of bool of shape (...), on the same device

    edit : callable
        From the selected activations, a tensor (n_selected, n_features), to their replacement.

    Returns
    -------
    edited : torch.Tensor of shape (..., n_features)
    """
    edited = edit(activations[mask]).to(activations)
    return activations.masked_scatter(mask[..., None], edited)


@contextmanager
def intervene(
    model,
    layer,
    edit,
    *,
    side="output",
    where=None,
    tokenizer=None,
    feature_axis="auto",
    call=None,
):
    """Replace a layer's activations at content tokens by `edit` of them, in a ``with`` block.

    Parameters
    ----------
    edit : callable
        From the selected activations, a tensor (n_selected, n_features), to their replacement.

    model, layer, side, where, tokenizer, feature_axis, call
        As in `replace_activations`.

    Yields
    ------
    model : torch.nn.Module
    """
    selection = TokenSelection(model, layer, tokenizer, where)
    channels = Channels(model, layer, side)
    asks_channels = feature_axis == "auto" and not Network(model).takes_token_ids

    def axis_of(activation):
        if feature_axis != "auto":
            check_axis(feature_axis, activation, layer)
            return feature_axis
        is_language = selection.has_tokens() or not asks_channels
        axis = -1 if is_language else channels.axis(activation)
        if axis is None:
            raise ValueError(untold_axis(activation, layer))
        return axis

    def replace(activation):
        axis = axis_of(activation)
        rows = activation.movedim(axis, -1)
        mask = selection.mask(rows.shape[:-1])  # on the CPU
        if not mask.any():
            return activation
        return edit_rows(rows, mask.to(rows.device), edit).movedim(-1, axis)

    with (
        channels.watching() if asks_channels else nullcontext(),
        replace_activation(model, layer, replace, side=side, on_call=selection.note, call=call),
    ):
        yield model
