"""The variants of the sparse autoencoder: the one file that a new variant touches.

A variant is a class with a docstring that states its equation, registered in `ARCHITECTURES`. It
says which pre-activations p = (x - b) W_encᵀ + b_enc are active, what value they take, and what
the objective charges for them; everything else is shared. Its methods see pre-activations as a
flat tensor of the entries at the support or as a dense matrix, whichever is faster at the moment.
It has no state: what is learned besides the encoder stands in the dictionary ``extra``, by name,
a tensor of shape (n_components,) each.

A trained variant is folded into an encoder and a threshold for each component, and codes are
then z = p where p > threshold, else 0 (or, `TopK`, the largest of these).
"""

import math

import torch

from ...kernels import decode, half_squared_error, reconstruction_error


class Architecture:
    """What the variants share: codes max(0, p) at the support, and no penalty."""

    # the estimator's parameters that the constructor takes, and those that may be None
    parameters = ()
    optional = ()
    # names in ``extra`` of what is not learned by gradients, but by `observe`
    observed = ()

    def during(self, progress):
        """The variant that is trained when a fraction ``progress`` of the steps is done."""
        return self

    def initial(self, zeros):
        """``extra`` at the start of training, given zeros of shape (n_components,)."""
        return {}

    def select(self, scan, extra, n_rows):
        """Support: from scan(offset=0.0, k=None), where p > offset, or the k largest of these."""
        return scan()

    def values(self, pre_activations, extra, n_rows):
        """The code, differentiable; ``extra`` is broadcast against the pre-activations."""
        return torch.relu(pre_activations)

    def penalty(self, pre_activations, values, extra, alpha):
        """What the objective adds to the squared error: a scalar."""
        return 0.0

    def error(self, autoencoder, centred, values, support):
        """Squared reconstruction error, halved and summed, and residual."""
        return reconstruction_error(
            values, support, autoencoder.dictionary, centred, autoencoder.intercept
        )

    def objective(self, autoencoder, centred, alpha, support):
        """As `Autoencoder.objective`, on x - b."""
        pre_activations = autoencoder.pre_activations(centred, support)
        extra = autoencoder.extra_at(support)
        values = self.values(pre_activations, extra, len(centred))
        error, residual = self.error(autoencoder, centred, values, support)
        objective = error + self.penalty(pre_activations, values, extra, alpha)
        return objective, values.detach(), residual

    def observe(self, values, extra, n_rows):
        """Take note of the positive codes (nnz,) of a training step, if `observed` names any."""

    def rescale(self, extra, rows, factor):
        """Let ``extra`` follow pre-activations of some components that grew by a factor (m,)."""

    def fold(self, weight, bias, extra):
        """Encoder and threshold for use: weight, bias, threshold (n_components,) or None."""
        return weight, bias, None

    def unfold(self, bias, threshold):
        """Encoder bias and ``extra`` to go on training from another variant's folded encoder."""
        return bias, self.initial(torch.zeros_like(bias))

    def undo_fold(self, weight, bias, extra):
        """Encoder weight and bias that `fold` gave these, with the same ``extra``."""
        return weight, bias

    def in_units(self, extra, factor):
        """``extra`` as it is with all pre-activations multiplied by a factor."""
        return extra

    def calibrated(self, extra, pre_activations):
        """``extra`` for use after a training that ended before it was this variant.

        Parameters
        ----------
        pre_activations : tensor of shape (B, n_components)
            Of samples that are like the others.
        """
        return extra

    def codes(self, pre_activations, threshold):
        """Codes (B, n_components) of dense pre-activations, when training is over."""
        if threshold is None:
            return torch.relu(pre_activations)
        return torch.where(pre_activations > threshold, pre_activations, 0)


class ReLU(Architecture):
    """ReLU code under an L1 penalty ("Towards Monosemanticity", Bricken et al. 2023).

    z = max(0, p), penalty α Σ_j z_j.
    """

    def penalty(self, pre_activations, values, extra, alpha):
        return alpha * values.sum()


