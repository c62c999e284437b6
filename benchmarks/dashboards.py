"""SAEDashboard and delphi beside skdict: the same autoencoder, the same tokens, one run.

    pip install -c constraints.txt -e ".[bench]"
    pip install --no-deps sae-dashboard==0.8.0 eai-delphi==0.1.3 dataclasses-json marshmallow \
        typing-inspect mypy-extensions eindex-callum asyncer aiofiles orjson
    python benchmarks/dashboards.py

The model is the embedded one-layer transformer, brought to TransformerLens for SAEDashboard, with
equal logits and activations; the autoencoder is a topk one of skdict, which SAELens reads from
the files that `save_dictionary` writes. Texts are cut so that each has 128 tokens, whoever reads
it. Each method runs in a process of its own, in turn, after a small warm-up that is not timed;
imports and loading are not timed either. What the methods find is compared: densities and
greatest codes of all features, and the ten tokens that each raises most.

delphi imports faiss and blobfile, which nothing here calls: empty modules stand in for them.
"""

import argparse
import copy
import json
import re
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import torch
from activations import LAYER, collect, draw, load_extractor
from sklearn.pipeline import make_pipeline

from skdict.datasets import load_one_layer_transformer
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import (
    FeatureDashboard,
    collect_codes,
    context_snippets,
    feature_statistics,
    logit_weights,
    top_activations,
)
from skdict.io import load_dictionary, save_dictionary

HOOK = "blocks.0.mlp.hook_post"  # TransformerLens' name of LAYER
START, N_TOKENS_PER_TEXT = 0, 128  # the tokenizer opens each text with the token START
K = 16
SIZES = ((256, 384), (1024, 384), (1024, 1600))  # features, texts
N_WARM_TEXTS, N_WARM_FEATURES = 64, 8
AT_ONCE = 256  # features in one pass of SAEDashboard, its default
N_LISTED = 10  # tokens of raised logits
# delphi shows 4 + 5 windows of each of 10 quantiles, for explaining and for scoring
EXAMPLES = {"n_top": 40, "n_intervals": 10, "n_per_interval": 9}


def prepare(folder, sizes):
    """Write texts, their tokens, and a fitted dictionary of each width in two formats."""
    transformer, extractor = load_extractor()
    texts, tokens = cut(draw("test")[0], transformer.tokenizer, max(n for _, n in sizes))
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    np.save(folder / "tokens.npy", tokens)
    X = collect(extractor, draw("train")[0], 150_000, "float32")
    for n_components in {n for n, _ in sizes}:
        dictionary = SparseAutoencoderDictionary(
            n_components, architecture="topk", n_nonzero_coefs=K, max_iter=5, random_state=0
        ).fit(X)
        dictionary.activation_ = {"hook": HOOK}
        for format in ("skdict", "sae_lens"):
            save_dictionary(dictionary, folder / f"{format}-{n_components}", format=format)


def cut(documents, tokenizer, n_texts):
    """Pieces of documents of N_TOKENS_PER_TEXT tokens, and these, (n_texts, n_tokens)."""
    texts, tokens, step = [], [], N_TOKENS_PER_TEXT - 1
    for document in documents:
        ids = tokenizer(document)["input_ids"][1:]
        for start in range(0, len(ids) - step + 1, step):
            text = tokenizer.decode(ids[start : start + step])
            again = tokenizer(text)["input_ids"]
            if again == [START, *ids[start : start + step]]:  # it reads the same on its own
                texts.append(text)
                tokens.append(again)
            if len(texts) == n_texts:
                return texts, np.array(tokens)
    raise ValueError(f"The documents have only {len(texts)} such pieces of {n_texts}.")


