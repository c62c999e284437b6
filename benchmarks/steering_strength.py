"""How strongly to steer: what the embedded transformer writes at multiples of a feature's scale.

    python benchmarks/steering_strength.py

A top-k dictionary of the model's 512 MLP neurons; of its features some, from the rarest to the
most frequent. Each is added at every token, at multiples of its greatest code on 100,000 held-out
tokens. Of the texts written from the start of a document: their cross-entropy under the unsteered
model, beside that with random directions of the same norm, and how often the feature is active
when the unsteered model reads them.
"""

import argparse

import numpy as np
from activations import collect, draw, load_extractor
from sklearn.pipeline import make_pipeline

from skdict.decomposition import SparseAutoencoderDictionary
from skdict.inspection import steering_effect

MULTIPLES = (0, 0.5, 1, 2, 3, 5, 10)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-features", type=int, default=16)
    parser.add_argument("--n-samples", type=int, default=16)
    parser.add_argument("--n-tokens", type=int, default=200_000, help="to learn from")
    arguments = parser.parse_args()

    _, extractor = load_extractor()
    dictionary = SparseAutoencoderDictionary(
        1024, architecture="topk", n_nonzero_coefs=20, max_iter=3, random_state=0
    ).fit(collect(extractor, draw("train")[0], arguments.n_tokens, np.float32))
    pipeline = make_pipeline(extractor, dictionary)
    codes = dictionary.transform(collect(extractor, draw("test")[0], 100_000, np.float32))
    density, greatest = (codes > 0).mean(axis=0), codes.max(axis=0)
    order = np.argsort(density)[np.count_nonzero(density < 1e-4) :]
    chosen = order[np.linspace(0, len(order) - 1, arguments.n_features).astype(int)]

    names = ("cross_entropy", "random_cross_entropy", "concept_score", "random_concept_score")
    found = []
    for j in chosen:
        effect = steering_effect(
            pipeline,
            int(j),
            np.array(MULTIPLES) * greatest[j],
            lambda text, j=j: float((pipeline.transform([text])[:, j] > 0).mean()) if text else 0,
            n_samples=arguments.n_samples,
        )
        found.append([effect[name] for name in names])
        line = " ".join(f"{value:5.2f}" for value in effect.cross_entropy)
        print(f"feature {j:4d}, density {density[j]:.4f}: {line}", flush=True)
    found = np.array(found)  # (n_features, 4, n_multiples)
    medians, worst = np.median(found, axis=0), found[:, 0].max(axis=0)
    print("\n| multiple of the greatest code | " + " | ".join(map(str, MULTIPLES)) + " |")
    print("|---|" + "---|" * len(MULTIPLES))
    for name, row in zip(names, medians, strict=True):
        print(f"| {name}, median | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    print("| cross_entropy, worst feature | " + " | ".join(f"{v:.2f}" for v in worst) + " |")


if __name__ == "__main__":
    main()
