"""The training loop: one for every solver that is trained in epochs. It never prints."""

import math
from contextlib import closing
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..data.shuffle import Division
from ..kernels.cpu.threads import threads_for
from ..tensors import as_arrays, as_tensors
from .state import dictionary_from_state, dictionary_state, solver_from_state


@dataclass
class Epoch:
    """How far an epoch has come; whole if none of its batches is left.

    Parameters
    ----------
    n_batches : int
        Batches that have been learned from.
    total : tensor, scalar, or float
        Sum of their objective, standardised.
    order : tensor or None
        State of the solver's generator before the epoch, from which the order of its rows
        follows; None without shuffling, and before the first batch.
    """

    n_batches: int = 0
    total: torch.Tensor | float = 0.0
    order: torch.Tensor | None = None


class TrainingLoop:
    """Epochs of training until ``n_epochs`` are done, early stopping ends them, or a caller does.

    `state_dict` is complete between two steps: `load_state_dict` goes on from it to the last bit,
    with the same rows and parameters.

    Parameters
    ----------
    solver : Solver
        Trained in place.
    rows : Source
    n_epochs, batch_size : int
    shuffle : bool
    alpha : float
        L1 coefficient in the units of the data.
    learning_rate : float or "auto"
    held_out : Source or None
        Rows of which the epoch with the smallest objective is the one that is kept. Nothing of
        the solver may come from these.
    tol : float
        Relative improvement of the held-out objective that counts.
    n_iter_no_change : int or None
        Epochs without improvement after which training is over; None goes through all.
    after_step : callable or None
        Called after each step with its number of rows.
    between_steps : callable or None
        Called after each step but the last one of an epoch, when `state_dict` is complete.

    Attributes
    ----------
    tables : Tables or None
        How processes that hold different atoms gather a dictionary. It may be set.
    """

    def __init__(
        self,
        solver,
        rows,
        *,
        n_epochs,
        batch_size,
        shuffle,
        alpha,
        learning_rate,
        held_out=None,
        tol=0.0,
        n_iter_no_change=None,
        after_step=None,
        between_steps=None,
    ):
        self.solver = solver
        self.rows = rows
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.alpha = alpha
        self.held_out = held_out
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.after_step = after_step
        self.between_steps = between_steps
        self.tables = None
        self.is_over = False
        self._epoch = Epoch()
        self.loss_curve, self.validation_curve = [], []
        self._n_unsettled = 0  # epochs before the objective was the final one
        self._best = None
        n_steps = n_epochs * math.ceil(len(rows) / batch_size)
        solver.plan(alpha, learning_rate, batch_size, n_steps)

    def run_epoch(self):
        """Train on all rows once, then look whether that was the last epoch."""
        loss = train_epoch(
            self.solver,
            self.rows,
            self.batch_size,
            self.shuffle,
            epoch=self._epoch,
            after_step=self._after_step,
        )
        self._end_epoch(loss)

    def step(self, x):
        """Learn from the next batch of an epoch (B, n_features), in the units of the data."""
        x = self.solver.standardised(self.rows).standardise(x)
        self._epoch.total = self._epoch.total + self.solver.step(x, len(x))
        self._epoch.n_batches += 1
        self._after_step(len(x))

    def end_epoch(self):
        """End an epoch that has been learned by `step`, as `run_epoch` ends its own."""
        total = float(self._epoch.total)  # waits for the device
        self._end_epoch(total * self.solver.scale**2 / len(self.rows))

    def _end_epoch(self, loss):
        self._epoch = Epoch()
        self.loss_curve.append(loss)
        check_finite("objective", loss, self.solver.n_steps, self.loss_curve)
        if self.held_out is not None:
            self.is_over = self._has_stopped_improving()
        self.is_over |= len(self.loss_curve) == self.n_epochs

    def _after_step(self, n_rows):
        if self.after_step is not None:
            self.after_step(n_rows)
        if self.between_steps is not None and self._epoch.n_batches < self.n_batches:
            self.between_steps()

    @property
    def n_batches(self):
        """Steps of an epoch."""
        return math.ceil(len(self.rows) / self.batch_size)

    def state_dict(self, *, own=False):
        """All that training goes on from, in plain containers: a copy, on the CPU.

        Of the rows nothing, and none of the parameters that this was made with. Several processes
        have to ask for it together, and get the state of all; with ``own`` each gets `OwnRows` of
        what they have in parts.
        """
        epoch, ranks = dict(vars(self._epoch)), self.solver.strategy.ranks
        if ranks.size > 1 and isinstance(self._epoch.total, torch.Tensor):
            epoch["total"] = ranks.gathered(self._epoch.total.reshape(1), ranks.size)
        best = None
        if self._best is not None:
            solver, dictionary = self._best
            of_its_own = solver.state_dict() if solver is not self.solver else None
            strategy = self.solver.strategy
            if strategy.shards_atoms and not own:
                dictionary = solver.whole_dictionary(dictionary)
            of_rows = strategy.own_rows if strategy.shards_atoms and own else None
            best = {"solver": of_its_own, "dictionary": dictionary_state(dictionary, of_rows)}
        return {
            "solver": self.solver.state_dict(copy=True, own=own),
            "epoch": as_arrays(epoch, copy=True),
            "is_over": self.is_over,
            "loss_curve": list(self.loss_curve),
            "validation_curve": list(self.validation_curve),
            "n_unsettled": self._n_unsettled,
            "best": best,
        }

    def load_state_dict(self, state, *, own=False):
        """Go on from a state; the solver has been made of its ``state["solver"]``.

        ``own`` says whether it has, of tables that processes have in parts, those of this one.
        """
        device, strategy = self.rows.device, self.solver.strategy
        self._epoch = Epoch(**as_tensors(state["epoch"]))
        if isinstance(self._epoch.total, torch.Tensor):
            total = self._epoch.total.flatten()  # a part of each process
            if len(total) != strategy.ranks.size:  # which were more or fewer
                total = F.pad(total.sum()[None], (0, strategy.ranks.size - 1))
            self._epoch.total = total[strategy.ranks.rank].to(device)
        self.is_over = state["is_over"]
        self.loss_curve = list(state["loss_curve"])
        self.validation_curve = list(state["validation_curve"])
        self._n_unsettled = state["n_unsettled"]
        best = state["best"]
        if best is not None:
            solver = self.solver
            if best["solver"] is not None:
                solver = solver_from_state(type(solver), best["solver"], device)
            of_rows = strategy.own if strategy.shards_atoms and not own else None
            self._best = solver, dictionary_from_state(best["dictionary"], device, of_rows)

    @property
    def counters(self):
        """Fitted attributes that say how much has been done."""
        counters = {
            "n_iter_": len(self.loss_curve),
            "n_steps_": self.solver.n_steps,
            "loss_curve_": list(self.loss_curve),
        }
        if self.held_out is not None:
            counters["validation_loss_curve_"] = list(self.validation_curve)
        return counters

    def current(self):
        """The solver and the dictionary of the last epoch."""
        own = self.solver.own_dictionary(self.rows)
        return self.solver, self.solver.whole_dictionary(own, self.tables)

    def best(self):
        """The same of the best epoch, which is the last one where no rows are held out."""
        if self._best is None:
            return self.current()
        solver, dictionary = self._best
        return solver, solver.whole_dictionary(dictionary, self.tables)

    def _has_stopped_improving(self):
        curve = self.validation_curve
        curve.append(mean_objective(self.solver, self.held_out, self.alpha))
        check_finite("held-out objective", curve[-1], self.solver.n_steps, self.loss_curve)
        # until alpha and architecture are the final ones, no epoch can be the best
        if not self.solver.is_settled:
            self._n_unsettled = len(curve)
        settled = curve[self._n_unsettled :]
        if settled and settled[-1] == min(settled):
            keeps = self.solver.keeps_state
            solver = self.solver.copy_to(self.rows.device) if keeps else self.solver
            self._best = solver, self.solver.own_dictionary(self.rows)
        patience = self.n_iter_no_change
        return patience is not None and no_improvement(settled, self.tol, patience)


