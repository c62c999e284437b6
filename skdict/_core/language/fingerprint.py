"""A digest of everything in a model that decides what it computes."""

import copyreg
import dis
import functools
import hashlib
import sys
import sysconfig
import types
import weakref
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

# Attributes that every module has. Of these, tensors, children and hooks matter: `_add_module`.
_INTERNALS = frozenset(vars(nn.Module()))
# Attributes that do not change what a model computes.
_BOOKKEEPING = frozenset(
    {
        "name_or_path",
        "_name_or_path",
        "transformers_version",
        "_commit_hash",
        "_is_hf_initialized",
        "_original_object_hash",  # of a generation config: other numbers in other processes
        "warnings_issued",
        "hf_device_map",
        "_abc_impl",
    }
)
_VALUES = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    type(None),
    type(Ellipsis),
    type(NotImplemented),
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    torch.Size,
    types.ModuleType,
)
_BUILTINS = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
_INSTALLED = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
# 8-byte words in a row of `_sums`. Usual widths of matrices are no multiples of these. A row and
# its sums fit into the second cache of a core; twice the width do not. Each row costs two calls of
# NumPy.
_WIDTHS = 32749, 1021


class CannotDescribeError(TypeError):
    """A part of a model, on which its results may depend, cannot be described."""


@torch.no_grad()
def fingerprint(module):
    """Digest of a model as it is now: equal for equal models, in any process.

    It covers all tensors, in whatever attribute they are and also where accelerate has offloaded
    them; attributes of any kind; code that does not belong to an installed package, with the
    global variables that it names; forward hooks; and torch's autocast and default dtype. Modes
    (`training`), devices, and where the model was loaded from make no difference.

    All of it is read at each call, because a tensor can be written to without a trace, through
    its ``data`` or through an array that shares its memory. To make that cheap, the digest of a
    large tensor is made of sums over two axes (`_sums`), which take little longer than reading
    the tensor.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    fingerprint : str

    Raises
    ------
    CannotDescribeError
        If the model depends on something that cannot be compared with an earlier state.
    """
    description = _Description()
    description.add(_arithmetic(module))
    for hooks in ("_global_forward_pre_hooks", "_global_forward_hooks"):
        description.add(list(getattr(nn.modules.module, hooks).values()))
    description.add(module)
    return description.digest()


def _arithmetic(module):
    """The settings of torch that decide the precision of a model's operations."""
    devices = {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}
    autocast = [
        (device, torch.get_autocast_dtype(device))
        for device in sorted(devices - {"meta"} | {"cpu"})
        if torch.is_autocast_enabled(device)
    ]
    return [autocast, torch.get_default_dtype(), torch.get_float32_matmul_precision()]


