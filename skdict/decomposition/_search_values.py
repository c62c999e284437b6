"""What a cross-validated search chooses: the parameter that sets the sparsity, and its values."""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from .._core.models.architectures import SparsityGrid, make_architecture
from .._core.solvers import SOLVERS
from ..utils._arrays import as_vector
from ..utils._warnings import warn
from ._alpha import alpha_grid
from ._fitting import default_params, n_components_for

# Values of alpha that a search begins with, and how many any search may add.
N_ALPHAS = 8
MOST_ADDED = 6
# Fewer values have no inside, so that no warning tells of an edge.
N_WITH_INSIDE = 3
# Codes with fewer non-zero entries are empty: sparser ones would be the same.
EMPTY_L0 = 0.01


@dataclass
class SearchedValues:
    """Values of one parameter, from the densest codes to the sparsest.

    Parameters
    ----------
    name : str
        "alpha", "n_nonzero_coefs", or "architecture__" and the name of a hyper-parameter.
    grid : SparsityGrid
    is_open : bool
        Whether values may be added.
    architecture : Architecture or None
        That whose hyper-parameter it is.
    limit : float or int
        The value that nothing is denser than, whether a search goes as far or not.
    """

    name: str
    grid: SparsityGrid
    is_open: bool = False
    architecture: object = None
    limit: float = 0.0

    def __post_init__(self):
        self.tried = list(self.grid.values)

    def params(self, value):
        """What to set in a dictionary that is to be fitted with a value."""
        if self.architecture is None:
            return {self.name: value}
        changed = {self.name.removeprefix("architecture__"): value}
        return {"architecture": make_architecture(self.architecture).set_params(**changed)}

    def add_beyond(self, best, *, is_empty):
        """Add a value next to the best one, if that is at an edge.

        Parameters
        ----------
        best : int
            Place of the best value.
        is_empty : bool
            Whether the sparsest codes are empty.

        Returns
        -------
        sparser : bool or None
            At which end a value has been added; None where there is no need, or no way.
        """
        if not self.is_open or len(self.tried) >= len(self.grid.values) + MOST_ADDED:
            return None
        last = len(self.tried) - 1
        for sparser in (True, False):
            at_edge = best == last and not is_empty if sparser else best == 0
            value = self.grid.beyond(self.tried[last if sparser else 0], sparser=sparser)
            if at_edge and value is not None:
                self.tried.insert(last + 1 if sparser else 0, value)
                return sparser
        return None

    def warn_of_edge(self, best, *, is_empty):
        """Say if the best value is at an edge, and what can be done about it."""
        last, value = len(self.tried) - 1, self.tried[best]
        if len(self.tried) < N_WITH_INSIDE or 0 < best < last:
            return
        if best == last and self.grid.beyond(value, sparser=True) is None:
            return  # a single entry, say, is no edge of the search
        if best == 0 and value == self.limit:
            return
        given = "alphas" if self.name == "alpha" else self.name
        further = f"give {given} that reach further"
        if not self.is_open:
            further += f", or leave {given} at its default"
        if best == 0:
            which, remedy = "densest", f"{further[0].upper()}{further[1:]}."
        else:
            which, remedy = (
                "empty" if is_empty else "sparsest",
                "Too few passes and too few samples for each atom have this effect: raise "
                "max_iter, lower n_components, or take more samples"
                f"{'' if is_empty else f'; else {further}'}.",
            )
        extreme = "smallest" if value == min(self.tried) else "largest"
        meaning = "the optimum may lie beyond"
        if which == "empty":
            meaning = "nothing that was learned has a better score than no codes at all"
        warn(
            f"{self.name}={as_text(value)} has the best score, but is the {extreme} of the "
            f"{len(self.tried)} values tried, that of the {which} codes: {meaning}. {remedy}"
        )


def as_text(value):
    """A value for people: whole numbers in full."""
    if isinstance(value, Integral):
        return str(value)
    return f"{value:.3g}" if isinstance(value, Real) else repr(value)


