"""What changes over the steps of a training run."""

import math
from dataclasses import dataclass

from ..optim import learning_rate_factor

INTERVAL = 0.05
# A stream begins as a fit of so many steps does, but for the decay.
STREAM_BEGINNING = 320
# Samples and steps of a stream between one resampling and the next, at least. It has to be
# resampled several times in its beginning, as a fit is: of duplicates that are there when the
# architecture becomes itself, one dies.
STREAM_WATCHED, STREAM_STEPS = 4000, 8
RESAMPLE_AT = tuple(percent / 100 for percent in range(10, 80, 5))  # INTERVAL apart


@dataclass(frozen=True)
class Schedule:
    """What changes over the steps of a training run. Steps are counted from 0.

    Parameters
    ----------
    alpha : float
        L1 coefficient after its warm-up, in the units of the data given to `Training.step`.
    learning_rate : float
        Learning rate between warm-up and decay.
    n_steps : int or None
        Planned number of steps; None for a stream without a planned end: it begins as a fit of
        `STREAM_BEGINNING` steps does, but its learning rate does not decay.
    from_scratch : bool
        Whether alpha rises from zero, the architecture begins as its first variant and features
        are resampled; False where training goes on from a trained dictionary.
    warmup, decay : float
        First and last fraction of the steps, in which the learning rate rises and falls.
    alpha_warmup : float
        First fraction of the steps, in which alpha rises. It is long: while codes are still
        dense, atoms spread; two that settle on the same direction leave two others to share one.
    resample_at : tuple of float
        Dead and duplicate features are resampled when these fractions of the steps are done, a
        twentieth apart. A resampled feature needs the steps that are left to find its place.
    min_steps_between_resampling : int
        In a short run only every second, third, ... of ``resample_at`` is taken, so that there
        are so many steps in between: of a wide dictionary hundreds are resampled at a time, and
        more before these have settled would only add to the disorder.
    resample_after : int
        Without a plan: samples from one resampling to the next. It has to be long enough for
        rare features to be seen, however few samples a step has.
    """

    alpha: float
    learning_rate: float
    n_steps: int | None = None
    from_scratch: bool = True
    warmup: float = 0.05
    decay: float = 0.3
    alpha_warmup: float = 0.3
    resample_at: tuple = RESAMPLE_AT
    min_steps_between_resampling: int = 20
    resample_after: int = STREAM_WATCHED

    @property
    def _n_first_steps(self):
        """Steps of which the fractions are: all, or those that a stream begins with."""
        return STREAM_BEGINNING if self.n_steps is None else self.n_steps

    def learning_rate_at(self, step):
        if self.n_steps is None:
            return self.learning_rate * min(1.0, (step + 1) / (self.warmup * STREAM_BEGINNING))
        return self.learning_rate * learning_rate_factor(
            step, self.n_steps, self.warmup, self.decay
        )

    def alpha_at(self, step):
        if not self.from_scratch:
            return self.alpha
        warmup = max(1, math.ceil(self.alpha_warmup * self._n_first_steps))
        return self.alpha * min(1.0, (step + 1) / warmup)

    def progress_at(self, step):
        """Fraction of the run that is done after this step; of a stream, of its beginning."""
        if not self.from_scratch:
            return 1.0
        return min(1.0, (step + 1) / self._n_first_steps)

    def is_itself_at(self, step, architecture):
        """Whether this step trains the architecture, and not its first variant."""
        return architecture.variant_at(self.progress_at(step)) is architecture

    def settled_at(self, step, architecture):
        """Whether this step is trained on the objective that the run ends with."""
        return self.alpha_at(step) == self.alpha and self.is_itself_at(step, architecture)

    def resamples_at(self, step, n_watched):
        """Whether dead and duplicate features are resampled after this step.

        Parameters
        ----------
        step : int
        n_watched : int
            Samples since the last resampling.
        """
        if self.n_steps is None:
            return n_watched >= self.resample_after
        if not self.from_scratch or step + 1 == self.n_steps:
            return False
        interval = INTERVAL * self.n_steps
        every = max(1, math.ceil(self.min_steps_between_resampling / interval))
        return step + 1 in {round(f * self.n_steps) for f in self.resample_at[every - 1 :: every]}


def resampling_of_stream(batch_size, n_seen):
    """Samples from one resampling to the next, where so many have been seen."""
    return max(STREAM_WATCHED, STREAM_STEPS * batch_size, int(INTERVAL * n_seen))
