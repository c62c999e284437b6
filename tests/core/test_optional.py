"""Packages that are not there, and packages that are there and broken."""

import sys

import pytest

from skdict.datasets import load_one_layer_transformer
from skdict.inspection import (
    FeatureCodes,
    FeatureDashboard,
    FeatureDensityDisplay,
    FeatureMapDisplay,
    OpenAIChat,
)

TOKENS = {"document": [0, 0], "token": ["a", "b"]}
DASHBOARD = FeatureDashboard.from_codes(FeatureCodes.from_matrix([[1.0], [0.0]], tokens=TOKENS))
NEED = {
    "transformers": load_one_layer_transformer,
    "matplotlib": lambda: FeatureDensityDisplay([0.5]).plot(),
    "jinja2": DASHBOARD._repr_html_,
    "openai": lambda: OpenAIChat("m"),
    "umap": lambda: FeatureMapDisplay.from_estimator(
        [[1, 0], [0, 1], [1, 1], [1, 2]], method="umap"
    ),
}


@pytest.fixture
def imported_anew(monkeypatch, tmp_path):
    """Forget a package, so that what stands in a folder is imported in its place."""

    def write(package, source):
        for module in [*sys.modules]:
            if module.partition(".")[0] == package:
                monkeypatch.delitem(sys.modules, module)
        (tmp_path / f"{package}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))

    return write


@pytest.mark.parametrize("package", NEED)
def test_not_there(package, monkeypatch):
    class NoFinder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [NoFinder, *sys.meta_path])
    with pytest.raises(ImportError, match=f"needs {package}, which is not installed. Install"):
        NEED[package]()


@pytest.mark.parametrize("package", NEED)
@pytest.mark.parametrize(
    "source",
    [
        "raise ImportError('tokenizers>=0.22 is required')",
        "import a_package_that_is_missing",
        "from json import nothing",
    ],
)
def test_there_but_broken(package, source, imported_anew):
    imported_anew(package, source)
    found = "tokenizers|a_package_that_is_missing|cannot import name 'nothing'"
    message = f"{package}, which is installed but .*({found})"
    with pytest.raises(ImportError, match=message) as raised:
        NEED[package]()
    assert "not installed" not in str(raised.value)


def test_other_errors_are_its_own(imported_anew):
    imported_anew("umap", "raise RuntimeError('another version of numba')")
    with pytest.raises(RuntimeError, match="another version of numba"):
        NEED["umap"]()
