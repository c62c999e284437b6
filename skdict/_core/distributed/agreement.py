"""Whether several processes are about to train the same."""

import hashlib

import torch


def check_agreement(ranks, facts):
    """Raise in all processes unless the facts are the same in all.

    Parameters
    ----------
    ranks : Ranks
    facts : dict of str to object
        By what they are called in an error; small, and such that they compare.

    Raises
    ------
    ValueError
        If one differs; names the first, and what it is in two processes.
    """
    of_all = ranks.objects(facts)
    for name, value in of_all[0].items():
        for rank, other in enumerate(of_all):
            if other.get(name) != value:
                raise ValueError(
                    f"The {len(of_all)} processes of the group do not train the same dictionary: "
                    f"{name} is {value} in process 0, but {other.get(name)} in process {rank}. "
                    "Give all of them the same estimator and the same X, of which each reads its "
                    "share."
                )


def digest(state):
    """A short name for the numbers in nested containers, to the last bit."""
    found = hashlib.blake2b(digest_size=8)
    for part in _leaves(state):
        found.update(part)
    return found.hexdigest()


def _leaves(state):
    if isinstance(state, dict):
        state = state.values()
    elif isinstance(state, torch.Tensor):
        yield state.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return
    elif not isinstance(state, (list, tuple)):
        yield repr(state).encode() if not hasattr(state, "tobytes") else state.tobytes()
        return
    for part in state:
        yield from _leaves(part)
