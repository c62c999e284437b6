"""What `cache` costs when all is in it: CPU milliseconds per call, and of the digest of the model.

One sample and a ready module of 25 million parameters, of which a third is run: without cache a
call is bookkeeping and a small product, with it bookkeeping, the digest and reading a file.
Medians, then the least of all calls.
"""

import tempfile
import time

import numpy as np
import torch

from skdict import ActivationExtractor
from skdict._core.language.network import Network

N_CALLS = 30


def milliseconds(functions):
    """Medians and least times of functions called in turn."""
    times = {name: [] for name in functions}
    for _ in range(N_CALLS):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(1000 * (time.process_time() - start))
    return {name: (np.median(each), min(each)) for name, each in times.items()}


def main():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(2048, 4096),
        torch.nn.ReLU(),
        torch.nn.Linear(4096, 4096),
        torch.nn.Linear(4096, 8),
    )
    X = np.zeros((1, 2048), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        extractors = {
            "without cache": ActivationExtractor(model, "1", tokenizer=None),
            "with cache": ActivationExtractor(model, "1", tokenizer=None, cache=folder),
        }
        functions = {
            name: lambda extractor=extractor: extractor.transform(X)
            for name, extractor in extractors.items()
        }
        functions["digest"] = lambda: Network(model).fingerprint
        for function in functions.values():
            function()
        for name, (median, least) in milliseconds(functions).items():
            print(f"{name:15} {median:7.1f} {least:7.1f}")


if __name__ == "__main__":
    main()
