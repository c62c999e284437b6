"""A fit in steps as callbacks see it that keep its state, and what it is told apart by."""

import platform
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
import torch
import xxhash

import skdict

from .._core.data.source import Source
from .._core.dictionary import Dictionary
from .._core.distributed.sharing import check_shared
from .._core.distributed.strategy import ALONE
from .._core.distributed.tables import Tables
from .._core.formats.packing import pack
from .._core.kernels.cpu.instructions import cpu_has
from .._core.kernels.cpu.threads import n_cores
from .._core.models.architectures import Architecture
from .._core.parameters import python_number
from .._core.solvers import SOLVERS
from .._core.training.digests import digest, digest_of_text
from .._core.training.state import solver_from_state
from .._core.training.stored_rows import read_rows, tables_of, verify_share
from ..utils._arrays import as_matrix
from ..utils._warnings import warn

# Parameters that change nothing of what is trained.
OF_NO_EFFECT = ("verbose",)
# Rows are told apart by as many bytes of them, in this many consecutive rows at a time.
DIGESTED_BYTES = 64 << 20
DIGESTED_ROWS = 64
# Folder, beside the checkpoints, of a dictionary that is too large for memory.
FILES = "dictionary"
# Instructions that decide how kernels round.
INSTRUCTIONS = ("vnni", "avx512_bf16", "amx_tile")


