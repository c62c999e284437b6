"""How much the result depends on the learning rate, for several widths and batch sizes.

    python benchmarks/sensitivity.py

trains "relu" on as many activations of the embedded transformer's 512 MLP neurons each time
(centred, E‖x‖² = 512) and prints the objective at alpha 2.5 on held-out files, at fractions and
multiples of the default learning rate.
"""

import argparse

from peers import skdict
from train_quality import batches_of, measure, neurons, standardise

from skdict._core.architectures import ReLU
from skdict._core.train import Schedule

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-components", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--n-samples", type=int, default=500_000)
    arguments = parser.parse_args()
    x, test, arguments.truth = neurons(arguments.n_samples)
    x, test = standardise(x, test[:50_000])
    arguments.alpha = 2.5
    print(f"{'atoms':>6} {'batch':>6} {'steps':>6}  objective at {FACTORS} x the learning rate")
    for n_components in arguments.n_components:
        for batch_size in arguments.batch_size:
            n_steps = arguments.n_samples // batch_size
            print(f"{n_components:6,} {batch_size:6,} {n_steps:6,}", end=" ", flush=True)
            for factor in FACTORS:
                training = skdict(x, ReLU(), n_components)
                learning_rate = factor * 0.1 / x.shape[1] ** 0.5
                schedule = Schedule(arguments.alpha, learning_rate, n_steps)
                for batch in batches_of(x, n_steps, batch_size):
                    training.step(batch, schedule)
                trained = training.autoencoder
                atoms, intercept = trained.dictionary.detach(), trained.intercept.detach()
                result = measure(trained.infer, atoms, intercept, test, arguments)
                print(f" {result['objective']:7.2f} (L0 {result['L0']:5.1f})", end="", flush=True)
            print()


if __name__ == "__main__":
    main()
