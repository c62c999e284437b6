"""The training loop: one for every architecture, a generator of passes; never prints."""

import math

import torch


def train(training, schedule, rows, n_rows, *, n_passes, batch_size, shuffle):
    """Train for some passes over the data; yield the mean objective of each.

    Parameters
    ----------
    rows : callable
        Sorted row numbers (tensor, int64) to the rows (B, n_features), scaled, on the device.
    n_rows : int
    n_passes, batch_size : int
    shuffle : bool

    Yields
    ------
    objective : float
        Mean over the rows of the pass, each at the parameters of its step.
    """
    for _ in range(n_passes):
        total = 0.0
        for batch in batches(n_rows, batch_size, training.generator if shuffle else None):
            total = total + training.step(rows(batch), schedule)
        yield float(total) / n_rows


def batches(n_rows, batch_size, generator=None):
    """Sorted row numbers of the batches of one pass, shuffled if there is a generator.

    Batches differ by one row at most in size; none has more than ``batch_size`` rows.
    """
    if generator is None:
        order = torch.arange(n_rows, device="cpu")
    else:
        order = torch.randperm(n_rows, generator=generator, device="cpu")
    for batch in order.tensor_split(math.ceil(n_rows / batch_size)):
        yield batch.sort().values
