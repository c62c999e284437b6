"""A CUDA device that is not there: tensors that say "cuda:0" and are computed on the CPU.

Inside ``with PretendCuda() as gpu:`` ``torch.cuda.is_available()`` is true, and ``.to("cuda")``
and ``device="cuda"`` give such tensors. What CUDA refuses is refused: tensors of both devices in
one operation, ``.numpy()``, a generator of the CPU for numbers drawn on the device, products of
integers. So is a pickle, which would need a GPU to be loaded. ``gpu.launches`` counts the
operations on the device by name; ``gpu.waits`` counts what makes the host wait until the device
has done all that it was told.

It finds wrong devices and waiting. It says nothing of speed, rounding and races.
"""

import contextlib
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
# Python, or the size of the result, needs a number from the device.
WAITING = {
    "_linalg_check_errors",
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "histc",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
COPIES = {"_to_copy", "copy_"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
PRODUCTS = {"mm", "bmm", "addmm", "mv", "dot", "baddbmm", "addmv"}
# They make no kernel run; torch does not count them as views.
WITHOUT_LAUNCH = {
    "_unsafe_view",
    "empty",
    "empty_like",
    "empty_strided",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
}


class _TensorType(torch._C._TensorMeta):
    """Lets `OnCuda` pass for a tensor of torch's own, as it would be on a GPU."""

    in_making = False

    def __getattribute__(cls, name):
        if name == "__torch_dispatch__" and not _TensorType.in_making:
            return torch.Tensor.__torch_dispatch__
        return super().__getattribute__(name)


class OnCuda(torch.Tensor, metaclass=_TensorType):
    """A tensor on the pretended device; ``held``, on the CPU, has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        # "meta", as torch without CUDA takes no gradients on "cuda"; only C++ gets to see it
        like = {"dtype": held.dtype, "layout": held.layout, "device": "meta"}
        if held.layout == torch.strided:
            like.update(strides=held.stride(), storage_offset=held.storage_offset())
        _TensorType.in_making = True
        try:
            tensor = torch.Tensor._make_wrapper_subclass(cls, held.size(), **like)
        finally:
            _TensorType.in_making = False
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} of a tensor on the pretended device, which is gone")

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)
    layout = property(lambda self: self.held.layout)

    def get_device(self):
        return CUDA.index

    def as_subclass(self, cls):
        return self

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = __dlpack__ = numpy

    def __deepcopy__(self, memo):
        return OnCuda(self.held.clone()).requires_grad_(self.requires_grad)

    def __reduce_ex__(self, protocol):
        raise RuntimeError("a tensor on a GPU is pickled, and would need a GPU to be loaded")

    def __repr__(self):
        return f"OnCuda({self.held!r})"


class _Functions(TorchFunctionMode):
    """What has to be different before torch looks at its arguments."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        # "cuda:0" for "cuda": torch would ask a driver for its current device
        if "device" in kwargs:
            kwargs["device"] = _named(kwargs["device"])
        if name in ("to", "set_default_device"):
            args = tuple(map(_named, args))
        if name == "cuda":
            return args[0].to(CUDA)
        if name in ("tensor", "as_tensor") and kwargs.get("device") == CUDA:
            kwargs.pop("device")
            return function(*args, **kwargs).to(CUDA)
        # below, numbers would go to the device that is there, and be lost
        if name == "new_tensor" and isinstance(args[0], OnCuda):
            kwargs.setdefault("dtype", args[0].dtype)
            return torch.tensor(*args[1:], **kwargs).to(CUDA)
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], OnCuda):
            args = args[0], _without_lists(args[1]), *args[2:]
        # below a sparse tensor has no layout
        if name != "__get__" and any(map(_is_sparse, args)):
            return self._of_sparse(function, name, args, kwargs)
        return function(*args, **kwargs)

    def _of_sparse(self, function, name, args, kwargs):
        self.gpu.launches[name] += 1
        devices = [x for x in (*args, *kwargs.values()) if isinstance(x, str | torch.device)]
        out = function(*tree_map(_held_on_cpu, args), **tree_map(_held_on_cpu, kwargs))
        if name == "cpu" or any(torch.device(device).type == "cpu" for device in devices):
            self.gpu.wait("copy to the CPU")
            return out
        return tree_map(_on_cuda, out)


