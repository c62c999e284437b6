"""Quality of every architecture beside SAELens' own, after equally many steps on equal batches.

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/train_quality.py

trains each on the 512 MLP neurons of the embedded transformer (centred, E‖x‖² = 512): SAELens at
the learning rate of its comparisons, 1e-3, with its warm-ups and decay; skdict with its defaults.
skdict's L0 is brought to within 5 % of theirs, by ``n_nonzero_coefs`` where there is one, else by
a search over alpha. Printed are explained variance, alive features and, for "relu", the objective
at equal alpha, all on held-out files.
"""

import argparse
import math
import time
import warnings

import torch
from activations import collect, draw, load_extractor
from peers import saelens, saelens_inference, skdict

from skdict._core.architectures import ARCHITECTURES
from skdict._core.train import Schedule

# skdict's name, SAELens' name, their parameters
PAIRS = {
    "relu": ("standard", {"l1_coefficient": 5.0}),
    "topk": ("topk", {}),
    "batch_topk": ("batchtopk", {}),
    "matryoshka": ("matryoshka", {}),
    "jumprelu": ("jumprelu", {"l0_coefficient": 30.0}),
    "gated": ("gated", {"l1_coefficient": 5.0}),
}
ALPHA = 2.5  # half of their l1_coefficient: their loss is twice ours


def batches_of(x, n_steps, batch_size):
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    for step in range(n_steps):
        yield x[order[step * batch_size : (step + 1) * batch_size].sort().values].float()


def measure(encode, atoms, intercept, test):
    """L0, explained variance, alive fraction, objective at `ALPHA` per sample."""
    error = l0 = l1 = 0.0
    alive = torch.zeros(len(atoms), dtype=torch.bool)
    norms = torch.linalg.vector_norm(atoms, dim=1)
    with torch.no_grad():
        for block in test.split(4096):
            x = block.float()
            codes = encode(x)
            error += float((x - intercept - codes @ atoms).double().square().sum())
            l0 += int(torch.count_nonzero(codes))
            l1 += float((codes * norms).double().sum())
            alive |= (codes != 0).any(dim=0)
    x = test.double()
    total = float((x - x.mean(dim=0)).square().sum())
    return {
        "L0": l0 / len(test),
        "EV": 1 - error / total,
        "alive": float(alive.double().mean()),
        "objective": (0.5 * error + ALPHA * l1) / len(test),
    }


def run_saelens(name, parameters, x, test, arguments):
    sae, step = saelens(
        name,
        x.shape[1],
        arguments.n_components,
        n_steps=arguments.n_steps,
        batch_size=arguments.batch_size,
        k=arguments.k,
        **parameters,
    )
    for batch in batches_of(x, arguments.n_steps, arguments.batch_size):
        step(batch)
    return measure(*saelens_inference(sae), test)


def run_skdict(name, x, test, arguments, *, alpha=ALPHA, k=None):
    cls = ARCHITECTURES[name]
    architecture = cls(k) if "n_nonzero_coefs" in cls.parameters else cls()
    training = skdict(x, architecture, arguments.n_components)
    schedule = Schedule(
        alpha=alpha, learning_rate=0.1 / x.shape[1] ** 0.5, n_steps=arguments.n_steps
    )
    for batch in batches_of(x, arguments.n_steps, arguments.batch_size):
        training.step(batch, schedule)
    trained = training.autoencoder
    return measure(trained.infer, trained.dictionary.detach(), trained.intercept.detach(), test)


def at_l0(name, target, x, test, arguments):
    """Search alpha until L0 is within 5 % of the target, along a power law."""
    alpha, tried = ALPHA, []
    for _ in range(5):
        result = run_skdict(name, x, test, arguments, alpha=alpha)
        tried.append((math.log(alpha), math.log(result["L0"])))
        if abs(result["L0"] / target - 1) < 0.05:
            break
        slope = -1.0
        if len(tried) > 1:
            (a0, l0), (a1, l1) = tried[-2:]
            slope = min(-0.2, (l1 - l0) / (a1 - a0))
        alpha = math.exp(tried[-1][0] + (math.log(target) - tried[-1][1]) / slope)
    return result | {"alpha": math.exp(tried[-1][0])}


def show(label, result, seconds):
    print(
        f"{label:32} {result['L0']:7.2f} {result['EV']:7.4f} {result['alive']:7.1%} "
        f"{result['objective']:9.2f} {seconds:7.0f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--n-components", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--n-steps", type=int, default=1000)
    parser.add_argument("--k", type=int, default=32)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")

    n_samples = arguments.n_steps * arguments.batch_size
    _, extractor = load_extractor()
    x, test = (
        torch.from_numpy(collect(extractor, draw(subset, 0)[0], n_tokens, "float16"))
        for subset, n_tokens in (("train", n_samples), ("test", 100_000))
    )
    mean = x[::10].float().mean(dim=0)
    scale = ((x[::10].float() - mean).square().sum(dim=1).mean() / x.shape[1]).sqrt()
    x, test = (((part.float() - mean) / scale).half() for part in (x, test))

    print(
        f"torch {torch.__version__}, {x.shape[1]} features, {arguments.n_components} atoms, "
        f"{arguments.n_steps} steps of {arguments.batch_size}, alpha {ALPHA}"
    )
    print(f"{'':32} {'L0':>7} {'EV':>7} {'alive':>7} {'objective':>9} {'seconds':>7}")
    for name in arguments.architecture:
        peer, parameters = PAIRS[name]
        start = time.perf_counter()
        theirs = run_saelens(peer, parameters, x, test, arguments)
        show(f"SAELens {peer}", theirs, time.perf_counter() - start)
        start = time.perf_counter()
        if name == "relu":
            ours = run_skdict(name, x, test, arguments)
            show("skdict relu, equal alpha", ours, time.perf_counter() - start)
            start = time.perf_counter()
        if "n_nonzero_coefs" in ARCHITECTURES[name].parameters:
            ours = run_skdict(name, x, test, arguments, k=round(theirs["L0"]))
            show(f"skdict {name}", ours, time.perf_counter() - start)
        else:
            ours = at_l0(name, theirs["L0"], x, test, arguments)
            label = f"skdict {name}, alpha {ours['alpha']:.2f}"
            show(label, ours, time.perf_counter() - start)


if __name__ == "__main__":
    main()
