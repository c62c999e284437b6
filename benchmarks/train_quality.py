"""Quality of every architecture beside SAELens' own, after equally many steps on equal batches.

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/train_quality.py
    python benchmarks/train_quality.py --superposition
    python benchmarks/train_quality.py --effect-of-resampling

The first trains each on the 512 MLP neurons of the embedded transformer (centred, E‖x‖² = 512):
SAELens at the learning rate of its comparisons, 1e-3, with its warm-ups and decay; skdict with its
defaults. skdict's L0 is brought to within 5 % of theirs, by ``n_nonzero_coefs`` where there is one
(jumprelu falls short of a target far above what the data need), else by a search over alpha.
SAELens' jumprelu has the objective and the start of skdict's: l0_coefficient alpha², thresholds
and bandwidth 0.5; with its own thresholds of 0.01 (``--jumprelu-threshold 0.01 --l0-coefficient
30``) these hardly act in so many steps, and it remains a ReLU autoencoder without penalty. Printed
are explained variance, alive features and, for "relu", the objective at equal alpha, all on the
whole of the held-out files: features for rare things do not fire in every hundred thousand tokens.

The second does so on `make_superposition`, 512 atoms in 128 dimensions of which 8 are on, and
prints besides how well these are recovered (`dictionary_recovery`). The third trains skdict's with
and without the resampling of dead and duplicate features, all at the same alpha or k.
"""

import argparse
import math
import time
import warnings
from functools import partial

import numpy as np
import torch
from activations import collect, draw, load_extractor
from peers import saelens, saelens_inference, skdict

from skdict._core.models.architectures import make_architecture
from skdict._core.solvers.schedule import Schedule
from skdict.datasets import make_superposition
from skdict.metrics import dictionary_recovery

PAIRS = {
    "relu": "standard",
    "topk": "topk",
    "batch_topk": "batchtopk",
    "matryoshka": "matryoshka",
    "jumprelu": "jumprelu",
    "gated": "gated",
}


def standardise(x, test):
    """Both centred, and scaled to E‖x‖² = n_features, in half precision."""
    mean = x[::10].float().mean(dim=0)
    scale = ((x[::10].float() - mean).square().sum(dim=1).mean() / x.shape[1]).sqrt()
    return (((part.float() - mean) / scale).half() for part in (x, test))


def batches_of(x, n_steps, batch_size):
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    for step in range(n_steps):
        yield x[order[step * batch_size : (step + 1) * batch_size].sort().values].float()


def neurons(n_samples):
    """Training and held-out activations of the embedded transformer, and no true atoms."""
    _, extractor = load_extractor()
    x, test = (
        torch.from_numpy(collect(extractor, draw(subset, 0)[0], n_tokens, "float16"))
        for subset, n_tokens in (("train", n_samples), ("test", None))
    )
    return x, test, None


def superposition(n_samples):
    """Training and held-out samples of 512 true atoms in 128 dimensions, and these atoms."""
    n_test = 50_000
    x, atoms = make_superposition(
        n_samples + n_test, 128, 512, l0=8.0, sparse_output=True, random_state=0
    )[:2]
    x = torch.from_numpy(np.asarray(x, np.float16))
    return x[n_test:], x[:n_test], atoms


def measure(encode, atoms, intercept, test, arguments):
    """L0, explained variance, alive fraction, objective per sample, recovery of true atoms."""
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
        "objective": (0.5 * error + arguments.alpha * l1) / len(test),
        "recovery": dictionary_recovery(atoms.numpy(), arguments.truth)
        if arguments.truth is not None
        else math.nan,
    }


def run_saelens(name, x, test, arguments):
    sae, step = saelens(
        name,
        x.shape[1],
        arguments.n_components,
        n_steps=arguments.n_steps,
        batch_size=arguments.batch_size,
        k=arguments.k,
        l1_coefficient=2 * arguments.alpha,  # their loss is twice ours
        l0_coefficient=arguments.l0_coefficient or arguments.alpha**2,
        jumprelu_threshold=arguments.jumprelu_threshold,
    )
    for batch in batches_of(x, arguments.n_steps, arguments.batch_size):
        step(batch)
    return measure(*saelens_inference(sae), test, arguments)


