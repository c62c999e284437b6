"""The solver "autoencoder": Adam on mini-batches, on data brought to a common scale."""

import math
from dataclasses import replace

import torch

from ..coding import Encoder
from ..dictionary import Dictionary
from ..distributed.strategy import ALONE
from ..distributed.tables import Tables
from ..kernels import decode
from ..models.architectures import make_architecture
from ..models.autoencoder import Autoencoder
from ..optim import fitting_scale, normalize_
from ..tensors import away_from
from .autoencoder_training import Training
from .base import EpochSolver, alpha_in_training, default_n_nonzero, register
from .schedule import Schedule, resampling_of_stream

# W_enc starts as the atoms times this. Larger is sparse sooner, and with biases that make codes
# sparse from the start not worse; without them 1 would overshoot.
ENCODER_INIT_SCALE = 0.5
# Active features of a sample at the start, but no more than a twentieth of all.
INITIAL_L0 = 200
N_CALIBRATION_SAMPLES = 4096
# Atoms whose biases are found at a time: their pre-activations take 16 MiB.
N_CALIBRATED = 1024
# Samples that a threshold is taken from, where none has been learned.
N_THRESHOLD_SAMPLES = 1024
# Codes of atoms that resemble each other would add up to many times the sample. The encoder is
# scaled down to what fits best, but no further than to this fraction: from very small codes it
# takes many steps to sparse ones.
MIN_FIT = 0.3
# learning_rate_init="auto" (measured by benchmarks/sensitivity.py): as a fraction of an atom's
# root mean square entry, 1/sqrt(n_features); the ratio of components to samples of a batch from
# which on it is lower; and how far an entry can get in a whole run at least, in the same unit.
LEARNING_RATE_PER_ENTRY = 0.1
WIDE = 4
LEAST_TRAVEL = 10


