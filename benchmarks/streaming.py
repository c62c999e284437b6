"""Extraction and training at once, beside each alone: rows a second.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/streaming.py [--buffers 20] [--atoms 2048] ...

The model is the package's one-layer transformer on the Python corpus; it and the trainer use one
thread of torch each. `extractor`: rows of a stream are computed and dropped. `trainer`: fits a
stream whose rows are there already. `beside`: the same, while a thread computes rows of the stream
and drops them; what this loses, the cores lose by working at the same time. `both`: fits the
stream. Each is one pass over as many rows, in buffers of the same size; the time that ``stream()``
takes is given apart.
"""

import argparse
import threading
import time
import warnings
from contextlib import contextmanager

import torch

from skdict import ActivationExtractor, SparseAutoencoderDictionary
from skdict.datasets import load_one_layer_transformer, load_python_corpus


class Known:
    """A stream whose rows are those of one buffer, again and again, without a model."""

    def __init__(self, stream, rows):
        self.shape, self.dtype, self.ndim = stream.shape, stream.dtype, 2
        self.row_bytes, self.buffer_bytes = stream.row_bytes, stream.buffer_bytes
        self._stream, self._rows = stream, rows

    def __skdict_source__(self, device):
        source = self._stream.__skdict_source__(device)
        source.X = self
        return source

    def __len__(self):
        return self.shape[0]

    def sample(self, n_rows):
        return self._rows[:n_rows]

    def read(self, seed, start):
        for _ in range(start, len(self) + len(self._rows), len(self._rows)):
            yield self._rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--buffers", type=int, default=20)
    parser.add_argument("--atoms", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=64, help="in a buffer")
    parser.add_argument("--layer", default="layers.0.mlp.act")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    language = load_one_layer_transformer()
    extractor = ActivationExtractor(
        language.model,
        args.layer,
        tokenizer=language.tokenizer,
        long_documents="window",
        max_length=128,
    )
    texts = load_python_corpus().data
    n_rows = args.buffers * args.batches * args.batch_size
    width = extractor.stream(texts[:1]).shape[1]
    size = 2 * args.batches * args.batch_size * width * 4
    start = now()
    stream = extractor.stream(texts, n_samples=n_rows, buffer_bytes=size)
    fit(args, extractor.stream(texts, n_samples=1 << 16), args.atoms[0])  # kernels are compiled
    print(f"{stream}, {args.buffers} buffers; to look at the texts {since(start)[0]:.1f} s")
    for repeat in range(args.repeats):
        for n_atoms in args.atoms:
            compare(args, stream, n_atoms, repeat)


def compare(args, stream, n_atoms, repeat):
    n_rows = len(stream)
    rows = None
    start = now()
    for part in stream.read(0, 0):
        rows = part if rows is None else rows
    extractor = since(start)
    n_buffer = args.batches * args.batch_size
    known = Known(stream, torch.cat([rows] * (n_buffer // len(rows) + 1))[:n_buffer])
    trainer = fit(args, known, n_atoms)
    with work_beside(stream):
        beside = fit(args, known, n_atoms)
    both = fit(args, stream, n_atoms)
    speeds = [n_rows / wall for wall, _ in (extractor, trainer, beside, both)]
    cpu = both[1] / (extractor[1] + trainer[1])
    print(
        f"{repeat} {n_atoms} atoms: extractor {speeds[0]:,.0f}, trainer {speeds[1]:,.0f}, beside "
        f"{speeds[2]:,.0f}, both {speeds[3]:,.0f} rows/s: {speeds[3] / min(speeds[:2]):.2f} of "
        f"the slower, {speeds[3] / speeds[2]:.2f} of beside; seconds of the processor "
        f"{extractor[1]:.1f}, {trainer[1]:.1f}, {both[1]:.1f}: {cpu:.2f} of the sum",
        flush=True,
    )


@contextmanager
def work_beside(stream):
    """Compute rows of a stream in a thread, over and over, and drop them."""
    is_over = threading.Event()

    def compute():
        while not is_over.is_set():
            for _ in stream.read(0, 0):
                if is_over.is_set():
                    return

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def fit(args, X, n_atoms):
    sae = SparseAutoencoderDictionary(
        n_atoms,
        architecture="topk",
        n_nonzero_coefs=32,
        max_iter=1,
        batch_size=args.batch_size,
        early_stopping=False,
        random_state=0,
    )
    start = now()
    sae.fit(X)
    return since(start)


def now():
    return time.perf_counter(), time.process_time()


def since(start):
    """Seconds on the wall, and of the processor."""
    return tuple(after - before for before, after in zip(start, now(), strict=True))


if __name__ == "__main__":
    main()