def searched_values(search, params, source):
    """The parameter that a search chooses, and its values.

    Parameters
    ----------
    search : SparseAutoencoderDictionaryCV
    params : SimpleNamespace
        Those of the dictionary.
    source : Source
        The samples.

    Returns
    -------
    values : SearchedValues
    """
    names, architecture = _names_of_sparsity(params)
    shape = n_components_for(params, source.shape), source.n_features
    if _is_grid(search.n_nonzero_coefs) and "n_nonzero_coefs" in SOLVERS[search.solver].used_by(
        params
    ):
        _warn_of_alphas(search, architecture, "n_nonzero_coefs")
        return _given_counts(search.n_nonzero_coefs, shape)
    name = _open_name(search, names, architecture)
    if name == "alpha":
        _check_use_of_alpha(search)
        return _alphas(search.alphas, source)
    _warn_of_alphas(search, architecture, name)
    grid = architecture.sparsity_grid(name, shape[1], shape[0])
    if name == "k":
        return SearchedValues("n_nonzero_coefs", grid, is_open=True, limit=shape[0])
    return SearchedValues(f"architecture__{name}", grid, True, architecture)


def as_count_or_none(n_nonzero_coefs):
    """A number of non-zero entries that holds for the whole search; None for values to try."""
    return None if _is_grid(n_nonzero_coefs) else n_nonzero_coefs


def _is_grid(n_nonzero_coefs):
    return n_nonzero_coefs is not None and not isinstance(n_nonzero_coefs, Integral)


def _names_of_sparsity(params):
    """What can set the sparsity, and the architecture, if there is one."""
    if "architecture" not in SOLVERS[params.solver].used_by(params):
        return ("alpha",), None
    architecture = make_architecture(params.architecture, params.n_nonzero_coefs)
    return architecture.sparsity, architecture


def _open_name(search, names, architecture):
    """The first of these that nothing has fixed."""
    for name in names:
        if name == "alpha":
            break
        value = getattr(architecture, name)
        if value != default_params(type(architecture))[name]:
            remedy = "leave it at its default"
            if name == "k":
                name, remedy = "n_nonzero_coefs", "leave it out, or give values to try"
            warn(
                f"{name}={value!r} is fixed, so that alpha is chosen, which does not make the "
                f"codes of architecture={search.architecture!r} sparse. To have {name} chosen, "
                f"{remedy}."
            )
            break
        if _is_auto(search.alphas) or "alpha" not in names:
            return name
    return "alpha"


def _is_auto(alphas):
    return isinstance(alphas, str) and alphas == "auto"


def _warn_of_alphas(search, architecture, name):
    if not _is_auto(search.alphas):
        name = "n_nonzero_coefs" if name == "k" else name
        user = "solver" if architecture is None else "architecture"
        warn(
            f"{user}={getattr(search, user)!r} does not use alphas: {name} is chosen. Leave out "
            "what has no effect."
        )


def _check_use_of_alpha(search):
    is_penalised = SOLVERS[search.solver].is_penalised
    if not is_penalised and search.transform_algorithm in ("auto", "encoder"):
        raise ValueError(
            f"The codes of solver={search.solver!r} do not depend on alpha: there is nothing to "
            "choose. Give numbers of codebooks to try, as n_nonzero_coefs=[1, 2, 4], use "
            "transform_algorithm='lasso', or another solver."
        )


def _alphas(given, source):
    """Values of alpha: a number of them, all of them, or "auto"."""
    is_auto = _is_auto(given)
    if is_auto or isinstance(given, Integral):
        n_alphas = N_ALPHAS if is_auto else given
        values = alpha_grid(source.X, n_alphas)
    else:
        values = np.unique(as_vector(given, "alphas"))
        if len(values) == 0 or values[0] < 0 or not np.isfinite(values).all():
            raise ValueError(
                f"alphas={given!r}: expected numbers >= 0, or how many to try of "
                "alpha_grid(X), or 'auto'."
            )
    values = values.tolist()
    factor = 64 ** (1 / (N_ALPHAS - 1))
    return SearchedValues("alpha", SparsityGrid(values, factor, 0.0, np.inf), is_auto)


def _given_counts(given, shape):
    """Numbers of non-zero entries, all of them given."""
    values = np.unique(as_vector(given, "n_nonzero_coefs"))
    n_components = shape[0]
    if len(values) == 0 or (values != values.round()).any() or not values[0] >= 1:
        raise ValueError(
            f"n_nonzero_coefs={given!r}: expected whole numbers of at least 1 to try, one for "
            "all, or None."
        )
    if values[-1] > n_components:
        raise ValueError(
            f"n_nonzero_coefs={given!r} are to be tried, but {values[-1]:.0f} is larger than the "
            f"number of components, {n_components}. Use fewer, or raise n_components."
        )
    values = [int(value) for value in values[::-1]]
    grid = SparsityGrid(values, 0.5**0.5, n_components, 1)
    return SearchedValues("n_nonzero_coefs", grid, limit=n_components)
