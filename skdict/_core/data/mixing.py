"""How well the shuffle of a store mixes it, predicted from some of its chunks.

What counts is the noise of the gradients, which is larger than that of independent rows where rows
that are near each other on the disk are alike: see `shuffle`. The gradient of a dictionary is a
sum of products of codes and residuals. Here codes are the largest products with rows drawn as
atoms, and the residual is what the leading principal components leave over, so nothing is trained.
That errs on the safe side: of activations of a transformer the excess over 1 was 1.4 to 1.7 times
that of a trained dictionary's gradients. Raw activations would not do: it was 14 times.
"""

import torch

from ..kernels import linear
from ..optim import normalize_
from .shuffle import BUFFER_BATCHES, draw_rows, spread_rows

# Adam and the decay of the learning rate average gradients over several batches.
N_AVERAGED = 8
# A fit of 400 steps ends within about 2 % of a global shuffle if the variance is no larger than
# this (benchmarks/shuffle.py).
WORST_RATIO = 1.1
# What is looked at: so many chunks, but no more numbers than these.
N_CHUNKS = 1024
MOST_NUMBERS = 1 << 24
N_ATOMS = 512
N_ACTIVE = 16
# The principal components explain about 85 percent of activations, as a dictionary does.
COMPONENTS = 0.4
MOST_COMPONENTS = 512
N_PROJECTIONS = 48


def predicted_ratio(source, batch_size):
    """Variance of the mean of `N_AVERAGED` gradients, relative to that of independent rows.

    Parameters
    ----------
    source : Source
        Of a store.
    batch_size : int

    Returns
    -------
    ratio : float
        1 is a perfect shuffle.
    """
    n_batches = source.batches_in_buffer(batch_size)
    if n_batches * batch_size >= len(source):  # all rows are in the buffer
        return 1.0
    effect = design_effect(source)
    return 1 + (effect - 1) * N_AVERAGED / n_batches


def warning_of_mixing(source, batch_size):
    """What to warn of before rows are shuffled, or None.

    A buffer that is not limited by its bytes mixes well enough: nothing is read for it.
    """
    n_batches = source.batches_in_buffer(batch_size)
    if not source.is_store or n_batches == BUFFER_BATCHES:
        return None
    ratio = predicted_ratio(source, batch_size)
    if ratio <= WORST_RATIO:
        return None
    row_bytes = source.n_features * source.X.dtype.itemsize
    needed = 2 * n_batches * (ratio - 1) / (WORST_RATIO - 1) * batch_size * row_bytes
    return (
        f"The rows of {source.name} will be shuffled in a buffer of only {n_batches} batches: "
        f"neighbours in the store are so alike that gradients will be {ratio:.2f} times as noisy "
        f"as after a full shuffle, where {WORST_RATIO} does not matter. Give the store more "
        f"memory, buffer_bytes={_two_digits(needed)} instead of {source.X.buffer_bytes}, or take "
        "a smaller batch_size."
    )


def _two_digits(number):
    """A number of bytes that is no smaller, as a power of two times 1 or 1.5."""
    power = 1 << max(int(number).bit_length() - 1, 0)
    return next(size for size in (power, power * 3 // 2, 2 * power) if size >= number)


@torch.no_grad()
def design_effect(source):
    """Of the chunks of a store: the variance of the mean of whole chunks against that of rows.

    Parameters
    ----------
    source : Source

    Returns
    -------
    effect : float
        1 if the rows of a chunk are no more alike than others.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    x, size = _chunks(source, generator)
    x = x - x.mean(dim=0)
    codes, residual = _codes(x, generator), _residual(x, generator)
    options = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
    of_codes = torch.randn(codes.shape[1], N_PROJECTIONS, **options).to(x)
    of_residual = torch.randn(x.shape[1], N_PROJECTIONS, **options).to(x)
    gradients = ((codes @ of_codes) * (residual @ of_residual)).double()
    gradients -= gradients.mean(dim=0)
    of_chunks = gradients.view(-1, size, N_PROJECTIONS).mean(dim=1)
    n_chunks = len(of_chunks)
    variance = gradients.square().mean(dim=0).sum()
    between = of_chunks.square().sum(dim=0).sum() / max(n_chunks - 1, 1)
    return max(1.0, float(size * between / variance)) if variance > 0 else 1.0


def _chunks(source, generator):
    """Rows of chunks drawn at random (n_chunks * size, n_features), and the size of a chunk."""
    size = min(source.chunk_rows, len(source))
    n_most = max(2, MOST_NUMBERS // (size * source.n_features))
    n_chunks = min(len(source) // size, N_CHUNKS, n_most)
    first = spread_rows(len(source) // size, n_chunks, generator) * size
    index = (first[:, None] + torch.arange(size, device="cpu")).flatten()
    return source[index], size


def _codes(x, generator):
    """The largest products with rows as atoms, else zero: (B, n_atoms)."""
    atoms = normalize_(x[draw_rows(len(x), N_ATOMS, generator).to(x.device)].clone())
    products = linear(x, atoms)
    n_active = min(N_ACTIVE, len(atoms))
    largest = products.topk(n_active, dim=1)
    return torch.zeros_like(products).scatter_(1, largest.indices, largest.values)


def _residual(x, generator):
    """What about the leading principal components of rows (B, n_features) leave of them.

    By subspace iteration from rows of x (Halko, Martinsson and Tropp, SIAM Review 2011).
    """
    n_components = max(1, min(int(COMPONENTS * x.shape[1]), MOST_COMPONENTS, len(x) // 4))
    basis = x[draw_rows(len(x), n_components, generator).to(x.device)].T
    for _ in range(2):
        basis = torch.linalg.qr(x.T @ (x @ torch.linalg.qr(basis).Q)).Q
    return x - (x @ basis) @ basis.T
