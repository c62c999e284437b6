"""One pass from texts or activations to FeatureCodes."""

import datetime
import hashlib
import os
from numbers import Integral, Real
from pathlib import Path

import joblib
import numpy as np
import torch
from scipy.sparse import csr_array, issparse, vstack
from scipy.sparse.linalg import norm
from sklearn.pipeline import Pipeline

from ..._core.data.reading import row_slices
from ..._core.dictionary import Dictionary
from ..._core.language.texts import check_texts
from ..._core.storage import StoreView
from ...metrics._coding import last_step, with_sparse_codes
from ...metrics._rows import as_lazy_rows, as_rows, to_numpy
from ...utils._extractors import extractor_of
from ...utils._sklearn_compat import Interval, validate_params
from ...utils._warnings import warn
from ._activations import PORTION_ENTRIES, of_matrix, of_samples, of_texts
from ._active import positive_block
from ._directions import n_components_of, transformed
from ._files import Writer, state_arrays
from ._moments import Moments
from ._near import NearMisses
from ._row_tokens import RowTokens
from ._store import FeatureCodes
from ._tokens import check_tokens

# Entries that wait in memory until they are written.
ENTRIES_PER_COMMIT = 2**24


@validate_params(
    {
        "exclude_positions": ["array-like", Interval(Integral, 0, None, closed="left")],
        "exclude_tokens": ["array-like", str],
        "max_norm": [Interval(Real, 0, None, closed="neither"), None],
        "n_near_misses": [Interval(Integral, 0, None, closed="left")],
        "path": [str, os.PathLike, None],
    },
    prefer_skip_nested_validation=True,
)
def collect_codes(
    estimator,
    X,
    *,
    tokens=None,
    texts=None,
    exclude_positions=(),
    exclude_tokens=(),
    max_norm=None,
    n_near_misses=0,
    path=None,
):
    """Find the codes of a corpus in one pass of the model, and keep them with their tokens.

    What it returns is what the functions of :mod:`skdict.inspection` look at: none of them runs
    the model again, but those that change what it does.

    Parameters
    ----------
    estimator : Pipeline or estimator
        Fitted: an :class:`~skdict.feature_extraction.ActivationExtractor`, then a dictionary; or
        a dictionary alone, for activations as `X`.

    X : texts, {array-like, sparse matrix, torch.Tensor}
        What the Pipeline takes, or activations of shape (n_rows, n_features). They may be an
        :class:`~skdict.feature_extraction.ActivationStore`, or a view of some of its rows.

    tokens : mapping, default=None
        Of the rows of activations, as in `FeatureCodes.from_matrix`. An extractor knows its own,
        and so does a store that has the column "document".

    texts : sequence of str, default=None
        The texts of the activations, all of which ``tokens["document"]`` counts. From them
        ``tokens["token"]`` is made, which a store does not have. An extractor knows its own.

    exclude_positions : int or array-like of int, default=()
        Positions in the window that the model saw whose rows are left out: the first token often
        has an activation of its own kind, and large. It is at 0, or at 1 after a special token.

    exclude_tokens : str or array-like of str, default=()
        Tokens whose rows are left out, with their spaces, as in ``tokens["token"]``; a warning
        names those that never occur. Special tokens have no rows, unless the extractor says
        ``include_special_tokens=True``.

    max_norm : float, default=None
        Leave out rows whose norm exceeds this multiple of the median norm (of the first block of
        rows). A few tokens of some models have norms a thousand times that of the others.

    n_near_misses : int, default=0
        How many near misses to keep of each feature: rows on which it is inactive but closest to
        active, by the encoder's pre-activation, or else by the projection on the atom. They cost
        a second scan of the encoder's weights.

    path : str or path-like, default=None
        Folder to keep the codes in. Memory is then bounded, and an interrupted call goes on
        where it was when it is repeated with the same arguments. None keeps them in memory.

    Returns
    -------
    codes : FeatureCodes
        Rows that were left out keep their places, without codes: ``codes.counted`` tells them,
        and ``codes.provenance["left_out"]`` how many each rule took.

    Raises
    ------
    TypeError
        If the estimator cannot transform, or codes have no width known.
    ValueError
        If `X` is not what the estimator takes, a rule needs tokens that are not there, the rules
        leave no row, or the folder holds codes of something else; or if the rows of a store are
        not in the order of their documents, as ``store.documents[:]`` are, or `texts` are not
        those that it was written from.
    NotADirectoryError
        If `path` is a file.

    Warns
    -----
    UserWarning
        If `exclude_tokens` names a token that no row has; if a store has columns of tokens, but
        not "document".

    See Also
    --------
    FeatureCodes.from_matrix : For codes that exist.

    Notes
    -----
    The encoder runs on the device of the model, and of its codes only those above 0 leave it. If
    the extractor has a `cache`, activations come from there.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict import ActivationExtractor, SparseAutoencoderDictionary
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.inspection import collect_codes, top_activations
    >>> texts = ["import numpy as np", "for i in range(10):", "return x"]
    >>> extractor = ActivationExtractor(
    ...     load_one_layer_transformer().path, "transformer.h.0.mlp.act"
    ... )
    >>> dictionary = SparseAutoencoderDictionary(16, max_iter=1, random_state=0)
    >>> pipeline = make_pipeline(extractor, dictionary).fit(texts)
    >>> codes = collect_codes(pipeline, texts, exclude_positions=1)
    >>> codes.shape, codes.n_counted, codes.provenance["left_out"]
    ((16, 16), 13, {'positions': 3})
    """
    if not hasattr(estimator, "transform"):
        raise TypeError(
            "estimator must be fitted and have transform, but is a "
            f"{type(estimator).__name__}. For codes that exist, use FeatureCodes.from_matrix."
        )
    extractor = extractor_of(estimator)
    dictionary = with_sparse_codes(estimator if extractor is None else estimator[1:])
    for name, given in (("tokens", tokens), ("texts", texts)):
        if extractor is not None and given is not None:
            raise ValueError(f"{name} must be left out: the extractor of the Pipeline knows them.")
    X = _checked(X, extractor, dictionary)
    rule = Rule(exclude_positions, exclude_tokens, max_norm)
    collector = _Collector(dictionary, rule, n_near_misses)
    writer = None
    if path is not None:
        key = _key(extractor, dictionary, X, (tokens, texts), rule, n_near_misses)
        writer = Writer(Path(path), collector.n_components, key)
        if writer.progress.get("is_complete"):
            writer.close()
            return FeatureCodes.load(path)
        collector.resume(writer)
    known = provenance_of(extractor, dictionary) | _origin(X)
    start = collector.n_items
    if extractor is None:
        of_rows = RowTokens(X, tokens, texts)
        texts = of_rows.texts
        portions = of_matrix(X, of_rows, collector.n_components, start)
    elif extractor.tokenizer is None:
        portions = of_samples(extractor, X, collector.n_components, start)
    else:
        texts = X
        portions = of_texts(extractor, X, start)
    try:
        for portion in portions:
            collector.add(portion)
            if writer is not None and collector.n_waiting > ENTRIES_PER_COMMIT:
                collector.write(writer)
        collector.check_that_rows_are_left()
        rule.warn_of_unseen()
        known |= collector.provenance()
        if writer is None:
            return collector.result(texts, known)
        collector.write(writer, known, is_complete=True)
    finally:
        if writer is not None:
            writer.close()
    return FeatureCodes.load(path)


