"""States of training on disk: folders that appear whole, the newest two of them.

``step-000012345/`` has ``state.safetensors``, the tensors, and ``state.json``: all else, with a
digest of each tensor and one of itself. It is written as ``step-000012345.tmp``, flushed to the
disk, and renamed; only then are older ones removed. So there is a whole one at every moment, and
nothing in it is executed when it is read.

Where several processes have different atoms each writes the rows of its own to a file,
``rows-00003.safetensors``. ``state.json`` says which rows these are.
"""

import json
import os
import re
import shutil
from pathlib import Path

from ..distributed.rows import OwnRows
from ..fields import Fields
from ..formats.packing import pack, unpack
from ..formats.tensors import FormatError, SafeTensors
from ..tensors import from_numpy
from .digests import digest, digest_of_text
from .stored_rows import StoredRows

STATE, TENSORS = "state.json", "state.safetensors"
FORMAT, FORMAT_VERSION = "skdict checkpoint", 2
VERSION_OF_PARTS = 2  # without parts it is 1
N_KEPT = 2
_NAME = re.compile(r"step-(\d{9,})")
_ROWS = re.compile(r"rows-\d{5,}\.safetensors")
# Keys of state.json, each with what its value has to be.
KEYS = {"format": str, "format_version": int, "about": dict, "state": dict, "tensors": dict}
KEYS_OF_ROWS = {"file": str, "start": int, "n_rows": int, "size": int, "digests": dict}


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
    temporary = begin_checkpoint(folder, n_steps)
    try:
        commit_checkpoint(temporary, [write_part(temporary, state)], about)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def begin_checkpoint(folder, n_steps):
    """Make the folder of a checkpoint, under its temporary name."""
    temporary = folder / f"step-{n_steps:09d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def write_part(temporary, state, rank=0):
    """Write what one process has of a state, and have it flushed to the disk.

    Parameters
    ----------
    temporary : Path
        From `begin_checkpoint`.
    state : dict
        As in `write_checkpoint`. Of tables that are in several processes it has `OwnRows`.
    rank : int
        Number of the process. The first one writes all that is no such table.

    Returns
    -------
    part : dict
        What `commit_checkpoint` has to know of it, as JSON has it.
    """
    tensors, rows = {}, {}
    packed = pack(state, "state", tensors)
    for name, part in list(tensors.items()):
        if isinstance(part, OwnRows):
            rows[name] = from_numpy(tensors.pop(name).values)
            place = {"start": part.start, "n_rows": part.n_rows}
    found = (
        {} if rank else {"state": packed, "tensors": _write_tensors(temporary, TENSORS, tensors)}
    )
    if rows:
        file = f"rows-{rank:05d}.safetensors"
        digests = _write_tensors(temporary, file, rows)
        found["rows"] = {"file": file, **place, "digests": digests}
        found["rows"]["size"] = (temporary / file).stat().st_size
    return found


def _write_tensors(folder, name, tensors):
    """Write tensors to a file; their digests."""
    from safetensors.torch import save_file

    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(tensors, str(folder / name), metadata={"format": "pt"})
    _flush(folder / name)
    return {key: digest(tensor) for key, tensor in tensors.items()}


def commit_checkpoint(temporary, parts, about):
    """Give a checkpoint of which all parts are written its name, and remove old ones.

    Parameters
    ----------
    temporary : Path
    parts : list of dict
        From `write_part`, of all processes in their order.
    about : dict
        As in `write_checkpoint`.

    Raises
    ------
    OSError
        If it cannot be written, or a part is not there.
    """
    rows = [part["rows"] for part in parts if "rows" in part]
    for part in rows:
        path = temporary / part["file"]
        if not path.is_file() or path.stat().st_size != part["size"]:
            raise FileNotFoundError(f"{str(path)!r}, which another process wrote, is not there")
    content = {
        "format": FORMAT,
        "format_version": VERSION_OF_PARTS if rows else 1,
        "about": about,
        "state": parts[0]["state"],
        "tensors": parts[0]["tensors"],
    }
    content |= {"rows": rows} if rows else {}
    text = json.dumps({**content, "digest": _digest_of_json(content)}, allow_nan=False, indent=1)
    (temporary / STATE).write_text(text + "\n", encoding="utf-8")
    _flush(temporary / STATE)
    _flush(temporary)
    os.rename(temporary, temporary.with_suffix(""))
    folder = temporary.parent
    _flush(folder)
    for old in checkpoints_in(folder)[N_KEPT:]:
        remove(old)


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
    """The state in a checkpoint, and what it is the state of; verified.

    Parameters
    ----------
    checkpoint : Path

    Returns
    -------
    state : dict
        With ndarrays; with `StoredRows` of the tables that several processes have written, which
        are verified when they are read.
    about : dict

    Raises
    ------
    ValueError
        If a file is missing, damaged or of a newer format; names it.
    """
    content = _read_json(checkpoint)
    tensors = _Verified(checkpoint / TENSORS, content["tensors"], content.get("rows", []))
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
    fields = Fields(content, str(path))
    if fields.take("format") != FORMAT:
        raise FormatError(f"{path}: 'format' is {content['format']!r}, expected {FORMAT!r}.")
    for name, kind in KEYS.items():
        fields.of_type(name, kind)
    _check_rows(path, content.get("rows", []))
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


def _check_rows(path, parts):
    """Refuse parts that are not consecutive ones of the same tables."""
    is_list = isinstance(parts, list) and all(isinstance(part, dict) for part in parts)
    if not is_list or not all(
        type(part.get(name)) is kind for part in parts for name, kind in KEYS_OF_ROWS.items()
    ):
        raise FormatError(f"{path}: 'rows' is no list of parts with {', '.join(KEYS_OF_ROWS)}.")
    if not parts:
        return
    starts, n_rows = [part["start"] for part in parts], parts[0]["n_rows"]
    makes_up = starts[0] == 0 and sorted({*starts, n_rows}) == [*starts, n_rows]
    for part in parts:
        makes_up &= part["n_rows"] == n_rows and _ROWS.fullmatch(part["file"]) is not None
        makes_up &= part["digests"].keys() == parts[0]["digests"].keys()
    if not makes_up:
        raise FormatError(f"{path}: the parts in 'rows' do not make up tables.")


class _Verified(SafeTensors):
    """Tensors whose digests are known, and tables in parts beside them."""

    def __init__(self, path, digests, parts):
        super().__init__(path, str(path))
        self.digests = digests
        self.parts = parts
        self.folder = path.parent

    def rows(self, name):
        if not self.parts or name not in self.parts[0]["digests"]:
            raise FormatError(f"{self.where}: no process has written rows of {name}.")
        files = [
            (str(self.folder / part["file"]), part["start"], part["digests"][name])
            for part in self.parts
        ]
        return StoredRows(name, self.parts[0]["n_rows"], files)

    def read(self, name, rows=None, axis=0):
        tensor = super().read(name, rows, axis)
        if digest(tensor) != self.digests.get(name):
            raise FormatError(f"{self.where} is damaged: {name} is not what was written.")
        return tensor


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
