"""Read, record or replace the activations of a layer."""

import copy
import sys
import threading
import warnings
from collections import deque
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import torch

from .modules import find_module, way_to

# What is turned off at the moment: {key: (ids of its holders, functions that turn it on again)}
_TURNED_OFF = {}
_TURNED_OFF_LOCK = threading.RLock()


def _hold_off(what, turn_off, holder):
    """Keep something turned off until all its holders have let go of it, in any order."""
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
    """Run eagerly: compiled code ignores new hooks, and keeps those it was compiled with."""
    try:
        undo.append(torch.compiler.set_stance("force_eager").__exit__)
    except RuntimeError as error:
        raise RuntimeError(
            "A layer cannot be read or replaced from inside a function that torch.compile has "
            "compiled. Call that function in the block instead."
        ) from error


def _turn_off_nested_tensors(encoder, undo):
    """Keep a TransformerEncoder from packing its input, which layers with hooks refuse."""
    if encoder.use_nested_tensor:
        undo.append(lambda *exception: setattr(encoder, "use_nested_tensor", True))
        encoder.use_nested_tensor = False


class Hooks:
    """Hooks on modules in a ``with`` block.

    On exit they are removed. Those that an interrupt leaves in place are removed when the object
    is deleted, so hooks must not hold a reference to it.

    Parameters
    ----------
    registrations : list of callable
        Each registers a hook and returns its handle.

    Attributes
    ----------
    handles : list
        Handles of the hooks that are in place.
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
            self._close()  # what an interrupt has left

    def __del__(self):
        self._close()


class _Tap(Hooks):
    """Call `function(activation)` at each call of the layer, and pass on what it returns.

    If it returns None, the activation stays as it is.

    Parameters
    ----------
    model, layer, side, function
        As in `replace_activation`.

    replaces : bool
        Whether `function` changes what the model computes.

    on_call : callable or None
        As in `replace_activation`.

    Attributes
    ----------
    state : SimpleNamespace
        What the hooks refer to; a reference to the tap itself would keep it alive. `n_calls` is
        the number of the layer's calls, `handles` are those of the hooks that are in place.
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

        # Without handles this is a hook of a copy of the model that was made in the block.
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
        # hooks that read arguments run before the hook that replaces them
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


class _Taps:
    """Several taps in one ``with`` block, without a cycle of references that keeps them alive."""

    def __init__(self, taps):
        self._taps = taps

    def __enter__(self):
        try:
            for tap in self._taps:
                tap.__enter__()
        except BaseException:
            self._close()
            raise

    def _close(self):
        for tap in self._taps:
            tap._close()

    def __exit__(self, *exception):
        try:
            self._close()
        finally:
            self._close()  # what an interrupt has left


def _first_tensor(value):
    """Return (key, tensor) of the first tensor in a tuple, list or mapping.

    The key is None for a tensor itself; both are None if there is no tensor.
    """
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
    """Stops a forward pass. Not an `Exception`, so that handlers in the model do not catch it."""


def read_activation(model, layer, forward, *, side="output", call=0):
    """Run a forward pass up to a layer and return the layer's activation.

    The pass stops there: nothing after the layer is computed. With a negative `call` it goes on
    to the end, as only then it is known which call was the last.

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

    call : int, default=0
        Which of the layer's calls: 0, 1, ... from the first, or -1, -2, ... from the last.

    Returns
    -------
    activation : torch.Tensor
        The activation at that call.

    Raises
    ------
    ValueError
        If there is no such layer, or if the forward pass does not call it so often.
    """
    return read_activations(model, [(layer, side)], forward, call=call)[0]


def read_activations(model, places, forward, *, call=0):
    """Run one forward pass and return the activations of several layers.

    The pass stops when all have been read.

    Parameters
    ----------
    places : list of (layer, side)

    model, forward
        As in `read_activation`.

    call : int or None, default=0
        As in `read_activation`. None for the only one: then the pass goes to its end.

    Returns
    -------
    activations : list of torch.Tensor
        At that call of each layer, in the order of the places.

    Raises
    ------
    ValueError
        As `read_activation`; with ``call=None`` if a layer is called more than once.
    """
    only, call = call is None, -1 if call is None else call
    found = [deque(maxlen=max(1, -call)) for _ in places]
    missing = set(range(len(places)))

    def take(i, activation):
        n_calls = states[i].n_calls
        if call >= 0 and n_calls > call + 1:
            return
        found[i].append(activation)
        if n_calls == call + 1:
            missing.discard(i)
            if not missing:
                raise _ForwardStopped(places[i][0])

    taps = [_Tap(model, layer, side, partial(take, i)) for i, (layer, side) in enumerate(places)]
    states = [tap.state for tap in taps]
    with _Taps(taps):
        try:
            forward()
        except _ForwardStopped as stopped:
            for module in reversed(way_to(model, stopped.args[0])[:-1]):
                if hasattr(module, "_hf_hook"):  # accelerate offloads weights after a call
                    module._hf_hook.post_forward(module, None)
            return [each[0] for each in found]
    for state, (layer, _) in zip(states, places, strict=True):
        check_called(model, layer, state.n_calls, call)
        if only and state.n_calls > 1:
            raise ValueError(_called_often(layer, state.n_calls))
    return [each[0] for each in found]


