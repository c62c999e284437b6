"""Turn texts into windows of token ids that fit a model, and align rows with the texts."""

from functools import partial

import numpy as np
import torch

from .network import as_limit, text_config

# Token ids to try whether a batch changes a model's activations. Every vocabulary has 0 and 1. No
# model numbers positions in this order, and every prefix has more ones than zeros.
PROBE = (1, 1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 0, 1)

_TEXTS_AT_ONCE = 256  # tokenizers return Python lists, of some 100 bytes per token


class TokenWindows:
    """Windows of token ids, in the order of the texts.

    Parameters
    ----------
    document : list of int
        Index of the text that each window is from.

    token_ids : list of ndarray of int64
        Token ids of each window, special tokens included.

    kept : list of ndarray of bool
        Which of the tokens get a row.

    spans : list of ndarray of shape (n_tokens, 2), or None
        First character of each token, and the one after its last.

    pad_id : int
        Token id that fills up shorter windows.
    """

    kind = None  # the layer's width does not depend on the text
    usual_axis = -1  # features are on the last axis, unless the layer says otherwise

    def __init__(self, document, token_ids, kept, spans=None, *, pad_id=0):
        self.document = np.array(document)
        self.token_ids = token_ids
        self.kept = kept
        self.spans = spans
        self.pad_id = pad_id
        self.lengths = np.array([len(ids) for ids in token_ids])

    def __len__(self):
        return len(self.token_ids)

    def kept_mask(self, batch):
        """Return which positions of some windows get a row: bool (n_windows, length)."""
        shape = len(batch), self.lengths[batch].max()
        mask = torch.zeros(shape, dtype=torch.bool, device="cpu")
        for row, window in enumerate(batch):
            mask[row, : self.lengths[window]] = torch.from_numpy(self.kept[window])
        return mask

    def content(self, window):
        """Return what the model is given of a window, an array."""
        return self.token_ids[window]

    @staticmethod
    def first():
        """Return a window of two tokens, enough to see the shape of a layer's activation."""
        return TokenWindows([0], [np.arange(2)], [np.ones(2, dtype=bool)])

    def probes(self, network):
        """Return pairs of short windows, to try whether a batch changes their rows.

        Returns
        -------
        probes : list of (bool, TokenWindows)
            Whether the two windows are of unequal length, and the windows.
        is_proof : bool
            Whether they are long enough for the answer to hold for all windows.
        """
        one = np.array(PROBE[: self.lengths.max()])  # longer ones may not fit the model
        if len(one) < 2:
            return [], False
        pairs = [(False, [one, 1 - one])]
        if network.takes_attention_mask:
            pairs.insert(0, (True, [one, 1 - one[: len(one) // 4 + 1]]))
        return [(padding, self._all_kept(windows)) for padding, windows in pairs], len(one) >= 4

    def _all_kept(self, token_ids):
        kept = [np.ones(len(ids), dtype=bool) for ids in token_ids]
        return TokenWindows(range(len(token_ids)), token_ids, kept, pad_id=self.pad_id)

    @staticmethod
    def dtypes(network):
        """Return the dtypes to try for floating-point input: None, as there is no such input."""
        return [None]

    @staticmethod
    def explain(error, network, layer):
        """Raise a clearer error than the model's, if the cause is known."""
        if getattr(text_config(network.module), "is_encoder_decoder", False):
            raise ValueError(
                f"The forward pass fails before layer={layer!r} is called. Of an encoder-decoder "
                f"model only the encoder is given the texts: name one of its layers. {error}"
            ) from error

    def n_rows(self, n_positions):
        """Number of rows of each window."""
        return np.array([np.count_nonzero(kept) for kept in self.kept])

    def select(self, window, activations):
        """Select the rows of a window from the activations at all its tokens."""
        return activations[self.kept[window]]

    def arguments(self, network, batch, dtype=None):
        """Return positional and keyword arguments of the model for some windows.

        Windows are padded on the right, so that all tokens keep their positions.
        """
        shape = len(batch), self.lengths[batch].max()
        input_ids = torch.full(shape, self.pad_id, device="cpu")
        attention_mask = torch.zeros_like(input_ids)
        for row, window in enumerate(batch):
            input_ids[row, : self.lengths[window]] = torch.from_numpy(self.token_ids[window])
            attention_mask[row, : self.lengths[window]] = 1
        keywords = {}
        if network.takes_attention_mask:
            keywords["attention_mask"] = attention_mask.to(network.device)
        if network.takes_use_cache:
            keywords["use_cache"] = False
        return (input_ids.to(network.device),), keywords

    def passes(self, network, batches):
        """Yield what it takes to run batches of windows through a model.

        Parameters
        ----------
        network : Network

        batches : iterable of list of int
            Indices of windows.

        Yields
        ------
        batch : list of int
        forward : callable
            Runs the forward pass when called without arguments.
        ids : torch.Tensor of shape (n_windows, length)
        kept : torch.Tensor of bool of shape (n_windows, length)
            True where a token has a row. Within a window, rows are in the order of the tokens.
        """
        for batch in batches:
            arguments, keywords = self.arguments(network, batch)
            kept = self.kept_mask(batch).to(network.device)
            yield batch, partial(network.run, arguments, keywords), arguments[0], kept

    def of_tokens(self, activation, batch, feature_axis=-1):
        """The activation of a batch as a tensor (n_windows, n_tokens, n_features)."""
        batch = np.array(batch)
        expected = (len(batch), self.lengths[batch].max())
        if activation.ndim == 2 and len(activation) == expected[0] * expected[1]:
            activation = activation.unflatten(0, expected)  # the model has flattened its tokens
        else:
            activation = activation.movedim(feature_axis, -1)
        if activation.ndim != 3 or activation.shape[:2] != expected:
            raise ValueError(
                f"The layer gives shape {tuple(activation.shape)} for {expected[0]} texts of "
                f"{expected[1]} tokens, but one vector per token is needed: (n_texts, n_tokens, "
                "n_features). Name another layer, or its other side."
            )
        return activation

    def split(self, activation, batch, feature_axis=-1):
        """Split the activation of a batch into one array (n_tokens, n_features) per window."""
        block = self.of_tokens(activation, batch, feature_axis).float().cpu().numpy()
        lengths = self.lengths[np.array(batch)]
        return [rows[:length] for rows, length in zip(block, lengths, strict=True)]

    def positions(self):
        """Return the place of each row, a dict of arrays; see `ActivationExtractor.positions`."""
        return {
            "document": np.repeat(self.document, self.n_rows(None)),
            "position": np.concatenate([np.flatnonzero(kept) for kept in self.kept]),
        }

    def tokens(self, texts, tokenizer):
        """Return the token of each row, a dict of arrays; see `ActivationExtractor.tokens`."""
        positions = self.positions()
        token_id = np.concatenate([i[k] for i, k in zip(self.token_ids, self.kept, strict=True)])
        start, end = np.concatenate(
            [spans[kept] for spans, kept in zip(self.spans, self.kept, strict=True)]
        ).T
        shared = {}  # one string object per distinct token
        token = np.empty(len(token_id), dtype=object)
        columns = (each.tolist() for each in (positions["document"], token_id, start, end))
        for row, (index, id, left, right) in enumerate(zip(*columns, strict=True)):
            text = texts[index][left:right] or tokenizer.convert_ids_to_tokens(id)
            token[row] = shared.setdefault(text, text)
        return positions | {"token_id": token_id, "token": token, "start": start, "end": end}


def tokenize(
    texts,
    tokenizer,
    network,
    *,
    max_length=None,
    long_documents="window",
    include_special_tokens=False,
    with_spans=False,
):
    """Turn texts into windows of token ids that a model can be given.

    The special tokens that the tokenizer adds at the ends of a text are added to each window
    of it. The tokenizer is not asked to cut or to pad, as both would change its state.

    Parameters
    ----------
    texts : list of str

    tokenizer : transformers.PreTrainedTokenizerBase

    network : Network
        The model.

    max_length : int, default=None
        Greatest number of tokens of a window. None for the context length of the model or the
        tokenizer, whichever is less.

    long_documents : {"truncate", "window"}, default="window"
        Keep the first window of a text, or all.

    include_special_tokens : bool, default=False
        Whether special tokens get a row.

    with_spans : bool, default=False
        Whether to keep the place of each token in its text.

    Returns
    -------
    windows : TokenWindows

    Raises
    ------
    ValueError
        If `max_length` is more than the model takes or leaves no room beside the special
        tokens, or if the tokenizer is another model's.
    """
    max_length = window_length(max_length, tokenizer, network)
    special_ids = special_token_ids(tokenizer)
    documents, windows, windows_kept, windows_spans = [], [], [], []
    for document, (ids, added, spans) in enumerate(encode(tokenizer, texts, with_spans)):
        kept = ~(added | np.isin(ids, special_ids)) | include_special_tokens
        for index in window_indices(added, max_length):
            documents.append(document)
            windows.append(ids[index])
            windows_kept.append(kept[index])
            if with_spans:
                windows_spans.append(spans[index])
            if long_documents == "truncate":
                break
    largest = max(ids.max(initial=0) for ids in windows)
    if network.n_token_ids is not None and largest >= network.n_token_ids:
        raise ValueError(
            f"The tokenizer gives token id {largest}, but the model has only "
            f"{network.n_token_ids}. Give the tokenizer that the model was trained with."
        )
    pad_id = padding_id(tokenizer, network)
    return TokenWindows(documents, windows, windows_kept, windows_spans, pad_id=pad_id)


def padding_id(tokenizer, network):
    """The token id that fills up windows, which the model has to have an embedding for."""
    pad_id = getattr(tokenizer, "pad_token_id", None) or 0
    if network.n_token_ids is not None and not 0 <= pad_id < network.n_token_ids:
        return 0
    return pad_id


def window_length(max_length, tokenizer, network):
    """Greatest number of tokens of a window, or None if there is no limit."""
    context_length = network.context_length
    if max_length is None:
        limits = (context_length, as_limit(getattr(tokenizer, "model_max_length", None)))
        return min((limit for limit in limits if limit is not None), default=None)
    if context_length is not None and max_length > context_length:
        raise ValueError(
            f"max_length={max_length} is more than the model's context of {context_length} tokens."
        )
    return max_length


def encode(tokenizer, texts, with_spans=False):
    """Yield (token ids, which of them the tokenizer has added, spans or None) for each text."""
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        encoded = tokenizer(
            texts[first : first + _TEXTS_AT_ONCE],
            return_special_tokens_mask=True,
            return_offsets_mapping=with_spans,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # do not warn that a text is longer than the model's context
        )
        n_texts = len(encoded["input_ids"])
        all_spans = encoded["offset_mapping"] if with_spans else [None] * n_texts
        for ids, added, spans in zip(
            encoded["input_ids"], encoded["special_tokens_mask"], all_spans, strict=True
        ):
            if with_spans:
                spans = np.array(spans, dtype=np.int64).reshape(-1, 2)
            yield np.array(ids, dtype=np.int64), np.array(added, dtype=bool), spans


def special_token_ids(tokenizer, model=None):
    """Return the ids of the special tokens, which do not stand for text.

    These are the tokens that the tokenizer skips with ``skip_special_tokens=True``, and those
    that have a role for it. The token for unknown text is not among them, nor is a token of text
    that is also used to pad. Without a tokenizer, the model's config tells which tokens open,
    close and pad a text.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase or None

    model : torch.nn.Module, default=None
        Only used if there is no tokenizer.

    Returns
    -------
    ids : ndarray of int64
    """
    if tokenizer is None:
        config = text_config(model)
        ids = [getattr(config, f"{role}_token_id", None) for role in ("bos", "eos", "pad")]
        ids = np.hstack([id for id in ids if id is not None] or [[]])  # a role can have several
        return np.unique(ids).astype(np.int64)
    unknown = {None, tokenizer.unk_token_id}
    ids = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special} - unknown
    for role, token in tokenizer.special_tokens_map.items():
        id = tokenizer.convert_tokens_to_ids(token)
        # a token that is not in the vocabulary has the id of the unknown token, or None
        is_missing = id in unknown and token != tokenizer.unk_token
        if role not in ("unk_token", "pad_token") and not is_missing:
            ids.add(id)
    return np.array(sorted(ids), dtype=np.int64)


def window_indices(added, max_length):
    """Yield, for each window of a text, the positions of its tokens in the text's token ids."""
    inner = np.flatnonzero(~added)
    if len(inner) == 0:
        yield np.arange(len(added))
        return
    before, after = np.arange(inner[0]), np.arange(inner[-1] + 1, len(added))
    body = np.arange(inner[0], inner[-1] + 1)
    room = len(body) if max_length is None else max_length - len(before) - len(after)
    if room < 1:
        raise ValueError(
            f"max_length={max_length} leaves no room for text: the tokenizer adds "
            f"{len(before) + len(after)} special tokens to each window."
        )
    for first in range(0, len(body), room):
        yield np.concatenate([before, body[first : first + room], after])


def batches_by_length(items, lengths, batch_size, *, padding):
    """Yield lists of items, the longest first. Without `padding`, lengths in a list are equal."""
    batch = []
    for item in sorted(items, key=lambda item: -lengths[item]):
        if len(batch) == batch_size or (
            batch and not padding and lengths[item] != lengths[batch[0]]
        ):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