class Case:
    """What a method is given: the files of `prepare`, cut to a size, and a folder to write to."""

    def __init__(self, folder, n_components, n_texts):
        self.folder, self.n_components = folder, n_components
        self.texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))[:n_texts]
        self.tokens = torch.from_numpy(np.load(folder / "tokens.npy"))[:n_texts]
        self.features = list(range(n_components))
        self.transformer = load_one_layer_transformer()
        self.out = Path(tempfile.mkdtemp(dir=folder))

    def small(self):
        case = copy.copy(self)
        case.texts, case.tokens = self.texts[:N_WARM_TEXTS], self.tokens[:N_WARM_TEXTS]
        case.features = self.features[:N_WARM_FEATURES]
        case.out = Path(tempfile.mkdtemp(dir=self.folder))
        return case

    def pipeline(self):
        extractor = ActivationExtractor(
            self.transformer.model, LAYER, tokenizer=self.transformer.tokenizer
        )
        dictionary = load_dictionary(self.folder / f"skdict-{self.n_components}")
        return make_pipeline(extractor, dictionary)

    def sae(self):
        from sae_lens import SAE

        sae = SAE.load_from_disk(str(self.folder / f"sae_lens-{self.n_components}"))
        norms = sae.W_dec.norm(dim=1)
        if not torch.allclose(norms, torch.ones_like(norms), atol=1e-4):
            raise ValueError("Atoms must have norm 1, so that folding norms changes no code.")
        # SAEDashboard folds the norms of atoms, which SAELens refuses for topk without this
        sae.cfg.rescale_acts_by_decoder_norm = True
        return sae

    def hooked(self):
        """The model in TransformerLens, processed as its `from_pretrained` does by default."""
        from sae_lens import HookedSAETransformer
        from transformer_lens import HookedTransformerConfig
        from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights

        known = self.transformer.model.config
        config = HookedTransformerConfig(
            n_layers=known.n_layer,
            d_model=known.n_embd,
            n_heads=known.n_head,
            d_head=known.n_embd // known.n_head,
            d_mlp=known.n_inner,
            n_ctx=known.n_positions,
            d_vocab=known.vocab_size,
            act_fn=known.activation_function,
            eps=known.layer_norm_epsilon,
            normalization_type="LN",
            device="cpu",
        )
        hooked = HookedSAETransformer(config)
        with torch.no_grad():
            state = convert_gpt2_weights(self.transformer.model, hooked.cfg)
            state["unembed.b_U"] = torch.zeros(known.vocab_size)
            state = {name: tensor.clone() for name, tensor in state.items()}
            hooked.load_and_process_state_dict(state)
        hooked.tokenizer = self.transformer.tokenizer
        self.check_equal(hooked)
        return hooked

    @torch.no_grad()
    def check_equal(self, hooked):
        """Raise if TransformerLens gives other logits than transformers."""
        tokens = self.tokens[:4]
        found = hooked(tokens).log_softmax(-1)
        expected = self.transformer.model(tokens).logits.log_softmax(-1)
        difference = float((found - expected).abs().max())
        if difference > 1e-3:
            raise ValueError(f"Log-probabilities in TransformerLens differ by {difference:.2g}.")


class Clock:
    """Seconds of named parts of a method, of all the processor's too, and the memory they add."""

    def __init__(self):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self.seconds, self.processor, self.before = {}, 0.0, memory("VmRSS")

    def __call__(self, name, function, *arguments, **options):
        start, busy = time.perf_counter(), time.process_time()
        result = function(*arguments, **options)
        self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start
        self.processor += time.process_time() - busy
        return result

    def report(self, **more):
        added = memory("VmHWM") - self.before
        return {"seconds": self.seconds, "processor": self.processor, "memory": added, **more}


