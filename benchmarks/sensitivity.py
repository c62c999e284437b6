"""How much the result depends on the learning rate, for several widths and batch sizes.

    python benchmarks/sensitivity.py

trains "relu" on as many activations of the embedded transformer's 512 MLP neurons each time
(centred, E‖x‖² = 512) and prints the objective at alpha 2.5 on held-out files, at fractions and
multiples of a learning rate of 0.1/√d.
"""

import argparse

from train_quality import neurons, run_skdict, standardise

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
    n_components, batch_size = arguments.n_components, arguments.batch_size
    print(f"{'atoms':>6} {'batch':>6} {'steps':>6}  objective at {FACTORS} x 0.1/√d")
    for arguments.n_components in n_components:
        for arguments.batch_size in batch_size:
            arguments.n_steps = arguments.n_samples // arguments.batch_size
            sizes = arguments.n_components, arguments.batch_size, arguments.n_steps
            print("{:6,} {:6,} {:6,}".format(*sizes), end=" ", flush=True)
            for factor in FACTORS:
                result = run_skdict("relu", x, test, arguments, alpha=2.5, faster=factor)
                print(f" {result['objective']:7.2f} (L0 {result['L0']:5.1f})", end="", flush=True)
            print()


if __name__ == "__main__":
    main()
