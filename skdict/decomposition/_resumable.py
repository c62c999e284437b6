"""A fit in steps as callbacks see it that keep its state, and what it is told apart by."""

import platform
from functools import cached_property
from itertools import pairwise

import numba
import numpy as np
import torch
import xxhash

import skdict

from .._core.data.source import Source
from .._core.dictionary import Dictionary
from .._core.formats.packing import pack
from .._core.kernels.cpu.instructions import cpu_has
from .._core.kernels.cpu.threads import n_cores
from .._core.models.architectures import Architecture
from .._core.parameters import python_number
from .._core.solvers import SOLVERS
from .._core.training.checkpoint import digest, digest_of_text
from .._core.training.state import solver_from_state
from ..utils._arrays import as_matrix

# Parameters that change nothing of what is trained.
OF_NO_EFFECT = ("verbose",)
# Rows are told apart by as many bytes of them, in this many consecutive rows at a time.
DIGESTED_BYTES = 64 << 20
DIGESTED_ROWS = 64
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
        self._listeners = []
        self._is_heard = False  # in the first of several processes
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

    def resume(self, state):
        """Go on from a state of `state_dict`, with ndarrays or tensors, of the same fingerprint.

        Parameters
        ----------
        state : dict

        Raises
        ------
        ValueError
            If something is missing in it.
        """
        missing = {"random_state", "data", "loop"} - state.keys()
        if missing:
            raise ValueError(f"The state of a fit has no {', '.join(sorted(missing))}.")
        self._state = state
        self.random_state.set_state(state["random_state"]["before"])
        self._before = state["random_state"]["before"]

    def listen(self, listener):
        """Have an object called while the fit goes on.

        Parameters
        ----------
        listener : object
            With the methods ``between_steps(fit)``, called after each step, ``finish(fit)``, after
            the last one, and ``close()``, when the fit is over or has failed. Of a fit by several
            processes the first one alone has listeners; ``between_steps`` is called only where
            their attribute ``is_due`` is true, as the state of all is then collected.
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

    def state_dict(self):
        """All that the fit goes on from, in plain containers of ndarrays: a copy, on the CPU."""
        if self._state_of_all is not None:
            return self._state_of_all
        after = self.random_state.get_state(legacy=False)
        return {
            "random_state": {"before": self._before, "after": after},
            "data": self._data,
            "loop": self._loop.state_dict(),
        }

    # -- for the fit ---------------------------------------------------------------------------

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for listener in self._listeners:
            listener.close()

    @property
    def is_kept_here(self):
        """Whether this process may keep the state: the first of several does."""
        return self.processes.is_first

    def begin_together(self):
        """Have all processes go on from the state that the first one has found."""
        ranks = self.processes.ranks
        if ranks.size == 1:
            return
        self._is_heard, state = ranks.from_first((bool(self._listeners), self._state))
        if state is not None and not self.is_kept_here:
            self.resume(state)

    def check_data(self, mean, rms):
        """Note the mean (n_features,) and scale of what is learned from; refuse other ones."""
        self._data = {"mean": mean.cpu().numpy().copy(), "rms": float(rms)}
        if self._state is None:
            return
        before = self._state["data"]
        if self._data["rms"] != before["rms"] or not np.array_equal(
            self._data["mean"], before["mean"]
        ):
            raise ValueError(
                "X is not what the checkpoint was trained on: its centred RMS norm is "
                f"{self._data['rms']!r}, but was {before['rms']!r}, or its mean is another. Give "
                "the same data, or another path, to begin anew."
            )

    @property
    def n_epochs(self):
        """Epochs that the state to go on from has behind it."""
        return 0 if self._state is None else len(self._state["loop"]["loss_curve"])

    def solver(self, kind):
        """The solver to go on with, of a class; None where the fit begins."""
        if self._state is None:
            return None
        self.random_state.set_state(self._state["random_state"]["after"])
        return solver_from_state(kind, self._state["loop"]["solver"], self._rows.device)

    def attach(self, loop):
        """Train in a loop; a number of its epochs may be done already."""
        self._loop = loop
        if self._state is not None:
            loop.load_state_dict(self._state["loop"])
            self._state = None  # its arrays are of no more use
        if self._listeners or self._is_heard:
            loop.between_steps = self.between_steps

    def between_steps(self):
        """Tell the listeners that a step is over."""
        if self._is_heard:
            is_due = any(listener.is_due for listener in self._listeners)
            if not self.processes.any(is_due):
                return
            self._state_of_all = self.state_dict()
        for listener in self._listeners:
            listener.between_steps(self)
        self._state_of_all = None

    def finish(self):
        """Tell the listeners that the last step is over."""
        if self._is_heard:
            self._state_of_all = self.state_dict()
        for listener in self._listeners:
            listener.finish(self)
        self._state_of_all = None


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