class ResumableFit:
    """A fit, as callbacks are given it when it begins: ``metadata["resumable_fit"]``.

    Before its first step a callback may give it a state to go on from (`resume`), and ask to be
    called between steps (`listen`), when `state_dict` is all that a new process needs to go on to
    the last bit.

    Parameters
    ----------
    estimator : SparseAutoencoderDictionary
    params : SimpleNamespace
        Its parameters.
    rows : Source
    previous : Dictionary or None
        To start from.
    processes : Processes
        That fit it together.

    Attributes
    ----------
    obstacle : str or None
        Why there is nothing to go on from, where that is so.
    """

    def __init__(self, estimator, params, rows, previous, processes):
        self.estimator = estimator
        self.processes = processes
        self.random_state = processes.random_state()
        self.obstacle = _obstacle(params)
        self._params = params
        self._rows = rows
        self._previous = previous
        self._before = self.random_state.get_state(legacy=False)
        self._data = None
        self._state = None
        self._loop = None
        self._if_damaged = None
        self._listeners = []
        self._in_parts = False
        self._state_of_all = None

    # -- for callbacks -------------------------------------------------------------------------

    @cached_property
    def fingerprint(self):
        """What the result depends on, as JSON has it: a dict of parameters, X, start, environment.

        It has to be asked for before the first step.
        """
        params = vars(self._params).items()
        given = {name: plain(value) for name, value in params if name not in OF_NO_EFFECT}
        return {
            "estimator": type(self.estimator).__name__,
            "parameters": given,
            "X": identity_of(self._rows),
            "start": plain(self._previous),
            "environment": environment_of(self._rows.device),
        }

    def resume(self, state, where="The state of a fit", if_damaged=None):
        """Go on from a state of `state_dict`, with ndarrays or tensors, of the same fingerprint.

        Of several processes the first one says so for all.

        Parameters
        ----------
        state : dict
            With `StoredRows` too, where several processes fit.
        where : str
            The file that it is from, for errors.
        if_damaged : callable, optional
            Called with an error, a str, if such rows cannot be read: to resume from another one,
            or to raise.

        Raises
        ------
        ValueError
            If something is missing in it.
        """
        missing = {"random_state", "data", "loop"} - state.keys()
        if missing:
            raise ValueError(f"{where} has no {', '.join(sorted(missing))}.")
        self._state, self._where, self._if_damaged = state, where, if_damaged
        with self._reading():
            self._before = state["random_state"]["before"]
        self.random_state.set_state(self._before)

    @contextmanager
    def _reading(self):
        """Name the file where something is missing in the state that is gone on from."""
        try:
            yield
        except KeyError as error:
            raise ValueError(
                f"{self._where}: the state has no field {error}. Remove this checkpoint to go on "
                "from the one before it, or its folder to begin anew."
            ) from error

    def listen(self, listener):
        """Have an object called while the fit goes on.

        Parameters
        ----------
        listener : object
            With the methods ``between_steps(fit)``, called after each step, ``finish(fit)``, after
            the last one, and ``close()``, when the fit is over or has failed.

        Notes
        -----
        Of a fit by several processes each has listeners, as many as the first one; those whose
        attribute ``is_kept`` is false in the first one are dropped in all. ``between_steps`` is
        called only where ``is_due`` is true in the first, as the state of all is then
        collected. Where processes have different atoms, a listener with a method
        ``in_parts(ranks)`` is replaced by what that returns, of which
        ``between_steps(fit, is_due, is_writing)`` is called after each step, in all processes and
        with what ``is_due`` and ``is_writing`` are in any of them.
        """
        self._listeners.append(listener)

    @property
    def n_steps(self):
        """Steps that have been taken."""
        return self._loop.solver.n_steps

    @property
    def is_over(self):
        """Whether no step is left."""
        return self._loop.is_over

    def state_dict(self, *, own=False):
        """All that the fit goes on from, in plain containers of ndarrays: a copy, on the CPU.

        Of several processes it is the state of all; with ``own``, for which all have to ask, each
        gets `OwnRows` of what they have in parts.
        """
        if self._state_of_all is not None:
            return self._state_of_all
        after = self.random_state.get_state(legacy=False)
        return {
            "random_state": {"before": self._before, "after": after},
            "data": self._data,
            "loop": self._loop.state_dict(own=own),
        }

    # -- for the fit ---------------------------------------------------------------------------

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for listener in self._listeners:
            listener.close()

    @property
    def is_first(self):
        """Whether this is the first of the processes, or alone."""
        return self.processes.is_first

    @property
    def is_alone(self):
        """Whether one process fits by itself."""
        return self.processes.ranks.size == 1

    def begin_together(self):
        """Have all processes go on from the state that the first one has found.

        Each verifies some of the files of a state in parts.
        """
        if self.is_alone:
            return
        ranks, own = self.processes.ranks, self._listeners
        kept = [getattr(each, "is_kept", True) for each in own]
        kept, state = ranks.from_first((kept, self._state))
        self._listeners = [each for each, is_kept in zip(own, kept, strict=True) if is_kept]
        while tables := tables_of(state):
            check_shared(Path(tables[0].files[0][0]).parents[1], ranks)
            damage = next(filter(None, ranks.objects(_damage(tables, ranks))), None)
            if damage is None:
                break
            another = partial(self._if_damaged, damage) if self.is_first else lambda: None
            self.processes.together(another)
            state = ranks.from_first(self._state)
        if state is not None and not self.is_first:
            self.resume(state)

    def check_data(self, mean, rms):
        """Note the mean (n_features,) and scale of what is learned from; refuse other ones."""
        self._data = {"mean": mean.cpu().numpy().copy(), "rms": float(rms)}
        if self._state is None:
            return
        with self._reading():
            rms, mean = (self._state["data"][name] for name in ("rms", "mean"))
        if self._data["rms"] != rms or not np.array_equal(self._data["mean"], mean):
            raise ValueError(
                "X is not what the checkpoint was trained on: its centred RMS norm is "
                f"{self._data['rms']!r}, but was {rms!r}, or its mean is another. Give "
                "the same data, or another path, to begin anew."
            )

    @property
    def n_epochs(self):
        """Epochs that the state to go on from has behind it."""
        if self._state is None:
            return 0
        with self._reading():
            return len(self._state["loop"]["loss_curve"])

    def solver(self, kind, n_rows, batch_size):
        """The solver to go on with, of a class; None where the fit begins.

        From a state in parts each process reads what it will have, and no more.
        """
        if self._state is None:
            return None
        with self._reading():
            self.random_state.set_state(self._state["random_state"]["after"])
            tables, strategy = tables_of(self._state), ALONE
            if tables:
                n_components = tables[0].n_rows
                strategy = self.processes.strategy(kind, n_components, n_rows, batch_size)
                self._in_parts = strategy.shards_atoms
                start, stop = strategy.range if self._in_parts else (0, n_components)
                self._state = self.processes.together(lambda: read_rows(self._state, start, stop))
            state = self._state["loop"]["solver"]
            return solver_from_state(kind, state, self._rows.device, strategy)

    def attach(self, loop):
        """Train in a loop; a number of its epochs may be done already."""
        self._loop = loop
        if self._state is not None:
            with self._reading():
                loop.load_state_dict(self._state["loop"], own=self._in_parts)
            self._state = None  # its arrays are of no more use
        if loop.solver.strategy.shards_atoms:
            ranks = self.processes.ranks
            self._listeners = [
                each.in_parts(ranks) if hasattr(each, "in_parts") else each
                for each in self._listeners
            ]
            folders = [each.folder for each in self._listeners if _writes_parts(each)]
            folder = folders[0] / FILES if folders else None
            loop.tables = Tables(loop.solver.strategy, folder, warn)
        if self._listeners:
            loop.between_steps = self.between_steps

    def between_steps(self):
        """Tell the listeners that a step is over."""
        if not self.is_alone:
            self._between_steps_of_all()
            return
        for listener in self._listeners:
            listener.between_steps(self)

    def _between_steps_of_all(self):
        if not self._listeners:
            return
        due = [self.is_first and each.is_due for each in self._listeners]
        writing = [getattr(each, "is_writing", False) for each in self._listeners]
        flags = self.processes.any_of([*due, *writing])
        due, writing = flags[: len(due)], flags[len(due) :]
        for listener, is_due, is_writing in zip(self._listeners, due, writing, strict=True):
            if _writes_parts(listener):
                listener.between_steps(self, is_due, is_writing)
            elif is_due:
                self._tell_of_all(listener.between_steps)

    def finish(self):
        """Tell the listeners that the last step is over."""
        for listener in self._listeners:
            if not self.is_alone and not _writes_parts(listener):
                self._tell_of_all(listener.finish)
            else:
                listener.finish(self)

    def _tell_of_all(self, method):
        """Call a method of a listener, for which the state of all processes is at hand."""
        self._state_of_all = self.state_dict()
        method(self)
        self._state_of_all = None


