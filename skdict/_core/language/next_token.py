"""The prediction of the next token: which ones count, how likely it is, whether it is causal."""

import numpy as np
import torch
from torch.nn import functional

from .evaluation import evaluation_mode
from .windows import TokenWindows, special_token_ids

# Logits in a block of positions: 4 MB in float32, which fits into a cache.
LOGITS_BLOCK_SIZE = 2**20


def next_token_logits(output, ids):
    """Return the logits in the output of a forward pass on token ids.

    Raises
    ------
    TypeError
        If there are none of shape (n_sequences, length, vocabulary).
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor) or logits.shape[:2] != ids.shape:
        raise TypeError(
            f"model returns a {type(output).__name__} without logits of shape (n_sequences, "
            "length, vocabulary). Give a causal language model with its language modelling head, "
            "as transformers.AutoModelForCausalLM loads it."
        )
    return logits


def output_embeddings(model):
    """The module that makes logits of the last hidden states; None if the model names none."""
    try:
        return model.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # the class does not say where it is
        return None


def counted_predictions(content):
    """Return where a prediction counts: at a content token that is followed by another one.

    Parameters
    ----------
    content : torch.Tensor of bool of shape (n_sequences, length)
        Which tokens are neither special nor padding.

    Returns
    -------
    counted : torch.Tensor of bool of shape (n_sequences, length)
    """
    return functional.pad(content[:, :-1] & content[:, 1:], (0, 1))


def log_probabilities(logits, ids, counted):
    """Log-probability of the next token at each counted position.

    Parameters
    ----------
    logits : torch.Tensor of shape (n_sequences, length, vocabulary)

    ids : torch.Tensor of int64 of shape (n_sequences, length)
        The token ids that the model was given.

    counted : torch.Tensor of bool of shape (n_sequences, length)

    Returns
    -------
    log_probabilities : torch.Tensor of shape (n_counted,)
        In nats, of float32 at least. Derivatives pass through.
    """
    next_ids = ids.roll(-1, dims=1).flatten()
    found = [
        block.log_softmax(dim=-1).gather(1, next_ids[positions, None])[:, 0]
        for positions, block in _counted_blocks(logits, counted)
    ]
    return torch.cat(found)


def kl_divergences(clean, logits, counted):
    """Divergence of predictions from those of the clean model at each counted position.

    Parameters
    ----------
    clean, logits : torch.Tensor of shape (n_sequences, length, vocabulary)

    counted : torch.Tensor of bool of shape (n_sequences, length)

    Returns
    -------
    divergences : torch.Tensor of shape (n_counted,)
        KL(p_clean || p) in nats, of float32 at least.
    """
    found = []
    blocks = zip(_counted_blocks(clean, counted), _counted_blocks(logits, counted), strict=True)
    for (_, p), (_, q) in blocks:
        log_p, log_q = p.log_softmax(dim=-1), q.log_softmax(dim=-1)
        excluded = log_p == -torch.inf  # tokens of probability 0 have no part in the sum
        terms = log_q.sub_(log_p).mul_(log_p.exp_()).masked_fill_(excluded, 0)
        found.append(terms.sum(dim=-1).neg_())
    return torch.cat(found)


def _counted_blocks(logits, counted):
    """Yield (positions, their logits) of some counted positions at a time.

    Positions are numbered through all sequences; the logits, (n_positions, vocabulary), are
    float32 at least.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits = logits.flatten(0, 1)
    positions = counted.flatten().nonzero()[:, 0]  # waits for the device
    for some in positions.split(max(1, LOGITS_BLOCK_SIZE // logits.shape[1])):
        yield some, logits[some].to(dtype)


def sees_later_tokens(network, tokenizer):
    """Whether logits depend on tokens after their own, so that the model is not causal.

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
    # Random weights make small differences. Rounding in a coarse dtype makes smaller ones still.
    eps = torch.finfo(logits.dtype).eps
    logits = logits.double()
    logits = logits[..., logits.isfinite().all(dim=0).all(dim=0)]  # -inf excludes a token
    if logits.numel() == 0:
        return False
    rounding = 4 * eps * logits.abs().max()
    return bool((logits[0] - logits[1]).abs().max() > 1e-3 * logits.std() + rounding)