@register("autoencoder")
class AutoencoderSolver(EpochSolver):
    """An autoencoder in `Training` on (x - mean) / scale.

    Parameters
    ----------
    learner, mean, scale
        As of `EpochSolver`.
    from_scratch : bool
        Whether the atoms are untrained.
    """

    has_encoder = True
    shards_atoms = True
    needs_samples = False
    n_rows_at_a_time = 1024
    uses = EpochSolver.uses | {"architecture", "learning_rate_init"}
    Learner = Training

    schedule = None  # of `plan`

    def __init__(self, learner, mean, scale, *, from_scratch):
        super().__init__(learner, mean, scale)
        self.from_scratch = from_scratch

    @classmethod
    def used_by(cls, params):
        architecture = make_architecture(params.architecture)
        return cls.uses | ({"n_nonzero_coefs"} if "k" in architecture.get_params() else set())

    @staticmethod
    def n_numbers(batch_size, n_features, n_components):
        # atoms and encoder, each with gradient and two moments, and three copies when they are
        # published; the pre-activations of a batch
        return 11 * n_components * n_features + batch_size * n_components

    @classmethod
    def kind_of_state(cls, params):
        return cls.name, make_architecture(params.architecture, params.n_nonzero_coefs)

    @classmethod
    def start(cls, problem):
        generator = problem.generator()
        params = problem.params
        architecture = make_architecture(params.architecture, params.n_nonzero_coefs)
        tenth = default_n_nonzero(problem.data.n_features, problem.n_components)
        architecture.complete(problem.n_components, tenth)
        previous = problem.previous
        if previous is not None and isinstance(previous.encoder, Encoder):
            return cls.from_dictionary(problem, architecture, generator)
        atoms = problem.atoms
        if atoms is None:
            atoms = initial_atoms(problem.data, problem.n_components, generator)
        atoms = atoms.to(problem.data.mean)
        options = {"fit_intercept": params.fit_intercept, "hold": getattr(params, "hold", None)}
        return cls.from_atoms(atoms, architecture, problem.data, generator, **options)

    @classmethod
    def from_atoms(cls, atoms, architecture, data, generator, *, fit_intercept, hold=None):
        """Start from unit-norm atoms (n_components, n_features) and an encoder tied to them.

        Biases are such that every feature is active on a small fraction of the samples: codes are
        sparse from the first step, which therefore is a fast one. The encoder is scaled so that
        these codes do not overshoot.
        """
        autoencoder = Autoencoder.from_dictionary(
            atoms, architecture, encoder_scale=ENCODER_INIT_SCALE
        )
        x = data.draw(N_CALIBRATION_SAMPLES, generator)
        density = min(0.05, INITIAL_L0 / len(atoms))
        n_active = max(1, round(density * len(x)))
        for chunk in torch.arange(len(atoms), device="cpu").split(N_CALIBRATED):
            pre_activations = autoencoder.encoder_weight[chunk] @ x.T
            # between two samples: on one of them rounding would decide whether it is active
            last, next_one = (
                pre_activations.topk(min(n_active + 1, len(x)), dim=1).values[:, -2:].T
            )
            autoencoder.encoder_bias[chunk] = -0.5 * (last + next_one)
        support = autoencoder.select(x)
        values = torch.relu(autoencoder.pre_activations(x, support))
        decoded = decode(values, support, autoencoder.dictionary)
        fit = fitting_scale(decoded, x).clamp(MIN_FIT, 1.0)
        autoencoder.encoder_weight *= fit
        autoencoder.encoder_bias *= fit
        options = {"fit_intercept": fit_intercept, "density": density, "hold": hold}
        training = Training(autoencoder, generator, **options)
        return cls(training, data.mean, data.scale, from_scratch=True)

    @classmethod
    def from_dictionary(cls, problem, architecture, generator):
        """Go on from the dictionary of a former fit, with a fresh optimiser.

        From the same architecture it goes on with all that this has learned; from another, with
        its encoder and threshold.
        """
        mean, scale = problem.data.mean, problem.data.scale
        fit_intercept = problem.params.fit_intercept
        previous = problem.previous.to(mean.dtype, mean.device).to_train()
        encoder = previous.encoder
        intercept = previous.intercept if fit_intercept else mean
        weight, bias = encoder.weight, encoder.bias / scale
        if type(previous.architecture) is type(architecture):
            state = {name: tensor.to(mean) for name, tensor in previous.state.items()}
            state = architecture.in_units(state, 1 / scale)
            weight, bias = architecture.undo_fold(weight, bias, state)
        else:
            threshold = encoder.threshold
            bias, state = architecture.unfold(
                bias, None if threshold is None else threshold / scale
            )
        autoencoder = Autoencoder(
            dictionary=previous.components.clone(),
            encoder_weight=weight.clone(),
            encoder_bias=bias,
            intercept=problem.data.standardise(intercept),
            architecture=architecture,
            state={name: value.clone() for name, value in state.items()},
        )
        training = Training(autoencoder, generator, fit_intercept=fit_intercept)
        return cls(training, mean, scale, from_scratch=False)

    def plan(self, alpha, learning_rate, batch_size, n_steps=None, n_seen=0):
        if learning_rate == "auto":
            learning_rate = self._learning_rate(batch_size, n_steps)
        self.schedule = Schedule(
            alpha=alpha_in_training(alpha, self.scale),
            learning_rate=learning_rate,
            n_steps=n_steps,
            from_scratch=self.from_scratch,
            resample_after=resampling_of_stream(batch_size, n_seen),
        )

    def _learning_rate(self, batch_size, n_steps):
        n_components, n_features = self.n_components, len(self.mean)
        factor = math.sqrt(WIDE * batch_size / n_components)
        if self.from_scratch and n_steps is not None:  # trained atoms need not travel
            factor = max(factor, LEAST_TRAVEL / (LEARNING_RATE_PER_ENTRY * n_steps))
        return min(1.0, factor) * LEARNING_RATE_PER_ENTRY / math.sqrt(n_features)

    def state_dict(self, *, copy=False, own=False):
        return super().state_dict(copy=copy, own=own) | {"from_scratch": self.from_scratch}

    @property
    def n_components(self):
        return self.learner.n_components

    @property
    def is_settled(self):
        architecture = self.learner.autoencoder.architecture
        return self.schedule.settled_at(self.n_steps - 1, architecture)

    def step(self, x, n_rows=None):
        return self.learner.step(x, self.schedule, n_rows)

    def objective(self, alpha):
        autoencoder = self.learner.autoencoder
        strategy = replace(autoencoder.strategy, data=ALONE.data)  # other rows are not waited for
        autoencoder = replace(autoencoder, strategy=strategy)
        alpha = alpha_in_training(alpha, self.scale)

        @torch.no_grad()
        def of_rows(x):
            centred = x - autoencoder.intercept
            support = None if autoencoder.is_separable else autoencoder.select(centred)
            return autoencoder.objective(centred, alpha, support)[0]

        return of_rows

    def finish(self, rows):
        """As `Solver.finish`.

        Where training has not come to the architecture itself, but is still at its first variant,
        thresholds are taken from the rows.
        """
        return self.whole_dictionary(self.own_dictionary(rows))

    @torch.no_grad()
    def own_dictionary(self, rows):
        autoencoder = self.learner.averaged()
        strategy = replace(autoencoder.strategy, data=ALONE.data)  # all have the same rows
        autoencoder = replace(autoencoder, strategy=strategy)
        architecture = autoencoder.architecture
        if not self.schedule.is_itself_at(self.n_steps - 1, architecture):
            autoencoder = self._calibrated(autoencoder, rows)
        weight, bias, threshold = autoencoder.folded()
        threshold = None if threshold is None else self.scale * threshold
        state = architecture.in_units(autoencoder.state, self.scale)
        return Dictionary(
            components=autoencoder.dictionary,
            intercept=self.standardised(rows).to_data_units(autoencoder.intercept),
            encoder=Encoder(
                weight,
                self.scale * bias,
                threshold,
                architecture.n_largest,
                architecture.selection,
            ),
            architecture=architecture,
            state=state,
        ).copy()

    def whole_dictionary(self, own, tables=None):
        if not self.strategy.shards_atoms:
            return own
        tables = Tables(self.strategy) if tables is None else tables
        matrices = {"components": own.components, "encoder": own.encoder.weight}
        matrices = tables.gather(matrices)
        device = matrices["components"].device  # the CPU, of files

        def whole(part):
            if part is own.encoder.weight:
                return matrices["encoder"]
            return self.strategy.whole(part).to(device)

        return replace(
            own,
            components=matrices["components"],
            intercept=own.intercept.to(device),
            encoder=own.encoder.mapped(whole),
            state={name: whole(value) for name, value in own.state.items()},
        )

    def _calibrated(self, autoencoder, rows):
        every = math.ceil(len(rows) / N_THRESHOLD_SAMPLES)
        x = self.standardised(rows)[torch.arange(0, len(rows), every, device="cpu")]
        centred = x - autoencoder.intercept
        pre_activations = autoencoder.pre_activations(centred, None)
        with autoencoder.strategy.active():
            state = autoencoder.architecture.calibrated(autoencoder.state, pre_activations)
        return replace(autoencoder, state=state)


def initial_atoms(data, n_components, generator):
    """Directions of centred samples, as unit-norm atoms; where there are too few, random ones.

    Activations cluster, and atoms that start where they are explain more from the start.
    """
    drawn = data.source.draw(n_components, generator)
    atoms = data.standardise(drawn)[away_from(drawn, data.mean)]
    drawn_on_cpu = {"generator": generator, "device": "cpu"}
    missing = torch.randn(
        n_components - len(atoms), atoms.shape[1], dtype=torch.float32, **drawn_on_cpu
    )
    atoms = normalize_(torch.cat([atoms, missing.to(atoms)]))
    return atoms[torch.randperm(n_components, **drawn_on_cpu).to(atoms.device)]