class TopK(Architecture):
    """The k largest pre-activations of each sample (Makhzani and Frey 2013; Gao et al. 2024).

    z = max(0, TopK(p)), no penalty.

    For the first half of its training it is a `ReLU` under the L1 penalty, where every feature
    that fires gets a gradient: one that is never among the k largest gets none, and dies.

    Parameters
    ----------
    n_nonzero_coefs : int
        k.
    """

    parameters = ("n_nonzero_coefs",)

    def __init__(self, n_nonzero_coefs):
        self.n_nonzero_coefs = n_nonzero_coefs

    def during(self, progress):
        return self if progress > 0.5 else ReLU()

    def select(self, scan, extra, n_rows):
        return scan(k=self.n_nonzero_coefs)

    def values(self, pre_activations, extra, n_rows):
        if pre_activations.dim() == 2:  # dense; a support holds none but the largest
            return self.codes(pre_activations, None)
        return torch.relu(pre_activations)

    def codes(self, pre_activations, threshold):
        largest = pre_activations.detach().topk(self.n_nonzero_coefs, dim=1, sorted=False).indices
        mask = torch.zeros_like(pre_activations, dtype=torch.bool).scatter_(1, largest, True)
        return torch.where(mask, torch.relu(pre_activations), 0)


class BatchTopK(Architecture):
    """The k B largest pre-activations of a batch of B samples (Bussmann et al. 2024).

    z = p where p > 0 is among the k B largest of the batch, else 0; no penalty. The smallest code
    of a batch, averaged over about the last ten, is the threshold for single samples.

    Begins as a `ReLU`, as `TopK` does.

    Parameters
    ----------
    n_nonzero_coefs : int
        k, the mean number of non-zero entries.
    """

    parameters = ("n_nonzero_coefs",)
    observed = ("threshold",)
    # Rate of the moving average of the threshold.
    RATE = 0.1
    # The scan looks for pre-activations above this fraction of the threshold, which are a few
    # more than those that will be kept.
    MARGIN = 0.9

    def __init__(self, n_nonzero_coefs):
        self.n_nonzero_coefs = n_nonzero_coefs

    def during(self, progress):
        return self if progress > 0.5 else ReLU()

    def initial(self, zeros):
        return {"threshold": zeros.clone()}

    def select(self, scan, extra, n_rows):
        support = scan(offset=self.MARGIN * extra["threshold"])
        if len(support.indices) < self.n_nonzero_coefs * n_rows:
            support = scan()
        return support

    def values(self, pre_activations, extra, n_rows):
        values = torch.relu(pre_activations)
        n_cut = values.numel() - self.n_nonzero_coefs * n_rows
        if n_cut <= 0:
            return values
        largest_cut = values.detach().flatten().kthvalue(n_cut).values
        return torch.where(values > largest_cut, values, 0)

    def observe(self, values, extra, n_rows):
        threshold = extra["threshold"]
        if len(values) > 0:
            rate = torch.ones_like(threshold, dtype=torch.float32)
            rate[threshold > 0] = self.RATE
            threshold += rate * (values.min() - threshold)

    def fold(self, weight, bias, extra):
        return weight, bias, extra["threshold"]

    def in_units(self, extra, factor):
        return {"threshold": factor * extra["threshold"]}

    def calibrated(self, extra, pre_activations):
        cut = threshold_of(pre_activations, self.n_nonzero_coefs)
        return {"threshold": torch.full_like(extra["threshold"], cut)}

    def unfold(self, bias, threshold):
        return bias, {"threshold": torch.zeros_like(bias) if threshold is None else threshold}


def threshold_of(pre_activations, k):
    """What the k B largest positive pre-activations of B samples, and no others, exceed."""
    values = torch.relu(pre_activations).flatten()
    n_cut = len(values) - k * len(pre_activations)
    return float(values.kthvalue(n_cut).values) if n_cut > 0 else 0.0


class Matryoshka(BatchTopK):
    """Nested dictionaries over `BatchTopK` (Bussmann et al. 2025).

    The squared error is the mean over prefixes of the dictionary, the first 1/16, 1/4 and all of
    its atoms, each of which has to reconstruct x by itself.
    """

    PREFIXES = (1 / 16, 1 / 4, 1.0)

    def during(self, progress):
        return self if progress > 0.5 else NestedReLU()

    def error(self, autoencoder, centred, values, support):
        return nested_error(autoencoder, centred, values, support, self.PREFIXES)


