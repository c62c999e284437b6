"""Load a transformer and its tokenizer by name, once per process, or take ready ones."""

import os
import pickle
from contextlib import contextmanager
from functools import lru_cache

import torch

from ..optional import optional
from .network import Network


def import_transformers(what):
    """Import transformers, or raise an ImportError that says `what` needs it and how to get it."""
    with optional("transformers", what, '"skdict[transformers]"'):
        import transformers
    return transformers


@contextmanager
def no_progress_bar():
    """Hide the bar that transformers shows while it loads weights, during a ``with`` block."""
    logging = import_transformers("Loading a model").utils.logging
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def ready_network(module, *, device, dtype):
    """Return a ready module as a network. It is used where it is and as it is.

    Parameters
    ----------
    module : torch.nn.Module

    device : torch.device or None
        Where the user expects it; None for anywhere.

    dtype : {"auto", "float32", "float16", "bfloat16"}
        What the user expects it to compute in.

    Returns
    -------
    network : Network

    Raises
    ------
    ValueError
        If the module is elsewhere, or of another dtype.
    """
    network = Network(module)
    if device is not None:
        found = network.device
        if device.type != found.type or device.index not in (None, found.index):
            raise ValueError(
                f"device={str(device)!r}, but the model is a ready module on {str(found)!r} and "
                "is used where it is. Move it there with model.to(device), or leave "
                "device='auto'."
            )
    if dtype != "auto" and getattr(torch, dtype) != network.dtype:
        raise ValueError(
            f"dtype={dtype!r}, but the model is a ready module in {network.dtype} and is "
            "used as it is. Convert it with model.to(dtype), or leave dtype='auto'."
        )
    return network


def load_network(name, *, dtype, device, trust_remote_code):
    """Load a transformer by Hugging Face id or from a local folder, in evaluation mode.

    The two models used last stay in memory, so that the clones of an estimator share one.
    A local folder never causes a request to the network. It is read again when its files
    have changed.

    Parameters
    ----------
    name : str

    dtype : {"auto", "float32", "float16", "bfloat16"}
        "auto" is float32 on the CPU; on a GPU bfloat16, or float16 where it has no bfloat16.

    device : torch.device

    trust_remote_code : bool

    Returns
    -------
    network : Network

    Raises
    ------
    ValueError, ImportError
        If there is no such model, or if it cannot be loaded.
    """
    dtype = _automatic_dtype(device) if dtype == "auto" else getattr(torch, dtype)
    return _load_network(name, dtype, device, trust_remote_code, _folder_state(name))


def _automatic_dtype(device):
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16


def load_tokenizer(name, *, trust_remote_code):
    """Load the tokenizer that belongs to a model; otherwise as `load_network`.

    Returns
    -------
    tokenizer : transformers.PreTrainedTokenizerBase

    Raises
    ------
    ValueError, ImportError
        If the model has no tokenizer of its own, or if it cannot be loaded.
    """
    return _load_tokenizer(name, trust_remote_code, _folder_state(name))


def tokenizer_of(model, *, trust_remote_code):
    """Load the tokenizer of a model that is given by name, or that knows its name.

    Parameters
    ----------
    model : str, path-like or torch.nn.Module

    trust_remote_code : bool

    Returns
    -------
    tokenizer : transformers.PreTrainedTokenizerBase

    Raises
    ------
    ValueError, ImportError
        As `load_tokenizer`, and if a ready module does not say where it was loaded from.
    """
    name = model
    if isinstance(model, torch.nn.Module):
        name = getattr(model, "name_or_path", "")  # of a PreTrainedModel
    if not name:
        raise ValueError(
            f"tokenizer='auto', but the model is a ready {type(model).__name__} that was not "
            "loaded by name. Give a ready tokenizer, or tokenizer=None if the model takes arrays."
        )
    return load_tokenizer(os.fspath(name), trust_remote_code=trust_remote_code)


def _folder_state(name):
    """Names, sizes and times of a local folder's files; None for anything else."""
    if not os.path.isdir(name):
        return None
    with (
        _explained(f"model={name!r} is a folder that cannot be read."),
        os.scandir(name) as entries,
    ):
        files = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    return tuple(sorted((file, stat.st_size, stat.st_mtime_ns) for file, stat in files))


@contextmanager
def _explained(what):
    """Raise whatever fails while something is loaded as a ValueError that says `what`.

    A missing package stays an ImportError, and out of memory stays what it is.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except ImportError as error:
        raise ImportError(f"{what} transformers says: {error}") from error
    except Exception as error:  # parsers of files raise errors of many classes
        message = str(error)
        if "allocate memory" in message or "out of memory" in message:  # mere RuntimeErrors
            raise
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in message:
            # torch's own message advises to run whatever code is in the file
            raise ValueError(
                f"{what} Its weights are a pickle that holds more than tensors, which is not "
                "loaded: a pickle can run any code. Get the model as safetensors."
            ) from None
        raise ValueError(f"{what} transformers says: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=2)
def _load_network(name, dtype, device, trust_remote_code, folder_state):
    transformers = import_transformers("Loading a model by name")
    options = {
        "trust_remote_code": trust_remote_code,
        "local_files_only": folder_state is not None,
    }
    with _explained(
        f"model={name!r} could not be loaded: it must be a folder written by save_pretrained, or "
        "the id of a model on the Hugging Face Hub that can be reached or was downloaded before. "
        "If it was, a file of it may be damaged or cut off: download it again."
    ):
        config = transformers.AutoConfig.from_pretrained(name, **options)
        model_class = _model_class(transformers, config)
        with no_progress_bar():
            module = model_class.from_pretrained(name, config=config, dtype=dtype, **options)
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
    if name is None or not hasattr(transformers, name):
        return transformers.AutoModel
    model_class = getattr(transformers, name)
    if not isinstance(model_class, type) or not issubclass(
        model_class, transformers.PreTrainedModel
    ):
        raise ValueError(
            f"architectures in config.json names {name!r}, which is not a model's class."
        )
    return model_class


@lru_cache(maxsize=2)
def _load_tokenizer(name, trust_remote_code, folder_state):
    transformers = import_transformers("Loading a tokenizer by name")
    missing = (
        f"No tokenizer was found for model={name!r}. Give a ready one as tokenizer=, or "
        "tokenizer=None for a model that takes arrays."
    )
    with _explained(missing):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            name, trust_remote_code=trust_remote_code, local_files_only=folder_state is not None
        )
    # Where the files are missing, transformers may build the model's default tokenizer, whose
    # vocabulary holds nothing but special tokens.
    if len(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)) < 2:
        raise ValueError(missing)
    return tokenizer


def check_tokenizer(tokenizer):
    """Raise a ValueError unless the tokenizer knows the characters of each token."""
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            "The 'tokenizer' parameter must be 'auto', None or a fast tokenizer of transformers, "
            "whose is_fast is True and which knows the characters behind each token, but it is "
            f"{tokenizer!r:.60} of type {type(tokenizer).__name__}. PreTrainedTokenizerFast makes "
            'one of your own rules, see "Your own model and tokenizer" in the user guide.'
        )