class Rule:
    """Which rows are left out.

    Parameters
    ----------
    positions, tokens : array-like
    max_norm : float or None
        Multiple of the median norm of the first rows.
    """

    def __init__(self, positions, tokens, max_norm):
        self.positions = np.atleast_1d(np.asarray(positions, dtype=np.int64))
        self.tokens = {tokens} if isinstance(tokens, str) else set(map(str, tokens))
        self.max_norm, self.limit = max_norm, None
        self.n_out, self.unseen = {}, set(self.tokens)

    def counted(self, activations, tokens):
        """Which of some rows count, bool of shape (n_rows,)."""
        counted = np.ones(activations.shape[0], dtype=bool)
        if len(self.positions):
            self._leave_out(counted, "positions", np.isin(self._column(tokens), self.positions))
        if self.tokens:
            token = self._column(tokens, "token")
            self.unseen.difference_update(token)
            self._leave_out(counted, "tokens", np.array([t in self.tokens for t in token], bool))
        if self.max_norm is not None:
            norms = _norms(activations)
            if self.limit is None:
                self.limit = self.max_norm * float(np.median(norms))
            self._leave_out(counted, "norms", norms > self.limit)
        return counted

    def _leave_out(self, counted, name, found):
        self.n_out[name] = self.n_out.get(name, 0) + int(np.count_nonzero(found & counted))
        counted &= ~found

    def _column(self, tokens, name="position"):
        if tokens is None or name not in tokens:
            raise ValueError(
                f"exclude_{name}s needs tokens with a column {name!r}, which are not known here. "
                "Give tokens (of a store: texts), or leave it out."
            )
        return tokens[name]

    def warn_of_unseen(self):
        if self.unseen:
            warn(
                f"exclude_tokens has {sorted(self.unseen)[:10]}, which no row has. Tokens are "
                "compared with their spaces, such as ' the'."
            )


