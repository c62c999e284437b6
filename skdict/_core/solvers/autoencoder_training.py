"""The state of an autoencoder in training, and its step."""

from dataclasses import replace

import torch

from ..models.autoencoder import Autoencoder
from ..optim import UnitNormAdam, normalize_
from .averaging import Average
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
    """

    def __init__(self, autoencoder, generator, *, fit_intercept=True, density=1.0):
        self.autoencoder = autoencoder
        self.generator = generator
        for parameter in autoencoder.parameters:
            parameter.requires_grad_(True)
        autoencoder.intercept.requires_grad_(fit_intercept)
        self.optimizer = UnitNormAdam(autoencoder)
        self.n_steps = 0
        self.has_fired = torch.zeros(
            len(autoencoder.dictionary), dtype=torch.bool, device=autoencoder.dictionary.device
        )
        self.n_watched = 0  # samples since `has_fired` was cleared
        self.average = Average(autoencoder.parameters)
        self.measured = None  # the `measured_stats` of the average
        self._density = density

    @torch.enable_grad()  # whatever the caller has set
    def step(self, x, schedule):
        """Take one step on the rows of x (B, n_features).

        Returns
        -------
        objective : tensor, scalar
            Sum over the rows at the parameters before the step; not synchronised.
        """
        alpha = schedule.alpha_at(self.n_steps)
        progress = schedule.progress_at(self.n_steps)
        architecture = self.autoencoder.architecture.variant_at(progress)
        autoencoder = replace(self.autoencoder, architecture=architecture)
        centred = x - self.autoencoder.intercept.detach()
        total, n_entries, codes = 0.0, 0, []
        for piece in centred.split(self._rows_at_a_time()):
            dense = self._density > DENSE_ABOVE and piece.shape[0] * self._width <= DENSE_ELEMENTS
            support = None if dense else autoencoder.select(piece)
            objective, values, _ = autoencoder.objective(piece, alpha, support)
            (objective / len(x)).backward()
            total = total + objective.detach()
            self._note_fired(values, support)
            n_entries = n_entries + (torch.count_nonzero(values) if dense else len(values))
            if architecture.running_stats:
                codes.append(values.flatten())
        if codes:
            with torch.no_grad():
                architecture.update_running_stats(torch.cat(codes), autoencoder.state, len(x))
        self._density = float(n_entries) / (len(x) * self._width)  # waits, after dense products
        self.optimizer.step(schedule.learning_rate_at(self.n_steps))
        self.n_watched += len(x)
        if schedule.n_steps is None:
            self.average.update()
            self._measure(architecture, x)
        if self.n_watched >= MIN_WATCHED and schedule.resamples_at(self.n_steps, self.n_watched):
            self._resample(autoencoder, x)
        self.n_steps += 1
        return total

    @torch.no_grad()
    def _measure(self, architecture, x):
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
        x = x[: max(LEAST_MEASURED, len(x) // PART_MEASURED)]
        centred = x - autoencoder.intercept
        support = autoencoder.select(centred)
        pre_activations = autoencoder.pre_activations(centred, support)
        state = autoencoder.state_at(support)
        values = architecture.values(pre_activations, state, len(x))
        architecture.update_running_stats(values, self.measured, len(x))

    @property
    def _width(self):
        return len(self.has_fired)

    def _rows_at_a_time(self):
        """How many rows are expected to have no more than `MAX_ENTRIES` entries."""
        return max(1, int(MAX_ENTRIES / max(self._density * self._width, 1)))

    def _note_fired(self, values, support):
        if self.autoencoder.architecture.selection != "positive":
            values = values.abs()
        if support is None:
            largest = values.amax(dim=0)
        else:
            largest = values.new_zeros(self._width)
            largest.scatter_reduce_(0, support.indices, values, "amax")
        self.has_fired |= largest > 0

    @torch.no_grad()
    def _resample(self, autoencoder, x):
        """Resample dead and duplicate features, as far as x shows to what."""
        before = self.autoencoder.encoder_weight.clone()
        dead = ~self.has_fired
        free = merge_duplicates(autoencoder, ~dead)
        x = x[: self._rows_at_a_time()]
        centred = x - autoencoder.intercept
        support = autoencoder.select(centred)
        _, values, residual = autoencoder.objective(centred, 0.0, support)
        left = split(
            autoencoder, self.optimizer, free, dead, support, values, residual, self.generator
        )
        revive(self.autoencoder, self.optimizer, dead | left, x, residual, self.generator)
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

    def state_dict(self):
        """The whole state in plain containers, with the tensors themselves and not copies."""
        autoencoder = self.autoencoder
        return {
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

    @classmethod
    def from_state_dict(cls, state, device):
        """Go on from a state on a device, with tensors of its own."""
        dictionary, weight, bias, *values, intercept = (
            tensor.to(device, copy=True) for tensor in state["tensors"]
        )
        of_architecture = dict(zip(state["state"], values, strict=True))
        generator = torch.Generator(device="cpu")
        generator.set_state(state["generator"])
        training = cls(
            Autoencoder(
                dictionary, weight, bias, intercept, state["architecture"], of_architecture
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
