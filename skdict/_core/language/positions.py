"""Find out, during a forward pass, which of its tokens an intervention is for."""

import dataclasses
import inspect
import math
import sys
import threading
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from .modules import way_to
from .windows import special_token_ids

# Parts of the names of integer arguments that are not token ids.
_NOT_TOKENS = ("mask", "position", "type", "label", "index", "indices", "len")


class _Call(NamedTuple):
    """What a module was called with."""

    token_ids: torch.Tensor | None  # (n_sequences, length)
    attention_mask: torch.Tensor | None  # (n_sequences, length of the cache + length)
    n_before: int | None  # tokens in the key-value cache before the call; None: unknown


_UNKNOWN = _Call(None, None, 0)

# The code of the frame in which a module is called.
_CALL = torch.nn.Module._call_impl.__code__


class TokenSelection:
    """Tells, during a forward pass, which of its tokens are selected.

    Pre-hooks on the modules from the model down to the layer's parent record the arguments of
    their calls (`note`). Token ids are read from the innermost module that was given any. So
    encoders, decoders, wrapped models and models without their head all work.

    Parameters
    ----------
    model : torch.nn.Module

    layer : str

    tokenizer : tokenizer of transformers or None
        Its special tokens are never selected. Without a tokenizer, these are the ones that the
        model's config names.

    where : None, array-like of bool, or callable
        Which of the other tokens are selected, see `replace_activations`.
    """

    def __init__(self, model, layer, tokenizer, where):
        self.layer = layer
        # a wrapper such as DataParallel does not have a config
        configured = (module for module in way_to(model, layer) if hasattr(module, "config"))
        special_ids = special_token_ids(tokenizer, next(configured, model))
        self.special_ids = torch.from_numpy(special_ids)
        self.where = where if where is None or callable(where) else _check_mask(where)
        self._of_thread = threading.local()

    def note(self, module, args, kwargs):
        """Record what a module on the way to the layer is called with."""
        if not hasattr(self._of_thread, "calls"):
            self._of_thread.calls = WeakKeyDictionary()
        of_encoder = "encoder" in self.layer.split(".")
        self._of_thread.calls[module] = _read_call(module, args, kwargs, of_encoder)

    def _calls(self):
        """Yield the calls in progress, the innermost first.

        They are found on the stack. A hook at the end of a call could not keep count of them,
        as torch does not call it after an interrupt.
        """
        calls = getattr(self._of_thread, "calls", {})
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code is _CALL and frame.f_locals["self"] in calls:
                yield calls[frame.f_locals["self"]]
            frame = frame.f_back

    def _call(self):
        """Return the innermost call with token ids, or else with an attention mask."""
        calls = list(self._calls())
        for known in ("token_ids", "attention_mask"):
            for call in calls:
                if getattr(call, known) is not None:
                    return call
        return _UNKNOWN

    def has_tokens(self):
        """Whether the model was given token ids."""
        return self._call().token_ids is not None

    def mask(self, shape):
        """Return which positions of an activation are selected.

        Parameters
        ----------
        shape : tuple of int
            Shape of the activation without its features. If the model was given token ids, their
            shape, perhaps followed by further axes, or flattened.

        Returns
        -------
        mask : torch.Tensor of bool of that shape, on the CPU
        """
        call, shape = self._call(), tuple(shape)
        ids, padding = call.token_ids, call.attention_mask
        known = ids if ids is not None else padding
        of_tokens = shape if known is None else tuple(known.shape)
        if ids is None and known is not None and len(shape) > 1:
            of_tokens = (of_tokens[0], min(of_tokens[1], shape[1]))  # masks cover the cache too
        mask = torch.ones(of_tokens, dtype=torch.bool, device="cpu")
        if ids is not None:
            mask &= ~torch.isin(ids.cpu(), self.special_ids)
        if padding is not None and padding.shape[1] >= of_tokens[1]:
            mask &= padding[:, padding.shape[1] - of_tokens[1] :].bool().cpu()
        if self.where is not None:
            mask &= self._where(call, of_tokens)
        if mask.all():
            return torch.ones(shape, dtype=torch.bool, device="cpu")
        if shape[: len(of_tokens)] == of_tokens:
            further = shape[len(of_tokens) :]
            return mask.reshape(of_tokens + (1,) * len(further)).expand(shape)
        if shape == (math.prod(of_tokens),):  # a mixture of experts flattens its tokens
            return mask.flatten()
        raise ValueError(
            f"The activation at layer={self.layer!r} has {shape} vectors, but the tokens are of "
            f"shape {of_tokens}. Name a layer with one vector per token, sequence by sequence."
        )

    def _where(self, call, shape):
        if len(shape) == 1:  # no axis of positions
            positions = torch.zeros(1, dtype=torch.int64, device="cpu")
        elif call.n_before is None:
            raise ValueError(
                "where needs the positions of the tokens, but the model's cache does not tell "
                "how many it holds. Generate with use_cache=False, or leave out where."
            )
        else:
            positions = torch.arange(call.n_before, call.n_before + shape[1], device="cpu")
        if callable(self.where):
            found = torch.as_tensor(self.where(call.token_ids, positions), device="cpu")
            if found.dtype != torch.bool:
                raise ValueError(
                    "where must return true or false for each position, or each sequence and "
                    f"position, but returned {found.dtype} of shape {tuple(found.shape)}."
                )
        elif len(shape) == 1:
            found = self.where.flatten()
        else:
            inside = positions < self.where.shape[1]
            found = self.where[:, positions.clamp(max=self.where.shape[1] - 1)] & inside
        try:
            return found.expand(shape)
        except RuntimeError:
            raise ValueError(
                f"where selects from shape {tuple(found.shape)}, but the model is called with "
                f"tokens of shape {shape}. One entry per sequence and position is needed, or one "
                "per position for all sequences alike."
            ) from None


