"""Named tensors of a file, each checked when it is taken."""

import zipfile
from collections.abc import Mapping

import numpy as np
import torch


class FormatError(ValueError):
    """A file is not what its format says, or says what cannot be expressed."""


class Tensors:
    """Tensors by name. Each is taken once, with the shape that it has to have.

    Parameters
    ----------
    where : str
        The file, in errors.
    """

    def __init__(self, where):
        self.where = where
        self._taken = set()

    @property
    def names(self):
        """Names of all tensors."""
        raise NotImplementedError

    def shape(self, name):
        """The shape of a tensor, without reading it.

        Parameters
        ----------
        name : str

        Returns
        -------
        shape : tuple of int
        """
        raise NotImplementedError

    def read(self, name, rows=None, axis=0):
        """A tensor as it is in the file.

        Parameters
        ----------
        name : str
        rows : list of int or None
            Only these, of an axis.
        axis : int

        Returns
        -------
        tensor : tensor
        """
        raise NotImplementedError

    def rows(self, name):
        """A table whose rows several processes have written, where the format has such ones.

        Parameters
        ----------
        name : str

        Returns
        -------
        rows : StoredRows
        """
        raise FormatError(f"{self.where}: {name} cannot be in parts here.")

    def __contains__(self, name):
        return name in self.names

    def take(self, name, shape=None, *, rows=None, axis=0, kind="float", finite=True):
        """A tensor of finite numbers.

        Parameters
        ----------
        name : str
        shape : tuple of (int or None), default=None
            What its shape has to be, where None is any size.
        rows : list of int or None
            Only these, of an axis.
        axis : int
        kind : {"float", "int", "any"}
        finite : bool
            Whether all of its numbers have to be finite.

        Returns
        -------
        tensor : tensor

        Raises
        ------
        ValueError
            If there is none, its shape or dtype is another, or a number is not finite.
        """
        if name not in self.names:
            raise FormatError(f"{self.where} has no tensor {name!r}: it has {self.listed()}.")
        self._taken.add(name)
        found = tuple(self.shape(name))
        if 0 in found:
            raise FormatError(f"{self.where}: {name} has shape {found}: it is empty.")
        if shape is not None:
            same = len(found) == len(shape)
            same = same and all(w is None or w == f for w, f in zip(shape, found, strict=True))
            if not same:
                wanted = "(" + ", ".join("any" if w is None else str(w) for w in shape) + ")"
                raise FormatError(f"{self.where}: {name} has shape {found}, expected {wanted}.")
        if rows is not None and not all(0 <= row < found[axis] for row in rows):
            raise FormatError(
                f"{self.where}: components={list(rows)[:8]} must be from 0 to {found[axis] - 1}."
            )
        tensor = self.read(name, rows, axis)
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
            raise FormatError(f"{self.where}: {name} is no plain matrix of real numbers.")
        if kind != "any" and tensor.is_floating_point() != (kind == "float"):
            raise FormatError(
                f"{self.where}: {name} has dtype {tensor.dtype}, expected {kind} numbers."
            )
        if finite and tensor.is_floating_point() and not _is_finite(tensor):
            raise FormatError(f"{self.where}: {name} has entries that are not finite.")
        return tensor

    def number(self, name):
        """The number that a tensor with one entry holds.

        Parameters
        ----------
        name : str

        Returns
        -------
        number : int or float
        """
        tensor = self.take(name, kind="any")
        if tensor.numel() != 1:
            shape = tuple(tensor.shape)
            raise FormatError(f"{self.where}: {name} must be one number, but has shape {shape}.")
        return tensor.item()

    def pair(self, rows=None):
        """Encoder and decoder with a latent a row, however the file has them.

        As two layers of torch, encoder.weight (n, d) and decoder.weight (m, n), or as W_enc (d, n)
        and W_dec (n, m). They are views.

        Parameters
        ----------
        rows : list of int or None
            Only these latents.

        Returns
        -------
        encoder : tensor of shape (n_selected, d)
        decoder : tensor of shape (n_selected, m)
        shape : tuple of int
            Those of the file, (n, d).
        """
        names = ("W_enc", "W_dec") if "W_enc" in self else ("encoder.weight", "decoder.weight")
        is_layer = names[0] == "encoder.weight"
        encoder = self.take(names[0], (None, None), rows=rows, axis=0 if is_layer else 1)
        n, d = self.shape(names[0])[:: 1 if is_layer else -1]
        wanted = (None, n) if is_layer else (n, None)
        decoder = self.take(names[1], wanted, rows=rows, axis=1 if is_layer else 0)
        return (encoder, decoder.T, (n, d)) if is_layer else (encoder.T, decoder, (n, d))

    def count(self, name):
        """The integer of at least 1 that a tensor with one entry holds.

        Parameters
        ----------
        name : str

        Returns
        -------
        count : int
        """
        value = self.number(name)
        if int(value) != value or value < 1:
            raise FormatError(f"{self.where}: {name} must be an integer above 0, not {value!r}.")
        return int(value)

    def ignore(self, *names):
        """Tensors that are known, and do not matter for codes.

        Parameters
        ----------
        *names : str
        """
        self._taken.update(names)

    def check_all_taken(self):
        """Refuse tensors that nobody has asked for: they may change codes.

        Raises
        ------
        ValueError
            If there are any.
        """
        left = [name for name in self.names if name not in self._taken]
        if left:
            raise FormatError(
                f"{self.where} has tensors that are not known here and may change the codes: "
                f"{', '.join(left[:8])}. This may be another format, or a newer version of it."
            )

    def listed(self):
        """The names, for errors."""
        names = list(self.names)
        return ", ".join(names[:12]) + (" and more" if len(names) > 12 else "") or "none"