class _Description:
    """Digests values, one after the other.

    An object that comes again is written as a reference to its first place, so cycles end.
    """

    def __init__(self, seen=None):
        self._hash = hashlib.blake2b(digest_size=32)
        # {id: (number, object)}; the object is kept alive, so that no other one gets its id
        self._seen = {} if seen is None else seen

    def digest(self):
        return self._hash.hexdigest()

    def _write(self, kind, content=b""):
        if isinstance(content, str):
            content = content.encode("utf-8", "surrogatepass")
        self._hash.update(f"{kind} {len(content)} ".encode())
        self._hash.update(content)

    def add(self, value, where=""):
        """Add a value; `where` is its name in an error."""
        self._within(where, self._add, value)

    def _within(self, where, add, *args):
        try:
            add(*args)
        except CannotDescribeError as error:
            raise CannotDescribeError(".".join(filter(None, (where, str(error))))) from None
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # objects and tensors may raise anything
            raise CannotDescribeError(where) from error

    def _add(self, value):
        kind = type(value)
        if kind in _VALUES:
            if kind is torch.dtype:  # equal to its name, as a config loaded from a file has it
                value, kind = str(value).removeprefix("torch."), str
            name = value.__name__ if kind is types.ModuleType else repr(value)
            return self._write(kind.__name__, name)
        if isinstance(value, np.generic | np.dtype):
            return self._write("scalar", f"{kind.__name__} {value!r}")
        if isinstance(value, _BUILTINS):
            self._write("builtin", _name_of(value))
            owner = getattr(value, "__self__", None)
            return None if isinstance(owner, types.ModuleType | type) else self._add(owner)
        if id(value) in self._seen:
            return self._write("again", str(self._seen[id(value)][0]))
        self._seen[id(value)] = len(self._seen), value
        for types_, add in (
            (type, self._add_class),
            (torch.Tensor, self._add_tensor),
            (np.ndarray, self._add_array),
            (nn.Module, self._add_module),
            (types.FunctionType, self._add_function),
            (types.MethodType, lambda v: self._add_parts("method", (v.__func__, v.__self__))),
            (staticmethod | classmethod, lambda v: self._add_parts("method", (v.__func__,))),
            (property, lambda v: self._add_parts("property", (v.fget,))),
            (weakref.ref, lambda v: self._add_parts("ref", (v(),))),
            (torch._ops.OpOverload | torch._ops.OpOverloadPacket, self._add_string),
            (torch.fx.Graph, self._add_string),
            (slice, lambda v: self._add_parts("slice", (v.start, v.stop, v.step))),
        ):
            if isinstance(value, types_):
                return add(value)
        if kind in (list, tuple):
            return self._add_parts(kind.__name__, value)
        if kind in (set, frozenset):
            return self._add_set(value)
        if kind in (dict, types.MappingProxyType):
            return self._add_parts("dict", (part for item in value.items() for part in item))
        return self._add_object(value)

    def _add_parts(self, kind, parts):
        self._write(kind)
        for i, part in enumerate(parts):
            self.add(part, f"[{i}]")
        self._write("end")

    def _add_named(self, items):
        for name, value in sorted(items, key=lambda item: str(item[0])):
            if name not in _BOOKKEEPING:
                self._write("name", str(name))
                self.add(value, str(name))
        self._write("end")

    def _add_string(self, value):
        self._write(type(value).__name__, str(value))

    def _add_set(self, values):
        digests = []
        for value in values:
            part = _Description(dict(self._seen))
            part.add(value)
            digests.append(part.digest())
        self._add_parts("set", sorted(digests))

    def _add_array(self, array):
        if array.dtype.hasobject:
            return self._add_parts(f"array {array.shape}", array.ravel().tolist())
        self._write("array", f"{array.dtype.descr} {array.shape}")
        self._write("bytes", np.ascontiguousarray(array).tobytes())

    def _add_tensor(self, tensor):
        shape = "nested" if tensor.is_nested else tuple(tensor.shape)
        self._write("tensor", f"{tensor.dtype} {shape} {tensor.layout}")
        if type(tensor) not in (torch.Tensor, nn.Parameter, nn.Buffer):
            if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
                raise CannotDescribeError("")
            self._add_class(type(tensor))
            self._add_named(vars(tensor).items())
            if hasattr(tensor, "__tensor_flatten__"):
                names, context = tensor.__tensor_flatten__()
                self._add_named((name, getattr(tensor, name)) for name in names)
                return self.add(context, "context")
        if tensor.is_meta:
            raise CannotDescribeError("")
        if tensor.is_nested:
            self._add_parts("nested", tensor.unbind())
        elif tensor.layout == torch.sparse_coo:
            self._add_parts("coo", (tensor._indices(), tensor._values()))
        elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
            parts = tensor.crow_indices(), tensor.col_indices(), tensor.values()
            self._add_parts("rows", parts)
        elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
            parts = tensor.ccol_indices(), tensor.row_indices(), tensor.values()
            self._add_parts("columns", parts)
        elif tensor.is_quantized:
            if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
                scale = tensor.q_scale(), tensor.q_zero_point()
            else:
                scale = (
                    tensor.q_per_channel_scales(),
                    tensor.q_per_channel_zero_points(),
                    tensor.q_per_channel_axis(),
                )
            self._add_parts("quantised", (tensor.int_repr(), *scale))
        else:
            if tensor.layout != torch.strided:
                tensor = tensor.to_dense()
            for part in _sums(tensor.resolve_conj().resolve_neg()):
                self._write("bytes", part)

    def _add_module(self, module, offloaded=()):
        """Add a module; `offloaded` holds pairs of accelerate's weights and a prefix of names."""
        self._write("module")
        self._add_class(type(module))
        attributes = {
            name: value for name, value in vars(module).items() if name not in _INTERNALS
        }
        hook = attributes.get("_hf_hook")
        if type(hook).__module__.partition(".")[0] == "accelerate":
            for part in getattr(hook, "hooks", (hook,)):
                if type(part).__name__ == "AlignDevicesHook":  # only says where tensors are
                    weights = getattr(part, "weights_map", None)
                    offloaded = (*offloaded, *([] if weights is None else [(weights, "")]))
                else:
                    self._add(part)
            del attributes["_hf_hook"]
            # the hook wraps `forward`, and keeps the original one
            forward = attributes.pop("_old_forward", None)
            attributes.pop("forward", None)
            if getattr(forward, "__func__", None) is not type(module).forward:
                attributes["forward"] = forward
        self._add_named(attributes.items())
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            self.add(list(hooks.values()), "hooks")
        for tensors in (module._parameters, module._buffers):
            self._add_named(
                (name, _loaded(name, tensor, offloaded)) for name, tensor in tensors.items()
            )
        for name, child in module._modules.items():
            self._write("child", name)
            if child is None or id(child) in self._seen:
                self._add(child)
                continue
            self._seen[id(child)] = len(self._seen), child
            inside = [(weights, f"{prefix}{name}.") for weights, prefix in offloaded]
            self._within(name, self._add_module, child, inside)
        self._write("end")

    def _add_class(self, cls):
        """Add a class, with the code of those of its bases that are not installed packages'."""
        self._write("class", _name_of(cls))
        if ("class", cls) in self._seen:
            return
        self._seen["class", cls] = len(self._seen), cls
        self._write("forward", _name_of(getattr(cls, "forward", None)))
        for base in cls.__mro__:
            is_own = _is_own(getattr(sys.modules.get(base.__module__), "__file__", None) or "")
            is_own &= base.__module__ != "builtins"
            for name, value in sorted(vars(base).items()):
                if isinstance(value, types.FunctionType):
                    if is_own or _is_own(value.__code__.co_filename):  # or patched in
                        self._write("name", name)
                        self._loosely(value)
                elif is_own and name not in _BOOKKEEPING and not name.startswith("__"):
                    self._write("name", name)
                    self._loosely(value)

    def _add_function(self, function):
        self._write("function", _name_of(function))
        closure = _closure(function)
        if not _is_own(function.__code__.co_filename):
            return self._loosely(closure)  # a decorator's holds the function it decorates
        digest, names = _code(function.__code__)
        self._write("code", digest)
        self._add_parts("defaults", (function.__defaults__, function.__kwdefaults__))
        self.add(closure, _name_of(function))
        for name, *attributes in names:
            if name in function.__globals__:
                value = function.__globals__[name]
                for attribute in attributes:
                    if isinstance(value, types.ModuleType):  # as in ``settings.scale``
                        value = getattr(value, attribute, None)
                self._write("global", ".".join((name, *attributes)))
                self._loosely(value)

    def _loosely(self, value):
        """Add a value that code names, or its class if the value cannot be described."""
        try:
            self.add(value)
        except CannotDescribeError:
            self._write("class", _name_of(type(value)))

    def _add_object(self, value):
        """Add an object of any other class, by what pickle would store of it."""
        self._write("object")
        self._add_class(type(value))
        if isinstance(value, functools._lru_cache_wrapper):
            return self._add(value.__wrapped__)
        if isinstance(value, functools.partial):
            return self._add_parts("partial", (value.func, value.args, value.keywords))
        reduce = copyreg.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(reduced, str):
            return self._write("global", reduced)
        make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        self._add(make)
        self._add_parts("arguments", arguments)
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            self._add_named(state[1].items())  # of slots
            state = state[0]
        if isinstance(state, dict):
            self._add_named(state.items())
        else:
            self._add(state)
        if items is not None:
            self._add_parts("items", items)
        if pairs is not None:
            self._add_parts("pairs", (part for pair in pairs for part in pair))


