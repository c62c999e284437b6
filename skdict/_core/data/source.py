"""Activations to read from, block by block or batch by batch."""

import torch

from .finite import check_piece
from .reading import as_dense, read_rows, release_pages, row_slices, take_rows, to_device
from .shuffle import MAX_PERMUTED, buffers, draw_rows, permuted_batches
from .statistics import statistics_of

# Rows are read and checked in blocks of about this many bytes.
BLOCK_BYTES = 1 << 24


class Source:
    """Rows of X as dense tensors in C order, of one dtype on one device, whatever kind X is.

    X is never copied as a whole.

    Parameters
    ----------
    X : ndarray, memmap, CSR matrix or tensor of shape (n_samples, n_features)
        In floating point, as `check_activations` returns it.
    device : torch.device
        Where the tensors are.
    index : tensor of shape (n_rows,), int64, optional
        Which rows of X these are; all by default.
    name : str, default="X"
        Name of X in errors.
    is_finite : bool, default=False
        Whether X is known to have neither NaN nor infinity. If not, `blocks` and `statistics` look
        for them, but indexing does not.

    Attributes
    ----------
    shape : tuple of int
        (n_rows, n_features).
    dtype : torch.dtype
        Float64 if X is, else float32. May be set to another one.
    """

    def __init__(self, X, device, *, index=None, name="X", is_finite=False):
        self.X = X
        self.device = device
        self.index = index
        self.name = name
        self.is_finite = is_finite
        self.shape = (X.shape[0] if index is None else len(index), X.shape[1])
        is_double = str(X.dtype).endswith("float64")
        self.dtype = torch.float64 if is_double else torch.float32
        self._statistics = None

    def __len__(self):
        return self.shape[0]

    @property
    def n_features(self):
        return self.shape[1]

    def take(self, index):
        """The source of those of these rows that an int64 tensor names."""
        index = index if self.index is None else self.index[index]
        taken = Source(self.X, self.device, index=index, name=self.name, is_finite=self.is_finite)
        taken.dtype = self.dtype
        return taken

    def whole(self):
        """These rows of X in one piece, of the kind that X is."""
        return self.X if self.index is None else take_rows(self.X, self.index.numpy())

    def copy(self):
        """These rows, which keep hold of X no longer."""
        return Source(self[:].clone(), self.device, name=self.name, is_finite=self.is_finite)

    def __getitem__(self, index):
        """Rows given by a slice or by an int64 tensor on the CPU: (n_rows, n_features)."""
        return self._read(index, check=False)

    def block_size(self, n_columns=0):
        """How many rows there are in a block of `blocks`."""
        width = max(self.n_features, n_columns, 1)
        return max(1, BLOCK_BYTES // (width * self.dtype.itemsize))

    def blocks(self, n_columns=0, *, check=True):
        """Yield (slice, rows) over all rows in order; a block holds about `BLOCK_BYTES`.

        Parameters
        ----------
        n_columns : int
            Width of what is computed from the rows, if that is wider than they are.
        check : bool
            Whether to look for NaN and infinity, unless there are known to be none.

        Raises
        ------
        ValueError
            If a block holds NaN or infinity; names the first with its row and column in X.
        """
        check = check and not self.is_finite
        for block in row_slices(len(self), self.block_size(n_columns)):
            yield block, self._read(block, check=check)
        self.is_finite |= check

    def batches(self, batch_size, generator=None):
        """Yield the rows of one epoch in batches (B, n_features), each row once.

        Batches differ by one row at most in size; none has more than ``batch_size`` rows.

        Parameters
        ----------
        batch_size : int
        generator : torch.Generator, optional
            On the CPU. Shuffles the rows; without one they are not shuffled. The order is decided
            before the first batch: it does not matter what is drawn from the generator later.

        Notes
        -----
        Up to `MAX_PERMUTED` rows are permuted at once. Of more rows, chunks of consecutive ones
        are read in random order into a buffer whose rows are permuted: see `buffers`.
        """
        if generator is None or len(self) <= MAX_PERMUTED:
            for index in permuted_batches(len(self), batch_size, generator):
                yield self[index]
            return
        row_bytes = self.n_features * self.dtype.itemsize
        for index, batches in buffers(len(self), batch_size, generator, row_bytes=row_bytes):
            buffer = self[index]
            for batch in batches:
                yield buffer[to_device(batch, self.device)]

    def draw(self, n_rows, generator):
        """Rows drawn without replacement, all if there are no more: (n, n_features)."""
        return self[draw_rows(len(self), n_rows, generator)]

    def check_finite(self):
        """Raise a ValueError that names the first NaN or infinity in X; read at most once."""
        if self.is_finite:
            return
        for block in row_slices(len(self), self.block_size()):
            self._piece(block, check=True)
            release_pages(self.X)
        self.is_finite = True

    def statistics(self, *, massive=True):
        """Mean and centred scale of the rows, computed once: X is read once, and checked.

        Parameters
        ----------
        massive : bool
            Whether to include massive rows, a few of which would decide the scale of all.

        Returns
        -------
        statistics : Statistics
        """
        if self._statistics is None:
            self._statistics = statistics_of(self)
        of_all, of_others = self._statistics
        return of_all if massive else of_others

    def _read(self, index, *, check):
        x = as_dense(self._piece(index, check=check))
        release_pages(self.X)
        return to_device(x, self.device, self.dtype).contiguous()

    def _piece(self, index, *, check):
        """Rows as X holds them; checked if asked for and then given by a slice."""
        index_in_X = index if self.index is None else self.index[index]
        piece = read_rows(self.X, index_in_X)
        if check:
            first_row = index_in_X if self.index is not None else index.start
            check_piece(piece, self.name, first_row)
        return piece
