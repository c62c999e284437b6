"""A model, what has to be known to feed it, and what it is known by."""

import hashlib
import inspect
import json
from functools import cached_property

import torch
from torch import nn


class Network:
    """A model, and what has to be known to feed it.

    Parameters
    ----------
    module : torch.nn.Module
    """

    def __init__(self, module):
        self.module = module

    @cached_property
    def _tensors(self):
        return [*self.module.named_parameters(), *self.module.named_buffers()]

    @cached_property
    def device(self):
        """Where the first parameter is."""
        return self._tensors[0][1].device if self._tensors else torch.device("cpu")

    @cached_property
    def dtype(self):
        """Data type of the first floating-point parameter."""
        dtypes = (tensor.dtype for _, tensor in self._tensors if tensor.is_floating_point())
        return next(dtypes, torch.float32)

    @cached_property
    def context_length(self):
        """Longest sequence in tokens, or None where the config does not say."""
        config = getattr(self.module, "config", None)
        if hasattr(config, "get_text_config"):  # of a model that also sees or hears
            config = config.get_text_config()
        return getattr(config, "max_position_embeddings", None)

    @cached_property
    def n_token_ids(self):
        """Rows of the token embedding, or None where there is no knowing."""
        if not hasattr(self.module, "get_input_embeddings"):
            return None
        return getattr(self.module.get_input_embeddings(), "num_embeddings", None)

    @cached_property
    def takes_token_ids(self):
        """Whether an array of integers is an array of token ids."""
        if hasattr(self.module, "main_input_name"):  # a model of transformers
            return self.module.main_input_name == "input_ids"
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

    @cached_property
    def fingerprint(self):
        """Digest of architecture, configuration and weights: equal for equal models anywhere.

        It cannot see a change in the code of a module's ``forward``, nor hooks.
        """
        digest = hashlib.sha256(_describe(self.module).encode())
        for name, tensor in self._tensors:
            tensor = tensor.detach().cpu().contiguous()
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def _describe(module):
    """Everything about a module that is not a tensor: classes, settings, plain attributes."""
    config = getattr(module, "config", None)
    if hasattr(config, "to_dict"):
        settings = config.to_dict()
        for where_from in ("_name_or_path", "transformers_version"):
            settings.pop(where_from, None)
    else:
        settings = {
            name: {
                key: value
                for key, value in vars(part).items()
                if isinstance(value, bool | int | float | str | tuple) and key != "training"
            }
            for name, part in module.named_modules()
        }
    settings = json.dumps(settings, sort_keys=True, default=str)
    return f"{type(module).__module__}.{type(module).__qualname__}{module!r}{settings}"
