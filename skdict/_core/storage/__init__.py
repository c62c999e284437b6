"""Activations on disk: shards of rows that are checked when they are read, and views of them.

A store is a folder, on this machine or where fsspec finds it::

    store.json                              what all shards have in common, written once
    layers/<layer>/00000042.safetensors     rows of a layer, hashes of their blocks, statistics
    tokens/00000042.safetensors             what token each of these rows belongs to
    commits/00000042.json                   written last: a shard exists if its commit does
    index.json                              all commits in one file, where somebody has written it

A shard is written under a temporary name, flushed to disk and renamed, and so is its commit
afterwards. So a writer may be killed at any moment, and any number of writers work side by side,
each with shard numbers of its own.
"""

from .documents import Documents
from .view import StoreView
from .writer import StoreWriter

__all__ = ["Documents", "StoreView", "StoreWriter"]
