"""Load a transformer and its tokenizer by name, once per process."""

import os
import pickle
from contextlib import contextmanager
from functools import lru_cache

import torch

from .network import Network
from .transformers import import_transformers, no_progress_bar


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
    ValueError, ImportError
        If there is no such model, or if it cannot be loaded.
    """
    return _load_network(name, dtype, device, trust_remote_code, _folder_state(name))


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
    except Exception as error:  # what parsers of files raise has no common class
        message = str(error)
        if "allocate memory" in message or "out of memory" in message:  # mere RuntimeErrors
            raise
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in message:
            # whose own advice, not to be passed on, is to run whatever code is in the file
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
        raise ValueError(f"architectures in config.json names {name!r}, which is no model.")
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
    # vocabulary is empty but for special tokens.
    if len(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)) < 2:
        raise ValueError(missing)
    return tokenizer


def check_tokenizer(tokenizer):
    """Raise a ValueError unless the tokenizer knows the characters behind each token."""
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"tokenizer is a {type(tokenizer).__name__}, which does not know the characters "
            "behind each token. Use a fast tokenizer of transformers (is_fast is True), for "
            "instance PreTrainedTokenizerFast."
        )
