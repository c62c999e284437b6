"""Training of an autoencoder on data brought to a common scale, and back to the data's units."""

import math
from dataclasses import replace

import torch

from ..kernels import decode
from ..models.autoencoder import Autoencoder
from ..optim import fitting_scale, normalize_
from ..tensors import as_arrays, as_tensors, away_from, from_numpy
from ..train import train
from .autoencoder_training import Training
from .base import alpha_in_training
from .schedule import Schedule

# W_enc starts as the atoms times this. Larger is sparse sooner, and with biases that make codes
# sparse from the start not worse; without them 1 would overshoot.
ENCODER_INIT_SCALE = 0.5
# Active features of a sample at the start, but no more than a twentieth of all.
INITIAL_L0 = 200
N_CALIBRATION_SAMPLES = 4096
# Pre-activations that a threshold is taken from, where none has been learned.
N_CALIBRATION_ENTRIES = 1 << 24
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


class AutoencoderFit:
    """An autoencoder in training on (x - mean) / scale.

    ``scale`` brings the data to E‖x‖² = n_features, so that one learning rate serves every
    layer of every model. Codes, alpha and the encoder's biases scale with it, the objective
    with its square.

    Parameters
    ----------
    training : Training
    mean : tensor of shape (n_features,)
    scale : float
    from_scratch : bool
        Whether the atoms are untrained.
    """

    def __init__(self, training, mean, scale, *, from_scratch):
        self.training = training
        self.mean = mean
        self.scale = scale
        self.from_scratch = from_scratch

    @classmethod
    def from_atoms(cls, atoms, architecture, rows, mean, scale, generator, *, fit_intercept):
        """Start from unit-norm atoms (n_components, n_features) and an encoder tied to them.

        Biases are such that every feature is active on a small fraction of the samples: codes are
        sparse from the first step, which therefore is a fast one. The encoder is scaled so that
        these codes do not overshoot.
        """
        autoencoder = Autoencoder.from_dictionary(
            atoms, architecture, encoder_scale=ENCODER_INIT_SCALE
        )
        x = (draw_rows(rows, N_CALIBRATION_SAMPLES, generator) - mean) / scale
        density = min(0.05, INITIAL_L0 / len(atoms))
        n_active = max(1, round(density * len(x)))
        for chunk in torch.arange(len(atoms), device="cpu").split(N_CALIBRATION_SAMPLES):
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
        training = Training(autoencoder, generator, fit_intercept=fit_intercept, density=density)
        return cls(training, mean, scale, from_scratch=True)

    @classmethod
    def from_attributes(cls, estimator, architecture, mean, scale, generator):
        """Go on from the fitted attributes of an estimator, with a fresh optimiser.

        From the same architecture it goes on with all that this has learned; from another, with
        its encoder and threshold.
        """

        def tensor(array):
            return from_numpy(array).to(dtype=mean.dtype, device=mean.device)

        intercept = tensor(estimator.intercept_) if estimator.fit_intercept else mean
        weight = tensor(estimator.encoder_coef_)
        bias = tensor(estimator.encoder_intercept_) / scale
        threshold = getattr(estimator, "threshold_", None)
        if type(estimator._architecture) is type(architecture):
            state = {name: tensor(array) for name, array in estimator._extra.items()}
            state = architecture.in_units(state, 1 / scale)
            weight, bias = architecture.undo_fold(weight, bias, state)
        else:
            bias, state = architecture.unfold(
                bias, None if threshold is None else tensor(threshold) / scale
            )
        autoencoder = Autoencoder(
            dictionary=tensor(estimator.components_).clone(),
            encoder_weight=weight.clone(),
            encoder_bias=bias,
            intercept=(intercept - mean) / scale,
            architecture=architecture,
            state={name: value.clone() for name, value in state.items()},
        )
        training = Training(autoencoder, generator, fit_intercept=estimator.fit_intercept)
        return cls(training, mean, scale, from_scratch=False)

    def schedule(self, alpha, learning_rate, batch_size, *, n_steps=None):
        if learning_rate == "auto":
            learning_rate = self._learning_rate(batch_size, n_steps)
        return Schedule(
            alpha=alpha_in_training(alpha, self.scale),
            learning_rate=learning_rate,
            n_steps=n_steps,
            from_scratch=self.from_scratch,
        )

    def _learning_rate(self, batch_size, n_steps):
        n_components, n_features = self.training.autoencoder.dictionary.shape
        factor = math.sqrt(WIDE * batch_size / n_components)
        if self.from_scratch and n_steps is not None:  # trained atoms need not travel
            factor = max(factor, LEAST_TRAVEL / (LEARNING_RATE_PER_ENTRY * n_steps))
        return min(1.0, factor) * LEARNING_RATE_PER_ENTRY / math.sqrt(n_features)

    @property
    def generator(self):
        return self.training.generator

    @property
    def n_steps(self):
        return self.training.n_steps

    def is_settled(self, schedule):
        """Whether the last step was on the objective that the run ends with."""
        architecture = self.training.autoencoder.architecture
        return schedule.settled_at(self.training.n_steps - 1, architecture)

    def passes(self, rows, schedule, *, n_passes, batch_size, shuffle):
        """Train on the rows; yield each pass's objective, in data units."""
        for objective in train(
            self.training,
            schedule,
            lambda batch: (rows[batch] - self.mean) / self.scale,
            len(rows),
            n_passes=n_passes,
            batch_size=batch_size,
            shuffle=shuffle,
        ):
            yield objective * self.scale**2

    @torch.no_grad()
    def objective(self, rows, alpha):
        """Mean objective of the rows, in data units."""
        total = 0.0
        autoencoder = self.training.autoencoder
        alpha = alpha_in_training(alpha, self.scale)
        for start in range(0, len(rows), 1024):
            x = (rows[start : start + 1024] - self.mean) / self.scale - autoencoder.intercept
            total += float(autoencoder.objective(x, alpha, None)[0])
        return total * self.scale**2 / len(rows)

    def attributes(self, rows, schedule):
        """Fitted attributes in the units of the data, arrays as new ndarrays.

        Where training has not come to the architecture itself, but is still at its first variant,
        thresholds are taken from the rows.
        """
        autoencoder = self.training.autoencoder
        architecture = autoencoder.architecture
        if not schedule.is_itself_at(self.training.n_steps - 1, architecture):
            autoencoder = self._calibrated(rows)

        def array(tensor):
            return tensor.detach().cpu().numpy().copy()

        weight, bias, threshold = autoencoder.folded()
        attributes = {
            "components_": array(autoencoder.dictionary),
            "intercept_": array(self.mean + self.scale * autoencoder.intercept),
            "encoder_coef_": array(weight),
            "encoder_intercept_": array(self.scale * bias),
            "_architecture": architecture,
            "_extra": {
                name: array(tensor)
                for name, tensor in architecture.in_units(autoencoder.state, self.scale).items()
            },
        }
        if "k" in architecture.get_params():
            attributes["n_nonzero_coefs_"] = architecture.k
        if threshold is not None:
            attributes["threshold_"] = array(self.scale * threshold)
        return attributes

    @torch.no_grad()
    def _calibrated(self, rows):
        autoencoder = self.training.autoencoder
        most = min(N_CALIBRATION_SAMPLES, N_CALIBRATION_ENTRIES // len(autoencoder.dictionary))
        every = math.ceil(len(rows) / max(most, 1))
        x = rows[torch.arange(0, len(rows), every, device="cpu")]
        centred = (x - self.mean) / self.scale - autoencoder.intercept
        pre_activations = autoencoder.pre_activations(centred, None)
        state = autoencoder.architecture.calibrated(autoencoder.state, pre_activations)
        return replace(autoencoder, state=state)

    def copy_to(self, device):
        """The same training with tensors of its own, on a device."""
        training = Training.from_state_dict(self.training.state_dict(), device)
        return AutoencoderFit(
            training, self.mean.to(device), self.scale, from_scratch=self.from_scratch
        )

    def __getstate__(self):
        """Plain containers of ndarrays: what was trained on a GPU loads without one."""
        return as_arrays(vars(self) | {"training": self.training.state_dict()})

    def __setstate__(self, state):
        vars(self).update(as_tensors(state))
        self.training = Training.from_state_dict(self.training, torch.device("cpu"))


def draw_rows(rows, n_rows, generator):
    """Rows drawn without replacement, all where there are no more: (n, n_features)."""
    order = torch.randperm(len(rows), generator=generator, device="cpu")
    return rows[order[:n_rows].sort().values]


def initial_atoms(rows, mean, scale, n_components, generator):
    """Directions of centred samples, as unit-norm atoms; where there are too few, random ones.

    Activations cluster, and atoms that start where they are explain more from the start.
    """
    drawn = draw_rows(rows, n_components, generator)
    atoms = ((drawn - mean) / scale)[away_from(drawn, mean)]
    drawn_on_cpu = {"generator": generator, "device": "cpu"}
    missing = torch.randn(
        n_components - len(atoms), atoms.shape[1], dtype=torch.float32, **drawn_on_cpu
    )
    atoms = normalize_(torch.cat([atoms, missing.to(atoms)]))
    return atoms[torch.randperm(n_components, **drawn_on_cpu).to(atoms.device)]
