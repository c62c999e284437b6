"""A small store of two layers, and what is in it."""

import numpy as np
import torch

from skdict._core.storage.opening import OpenStore
from skdict._core.storage.view import StoreView
from skdict._core.storage.writer import StoreWriter, settings_of

N_ROWS, SHARD_ROWS, BLOCK_ROWS = 1000, 300, 32
LAYERS = {"mlp": 24, "blocks.0/out": 6}


def rows_of(dtype="float16", n_rows=N_ROWS):
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, dtype)
    return {
        name: (torch.randn(n_rows, width, generator=generator) + 2).to(dtype)
        for name, width in LAYERS.items()
    }


def tokens_of(n_rows=N_ROWS):
    row = np.arange(n_rows)
    return {"position": row % 70, "document": row // 70}


def settings(dtype="float16", *, n_writers=1, identity=None, **changed):
    params = {"dtype": dtype, "tokens": ("position", "document"), "shard_rows": SHARD_ROWS}
    params |= {"block_rows": BLOCK_ROWS, "n_writers": n_writers, "identity": identity}
    return settings_of(LAYERS, **params | changed)


def append_all(writer, step=70, stop_at=None, dtype="float16", only=lambda batch: True):
    """Append the rows batch by batch from where the writer is; the cursor is a row."""
    rows, tokens = rows_of(dtype), tokens_of()
    for first in range(writer.cursor or 0, N_ROWS, step):
        if stop_at is not None and first >= stop_at:
            raise KeyboardInterrupt
        if only(first // step):
            part = slice(first, first + step)
            writer.append(
                {name: x[part] for name, x in rows.items()},
                {name: x[part] for name, x in tokens.items()},
                cursor=min(first + step, N_ROWS),
            )


def write(path, dtype="float16", **params):
    with StoreWriter(path, settings(dtype)) as writer:
        append_all(writer, dtype=dtype, **params)
    return path


def view_of(path, layer="mlp", **params):
    return StoreView(OpenStore(path, **params), layer, buffer_bytes=1 << 20)


def content(path):
    """{name: bytes} of all files of a store but locks."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and not file.name.endswith(".lock")
    }
