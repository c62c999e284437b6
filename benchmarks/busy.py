"""Work beside other work: two programs at once, beside busy loops, on one core.

    python benchmarks/busy.py [--against FOLDER] [--seconds 6] [--tasks small_fit,lasso]

For each task the mean seconds of one go, in programs of their own: alone; of two at once; beside
two loops that do nothing; and with one core only, by affinity and by a quota. A fair share of two
cores is 2.0 times the time alone for two at once, where both cores are used alone. With --against
the same of another checkout of skdict, each condition right after the other's. "saelens" is a
training step of SAELens, if it is installed.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CGROUP = Path("/sys/fs/cgroup/cpu/skdict-busy")  # of version 1; needs root


def small_fit():
    import numpy as np

    from skdict import SparseAutoencoderDictionary

    X = np.random.default_rng(0).standard_normal((2000, 64)).astype("f4")
    return lambda: SparseAutoencoderDictionary(128, max_iter=20, random_state=0).fit(X)


def large_fit():
    import numpy as np

    from skdict import SparseAutoencoderDictionary

    X = np.random.default_rng(0).standard_normal((16_000, 256)).astype("f4")
    return lambda: SparseAutoencoderDictionary(
        1024, architecture="topk", n_nonzero_coefs=32, max_iter=1, batch_size=1024, random_state=0
    ).fit(X)


def transform(n_samples=50_000, n_features=256, n_components=1024):
    import numpy as np

    from skdict import SparseAutoencoderDictionary

    X = np.random.default_rng(0).standard_normal((n_samples, n_features)).astype("f4")
    sae = SparseAutoencoderDictionary(
        n_components, architecture="topk", n_nonzero_coefs=32, max_iter=1, random_state=0
    )
    sae.fit(X[:4000])
    return lambda: sae.transform(X)


def small_transform():
    return transform(500, 64, 128)


def lasso():
    import numpy as np

    from skdict.decomposition import sparse_encode

    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((512, 128)).astype("f4")
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    X = rng.standard_normal((4000, 128)).astype("f4")
    return lambda: sparse_encode(X, atoms, alpha=3.0)


def grid():
    import numpy as np
    from sklearn.model_selection import GridSearchCV

    from skdict import SparseAutoencoderDictionary

    X = np.random.default_rng(0).standard_normal((2000, 64)).astype("f4")
    search = GridSearchCV(
        SparseAutoencoderDictionary(128, max_iter=10, random_state=0),
        {"alpha": [0.3, 1.0]},
        cv=2,
        n_jobs=2,
    )
    return lambda: search.fit(X)


def extraction():
    from skdict import ActivationExtractor
    from skdict.datasets import load_one_layer_transformer, load_python_corpus

    bunch = load_one_layer_transformer()
    texts = load_python_corpus(subset="test").data[:8]
    extractor = ActivationExtractor(
        bunch.model,
        "transformer.h.0.mlp.act",
        tokenizer=bunch.tokenizer,
        long_documents="window",
    )
    return lambda: extractor.transform(texts)


def saelens():
    import torch
    from peers import saelens

    _, step = saelens("topk", 256, 1024, n_steps=10_000, batch_size=1024)
    x = torch.randn(1024, 256, generator=torch.Generator().manual_seed(0))
    return lambda: step(x)


TASKS = {
    function.__name__: function
    for function in (
        small_fit,
        large_fit,
        small_transform,
        transform,
        lasso,
        grid,
        extraction,
        saelens,
    )
}


def work(name, seconds):
    """In a program of its own: go on for so long, print the mean seconds of one go."""
    go = TASKS[name]()
    go()
    print("ready", flush=True)
    sys.stdin.readline()
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        go()
        n += 1
    print((time.perf_counter() - start) / n, flush=True)


def measure(name, folder, seconds, n_programs=1, n_loops=0, enter=None):
    """Mean seconds of one go in programs that begin together."""
    command = [sys.executable, "-W", "ignore", __file__, "--work", name, "--seconds", str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    for variable in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        environment.pop(variable, None)
    programs = [
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=enter,
        )
        for _ in range(n_programs)
    ]
    for program in programs:
        if program.stdout.readline() != "ready\n":
            raise RuntimeError(f"{name} failed in {folder}")
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_loops)]
    try:
        for program in programs:
            program.stdin.write("\n")
            program.stdin.flush()
        found = [float(program.communicate()[0]) for program in programs]
    finally:
        for loop in loops:
            loop.kill()
    return sum(found) / len(found)


def one_core():
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def quota_of_one_core():
    (CGROUP / "cgroup.procs").write_text(str(os.getpid()))


def conditions():
    """{name: options of `measure`} of all that this machine can do."""
    n = os.cpu_count()
    found = {
        "alone": {},
        f"{n} at once": {"n_programs": n},
        f"beside {n} loops": {"n_loops": n},
        "one core": {"enter": one_core},
    }
    try:
        CGROUP.mkdir(exist_ok=True)
        (CGROUP / "cpu.cfs_period_us").write_text("100000")
        (CGROUP / "cpu.cfs_quota_us").write_text("100000")
        found["quota of one core"] = {"enter": quota_of_one_core}
    except OSError:
        print("no quota: a cgroup cannot be made here")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout of skdict")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.seconds)
        return
    folders = {"": HERE.parent}
    if arguments.against:
        folders["before"] = arguments.against.resolve()
    columns = conditions()
    print(f"| ms (as a multiple of alone) | {' | '.join(columns)} |")
    print("|" + "---|" * (len(columns) + 1))
    for name in arguments.tasks.split(","):
        cells = {label: [] for label in folders}
        for options in columns.values():
            for label, folder in folders.items():
                cells[label].append(measure(name, folder, arguments.seconds, **options))
        for label, found in cells.items():
            ratios = (f"{1e3 * each:.4g} ({each / found[0]:.2f})" for each in found)
            print(f"| {name} {label} | {' | '.join(ratios)} |", flush=True)
    if CGROUP.exists():
        CGROUP.rmdir()


if __name__ == "__main__":
    main()
