"""Who may import whom, what importing costs, and how long a file or a function may be."""

import ast
import graphlib
import io
import subprocess
import sys
import tokenize
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import skdict

ROOT = Path(skdict.__file__).parent
MAY_IMPORT = {
    "_core": set(),
    "utils": {"_core"},
    "callbacks": {"_core", "utils"},
    "metrics": {"_core", "utils"},
    "datasets": {"_core", "utils"},
    "feature_extraction": {"_core", "utils"},
    "decomposition": {"_core", "utils", "metrics"},
    "inspection": {"_core", "metrics", "utils"},
    "io": {"_core", "utils", "decomposition"},
}
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60  # without docstring, comments and blank lines
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
    "safetensors",
    "fsspec",
    "huggingface_hub",
    "yaml",
}


@cache
def parsed(name):
    source = (ROOT / name).read_text(encoding="utf-8")
    return source, ast.parse(source)


def imported_modules(name, *, top_level_only=False):
    """Absolute names of what a file imports."""
    package = ("skdict", *Path(name).parts)[:-1]
    _, tree = parsed(name)
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
    for module in imported_modules(name):
        parts = module.split(".")
        if parts[0] == "skdict" and len(parts) > 1 and parts[1] != room:
            assert parts[1] in MAY_IMPORT[room], f"{name} imports {module}"
        if room == "_core":
            assert parts[0] != "sklearn", f"{name} imports {module}"


@pytest.mark.parametrize("name", source_files())
def test_heavy_packages_are_imported_inside_functions(name):
    for module in imported_modules(name, top_level_only=True):
        assert module.split(".")[0] not in ONLY_INSIDE_FUNCTIONS, f"{name} imports {module}"


@pytest.mark.parametrize("name", source_files())
def test_private_sklearn_names_come_from_one_place(name):
    if name == "utils/_sklearn_compat.py":
        return
    for module in imported_modules(name):
        if module.startswith("sklearn"):
            assert not any(part.startswith("_") for part in module.split(".")), module


def test_every_room_has_an_entry():
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT)


def module_name(name):
    return ".".join(("skdict", *Path(name).with_suffix("").parts)).removesuffix(".__init__")


def import_graph():
    """{module: modules of the package that it imports}, imports inside functions included.

    To import a module from outside its package imports the package too.
    """
    modules = {module_name(name): name for name in source_files()}
    graph = {}
    for module, name in modules.items():
        graph[module] = set()
        for imported in imported_modules(name):
            parts = imported.split(".")
            chain = [".".join(parts[:n]) for n in range(2, len(parts) + 1)]
            graph[module] |= {
                each
                for each in chain
                if each in modules and not f"{module}.".startswith(f"{each}.")
            }
    return graph


def circle(graph):
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def test_no_circle_of_imports():
    assert circle(import_graph()) is None


def test_no_circle_of_rooms_in_the_core():
    rooms = defaultdict(set)
    for a, imported in import_graph().items():
        for b in imported:
            if all(module.startswith("skdict._core.") for module in (a, b)):
                room, other = (module.split(".")[2] for module in (a, b))
                rooms[room] |= {other} - {room}
    assert len(rooms) > 3
    assert circle(rooms) is None


def code_lines(name):
    """Numbers of the lines of a file that hold code: no docstring, no comment."""
    source, tree = parsed(name)
    no_code = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in no_code
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(tree):
        has_docstring = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if has_docstring and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, docstring.end_lineno + 1))
    return lines


def is_kernel(function):
    """Whether Numba compiles it, which cannot put the parts of a loop into Python functions."""
    return any(
        isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "compiled"
        for decorator in function.decorator_list
    )


@pytest.mark.parametrize("name", source_files())
def test_length(name):
    source, tree = parsed(name)
    code = code_lines(name)
    too_long = {name} if len(source.splitlines()) > MAX_FILE_LINES else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not is_kernel(node):
            n_lines = len(code & set(range(node.lineno, node.end_lineno + 1)))
            too_long |= {f"{name}::{node.name}"} if n_lines > MAX_FUNCTION_LINES else set()
    assert not too_long


@cache
def private_methods(name):
    """Names of private methods and properties that the classes of a file define."""
    return {
        function.name
        for node in ast.walk(parsed(name)[1])
        if isinstance(node, ast.ClassDef)
        for function in node.body
        if isinstance(function, ast.FunctionDef)
        if function.name.startswith("_") and not function.name.startswith("__")
    }


def own_attributes(name):
    """Names that a file sets or defines itself as an attribute."""
    is_set = {
        node.attr
        for node in ast.walk(parsed(name)[1])
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return is_set | private_methods(name)


def is_own(value):
    """Whether an attribute is looked up on the object itself."""
    if isinstance(value, ast.Call):  # super()
        value = value.func
    return isinstance(value, ast.Name) and value.id in {"self", "cls", "super"}


@pytest.mark.parametrize("name", source_files())
def test_private_methods_stay_in_their_file(name):
    elsewhere = set().union(*(private_methods(each) for each in source_files() if each != name))
    elsewhere -= own_attributes(name)
    used = {
        ast.unparse(node)
        for node in ast.walk(parsed(name)[1])
        if isinstance(node, ast.Attribute) and node.attr in elsewhere and not is_own(node.value)
    }
    assert not used


@pytest.mark.slow
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
