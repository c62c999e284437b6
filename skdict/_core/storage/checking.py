"""Look for damage in all files of a store."""

from .shards import ShardReader


def damages(store):
    """Yield what is damaged in the files of a store, all of which are read.

    Parameters
    ----------
    store : OpenStore

    Yields
    ------
    damage : dict
        "file", "block" (-1 for the file as a whole), "first_row" and "last_row" in the store, and
        "problem".
    """
    layers = [*store.settings.layers, *([None] if store.settings.tokens else [])]
    for layer in layers:
        reader = store.reader(layer)
        for position, commit in enumerate(store.commits):
            first = int(reader.starts[position])
            layout = commit.layout(reader.matrix)
            whole = {"file": layout.name, "block": -1, "first_row": first}
            whole["last_row"] = first + commit.rows - 1
            try:
                tail_xxh3 = commit.tail_xxh3(layer)
                shard = ShardReader(store.folder, layout, tail_xxh3, first, verify=False)
            except ValueError as error:
                yield whole | {"problem": str(error)}
                continue
            for check in (shard.check_header, shard.tail):
                try:
                    check()
                except ValueError as error:
                    yield whole | {"problem": str(error)}
            for block in shard.damaged_blocks():
                start = first + block * reader.matrix.block_rows
                last = min(start + reader.matrix.block_rows, first + commit.rows) - 1
                rows = {"block": block, "first_row": start, "last_row": last}
                yield whole | rows | {"problem": shard.damage(block)}
