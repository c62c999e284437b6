"""Find a layer by its dotted path; read, record or replace what flows through it."""

import copy
import difflib
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import torch

# {held lock of a block of `evaluation_mode`: (its thread, the ids of its modules)}. Locks of C, of
# which no interrupt can miss the release, as it can of a Condition.
_BLOCKS = {}
_ENTERING = threading.Lock()


def find_module(model, layer):
    """Return the submodule of a model that a dotted path names.

    Parameters
    ----------
    model : torch.nn.Module
        The model to look in.

    layer : str
        Dotted path as in ``model.named_modules()``, such as "transformer.h.0.mlp". The
        empty string is the model itself.

    Returns
    -------
    module : torch.nn.Module

    Raises
    ------
    ValueError
        If there is no such submodule; the message lists the nearest names.
    """
    return way_to(model, layer)[-1]


def _of_torchscript(layer, module):
    return (
        f"layer={layer!r} is of a {type(module).__name__}, and TorchScript calls no hooks. Give "
        "the module that it was made from."
    )


def way_to(model, layer):
    """Return the modules on the way down to a layer: the model first, the layer itself last.

    Parameters and exceptions are those of `find_module`.
    """
    names = layer.split(".") if layer else []
    way = [model]
    try:
        for depth in range(len(names)):
            if isinstance(way[-1], torch.jit.ScriptModule):
                raise ValueError(_of_torchscript(layer, way[-1]))
            way.append(model.get_submodule(".".join(names[: depth + 1])))
        # a traced module has hooks, where Python calls it
        is_traced = isinstance(way[-1], torch.jit.TopLevelTracedModule)
        if isinstance(way[-1], torch.jit.ScriptModule) and not is_traced:
            raise ValueError(_of_torchscript(layer, way[-1]))
        return way
    except AttributeError:
        names = [name for name, _ in model.named_modules() if name]
        nearest = [name for name in names if name.endswith(f".{layer}")][:5]
        nearest += difflib.get_close_matches(layer, names, n=5, cutoff=0)
        hint = f"The nearest names are {list(dict.fromkeys(nearest))}. " if nearest else ""
        raise ValueError(
            f"layer={layer!r} names no submodule of {type(model).__name__}. {hint}All names: "
            "[name for name, _ in model.named_modules()]."
        ) from None


# {what is turned off: (who holds it off, what turns it on again)}
_TURNED_OFF = {}
_TURNED_OFF_LOCK = threading.RLock()


def _hold_off(what, turn_off, holder):
    """Have something turned off until `holder` and all others let go of it, in any order."""
    with _TURNED_OFF_LOCK:
        holders, undo = _TURNED_OFF.setdefault(what, (set(), []))
        holders.add(holder)
        if not undo:
            turn_off(undo)


def _let_go(holder):
    with _TURNED_OFF_LOCK:
        for what, (holders, undo) in list(_TURNED_OFF.items()):
            holders.discard(holder)
            if not holders:
                while undo:
                    undo[-1](None, None, None)
                    undo.pop()
                _TURNED_OFF.pop(what, None)


def _turn_off_compiled_code(undo):
    """Compiled code does not look for hooks, and would keep those that it was compiled with."""
    try:
        undo.append(torch.compiler.set_stance("force_eager").__exit__)
    except RuntimeError as error:
        raise RuntimeError(
            "A layer cannot be read or replaced from inside a function that torch.compile has "
            "compiled. Call that function in the block instead."
        ) from error


def _turn_off_nested_tensors(encoder, undo):
    """A TransformerEncoder packs padded sequences, and its layers refuse these with a hook."""
    if encoder.use_nested_tensor:
        undo.append(lambda *exception: setattr(encoder, "use_nested_tensor", True))
        encoder.use_nested_tensor = False


