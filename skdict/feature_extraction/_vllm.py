"""Read the hidden states that vLLM's connector writes: a safetensors file for each request."""

import os
import re
from pathlib import Path

import xxhash

from .._core.storage.layout import DTYPES

TOKENS = ("document", "position", "token_id")


def files_of(folder):
    """The files of a folder by the numbers in their names, and what tells them from others.

    Parameters
    ----------
    folder : path-like

    Returns
    -------
    files : list of Path
    identity : dict
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {os.fspath(folder)!r}.")
    files = sorted(Path(folder).glob("*.safetensors"), key=lambda file: _natural(file.name))
    if not files:
        raise ValueError(
            f"{os.fspath(folder)!r} has no safetensors files. Give the folder that vLLM's "
            "ExampleHiddenStatesConnector writes to (its shared_storage_path)."
        )
    names = "\n".join(file.name for file in files)
    return files, {
        "source": "hidden states of vLLM",
        "n_files": len(files),
        "names": xxhash.xxh3_128_hexdigest(names.encode("utf-8", "surrogateescape")),
    }


def _natural(name):
    """Key that sorts "2" before "10"."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def read_request(file, n_layers):
    """The hidden states and the tokens of a request.

    Parameters
    ----------
    file : Path
    n_layers : int
        How many there have to be.

    Returns
    -------
    hidden_states : tensor of shape (n_tokens, n_layers, width)
    token_ids : ndarray of shape (n_tokens,)
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), "pt") as opened:
            names = sorted(opened.keys())
            missing = {"hidden_states", "token_ids"} - set(names)
            if missing:
                raise ValueError(
                    f"{file} has no tensor {sorted(missing)[0]!r}: it has "
                    f"{', '.join(names) or 'none'}."
                )
            states, ids = opened.get_tensor("hidden_states"), opened.get_tensor("token_ids")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is no valid safetensors file: {error}.") from None
    if states.dim() != 3 or ids.shape != states.shape[:1] or ids.is_floating_point():
        raise ValueError(
            f"{file}: hidden_states must have shape (n_tokens, n_layers, width) and token_ids "
            f"(n_tokens,), in integers, but they have {tuple(states.shape)} and "
            f"{tuple(ids.shape)}, in {ids.dtype}."
        )
    if states.shape[1] != n_layers:
        raise ValueError(
            f"{file}: hidden_states has {states.shape[1]} layers, but layers names {n_layers}. "
            "Name them in the order of vLLM's eagle_aux_hidden_state_layer_ids."
        )
    if str(states.dtype).removeprefix("torch.") not in DTYPES:
        raise ValueError(
            f"{file}: hidden_states has dtype {states.dtype}, expected {', '.join(DTYPES)}."
        )
    return states, ids.numpy()
