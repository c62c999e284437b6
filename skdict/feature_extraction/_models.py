"""Load a transformer and its tokenizer by name, once per process; know a model by its weights."""

import hashlib
import inspect
import json
import os
from functools import cached_property, lru_cache

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

        A change in the code of a module's ``forward`` is the one thing that it cannot see.
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


def load_network(name, *, dtype, device, trust_remote_code):
    """Load a transformer by Hugging Face id or from a local folder, in evaluation mode.

    The two models used last stay in memory, so that the clones of an estimator share one.
    A local folder never causes a request to the network, and is read anew once its files
    have changed.

    Parameters
    ----------
    name : str
    dtype : torch.dtype
    device : torch.device
    trust_remote_code : bool

    Returns
    -------
    network : Network

    Raises
    ------
    ValueError
        If there is no such model.
    """
    return _load_network(name, dtype, device, trust_remote_code, _folder_state(name))


def load_tokenizer(name, *, trust_remote_code):
    """Load the tokenizer that belongs to a model; otherwise as `load_network`.

    Returns
    -------
    tokenizer : transformers.PreTrainedTokenizerBase

    Raises
    ------
    ValueError
        If the model has no tokenizer of its own.
    """
    return _load_tokenizer(name, trust_remote_code, _folder_state(name))


def _folder_state(name):
    """Names, sizes and times of a local folder's files; None for anything else."""
    if not os.path.isdir(name):
        return None
    with os.scandir(name) as entries:
        files = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    return tuple(sorted((file, stat.st_size, stat.st_mtime_ns) for file, stat in files))


@lru_cache(maxsize=2)
def _load_network(name, dtype, device, trust_remote_code, folder_state):
    transformers = _import_transformers()
    options = {
        "trust_remote_code": trust_remote_code,
        "local_files_only": folder_state is not None,
    }
    try:
        config = transformers.AutoConfig.from_pretrained(name, **options)
        model_class = _model_class(transformers, config)
        module = model_class.from_pretrained(name, config=config, dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model={name!r} could not be loaded: it must be a folder written by "
            "save_pretrained, or the id of a model on the Hugging Face Hub that can be reached "
            f"or was downloaded before. transformers says: {error}"
        ) from error
    return Network(module.to(device).eval())


def _model_class(transformers, config):
    """Return the class that the checkpoint was saved from, so that its layers keep their names.

    A class that comes with the checkpoint itself is found through the Auto class it is
    registered for. A checkpoint that does not name its class gets `AutoModel`.
    """
    name = next(iter(config.architectures or ()), None)
    remote = getattr(config, "auto_map", None) or {}
    for auto_class, reference in remote.items():
        if auto_class.startswith("AutoModel") and reference.split(".")[-1] == name:
            return getattr(transformers, auto_class)
    return getattr(transformers, name or "AutoModel", transformers.AutoModel)


@lru_cache(maxsize=2)
def _load_tokenizer(name, trust_remote_code, folder_state):
    transformers = _import_transformers()
    missing = (
        f"No tokenizer was found for model={name!r}. Give a ready one as tokenizer=, or "
        "tokenizer=None for a model that takes arrays."
    )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            name, trust_remote_code=trust_remote_code, local_files_only=folder_state is not None
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{missing} transformers says: {error}") from error
    # Where the files are missing, transformers may build the model's default tokenizer, whose
    # vocabulary is empty but for special tokens.
    if len(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)) < 2:
        raise ValueError(missing)
    return tokenizer


def _import_transformers():
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "Loading a model by name needs the package transformers: "
            'pip install "skdict[transformers]"'
        ) from error
    return transformers
