"""What it takes to look at features: memory of a streaming pass, and building and opening a page.

    python benchmarks/inspection.py
    python benchmarks/inspection.py --wide
    python benchmarks/inspection.py --streaming

The first builds the dashboard of all features of a topk autoencoder on 200,000 held-out tokens,
from the texts, and opens it in headless Chromium, if there is one (``apt install chromium
chromium-driver``). The second gathers the page of 65,536 features from random codes and writes a
folder. The third goes through 2,000,000 tokens with 16,384 features, from a memory
map on disk: it collects codes and near misses to a folder, takes examples of all kinds and
statistics from there, and samples the memory of its process meanwhile, beside a run on a tenth.
"""

import argparse
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from activations import collect, draw, load_extractor
from scipy.sparse import csr_array
from sklearn.pipeline import make_pipeline

from skdict.decomposition import SparseAutoencoderDictionary
from skdict.inspection import (
    FeatureCodes,
    FeatureDashboard,
    collect_codes,
    feature_statistics,
    top_activations,
)

N_DASHBOARD, N_STREAMED = 200_000, 2_000_000


class PeakMemory:
    """Greatest memory of this process within a block, in GB: its own, and with mapped files."""

    def __enter__(self):
        self.own = self.all = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._done.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            kb = {line.split(":")[0]: line.split()[1] for line in lines if "Rss" in line}
            self.own = max(self.own, int(kb["RssAnon"]) / 1e6)
            self.all = max(self.all, sum(int(each) for each in kb.values()) / 1e6)

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()


def fit(n_components, X, max_iter):
    return SparseAutoencoderDictionary(
        n_components, architecture="topk", n_nonzero_coefs=40, max_iter=max_iter, random_state=0
    ).fit(X)


def texts_of(subset, n_tokens, extractor):
    """Whole documents with about so many tokens."""
    texts, _ = draw(subset, 0)
    chosen, total = [], 0
    for text in texts:
        if total >= n_tokens:
            break
        chosen.append(text)
        total += len(extractor.tokens([text]).token)
    return chosen, total


def open_in_browser(path):
    """Seconds until the page's index, and then a feature, is there."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-background-networking"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.implicitly_wait(10)  # parts of the page arrive later
    seconds = []
    for _ in range(5):
        driver.get("about:blank")
        start = time.perf_counter()
        driver.get(path.resolve().as_uri())
        driver.find_element("css selector", "#rows tr")
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    driver.find_element("css selector", "#rows tr a").click()
    driver.find_element("css selector", ".example")
    opened = time.perf_counter() - start
    driver.quit()
    return np.median(seconds), opened


def dashboard(arguments):
    _, extractor = load_extractor()
    X = collect(extractor, draw("train", 0)[0], 400_000, "float32")
    dictionary = fit(arguments.n_components or 4096, X, 5)
    texts, n_tokens = texts_of("test", N_DASHBOARD, extractor)
    with PeakMemory() as memory:
        start = time.perf_counter()
        page = FeatureDashboard.from_pipeline(make_pipeline(extractor, dictionary), texts)
        built = time.perf_counter() - start
    path = page.to_html(Path(tempfile.mkdtemp()) / "features.html")
    size, n = path.stat().st_size, len(page.features_)
    print(
        f"{n} features, {n_tokens:,} tokens: built in {built:.0f} s, peak {memory.own:.2f} GB; "
        f"{size / 1e6:.1f} MB, {size / n / 1e3:.1f} kB per feature"
    )
    if shutil.which("chromedriver"):
        opened, feature = open_in_browser(path)
        print(f"opens in {opened:.2f} s (median of 5), a feature in {feature:.2f} s")
    print(path)


def wide(arguments):
    """The page of 65,536 features: random codes with 40 on each of 200,000 tokens, no model."""
    rng = np.random.default_rng(0)
    n, k, n_features = N_DASHBOARD, 40, arguments.n_components or 65_536
    share = np.cumsum(1 / np.arange(1, n_features + 1) ** 0.7)  # few are dense, most are rare
    drawn = np.searchsorted(share / share[-1], rng.random(n * k))
    columns = rng.permutation(n_features)[np.minimum(drawn, n_features - 1)]
    values = rng.exponential(size=n * k).astype(np.float32)
    matrix = csr_array((values, columns, np.arange(0, n * k + 1, k)), shape=(n, n_features))
    tokens = {
        "document": np.arange(n) // 256,
        "token": np.array([f" w{j}" for j in rng.integers(5000, size=n)], dtype=object),
    }
    codes = FeatureCodes.from_matrix(matrix, tokens=tokens)
    with PeakMemory() as memory:
        start = time.perf_counter()
        page = FeatureDashboard.from_codes(codes)
        built = time.perf_counter() - start
        path = page.to_html(Path(tempfile.mkdtemp()) / "features")
    files = [*(path.parent / "data").iterdir()]
    size = sum(file.stat().st_size for file in files)
    print(
        f"{n_features} features, {n:,} tokens: gathered in {built:.0f} s, peak "
        f"{memory.own:.2f} GB; index {path.stat().st_size / 1e6:.1f} MB, {len(files)} files of "
        f"{size / 1e6:.1f} MB"
    )
    if shutil.which("chromedriver"):
        opened, feature = open_in_browser(path)
        print(f"opens in {opened:.2f} s (median of 5), a feature in {feature:.2f} s")


def streaming(arguments):
    _, extractor = load_extractor()
    folder = Path(tempfile.mkdtemp())
    X = collect(extractor, draw("train", 0)[0], N_STREAMED, "float16")
    dictionary = fit(arguments.n_components or 16384, X[:200_000], 2)
    np.save(folder / "X.npy", X)
    del X
    of_examples = {"n_top": 20, "n_intervals": 10, "n_per_interval": 3, "n_random": 10}
    print(
        f"{'function':18} {'tokens':>10} {'features':>9} {'seconds':>8} {'own, GB':>8} "
        f"{'with files, GB':>14}"
    )
    for n_tokens in (N_STREAMED // 10, N_STREAMED):
        X = np.load(folder / "X.npy", mmap_mode="r")[:n_tokens]
        path = folder / f"codes-{n_tokens}"
        steps = {
            "collect_codes": lambda X=X, path=path: collect_codes(
                dictionary, X, n_near_misses=10, path=path
            ),
            "top_activations": lambda path=path: top_activations(
                FeatureCodes.load(path), **of_examples
            ),
            "feature_statistics": lambda path=path: feature_statistics(FeatureCodes.load(path)),
        }
        for name, step in steps.items():
            with PeakMemory() as memory:
                start = time.perf_counter()
                step()
                seconds = time.perf_counter() - start
            print(
                f"{name:18} {n_tokens:10,} {len(dictionary.components_):9,} "
                f"{seconds:8.1f} {memory.own:8.2f} {memory.all:14.2f}",
                flush=True,
            )
    shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streaming", action="store_true")
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--n-components", type=int)
    arguments = parser.parse_args()
    if arguments.streaming:
        streaming(arguments)
    else:
        (wide if arguments.wide else dashboard)(arguments)


if __name__ == "__main__":
    main()
