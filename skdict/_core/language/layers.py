"""A layer's activations as rows: how it lays them out, and whether a batch changes them."""

import weakref
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from .evaluation import evaluation_mode
from .hooks import Hooks, find_module, read_activation, record_activations
from .windows import batches_by_length

# {layer's module: {id of the model: (its `_state`, {(side, kind of input, feature_axis): _Seen})}}
_SEEN = weakref.WeakKeyDictionary()

# (classes, axis of the channels, names of their numbers in the input and in the output)
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
# Modules of torch that leave channels where they are.
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
# Modules of torch that round what they are given to 8 bits, by the range of a batch.
_DYNAMIC = "torch.ao.nn.quantized.dynamic"

_TENSORS_HELD = 4  # whose axes are known; of a model's activations not all can be held


@dataclass
class _Seen:
    """What was seen of a layer."""

    n_features: int
    feature_axis: int
    ndim: int  # of the activation
    dtype: torch.dtype | None  # that floats are given in
    eps: float  # relative rounding
    in_8_bits: bool  # see `_DYNAMIC`
    is_aligned: bool = False  # the model is given the tokens where they are
    padding: bool | None = None  # None: not tried yet


class Layer:
    """A layer of a network, and what it makes of some inputs.

    The first time that a layer is met in a process, one input goes through the whole model, to
    see how often the layer is called and where its features are; and a few short ones go as far
    as the layer, together and alone, to see whether a batch changes them.

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
        Which axis of the activation is that of the features.

    Attributes
    ----------
    n_features : int
        Width of the rows.

    feature_axis : int
        Axis of the activations that the features are on.

    has_vectors_at_tokens : bool
        Whether the activation has shape (n_inputs, n_positions, n_features).

    Raises
    ------
    ValueError
        If the layer is not called exactly once, if there is no telling which of its axes is that
        of the features, if it is given other tokens than the model, or if the rows of an input
        depend on those beside it.
    """

    def __init__(self, network, path, side, inputs, *, batch_size, feature_axis="auto"):
        self.network, self.path, self.side, self.inputs = network, path, side, inputs
        self._batch_size = batch_size
        of_layer = _SEEN.setdefault(find_module(network.module, path), {})
        state = _state(network.module, path)
        former, seen = of_layer.get(id(network.module), (None, {}))
        if state != former:
            seen = {}
            of_layer[id(network.module)] = state, seen
        key = (side, inputs.kind, feature_axis)
        if key not in seen:
            seen[key] = self._look(feature_axis)
        self._seen = seen[key]
        self.n_features, self.feature_axis = self._seen.n_features, self._seen.feature_axis
        self.has_vectors_at_tokens = self._seen.ndim == 3 and self.feature_axis in (2, -1)
        self._check_alignment()
        self._padding = batch_size > 1 and self._may_be_padded()

    def read(self, batch):
        """Run some inputs up to the layer; return an array (n_positions, n_features) of each."""
        return self._read(self.inputs, batch)

    def read_all(self, follow=iter):
        """Yield (index of an input, its activations) of all inputs, a batch at a time.

        `follow` is given the list of batches, and yields each when it is to be run.
        """
        for batch in follow(self.batches(range(len(self.inputs)))):
            yield from zip(batch, self.read(batch), strict=True)

    def batches(self, items):
        """Some of the inputs in batches of similar length that do not change their rows."""
        lengths = self.inputs.lengths
        return list(batches_by_length(items, lengths, self._batch_size, padding=self._padding))

    def _may_be_padded(self):
        """Whether inputs of unequal length may be in one batch; an error if none may."""
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
            return True  # a sample's rows can be small beside the rounding of another's
        together = self._read(pair, [0, 1])
        alone = [self._read(pair, [item])[0] for item in (0, 1)]
        if self._agree(together, alone):
            return True
        # a model that draws random numbers is no evidence
        return not self._agree(together, self._read(pair, [0, 1]))

    def _agree(self, some, others):
        """Whether rows are equal up to rounding, of each relative to its norm.

        Half of the digits are left to rounding, which adds up over a deep model.
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

    def _read(self, inputs, batch):
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
            activation = read_activation(self.network.module, self.path, forward, side=self.side)
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
                    calls = record_activations(model, self.path, forward, side=self.side)
                break
            except Exception as error:
                if not failed or isinstance(error, torch.OutOfMemoryError):
                    raise
                if dtype == dtypes[-1]:
                    first.explain(error, self.network, self.path)
                    raise
        if len(calls) > 1:
            raise ValueError(
                f"layer={self.path!r} is called {len(calls)} times in a forward pass, so it "
                "has no single activation. Name a module that is called once."
            )
        (activation,) = calls
        if feature_axis == "auto":
            feature_axis = channels.axis(activation)
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
        return _Seen(rows[0].shape[1], feature_axis, activation.ndim, dtype, eps, in_8_bits)

    def _check_alignment(self):
        """Raise a ValueError if the layer is given other tokens than the model, such as the next.

        Which those are, the last look-up of an embedding before the layer tells.
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
        with Hooks(registrations):
            self._read(pair, [0])
        for found in reversed(looked_up):
            if torch.equal(found, ids):
                break
            if _is_rearranged(found, ids):
                raise ValueError(
                    f"layer={self.path!r} is given the tokens of a text in other places than the "
                    f"model: {found[:4].tolist()}... of {ids[:4].tolist()}..., as a decoder that "
                    "predicts them. So its rows are not those of the text's tokens. Name a layer "
                    "of the encoder, or give a module that runs the decoder on the text itself."
                )
        self._seen.is_aligned = True


