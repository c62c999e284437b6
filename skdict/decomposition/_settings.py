"""What tells the estimators of a list apart, in words."""

import numpy as np

# Longest value of a parameter that is shown.
N_CHARACTERS = 40


def settings(estimators):
    """For each estimator the class and the parameters in which they differ, as one line.

    Where these do not tell all of them apart, each is given its place in the list as well.

    Parameters
    ----------
    estimators : list of estimator

    Returns
    -------
    settings : list of str
        Empty for an estimator alone.
    """
    params = [getattr(estimator, "get_params", dict)() for estimator in estimators]
    shared = [name for name in params[0] if all(name in each for each in params)]
    shown = {name: [_shown(each[name]) for each in params] for name in shared}
    differing = [name for name, values in shown.items() if len(set(values)) > 1]
    # of a nested estimator its parameters are named, if it is these that differ
    names = [n for n in differing if not any(other.startswith(f"{n}__") for other in differing)]
    columns = [[f"{name}={value}" for value in shown[name]] for name in names]
    kinds = [type(estimator).__name__ for estimator in estimators]
    if len(set(kinds)) > 1:
        columns.insert(0, kinds)
    found = [", ".join(column[i] for column in columns) for i in range(len(estimators))]
    if len(set(found)) < len(found):
        found = [f"{setting} [{i}]".strip() for i, setting in enumerate(found)]
    return found


def _shown(value):
    """A parameter's value in one short line."""
    text = f"{value:.4g}" if isinstance(value, float | np.floating) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= N_CHARACTERS else f"{text[: N_CHARACTERS - 3]}..."
