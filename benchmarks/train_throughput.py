"""Training throughput: skdict's step beside the step of SAELens, and beside its own floor.

Everything on the same activations, the 512 MLP neurons of the embedded transformer, in the same
process, a few steps of each in turn.

    pip install -c constraints.txt -e ".[bench]"
    pip install --no-deps dictionary-learning==0.1.0
    python benchmarks/train_throughput.py

prints three tables: whole runs of "relu" under the L1 penalty from initialisation, in stretches;
"topk" after its beginning as "relu"; and what a step of each spends its time on, beside the floor,
the product of the encoder's scan at the rate that this machine reaches in the same run.
"""

import argparse
import time
import warnings
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from activations import collect, draw, load_extractor
from peers import dictionary_learning, saelens, skdict, sparsify

from skdict._core.coding import Encoder
from skdict._core.kernels import differentiable
from skdict._core.kernels.cpu.instructions import cpu_has_bfloat16
from skdict._core.models import autoencoder as autoencoder_module
from skdict._core.models.architectures import ARCHITECTURES
from skdict._core.optim import UnitNormAdam
from skdict._core.solvers.schedule import Schedule


def activations(n_tokens):
    """Activations (n_tokens, 512), centred, scaled to E‖x‖² = 512."""
    _, extractor = load_extractor()
    x = torch.from_numpy(collect(extractor, draw("train")[0], n_tokens))
    x = x - x.mean(dim=0)
    return x * (x.shape[1] / x.square().sum(dim=1).mean()).sqrt()


def skdict_stepper(x, architecture, n_components, **schedule):
    training = skdict(x, architecture, n_components)
    return training, partial(training.step, schedule=Schedule(**schedule))


def floor(x, n_components):
    """The encoder's scan alone, in bfloat16 where `select` uses it."""
    dtype = torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    weight = torch.randn(n_components, x.shape[1]).to(dtype)
    x = x.to(dtype)

    def scan(_):
        for block in x.split(512):
            F.linear(block, weight)

    return scan


def alternate(steps, batches, n_in_a_row=1):
    """Seconds of each step on each batch: a dict of lists.

    Of several in a row the first is not counted: it finds the caches as another left them.
    """
    seconds = {name: [] for name in steps}
    for first in range(0, len(batches), n_in_a_row):
        for name, step in steps.items():
            for i, batch in enumerate(batches[first : first + n_in_a_row]):
                start = time.perf_counter()
                step(batch)
                if i > 0 or n_in_a_row == 1:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def l0(training, x):
    autoencoder = training.autoencoder
    encoder = Encoder(*autoencoder.folded(), autoencoder.architecture.n_largest)
    return float(encoder(x[:1000] - autoencoder.intercept).counts.float().mean())