def _writes_parts(listener):
    return getattr(listener, "writes_parts", False)


def _damage(tables, ranks):
    """What is wrong with those files of tables that are the turn of this process, or None."""
    try:
        verify_share(tables, ranks.rank, ranks.size)
    except ValueError as error:
        return str(error)
    return None


def _obstacle(params):
    kind = SOLVERS[params.solver]
    if not (kind.in_epochs and hasattr(kind, "from_state_dict")):
        return f"solver={params.solver!r} has no steps to go on from"
    return None


def plain(value):
    """What a parameter is told apart by: JSON's own values, or digests."""
    value = python_number(value)
    if value is None or isinstance(value, bool | int | float | str):
        return pack(value, "parameter", {})
    if isinstance(value, Architecture):
        tensors = {}
        packed = pack(value, "architecture", tensors)
        return packed | {name: digest(tensor) for name, tensor in tensors.items()}
    if isinstance(value, np.random.RandomState):
        return f"RandomState of digest {digest_of_text(repr(value.get_state(legacy=False)))}"
    dictionary = getattr(value, "dictionary_", value)
    if isinstance(dictionary, Dictionary):
        tensors = [*dictionary.tensors, *dictionary.state.values()]
        parts = [digest(tensor.detach().cpu()) for tensor in tensors]
        return f"Dictionary of digest {digest_of_text(' '.join(parts))}"
    atoms = Source(as_matrix(value, "dict_init"), torch.device("cpu"), name="dict_init")[:]
    return f"array of digest {digest(atoms)}"


def identity_of(rows):
    """What rows are told apart by: shape, dtype and a digest.

    Of up to `DIGESTED_BYTES` all rows count, of more as many as that, evenly spread. A store has
    an identity of its own; the order of its rows depends on its ``buffer_bytes``, too.
    """
    of_order = {}
    identity = getattr(rows.X, "identity", None)
    if identity is not None and rows.index is None:
        found = str(identity)
        of_order["buffer_bytes"] = rows.X.buffer_bytes
    else:
        hashed = xxhash.xxh3_128()
        for stretch in _stretches(len(rows), rows.n_features * rows.dtype.itemsize):
            hashed.update(rows[stretch].cpu().numpy())
        found = hashed.hexdigest()
    dtype = str(rows.X.dtype).removeprefix("torch.")
    return {"shape": list(rows.shape), "dtype": dtype, "digest": found, **of_order}


def _stretches(n_rows, row_bytes):
    """Slices of consecutive rows that make up about `DIGESTED_BYTES`."""
    most = max(1, DIGESTED_BYTES // (row_bytes * DIGESTED_ROWS))
    n_stretches = min(most, -(-n_rows // DIGESTED_ROWS))
    starts = np.linspace(0, n_rows, n_stretches + 1).astype(int).tolist()
    for start, end in pairwise(starts):
        whole = n_stretches < most
        yield slice(start, end if whole else min(end, start + DIGESTED_ROWS))


def environment_of(device):
    """What the last digits of a result may depend on beside data and parameters."""
    fast = [name for name in INSTRUCTIONS if cpu_has(name)]
    kind = device.type
    if kind == "cuda":
        kind = f"cuda, {torch.cuda.get_device_name(device)}"
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return {
        "skdict": skdict.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "threads": min(torch.get_num_threads(), n_cores()),
        "cpu": " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *fast]),
        "device": kind,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "world_size": torch.distributed.get_world_size() if distributed else 1,
    }
