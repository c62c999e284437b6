"""The state of an autoencoder in training, and its step."""

import math
from dataclasses import replace

import torch

from ..distributed.ranks import part
from ..distributed.strategy import ALONE
from ..models.autoencoder import Autoencoder
from ..optim import UnitNormAdam, normalize_
from .averaging import Average
from .holding import Holding
from .resampling import merge_duplicates, revive, split

# Above this fraction of non-zeros a step uses dense products: about where they become as fast on
# two cores with 512 features and 4,096 atoms (benchmarks/sparse_path.py).
DENSE_ABOVE = 0.2
# But never for more pre-activations than these: a step holds several copies of them.
DENSE_ELEMENTS = 1 << 24
# A batch with more entries in its support is split into pieces, and their gradients are added:
# an entry takes about 50 bytes.
MAX_ENTRIES = 1 << 21
# Smallest number of samples since the last check before a silent feature counts as dead.
MIN_WATCHED = 1000
# Statistics of a stream's average are measured on this part of a batch, but on no fewer rows than
# the second. They are running means, and at fewer steps would lag behind.
PART_MEASURED, LEAST_MEASURED = 8, 64


class Training:
    """An autoencoder in training: its optimiser, its counters, its random numbers.

    Parameters
    ----------
    autoencoder : Autoencoder
    generator : torch.Generator
        On the CPU.
    fit_intercept : bool
        Whether the intercept is trained.
    density : float
        Fraction of non-zeros that is expected of the codes of the first batch.
    hold : str or None
        What training does not change, see `Holding`. Of a state that is loaded nothing is held.
    """

    def __init__(self, autoencoder, generator, *, fit_intercept=True, density=1.0, hold=None):
        self.autoencoder = autoencoder
        self.generator = generator
        for parameter in autoencoder.parameters:
            parameter.requires_grad_(True)
        autoencoder.intercept.requires_grad_(fit_intercept)
        self.optimizer = UnitNormAdam(autoencoder)
        self.n_steps = 0
        self.has_fired = torch.zeros(
            len(autoencoder.dictionary), dtype=torch.bool, device=autoencoder.dictionary.device
        )  # on the rows of this process
        self.n_watched = 0  # samples since `has_fired` was cleared
        self.average = Average(autoencoder.parameters)
        self.measured = None  # the `measured_stats` of the average
        self._density = density
        self._holding = None if hold is None else Holding(hold, autoencoder)

    @torch.enable_grad()  # whatever the caller has set
    def step(self, x, schedule, n_rows=None):
        """Take one step on a batch.

        Parameters
        ----------
        x : tensor of shape (b, n_features)
            The rows of the batch that this process has read: all, where it is alone.
        schedule : Schedule
        n_rows : int, optional
            B, those of all processes.

        Returns
        -------
        objective : tensor, scalar
            Sum over the rows at the parameters before the step, of which the sum over the
            processes is that of the batch; not synchronised.
        """
        strategy = self.strategy
        n_rows = len(x) if n_rows is None else n_rows
        x = strategy.features.gathered(x, n_rows)
        alpha = schedule.alpha_at(self.n_steps)
        progress = schedule.progress_at(self.n_steps)
        architecture = self.autoencoder.architecture.variant_at(progress)
        autoencoder = replace(self.autoencoder, architecture=architecture)
        centred = x - self.autoencoder.intercept.detach()
        total, n_entries, codes = 0.0, 0, []
        for piece, size in self._pieces(centred, n_rows):
            dense = self._density > DENSE_ABOVE and size * self._width <= DENSE_ELEMENTS
            dense = dense and autoencoder.is_separable
            support = None if dense else autoencoder.select(piece)
            objective, values, _ = autoencoder.objective(piece, alpha, support)
            (objective / n_rows).backward()
            total = total + objective.detach()
            self._note_fired(values, support)
            n_entries = n_entries + (torch.count_nonzero(values) if dense else len(values))
            if architecture.running_stats:
                codes.append(values.flatten())
        if codes:
            with torch.no_grad(), strategy.active():
                architecture.update_running_stats(torch.cat(codes), autoencoder.state, n_rows)
        if not strategy.is_alone:
            n_entries = self._add_up(n_entries)
        self._density = float(n_entries) / (n_rows * self._width)  # waits, after dense products
        self.optimizer.step(schedule.learning_rate_at(self.n_steps))
        if self._holding is not None:
            self._holding.put_back(self.autoencoder)
        self.n_watched += n_rows
        if schedule.n_steps is None:
            self.average.update()
            self._measure(architecture, x, n_rows)
        if self.n_watched >= MIN_WATCHED and schedule.resamples_at(self.n_steps, self.n_watched):
            self._resample(autoencoder, x, n_rows)
        self.n_steps += 1
        return total

    def _pieces(self, centred, n_rows):
        """Yield the rows in pieces, as many in all processes, and the size of the largest."""
        n_own, most = math.ceil(n_rows / self.strategy.data.size), self._rows_at_a_time()
        if self.strategy.data.size == 1:
            yield from ((piece, len(piece)) for piece in centred.split(most))
            return
        n_pieces = math.ceil(n_own / most)
        for piece in centred.tensor_split(n_pieces):
            yield piece, math.ceil(n_own / n_pieces)

    @torch.no_grad()
    def _add_up(self, n_entries):
        """Add the gradients of other rows; the number of entries of all codes."""
        data = self.strategy.data
        for parameter in self.autoencoder.parameters if data.size > 1 else ():
            if parameter.grad is not None:
                data.sum_(parameter.grad)
        n_entries = torch.as_tensor(n_entries, device=self.has_fired.device).clone()
        return self.strategy.ranks.sum_(n_entries)

    @torch.no_grad()
    def _measure(self, architecture, x, n_rows):
        """Measure statistics on the codes of the averaged parameters.

        There is less noise in these than in the parameters of any step: with the mean of the
        steps' thresholds, codes would have fewer entries. Stochastic weight averaging does so
        with the statistics of batch normalisation (Izmailov et al., UAI 2018).
        """
        if self.measured is None:
            names = self.autoencoder.architecture.measured_stats
            self.measured = {name: self.autoencoder.state[name].clone() for name in names}
        if not architecture.measured_stats:
            return
        autoencoder = self._average()
        n_measured = min(n_rows, max(LEAST_MEASURED, n_rows // PART_MEASURED))
        data = self.strategy.data
        x = x[: max(0, n_measured - part(n_rows, data.rank, data.size)[0])]
        centred = x - autoencoder.intercept
        support = autoencoder.select(centred)
        pre_activations = autoencoder.pre_activations(centred, support)
        state = autoencoder.state_at(support)
        with self.strategy.active():
            values = architecture.values(pre_activations, state, len(x))
            architecture.update_running_stats(values, self.measured, n_measured)

    @property
    def strategy(self):
        return self.autoencoder.strategy

    @property
    def n_components(self):
        """Of all processes."""
        return self.strategy.n_components or len(self.has_fired)

    @property
    def _width(self):
        return self.n_components

    def _rows_at_a_time(self):
        """How many rows are expected to have no more than `MAX_ENTRIES` entries."""
        return max(1, int(MAX_ENTRIES / max(self._density * self._width, 1)))

    def _note_fired(self, values, support):
        if self.autoencoder.architecture.selection != "positive":
            values = values.abs()
        if support is None and len(values):
            largest = values.amax(dim=0)
        else:
            largest = values.new_zeros(len(self.has_fired))
            if support is not None:
                largest.scatter_reduce_(0, support.indices, values, "amax")
        self.has_fired |= largest > 0

    @torch.no_grad()
    def _resample(self, autoencoder, x, n_rows):
        """Resample dead and duplicate features, as far as x shows to what.

        Processes with different rows get those of all, and do the same. Where something is held,
        dead features get the direction that they began with, and nothing is merged.
        """
        strategy, holding = self.strategy, self._holding
        x = strategy.data.gathered(x, n_rows)
        autoencoder = replace(autoencoder, strategy=replace(strategy, data=ALONE.data))
        before = self.autoencoder.encoder_weight.clone()
        dead = ~strategy.whole(strategy.data.max_(self.has_fired))
        free = torch.zeros_like(dead) if holding else merge_duplicates(autoencoder, ~dead)
        x = x[: self._rows_at_a_time()]
        centred = x - autoencoder.intercept
        support = autoencoder.select(centred)
        _, values, residual = autoencoder.objective(centred, 0.0, support)
        left = split(
            autoencoder, self.optimizer, free, dead, support, values, residual, self.generator
        )
        itself = replace(autoencoder, architecture=self.autoencoder.architecture)
        start = None if holding is None else holding.start
        revive(itself, self.optimizer, dead | left, x, residual, self.generator, start)
        self.average.restart((self.autoencoder.encoder_weight != before).any(dim=1))
        self.has_fired.zero_()
        self.n_watched = 0

    def averaged(self):
        """The autoencoder of a stream's averaged parameters; of a fit it is the trained one."""
        if self.average.values is None:
            return self.autoencoder
        average = self._average()
        return replace(average, dictionary=normalize_(average.dictionary.clone()))

    def _average(self):
        """`averaged`, but with atoms that are not of unit norm."""
        autoencoder = self.autoencoder
        dictionary, weight, bias, *learned, intercept = self.average.values
        names = [n for n in autoencoder.state if n not in autoencoder.architecture.running_stats]
        return replace(
            autoencoder,
            dictionary=dictionary,
            encoder_weight=weight,
            encoder_bias=bias,
            intercept=intercept,
            state=autoencoder.state | dict(zip(names, learned, strict=True)) | self.measured,
        )

    def distributed(self, strategy):
        """The same state in one of several processes, each with its features; or whole again.

        Parameters
        ----------
        strategy : Strategy
            With `ALONE` it is the state of all processes that was distributed before.

        Returns
        -------
        training : Training
            With tensors of its own.
        """
        # a copy: what is loaded would keep all of what it is a part of
        state = map_components(self.state_dict(), lambda rows: strategy.own(rows).clone())
        return self.from_state_dict(state, self.has_fired.device, strategy)

    def state_dict(self, *, own=False):
        """The state in plain containers, with the tensors themselves and not copies.

        Of several processes it is that of all, and all of them have to ask for it; with ``own``
        what has an entry for each component is `OwnRows` of those of this process.
        """
        autoencoder, strategy = self.autoencoder, self.strategy
        strategy.data.max_(self.has_fired)
        state = {
            "tensors": [tensor.detach() for tensor in autoencoder.tensors],
            "state": list(autoencoder.state),
            "architecture": autoencoder.architecture,
            "fit_intercept": autoencoder.intercept.requires_grad,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "n_steps": self.n_steps,
            "has_fired": self.has_fired,
            "n_watched": self.n_watched,
            "average": self.average.state_dict(),
            "measured": self.measured,
            "density": self._density,
        }
        if not strategy.shards_atoms:
            return state
        return map_components(state, strategy.own_rows if own else strategy.whole)

    @classmethod
    def from_state_dict(cls, state, device, strategy=ALONE):
        """Go on from a state on a device, with tensors of its own."""
        dictionary, weight, bias, *values, intercept = (
            tensor.to(device, copy=True) for tensor in state["tensors"]
        )
        of_architecture = dict(zip(state["state"], values, strict=True))
        generator = torch.Generator(device="cpu")
        generator.set_state(state["generator"])
        training = cls(
            Autoencoder(
                dictionary,
                weight,
                bias,
                intercept,
                state["architecture"],
                of_architecture,
                strategy,
            ),
            generator,
            fit_intercept=state["fit_intercept"],
            density=state["density"],
        )
        training.optimizer.load_state_dict(state["optimizer"])
        training.n_steps = state["n_steps"]
        training.has_fired = state["has_fired"].to(device, copy=True)
        training.n_watched = state["n_watched"]
        training.average.load_state_dict(state["average"], device)
        if state["measured"] is not None:
            training.measured = {
                name: value.to(device, copy=True) for name, value in state["measured"].items()
            }
        return training


def map_components(state, function):
    """A `Training.state_dict` with a function of all that has an entry for each component."""

    def of_moments(number, moments):
        if number == state["optimizer"]["param_groups"][0]["params"][-1]:  # of the intercept
            return moments
        return {
            name: value if name == "step" else function(value) for name, value in moments.items()
        }

    def of_all_but_last(tensors):
        return [*map(function, tensors[:-1]), tensors[-1]]

    optimizer, average = state["optimizer"], state["average"]
    moments = {number: of_moments(number, value) for number, value in optimizer["state"].items()}
    values, measured = average["values"], state["measured"]
    if measured is not None:
        measured = {name: function(value) for name, value in measured.items()}
    return {
        **state,
        "tensors": of_all_but_last(state["tensors"]),
        "optimizer": {**optimizer, "state": moments},
        "has_fired": function(state["has_fired"]),
        "average": {**average, "values": None if values is None else of_all_but_last(values)},
        "measured": measured,
    }
