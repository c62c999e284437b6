"""How often does a GPU get something to do, and the host wait for it? Counted without a GPU.

    python benchmarks/launches.py

The pretended device of the tests counts operators of torch that run on it (an operator may be
several kernels; where Triton is, products at a support are one kernel each and here one to three
operators) and what makes the host wait until all is done. Training steps are those of
`partial_fit`: twice the steps for the same samples, and the difference. batch_topk and matryoshka
search a batch twice, and wait twice, where it has too few entries above its threshold.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import skdict  # noqa: F401, I001 - before torch

from pretend_cuda import pretend_cuda

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary

N_SAMPLES = 2048
BATCH_SIZES = 128, 256
TRAINED = {
    "relu": {"architecture": "relu"},
    "relu, dense codes": {"architecture": "relu", "alpha": 1e-4},
    "topk": {"architecture": "topk", "n_nonzero_coefs": 4},
    "batch_topk": {"architecture": "batch_topk", "n_nonzero_coefs": 4},
    "matryoshka": {"architecture": "matryoshka", "n_nonzero_coefs": 4},
    "jumprelu": {"architecture": "jumprelu", "n_nonzero_coefs": 4},
    "gated": {"architecture": "gated"},
}


def main():
    X = make_superposition(N_SAMPLES, 64, 256, l0=4.0, noise=0.02, random_state=0)[0]
    X = X.astype("float32")
    dictionaries = {}
    with pretend_cuda() as gpu:
        print("| a training step | launches | waits |\n|---|---|---|")
        for name, params in TRAINED.items():
            dictionary = SparseAutoencoderDictionary(
                512,
                batch_size=BATCH_SIZES[0],
                random_state=0,
                **params,
            )
            for _ in range(6):  # until codes are sparse, and thresholds where they stay
                dictionary.partial_fit(X)
            dictionaries[name] = dictionary
            counts = []
            for batch_size in BATCH_SIZES:
                gpu.reset()
                dictionary.set_params(batch_size=batch_size).partial_fit(X)
                counts.append((gpu.launches.total(), gpu.waits.total()))
            n_steps = N_SAMPLES // BATCH_SIZES[0] - N_SAMPLES // BATCH_SIZES[1]
            launches, waits = ((a - b) / n_steps for a, b in zip(*counts, strict=True))
            print(f"| {name} | {launches:.0f} | {waits:.2f} |", flush=True)

        print("\n| 256 samples | launches | waits |\n|---|---|---|")
        x = X[:256]
        for name in ("relu", "topk"):
            dictionary = dictionaries[name]
            for output in (False, True):
                kind = "sparse" if output else "dense"
                dictionary.set_params(sparse_output=output)
                count(gpu, f"transform, {name}, {kind}", dictionary.transform, x)
        count(gpu, "score, relu", dictionaries["relu"].score, x)
        dictionary = dictionaries["topk"].set_params(sparse_output=False)
        for algorithm in ("lasso", "omp", "threshold"):
            dictionary.set_params(transform_algorithm=algorithm)
            count(gpu, f"transform, {algorithm}", dictionary.transform, x)


def count(gpu, what, function, x):
    gpu.reset()
    function(x)
    print(f"| {what} | {gpu.launches.total():,} | {gpu.waits.total():,} |", flush=True)


if __name__ == "__main__":
    main()
