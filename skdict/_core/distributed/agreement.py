"""Whether several processes are about to train the same."""

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Failure:
    """What one of several processes gives the others instead of what they wait for.

    Parameters
    ----------
    text : str
        Of its error.
    """

    text: str

    @classmethod
    def of(cls, error):
        return cls(f"{type(error).__name__}: {error}")


def raise_failure(of_all):
    """Raise if one of what processes have given is a `Failure`.

    Raises
    ------
    RuntimeError
        Names the process and its error.
    """
    for rank, found in enumerate(of_all):
        if isinstance(found, Failure):
            raise RuntimeError(f"In process {rank}: {found.text}")


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
    RuntimeError
        If a process has failed before, and given a `Failure`.
    """
    of_all = ranks.objects(facts)
    raise_failure(of_all)
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
