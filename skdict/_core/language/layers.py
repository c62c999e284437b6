"""A layer's activations as rows: which axis holds features, and whether a batch changes them."""

import weakref
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from .evaluation import evaluation_mode
from .hooks import Hooks, check_called, read_activation, record_activations
from .modules import find_module
from .windows import batches_by_length

# {layer's module: {id of the model: (its `_state`, {key: _Seen})}}; a key is of the side, the kind
# of input, the feature axis and the call
_SEEN = weakref.WeakKeyDictionary()

# (classes, axis of the channels, attributes with the number of channels of input and output)
_WITH_CHANNELS = (
    (nn.modules.conv._ConvNd, 1, "in_channels", "out_channels"),
    (nn.modules.batchnorm._NormBase, 1, "num_features", "num_features"),
    (nn.GroupNorm, 1, "num_channels", "num_channels"),
    (nn.Linear, -1, "in_features", "out_features"),
    (nn.LayerNorm, -1, "normalized_shape", "normalized_shape"),
    (nn.RMSNorm, -1, "normalized_shape", "normalized_shape"),
    (nn.Embedding, -1, None, "embedding_dim"),
    (nn.MultiheadAttention, -1, "embed_dim", "embed_dim"),
    (nn.RNNBase, -1, "input_size", None),
)
# Modules of torch that keep channels on their axis.
_CHANNELS_STAY = tuple(
    f"torch.nn.modules.{name}"
    for name in (
        "activation",
        "channelshuffle",
        "dropout",
        "normalization",
        "padding",
        "pixelshuffle",
        "pooling",
        "upsampling",
    )
)
# Modules of torch that round their input to 8 bits, scaled by the range of the whole batch.
_DYNAMIC = "torch.ao.nn.quantized.dynamic"

_TENSORS_HELD = 4  # tensors whose axes are remembered; to hold all would take too much memory


@dataclass
class _Seen:
    """What is known of a layer."""

    n_features: int
    feature_axis: int
    shape: tuple[int, ...]  # of the activation of one short input
    n_calls: int  # of the layer, for one short input
    dtype: torch.dtype | None  # of floating-point input
    eps: float  # relative rounding error
    in_8_bits: bool  # see `_DYNAMIC`
    is_aligned: bool = False  # True once the layer is known to get the tokens at their places
    padding: bool | None = None  # may inputs be padded? None: not tried yet


