"""Logits of the next token, and whether a model has any."""

import numpy as np
import torch

from .hooks import evaluation_mode
from .texts import TokenWindows, special_token_ids


def next_token_logits(output, ids):
    """The logits of a forward pass on token ids; a TypeError if it has none."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor) or logits.shape[:2] != ids.shape:
        raise TypeError(
            f"model returns a {type(output).__name__} without logits of shape (n_sequences, "
            "length, vocabulary). Give a causal language model with its language modelling head, "
            "as transformers.AutoModelForCausalLM loads it."
        )
    return logits


def sees_later_tokens(network, tokenizer):
    """Whether logits depend on the tokens behind their own, so that the model is not causal.

    Parameters
    ----------
    network : Network
    tokenizer : tokenizer of transformers

    Raises
    ------
    Exception
        What the model raises on token ids; TypeError if it returns no logits.
    """
    content = np.setdiff1d(np.arange(len(tokenizer)), special_token_ids(tokenizer))
    if len(content) < 2:
        return False
    a, b = content[:2].tolist()
    windows = TokenWindows(
        [0, 1], [np.array([a, b, a]), np.array([a, b, b])], [np.ones(3, dtype=bool)] * 2
    )
    (ids,), keywords = windows.arguments(network, [0, 1])
    with evaluation_mode(network.module), torch.no_grad():
        logits = next_token_logits(network.run((ids,), keywords), ids)[:, :2]
    # random weights make small differences; rounding, where the dtype is coarse, smaller ones yet
    eps = torch.finfo(logits.dtype).eps
    logits = logits.double()
    logits = logits[..., logits.isfinite().all(dim=0).all(dim=0)]  # -inf excludes a token
    if logits.numel() == 0:
        return False
    rounding = 4 * eps * logits.abs().max()
    return bool((logits[0] - logits[1]).abs().max() > 1e-3 * logits.std() + rounding)