def _read_call(module, args, kwargs, of_encoder):
    """Find token ids, attention mask and the length of a cache among a call's arguments.

    An encoder-decoder model is given those of both parts; `of_encoder` says which are wanted.
    """
    parameters = ()
    try:
        signature = inspect.signature(module.forward)
        parameters = signature.parameters
        bound = signature.bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # no signature, or a wrong call, which will raise itself
        bound = dict(enumerate(args)) | kwargs
    bound = _unpacked(bound)
    if "decoder_input_ids" in {*parameters, *bound}:
        others = ("input_ids", "attention_mask")
        if of_encoder:
            others = [f"decoder_{name}" for name in others]
        bound = {
            str(name).removeprefix("decoder_"): value
            for name, value in bound.items()
            if name not in others
        }
    ids = [
        value
        for name, value in bound.items()
        if _is_matrix(value)
        and not value.is_floating_point()
        and value.dtype != torch.bool
        and not any(word in str(name) for word in _NOT_TOKENS)
    ]
    if _is_matrix(bound.get("input_ids")):
        ids = [bound["input_ids"]]
    mask = bound.get("attention_mask")
    n_before = 0
    for name, value in bound.items():
        if "past" in str(name) or "cache" in str(name):
            if hasattr(value, "get_seq_length"):
                try:
                    n_before = int(value.get_seq_length())
                except (ValueError, NotImplementedError, TypeError):  # a cache of states
                    n_before = None
            elif isinstance(value, torch.Tensor) and value.ndim == 1 and len(value):
                n_before = int(value[0])  # cache_position
            elif value is not None and not isinstance(value, bool):
                n_before = None
    return _Call(ids[0] if ids else None, mask if _is_matrix(mask) else None, n_before)


def _unpacked(given):
    """Return {name: value} of all arguments of a call, also those inside containers.

    If a name comes more than once, the outermost value counts, and among those the first.
    """
    found, containers, seen = {}, [given], set()
    for container in containers:  # the list grows in the loop
        for name, value in container.items():
            found.setdefault(name, value)
            if "past" in str(name) or "cache" in str(name) or id(value) in seen:
                continue
            seen.add(id(value))
            if callable(getattr(value, "items", None)):  # any kind of mapping
                containers.append(value)
            elif hasattr(value, "_asdict"):
                containers.append(value._asdict())
            elif isinstance(value, list | tuple):
                containers.append({f"{name} {index}": each for index, each in enumerate(value)})
            elif dataclasses.is_dataclass(value) and not isinstance(value, type):
                containers.append(
                    {x.name: getattr(value, x.name) for x in dataclasses.fields(value)}
                )
    return found


def _is_matrix(value):
    return isinstance(value, torch.Tensor) and value.ndim == 2


def _check_mask(where):
    where = where.cpu() if isinstance(where, torch.Tensor) else np.asarray(where)
    is_bool = where.dtype in (torch.bool, np.dtype(bool))
    if not is_bool or where.ndim not in (1, 2) or 0 in where.shape:
        raise ValueError(
            "where must be true or false for each position, or each sequence and position, or a "
            f"function; but it has dtype {where.dtype} and shape {tuple(where.shape)}. To turn "
            "indices into a mask: mask = numpy.zeros(length, bool); mask[indices] = True."
        )
    return torch.as_tensor(where, device="cpu").reshape(-1, where.shape[-1])
