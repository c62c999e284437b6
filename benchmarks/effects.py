"""What effects and logit weights cost: the features of a dashboard at their most active tokens.

    python benchmarks/effects.py
    python benchmarks/effects.py --n-features 512

Effects are measured by ablation at the 20 most active tokens of each feature, of the dictionary
and texts of ``inspection.py``. The processor's time is given beside the clock's.
"""

import argparse
import time

import numpy as np
from activations import collect, draw, load_extractor
from inspection import N_DASHBOARD, fit, texts_of
from sklearn.pipeline import make_pipeline

from skdict.inspection import collect_codes, top_activations, top_logits
from skdict.inspection.actions._effects import measured_effects
from skdict.inspection.actions._language import Language


def timed(name, function):
    """What a function returns; prints how long it took."""
    start, cpu = time.perf_counter(), time.process_time()
    found = function()
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"{name:45} {wall:7.1f} s {cpu:7.1f} s of the processor", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-features", type=int, default=4096)
    arguments = parser.parse_args()
    _, extractor = load_extractor()
    X = collect(extractor, draw("train", 0)[0], 400_000, "float32")
    dictionary = fit(4096, X, 5)
    texts, n_tokens = texts_of("test", N_DASHBOARD, extractor)
    pipeline, features = make_pipeline(extractor, dictionary), np.arange(arguments.n_features)
    tops = top_activations(collect_codes(pipeline, texts), features, n_top=20)
    rows = [top.rows for top in tops]
    language = Language(pipeline)
    print(f"{len(features)} features, {n_tokens:,} tokens")
    effects = timed("ablation", lambda: measured_effects(language, texts, features, rows))
    print(f"{sum(len(each.rows) for each in effects):,} effects; run at: {language.rest.kind}")
    timed(
        "ablation and first order",
        lambda: measured_effects(language, texts, features, rows, first_order=True),
    )
    some = [texts[0][:2000]]
    timed("logits, direct", lambda: top_logits(pipeline, features, texts=some))
    timed("logits, total", lambda: top_logits(pipeline, features, texts=some, path="total"))


if __name__ == "__main__":
    main()