def _norms(activations):
    """Euclidean norms of rows, float64; squares of half precision or integers could overflow."""
    if isinstance(activations, torch.Tensor):
        wide = torch.promote_types(activations.dtype, torch.float32)
        norms = torch.linalg.vector_norm(activations.to(wide), dim=1)
        return norms.to("cpu", torch.float64).numpy()
    if issparse(activations):
        return norm(activations.astype(np.float64), axis=1)
    return np.linalg.norm(np.asarray(activations, dtype=np.float64), axis=1)


class _Collector:
    """Codes, tokens, moments and near misses of portions of rows."""

    def __init__(self, dictionary, rule, n_near_misses):
        self.dictionary, self.rule = dictionary, rule
        self.n_components = n_components_of(dictionary)
        self.moments = Moments(self.n_components)
        self.near = None
        if n_near_misses:
            self.near = NearMisses(dictionary, self.n_components, n_near_misses)
        self.n_items = self.n_rows = self.n_waiting = 0
        self.waiting = []  # (codes, tokens, texts, counted) of portions

    def add(self, portion):
        """Code the rows of a portion."""
        activations, tokens = portion.activations, portion.tokens
        counted = self.rule.counted(activations, tokens)
        rows = np.flatnonzero(counted)
        given = activations
        if not counted.all():
            given = given.iloc[rows] if hasattr(given, "iloc") else given[rows]
        if len(rows):
            of_any_sign = as_rows(transformed(self.dictionary, given), "codes")
            codes = positive_block(of_any_sign, "codes")
        else:
            codes = of_any_sign = csr_array((0, self.n_components), dtype=np.float32)
        portion_rows = codes.shape[0]
        if portion_rows != len(rows):  # a step of the dictionary returns other rows than it gets
            if not counted.all() or tokens is not None or self.near is not None:
                raise ValueError(
                    f"The dictionary returns {portion_rows} rows for {len(rows)}: tokens, near "
                    "misses, and rules that leave rows out need one for each."
                )
            counted, rows = np.ones(portion_rows, dtype=bool), np.arange(portion_rows)
        self.moments.update(codes.indices.astype(np.int64), codes.data)
        self.moments.n_rows += portion_rows
        if self.near is not None:
            self.near.update(self.n_rows + rows, given, of_any_sign)
        if portion_rows != len(counted):
            counts = np.zeros(len(counted), dtype=np.int64)
            counts[rows] = np.diff(codes.indptr)
            parts = codes.data, codes.indices, np.append(0, np.cumsum(counts))
            codes = csr_array(parts, shape=(len(counted), self.n_components))
        self.waiting.append((codes, tokens, portion.texts, counted))
        self.n_waiting += codes.nnz
        self.n_rows += len(counted)
        self.n_items = portion.stop

    def check_that_rows_are_left(self):
        if self.moments.n_rows == 0:
            raise ValueError(
                "exclude_positions, exclude_tokens and max_norm leave none of "
                f"{self.n_rows} rows; they took {self.rule.n_out}. Leave out less."
            )

    def provenance(self):
        """What the pass has found."""
        return {
            "n_tokens": self.n_rows,
            "n_documents": self.n_items,
            "l0": float(self.moments.count.sum() / max(self.moments.n_rows, 1)),
            "left_out": dict(self.rule.n_out),
        }

    def _near_misses(self):
        return None if self.near is None else self.near.result()

    def result(self, texts, provenance):
        """What was added, in memory."""
        codes, tokens, _, counted = zip(*self.waiting, strict=True)
        self.waiting = []
        codes = codes[0] if len(codes) == 1 else vstack(codes, format="csr")
        if tokens[0] is not None:
            columns = tokens[0].keys()
            tokens = {name: np.concatenate([each[name] for each in tokens]) for name in columns}
            tokens = check_tokens(tokens, codes.shape[0], needs=("document",))
        else:
            tokens = None
        return FeatureCodes(
            codes,
            tokens=tokens,
            texts=texts,
            counted=np.concatenate(counted),
            provenance=provenance,
            moments=self.moments,
            near_misses=self._near_misses(),
            is_clean=True,
        )

    def write(self, writer, provenance=None, *, is_complete=False):
        """Move what waits to the disk."""
        for codes, tokens, texts, counted in self.waiting:
            writer.append(codes, tokens, texts, counted)
        self.waiting, self.n_waiting = [], 0
        progress = {
            "n_items": self.n_items,
            "n_counted": self.moments.n_rows,
            "limit": self.rule.limit,
            "n_out": self.rule.n_out,
            "unseen": sorted(self.rule.unseen),
            "is_complete": is_complete,
        }
        state = state_arrays(self.moments, self._near_misses())
        writer.commit(progress, state, provenance=provenance, is_complete=is_complete)

    def resume(self, writer):
        """Go on from what a folder holds."""
        if not writer.progress:
            self.write(writer)  # files without an index would be taken for another's
            return
        self.n_items, self.n_rows = writer.progress["n_items"], writer.n_rows
        self.rule.limit, self.rule.n_out = writer.progress["limit"], writer.progress["n_out"]
        self.rule.unseen = set(writer.progress["unseen"])
        self.moments, near = writer.state
        self.moments.n_rows = writer.progress["n_counted"]
        if near is not None:
            self.near.take(near)


