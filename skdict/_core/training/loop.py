"""The training loop: one for every solver that is trained in epochs. It never prints."""

import math

import torch

from ..data.shuffle import Division
from ..kernels.cpu.threads import threads_for


class TrainingLoop:
    """Epochs of training until ``n_epochs`` are done, early stopping ends them, or a caller does.

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
        self.is_over = False
        self.loss_curve, self.validation_curve = [], []
        self._n_unsettled = 0  # epochs before the objective was the final one
        self._best = None
        n_steps = n_epochs * math.ceil(len(rows) / batch_size)
        solver.plan(alpha, learning_rate, batch_size, n_steps)

    def run_epoch(self):
        """Train on all rows once, then look whether that was the last epoch."""
        loss = train_epoch(
            self.solver, self.rows, self.batch_size, self.shuffle, after_step=self.after_step
        )
        self.loss_curve.append(loss)
        check_finite("objective", loss, self.solver.n_steps, self.loss_curve)
        if self.held_out is not None:
            self.is_over = self._has_stopped_improving()
        self.is_over |= len(self.loss_curve) == self.n_epochs

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
        return self.solver, self.solver.finish(self.rows)

    def best(self):
        """The same of the best epoch, which is the last one where no rows are held out."""
        return self._best or self.current()

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
            self._best = solver, self.solver.finish(self.rows)
        patience = self.n_iter_no_change
        return patience is not None and no_improvement(settled, self.tol, patience)


def train_epoch(solver, rows, batch_size, shuffle, *, after_step=None):
    """Take a step on each batch of the rows, and call ``after_step`` with their number.

    Returns
    -------
    objective : float
        Mean over the rows, each at the parameters of its step, in the units of the data.
    """
    generator = solver.generator if shuffle else None
    ranks = solver.strategy.ranks
    batches = solver.standardised(rows).batches(
        batch_size, generator, share=(ranks.rank, ranks.size)
    )
    division, total = Division(len(rows), batch_size), 0.0
    with _threads(solver, rows, batch_size):
        for batch, x in enumerate(batches):
            n_rows = division.start(batch + 1) - division.start(batch)
            total = total + solver.step(x, n_rows)
            if after_step is not None:
                after_step(n_rows)
    total = ranks.sum_(total)
    return float(total) * solver.scale**2 / len(rows)  # waits for the device, once an epoch


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
