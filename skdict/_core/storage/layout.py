"""Where the parts of a store lie, and how a shard is laid out.

A shard is a safetensors file. Its header has a fixed length, so it is written last, when the
number of rows is known, in front of rows that have been written as they came. Behind the rows are
hashes of their blocks, and what is known of the shard as a whole: the *tail*.
"""

import json
import math
import re
import struct
from dataclasses import dataclass
from urllib.parse import quote

import torch

VERSION = 1
HEADER_BYTES = 4096
# A block is the unit of hashing, of reading and of shuffling: at least so many rows and bytes.
# Reads of 64 KB come to half of the speed of a disk, and smaller blocks mix better.
BLOCK_ROWS = 64
BLOCK_BYTES = 1 << 16
SHARD_BYTES = 1 << 30
MAX_SHARD = 99_999_999
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
CODES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.uint8: "U8",
}
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MAX_FILE_NAME = 200


def folder_of(layer):
    """The folder of a layer; characters that are not safe in a file name are quoted."""
    name = layer if _FILE_NAME.fullmatch(layer) else quote(layer, safe="").replace(".", "%2E")
    return f"layers/{name}"


def shard_name(number, ending):
    """The name of one of the files of a shard, which has eight digits."""
    return f"{number:08d}.{ending}"


def block_rows_of(width, dtype):
    """How many rows a block has by default: 64, or a power of two that makes 64 KB."""
    rows = BLOCK_BYTES / (width * dtype.itemsize)
    return max(BLOCK_ROWS, 1 << math.ceil(math.log2(max(rows, 1))))


@dataclass(frozen=True)
class Matrix:
    """What is stored in one file a shard: the activations of a layer, or tokens.

    Parameters
    ----------
    folder : str
        Where its files lie in the store.
    name : str
        Of the tensor in a file.
    width : int
    dtype : torch.dtype
    block_rows : int
    title : str
        What a file says of itself: the name of the layer.
    has_statistics, has_documents : bool
        What there is in a tail.
    """

    folder: str
    name: str
    width: int
    dtype: torch.dtype
    block_rows: int
    title: str
    has_statistics: bool = False
    has_documents: bool = False

    @property
    def row_bytes(self):
        return self.width * self.dtype.itemsize

    @property
    def block_bytes(self):
        return self.block_rows * self.row_bytes


@dataclass(frozen=True)
class ShardLayout:
    """Where everything is in the file of a shard.

    Parameters
    ----------
    matrix : Matrix
    number : int
        Of the shard.
    rows : int
    n_runs : int
        Of tokens: how many runs of rows of one document there are.
    """

    matrix: Matrix
    number: int
    rows: int
    n_runs: int = 0

    @property
    def name(self):
        """The file in the store."""
        return f"{self.matrix.folder}/{shard_name(self.number, 'safetensors')}"

    @property
    def n_blocks(self):
        return -(-self.rows // self.matrix.block_rows)

    @property
    def data_bytes(self):
        return self.rows * self.matrix.row_bytes

    @property
    def tail(self):
        """{name: (dtype, shape)} of what is behind the rows, in order."""
        parts = {}
        if padding := -self.data_bytes % 8:
            parts["padding"] = torch.uint8, (padding,)
        parts["block_xxh3"] = torch.uint64, (self.n_blocks,)
        if self.matrix.has_statistics:
            parts["means"] = torch.float64, (2, self.matrix.width)
        if self.matrix.has_documents:
            parts["documents"] = torch.int64, (self.n_runs, 2)
        return parts

    @property
    def tail_start(self):
        return HEADER_BYTES + self.data_bytes

    @property
    def hash_start(self):
        """Where the hashes of the blocks begin."""
        return self.tail_start + -self.data_bytes % 8

    @property
    def n_bytes(self):
        """The size of the file."""
        sizes = (dtype.itemsize * math.prod(shape) for dtype, shape in self.tail.values())
        return self.tail_start + sum(sizes)

    def header(self):
        """The first `HEADER_BYTES` of the file; they follow from what is known of the shard."""
        said = {"skdict": self.matrix.title, "shard": str(self.number)}
        said["block_rows"] = str(self.matrix.block_rows)
        header = {"__metadata__": said}
        rows = (self.matrix.dtype, (self.rows, self.matrix.width))
        start = 0
        for name, (dtype, shape) in {self.matrix.name: rows, **self.tail}.items():
            stop = start + dtype.itemsize * math.prod(shape)
            header[name] = {
                "dtype": CODES[dtype],
                "shape": list(shape),
                "data_offsets": [start, stop],
            }
            start = stop
        text = json.dumps(header, separators=(",", ":")).encode()
        return struct.pack("<Q", HEADER_BYTES - 8) + text.ljust(HEADER_BYTES - 8)