def _checked(X, extractor, dictionary):
    if extractor is None:
        # keep a DataFrame: steps of the dictionary may check its column names
        has_names = hasattr(X, "iloc") and hasattr(dictionary, "feature_names_in_")
        return X if has_names else as_lazy_rows(X, "X")
    if extractor.tokenizer is not None:
        return check_texts(X)
    return X


def provenance_of(extractor, dictionary):
    """What is known of model and dictionary, as values of JSON."""
    import skdict

    last = last_step(dictionary)
    known = {
        "dictionary": type(last).__name__,
        "n_components": n_components_of(dictionary),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"skdict": skdict.__version__, "torch": torch.__version__},
    }
    for name in ("architecture", "solver", "transform_algorithm", "alpha_"):
        value = getattr(last, name, None)
        if value is not None:
            known[name.rstrip("_")] = value if isinstance(value, float | int | str) else str(value)
    for name in ("validation_explained_variance_", "train_explained_variance_"):
        if name not in known and getattr(last, name, None) is not None:
            known["explained_variance"] = float(getattr(last, name))
            break
    source = getattr(last, "source_", None)
    if source:
        known["source"] = str(source)
    if extractor is not None:
        model = extractor.model
        is_named = isinstance(model, str | os.PathLike)
        known["model"] = os.fspath(model) if is_named else type(model).__name__
        name = getattr(getattr(model, "config", None), "_name_or_path", "")
        if name:
            known["model"] = f"{known['model']} {name}"
        known |= {"layer": extractor.layer, "side": extractor.side}
    return known


def _origin(X):
    """What a store tells of where its rows come from, as values of JSON."""
    if not isinstance(X, StoreView):
        return {}
    model = X.store.settings.identity.get("model_name")
    return {"layer": X.layer} | ({} if model is None else {"model": model})


def _key(extractor, dictionary, X, tokens_and_texts, rule, n_near_misses):
    """What the codes depend on, for each a short string."""
    last = last_step(dictionary)
    arrays = {
        name: value
        for name, value in sorted(vars(last).items())
        if name.endswith("_") and isinstance(value, np.ndarray | Real)
    }
    if isinstance(getattr(last, "dictionary_", None), Dictionary):
        arrays["dictionary_"] = _digest_of_tensors(dict(enumerate(last.dictionary_.tensors)))
    params = {k: str(v) for k, v in sorted(last.get_params(deep=False).items())}
    before = [] if not isinstance(dictionary, Pipeline) else list(dictionary[:-1])
    is_texts = isinstance(X, list) and all(isinstance(text, str) for text in X)
    key = {
        "dictionary": joblib.hash([arrays, params, before]),
        "X": _digest_of_texts(X) if is_texts else _digest_of_matrix(X),
        "rules": [rule.positions.tolist(), sorted(rule.tokens), rule.max_norm, n_near_misses],
    }
    tokens, texts = tokens_and_texts
    columns = {name: np.asarray(tokens[name]).tolist() for name in tokens or ()}
    key["tokens"] = joblib.hash(columns)
    key["texts"] = None if texts is None else _digest_of_texts(texts)
    if extractor is not None:
        network = extractor.load().model
        params = extractor.get_params(deep=False)
        for name in ("model", "tokenizer", "cache", "batch_size", "device"):
            params.pop(name)
        key["model"] = _digest_of_tensors(network.state_dict())
        key["extractor"] = joblib.hash({k: str(v) for k, v in params.items()})
    return key


def _digest_of_texts(texts):
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _digest_of_tensors(tensors):
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):  # extra state of a module
            continue
        digest.update(f"{name}: {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest_of_matrix(X):
    if isinstance(X, StoreView):
        return X.identity  # of the hashes of all that it has
    X = X if hasattr(X, "shape") else np.asarray(X)
    digest, width = hashlib.sha256(), max(1, int(np.prod(X.shape[1:])))
    for rows in row_slices(X.shape[0], max(1, PORTION_ENTRIES // width)):
        block = X.iloc[rows] if hasattr(X, "iloc") else X[rows]
        digest.update(joblib.hash(_plain(block)).encode())
    return f"{tuple(X.shape)} {digest.hexdigest()[:32]}"


def _plain(block):
    """A block of rows as arrays: a tensor has another hash each time."""
    if isinstance(block, torch.Tensor):
        return to_numpy(block)
    if issparse(block):
        return [block.data, block.indices, block.indptr]
    return np.ascontiguousarray(block)
