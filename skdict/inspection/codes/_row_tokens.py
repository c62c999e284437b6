"""The tokens and texts of rows of activations, portion by portion."""

import numpy as np

from ..._core.language.identity import are_others
from ..._core.language.texts import check_text_sequence
from ..._core.storage import StoreView
from ...utils._warnings import warn
from ._tokens import check_tokens


class RowTokens:
    """What token each row of activations is: given, or known by the store that X is a view of.

    Parameters
    ----------
    X : matrix of shape (n_rows, n_features)
        From a view of a store the columns are read when they are needed.
    tokens : mapping or None
        Columns for all rows. If None, those of the store, if it has "document".
    texts : sequence of str or None
        The texts of the documents. With them there is "token", where "start" and "end" are known.
    """

    def __init__(self, X, tokens=None, texts=None):
        self.texts = None if texts is None else check_text_sequence(texts)
        self._n_rows, self._columns, self._view = X.shape[0], None, None
        self._special = {}
        if tokens is not None:
            self._columns = check_tokens(tokens, self._n_rows, needs=("document",))
        elif isinstance(X, StoreView) and "document" in X.store.settings.tokens:
            self._take_view(X)
        elif texts is not None:
            raise ValueError(
                "texts need tokens that tell which document each row is of, but X has none with "
                "a column 'document'. Give tokens, or leave texts out."
            )
        elif isinstance(X, StoreView) and X.store.settings.tokens:
            warn(
                f"X is of a store with the columns {', '.join(X.store.settings.tokens)}, but "
                "without 'document', so the codes have no tokens. Give tokens with a column "
                "'document', for instance zeros, and those that store.tokens returns."
            )

    def _take_view(self, view):
        self._view, settings = view, view.store.settings
        identity = settings.identity
        # tokens that stand for no text have a name
        special = identity.get("special_tokens") or {}
        self._special = {id: name for name, id in special.items()}
        # to_store has read texts alone: no ids with them, no activations, no token ids
        is_of_texts = "model" in identity and "start" in settings.tokens
        known = identity.get("texts") if is_of_texts and "id" not in settings.tokens else None
        if self.texts is None or not isinstance(known, dict):
            return
        if are_others(self.texts, known):
            raise ValueError(
                f"texts are not those that the store in {view.store.folder.path} was written "
                "from: their digest is another. Give the same, in the same order."
            )

    def read(self, rows):
        """The columns of some rows: dict of ndarray, or None if they are not known.

        Parameters
        ----------
        rows : slice
            Consecutive ones.
        """
        if self._view is not None:
            columns = self._of_store(rows)
        elif self._columns is not None:
            columns = {name: each[rows] for name, each in self._columns.items()}
        else:
            return None
        if self.texts is not None:
            self._check_documents(columns["document"])
            if "token" not in columns and {"start", "end"} <= set(columns):
                columns["token"] = self._token(columns)
        return columns

    def texts_of(self, rows):
        """The texts that come with some rows: those up to their last, after those of rows before.

        Parameters
        ----------
        rows : slice
            Those up to the last row have all the texts that are left.
        """
        if self.texts is None:
            return []
        first = 0 if rows.start == 0 else int(self._document(rows.start - 1)) + 1
        stop = None if rows.stop == self._n_rows else int(self._document(rows.stop - 1)) + 1
        return self.texts[first:stop]

    def _document(self, row):
        if self._view is not None:
            return self._view.tokens([row])["document"][0]
        return self._columns["document"][row]

    def _of_store(self, rows):
        before = int(rows.start > 0)  # this row comes before these, and its document too
        columns = self._view.tokens(slice(rows.start - before, rows.stop))
        if (np.diff(columns["document"]) < 0).any():
            raise ValueError(
                "The documents of the rows of X are not in ascending order, as where several "
                "writers have made the store. Give whole documents in their order: "
                f"store[{self._view.layer!r}].documents[:]."
            )
        return {name: each[before:] for name, each in columns.items()}

    def _check_documents(self, document):
        if len(document) and not 0 <= document[0] <= document[-1] < len(self.texts):
            raise ValueError(
                f"There are {len(self.texts)} texts, but tokens['document'] goes from "
                f"{document[0]} to {document[-1]}. Give the text of each document."
            )

    def _token(self, columns):
        """The text of each token, ndarray of object."""
        token, shared = np.empty(len(columns["document"]), dtype=object), {}
        ids = columns.get("token_id", np.full(len(token), -1))
        places = (columns[name].tolist() for name in ("document", "start", "end"))
        for row, (document, start, end, id) in enumerate(zip(*places, ids.tolist(), strict=True)):
            text = self.texts[document]
            if not 0 <= start <= end <= len(text):
                raise ValueError(
                    f"tokens put a row at characters {start} to {end} of document {document}, "
                    f"but texts[{document}] has {len(text)}. Give the texts that the activations "
                    "are from."
                )
            word = text[start:end] or self._special.get(id, f"[{id}]")
            token[row] = shared.setdefault(word, word)
        return token
