"""How long a run will take, from its first steps."""

import time

# The first step is left out: kernels are compiled in it.
N_STEPS = 10


class Pace:
    """Tells once, after ten steps and the first, about how long all of a run takes.

    Parameters
    ----------
    n_rows : int
        Rows of all its steps.
    tell : callable
        Is given the seconds.
    """

    def __init__(self, n_rows, tell):
        self.n_rows = n_rows
        self.tell = tell
        self.n_steps = -1
        self.n_done = 0

    def after_step(self, n_rows):
        """Count a step on so many rows."""
        self.n_steps += 1
        if self.n_steps == 0:
            self.began = time.perf_counter()
        elif self.n_steps <= N_STEPS:
            self.n_done += n_rows
            if self.n_steps == N_STEPS:
                self.tell((time.perf_counter() - self.began) * self.n_rows / self.n_done)