class Hooks:
    """Hooks on modules in a ``with`` block.

    On exit they are removed, also if an interrupt comes in the middle of it: what is left undone
    then is done when the object goes. So hooks may not refer to it.

    Parameters
    ----------
    registrations : list of callable
        Each registers a hook and returns its handle.

    Attributes
    ----------
    handles : list
        Of the hooks that are in place.
    """

    handles = ()

    def __init__(self, registrations):
        self._registrations, self.handles = registrations, []

    def __enter__(self):
        try:
            for register in self._registrations:
                self.handles.append(register())
        except BaseException:
            self._close()
            raise
        return self

    def _close(self):
        while self.handles:
            self.handles[-1].remove()
            self.handles.pop()

    def __exit__(self, *exception):
        try:
            self._close()
        finally:
            self._close()  # the rest, after an interrupt

    def __del__(self):
        self._close()


class _Tap(Hooks):
    """Call `function(activation)` at every call of the layer; what it returns goes on instead.

    A `None` returned leaves the activation as it is.

    Parameters
    ----------
    model, layer, side, function
        As in `replace_activation`.

    replaces : bool
        Whether `function` makes the model another one.

    on_call : callable or None
        As in `replace_activation`.

    Attributes
    ----------
    state : SimpleNamespace
        What the hooks refer to instead of the tap, which they would keep alive. Its `n_calls` is
        the number of the layer's calls, its `handles` those of the hooks that are in place.
    """

    def __init__(self, model, layer, side, function, *, replaces=False, on_call=None):
        super().__init__([])
        self.state = state = SimpleNamespace(n_calls=0, handles=self.handles, replaces=replaces)
        self._way = way_to(model, layer)

        def apply(value):
            state.n_calls += 1
            key, activation = _first_tensor(value)
            if activation is None:
                raise ValueError(
                    f"The {side} of layer={layer!r} is a {type(value).__name__} without a tensor "
                    "in it. Name a layer that passes a tensor on, or its other side."
                )
            if activation.is_nested:
                raise ValueError(
                    f"The {side} of layer={layer!r} is a nested tensor, of sequences of unequal "
                    "length. Name a layer that passes a padded tensor on."
                )
            new = function(activation)
            return None if new is None else _with_tensor(value, key, new)

        # without handles it is the hook of a copy that was made in the block
        def after(module, args, output):
            return apply(output) if state.handles else None

        def before(module, args, kwargs):
            if not state.handles:
                return None
            if _first_tensor(args)[1] is None and kwargs:
                kwargs = apply(kwargs)
                return None if kwargs is None else (args, kwargs)
            args = apply(args)
            return None if args is None else (args, kwargs)

        def around(module, args, kwargs):
            if state.handles:
                on_call(module, args, kwargs)

        after.tap = before.tap = state  # see `is_replaced`
        *modules_around, module = self._way
        # what reads arguments comes before what replaces them
        self._registrations += [
            partial(each.register_forward_pre_hook, around, with_kwargs=True)
            for each in (modules_around or [module] if on_call else ())
        ]
        if side == "output":
            register = partial(module.register_forward_hook, after)
        elif side == "input":
            register = partial(module.register_forward_pre_hook, before, with_kwargs=True)
        else:
            raise ValueError(f"side={side!r} is neither 'input' nor 'output'.")
        self._registrations.append(register)

    def __enter__(self):
        try:
            if "torch._dynamo" in sys.modules:  # else nothing is compiled
                _hold_off("compiled code", _turn_off_compiled_code, id(self))
            for module in self._way[:-1]:
                if isinstance(module, torch.nn.TransformerEncoder):
                    _hold_off(module, partial(_turn_off_nested_tensors, module), id(self))
            return super().__enter__()
        except BaseException:
            self._close()
            raise

    def _close(self):
        super()._close()
        _let_go(id(self))


def _first_tensor(value):
    """Return (key, tensor) of the first tensor in a tuple, list or mapping; key None if bare."""
    if isinstance(value, torch.Tensor):
        return None, value
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, tuple | list):
        items = enumerate(value)
    else:
        items = ()
    return next(((key, x) for key, x in items if isinstance(x, torch.Tensor)), (None, None))


def _with_tensor(value, key, tensor):
    """Return a copy of `value` with `tensor` in the place that `_first_tensor` found."""
    if key is None:
        return tensor
    if isinstance(value, tuple):
        items = [*value[:key], tensor, *value[key + 1 :]]
        return value._make(items) if hasattr(value, "_make") else tuple(items)
    value = copy.copy(value)
    value[key] = tensor
    return value


