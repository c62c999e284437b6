"""From which fraction of non-zeros on do the dense products pay? (`DENSE_ABOVE`)

    python benchmarks/sparse_path.py

Times the objective and all gradients of one ReLU step along the sparse path (scan, values at the
support, reconstruction, sparse gradients) and along the dense path, alternating, for codes whose
bias was set so that a given fraction of them is non-zero. Median milliseconds and their ratio.
"""

import argparse
import statistics
import time

import torch

from skdict._core.models.architectures import ARCHITECTURES
from skdict._core.models.autoencoder import Autoencoder
from skdict._core.solvers.autoencoder_training import DENSE_ABOVE


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--n-features", type=int, default=512)
    parser.add_argument("--n-components", type=int, default=4096)
    parser.add_argument("--n-repeats", type=int, default=9)
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(arguments.batch_size, arguments.n_features, generator=generator)
    atoms = torch.randn(arguments.n_components, arguments.n_features, generator=generator)
    atoms /= torch.linalg.vector_norm(atoms, dim=1, keepdim=True)
    autoencoder = Autoencoder.from_dictionary(atoms, ARCHITECTURES["relu"](), encoder_scale=1.0)
    for tensor in autoencoder.tensors:
        tensor.requires_grad_(True)
    pre_activations = (x @ atoms.T).flatten()[:: max(1, len(x) // 50)]

    def step(sparse):
        start = time.perf_counter()
        support = autoencoder.select(x) if sparse else None
        objective, values, _ = autoencoder.objective(x, 0.1, support)
        objective.backward()
        for tensor in autoencoder.tensors:
            tensor.grad = None
        return time.perf_counter() - start, torch.count_nonzero(values).item()

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(arguments)}")
    print(f"{'non-zeros':>10} {'sparse, ms':>11} {'dense, ms':>10} {'ratio':>6}")
    for density in (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5):
        threshold = torch.quantile(pre_activations, 1 - density)
        with torch.no_grad():
            autoencoder.encoder_bias.fill_(-threshold)
        times = {True: [], False: []}
        for _ in range(arguments.n_repeats + 1):
            for sparse in times:
                seconds, n_nonzero = step(sparse)
                times[sparse].append(1000 * seconds)
        sparse, dense = (statistics.median(times[kind][1:]) for kind in (True, False))
        n_entries = arguments.batch_size * arguments.n_components
        print(f"{n_nonzero / n_entries:10.2%} {sparse:11.1f} {dense:10.1f} {sparse / dense:6.2f}")
    print(f"DENSE_ABOVE = {DENSE_ABOVE}")


if __name__ == "__main__":
    main()
