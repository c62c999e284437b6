"""A table of answers on disk: lines of JSON that are appended whole and found by a key."""

import json
import math
import os
import zlib
from pathlib import Path

from ...utils._warnings import warn

_END = b', "crc32": "%08x"}\n'
_N_END = len(_END % 0)
_MAX_NAMED = 10  # damaged lines in a warning


class AnswerTable:
    """Records in a file of JSON lines, which is read at the start and appended to.

    Each line is written by one call, in append mode, and ends in a checksum. A line that was cut
    off or changed counts as missing, and a warning names it; of several lines with the same key
    the last counts. Only keys and places are kept in memory.

    Parameters
    ----------
    path : str or path-like
        The folder is created if it does not exist.
    """

    def __init__(self, path):
        path = Path(path).expanduser()
        self._places = {}  # key: (offset, length) of its line
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise OSError(
                f"table cannot be opened, at {path}: {error}. Give the path of a file."
            ) from error
        damaged, is_foreign, last = [], False, b"\n"
        self._file.seek(0)
        with open(path, "rb") as lines:
            offset = 0
            for number, line in enumerate(lines, start=1):
                record = _read(line)
                if record is not None:
                    self._places[record["key"]] = (offset, len(line))
                elif line.strip():
                    damaged.append(number)
                    is_foreign |= not line.startswith(b'{"')
                offset, last = offset + len(line), line
        if is_foreign and not self._places:
            self._file.close()
            raise ValueError(
                f"table is {path}, which holds something else than answers. Give another path, or "
                "remove that file."
            )
        if damaged:
            named = ", ".join(map(str, damaged[:_MAX_NAMED]))
            named += ", ..." if len(damaged) > _MAX_NAMED else ""
            warn(
                f"table has {len(damaged)} damaged lines in {path}: {named}. What they answered "
                "is asked again."
            )
        if not last.endswith(b"\n"):
            self._file.write(b"\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def get(self, key):
        """Return a record, or None if it is missing or was damaged since."""
        if key not in self._places:
            return None
        offset, length = self._places[key]
        self._file.seek(offset)
        record = _read(self._file.read(length))
        if record is None or record["key"] != key:
            return None
        return {name: math.nan if value is None else value for name, value in record.items()}

    def append(self, key, record):
        """Add a record: a dict of str, int, float and what JSON can hold; nan becomes null."""
        fields = {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in record.items()
        }
        text = json.dumps(fields | {"key": key}, default=lambda number: number.item())
        content = text.removesuffix("}").encode()
        line = content + _END % zlib.crc32(content)
        written = self._file.write(line)
        if written != len(line):
            raise OSError(f"table cannot be written to: only a part fits into {self._file.name}.")
        end = self._file.seek(0, os.SEEK_END)
        self._places[key] = (end - len(line), len(line))


def _read(line):
    """The record of a line; None if it is not whole."""
    content, end = line[:-_N_END], line[-_N_END:]
    if end != _END % zlib.crc32(content):
        return None
    return json.loads(content + b"}")