def memory(name):
    """Bytes of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    return int(line.split()[1]) * 1024


def size_of(path):
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


def skdict_dashboard(case):
    """From texts to a page, with everything that a page has by default."""
    pipeline, clock = case.pipeline(), Clock()
    codes = clock("codes", collect_codes, pipeline, case.texts, n_near_misses=10)
    page = clock("content", FeatureDashboard.from_codes, codes, case.features, pipeline=pipeline)
    path = clock("page", page.to_html, case.out / "features.html")
    report = clock.report(bytes=size_of(path))
    weights = logit_weights(pipeline, case.features).weights
    return report, {
        **of_statistics(feature_statistics(codes)),
        "raised": np.argsort(-weights, axis=1)[:, :N_LISTED],
    }


def skdict_dashboard_without_model(case):
    """The same page without effects and logits, which need the model."""
    pipeline, clock = case.pipeline(), Clock()
    dictionary = pipeline[-1]
    codes = clock("codes", collect_codes, pipeline, case.texts, n_near_misses=10)
    page = clock(
        "content", FeatureDashboard.from_codes, codes, case.features, dictionary=dictionary
    )
    path = clock("page", page.to_html, case.out / "features.html")
    return clock.report(bytes=size_of(path)), of_statistics(feature_statistics(codes))


def of_statistics(statistics):
    return {"n_active": statistics.n_active, "maximum": statistics.maximum}


def sae_dashboard(case, n_at_once=AT_ONCE):
    """From tokens to its page, with its own defaults; START is left out, as in skdict."""
    from sae_dashboard.data_writing_fns import save_feature_centric_vis
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner

    sae, hooked, clock = case.sae(), case.hooked(), Clock()
    config = SaeVisConfig(
        HOOK, case.features, minibatch_size_features=n_at_once, ignore_tokens={START}
    )
    data = clock("content", SaeVisRunner(config).run, sae, hooked, case.tokens)
    path = case.out / "features.html"
    clock("page", save_feature_centric_vis, data, path)
    report = clock.report(bytes=size_of(path))
    densities, maxima, raised = [], [], []
    for feature in data.feature_data_dict.values():
        title = feature.acts_histogram_data.title
        densities.append(float(re.search(r"DENSITY = ([\d.]+)%", title)[1]) / 100)
        title = feature.sequence_data.seq_group_data[0].title
        maxima.append(float(re.search(r"MAX = ([\d.]+)", title)[1]))
        raised.append(feature.logits_table_data.top_token_ids)
    n_active = np.array(densities) * case.tokens.numel()  # its densities count all tokens
    return report, {"n_active": n_active, "maximum": np.array(maxima), "raised": np.array(raised)}


def sae_dashboard_at_once(case):
    """The same with all features in one pass of the model."""
    return sae_dashboard(case, case.n_components)


def skdict_codes(case):
    """Codes on disk, statistics of all features, examples of all with their text."""
    pipeline, clock = case.pipeline(), Clock()
    path = case.out / "codes"
    codes = clock("cache", collect_codes, pipeline, case.texts, path=path)
    statistics = clock("statistics", feature_statistics, codes)
    tops = clock("examples", top_activations, codes, **EXAMPLES)
    rows = np.concatenate(
        [each.rows for top in tops for each in [top, *top.intervals]] or [np.array([], int)]
    )
    clock("texts", context_snippets, codes.texts, codes.tokens, rows)
    return clock.report(bytes=size_of(path), n_examples=len(rows)), of_statistics(statistics)


def delphi(case):
    """Its cache on disk, its statistics, its examples of all features, with its defaults."""
    import datasets  # noqa: F401  looks for faiss, before the empty module is there
    import sentence_transformers  # noqa: F401  likewise

    for name in ("faiss", "blobfile"):
        sys.modules.setdefault(name, types.ModuleType(name))
    from delphi.config import CacheConfig, ConstructorConfig, SamplerConfig
    from delphi.latents import LatentCache, LatentDataset

    sae, clock = case.sae(), Clock()
    cache = LatentCache(case.transformer.model, {LAYER: sae.encode}, batch_size=32)
    clock("cache", cache.run, case.tokens.numel(), case.tokens)
    clock("cache", cache.save_splits, 5, case.out)
    settings = CacheConfig(cache_ctx_len=N_TOKENS_PER_TEXT, n_tokens=case.tokens.numel())
    cache.save_config(case.out, settings, "one_layer")
    clock("statistics", cache.generate_statistics_cache)
    records = LatentDataset(
        case.out,
        SamplerConfig(),
        ConstructorConfig(min_examples=1),
        tokenizer=case.transformer.tokenizer,
        modules=[LAYER],
    )
    records = clock("examples", list, records)
    report = clock.report(
        bytes=size_of(case.out),
        n_examples=sum(len(each.train) + len(each.test) for each in records),
    )
    locations, values = cache.cache.latent_locations[LAYER], cache.cache.latent_activations[LAYER]
    counted = locations[:, 1] > 0
    features, values = locations[counted, 2], values[counted]
    maximum = torch.zeros(case.n_components).scatter_reduce(0, features, values, "amax")
    n_active = torch.bincount(features, minlength=case.n_components)
    return report, {"n_active": n_active.numpy(), "maximum": maximum.numpy()}


METHODS = {
    each.__name__: each
    for each in (
        skdict_dashboard,
        skdict_dashboard_without_model,
        sae_dashboard,
        sae_dashboard_at_once,
        skdict_codes,
        delphi,
    )
}


def run_one(name, folder, n_components, n_texts):
    """In a process of its own: print seconds, memory and bytes, and save what was found."""
    torch.set_num_threads(2)
    case = Case(folder, n_components, n_texts)
    METHODS[name](case.small())
    report, found = METHODS[name](case)
    np.savez(folder / f"{name}.npz", **found)
    print(json.dumps(report))


def run(name, folder, size):
    command = [sys.executable, __file__, "--one", name, str(folder), *map(str, size)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder, names):
    """How far what the methods found is from what the first of them found."""
    known = np.load(folder / f"{names[0]}.npz")
    for name in names[1:]:
        found = np.load(folder / f"{name}.npz")
        of_counts, of_maxima = (
            np.abs(found[each] - known[each]).max() for each in ("n_active", "maximum")
        )
        line = f"counts differ by {of_counts:.1f} of {known['n_active'].max()} at most"
        line += f", greatest codes by {of_maxima:.1e}"
        if "raised" in found and "raised" in known:
            pairs = zip(found["raised"], known["raised"], strict=True)
            same = np.mean([len(np.intersect1d(*pair)) for pair in pairs])
            line += f", {same:.2f} of {N_LISTED} raised tokens are the same"
        print(f"  {name}: {line}")


def described(report, n_components):
    parts = report["seconds"]
    text = (
        f"{sum(parts.values()):8.2f} s, {report['processor']:8.2f} of the processor, "
        f"{report['memory'] / 1e6:5.0f} MB "
        f"{report['bytes'] / n_components / 1e3:6.1f} kB per feature  "
    )
    text += ", ".join(f"{part} {seconds:.2f}" for part, seconds in parts.items())
    if "n_examples" in report:
        text += f"; {report['n_examples']:,} examples"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", help="features x texts, such as 256x384 1024x1600")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    arguments = parser.parse_args()
    if arguments.one:
        name, folder, n_components, n_texts = arguments.one
        return run_one(name, Path(folder), int(n_components), int(n_texts))
    sizes = SIZES
    if arguments.sizes:
        sizes = [tuple(map(int, size.split("x"))) for size in arguments.sizes]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        prepare(folder, sizes)
        for n_components, n_texts in sizes:
            n_tokens = n_texts * (N_TOKENS_PER_TEXT - 1)
            print(f"{n_components:,} features, {n_texts:,} texts, {n_tokens:,} tokens", flush=True)
            names = list(arguments.methods)
            if n_components <= AT_ONCE and "sae_dashboard_at_once" in names:
                names.remove("sae_dashboard_at_once")  # its default
            for i in range(arguments.rounds):
                for name in names:
                    report = run(name, folder, (n_components, n_texts))
                    print(f"  {i} {name:30} {described(report, n_components)}", flush=True)
            compare(folder, names)


if __name__ == "__main__":
    main()
