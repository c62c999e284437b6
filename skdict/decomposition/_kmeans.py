"""The solver "kmeans": every sample is coded by the nearest codeword of each codebook."""

import numpy as np
from sklearn.cluster import KMeans

from .._core.coding import Codebook
from .._core.data.in_memory import all_in_memory
from .._core.dictionary import Dictionary
from .._core.solvers.base import Solver, register
from .._core.tensors import from_numpy


@register("kmeans")
class KMeansSolver(Solver):
    """Codebooks of scikit-learn's k-means, each for what those before it leave over.

    One of them is vector quantisation, several are residual quantisation (Juang and Gray,
    "Multiple stage vector quantization for speech coding", ICASSP 1982): a sample is the sum of
    one codeword of each. As a dictionary, the atom of a codeword is its direction and its code is
    its norm, or zero.

    Parameters
    ----------
    sizes : list of int
        Number of codewords of each.
    mean : tensor of shape (n_features,)
        Subtracted from the data; becomes the intercept.
    scale : float
        Brings the data to E‖x‖² = n_features, so that no square overflows.
    max_iter : int
        Passes over the data, at most, for each codebook.
    random_state : RandomState
    verbose : int, default=0
        That of scikit-learn's.
    """

    has_encoder = True
    is_penalised = False
    uses = frozenset({"n_nonzero_coefs", "max_iter"})

    def __init__(self, sizes, mean, scale, *, max_iter, random_state, verbose=0):
        self.sizes = sizes
        self.mean = mean
        self.scale = scale
        self.max_iter = max_iter
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def start(cls, problem):
        params = problem.params
        sizes = codebook_sizes(problem.n_components, params.n_nonzero_coefs or 1)
        if sizes[0] > len(problem.data):
            raise ValueError(
                f"n_components={problem.n_components} in {len(sizes)} codebooks are {sizes[0]} "
                f"codewords of the first, but X has only {len(problem.data)} samples. Use fewer "
                "components or more samples."
            )
        return cls(
            sizes,
            problem.data.mean,
            problem.data.scale,
            max_iter=params.max_iter,
            random_state=problem.random_state,
            verbose=params.verbose,
        )

    def fit(self, rows, progress):
        standardised = self.standardised(rows)
        residual = all_in_memory(
            rows,
            lambda x: standardised.standardise(x).cpu(),
            str(rows.dtype).removeprefix("torch."),
            n_arrays=2,  # scikit-learn's own copy
            user="solver='kmeans'",
            instead="use solver='autoencoder' or 'alternating', which read X batch by batch",
        )
        codewords, n_iter = [], []
        for size in self.sizes:
            # of a thousand codewords k-means++ takes longer than all the passes from samples
            # drawn at random, and ends no better
            kmeans = KMeans(
                size,
                init="random",
                n_init=1,
                max_iter=self.max_iter,
                random_state=self.random_state,
                verbose=self.verbose,
            ).fit(residual)
            residual -= kmeans.cluster_centers_[kmeans.labels_]
            codewords.append(kmeans.cluster_centers_)
            n_iter.append(kmeans.n_iter_)
        self.codewords = np.concatenate(codewords)
        return {"n_iter_": sum(n_iter), "n_steps_": sum(n_iter)}

    def finish(self, rows):
        norms = np.linalg.norm(self.codewords, axis=1)
        atoms = from_numpy(self.codewords / np.where(norms > 0, norms, 1)[:, None])
        codebook = Codebook(atoms, from_numpy(self.scale * norms), self.sizes)
        return Dictionary(atoms, self.mean.cpu(), encoder=codebook).copy()


def codebook_sizes(n_components, n_books):
    """Numbers of codewords, as equal as can be, of so many codebooks."""
    if n_books > n_components:
        raise ValueError(
            f"n_nonzero_coefs={n_books} codebooks asked for, but n_components={n_components}, "
            "which is less than a codeword for each. Use fewer, or raise n_components."
        )
    return [len(part) for part in np.array_split(np.arange(n_components), n_books)]