class NestedReLU(ReLU):
    """How `Matryoshka` begins."""

    def error(self, autoencoder, centred, values, support):
        return nested_error(autoencoder, centred, values, support, Matryoshka.PREFIXES)


def nested_error(autoencoder, centred, values, support, prefixes):
    """Mean over prefixes of the dictionary of the halved squared error; residual of the whole."""
    dictionary = autoencoder.dictionary
    ends = [max(1, round(prefix * len(dictionary))) for prefix in prefixes]
    if support is None:
        starts = [0, *ends[:-1]]
        decoded = torch.stack(
            [
                values[:, start:end] @ dictionary[start:end]
                for start, end in zip(starts, ends, strict=True)
            ],
            dim=1,
        )
    else:
        groups = support.in_groups(ends)
        decoded = decode(values, groups, dictionary).view(len(centred), len(ends), -1)
    error, residuals = half_squared_error(
        centred[:, None], autoencoder.intercept, decoded.cumsum(dim=1)
    )
    return error / len(ends), residuals[:, -1]


class JumpReLU(Architecture):
    """A learned threshold for each feature, under an L0 penalty (Rajamanoharan et al. 2024).

    z = p where p > θ_j, else 0; penalty (α²/2) ‖z‖₀. A feature with unit atom lowers the error by
    z²/2, so that the penalty asks, as the L1 penalty does, for a correlation of at least α with
    the residual. With a target k the penalty is multiplied by a price, and while there are more
    than k non-zeros on average the price and all thresholds rise, while there are fewer they fall.

    Thresholds get straight-through gradients from the pre-activations that are within half a
    bandwidth of them. Begins as a `ReLU` while alpha rises.

    Parameters
    ----------
    n_nonzero_coefs : int or None
        k.
    """

    parameters = ("n_nonzero_coefs",)
    optional = ("n_nonzero_coefs",)
    observed = ("log_price",)
    # Both in the units of training, where E‖x‖² is the number of features.
    BANDWIDTH = 0.5
    INITIAL_THRESHOLD = 0.5
    # Change of logarithms in a step, by the relative excess of non-zeros. Thresholds follow the
    # price so slowly, and not at all when the learning rate has decayed, that a price alone swings
    # about the target for the whole run.
    PRICE_RATE = 0.02
    THRESHOLD_RATE = 0.02
    # A target out of reach would drive them on and on.
    MAX_LOG = 10.0

    def __init__(self, n_nonzero_coefs=None):
        self.n_nonzero_coefs = n_nonzero_coefs

    def during(self, progress):
        return self if progress > 0.3 else ReLU()

    def initial(self, zeros):
        start = math.log(self.INITIAL_THRESHOLD)
        return {"log_threshold": zeros + start, "log_price": zeros.clone()}

    def select(self, scan, extra, n_rows):
        return scan(offset=extra["log_threshold"].exp() - self.BANDWIDTH / 2)

    def values(self, pre_activations, extra, n_rows):
        return _Jump.apply(pre_activations, extra["log_threshold"].exp(), self.BANDWIDTH)

    def penalty(self, pre_activations, values, extra, alpha):
        threshold = extra["log_threshold"].exp()
        steps = _Step.apply(pre_activations, threshold, self.BANDWIDTH)
        return 0.5 * alpha**2 * (extra["log_price"].exp() * steps).sum()

    def observe(self, values, extra, n_rows):
        if self.n_nonzero_coefs is not None:
            excess = min(len(values) / (n_rows * self.n_nonzero_coefs) - 1, 1.0)
            for name, rate in (
                ("log_price", self.PRICE_RATE),
                ("log_threshold", self.THRESHOLD_RATE),
            ):
                extra[name].add_(rate * excess).clamp_(-self.MAX_LOG, self.MAX_LOG)

    def rescale(self, extra, rows, factor):
        extra["log_threshold"][rows] += factor.log()

    def fold(self, weight, bias, extra):
        return weight, bias, extra["log_threshold"].exp()

    def in_units(self, extra, factor):
        return {**extra, "log_threshold": extra["log_threshold"] + math.log(factor)}

    def calibrated(self, extra, pre_activations):
        if self.n_nonzero_coefs is None:
            return extra
        cut = threshold_of(pre_activations, self.n_nonzero_coefs)
        cut = max(cut, torch.finfo(pre_activations.dtype).tiny)
        return {**extra, "log_threshold": torch.full_like(extra["log_threshold"], math.log(cut))}

    def unfold(self, bias, threshold):
        extra = self.initial(torch.zeros_like(bias))
        if threshold is not None:
            start = extra["log_threshold"]
            extra["log_threshold"] = torch.where(threshold > 0, threshold.log(), start)
        return bias, extra