def run_skdict(name, x, test, arguments, *, alpha, k=None, faster=1.0, schedule=Schedule):
    training = skdict(x, make_architecture(name, k), arguments.n_components)
    schedule = schedule(
        alpha=alpha, learning_rate=faster * 0.1 / x.shape[1] ** 0.5, n_steps=arguments.n_steps
    )
    for batch in batches_of(x, arguments.n_steps, arguments.batch_size):
        training.step(batch, schedule)
    trained = training.autoencoder
    atoms, intercept = trained.dictionary.detach(), trained.intercept.detach()
    return measure(trained.infer, atoms, intercept, test, arguments)


def at_l0(name, target, x, test, arguments):
    """Search alpha until L0 is within 5 % of the target: along a power law, or bisecting."""
    alpha, low, high, results = arguments.alpha, 0.0, math.inf, {}
    for _ in range(8):
        result = run_skdict(name, x, test, arguments, alpha=alpha) | {"alpha": alpha}
        ratio = result["L0"] / target
        results[abs(math.log(max(ratio, 1e-9)))] = result
        if abs(ratio - 1) < 0.05:
            break
        low, high = (alpha, high) if ratio > 1 else (low, alpha)
        alpha *= max(ratio, 0.1)
        if not low < alpha < high:
            alpha = math.sqrt(low * high)
    return results[min(results)]


def show(label, result, seconds):
    print(
        f"{label:32} {result['L0']:7.2f} {result['EV']:7.4f} {result['alive']:7.1%} "
        f"{result['objective']:9.2f} {result['recovery']:9.4f} {seconds:7.0f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--superposition", action="store_true")
    parser.add_argument("--effect-of-resampling", action="store_true")
    parser.add_argument("--n-components", type=int)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--n-steps", type=int, default=1000)
    parser.add_argument("--k", type=int)
    parser.add_argument("--l0-coefficient", type=float)
    parser.add_argument("--jumprelu-threshold", type=float, default=0.5)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")

    n_components, k, data = (
        (512, 8, superposition) if arguments.superposition else (2048, 32, neurons)
    )
    arguments.n_components = arguments.n_components or n_components
    arguments.k = arguments.k or k
    x, test, arguments.truth = data(arguments.n_steps * arguments.batch_size)
    x, test = standardise(x, test)
    arguments.alpha = 2.5 * (x.shape[1] / 512) ** 0.5

    print(
        f"torch {torch.__version__}, {x.shape[1]} features, {arguments.n_components} atoms, "
        f"{arguments.n_steps} steps of {arguments.batch_size}, alpha {arguments.alpha}"
    )
    print(
        f"{'':32} {'L0':>7} {'EV':>7} {'alive':>7} {'objective':>9} {'recovery':>9} {'seconds':>7}"
    )
    if arguments.effect_of_resampling:
        for name in arguments.architecture:
            for label, schedule in (
                ("", Schedule),
                (", no resampling", partial(Schedule, resample_at=())),
            ):
                start, options = time.perf_counter(), {"alpha": arguments.alpha, "k": arguments.k}
                ours = run_skdict(name, x, test, arguments, schedule=schedule, **options)
                show(name + label, ours, time.perf_counter() - start)
        return
    for name in arguments.architecture:
        start = time.perf_counter()
        theirs = run_saelens(PAIRS[name], x, test, arguments)
        show(f"SAELens {PAIRS[name]}", theirs, time.perf_counter() - start)
        start = time.perf_counter()
        if name == "relu":
            ours = run_skdict(name, x, test, arguments, alpha=arguments.alpha)
            show("skdict relu, equal alpha", ours, time.perf_counter() - start)
            start = time.perf_counter()
        if "k" in make_architecture(name).get_params():
            k = round(theirs["L0"])
            ours = run_skdict(name, x, test, arguments, alpha=arguments.alpha, k=k)
            show(f"skdict {name}", ours, time.perf_counter() - start)
        else:
            ours = at_l0(name, theirs["L0"], x, test, arguments)
            label = f"skdict {name}, alpha {ours['alpha']:.2f}"
            show(label, ours, time.perf_counter() - start)


if __name__ == "__main__":
    main()