def _without_lists(index):
    if isinstance(index, tuple):
        return tuple(map(_without_lists, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _named(value):
    if isinstance(value, str | torch.device) and str(value).startswith("cuda"):
        return CUDA
    return value


def _is_sparse(x):
    return isinstance(x, OnCuda) and x.held.layout != torch.strided


def _held_on_cpu(x):
    return torch.device("cpu") if isinstance(x, str | torch.device) else _held(x)


def _sparse_csr_tensor(indptr, indices, values, *args, make=torch.sparse_csr_tensor, **kwargs):
    """torch's own, which makes them where it sees the device that is below."""
    if not isinstance(values, OnCuda):
        return make(indptr, indices, values, *args, **kwargs)
    kwargs.pop("device", None)
    return OnCuda(make(*map(_held, (indptr, indices, values)), *args, **kwargs))


@contextlib.contextmanager
def pretend_cuda():
    """`PretendCuda` for skdict: operators of torch do what its Triton kernels do on a real one."""
    from skdict._core.kernels._dispatch import TABLE

    with contextlib.ExitStack() as stack:
        for modules in TABLE.values():
            if modules.get("cuda", "").startswith("triton"):
                stack.enter_context(mock.patch.dict(modules, cuda="fused"))
        yield stack.enter_context(PretendCuda())


def _make_dual(*args, **kwargs):
    """Torch would crash, for tensors of the CPU too."""
    raise NotImplementedError("no forward AD while a device is pretended")


class PretendCuda(TorchDispatchMode):
    """The pretended device, for as long as the context lasts. It knows no forward-mode AD.

    Attributes
    ----------
    launches : Counter
        How often each operation was run on the device. Views and allocations are none; an
        operation may be several kernels in truth.
    waits : Counter
        How often the host waited, by operation and line of the caller.
    n_pinned : int
        How many tensors were copied into page-locked memory.
    """

    def __init__(self):
        super().__init__()
        self.launches, self.waits = Counter(), Counter()
        self.n_pinned = 0

    def reset(self):
        self.launches.clear()
        self.waits.clear()

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        for name, value in {
            "is_available": True,
            "is_initialized": True,
            "device_count": 1,
            "current_device": CUDA.index,
            "get_device_name": "pretended",
            "get_device_capability": (9, 0),
            "is_bf16_supported": True,
            "mem_get_info": (8 << 30, 8 << 30),
            "empty_cache": None,
            "_lazy_init": None,
        }.items():
            self._stack.enter_context(mock.patch.object(torch.cuda, name, return_value=value))
        wait = mock.patch.object(torch.cuda, "synchronize", lambda *args: self.wait("synchronize"))
        self._stack.enter_context(wait)
        self._stack.enter_context(
            mock.patch.object(torch.Tensor, "pin_memory", lambda x: self._pin(x))
        )
        for module, function in ((torch, _sparse_csr_tensor), (forward_ad, _make_dual)):
            name = function.__name__.removeprefix("_")
            self._stack.enter_context(mock.patch.object(module, name, function))
        # a context of functions is left where these call others, as in a backward pass
        self._stack.enter_context(_Functions(self))
        return super().__enter__()

    def __exit__(self, *error):
        result = super().__exit__(*error)
        self._stack.close()
        return result

    def _pin(self, tensor):
        if isinstance(tensor, OnCuda):
            raise RuntimeError("cannot pin a tensor on a device: only dense CPU tensors")
        self.n_pinned += 1
        return tensor.clone()

    def wait(self, what):
        frame = sys._getframe(1)
        while _is_between(frame.f_code.co_filename):
            frame = frame.f_back
        place = Path(frame.f_code.co_filename).name
        self.waits[f"{what}, {place}:{frame.f_lineno}"] += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = function.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(not isinstance(tensor, OnCuda) and tensor.is_meta for tensor in tensors):
            raise NotImplementedError(f"{function} of a tensor that was made without PretendCuda")
        comes_from = goes_to = any(isinstance(tensor, OnCuda) for tensor in tensors)
        if kwargs.get("device") is not None:
            goes_to = torch.device(kwargs["device"]).type in ("cuda", "meta")
            kwargs["device"] = "cpu"
        if name in COPIES:
            comes_from = isinstance(args[name == "copy_"], OnCuda)
            goes_to = isinstance(args[0], OnCuda) if name == "copy_" else goes_to
        if comes_from or goes_to:
            _check_allowed(function, name, args, kwargs, tensors, goes_to)
            if not (function.is_view or name in WITHOUT_LAUNCH):
                self.launches[name] += 1
            reason = _reason_to_wait(name, args, kwargs, comes_from, goes_to)
            if reason:
                self.wait(reason)
        if name == "_to_copy" and comes_from and goes_to and _changes_nothing(args[0], kwargs):
            return OnCuda(args[0].held.detach())
        out = function(*tree_map(_held, args), **tree_map(_held, kwargs))
        written = _written(function, args, kwargs)
        if written is not None:
            return written
        return tree_map(_on_cuda, out) if goes_to else out


def _held(x):
    return x.held if isinstance(x, OnCuda) else x


def _on_cuda(x):
    return OnCuda(x) if isinstance(x, torch.Tensor) else x


def _written(function, args, kwargs):
    """The arguments that an operation in place has written to and returns, or None."""
    schema = function._schema
    if not any(value.alias_info and value.alias_info.is_write for value in schema.returns):
        return None
    given = dict(zip((argument.name for argument in schema.arguments), args, strict=False))
    written = [
        (given | kwargs)[argument.name]
        for argument in schema.arguments
        if argument.alias_info and argument.alias_info.is_write
    ]
    return written[0] if len(written) == 1 else tuple(written)


def _changes_nothing(tensor, kwargs):
    return kwargs.get("dtype") in (None, tensor.dtype) and not kwargs.get("memory_format")


def _is_mask(x):
    return isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8)


def _check_allowed(function, name, args, kwargs, tensors, goes_to):
    """Raise what CUDA raises."""
    generators = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Generator)]
    if any(generator.device.type == "cpu" for generator in generators):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if name in PRODUCTS and not tensors[0].is_floating_point():
        raise RuntimeError(f"{name} is not implemented on CUDA for {tensors[0].dtype}")
    if name in COPIES:
        return
    if name in INDEXING:  # by indices of the CPU, if it has to be
        tensors = [x for x in (args[0], *args[2:3]) if isinstance(x, torch.Tensor)]
        if not isinstance(args[0], OnCuda):
            tensors += [x for x in tree_leaves(args[1]) if x is not None]
    if len({isinstance(x, OnCuda) for x in tensors if x.dim() > 0}) > 1:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({function}, shapes {[tuple(x.shape) for x in tensors]})"
        )


def _reason_to_wait(name, args, kwargs, comes_from, goes_to):
    """Why the host has to wait for the device until this operation is done, or None."""
    if name in WAITING:
        return name
    if name in COPIES and comes_from != goes_to:
        if comes_from:
            return "copy to the CPU"
        is_async = kwargs.get("non_blocking") or args[2:3] == (True,)
        return None if is_async else "copy from the CPU"
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return "repeat_interleave without output_size"
    if name in INDEXING:
        indices = [x for x in tree_leaves(args[1]) if isinstance(x, torch.Tensor)]
        if any(map(_is_mask, indices)):
            fills = name != "index" and args[2].dim() == 0  # masked_fill, which needs no size
            return None if fills else "a mask as an index"
        if not all(isinstance(x, OnCuda) for x in indices):
            return "indices from the CPU"
    return None


def _is_between(path):
    """Whether a file is between the line that waits and this one."""
    return path == __file__ or Path(torch.__file__).parent in Path(path).parents