def _name_of(value):
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    return f"{getattr(value, '__module__', None)}.{name}"


def _closure(function):
    """Values of the variables that a function takes from the functions around it."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            cells.append(None)
    return cells


@functools.cache
def _is_own(filename):
    """Whether code is the user's own. For an installed package's the name is enough."""
    return not filename.startswith((*_INSTALLED, "<frozen"))


_CODES = weakref.WeakKeyDictionary()  # {code: its digest and names}


def _code(code):
    """Digest of a function's code, and the global names in it, each with its attributes."""
    if code not in _CODES:
        digest, names, name = hashlib.blake2b(code.co_code), set(), None
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                name = (instruction.argval,)
            elif name and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                name = (*name, instruction.argval)
            else:
                name = None
            names.add(name)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                inner, inner_names = _code(constant)
                digest.update(inner)
                names.update(inner_names)
            elif isinstance(constant, frozenset):
                digest.update(repr(sorted(map(repr, constant))).encode())
            else:
                digest.update(repr(constant).encode("utf-8", "surrogatepass"))
        digest.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
        _CODES[code] = digest.digest(), sorted(names - {None})
    return _CODES[code]


def _loaded(name, tensor, offloaded):
    """A tensor, taken from accelerate's weights if it is offloaded."""
    if tensor is not None and tensor.is_meta:
        for weights, prefix in offloaded:
            if isinstance(weights, Mapping) and f"{prefix}{name}" in weights:
                return weights[f"{prefix}{name}"]
    return tensor


