"""Online dictionary learning on data brought to a common scale, and back to the data's units."""

import torch

from ..coding.lasso import Lasso
from ..kernels import decode
from ..tensors import as_arrays, as_tensors
from ..train import batches
from .base import alpha_in_training
from .online import OnlineDictionaryLearning


class AlternatingFit:
    """`OnlineDictionaryLearning` on (x - mean) / scale; the surface is that of `AutoencoderFit`.

    Parameters
    ----------
    learner : OnlineDictionaryLearning
    mean : tensor of shape (n_features,)
    scale : float
        Brings the data to E‖x‖² = n_features.
    """

    def __init__(self, learner, mean, scale):
        self.learner = learner
        self.mean = mean
        self.scale = scale

    @property
    def generator(self):
        return self.learner.generator

    @property
    def n_steps(self):
        return self.learner.n_steps

    def schedule(self, alpha, learning_rate, batch_size, *, n_steps=None):
        return alpha_in_training(alpha, self.scale)

    def is_settled(self, schedule):
        return True

    def passes(self, rows, schedule, *, n_passes, batch_size, shuffle):
        """Learn from the rows; yield each pass's objective, in data units."""
        for _ in range(n_passes):
            total = 0.0
            for batch in batches(len(rows), batch_size, self.generator if shuffle else None):
                total += float(self.learner.step(self._scaled(rows[batch]), schedule))
            yield total * self.scale**2 / len(rows)

    def objective(self, rows, alpha):
        """Mean objective of the rows, in data units."""
        total, alpha = 0.0, alpha_in_training(alpha, self.scale)
        dictionary = self.learner.dictionary
        coder = Lasso(dictionary, alpha)
        for start in range(0, len(rows), 4096):
            x = self._scaled(rows[start : start + 4096]) - self.learner.intercept
            support, values, _ = coder(x)
            residual = x - decode(values, support, dictionary)
            total += float(0.5 * residual.square().sum() + alpha * values.sum())
        return total * self.scale**2 / len(rows)

    def attributes(self, rows, schedule):
        """Fitted attributes in the units of the data, arrays as new ndarrays."""
        learner = self.learner
        return {
            "components_": learner.dictionary.cpu().numpy().copy(),
            "intercept_": (self.mean + self.scale * learner.intercept).cpu().numpy(),
        }

    def copy_to(self, device):
        """The same with tensors of its own, on a device."""
        learner = OnlineDictionaryLearning.from_state_dict(self.learner.state_dict(), device)
        return AlternatingFit(learner, self.mean.to(device), self.scale)

    def __getstate__(self):
        """Plain containers of ndarrays: what was learned on a GPU loads without one."""
        return as_arrays(vars(self) | {"learner": self.learner.state_dict()})

    def __setstate__(self, state):
        vars(self).update(as_tensors(state))
        self.learner = OnlineDictionaryLearning.from_state_dict(self.learner, torch.device("cpu"))

    def _scaled(self, x):
        return (x - self.mean) / self.scale