class Layer:
    """A layer of a network, and its activations for some inputs.

    When a layer is first used in a process, one input goes through the whole model, which tells
    how often the layer is called and which axis holds its features. Then a few short inputs go
    as far as the layer, together and alone, which tells whether a batch changes their rows.

    Parameters
    ----------
    network : Network

    path : str
        Dotted path of the layer.

    side : {"output", "input"}

    inputs : TokenWindows or Samples

    batch_size : int
        Most inputs in a batch.

    feature_axis : int or "auto", default="auto"
        Axis of the activation that holds the features.

    call : int or None, default=None
        Which of the layer's calls in a forward pass to read, see `read_activation`. None for
        the only one.

    Attributes
    ----------
    n_features : int
        Width of the rows.

    feature_axis : int
        Axis of the activations that holds the features.

    dtype : torch.dtype or None
        Of floating-point input of the model; None for token ids.

    call_from_first : int or None
        `call`, counted from the first call in a forward pass of a short input.

    grid : tuple of int
        Shape of the activation of one short input, without its features.

    has_vectors_at_tokens : bool
        Whether the activation has shape (n_inputs, n_positions, n_features).

    padding : bool
        Whether inputs of a batch may be padded to one length.

    Raises
    ------
    ValueError
        If the layer is not called exactly once or there is no such `call`, if nothing tells
        which axis holds the features, if the layer gets other tokens than the model, or if the
        rows of an input depend on the inputs beside it.
    """

    def __init__(self, network, path, side, inputs, *, batch_size, feature_axis="auto", call=None):
        self.network, self.path, self.side, self.inputs = network, path, side, inputs
        self.call = call
        self._batch_size = batch_size
        of_layer = _SEEN.setdefault(find_module(network.module, path), {})
        state = _state(network.module, path)
        former, seen = of_layer.get(id(network.module), (None, {}))
        if state != former:
            seen = {}
            of_layer[id(network.module)] = state, seen
        key = (side, inputs.kind, feature_axis, call)
        if key not in seen:
            seen[key] = self._look(feature_axis)
        self._seen = seen[key]
        self.n_features, self.feature_axis = self._seen.n_features, self._seen.feature_axis
        self.dtype = self._seen.dtype
        self.call_from_first = self._seen.n_calls + call if (call or 0) < 0 else call
        grid = list(self._seen.shape)
        del grid[self.feature_axis], grid[0]
        self.grid = tuple(grid)
        self.has_vectors_at_tokens = len(self._seen.shape) == 3 and self.feature_axis in (2, -1)
        self._check_alignment()
        self.padding = batch_size > 1 and self._may_be_padded()

    def read(self, batch):
        """Run some inputs up to the layer; return an array (n_positions, n_features) for each."""
        return self._read(self.inputs, batch)

    def read_all(self, follow=iter):
        """Yield (index of an input, its activations) of all inputs, a batch at a time.

        `follow` is given the list of batches, and yields each when it is to be run.
        """
        for batch in follow(self.batches(range(len(self.inputs)))):
            yield from zip(batch, self.read(batch), strict=True)

    def batches(self, items):
        """Divide some of the inputs into batches of similar length that leave rows unchanged."""
        lengths = self.inputs.lengths
        return list(batches_by_length(items, lengths, self._batch_size, padding=self.padding))

    def _may_be_padded(self):
        """Whether a batch may hold inputs of unequal length; an error if it may not hold two."""
        if self._seen.padding is not None:
            return self._seen.padding
        probes, is_proof = self.inputs.probes(self.network)
        found = next((padding for padding, pair in probes if self._is_same_alone(pair)), None)
        if found is None and probes:
            raise ValueError(
                f"The rows of an input depend on the inputs beside it: layer={self.path!r} gives "
                "others for two of them together than for each alone. Set batch_size=1 to run "
                "each alone. If the model takes time first, give it samples first "
                "(batch_first=True)."
            )
        if is_proof:
            self._seen.padding = found
        return bool(found)

    def _is_same_alone(self, pair):
        if self._seen.in_8_bits and self.inputs.token_ids is None:
            return True  # a sample's rows can be small compared with the rounding of another's
        together = self._read(pair, [0, 1])
        alone = [self._read(pair, [item])[0] for item in (0, 1)]
        if self._agree(together, alone):
            return True
        # if the model draws random numbers, a difference proves nothing
        return not self._agree(together, self._read(pair, [0, 1]))

    def _agree(self, some, others):
        """Whether rows are equal up to rounding, relative to the norm of each row.

        Half of the digits are left to rounding errors, which add up over a deep model.
        """
        for x, y in zip(some, others, strict=True):
            x, y = x.astype(np.float64), y.astype(np.float64)
            with np.errstate(invalid="ignore"):  # infinities
                differences = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, x - y)
            norms = np.linalg.norm(np.nan_to_num(y, posinf=0, neginf=0), axis=1)
            scale = np.maximum(norms, np.median(norms))
            if not (np.linalg.norm(differences, axis=1) <= self._seen.eps**0.5 * scale).all():
                return False
        return True

    def _read(self, inputs, batch, call=None):
        call = self.call if call is None else call
        args, kwargs = inputs.arguments(self.network, batch, self._seen.dtype)

        def forward():
            try:
                self.network.run(args, kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                inputs.explain(error, self.network, self.path)
                raise

        with evaluation_mode(self.network.module), torch.no_grad():
            activation = read_activation(
                self.network.module, self.path, forward, side=self.side, call=call or 0
            )
        return inputs.split(activation, batch, self._seen.feature_axis)

    def _look(self, feature_axis):
        """Run one input through the whole model."""
        first, model = self.inputs.first(), self.network.module
        dtypes = first.dtypes(self.network)
        for dtype in dtypes:
            args, kwargs = first.arguments(self.network, [0], dtype)
            channels, failed = Channels(model, self.path, self.side), []

            def forward(args=args, kwargs=kwargs, failed=failed):
                try:
                    self.network.run(args, kwargs)
                except Exception as error:
                    failed.append(error)
                    raise

            try:
                with evaluation_mode(model), torch.no_grad(), channels.watching():
                    calls = record_activations(
                        model,
                        self.path,
                        forward,
                        side=self.side,
                        note=lambda activation, channels=channels: (
                            activation,
                            channels.axis(activation),
                        ),
                    )
                break
            except Exception as error:
                if not failed or isinstance(error, torch.OutOfMemoryError):
                    raise
                if dtype == dtypes[-1]:
                    first.explain(error, self.network, self.path)
                    raise
        if self.call is None and len(calls) > 1:
            raise ValueError(
                f"layer={self.path!r} is called {len(calls)} times in a forward pass, so it "
                "has no single activation. Choose one of the calls: call=0 is the first, "
                f"call={len(calls) - 1} or -1 the last. Or name a module that is called once."
            )
        check_called(model, self.path, len(calls), self.call or 0)
        activation, axis = calls[self.call or 0]
        if feature_axis == "auto":
            feature_axis = axis
            if feature_axis is None:
                feature_axis = first.usual_axis
            if feature_axis is None:
                raise ValueError(untold_axis(activation, self.path))
        else:
            check_axis(feature_axis, activation, self.path)
        rows = first.split(activation, [0], feature_axis)
        dtypes = {activation.dtype, *self.network.dtypes}
        eps = max(torch.finfo(each).eps for each in dtypes if each.is_floating_point)
        in_8_bits = any(type(each).__module__.startswith(_DYNAMIC) for each in model.modules())
        eps = max(eps, 2**-7 if in_8_bits else 0)
        shape = tuple(activation.shape)
        return _Seen(rows[0].shape[1], feature_axis, shape, len(calls), dtype, eps, in_8_bits)

    def _check_alignment(self):
        """Raise a ValueError if the layer gets other tokens than the model, such as the next ones.

        The layer's tokens are those that were last looked up in an embedding before it.
        """
        if self._seen.is_aligned or self.inputs.token_ids is None:
            return
        probes, is_proof = self.inputs.probes(self.network)
        if not is_proof:
            return
        _, pair = probes[-1]
        ids, looked_up = torch.from_numpy(pair.token_ids[0]), []

        def note(module, args):
            if args and isinstance(args[0], torch.Tensor) and args[0].numel() == len(ids):
                looked_up.append(args[0].flatten().long().cpu())

        registrations = [
            partial(module.register_forward_pre_hook, note)
            for module in self.network.module.modules()
            if isinstance(module, nn.Embedding)
        ]
        with Hooks(registrations):  # the pass must stop at the call
            self._read(pair, [0], self.call_from_first)
        for found in reversed(looked_up):
            if torch.equal(found, ids):
                break
            if _is_rearranged(found, ids):
                raise ValueError(
                    f"layer={self.path!r} is given the tokens of a text in other places than the "
                    f"model: {found[:4].tolist()}... for {ids[:4].tolist()}..., as a decoder is "
                    "that predicts them. So its rows are not those of the text's tokens. Name a "
                    "layer of the encoder, or give a module that runs the decoder on the text "
                    "itself."
                )
        self._seen.is_aligned = True


def _is_rearranged(found, ids):
    """Whether token ids that were found are those that were given, shifted or reversed."""
    if len(found.diff().unique()) < 2:
        return False  # positions, which rise by 1, or token types, which are all equal
    shifts = [n for n in (1, 2) if 2 * n < len(ids)]
    shifted = (torch.equal(a[n:], b[:-n]) for n in shifts for a, b in ((found, ids), (ids, found)))
    return any(shifted) or torch.equal(found.flip(0), ids)


def _state(model, path):
    """What decides how often a layer is called and how wide it is."""
    plain = bool | int | float | str | None
    modules = [
        (
            name,
            weakref.ref(module),
            {k: v for k, v in vars(module).items() if isinstance(v, plain) and k != "training"},
        )
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    return modules, [tuple(each.shape) for each in find_module(model, path).parameters()]


def check_axis(feature_axis, activation, layer):
    """Raise a ValueError unless an axis of an activation can hold features."""
    if feature_axis not in {*range(1, activation.ndim), *range(1 - activation.ndim, 0)}:
        raise ValueError(
            f"feature_axis={feature_axis}, but layer={layer!r} gives shape "
            f"{tuple(activation.shape)}, whose axis 0 is that of the inputs. Give one of its "
            "other axes."
        )


def untold_axis(activation, layer):
    """Message of the error if nothing tells which axis of an activation holds the features."""
    return (
        f"layer={layer!r} gives shape {tuple(activation.shape)}, and nothing tells which axis "
        "holds the features. Set feature_axis: 1 for channels before positions, as in torch's "
        "convolutions, or -1 for channels last."
    )


class Channels:
    """Tracks, during a forward pass, which axis of activations holds the channels.

    Parameters
    ----------
    model : torch.nn.Module

    layer : str
        Dotted path of the layer whose activation is asked for.

    side : {"output", "input"}
    """

    def __init__(self, model, layer, side):
        self._model, self._layer, self._side = model, find_module(model, layer), side
        self._forget()

    def _forget(self, *call):
        self._last = None  # (usual axis, number of channels) of the last module that has them
        self._known = {}  # {id of a tensor: (axis, the tensor)} for the last few tensors

    def watching(self):
        """Track each forward pass in a ``with`` block."""
        registrations = [partial(self._model.register_forward_pre_hook, self._forget)]
        if self._side == "input":
            register = self._layer.register_forward_pre_hook
            registrations.append(partial(register, self._before_layer, with_kwargs=True))
        registrations += [
            partial(module.register_forward_hook, self._after)
            for module in self._model.modules()
            if _channels_of(module) or type(module).__module__ in _CHANNELS_STAY
        ]
        return Hooks(registrations)

    def axis(self, activation):
        """Axis of the layer's activation that holds the channels, or None if nothing tells.

        To be asked during the layer's call, by a hook that is registered in the block.
        """
        if activation.ndim < 3:
            return -1
        if id(activation) in self._known:
            return self._known[id(activation)][0]
        if self._last is None:
            return None
        usual, n_channels = self._last
        as_many = [axis for axis in (1, -1) if activation.shape[axis] == n_channels]
        if len(as_many) == 1:
            return as_many[0]
        # a part of the channels, for which only the last axis is left
        return -1 if not as_many and usual == -1 and activation.ndim == 3 else None

    def _after(self, module, args, output):
        output = output[0] if isinstance(output, tuple) else output
        if not isinstance(output, torch.Tensor):
            return
        found = _channels_of(module)
        if found:
            axis, _, n_channels = found
            n_channels = n_channels or output.shape[-1]
            self._last = axis, n_channels
            # a subclass with its own `forward` may have moved the axes
            if type(module).forward.__module__.startswith("torch.nn.modules"):
                self._note(output, axis)
        elif args and id(args[0]) in self._known and output.ndim == args[0].ndim:
            self._note(output, self._known[id(args[0])][0])

    def _note(self, tensor, axis):
        self._known[id(tensor)] = axis, tensor
        if len(self._known) > _TENSORS_HELD:
            del self._known[next(iter(self._known))]

    def _before_layer(self, module, args, kwargs):
        given = next((x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)), None)
        found = _channels_of(module)
        if given is not None and found and found[1]:
            axis, n_channels, _ = found
            self._last = axis, n_channels
            if type(module).forward.__module__.startswith("torch.nn.modules"):
                self._note(given, axis)


def _channels_of(module):
    """(axis, channels of the input, channels of the output); None if a module does not say."""
    for classes, axis, *names in _WITH_CHANNELS:
        if isinstance(module, classes):
            numbers = [None if name is None else getattr(module, name) for name in names]
            if isinstance(numbers[0], tuple):  # a norm can be taken over several axes
                return (axis, *(shape[0] for shape in numbers)) if len(numbers[0]) == 1 else None
            return (axis, *numbers)
    return None