def learn_together(loops, generator):
    """The steps of one epoch of several loops over the same rows; each batch is read once.

    Each loop then wants `end_epoch`.

    Parameters
    ----------
    loops : list of TrainingLoop
        With the same rows and the same ``batch_size``.
    generator : torch.Generator or None
        Shuffles the rows for all of them.
    """
    first = loops[0]
    widest = max((loop.solver for loop in loops), key=lambda solver: solver.n_components)
    with _threads(widest, first.rows, first.batch_size):
        for x in first.rows.batches(first.batch_size, generator):
            for loop in loops:
                loop.step(x)


def train_epoch(solver, rows, batch_size, shuffle, *, epoch=None, after_step=None):
    """Take a step on each batch of the rows, and call ``after_step`` with their number.

    Parameters
    ----------
    solver : Solver
    rows : Source
    batch_size : int
    shuffle : bool
    epoch : Epoch, optional
        How far it has come: it goes on from there. It is kept up to date.
    after_step : callable, optional

    Returns
    -------
    objective : float
        Mean over the rows, each at the parameters of its step, in the units of the data.
    """
    epoch = Epoch() if epoch is None else epoch
    division = Division(len(rows), batch_size)
    batches = _batches_left(solver, rows, batch_size, shuffle, epoch)
    with _threads(solver, rows, batch_size), closing(batches):
        for x in batches:
            n_rows = division.start(epoch.n_batches + 1) - division.start(epoch.n_batches)
            epoch.total = epoch.total + solver.step(x, n_rows)
            epoch.n_batches += 1
            if after_step is not None:
                after_step(n_rows)
    total = solver.strategy.ranks.sum_(epoch.total)
    return float(total) * solver.scale**2 / len(rows)  # waits for the device, once an epoch


