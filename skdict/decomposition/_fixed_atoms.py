"""The solver "lasso": atoms that are given, and only coded with."""

from .._core.dictionary import Dictionary
from .._core.solvers.base import Solver, register


@register("lasso")
class FixedAtoms(Solver):
    """Atoms that are not learned.

    Parameters
    ----------
    atoms : tensor of shape (n_components, n_features)
        Unit rows.
    mean : tensor of shape (n_features,)
        Becomes the intercept.
    """

    default_atoms = "exemplars"
    uses = frozenset({"warm_start", "dict_init"})

    def __init__(self, atoms, mean):
        self.atoms = atoms
        self.mean = mean

    @classmethod
    def used_by(cls, params):
        is_nmf = isinstance(params.dict_init, str) and params.dict_init == "nmf"
        return cls.uses | ({"max_iter"} if is_nmf else set())

    @classmethod
    def start(cls, problem):
        return cls(problem.atoms.to(problem.data.mean), problem.data.mean)

    def fit(self, rows, progress):
        return {"n_iter_": 1, "n_steps_": 0}

    def finish(self, rows):
        return Dictionary(self.atoms, self.mean).copy()
