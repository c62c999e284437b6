"""Training throughput: skdict's step beside the standard step of SAELens.

Both train a ReLU autoencoder under an L1 penalty in float32 on the same activations, the 512 MLP
neurons of the embedded transformer, in the same process, alternating, from initialisation.

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/train_throughput.py

prints activations per second over successive stretches of training, as a ratio: codes start
dense and become sparse, and skdict's step follows them.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from activations import collect, draw, load_extractor

from skdict._core.architectures import ARCHITECTURES
from skdict._core.train import Schedule
from skdict.decomposition._autoencoder_fit import AutoencoderFit, random_atoms


def activations(n_tokens):
    """Activations (n_tokens, 512) scaled to E‖x - E x‖² = 512, centred."""
    _, extractor = load_extractor()
    x = torch.from_numpy(collect(extractor, draw("train")[0], n_tokens))
    x = x - x.mean(dim=0)
    return x * (x.shape[1] / x.square().sum(dim=1).mean()).sqrt()


def skdict_stepper(x, n_components, alpha, learning_rate, n_steps):
    generator = torch.Generator().manual_seed(0)
    run = AutoencoderFit.from_atoms(
        random_atoms(n_components, x.shape[1], generator).to(x),
        ARCHITECTURES["relu"](),
        torch.zeros(x.shape[1]),
        1.0,
        generator,
        fit_intercept=True,
    )
    schedule = Schedule(alpha=alpha, learning_rate=learning_rate, n_steps=n_steps)
    return run.training.autoencoder, lambda batch: run.training.step(batch, schedule)


def saelens_stepper(x, n_components, alpha, learning_rate, n_steps, batch_size):
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = StandardTrainingSAE(
        StandardTrainingSAEConfig(
            d_in=x.shape[1],
            d_sae=n_components,
            dtype="float32",
            device="cpu",
            # their loss is ‖x - x̂‖² + λ‖z‖₁, twice ours at λ = 2α
            l1_coefficient=2 * alpha,
            l1_warm_up_steps=n_steps // 10,
        )
    )
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=n_steps * batch_size,
            train_batch_size_samples=batch_size,
            lr=learning_rate,
            lr_end=learning_rate / 10,
            lr_warm_up_steps=n_steps // 20,
            lr_decay_steps=n_steps // 5,
        ),
        sae=sae,
        data_provider=iter(()),
    )

    def step(batch):
        # what `SAETrainer.fit` does with a batch, its logging left out
        trainer.step(batch)
        trainer.n_training_steps += 1

    return sae, step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-components", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--n-steps", type=int, default=120)
    parser.add_argument("--stretch", type=int, default=20)
    parser.add_argument("--n-tokens", type=int, default=100_000)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")

    x = activations(arguments.n_tokens)
    n_features = x.shape[1]
    alpha = 0.1 * n_features**0.5  # alpha="auto" in these units
    sizes = (x, arguments.n_components, alpha, 3e-3, arguments.n_steps)
    autoencoder, ours = skdict_stepper(*sizes)
    sae, theirs = saelens_stepper(*sizes, arguments.batch_size)

    generator = torch.Generator().manual_seed(1)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {n_features} features, "
        f"{arguments.n_components} atoms, batch {arguments.batch_size}"
    )
    print(f"{'steps':>10} {'L0 ours':>8} {'theirs':>8} {'ours/s':>9} {'theirs/s':>9} {'ratio':>6}")
    totals = np.zeros(2)
    for first in range(0, arguments.n_steps, arguments.stretch):
        seconds = np.zeros(2)
        for _ in range(arguments.stretch):
            index = torch.randint(len(x), (arguments.batch_size,), generator=generator)
            batch = x[index]
            for i, step in enumerate((ours, theirs)):
                start = time.perf_counter()
                step(batch)
                seconds[i] += time.perf_counter() - start
        totals += seconds
        with torch.no_grad():
            l0 = [
                float((codes > 0).sum(dim=1).float().mean())
                for codes in (autoencoder.infer(x[:1000]), sae.encode(x[:1000]))
            ]
        rates = arguments.stretch * arguments.batch_size / seconds
        print(
            f"{first + 1:4d}–{first + arguments.stretch:<5d} {l0[0]:8.1f} {l0[1]:8.1f} "
            f"{rates[0]:9,.0f} {rates[1]:9,.0f} {rates[0] / rates[1]:6.2f}",
            flush=True,
        )
    rates = arguments.n_steps * arguments.batch_size / totals
    print(
        f"{'all':>10} {'':8} {'':8} {rates[0]:9,.0f} {rates[1]:9,.0f} {rates[0] / rates[1]:6.2f}"
    )


if __name__ == "__main__":
    main()
