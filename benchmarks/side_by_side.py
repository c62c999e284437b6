"""The main rows of this checkout and of another, in turn.

    python benchmarks/side_by_side.py FOLDER [--rounds 15] [--tasks topk_step,lasso]

A program of each checkout waits for its turn: one go of the one, one of the other, and so on, in
changing order. Printed are the medians and the median of the ratios of neighbours, with its
quartiles: below 1 this checkout is the faster; and the least times, for what takes a moment and
is repeated often enough to find one in which no other program had the core. Each runs its own
copy of this script, as the modules that it imports move; a task that the other's copy does not
have is run by this one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import busy

HERE = Path(__file__).resolve().parent
SCRIPT = Path("benchmarks", "side_by_side.py")  # each checkout's own: inner modules move


def _step(architecture):
    import torch
    from peers import skdict

    from skdict._core.models.architectures import make_architecture
    from skdict._core.solvers.schedule import Schedule

    x = torch.randn(4096, 512, generator=torch.Generator().manual_seed(0))
    training = skdict(x, make_architecture(architecture, 32), 4096)
    schedule = Schedule(alpha=2.0, learning_rate=0.001, n_steps=10_000)
    return lambda: training.step(x, schedule)


def topk_step():
    return _step("topk")


def relu_step():
    return _step("relu")


def alternating_fit():
    import numpy as np

    from skdict import SparseAutoencoderDictionary

    X = np.random.default_rng(0).standard_normal((4000, 128)).astype("f4")
    sae = SparseAutoencoderDictionary(512, solver="alternating", max_iter=1, random_state=0)
    return lambda: sae.fit(X)


def loss_recovered():
    """Of 4,096 atoms in the embedded transformer, on 8 texts of 2,000 characters."""
    from skdict import ActivationExtractor, SparseAutoencoderDictionary
    from skdict.datasets import load_one_layer_transformer, load_python_corpus
    from skdict.metrics import loss_recovered

    language, layer = load_one_layer_transformer(), "transformer.h.0.mlp.act"
    texts = [text[:2000] for text in load_python_corpus(subset="test").data if len(text) > 2000]
    texts = texts[:16]
    X = ActivationExtractor(language.model, layer, tokenizer=language.tokenizer).transform(texts)
    sae = SparseAutoencoderDictionary(
        4096, architecture="topk", n_nonzero_coefs=32, max_iter=1, random_state=0
    ).fit(X)
    arguments = language.model, layer, sae, texts[:8]
    return lambda: loss_recovered(*arguments, tokenizer=language.tokenizer)


def omp():
    import numpy as np

    from skdict.decomposition import sparse_encode

    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((1024, 128)).astype("f4")
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    X = rng.standard_normal((4000, 128)).astype("f4")
    return lambda: sparse_encode(X, atoms, algorithm="omp", n_nonzero_coefs=12)


def one_epoch():
    """A whole fit of 200,000 x 512, one epoch."""
    import numpy as np

    from skdict import SparseAutoencoderDictionary

    X = np.random.default_rng(0).standard_normal((200_000, 512), dtype="f4")
    sae = SparseAutoencoderDictionary(
        1024, architecture="topk", n_nonzero_coefs=32, max_iter=1, random_state=0
    )
    return lambda: sae.fit(X)


def _wide(**params):
    import numpy as np

    from skdict import SparseAutoencoderDictionary

    X = np.random.default_rng(0).standard_normal((4096, 512), dtype="f4")
    params = {"max_iter": 1, "dict_init": "random", "random_state": 0} | params
    return SparseAutoencoderDictionary(**params).fit(X[:1024]), X


def transform_wide():
    """Codes of 4,096 rows by 8,192 top-k atoms, as CSR."""
    options = {"architecture": "topk", "n_nonzero_coefs": 32, "sparse_output": True}
    sae, X = _wide(n_components=8192, **options)
    return lambda: sae.transform(X)


def transform_wide_dense():
    """The same, as a dense array."""
    sae, X = _wide(n_components=8192, architecture="topk", n_nonzero_coefs=32)
    return lambda: sae.transform(X)


def _row(algorithm, **params):
    """One row on 4,096 atoms, after a first call."""
    sae, X = _wide(n_components=4096, transform_algorithm=algorithm, **params)
    sae.transform(X[:1])
    return lambda: sae.transform(X[1:2])


def lasso_row():
    return _row("lasso", solver="lasso")


def omp_row():
    return _row("omp", solver="lasso", transform_n_nonzero_coefs=32)


def threshold_row():
    return _row("threshold", solver="lasso")


def encoder_row():
    return _row("encoder", architecture="topk", n_nonzero_coefs=32)


def score():
    import numpy as np

    from skdict import SparseAutoencoderDictionary

    X = np.random.default_rng(0).standard_normal((20_000, 128)).astype("f4")
    sae = SparseAutoencoderDictionary(512, max_iter=1, random_state=0).fit(X[:4000])
    return lambda: sae.score(X)


TASKS = busy.TASKS | {
    function.__name__: function
    for function in (
        topk_step,
        relu_step,
        alternating_fit,
        omp,
        score,
        loss_recovered,
        one_epoch,
        transform_wide,
        transform_wide_dense,
        lasso_row,
        omp_row,
        threshold_row,
        encoder_row,
    )
}


def work(name):
    """In a program of its own: one go for each line that comes, and how long it took."""
    go = TASKS[name]()
    go()
    for _ in sys.stdin:
        start = time.perf_counter()
        go()
        print(time.perf_counter() - start, flush=True)


def compare(name, folders, n_rounds):
    def script(folder):
        copies = (folder / SCRIPT).read_text() + (folder / "benchmarks" / "busy.py").read_text()
        return str((folder if f"def {name}(" in copies else HERE.parent) / SCRIPT)

    programs = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", script(folder), str(folder), "--work", name],
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]

    def seconds(program):
        program.stdin.write("\n")
        program.stdin.flush()
        return float(program.stdout.readline())

    found = []
    for i in range(n_rounds + 2):
        order = programs if i % 2 else programs[::-1]
        pair = [seconds(program) for program in order]
        found.append(pair if i % 2 else pair[::-1])
    for program in programs:
        program.communicate()
    return found[2:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="another checkout of skdict")
    parser.add_argument("--rounds", type=int, default=15)
    tasks = [name for name in TASKS if name != "saelens"]
    parser.add_argument("--tasks", default=",".join(tasks))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    print("| task | here, ms | there, ms | ratio (quartiles) | least, ms |\n|---|---|---|---|---|")
    for name in arguments.tasks.split(","):
        pairs = compare(name, [HERE.parent, arguments.folder.resolve()], arguments.rounds)
        here, there = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
        low, middle, high = statistics.quantiles([a / b for a, b in pairs])
        ratio = f"{middle:.3f} ({low:.3f} to {high:.3f})"
        least = " and ".join(f"{1e3 * min(column):.4g}" for column in zip(*pairs, strict=True))
        print(f"| {name} | {here:.4g} | {there:.4g} | {ratio} | {least} |", flush=True)


if __name__ == "__main__":
    main()