class _ForwardStopped(BaseException):
    """Leaves a forward pass. No `Exception`, so that a model's own handlers let it through."""


def read_activation(model, layer, forward, *, side="output"):
    """Run a forward pass up to a layer and return the layer's activation.

    The pass stops there: nothing behind the layer is computed.

    Parameters
    ----------
    model : torch.nn.Module
        The model that the forward pass goes through.

    layer : str
        Dotted path of the layer.

    forward : callable
        Runs the forward pass when called without arguments, as in
        ``lambda: model(input_ids)``.

    side : {"output", "input"}, default="output"
        Whether to read what the layer returns or what it is given. Of a tuple, list or
        mapping, the first tensor is read.

    Returns
    -------
    activation : torch.Tensor
        The activation at the layer's first call.

    Raises
    ------
    ValueError
        If there is no such layer, or if the forward pass does not call it.
    """
    found = []

    def take(activation):
        found.append(activation)
        raise _ForwardStopped

    with _Tap(model, layer, side, take):
        try:
            forward()
        except _ForwardStopped:
            for module in reversed(way_to(model, layer)[:-1]):
                if hasattr(module, "_hf_hook"):  # accelerate takes weights away after a call
                    module._hf_hook.post_forward(module, None)
            return found[0]
    raise ValueError(_never_called(model, layer))


def record_activations(model, layer, forward, *, side="output"):
    """Run a whole forward pass and return the layer's activation at each of its calls.

    Should the pass fail behind the layer's first call, what was recorded up to there is
    returned: an encoder's layers can be read in a model whose decoder lacks its inputs.

    Parameters
    ----------
    model, layer, forward, side
        As in `read_activation`.

    Returns
    -------
    activations : list of torch.Tensor
        One per call, at least one.

    Raises
    ------
    ValueError
        If there is no such layer, or if the forward pass does not call it.
    """
    found = []
    with _Tap(model, layer, side, found.append):
        try:
            forward()
        except Exception:
            if not found:
                raise
    if not found:
        raise ValueError(_never_called(model, layer))
    return found


def _never_called(model, layer):
    module = find_module(model, layer)
    return (
        f"layer={layer!r} ({type(module).__name__}) is never called in the model's forward "
        f"pass. Name a layer that is.{_children(module, layer)}"
    )


def _children(module, layer):
    children = [f"{layer}.{name}".lstrip(".") for name, _ in module.named_children()][:5]
    return f" Its children are {children}." if children else ""


@contextmanager
def replace_activation(model, layer, function, *, side="output", on_call=None):
    """Replace a layer's activation during the forward passes in a ``with`` block.

    The model is restored on exit, whatever happens inside.

    Parameters
    ----------
    model : torch.nn.Module
        The model to intervene on.

    layer : str
        Dotted path of the layer.

    function : callable
        Called with the activation, a tensor; returns the tensor that takes its place, of
        the same shape. It is converted to the activation's dtype and device.

    side : {"output", "input"}, default="output"
        Whether to replace what the layer returns or what it is given. Of a tuple, list or
        mapping, the first tensor is replaced.

    on_call : callable, default=None
        Called as ``on_call(module, args, kwargs)`` whenever the model is called, or a module
        between it and the layer.

    Raises
    ------
    ValueError
        If there is no such layer, or when `function` returns another shape.

    Warns
    -----
    UserWarning
        On exit, if the layer was never called.

    Examples
    --------
    >>> import torch
    >>> from skdict._core.language.hooks import replace_activation
    >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Identity())
    >>> with replace_activation(model, "0", torch.zeros_like):
    ...     model(torch.ones(2))
    tensor([0., 0.])
    >>> model(torch.ones(2))
    tensor([1., 1.])
    """

    tap = _Tap(model, layer, side, _checked(function, layer), replaces=True, on_call=on_call)
    with tap:
        yield
    if tap.state.n_calls == 0:
        module = find_module(model, layer)
        warnings.warn(
            f"layer={layer!r} ({type(module).__name__}) was never called in the block, so that "
            f"nothing was changed. Run the model inside it, and name a layer that its forward "
            f"pass calls.{_children(module, layer)}",
            stacklevel=5,  # through two context managers
        )