def record_activations(model, layer, forward, *, side="output", note=None):
    """Run a whole forward pass and return the layer's activation at each of its calls.

    If the pass fails after the layer's first call, what was recorded so far is returned. So an
    encoder's layers can be read in a model whose decoder is not given its inputs.

    Parameters
    ----------
    model, layer, forward, side
        As in `read_activation`.

    note : callable, default=None
        Called with the activation during the call. What it returns is kept in the activation's
        place.

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

    def take(activation):
        found.append(activation if note is None else note(activation))

    with _Tap(model, layer, side, take):
        try:
            forward()
        except Exception:
            if not found:
                raise
    check_called(model, layer, len(found))
    return found


def check_called(model, layer, n_calls, call=0):
    """Raise a ValueError if a forward pass that is over did not make a call of the layer.

    Parameters
    ----------
    model, layer
        As in `read_activation`.

    n_calls : int
        How often the layer was called.

    call : int, default=0
        Which call is asked for; negative ones count from the last.
    """
    if n_calls == 0:
        raise ValueError(_never_called(model, layer))
    if not -n_calls <= call < n_calls:
        raise ValueError(
            f"call={call}, but layer={layer!r} is called {_times(n_calls)} in a forward pass. "
            f"Give a call from 0 to {n_calls - 1}, or from -1, the last, to {-n_calls}."
        )


def _times(n):
    return "once" if n == 1 else f"{n} times"


def _called_often(layer, n):
    return (
        f"layer={layer!r} is called {n if isinstance(n, str) else _times(n)} in a forward pass, "
        "so it has no single activation. Name a module that is called once, or give the call."
    )


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
def replace_activation(model, layer, function, *, side="output", on_call=None, call=None):
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

    call : int, default=None
        Index of the only call in each forward pass of the model to replace the activation at,
        counted from 0. None for all calls.

    Raises
    ------
    ValueError
        If there is no such layer, or when `function` returns another shape.

    Warns
    -----
    UserWarning
        On exit, if nothing was replaced, as the layer was not called, or not so often.

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
    checked, of_pass = _checked(function, layer), SimpleNamespace(n_calls=None, n_replaced=0)

    def note(module, args, kwargs):
        if module is model:
            of_pass.n_calls = 0
        if on_call is not None:
            on_call(module, args, kwargs)

    def at_call(activation):
        if of_pass.n_calls is None:
            raise ValueError(
                f"call={call} counts the calls of layer={layer!r} in a forward pass of the "
                f"{type(model).__name__}, but only a part of it is run. Run the model."
            )
        of_pass.n_calls += 1
        if of_pass.n_calls != call + 1:
            return None
        of_pass.n_replaced += 1
        return checked(activation)

    tap = _Tap(
        model,
        layer,
        side,
        checked if call is None else at_call,
        replaces=True,
        on_call=on_call if call is None else note,
    )
    with tap:
        yield
    if of_pass.n_calls and of_pass.n_replaced == 0:
        warnings.warn(
            f"layer={layer!r} is called {_times(of_pass.n_calls)} in a forward pass, so that "
            f"there is no call={call} and nothing was changed. Calls count from 0.",
            stacklevel=5,  # through two context managers
        )
    if tap.state.n_calls == 0:
        module = find_module(model, layer)
        warnings.warn(
            f"layer={layer!r} ({type(module).__name__}) was never called in the block, so that "
            f"nothing was changed. Run the model inside it, and name a layer that its forward "
            f"pass calls.{_children(module, layer)}",
            stacklevel=5,  # through two context managers
        )


def run_replaced(model, layer, function, forward, *, side="output", call=None):
    """Run a forward pass in which a layer's activation is replaced.

    Parameters
    ----------
    model, layer, function, side
        As in `replace_activation`.

    forward : callable
        Runs the forward pass when called without arguments.

    call : int, default=None
        Index of the call to replace the activation at, counted from 0. None for the only one.

    Returns
    -------
    output : object
        What `forward` returns.

    Raises
    ------
    ValueError
        As `replace_activation`, if there is no such call, or unless the forward pass calls the
        layer exactly once with ``call=None``.
    """

    def once(activation):
        if call is not None and state.n_calls != call + 1:
            return None
        if call is None and state.n_calls > 1:
            raise ValueError(_called_often(layer, "more than once"))
        return checked(activation)

    checked = _checked(function, layer)
    tap = _Tap(model, layer, side, once, replaces=True)
    state = tap.state
    with tap:
        output = forward()
    check_called(model, layer, state.n_calls, call or 0)
    return output


def _checked(function, layer):
    """Check what `function` returns, and move it to the activation's dtype and device."""

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
    """Whether the model is inside a `replace_activation` block, and computes something else."""
    return any(
        hook.tap.replaces and hook.tap.handles
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if hasattr(hook, "tap")
    )