def _is_rearranged(found, ids):
    """Whether some token ids are others, shifted or in reverse.

    Positions, which have an embedding too, are one after the other, and types of tokens all alike.
    """
    if len(found.diff().unique()) < 2:
        return False
    shifts = [n for n in (1, 2) if 2 * n < len(ids)]
    shifted = (torch.equal(a[n:], b[:-n]) for n in shifts for a, b in ((found, ids), (ids, found)))
    return any(shifted) or torch.equal(found.flip(0), ids)


def _state(model, path):
    """What has to stay as it is for a layer to be called as often, and to be as wide."""
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
    """Raise a ValueError unless features can be on that axis of an activation."""
    if feature_axis not in {*range(1, activation.ndim), *range(1 - activation.ndim, 0)}:
        raise ValueError(
            f"feature_axis={feature_axis}, but layer={layer!r} gives shape "
            f"{tuple(activation.shape)}, of which axis 0 is that of the inputs. Give another of "
            "its axes."
        )


def untold_axis(activation, layer):
    """What to say where nothing tells which axis of an activation is that of the features."""
    return (
        f"layer={layer!r} gives shape {tuple(activation.shape)}, and nothing tells which axis is "
        "that of the features. Set feature_axis: 1 for channels before positions, as torch's "
        "convolutions have them, or -1 for channels last."
    )


class Channels:
    """Follows, inside a forward pass, on which axis the channels of activations are.

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
        self._is_over = False
        self._last = None  # (usual axis, number of channels) of the last module that tells
        self._known = {}  # {id of a tensor: (axis, the tensor)}, of the last few

    def watching(self):
        """Follow each forward pass in a ``with`` block up to the layer's first call."""
        registrations = [partial(self._model.register_forward_pre_hook, self._forget)]
        if self._side == "input":
            register = self._layer.register_forward_pre_hook
            registrations.append(partial(register, self._before_layer, with_kwargs=True))
        registrations += [
            partial(module.register_forward_hook, self._after)
            for module in self._model.modules()
            if _channels_of(module) or type(module).__module__ in _CHANNELS_STAY
        ]
        if self._side == "output":
            registrations.append(partial(self._layer.register_forward_hook, self._after_layer))
        return Hooks(registrations)

    def axis(self, activation):
        """The axis of the channels of the layer's activation, or None where nothing tells."""
        if activation.ndim < 3:
            return -1
        if id(activation) in self._known:
            return self._known[id(activation)][0]
        usual, n_channels = self._last or (-1, None)
        as_many = [axis for axis in (1, -1) if activation.shape[axis] == n_channels]
        if len(as_many) == 1:
            return as_many[0]
        # a part of the channels, and no other axis that they could be on
        return -1 if not as_many and usual == -1 and activation.ndim == 3 else None

    def _after(self, module, args, output):
        output = output[0] if isinstance(output, tuple) else output
        if self._is_over or not isinstance(output, torch.Tensor):
            return
        found = _channels_of(module)
        if found:
            axis, _, n_channels = found
            n_channels = n_channels or output.shape[-1]
            self._last = axis, n_channels
            # a class of its own may have turned the axes
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
        if not self._is_over and given is not None and found and found[1]:
            axis, n_channels, _ = found
            self._last = axis, n_channels
            if type(module).forward.__module__.startswith("torch.nn.modules"):
                self._note(given, axis)
        self._is_over = True

    def _after_layer(self, module, args, output):
        self._is_over = True


def _channels_of(module):
    """Axis and numbers of the channels of input and output; None if a module does not tell."""
    for classes, axis, *names in _WITH_CHANNELS:
        if isinstance(module, classes):
            numbers = [None if name is None else getattr(module, name) for name in names]
            if isinstance(numbers[0], tuple):  # what a norm is over can be more than one axis
                return (axis, *(shape[0] for shape in numbers)) if len(numbers[0]) == 1 else None
            return (axis, *numbers)
    return None
