"""Windows of tokens of documents, of an extractor; and what tells its activations from others."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

import skdict

from .._core.language.evaluation import evaluation_mode
from .._core.language.fingerprint import CannotDescribeError
from .._core.language.hooks import is_replaced
from .._core.language.reading import LayersReader, Window
from .._core.language.sites import find_place
from .._core.language.texts import CHARACTERS_AT_ONCE
from .._core.language.windows import (
    padding_id,
    special_token_ids,
    tokenize,
    window_length,
)
from ..utils._warnings import warn
from ._inputs import network_of, ready_tokenizer

TEXTS_AT_ONCE = 256


class DocumentReader:
    """Windows of documents as an extractor makes them, and the layers that it reads of them.

    Parameters
    ----------
    extractor : ActivationExtractor
    layers : list of str
    """

    def __init__(self, extractor, layers):
        self._extractor = extractor
        self.network = network_of(extractor)
        self.tokenizer = None if extractor.tokenizer is None else ready_tokenizer(extractor)
        self._length = window_length(extractor.max_length, self.tokenizer, self.network)
        self._special = special_token_ids(self.tokenizer, self.network.module)
        places = {
            name: find_place(self.network.module, name, extractor.side)[:2] for name in layers
        }
        self._places = places
        self.reader = LayersReader(
            self.network,
            places,
            batch_size=extractor.batch_size,
            feature_axis=extractor.feature_axis,
            call=extractor.call,
            length=self._length,
            pad_id=padding_id(self.tokenizer, self.network),
        )

    def windows(self, documents, n_skipped=0):
        """Yield the windows of documents, but so many of the first one."""
        for group in _groups(documents):
            for window in self._of_group(group):
                if n_skipped and window.document == group[0].number and window.index < n_skipped:
                    continue
                yield window
            n_skipped = 0

    def _of_group(self, group):
        if group[0].token_ids is not None:
            for document in group:
                yield from self._of_ids(document)
            return
        if self.tokenizer is None:
            raise ValueError(
                "texts are str, but with tokenizer=None there is nothing that reads them. Give "
                "token ids, or a tokenizer."
            )
        extractor = self._extractor
        windows = tokenize(
            [document.text for document in group],
            self.tokenizer,
            self.network,
            max_length=extractor.max_length,
            long_documents=extractor.long_documents,
            include_special_tokens=extractor.include_special_tokens,
            with_spans=True,
        )
        index, former = 0, None
        parts = zip(windows.token_ids, windows.kept, windows.spans, strict=True)
        for of_group, (ids, kept, spans) in zip(windows.document.tolist(), parts, strict=True):
            document = group[of_group]
            index = index + 1 if of_group == former else 0
            former = of_group
            yield Window(document.number, index, ids, kept, spans, document.id)

    def _of_ids(self, document):
        ids, n_token_ids = document.token_ids, self.network.n_token_ids
        if len(ids) == 0:
            return
        if ids.min() < 0 or (n_token_ids is not None and ids.max() >= n_token_ids):
            wrong = ids.min() if ids.min() < 0 else ids.max()
            most = "" if n_token_ids is None else f" to {n_token_ids - 1}"
            raise ValueError(
                f"texts[{document.number}] has token id {wrong}, but the model's are from 0{most}."
            )
        kept = ~np.isin(ids, self._special) | self._extractor.include_special_tokens
        step = self._length or len(ids)
        for index, start in enumerate(range(0, len(ids), step)):
            part = slice(start, start + step)
            yield Window(document.number, index, ids[part], kept[part])
            if self._extractor.long_documents == "truncate":
                return

    def identity(self):
        """What decides which activations these are, as JSON can hold it."""
        extractor = self._extractor
        identity = {
            "skdict": skdict.__version__,
            "model": self._digest_of_model(),
            "model_name": _name_of(extractor.model),
            "layers": {
                name: [*place, extractor.feature_axis, extractor.call]
                for name, place in self._places.items()
            },
            "tokenizer": _digest_of_tokenizer(self.tokenizer, self._special),
            "max_length": self._length,
            "long_documents": extractor.long_documents,
            "include_special_tokens": bool(extractor.include_special_tokens),
        }
        if self.tokenizer is not None and extractor.include_special_tokens:
            # which stand for no text; of others the text is in their document
            ids = self._special.tolist()
            names = self.tokenizer.convert_ids_to_tokens(ids)
            identity["special_tokens"] = dict(zip(names, ids, strict=True))
        return identity

    def _digest_of_model(self):
        model = self.network.module
        with evaluation_mode(model):
            if is_replaced(model):
                raise ValueError(
                    "Activations of the model are replaced in this block, so what would be kept "
                    "is another model's. Leave the steer or replace_activations block first."
                )
            try:
                return self.network.fingerprint
            except CannotDescribeError as error:
                warn(
                    f"What the {type(model).__name__} computes may depend on its {error}, of "
                    "which there is no digest. So it is not noticed if another model is used "
                    "when the store is continued."
                )
                return None


def _groups(documents):
    """Yield lists of documents that are tokenized together."""
    group, n_characters = [], 0
    for document in documents:
        n_new = len(document.text or ())
        is_full = len(group) == TEXTS_AT_ONCE or n_characters + n_new > CHARACTERS_AT_ONCE
        if group and is_full:
            yield group
            group, n_characters = [], 0
        group.append(document)
        n_characters += n_new
    if group:
        yield group


def _name_of(model):
    """A name of the model that is the same on other machines."""
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        return Path(name).name if os.path.isdir(name) else name
    return type(model).__name__


def _digest_of_tokenizer(tokenizer, special_ids):
    if tokenizer is None:
        return None
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("padding", "truncation"):  # of the last call, and not of the tokenizer
        content.pop(name, None)
    text = json.dumps([content, special_ids.tolist()], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
