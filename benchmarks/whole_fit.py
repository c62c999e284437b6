"""Whole fits of top-k dictionaries beside as many steps of SAELens.

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/whole_fit.py [--rounds 3] [--epochs 1,5,17]

A fit of 73,728 x 512 with 4,096 atoms, k = 32 and batches of 4,096, from the array to the fitted
attributes, its statistics and first atoms included; and the same number of SAELens' training steps
in float32, without anything around them, on batches that are ready. Both in one process, in turn;
medians.
"""

import argparse
import statistics
import time
import warnings

import torch
from activations import collect, draw, load_extractor
from peers import saelens

from skdict import SparseAutoencoderDictionary

N_ROWS, N_COMPONENTS, BATCH, K = 73_728, 4096, 4096, 32


def whole_fit(X, n_epochs):
    sae = SparseAutoencoderDictionary(
        N_COMPONENTS,
        early_stopping=False,  # nothing held out, as there
        architecture="topk",
        n_nonzero_coefs=K,
        max_iter=n_epochs,
        batch_size=BATCH,
        random_state=0,
    )
    start = time.perf_counter()
    sae.fit(X)
    return time.perf_counter() - start, sae.n_steps_


def steps_of_saelens(X, n_steps):
    _, step = saelens("topk", X.shape[1], N_COMPONENTS, n_steps=n_steps, batch_size=BATCH, k=K)
    batches = torch.from_numpy(X).split(BATCH)
    start = time.perf_counter()
    for i in range(n_steps):
        step(batches[i % len(batches)])
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", default="1,5,17")
    parser.add_argument("--most-steps", type=int, default=18, help="of SAELens; all cost the same")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    X = collect(load_extractor()[1], draw("train")[0], N_ROWS)
    whole_fit(X[: 2 * BATCH], 1)  # compiles
    steps_of_saelens(X, 1)
    print("| steps | skdict, whole fit, s | SAELens, steps alone, s | ratio |\n|---|---|---|---|")
    for n_epochs in map(int, arguments.epochs.split(",")):
        pairs = []
        for _ in range(arguments.rounds):
            ours, n_steps = whole_fit(X, n_epochs)
            n_taken = min(n_steps, arguments.most_steps)
            pairs.append((ours, steps_of_saelens(X, n_taken) * n_steps / n_taken))
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"| {n_steps} | {ours:.2f} | {theirs:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
