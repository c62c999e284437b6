"""What changes over the steps of a training run."""

import math
from dataclasses import dataclass

from ..optim import learning_rate_factor


@dataclass(frozen=True)
class Schedule:
    """What changes over the steps of a training run.

    Parameters
    ----------
    alpha : float
        L1 coefficient after its warm-up, in the units of the data given to `Training.step`.
    learning_rate : float
        Learning rate between warm-up and decay.
    n_steps : int or None
        Planned number of steps; None for a stream without a planned end, where nothing decays.
    from_scratch : bool
        Whether alpha rises from zero, the architecture may begin as another and features are
        renewed; not where training goes on from a trained dictionary.
    """

    alpha: float
    learning_rate: float
    n_steps: int | None = None
    from_scratch: bool = True

    WARMUP = 0.05
    # Slow: while codes are still dense, atoms spread; two that settle on the same direction leave
    # two others to share one.
    ALPHA_WARMUP = 0.3
    DECAY = 0.3
    # Dead and duplicate features are renewed at these fractions of the run; a renewed feature
    # needs the rest of it to find its place. In a short run only at every so many-th of them:
    # of a wide dictionary hundreds are renewed at a time, and before these have settled more
    # would only add to the disorder.
    RENEWALS = tuple(percent / 100 for percent in range(10, 80, 5))
    RENEWAL_INTERVAL = 0.05
    MIN_STEPS_BETWEEN_RENEWALS = 20
    STREAM_WARMUP_STEPS = 100
    STREAM_RENEWAL_STEPS = 1000

    def learning_rate_at(self, step):
        if self.n_steps is None:
            return self.learning_rate * min(1.0, (step + 1) / self.STREAM_WARMUP_STEPS)
        return self.learning_rate * learning_rate_factor(
            step, self.n_steps, self.WARMUP, self.DECAY
        )

    def alpha_at(self, step):
        if not self.from_scratch:
            return self.alpha
        warmup = (
            self.STREAM_WARMUP_STEPS
            if self.n_steps is None
            else max(1, math.ceil(self.ALPHA_WARMUP * self.n_steps))
        )
        return self.alpha * min(1.0, (step + 1) / warmup)

    def progress_at(self, step):
        """Fraction of the run that is done after this step; 1 where there is no plan."""
        planned = self.n_steps is not None and self.from_scratch
        return (step + 1) / self.n_steps if planned else 1.0

    def is_itself_at(self, step, architecture):
        """Whether this step trains the architecture, and not the one that it begins as."""
        return architecture.during(self.progress_at(step)) is architecture

    def settled_at(self, step, architecture):
        """Whether this step is trained on the objective that the run ends with."""
        return self.alpha_at(step) == self.alpha and self.is_itself_at(step, architecture)

    def renews_at(self, step):
        """Whether dead and duplicate features are renewed after this step."""
        if self.n_steps is None:
            return (step + 1) % self.STREAM_RENEWAL_STEPS == 0
        if not self.from_scratch or step + 1 == self.n_steps:
            return False
        interval = self.RENEWAL_INTERVAL * self.n_steps
        every = max(1, math.ceil(self.MIN_STEPS_BETWEEN_RENEWALS / interval))
        return step + 1 in {round(f * self.n_steps) for f in self.RENEWALS[every - 1 :: every]}
