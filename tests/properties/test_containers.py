"""Arrays in all the things that hold arrays, in all functions that take some."""

from collections import Counter

import pytest
from array_kinds import BAD, DENSE, EITHER, SPARSE
from calls import CALLS
from outcomes import check_all, outcome_of, verdict_on


def references_of(call):
    """The results with plain ndarrays, by precision."""
    results = {}
    for dtype in ("int64", "int64") if call.integers else ("float64", "float32"):
        result, error = outcome_of(call.function, call.clean.astype(dtype))
        assert error is None, error
        results[dtype] = result
    return results


def try_kind(call, kind, references):
    """The verdict on one function and one kind of container; None if there is no such thing."""
    if call.clean.ndim == 1 and (kind in SPARSE or kind.startswith(("csr", "coo", "jagged"))):
        return None
    if kind in call.takes:
        return None
    if kind in BAD:
        given, error = outcome_of(BAD[kind], call.clean)
        return None if error else verdict_on(call.function, given, call.name)
    precision, make = (DENSE | SPARSE | EITHER)[kind]
    given, error = outcome_of(make, call.clean)
    if error:
        return None
    if call.integers or precision == "any":
        wanted = list(references.values())
    else:
        wanted = [references[precision]]
    verdict, why = verdict_on(call.function, given, call.name, wanted)
    must_work = kind in DENSE or (kind in SPARSE and call.sparse)
    if verdict == "refused" and must_work and not call.integers:
        verdict = "wrong"
    return verdict, why


KINDS = [*DENSE, *SPARSE, *EITHER, *BAD]


def verdicts(name, kinds):
    """Counts of the verdicts on a function, and its faults in words."""
    counts, faults = Counter(), []
    references = references_of(CALLS[name])
    for kind in kinds:
        found = try_kind(CALLS[name], kind, references)
        if found is not None:
            counts[found[0]] += 1
            if found[0] in ("unclear", "wrong"):
                faults.append(f"{name} of {kind}: {found[0]}: {found[1]}")
    return counts, faults


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_some_containers(name):
    # each function meets other ones
    first = list(CALLS).index(name) % 12
    counts, faults = verdicts(name, KINDS[first::12])
    assert not faults, "\n".join(faults)
    assert counts


@pytest.mark.enumeration
def test_all_containers(capsys):
    what = f"{len(CALLS)} functions x {len(KINDS)} containers"
    check_all((verdicts(name, KINDS) for name in CALLS), what, capsys)
