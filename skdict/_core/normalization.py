"""Rows brought to a common length or variance, each by itself, before they are coded."""

from typing import NamedTuple

import torch


class RowNormalization(NamedTuple):
    """x̃ = (x - m) / (s + eps), with a mean and a scale of each row.

    Codes do not hold m and s, so that a row can be reconstructed from its codes alone only as x̃:
    what is reconstructed from the row itself is x̂ s + m.

    Parameters
    ----------
    kind : {"layer_norm", "row_norm"}
        "layer_norm": m is the mean of the row's entries, s their standard deviation.
        "row_norm": m is zero, s = ‖x‖ / √d, so that ‖x̃‖ is √d.
    eps : float
    ddof : int
        The standard deviation divides by d - ddof.
    """

    kind: str
    eps: float = 0.0
    ddof: int = 0

    def __call__(self, x):
        """Normalise rows.

        Parameters
        ----------
        x : tensor of shape (B, d)

        Returns
        -------
        normalised : tensor of shape (B, d)
        mean, scale : tensor of shape (B, 1)
        """
        if self.kind == "layer_norm":
            mean = x.mean(dim=1, keepdim=True)
            scale = x.std(dim=1, keepdim=True, correction=self.ddof)
        else:
            mean = x.new_zeros(len(x), 1)
            scale = torch.linalg.vector_norm(x, dim=1, keepdim=True) / x.shape[1] ** 0.5
        divisor = scale + self.eps
        # a row without variance, or of zeros, stays at zero
        return (x - mean) / torch.where(divisor > 0, divisor, 1), mean, scale