def whole_runs(x, batches, arguments):
    """relu from initialisation; theirs is timed on every tenth step, which all take as long."""
    alpha = 0.1 * x.shape[1] ** 0.5  # alpha="auto" in these units
    training, ours = skdict_stepper(
        x,
        ARCHITECTURES["relu"](),
        arguments.n_components,
        alpha=alpha,
        learning_rate=0.1 / x.shape[1] ** 0.5,
        n_steps=arguments.n_steps,
    )
    _, theirs = saelens(
        "standard",
        x.shape[1],
        arguments.n_components,
        n_steps=arguments.n_steps,
        batch_size=arguments.batch_size,
        l1_coefficient=2 * alpha,
    )
    scan = floor(next(batches), arguments.n_components)
    stretch = arguments.n_steps // 10
    print(f"\n{'steps':>10} {'L0':>7} {'skdict':>9} {'standard':>9} {'ratio':>6} {'/ floor':>8}")
    means = []
    for first in range(0, arguments.n_steps, stretch):
        mine, peers, floors = [], [], []
        for i in range(stretch):
            batch = next(batches)
            mine += alternate({"": ours}, [batch])[""]
            if i % max(stretch // 5, 1) == 0:
                peers += alternate({"": theirs}, [batch])[""]
                floors += alternate({"": scan}, [batch])[""]
        means.append((np.mean(mine), np.median(peers), np.median(floors)))
        row(f"{first + 1}–{first + stretch}", l0(training, x), *means[-1], arguments)
    row("all", l0(training, x), *np.mean(means, axis=0), arguments)
    return training, ours


def row(name, non_zeros, mine, peer, lowest, arguments):
    rates = arguments.batch_size / mine, arguments.batch_size / peer
    print(
        f"{name:>10} {non_zeros:7.1f} {rates[0]:9,.0f} {rates[1]:9,.0f} {peer / mine:6.2f} "
        f"{mine / lowest:8.2f}",
        flush=True,
    )


def sparse_steps(x, batches, arguments):
    """topk and the other architectures that keep few, beside SAELens' topk and the floor."""
    k, steps = arguments.k, {}
    # A short run, of which the steps after the last resampling are timed.
    n_steps, n_first = 300, 230
    for name in ("topk", "batch_topk", "matryoshka"):
        architecture = ARCHITECTURES[name](k)
        _, steps[name] = skdict_stepper(
            x,
            architecture,
            arguments.n_components,
            alpha=0.1 * x.shape[1] ** 0.5,
            learning_rate=0.1 / x.shape[1] ** 0.5,
            n_steps=n_steps,
        )
        for _ in range(n_first):
            steps[name](next(batches))
    sizes = x.shape[1], arguments.n_components
    for name, autocast in (("SAELens topk float32", False), ("SAELens topk bfloat16", True)):
        _, steps[name] = saelens(
            "topk", *sizes, n_steps=1000, batch_size=arguments.batch_size, k=k, autocast=autocast
        )
    steps["sparsify"] = sparsify(*sizes, k=k)
    steps["dictionary_learning"] = dictionary_learning(*sizes, n_steps=1000, k=k)
    steps["floor: the scan"] = floor(next(batches), arguments.n_components)
    for step in steps.values():  # compiled, allocated, threads started
        for _ in range(3):
            step(next(batches))
    repeats = [
        alternate(steps, [next(batches) for _ in range(12)], n_in_a_row=6) for _ in range(3)
    ]
    medians = {name: [np.median(seconds[name]) for seconds in repeats] for name in steps}
    print(f"\nMilliseconds a step, medians of ten, three times; k = {k}")
    for name, seconds in medians.items():
        ratios = np.divide(seconds, medians["topk"])
        print(
            f"{name:22} "
            + " ".join(f"{1e3 * s:7.1f}" for s in seconds)
            + "   / topk "
            + " ".join(f"{ratio:6.2f}" for ratio in ratios)
        )
    return steps


def phases(name, step, batches):
    """Where the time of a step goes, by timing the functions it is made of."""
    spent = {}

    def timed(owner, attribute, label):
        function = getattr(owner, attribute)

        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            spent[label] = spent.get(label, 0.0) + time.perf_counter() - start
            return result

        setattr(owner, attribute, wrapper)
        return partial(setattr, owner, attribute, function)

    undo = [
        timed(autoencoder_module, "select", "select"),
        timed(differentiable, "sampled_product", "encode_at, products with the residual"),
        timed(differentiable, "weighted_sums", "decode"),
        timed(differentiable, "transposed_product", "gradients of both weights"),
        timed(UnitNormAdam, "step", "optimiser"),
    ]
    n_steps = 10
    start = time.perf_counter()
    for _ in range(n_steps):
        step(next(batches))
    total = time.perf_counter() - start
    for restore in undo:
        restore()
    spent["everything else"] = total - sum(spent.values())
    print(f"\n{name}, milliseconds a step")
    for label, seconds in {**spent, "all": total}.items():
        print(f"{label:40} {1e3 * seconds / n_steps:7.1f}  {seconds / total:5.0%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-components", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--n-steps", type=int, default=1000)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--n-tokens", type=int, default=200_000)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")

    x = activations(arguments.n_tokens)
    generator = torch.Generator().manual_seed(1)
    batches = iter(
        lambda: x[torch.randint(len(x), (arguments.batch_size,), generator=generator)], None
    )
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {x.shape[1]} features, "
        f"{arguments.n_components} atoms, batch {arguments.batch_size}; activations a second"
    )
    steps = sparse_steps(x, batches, arguments)
    phases("topk", steps["topk"], batches)
    _, relu = whole_runs(x, batches, arguments)
    phases("relu, at the end of its run", relu, batches)


if __name__ == "__main__":
    main()
