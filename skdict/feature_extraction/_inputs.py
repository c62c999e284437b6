"""What an extractor's parameters and X stand for: model, tokenizer, and the model's input."""

import os

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils.validation import validate_data

from .._core.data.finite import check_entries_finite
from .._core.device import resolve_device
from .._core.language.loading import check_tokenizer, load_network, ready_network, tokenizer_of
from .._core.language.samples import Samples
from .._core.language.texts import check_texts, refuse_texts
from .._core.language.windows import tokenize
from ..utils._arrays import as_matrix, to_ndarray


def network_of(extractor):
    """Return the model as a `Network`, loaded if it is given by name."""
    model = extractor.model
    if not isinstance(model, str | os.PathLike | torch.nn.Module):
        raise ValueError(
            f"The 'model' parameter of {type(extractor).__name__} must be the id or the folder of "
            f"a model of transformers, or a torch.nn.Module, but it is a {type(model).__name__}. "
            "Another library's network has to be copied into torch: \"Your own model and "
            "tokenizer\" in the user guide shows it for scikit-learn's MLP."
        )
    is_ready = isinstance(model, torch.nn.Module)
    anywhere = is_ready and extractor.device == "auto"
    device = None if anywhere else resolve_device(extractor.device, torch.float32)
    if is_ready:
        return ready_network(model, device=device, dtype=extractor.dtype)
    return load_network(
        os.fspath(model),
        dtype=extractor.dtype,
        device=device,
        trust_remote_code=extractor.trust_remote_code,
    )


def ready_tokenizer(extractor):
    """Return the tokenizer, loaded if it is "auto"."""
    tokenizer = extractor.tokenizer
    if isinstance(tokenizer, str) and tokenizer == "auto":
        tokenizer = tokenizer_of(extractor.model, trust_remote_code=extractor.trust_remote_code)
    check_tokenizer(tokenizer)
    return tokenizer


def check_inputs(extractor, X, network, *, reset=False):
    """Validate X, and return what the model is to be run on.

    Parameters
    ----------
    extractor : ActivationExtractor
        For arrays its `n_features_in_` is set if `reset` is true, and compared with otherwise.

    X : texts, or array-like with ``tokenizer=None``

    network : Network

    reset : bool, default=False

    Returns
    -------
    inputs : TokenWindows or Samples
    """
    if extractor.tokenizer is None:
        return _check_samples(extractor, X, network, reset=reset)
    texts = check_texts(X, may_be_empty=True)
    return tokenized(extractor, texts, ready_tokenizer(extractor), network)


def tokenized(extractor, texts, tokenizer, network, *, with_spans=False):
    """Return the windows of some texts, each of which must have a row."""
    windows = tokenize(
        texts,
        tokenizer,
        network,
        max_length=extractor.max_length,
        long_documents=extractor.long_documents,
        include_special_tokens=extractor.include_special_tokens,
        with_spans=with_spans,
    )
    n_rows = np.bincount(windows.document, weights=windows.n_rows(None))
    bad = [i for i, text in enumerate(texts) if n_rows[i] == 0 or not text]
    refuse_texts(bad, texts, "has no tokens besides special ones")
    return windows


def _check_samples(extractor, X, network, *, reset):
    samples = as_matrix(X, "X", estimator=extractor, allow_nd=True)
    if sp.issparse(samples):
        raise TypeError("X is a sparse matrix, but models take dense arrays. Use X.toarray().")
    samples = to_ndarray(samples)
    validate_data(extractor, X, reset=reset, skip_check_array=True)
    if samples.dtype.kind in "biu" and network.takes_token_ids:
        samples = samples.astype(np.int64, copy=False)
    elif samples.dtype not in (np.float32, np.float64):
        samples = samples.astype(np.float32)
    check_entries_finite(samples, "X")
    return Samples(samples)
