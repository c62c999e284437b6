"""States of training on disk: folders that appear whole, the newest two of them.

``step-000012345/`` has ``state.safetensors``, the tensors, and ``state.json``: all else, with a
digest of each tensor and one of itself. It is written as ``step-000012345.tmp``, flushed to the
disk, and renamed; only then are older ones removed. So there is a whole one at every moment, and
nothing in it is executed when it is read.
"""

import json
import os
import re
import shutil
from pathlib import Path

import torch
import xxhash

from ..formats.packing import pack, unpack
from ..formats.tensors import FormatError, SafeTensors

STATE, TENSORS = "state.json", "state.safetensors"
FORMAT, FORMAT_VERSION = "skdict checkpoint", 1
N_KEPT = 2
_NAME = re.compile(r"step-(\d{9,})")
# Keys of state.json, each with what its value has to be.
KEYS = {"format": str, "format_version": int, "about": dict, "state": dict, "tensors": dict}


def step_of(folder):
    """The number of steps in the name of a checkpoint, or None of another folder."""
    found = _NAME.fullmatch(Path(folder).name)
    return None if found is None else int(found[1])


def checkpoints_in(folder):
    """Folders of the checkpoints in a folder, the newest first; none where there is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if step_of(path) is not None)
    return sorted(found, key=step_of, reverse=True)


def write_checkpoint(folder, n_steps, state, about):
    """Write a state to a new folder in a folder, then remove all but the newest `N_KEPT`.

    Parameters
    ----------
    folder : Path
    n_steps : int
        After which it is: its name.
    state : dict
        Plain containers of numbers, strings, arrays and architectures.
    about : dict
        What it is the state of, as JSON has it.

    Raises
    ------
    OSError
        If it cannot be written. Nothing of it is left then, and older ones are what they were.
    """
    final = folder / f"step-{n_steps:09d}"
    temporary = final.with_name(f"{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write_files(temporary, state, about)
        _flush(temporary)
        os.rename(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush(folder)
    for old in checkpoints_in(folder)[N_KEPT:]:
        remove(old)


def _write_files(folder, state, about):
    from safetensors.torch import save_file

    tensors = {}
    packed = pack(state, "state", tensors)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, str(folder / TENSORS), metadata={"format": "pt"})
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "about": about,
        "state": packed,
        "tensors": {name: digest(tensor) for name, tensor in tensors.items()},
    }
    text = json.dumps({**content, "digest": _digest_of_json(content)}, allow_nan=False, indent=1)
    (folder / STATE).write_text(text + "\n", encoding="utf-8")
    for name in (TENSORS, STATE):
        _flush(folder / name)


def remove(checkpoint):
    """Remove a checkpoint: at no moment does a part of it have its name."""
    aside = checkpoint.with_name(f"{checkpoint.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(checkpoint, aside)
    shutil.rmtree(aside, ignore_errors=True)


def remove_unfinished(folder):
    """Remove what a process has left that was killed while it wrote or removed."""
    for path in Path(folder).glob("step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def read_about(checkpoint):
    """What a checkpoint is the state of, without its tensors.

    Raises
    ------
    ValueError
        If ``state.json`` is damaged; names the file and what is wrong.
    """
    return _read_json(checkpoint)["about"]


def read_checkpoint(checkpoint):
    """The state in a checkpoint, and what it is the state of; all of it verified.

    Parameters
    ----------
    checkpoint : Path

    Returns
    -------
    state : dict
        With ndarrays.
    about : dict

    Raises
    ------
    ValueError
        If a file is missing, damaged or of a newer format; names it.
    """
    content = _read_json(checkpoint)
    tensors = _Verified(checkpoint / TENSORS, content["tensors"])
    try:
        return unpack(content["state"], tensors), content["about"]
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{checkpoint / STATE}: 'state' cannot be read: {error}.") from None


def _read_json(checkpoint):
    path = checkpoint / STATE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise FormatError(f"{path} cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise FormatError(f"{path} holds no object, but a {type(content).__name__}.")
    if content.get("format") != FORMAT:
        raise FormatError(f"{path}: 'format' is {content.get('format')!r}, expected {FORMAT!r}.")
    for name, kind in KEYS.items():
        if type(content.get(name)) is not kind:
            raise FormatError(f"{path}: {name!r} is missing, or is no {kind.__name__}.")
    if content["format_version"] > FORMAT_VERSION:
        raise FormatError(
            f"{path}: format_version={content['format_version']} is of a newer skdict; this one "
            f"reads up to {FORMAT_VERSION}."
        )
    written = content.pop("digest", None)
    try:
        is_whole = written == _digest_of_json(content)
    except ValueError:  # of NaN, which is never written
        is_whole = False
    if not is_whole:
        raise FormatError(f"{path} is damaged: its 'digest' is not that of what it holds.")
    return content


class _Verified(SafeTensors):
    """Tensors whose digests are known."""

    def __init__(self, path, digests):
        super().__init__(path, str(path))
        self.digests = digests

    def read(self, name, rows=None, axis=0):
        tensor = super().read(name, rows, axis)
        if digest(tensor) != self.digests.get(name):
            raise FormatError(f"{self.where} is damaged: {name} is not what was written.")
        return tensor


def digest(tensor):
    """Digest of the numbers, the dtype and the shape of a tensor on the CPU: xxh3 of 128 bits."""
    found = xxhash.xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    if tensor.numel():
        found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def digest_of_text(text):
    """The same of a text."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def _digest_of_json(content):
    """Of what JSON can hold: the same after it has been written and read."""
    return digest_of_text(json.dumps(content, sort_keys=True, allow_nan=False))


def _flush(path):
    """Have the system write a file, or the names in a folder, to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    file = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