class _Jump(torch.autograd.Function):
    """p where p > θ, else 0; ∂/∂θ = -(θ/ε) [|p - θ| < ε/2]."""

    @staticmethod
    def forward(ctx, pre_activations, threshold, bandwidth):
        ctx.save_for_backward(pre_activations, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre_activations > threshold, pre_activations, 0)

    @staticmethod
    def backward(ctx, grad):
        pre_activations, threshold = ctx.saved_tensors
        grad_threshold = _near(pre_activations, threshold, ctx.bandwidth) * grad * -threshold
        grad_pre_activations = torch.where(pre_activations > threshold, grad, 0)
        return grad_pre_activations, grad_threshold.sum_to_size(threshold.shape), None


class _Step(torch.autograd.Function):
    """1 where p > θ, else 0; ∂/∂θ = -(1/ε) [|p - θ| < ε/2], ∂/∂p = 0."""

    @staticmethod
    def forward(ctx, pre_activations, threshold, bandwidth):
        ctx.save_for_backward(pre_activations, threshold)
        ctx.bandwidth = bandwidth
        return (pre_activations > threshold).to(pre_activations.dtype)

    @staticmethod
    def backward(ctx, grad):
        pre_activations, threshold = ctx.saved_tensors
        grad_threshold = -_near(pre_activations, threshold, ctx.bandwidth) * grad
        return None, grad_threshold.sum_to_size(threshold.shape), None


def _near(pre_activations, threshold, bandwidth):
    """The rectangle of width ε and height 1/ε around the threshold."""
    return ((pre_activations - threshold).abs() < bandwidth / 2).to(threshold) / bandwidth


class Gated(Architecture):
    """Gate and magnitude apart (Rajamanoharan et al. 2024, "Improving Dictionary Learning ...").

    z = max(0, e^{r_j} p + c_j) where p > 0, else 0. The gate gets its gradient from α Σ_j max(0,
    p_j) and from the error of max(0, p) as a code with the dictionary held fixed.
    """

    def initial(self, zeros):
        return {"log_gain": zeros.clone(), "shift": zeros.clone()}

    def values(self, pre_activations, extra, n_rows):
        magnitude = torch.relu(pre_activations * extra["log_gain"].exp() + extra["shift"])
        return torch.where(pre_activations > 0, magnitude, 0)

    def objective(self, autoencoder, centred, alpha, support):
        pre_activations = autoencoder.pre_activations(centred, support)
        gate = torch.relu(pre_activations)
        extra = autoencoder.extra_at(support)
        values = self.values(pre_activations, extra, len(centred))
        error, residual = self.error(autoencoder, centred, values, support)
        dictionary, intercept = autoencoder.dictionary.detach(), autoencoder.intercept.detach()
        error_of_gate, _ = reconstruction_error(gate, support, dictionary, centred, intercept)
        return error + error_of_gate + alpha * gate.sum(), values.detach(), residual

    def rescale(self, extra, rows, factor):
        extra["shift"][rows] *= factor

    def fold(self, weight, bias, extra):
        gain = extra["log_gain"].exp()
        shift = extra["shift"]
        return gain[:, None] * weight, gain * bias + shift, shift.clamp_min(0)

    def undo_fold(self, weight, bias, extra):
        gain = extra["log_gain"].exp()
        return weight / gain[:, None], (bias - extra["shift"]) / gain

    def in_units(self, extra, factor):
        return {**extra, "shift": factor * extra["shift"]}

    def unfold(self, bias, threshold):
        extra = self.initial(torch.zeros_like(bias))
        if threshold is not None:
            bias, extra["shift"] = bias - threshold, threshold
        return bias, extra


ARCHITECTURES = {
    "relu": ReLU,
    "topk": TopK,
    "batch_topk": BatchTopK,
    "matryoshka": Matryoshka,
    "jumprelu": JumpReLU,
    "gated": Gated,
}
