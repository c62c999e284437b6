"""Kernels run wherever the package can be read, and their cache is never believed blindly."""

import importlib
import linecache
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import skdict
from skdict._core.kernels.cpu import compile as compile_cpu

ROOT = Path(skdict.__file__).parents[1]

# A constant and a function of other files are compiled into the kernel.
FILES = {
    "__init__.py": "",
    "constants.py": "FACTOR, OFFSETS = 2, (0, 1)",
    "inner.py": """
from skdict._core.kernels.cpu.compile import compiled

@compiled()
def add(a, b):
    return a + b
""",
    "outer.py": """
from skdict._core.kernels.cpu.compile import compiled
from . import constants, inner
from .constants import FACTOR

@compiled()
def kernel(a, b):
    return FACTOR * inner.add(a, b) + constants.OFFSETS[0]
""",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "kernels"
    folder.mkdir()
    for name, source in FILES.items():
        (folder / name).write_text(source)
    yield folder
    forget()


def forget():
    """What a new process does not know."""
    for name in [name for name in sys.modules if name.split(".")[0] == "kernels"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    linecache.clearcache()


def run(package, a=3, b=4):
    """Result, whether it came from the cache, and whether there is one, as in a new process."""
    forget()
    kernel = importlib.import_module("kernels.outer").kernel
    value = kernel(a, b)
    return value, sum(kernel.stats.cache_hits.values()) > 0, kernel.stats.cache_path is not None


def run_script(code, *paths, **variables):
    """Run code in a new process."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, paths)), **variables)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=paths[0], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


def entries(package, suffix):
    return sorted((package / "__pycache__").glob(f"outer.kernel*.{suffix}"))


def test_the_second_process_does_not_compile(package):
    assert run(package) == (14, False, True)
    assert run(package) == (14, True, True)


@pytest.mark.parametrize(
    ("name", "before", "after", "value"),
    [
        ("constants.py", "2,", "3,", 21),
        ("constants.py", "(0, 1)", "(5, 1)", 19),
        ("inner.py", "a + b", "a - b", -2),
    ],
)
def test_what_other_files_bring_in_is_compiled_anew(package, name, before, after, value):
    run(package)
    (package / name).write_text(FILES[name].replace(before, after))
    assert run(package) == (value, False, True)
    assert run(package) == (value, True, True)


def test_without_a_folder_to_write_to(package, tmp_path, monkeypatch):
    (package / "__pycache__").touch()
    monkeypatch.setenv("HOME", "/dev/null")
    assert run(package) == (14, False, False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/dev/null")
    assert run(package) == (14, False, False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    assert run(package) == (14, False, True)
    assert run(package) == (14, True, True)


@pytest.mark.slow
def test_a_disk_that_fills_up(package):
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
from kernels.outer import kernel
print(kernel(3, 4))
"""
    variables = {"NUMBA_CACHE_DIR": "", "PYTHONDONTWRITEBYTECODE": "1"}
    assert run_script(code, package.parent, ROOT, **variables) == ["14"]
    assert not entries(package, "nbc")
    assert run(package) == (14, False, True)
    assert run(package) == (14, True, True)


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "a bit": lambda content: content[:-200] + bytes([content[-200] ^ 1]) + content[-199:],
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_a_damaged_cache_is_replaced(package, suffix, damage):
    run(package)
    (file,) = entries(package, suffix)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert run(package) == (14, False, True)
    assert run(package) == (14, True, True)


def test_an_entry_of_other_types_is_not_taken(package):
    """As two processes leave it that store at the same time: the index of one, code of both."""
    run(package)
    (index,), (data,) = entries(package, "nbi"), entries(package, "nbc")
    of_integers = index.read_bytes()
    index.unlink()
    data.unlink()
    assert run(package, 3.5, 4.0) == (15.0, False, True)
    index.write_bytes(of_integers)
    assert run(package) == (14, False, True)


@pytest.mark.slow
def test_the_package_runs_where_nothing_can_be_written(tmp_path):
    copy = tmp_path / "skdict"
    ignored = shutil.ignore_patterns("__pycache__", "data")
    shutil.copytree(ROOT / "skdict", copy, ignore=ignored)
    (copy / "_core" / "kernels" / "cpu" / "__pycache__").touch()
    code = """
import skdict
from skdict._core.kernels.cpu import dict_learning, encode, lasso, omp, select  # all decorate
import torch
from skdict._core.kernels import Support
support = Support(torch.tensor([0, 1]), torch.tensor([2]), 3)
print(skdict.__file__, support.transposed[0].sum())
"""
    variables = {"HOME": "/dev/null", "XDG_CACHE_HOME": "", "NUMBA_CACHE_DIR": ""}
    found = run_script(code, tmp_path, **variables)
    assert found == [str(copy / "__init__.py"), "tensor(1)"]


def test_an_interrupt_while_a_kernel_returns_is_one():
    def kernel(error):
        try:
            raise error
        except BaseException as error:
            raise SystemError("returned a result with an exception set") from error

    with pytest.raises(KeyboardInterrupt):
        compile_cpu.call_interruptibly(kernel, KeyboardInterrupt())
    with pytest.raises(SystemError, match="of its own"):
        compile_cpu.call_interruptibly(lambda: (_ for _ in ()).throw(SystemError("of its own")))
