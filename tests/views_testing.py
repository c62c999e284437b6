"""A view of a store whose rows are in memory: what `Source` needs of one, and no more."""

import numpy as np
import torch

from skdict._core.data.reading import row_slices
from skdict._core.data.statistics import Spread, Summary


class ArrayView:
    """Rows of a tensor, as a view of a store gives them; counts what is read."""

    ndim = 2
    identity = "an array"
    buffer_bytes = 1 << 30

    def __init__(self, X, *, chunk_rows=16, dtype=torch.float32):
        self.X = torch.as_tensor(X).to(dtype)
        self.shape, self.dtype = tuple(self.X.shape), dtype
        self.chunk_rows = chunk_rows
        self.chunks_read, self.rows_read = 0, 0
        self.parts = []  # views that were made of this one

    def __len__(self):
        return len(self.X)

    def __getitem__(self, key):
        key = key[0] if isinstance(key, tuple) else key
        return self._of(self.X[key if isinstance(key, slice) else torch.as_tensor(key)])

    def take_ranges(self, starts, stops):
        pieces = [np.arange(*ends) for ends in zip(starts, stops, strict=True)]
        return self[np.concatenate(pieces)]

    def read(self, index):
        numbers = torch.arange(len(self.X))[index]
        self.rows_read += len(numbers)
        self.chunks_read += len((numbers // self.chunk_rows).unique())
        return self.X[index].clone()

    def moments(self):
        finite = self.X.double()[self.X.isfinite().all(dim=1)]
        mean = finite.mean(dim=0)
        norms = (finite - mean).norm(dim=1)
        spread = Spread(len(finite), mean, float(norms.square().sum()), float(norms.max()))
        return Summary(spread, spread, len(self.X) - len(finite))

    def _of(self, X):
        view = ArrayView(X, chunk_rows=self.chunk_rows, dtype=self.dtype)
        view.buffer_bytes = self.buffer_bytes
        self.parts.append(view)
        return view


def summary_of(X, n_parts):
    """The summary of rows, merged of those of parts of them."""
    parts = [
        ArrayView(X[rows], dtype=torch.float64).moments() for rows in row_slices(len(X), n_parts)
    ]
    summary = parts[0]
    for part in parts[1:]:
        summary = summary.merged_with(part)
    return summary
