"""Whether processes see the same folder."""

import uuid
from contextlib import suppress

from .agreement import Failure, raise_failure


def check_shared(folder, ranks):
    """Raise in all processes unless all of them see what the first one writes to a folder.

    Parameters
    ----------
    folder : Path
        That it is in each process.
    ranks : Ranks

    Raises
    ------
    ValueError
        If one does not; names it.
    RuntimeError
        If the first one cannot write to the folder.
    """
    mark = None
    if ranks.rank == 0:
        mark = folder / f"seen-by-all-{uuid.uuid4().hex}"
        try:
            mark.touch()
        except OSError as error:
            mark = Failure.of(error)
    name = ranks.from_first(mark if isinstance(mark, Failure) else mark and mark.name)
    raise_failure([name])
    try:
        seen = ranks.objects((folder / name).exists())
    finally:  # a process may be lost meanwhile
        if ranks.rank == 0:
            with suppress(OSError):
                mark.unlink()
    if not all(seen):
        raise ValueError(
            f"Process {seen.index(False)} does not see what process 0 has written to "
            f"{str(folder)!r}. Where each process holds some of the atoms it keeps the state of "
            "these in a file of its own: give Checkpoint a path on a file system that all "
            "processes share."
        )