def _batches_left(solver, rows, batch_size, shuffle, epoch):
    """The standardised batches that an epoch has left, in the order that it began with."""
    data, generator, ranks = solver.standardised(rows), solver.generator, solver.strategy.ranks
    part = {"start": epoch.n_batches, "share": (ranks.rank, ranks.size)}
    if not shuffle:
        return data.batches(batch_size, **part)
    now = generator.get_state()
    is_new = epoch.order is None
    if is_new:
        epoch.order = now
    generator.set_state(epoch.order)
    batches = data.batches(batch_size, generator, **part)
    if not is_new:
        generator.set_state(now)  # steps have drawn from it, too
    return batches


def mean_objective(solver, rows, alpha):
    """Mean objective of rows that are not learned from, in the units of the data."""
    total, data = 0.0, solver.standardised(rows)
    strategy, size = solver.strategy, solver.n_rows_at_a_time
    with _threads(solver, rows, size):
        objective = solver.objective(alpha)
        # processes with the same atoms take turns
        starts = range(0, len(rows), size)[strategy.data.rank :: strategy.data.size]
        for start in starts:
            total += float(objective(data[start : start + size]))
    if not strategy.is_alone:
        total = torch.tensor(total, dtype=torch.float64, device=rows.device)
        total = float(strategy.ranks.sum_(total))
    return total * solver.scale**2 / len(rows)


def _threads(solver, rows, n_rows):
    n_rows = min(len(rows), n_rows)
    work = solver.work(n_rows, rows.shape[1], solver.n_components)
    return threads_for(work, math.ceil(len(rows) / n_rows))


def no_improvement(curve, tol, n_iter_no_change):
    """Whether the last epochs did not improve on the best before them by the fraction tol."""
    if len(curve) <= n_iter_no_change:
        return False
    before = min(curve[:-n_iter_no_change])
    return min(curve[-n_iter_no_change:]) > before - tol * abs(before)


def check_finite(name, value, n_steps, loss_curve):
    """Raise unless a number that training has come to is finite."""
    if not math.isfinite(value):
        raise diverged(f"{name} is not finite", n_steps, loss_curve)


def diverged(symptom, n_steps, loss_curve):
    """The error of a fit that has found no dictionary."""
    loss = f", objective {loss_curve[-1]:.3g}" if loss_curve else ""
    return ValueError(
        f"Training has diverged: after {n_steps} steps{loss}, {symptom}. Lower "
        "learning_rate_init, or leave it 'auto'; if it is, change alpha to a value of "
        "alpha_grid(X)."
    )