class SafeTensors(Tensors):
    """Of a safetensors file; nothing is read before it is asked for."""

    def __init__(self, path, where):
        from safetensors import SafetensorError, safe_open

        super().__init__(where)
        try:
            self._file = safe_open(str(path), "pt")
        except (SafetensorError, OSError, ValueError) as error:
            raise FormatError(f"{where} is no valid safetensors file: {error}.") from None
        self._names = sorted(self._file.keys())
        self.metadata = self._file.metadata() or {}

    @property
    def names(self):
        return self._names

    def shape(self, name):
        return tuple(self._file.get_slice(name).get_shape())

    def slice(self, name, start, stop):
        """Rows of a tensor from one number to another, as they are in the file.

        Parameters
        ----------
        name : str
        start, stop : int

        Returns
        -------
        rows : tensor
        """
        return self._file.get_slice(name)[start:stop]

    def read(self, name, rows=None, axis=0):
        if rows is None:
            return self._file.get_tensor(name)
        part = self._file.get_slice(name)
        # one by one: lists of rows are read in one piece from the first to the last
        before = (slice(None),) * axis
        found = [part[(*before, slice(row, row + 1))] for row in rows] or [
            part[(*before, slice(0))]
        ]
        return torch.cat(found, dim=axis)


class NpzTensors(Tensors):
    """Of an npz file of NumPy, without objects."""

    def __init__(self, path, where):
        super().__init__(where)
        try:
            self._file = np.load(path, allow_pickle=False)
            headers = _npz_headers(path)
        except Exception as error:  # of whatever kind: the bytes may be hostile
            raise FormatError(f"{where} is no valid npz file: {error}.") from None
        self._shapes = headers

    @property
    def names(self):
        return sorted(self._shapes)

    def shape(self, name):
        return self._shapes[name]

    def read(self, name, rows=None, axis=0):
        try:
            array = self._file[name]
            tensor = torch.from_numpy(np.ascontiguousarray(array))
        except Exception as error:
            raise FormatError(f"{self.where}: {name} cannot be read: {error}.") from None
        return (
            tensor if rows is None else tensor.index_select(axis, torch.tensor(rows, device="cpu"))
        )


class TorchTensors(Tensors, Mapping):
    """Of a dict that ``torch.save`` has written, with what else is in it as a mapping."""

    def __init__(self, value, where):
        super().__init__(where)
        self.value = value

    def __getitem__(self, key):
        return self.value[key]

    def __iter__(self):
        return iter(self.value)

    def __len__(self):
        return len(self.value)

    def __contains__(self, name):
        return name in self.value

    @property
    def names(self):
        return [key for key, value in self.value.items() if torch.is_tensor(value)]

    def shape(self, name):
        return tuple(self.value[name].shape)

    def read(self, name, rows=None, axis=0):
        tensor = self.value[name].detach()
        return (
            tensor if rows is None else tensor.index_select(axis, torch.tensor(rows, device="cpu"))
        )

    def part(self, key):
        """Tensors of a dict inside of this one.

        Parameters
        ----------
        key : str

        Returns
        -------
        tensors : TorchTensors
        """
        value = self.value.get(key)
        if not isinstance(value, dict):
            raise FormatError(f"{self.where}: {key!r} must hold tensors by name.")
        return TorchTensors(value, f"{self.where}: {key}")


def _is_finite(tensor):
    """Whether all numbers are finite, row by row of a matrix: without a mask of its size."""
    if tensor.dim() < 2 or tensor.numel() < 1 << 20:
        return bool(tensor.isfinite().all())
    return all(
        bool(part.isfinite().all()) for part in tensor.split(1 + (1 << 20) // len(tensor[0]))
    )


def _npz_headers(path):
    """Shapes of the arrays; an error if one claims more than its file holds."""
    shapes = {}
    with zipfile.ZipFile(path) as members:
        for member in members.infolist():
            with members.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                    version, np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(file)
            n_bytes = int(np.prod([int(size) for size in shape], dtype=object)) * dtype.itemsize
            if dtype.hasobject or n_bytes > member.file_size:
                raise ValueError(f"{member.filename} claims shape {shape} of {dtype}")
            shapes[member.filename.removesuffix(".npy")] = tuple(shape)
    return shapes
