"""Texts to windows of token ids that fit a model, and what is known of every token."""

from functools import partial

import numpy as np
import torch

from .network import as_limit, text_config

# Token ids that tell whether a batch changes a model's activations. Any model has these two. No
# positions come in such an order, and there are more of one than of the other from the start on.
PROBE = (1, 1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 0, 1)

_TEXTS_AT_ONCE = 256  # tokenizers answer in Python lists, some 100 bytes per token


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
        First character of each token and the one behind its last.

    pad_id : int
        What to fill up shorter windows with.
    """

    kind = None  # the layer's width does not depend on the text
    usual_axis = -1  # of the features, where nothing tells: they are vectors at tokens

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
        """Which positions of some windows get a row, bool tensor (n_windows, longest)."""
        shape = len(batch), self.lengths[batch].max()
        mask = torch.zeros(shape, dtype=torch.bool, device="cpu")
        for row, window in enumerate(batch):
            mask[row, : self.lengths[window]] = torch.from_numpy(self.kept[window])
        return mask

    def content(self, window):
        """What the model sees of a window."""
        return self.token_ids[window]

    @staticmethod
    def first():
        """Two tokens, enough to see what a layer gives."""
        return TokenWindows([0], [np.arange(2)], [np.ones(2, dtype=bool)])

    def probes(self, network):
        """Two short windows, to try whether a batch changes their rows.

        Returns
        -------
        probes : list of (bool, TokenWindows)
            Whether the windows are of unequal length, and two windows.
        is_proof : bool
            Whether they are long enough to tell for all others.
        """
        one = np.array(PROBE[: self.lengths.max()])  # others may be too long for the model
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
        """What floats could be given in: there are none."""
        return [None]

    @staticmethod
    def explain(error, network, layer):
        """Raise an error that is clearer than what a model raises."""
        if getattr(text_config(network.module), "is_encoder_decoder", False):
            raise ValueError(
                f"The forward pass fails before layer={layer!r} is called. Of an encoder-decoder "
                f"model only the encoder is given the texts: name one of its layers. {error}"
            ) from error

    def n_rows(self, n_positions):
        """Rows of each window."""
        return np.array([np.count_nonzero(kept) for kept in self.kept])

    def select(self, window, activations):
        """Rows of a window among the activations at all its tokens."""
        return activations[self.kept[window]]

    def arguments(self, network, batch, dtype=None):
        """Return positional and keyword arguments of the model for some windows.

        Windows are padded on the right, where the positions of all other tokens stay what they
        are without padding.
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

    def split(self, activation, batch, feature_axis=-1):
        """Turn a batch's activation into one array (n_tokens, n_features) per window."""
        batch = np.array(batch)
        expected = (len(batch), self.lengths[batch].max())
        if activation.ndim == 2 and len(activation) == expected[0] * expected[1]:
            activation = activation.unflatten(0, expected)  # of a model that flattens its tokens
        else:
            activation = activation.movedim(feature_axis, -1)
        if activation.ndim != 3 or activation.shape[:2] != expected:
            raise ValueError(
                f"The layer gives shape {tuple(activation.shape)} for {expected[0]} texts of "
                f"{expected[1]} tokens, but one vector per token is needed: (n_texts, n_tokens, "
                "n_features). Name another layer, or its other side."
            )
        block = activation.float().cpu().numpy()
        return [rows[:length] for rows, length in zip(block, self.lengths[batch], strict=True)]

    def tokens(self, texts, tokenizer):
        """Return the alignment of all rows with the texts, see `ActivationExtractor.tokens`."""
        token_id = np.concatenate([i[k] for i, k in zip(self.token_ids, self.kept, strict=True)])
        start, end = np.concatenate(
            [spans[kept] for spans, kept in zip(self.spans, self.kept, strict=True)]
        ).T
        document = np.repeat(self.document, self.n_rows(None))
        position = np.concatenate([np.flatnonzero(kept) for kept in self.kept])
        shared = {}  # one string object per distinct token
        token = np.empty(len(token_id), dtype=object)
        for row, (index, left, right) in enumerate(zip(document, start, end, strict=True)):
            text = texts[index][left:right] or tokenizer.convert_ids_to_tokens(int(token_id[row]))
            token[row] = shared.setdefault(text, text)
        return {
            "document": document,
            "position": position,
            "token_id": token_id,
            "token": token,
            "start": start,
            "end": end,
        }


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

    The special tokens that the tokenizer puts before and behind a text are put before and
    behind every window of it. The tokenizer itself neither cuts nor pads, which would change
    its state.

    Parameters
    ----------
    texts : list of str

    tokenizer : transformers.PreTrainedTokenizerBase

    network : Network
        The model.

    max_length : int, default=None
        Most tokens of a window. None for the context length of the model or the tokenizer,
        whichever is less.

    long_documents : {"truncate", "window"}, default="window"
        Keep the first window of a text, or all.

    include_special_tokens : bool, default=False
        Whether special tokens get a row.

    with_spans : bool, default=False
        Whether to keep the characters behind each token.

    Returns
    -------
    windows : TokenWindows

    Raises
    ------
    ValueError
        If `max_length` is more than the model takes or leaves no room beside the special
        tokens, or if the tokenizer is another model's.
    """
    max_length = _window_length(max_length, tokenizer, network)
    special_ids = special_token_ids(tokenizer)
    documents, windows, windows_kept, windows_spans = [], [], [], []
    for document, (ids, added, spans) in enumerate(encode(tokenizer, texts, with_spans)):
        kept = ~(added | np.isin(ids, special_ids)) | include_special_tokens
        for index in _window_indices(added, max_length):
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
    pad_id = tokenizer.pad_token_id or 0
    if network.n_token_ids is not None and not 0 <= pad_id < network.n_token_ids:
        pad_id = 0  # the tokenizer has a padding token that the model was not made for
    return TokenWindows(documents, windows, windows_kept, windows_spans, pad_id=pad_id)


def _window_length(max_length, tokenizer, network):
    """Most tokens of a window: as asked for, or as model and tokenizer allow; None for any."""
    context_length = network.context_length
    if max_length is None:
        limits = (context_length, as_limit(tokenizer.model_max_length))
        return min((limit for limit in limits if limit is not None), default=None)
    if context_length is not None and max_length > context_length:
        raise ValueError(
            f"max_length={max_length} is more than the model's context of {context_length} tokens."
        )
    return max_length


def encode(tokenizer, texts, with_spans=False):
    """Yield (token ids, whether added by the tokenizer, spans or None) of every text."""
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        encoded = tokenizer(
            texts[first : first + _TEXTS_AT_ONCE],
            return_special_tokens_mask=True,
            return_offsets_mapping=with_spans,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # no warning that a text is longer than the model's context
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
    """Ids of the tokens that stand for no text, wherever they are.

    These are the tokens that the tokenizer leaves out when it decodes without special ones, and
    those that have a role for it. The token for unknown text does stand for text, and so does a
    token of text that pads as well. Without a tokenizer, the model's config tells what opens,
    closes and pads a text.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase or None

    model : torch.nn.Module, default=None
        Only looked at where there is no tokenizer.

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
        # a token that is not in the vocabulary has the id of the unknown one, or none
        is_missing = id in unknown and token != tokenizer.unk_token
        if role not in ("unk_token", "pad_token") and not is_missing:
            ids.add(id)
    return np.array(sorted(ids), dtype=np.int64)


def _window_indices(added, max_length):
    """Yield the positions in a text's token ids that make up each of its windows."""
    inner = np.flatnonzero(~added)
    if len(inner) == 0:
        yield np.arange(len(added))
        return
    before, behind = np.arange(inner[0]), np.arange(inner[-1] + 1, len(added))
    body = np.arange(inner[0], inner[-1] + 1)
    room = len(body) if max_length is None else max_length - len(before) - len(behind)
    if room < 1:
        raise ValueError(
            f"max_length={max_length} leaves no room for text: the tokenizer adds "
            f"{len(before) + len(behind)} special tokens to each window."
        )
    for first in range(0, len(body), room):
        yield np.concatenate([before, body[first : first + room], behind])


def batches_by_length(items, lengths, batch_size, *, padding):
    """Yield lists of items, the longest first; without `padding` of equal length only."""
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
