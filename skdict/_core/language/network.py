"""A model, and what has to be known to run it."""

import inspect
from functools import cached_property
from numbers import Real

import torch
from torch import nn

from ..kernels.cpu.threads import threads_for
from .fingerprint import fingerprint

NO_LIMIT = 1e15  # tokenizers of transformers without a limit say 1e30


def text_config(model):
    """Return the part of a model's config that is about text, or None."""
    config = getattr(model, "config", None)
    try:
        return config.get_text_config()  # of a model that also takes images or sound
    except (AttributeError, ValueError):  # another kind of config, or one of several texts
        return config


def as_limit(value):
    """Return a greatest number of tokens as an int, or None if the value means no limit."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return int(value) if is_number and 1 <= value < NO_LIMIT else None


class Network:
    """A model, and what has to be known to run it.

    Parameters
    ----------
    module : torch.nn.Module
    """

    def __init__(self, module):
        self.module = module

    @cached_property
    def _tensors(self):
        return [*self.module.named_parameters(), *self.module.named_buffers()]

    def run(self, arguments, keywords):
        """Run the model, with as many threads as its largest matrix product can use."""
        (inputs,) = arguments
        has_channels = inputs.is_floating_point() and inputs.ndim > 1
        n_positions = inputs.numel() // (inputs.shape[1] if has_channels else 1)
        with threads_for(n_positions * self._largest_matrix):
            return self.module(inputs, **keywords)

    @cached_property
    def _largest_matrix(self):
        """Elements of the largest weight. Embeddings do not count: one row of them is read."""
        return max(
            (
                tensor.numel()
                for module in self.module.modules()
                if not isinstance(module, nn.Embedding | nn.EmbeddingBag)
                for tensor in module.parameters(recurse=False)
            ),
            default=0,
        )

    @cached_property
    def device(self):
        """Where the first parameter is; if it is offloaded, where it is used."""
        device = self._tensors[0][1].device if self._tensors else torch.device("cpu")
        if device.type == "meta":  # accelerate loads a module's weights when it is called
            for module in self.module.modules():
                hook = getattr(module, "_hf_hook", None)
                for part in getattr(hook, "hooks", [hook]):
                    if getattr(part, "execution_device", None) is not None:
                        return torch.device(part.execution_device)
        return device

    @cached_property
    def dtype(self):
        """Data type of the first floating-point parameter."""
        dtypes = (tensor.dtype for _, tensor in self._tensors if tensor.is_floating_point())
        return next(dtypes, torch.float32)

    @cached_property
    def dtypes(self):
        """Floating-point types of the parameters, widest first: what the model may compute in."""
        found = {tensor.dtype for tensor in self.module.parameters()}
        usual = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
        return [dtype for dtype in usual if dtype in found] or [torch.float32]

    @cached_property
    def context_length(self):
        """Longest sequence in tokens, or None where the config does not say."""
        limit = as_limit(getattr(text_config(self.module), "max_position_embeddings", None))
        for name, part in self.module.named_modules():
            if (
                isinstance(part, nn.Embedding)
                and "position" in name.rpartition(".")[2]
                and part.num_embeddings == limit
                and part.padding_idx is not None
            ):  # as in RoBERTa, where positions start after that of padding
                return limit - part.padding_idx - 1
        return limit

    @cached_property
    def n_token_ids(self):
        """Rows of the token embedding, or None if the model does not say."""
        try:
            embeddings = self.module.get_input_embeddings()
        except (AttributeError, NotImplementedError):  # the class does not say where it is
            return None
        return getattr(embeddings, "num_embeddings", None)

    @cached_property
    def takes_only_token_ids(self):
        """Whether the model says that its input is token ids."""
        return getattr(self.module, "main_input_name", None) == "input_ids"

    @cached_property
    def takes_token_ids(self):
        """Whether an array of integers may be token ids."""
        if hasattr(self.module, "main_input_name"):  # a model of transformers
            return self.takes_only_token_ids
        embeddings = (nn.Embedding, nn.EmbeddingBag)
        return any(isinstance(module, embeddings) for module in self.module.modules())

    @cached_property
    def _forward_parameters(self):
        return inspect.signature(self.module.forward).parameters

    @cached_property
    def takes_attention_mask(self):
        """Whether padding can be hidden from the model."""
        names = self._forward_parameters
        kinds = [parameter.kind for parameter in names.values()]
        return "attention_mask" in names or inspect.Parameter.VAR_KEYWORD in kinds

    @cached_property
    def takes_use_cache(self):
        """Whether the model can be told not to keep keys and values for generation."""
        return "use_cache" in self._forward_parameters

    @property
    def fingerprint(self):
        """Digest of the model as it is now, see `fingerprint.fingerprint`."""
        return fingerprint(self.module)
