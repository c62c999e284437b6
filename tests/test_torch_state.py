"""No setting of torch that others have made changes a result, and none is changed."""

import ast
from pathlib import Path

import skdict

# Functions that make a tensor on the default device; those after them, also of the default dtype.
MAKERS = {
    *("arange", "as_tensor", "asarray", "full", "randint", "randperm", "scalar_tensor"),
    *("sparse_coo_tensor", "sparse_csr_tensor", "tensor", "tril_indices", "triu_indices"),
}
MAKERS_OF_FLOATS = {"empty", "eye", "linspace", "logspace", "ones", "rand", "randn", "zeros"}


def tensors_made(path):
    """Names of functions that make a tensor, with line and keywords, in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        function = getattr(node, "func", None)
        if (
            isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Name)
            and function.value.id == "torch"
        ):
            yield function.attr, node.lineno, {keyword.arg for keyword in node.keywords}


def test_every_new_tensor_names_its_device_and_dtype():
    missing = []
    for path in sorted(Path(skdict.__file__).parent.rglob("*.py")):
        for name, line, keywords in tensors_made(path):
            wanted = {"device"} if name in MAKERS | MAKERS_OF_FLOATS else set()
            wanted |= {"dtype"} if name in MAKERS_OF_FLOATS else set()
            if None not in keywords and wanted - keywords:
                missing.append(f"{path}:{line}: torch.{name} without {wanted - keywords}")
    assert not missing, "\n".join(missing)
