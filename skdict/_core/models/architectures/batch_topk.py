"""The largest of a batch."""

import torch

from ...distributed.cut import largest_cut
from ...distributed.strategy import min_over_processes, totals
from ...parameters import is_number
from .base import Architecture, threshold_of
from .registry import register
from .relu import ReLU


@register("batch_topk")
class BatchTopK(Architecture):
    """The k B largest pre-activations of a batch of B samples (Bussmann et al. 2024).

    z = p where p > 0 is among the k B largest of the batch, else 0; no penalty. In use a single
    sample has no batch: its entries are active above a threshold, a running mean of the smallest
    codes that the batches of training kept.

    The first half of a fit from scratch trains a `ReLU` with ``alpha``, as `TopK` does.

    Parameters
    ----------
    k : int, default=None
        Mean number of non-zero entries of a code. None takes the estimator's
        ``n_nonzero_coefs``, or else a tenth of the columns of X.
    rate : float, default=0.1
        Weight of the newest batch in the running mean of the threshold: the mean is over about
        the last 1 / ``rate`` batches.
    margin : float, default=0.9
        In training, pre-activations above this fraction of the threshold are looked at: a few
        more than are kept. A batch with too few of them is searched once more, from zero. It
        changes the time a step takes, and hardly ever its result.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.decomposition.architectures import BatchTopK
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> architecture = BatchTopK(k=3, rate=0.05)
    >>> sae = SparseAutoencoderDictionary(16, architecture=architecture, random_state=0)
    >>> sae.fit(X).transform(X).shape
    (1000, 16)
    """

    running_stats = measured_stats = ("threshold",)
    first_variant_until = 0.5
    distributed = True

    def __init__(self, k=None, *, rate=0.1, margin=0.9):
        self.k = k
        self.rate = rate
        self.margin = margin

    def validate(self):
        self._require_k()
        for name in ("rate", "margin"):
            value = getattr(self, name)
            is_met = is_number(value) and 0 < value <= 1
            self.require(name, is_met, "a float above 0 and at most 1")

    def first_variant(self):
        return ReLU()

    def initial_state(self, zeros):
        return {"threshold": zeros.clone()}

    def select(self, scan, state, n_rows):
        support = scan(offset=self.margin * state["threshold"])
        n_found, n_rows = totals(len(support.indices), n_rows, support.indices.device)
        if n_found < self.k * n_rows:
            support = scan()
        return support

    def values(self, pre_activations, state, n_rows):
        values = torch.relu(pre_activations)
        cut = largest_cut(values.detach(), self.k * n_rows)
        return values if cut is None else torch.where(values > cut, values, 0)

    def update_running_stats(self, values, state, n_rows):
        threshold = state["threshold"]
        smallest = torch.where(values > 0, values, torch.inf)
        smallest = smallest.min() if values.numel() else values.new_tensor(torch.inf)
        smallest = min_over_processes(smallest)
        rate = torch.ones_like(threshold, dtype=torch.float32)  # the first batch counts alone
        rate.masked_fill_(threshold > 0, self.rate)
        change = rate * (smallest - threshold)
        threshold += torch.where(smallest < torch.inf, change, 0)  # without waiting for a GPU

    def in_units(self, state, factor):
        return {"threshold": factor * state["threshold"]}

    def calibrated(self, state, pre_activations):
        threshold = threshold_of(pre_activations, self.k)
        return {"threshold": torch.full_like(state["threshold"], threshold)}

    def fold(self, weight, bias, state):
        return weight, bias, state["threshold"]

    def unfold(self, bias, threshold):
        return bias, {"threshold": torch.zeros_like(bias) if threshold is None else threshold}
