"""Texts to windows of token ids that fit a model, and what is known of every token."""

import numpy as np
import torch
from sklearn.utils import Bunch

_TEXTS_AT_ONCE = 256  # tokenizers answer in Python lists, some 100 bytes per token


def check_texts(X):
    """Return the texts as a list of non-empty strings.

    Parameters
    ----------
    X : list, tuple, one-dimensional ndarray, or pandas or polars Series of str

    Returns
    -------
    texts : list of str

    Raises
    ------
    ValueError, TypeError
        If `X` is anything else or empty, or if an entry is no text.
    """
    if isinstance(X, str | bytes):
        raise ValueError(
            f"X must be a list of texts, but it is a single {type(X).__name__} of length "
            f"{len(X)}. Wrap it in a list: [X]."
        )
    if isinstance(X, list | tuple):
        texts = list(X)
    elif len(getattr(X, "shape", (0,))) != 1:
        raise ValueError(
            f"X must be a one-dimensional list of texts, but it is a {type(X).__name__} of shape "
            f"{tuple(X.shape)}. Pass one column of it; for a model that takes arrays set "
            "tokenizer=None."
        )
    elif hasattr(X, "to_list"):  # Series of pandas and polars
        texts = X.to_list()
    elif isinstance(X, np.ndarray):
        texts = X.tolist()
    else:
        raise TypeError(
            "X must be a list, tuple, one-dimensional array or Series of texts, but it is a "
            f"{type(X).__name__}."
        )
    if not texts:
        raise ValueError("X is empty: found 0 texts, at least 1 is required.")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            hint = " Decode it first." if isinstance(text, bytes) else " Leave it out or fill it."
            raise TypeError(
                f"X[{index}] must be a str, but it is {text!r:.50} of type "
                f"{type(text).__name__}.{hint}"
            )
        if not text:
            raise ValueError(f"X[{index}] is an empty text. Leave it out.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"X[{index}] is no valid Unicode text: {error}. Read it with errors='replace'."
            ) from None
    return texts


def check_tokenizer(tokenizer):
    """Raise a ValueError unless the tokenizer knows the characters behind each token."""
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"tokenizer is a {type(tokenizer).__name__}, which does not know the characters "
            "behind each token. Use a fast tokenizer of transformers (is_fast is True), for "
            "instance PreTrainedTokenizerFast."
        )


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

    sample_shape = None  # the layer's width does not depend on the text

    def __init__(self, document, token_ids, kept, spans=None, *, pad_id=0):
        self.document = np.array(document)
        self.token_ids = token_ids
        self.kept = kept
        self.spans = spans
        self.pad_id = pad_id
        self.lengths = np.array([len(ids) for ids in token_ids])

    def __len__(self):
        return len(self.token_ids)

    def content(self, window):
        """What the model sees of a window."""
        return self.token_ids[window]

    @staticmethod
    def first():
        """Two tokens, enough to see what a layer gives."""
        return TokenWindows([0], [np.zeros(2, dtype=np.int64)], [np.ones(2, dtype=bool)])

    def n_rows(self, n_positions):
        """Rows of each window."""
        return np.array([np.count_nonzero(kept) for kept in self.kept])

    def select(self, window, activations):
        """Rows of a window among the activations at all its tokens."""
        return activations[self.kept[window]]

    def arguments(self, network, batch):
        """Return positional and keyword arguments of the model for some windows.

        Windows are padded on the right, where the positions of all other tokens stay what they
        are without padding.
        """
        input_ids = torch.full((len(batch), self.lengths[batch].max()), self.pad_id)
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

    def split(self, activation, batch):
        """Turn a batch's activation into one array (n_tokens, n_features) per window."""
        expected = (len(batch), self.lengths[batch].max())
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
        return Bunch(
            document=document,
            position=position,
            token_id=token_id,
            token=token,
            start=start,
            end=end,
        )


def tokenize(
    tokenizer, texts, *, max_length, long_documents, include_special_tokens, with_spans=False
):
    """Turn texts into windows of at most `max_length` tokens.

    The special tokens that the tokenizer puts before and behind a text are put before and
    behind every window of it. The tokenizer itself neither cuts nor pads, which would change
    its state.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast

    texts : list of str

    max_length : int or None
        None for no limit.

    long_documents : {"truncate", "window"}
        Keep the first window of a text, or all.

    include_special_tokens : bool
        Whether special tokens get a row.

    with_spans : bool, default=False
        Whether to keep the characters behind each token.

    Returns
    -------
    windows : TokenWindows

    Raises
    ------
    ValueError
        If a text has no token that gets a row, or if `max_length` leaves no room beside the
        special tokens.
    """
    special_ids = _special_ids(tokenizer)
    documents, windows, windows_kept, windows_spans = [], [], [], []
    for document, (ids, added, spans) in enumerate(_encode(tokenizer, texts, with_spans)):
        kept = ~(added | np.isin(ids, special_ids)) | include_special_tokens
        n_kept = 0
        for index in _window_indices(added, max_length):
            documents.append(document)
            windows.append(ids[index])
            windows_kept.append(kept[index])
            if with_spans:
                windows_spans.append(spans[index])
            n_kept += np.count_nonzero(kept[index])
            if long_documents == "truncate":
                break
        if not n_kept:
            raise ValueError(
                f"X[{document}] has no tokens besides special ones: {texts[document]!r:.50}. "
                "Leave it out."
            )
    pad_id = tokenizer.pad_token_id or 0
    return TokenWindows(documents, windows, windows_kept, windows_spans, pad_id=pad_id)


def _encode(tokenizer, texts, with_spans):
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


def _special_ids(tokenizer):
    """Ids of the tokens that stand for no text, wherever they are.

    The token for unknown text does stand for text. Padding is never there to be left out, and
    may share its id with the unknown token.
    """
    roles = {
        role: token
        for role, token in tokenizer.special_tokens_map.items()
        if role not in ("unk_token", "pad_token")
    }
    tokens = [*roles.values(), *tokenizer.extra_special_tokens]
    if tokenizer.pad_token not in (None, tokenizer.unk_token):
        tokens.append(tokenizer.pad_token)
    return np.array(tokenizer.convert_tokens_to_ids(tokens), dtype=np.int64)


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
