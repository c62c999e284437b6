"""Who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skdict

ROOT = Path(skdict.__file__).parent
MAY_IMPORT = {
    "_core": set(),
    "utils": {"_core"},
    "metrics": {"_core", "utils"},
    "datasets": {"_core", "utils"},
    "feature_extraction": {"_core", "utils"},
    "decomposition": {"_core", "utils", "metrics"},
    "inspection": {"_core", "metrics", "utils"},
}
ONLY_INSIDE_FUNCTIONS = {
    "transformers",
    "tokenizers",
    "matplotlib",
    "pandas",
    "polars",
    "rich",
    "networkx",
    "umap",
    "openai",
}


def imported_modules(path, *, top_level_only=False):
    """Absolute names of the modules that a file imports."""
    package = ("skdict", *path.relative_to(ROOT).with_suffix("").parts)[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def source_files():
    return [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.rglob("*.py"))]


@pytest.mark.parametrize("name", source_files())
def test_imports_point_one_way(name):
    room = Path(name).parts[0]
    if room not in MAY_IMPORT:
        return  # skdict/__init__.py opens every room lazily
    for module in imported_modules(ROOT / name):
        parts = module.split(".")
        if parts[0] == "skdict" and len(parts) > 1 and parts[1] != room:
            assert parts[1] in MAY_IMPORT[room], f"{name} imports {module}"
        if room == "_core":
            assert parts[0] != "sklearn", f"{name} imports {module}"


@pytest.mark.parametrize("name", source_files())
def test_heavy_packages_are_imported_inside_functions(name):
    for module in imported_modules(ROOT / name, top_level_only=True):
        assert module.split(".")[0] not in ONLY_INSIDE_FUNCTIONS, f"{name} imports {module}"


@pytest.mark.parametrize("name", source_files())
def test_private_sklearn_names_come_from_one_place(name):
    if name == "utils/_sklearn_compat.py":
        return
    for module in imported_modules(ROOT / name):
        if module.startswith("sklearn"):
            assert not any(part.startswith("_") for part in module.split(".")), module


def test_every_room_has_an_entry():
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT)


def test_import_is_light():
    code = (
        "import sys, skdict; "
        "heavy = {'torch', 'sklearn', 'transformers', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "skdict.SparseAutoencoderDictionary, skdict.ActivationExtractor; "
        "heavy = {'transformers', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        skdict.nonsense  # noqa: B018
    assert set(skdict.__all__) <= set(dir(skdict))
