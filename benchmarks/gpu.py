"""Everything that a GPU has to show: correctness, throughput beside other libraries, a profile.

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/gpu.py

compares the operations on the device with dense products in float64, then times a training step
of "topk" with 2,304 features, 65,536 atoms, batch 8,192 and k = 64 beside SAELens and sparsify, on
the same batches, and beside the floor, the product of the encoder's scan in bfloat16; then prints
what a step spends its time on. ``--device cpu`` with small sizes tries the command itself.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from peers import saelens, skdict, sparsify
from torch.profiler import ProfilerActivity, profile

from skdict._core import kernels
from skdict._core.models.architectures import TopK
from skdict._core.solvers.schedule import Schedule


def planted(n_samples, n_features, generator, n_active=32):
    """Samples with ``n_active`` of 16,384 random directions each, and 5 % noise; E‖x‖² = d."""
    device = generator.device
    atoms = torch.randn(16_384, n_features, device=device, generator=generator)
    atoms /= torch.linalg.vector_norm(atoms, dim=1, keepdim=True)
    x = torch.empty(n_samples, n_features, device=device)
    for block in x.split(8192):
        which = torch.randint(
            len(atoms), (len(block), n_active), device=device, generator=generator
        )
        size = torch.empty(which.shape, device=device).exponential_(generator=generator)
        block[:] = torch.nn.functional.embedding_bag(
            which, atoms, per_sample_weights=size, mode="sum"
        )
    x -= x.mean(dim=0)
    x *= (n_features / x.square().sum(dim=1).mean()).sqrt()
    return x.add_(torch.randn(x.shape, device=device, generator=generator), alpha=0.05)


def check(device):
    """Operations and gradients against dense products in float64; largest relative errors."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    B, d, n, k = 256, 384, 3000, 20
    x, weight, bias, dictionary, intercept = (
        draw(B, d), draw(n, d) / d**0.5, draw(n) - 1, draw(n, d) / d**0.5, draw(d) / 10
    )  # fmt: skip
    pre = (x - intercept) @ weight.T + bias
    worst = 0.0
    for n_kept in (None, k):
        exact = [t.clone().requires_grad_() for t in (weight, bias, dictionary, intercept)]
        parts = [
            t.float().to(device).requires_grad_() for t in (weight, bias, dictionary, intercept)
        ]
        centred = (x.float().to(device) - parts[3]).detach()
        support = kernels.select(centred, parts[0], parts[1], n_kept)
        mask = torch.zeros(B, n, dtype=torch.bool)
        mask[support.rows.cpu(), support.indices.cpu()] = True
        if n_kept is None:
            assert mask[pre > 1e-3].all(), "the scan missed positive pre-activations"
        else:
            share = mask.gather(1, pre.topk(k).indices).double().mean()
            print(f"of the {k} largest the scan found {share:.2%}")
        codes = torch.relu((x - exact[3]) @ exact[0].T + exact[1]) * mask
        (0.5 * (x - exact[3] - codes @ exact[2]).square().sum() + codes.sum()).backward()
        values = torch.relu(kernels.encode_at(centred, *parts[:2], parts[3], support))
        error, _ = kernels.reconstruction_error(values, support, parts[2], centred, parts[3])
        (error + values.sum()).backward()
        for one, other in zip(exact, parts, strict=True):
            difference = (one.grad - other.grad.double().cpu()).abs().max() / one.grad.abs().max()
            worst = max(worst, float(difference))
    print(f"largest relative error of a gradient, float32 against dense float64: {worst:.1e}")
    assert worst < 1e-4, "the operations on this device are wrong"


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--n-features", type=int, default=2304)
    parser.add_argument("--n-components", type=int, default=65_536)
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--n-steps", type=int, default=10)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    device, k = arguments.device, arguments.k
    sizes = arguments.n_features, arguments.n_components

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {name}; {vars(arguments)}")
    check(device)

    generator = torch.Generator(device).manual_seed(0)
    n_samples = max(arguments.n_components, 4 * arguments.batch_size)
    x = planted(n_samples, arguments.n_features, generator)
    batches = x.split(arguments.batch_size)
    batches = [batch for batch in batches if len(batch) == arguments.batch_size]

    # k alone from the first step, not the beginning under the L1 penalty
    schedule = Schedule(alpha=1.0, learning_rate=1e-3, from_scratch=False)
    training = skdict(x, TopK(k), arguments.n_components)
    weight, low = training.autoencoder.encoder_weight.detach().bfloat16(), batches[0].bfloat16()
    steps = {
        "floor: the scan in bfloat16": lambda batch: low @ weight.T,
        "skdict": lambda batch: training.step(batch, schedule),
    }
    for label, autocast in (("SAELens float32", False), ("SAELens bfloat16 autocast", True)):
        options = {"n_steps": 1000, "batch_size": arguments.batch_size}
        _, steps[label] = saelens("topk", *sizes, k=k, autocast=autocast, device=device, **options)
    steps["sparsify"] = sparsify(*sizes, k=k, device=device)

    seconds = {}
    for label, step in steps.items():
        memory = 0.0
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for batch in batches[:3]:
            step(batch)
        times = []
        for i in range(arguments.n_steps):
            synchronize(device)
            start = time.perf_counter()
            step(batches[i % len(batches)])
            synchronize(device)
            times.append(time.perf_counter() - start)
        seconds[label] = np.median(times)
        if device == "cuda":
            memory = torch.cuda.max_memory_allocated() / 2**30
        print(
            f"{label:28} {1e3 * seconds[label]:9.2f} ms {memory:7.2f} GiB allocated "
            f"{arguments.batch_size / seconds[label]:12,.0f} activations/s",
            flush=True,
        )
    floor, ours = seconds["floor: the scan in bfloat16"], seconds["skdict"]
    flops = 2 * arguments.batch_size * sizes[0] * sizes[1]
    fastest = min(s for label, s in seconds.items() if label.startswith(("SAELens", "sparsify")))
    print(f"scan {flops / floor / 1e12:.1f} TFLOP/s; floor / step {floor / ours:.0%} (goal: 50 %)")
    print(f"fastest of the others / skdict {fastest / ours:.2f} (goal: 3)")

    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        for batch in batches[:3]:
            training.step(batch, schedule)
        synchronize(device)
    order = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=50))


if __name__ == "__main__":
    main()
