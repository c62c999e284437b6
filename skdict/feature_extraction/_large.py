"""What an extractor does with more texts than fit in memory."""

from numbers import Integral

from ._stream import ActivationStream
from ._text_sources import text_source
from ._to_store import write_store
from ._windows import DocumentReader


class LargeDataMixin:
    """Methods of an `ActivationExtractor` whose memory does not grow with the texts."""

    def to_store(
        self,
        texts,
        path,
        *,
        layers=None,
        text_column="text",
        dtype="auto",
        shard=(0, 1),
        shard_rows=None,
        block_rows=None,
    ):
        """Write the activations of texts to a store on disk, in memory that does not grow.

        Called again with the same texts, it goes on where it was stopped or killed, and the files
        come out the same to the byte (on the same machine, with the same `batch_size`). What has
        been written can be read meanwhile.

        Parameters
        ----------
        texts : iterable, or path or list of paths
            - a list, an array or a Series of str, or any iterable of them; in the place of a str
              also (id, str), with an integer that becomes the column "id" of the tokens, or the
              token ids of a text, as a list or an array;
            - a `Dataset` or `IterableDataset` of Hugging Face, or an iterable of dicts, with the
              texts in `text_column`;
            - the path or URL of a file, a folder, or a pattern with "*", or a list of them: a
              document is a row of a ".parquet" file (which needs polars), or a line of a
              ".jsonl", ".jsonl.gz", ".txt" or ".txt.gz" file;
            - an iterable of (activations, tokens), of a model that was run elsewhere: an array of
              shape (n, width), or a dict of one for each layer, and a dict of columns, or an
              array of token ids. The model is not used then.

            Documents without tokens have no rows, but count. A generator is read anew from its
            beginning when the store is continued, and what was read before is passed over.

        path : str or path-like
            Folder of the store, or a URL that fsspec knows.

        layers : list of str, default=None
            Layers that are read in the same forward passes; None for that of the extractor. Names
            that are no paths have their own side, as "layers.5.mlp.out".

        text_column : str, default="text"
            Column with the texts, of tables, parquet and jsonl.

        dtype : {"auto", "float16", "bfloat16", "float32"}, default="auto"
            What is stored. "auto" is bfloat16 where the model computes in it, else float16.

        shard : tuple of (int, int), default=(0, 1)
            (i, n): take the documents i, i + n, i + 2n, ... Then n processes, on any machines,
            write one store together. They need not know of each other.

        shard_rows : int, default=None
            Rows of a shard; None for as many as make 1 GiB.

        block_rows : int, default=None
            Rows that are hashed, read and shuffled together. None for 64, or for as many as make
            64 KB.

        Returns
        -------
        store : ActivationStore
            With the columns "document", the number of the text, "position" (in the window that
            the model was given, special tokens included), "token_id", and of texts "start" and
            "end", the first character and the one after the last: as `tokens` has them.

        Raises
        ------
        ValueError
            If a parameter or a text is not valid, or the store holds activations of another
            model, layer, tokenizer or other texts; names what differs.

        See Also
        --------
        ActivationStore : What is written.

        Notes
        -----
        At most some tens of megabytes of activations are in memory, or two batches of the model.
        Texts are tokenized as a whole. `cache` is not used.

        What tells one collection of texts from another is cheap: of lists a digest of all, with
        their activations if these are given, of tables the number of rows and a digest of some,
        of files their names and sizes, of other iterables their first text.

        Examples
        --------
        >>> from skdict.datasets import load_one_layer_transformer
        >>> from skdict.feature_extraction import ActivationExtractor
        >>> folder = load_one_layer_transformer().path
        >>> extractor = ActivationExtractor(folder, "layers.0.mlp.act")
        >>> texts = (f"import module_{i}" for i in range(100))
        >>> store = extractor.to_store(texts, "activations", layers=["layers.0.out"])
        >>> store.layers, len(store.documents)
        ({'layers.0.out': 128}, 100)
        >>> sorted(store.tokens())
        ['document', 'end', 'position', 'start', 'token_id']
        """
        self._validate()
        return write_store(
            self,
            texts,
            path,
            layers=layers,
            text_column=text_column,
            dtype=dtype,
            shard=shard,
            shard_rows=shard_rows,
            block_rows=block_rows,
        )

    def stream(self, texts, *, text_column="text", n_samples=None, buffer_bytes=1 << 31):
        """Activations that are computed while a dictionary learns from them, as X of its `fit`.

        The model runs in a thread of its own and fills a buffer with rows, while the dictionary
        takes its batches from the one before. Nothing is written to disk.

        Parameters
        ----------
        texts : iterable, or path or list of paths
            As of :meth:`to_store`, but not activations. They are read and run once for each pass
            (`max_iter`); a generator can be read once.

        text_column : str, default="text"
            Column with the texts, of tables, parquet and jsonl.

        n_samples : int, default=None
            Rows of a pass and those that are held out, for texts without an end or to use some
            of them. If None, all texts are tokenized first to count their rows.

        buffer_bytes : int, default=2147483648
            Memory of the two buffers. Each holds 256 batches, or as many as fit.

        Returns
        -------
        stream : ActivationStream
            Has `shape` and `dtype`. Estimators take it in `fit`, `transform`, `score` and
            `score_samples`; the rows of the latter are in the order of the texts.

        Raises
        ------
        ValueError
            If a parameter or a text is not valid.

        See Also
        --------
        to_store : Writes them to disk, for several fits, searches, or a fit that goes on after an
            interruption.

        Notes
        -----
        Batches follow from the seed of the fit alone. Windows of up to 256 MB of tokens are drawn
        from all texts at random; of more texts, from a pool of as many as fill four buffers. So
        texts of large collections should not be sorted. The rows of a buffer are permuted.

        Mean and scale, the initial dictionary and what is measured of a fit come from 32,768 rows,
        drawn from the windows that are kept. Held-out rows are those of whole texts, at most as
        many. `partial_fit`, cross-validation and solvers that need all rows in memory do not take
        streams. With several processes each of them runs the model on all texts: use a store.

        Examples
        --------
        >>> from skdict import ActivationExtractor, SparseAutoencoderDictionary
        >>> from skdict.datasets import load_one_layer_transformer
        >>> folder = load_one_layer_transformer().path
        >>> extractor = ActivationExtractor(folder, "layers.0.out")
        >>> texts = [f"import module_{i}" for i in range(500)]
        >>> stream = extractor.stream(texts)
        >>> sae = SparseAutoencoderDictionary(16, max_iter=2, random_state=0).fit(stream)
        >>> sae.components_.shape
        (16, 128)
        """
        self._validate()
        if self.pooling is not None:
            raise ValueError(
                f"A stream has a row for each token, but pooling={self.pooling!r}. Set "
                "pooling=None."
            )
        for name, value in (("n_samples", n_samples), ("buffer_bytes", buffer_bytes)):
            is_count = isinstance(value, Integral) and not isinstance(value, bool) and value > 0
            if not is_count and (name, value) != ("n_samples", None):
                raise ValueError(f"{name} must be an integer of at least 1, not {value!r:.60}.")
        source = text_source(texts, text_column)
        if source.first.rows is not None:
            raise ValueError(
                "texts are activations, which need not be computed. Write them with to_store, or "
                "give arrays to fit."
            )
        if n_samples is None and not source.can_be_read_again:
            raise ValueError(
                f"n_samples is needed: a {type(texts).__name__} can be read once, so its rows "
                "cannot be counted first. Or give a list, files, or an object whose __iter__ "
                "begins anew."
            )
        reader = DocumentReader(self, [self.layer])
        return ActivationStream(
            reader, source, n_samples=n_samples, buffer_bytes=int(buffer_bytes)
        )