def _sums(tensor):
    """Yield bytes that stand for the content of a dense tensor, the same on any device.

    The tensor is taken as 8-byte words in rows, and the sums over both axes, modulo 2^64, are
    yielded; what does not fill a row is yielded as it is, and so all of a small tensor is. A
    change of the tensor changes one of the sums, unless it is made not to, as by exchanging the
    corners of a rectangle. The sums over rows of a large tensor are many, so they are summed
    once more, in shorter rows.
    """
    content = tensor.detach().reshape(-1).contiguous()
    content = content.view(torch.uint8) if content.numel() else content.new_empty(0).byte()
    end = len(content) // 8 * 8
    yield content[end:].cpu().numpy().tobytes()
    words = content[:end]
    words = (words.clone() if words.storage_offset() % 8 else words).view(torch.int64)
    for width in _WIDTHS:
        n_rows = len(words) // width
        if n_rows:
            body, rest = words[: n_rows * width].view(n_rows, width), words[n_rows * width :]
            over_rows, over_columns = _sums_over_axes(body)
            yield over_columns.cpu().numpy().tobytes()
            words = torch.cat([over_rows, rest])
    yield words.cpu().numpy().tobytes()


def _sums_over_axes(matrix):
    if matrix.device.type != "cpu":
        return matrix.sum(dim=0), matrix.sum(dim=1)
    over_rows = np.zeros(matrix.shape[1], np.int64)
    over_columns = np.empty(len(matrix), np.int64)
    for i, row in enumerate(matrix.numpy()):  # NumPy's sums are faster than torch's
        over_columns[i] = np.add.reduce(row)
        np.add(over_rows, row, out=over_rows)
    return torch.from_numpy(over_rows), torch.from_numpy(over_columns)