def run_replaced(model, layer, function, forward, *, side="output"):
    """Run a forward pass in which a layer's activation is replaced.

    Parameters
    ----------
    model, layer, function, side
        As in `replace_activation`.

    forward : callable
        Runs the forward pass when called without arguments.

    Returns
    -------
    output : object
        What `forward` returns.

    Raises
    ------
    ValueError
        As `replace_activation`, and unless the forward pass calls the layer exactly once.
    """

    def once(activation):
        if state.n_calls > 1:
            raise ValueError(
                f"layer={layer!r} is called more than once in a forward pass, so it has no "
                "single activation. Name a module that is called once."
            )
        return checked(activation)

    checked = _checked(function, layer)
    tap = _Tap(model, layer, side, once, replaces=True)
    state = tap.state
    with tap:
        output = forward()
    if state.n_calls == 0:
        raise ValueError(_never_called(model, layer))
    return output


def _checked(function, layer):
    """`function` of an activation, in the activation's dtype and on its device."""

    def replace(activation):
        new = function(activation)
        if new.shape != activation.shape:
            raise ValueError(
                f"The activation at layer={layer!r} has shape {tuple(activation.shape)}, but "
                f"function returned shape {tuple(new.shape)}. The two must agree."
            )
        return new.to(activation)

    return replace


def is_replaced(model):
    """Whether the model is inside a `replace_activation` block, and so another than it looks."""
    return any(
        hook.tap.replaces and hook.tap.handles
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if hasattr(hook, "tap")
    )


@contextmanager
def evaluation_mode(model):
    """Have a model, in evaluation mode, for oneself during a ``with`` block.

    A model's mode and hooks are the model's, so threads take turns with it: another thread waits
    at the entry of a block for a model that has a module in common with this one, and for no
    other. Within a thread blocks can be nested.

    On exit every submodule gets its own former mode back, frozen ones among trained ones too.
    Modules with a `train` of their own, such as those that merge an adapter into their weights in
    evaluation mode, are put back by it, and their weights to the bit.

    Nothing that waits for another lock should be called inside, but for locks that are never
    held when a block is entered.

    Parameters
    ----------
    model : torch.nn.Module
    """
    modules = list(model.modules())
    thread, ids = threading.get_ident(), frozenset(map(id, modules))
    block = threading.Lock()
    block.acquire()
    modes, tensors = [], []
    try:
        while (other := _enter(block, thread, ids)) is not None:
            if other.acquire(timeout=1):
                other.release()
        if any(module.training for module in modules):
            tensors = _tensors_at_risk(modules)
            modes = [(module, module.training) for module in modules]
            for module in modules:
                if module.training:
                    module.eval()
        yield
    finally:
        try:
            _restore(modes, tensors)
        except BaseException:  # an interrupt on the way: once more from the start
            _restore(modes, tensors)
            raise
        finally:
            _BLOCKS.pop(block, None)
            block.release()


def _enter(block, thread, ids):
    """Enter a block, or return one of another thread that has a module in common."""
    with _ENTERING:
        for other, (owner, theirs) in list(_BLOCKS.items()):
            if owner != thread and not ids.isdisjoint(theirs):
                return other
        _BLOCKS[block] = thread, ids
    return None


def _has_own_train(module):
    return "train" in vars(module) or type(module).train is not torch.nn.Module.train


def _tensors_at_risk(modules):
    """Copies of what a `train` of a module's own may write to: its tensors, its children's."""
    parts = {
        part: None
        for module in modules
        if _has_own_train(module)
        for part in (module, *module.children())
    }
    return [
        (tensors, name, tensor.detach().clone())
        for part in parts
        for tensors in (part._parameters, part._buffers)
        for name, tensor in tensors.items()
        if tensor is not None
    ]


def _restore(modes, tensors):
    """Give modules, parents first, their modes back, and tensors their values."""
    for module, mode in modes:
        if module.training != mode and _has_own_train(module):
            module.train(mode)  # and all below it, which come later
    for module, mode in modes:
        if module.training != mode:
            module.training = mode
    for where, name, values in tensors:
        tensor = dict(where.items()).get(name)
        if tensor is not None and tensor.shape == values.shape and tensor.dtype == values.dtype:
            tensor.data.copy_(values)
