"""A model in evaluation mode, used by one thread at a time."""

import threading
from contextlib import contextmanager

import torch

# Blocks of `evaluation_mode` in progress: {the lock that a block holds: (thread, ids of its
# modules)}. Plain locks, because releasing one is a single call into C: an interrupt cannot leave
# it half done, as it can the Python code of a Condition.
_BLOCKS = {}
_ENTERING = threading.Lock()


@contextmanager
def evaluation_mode(model):
    """Keep a model in evaluation mode, and other threads out of it, in a ``with`` block.

    Mode and hooks belong to the model and not to a thread, so threads take turns. A thread waits
    at the entry of a block as long as another thread is in a block for a model that shares a
    module with its own. Within a thread blocks can be nested.

    On exit every submodule gets its former mode back, whatever the modes of the others. A module
    that overrides `train`, for instance to merge an adapter into its weights in evaluation mode,
    is restored by its own `train`, and its weights are restored to the bit.

    To avoid deadlocks, take another lock inside only if no thread enters a block while it holds
    that lock.

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
        except BaseException:  # an interrupt: start again
            _restore(modes, tensors)
            raise
        finally:
            _BLOCKS.pop(block, None)
            block.release()


def _enter(block, thread, ids):
    """Enter a block; or return a block of another thread that shares a module with it."""
    with _ENTERING:
        for other, (owner, theirs) in list(_BLOCKS.items()):
            if owner != thread and not ids.isdisjoint(theirs):
                return other
        _BLOCKS[block] = thread, ids
    return None


def _has_own_train(module):
    return "train" in vars(module) or type(module).train is not torch.nn.Module.train


def _tensors_at_risk(modules):
    """Copies of what an overridden `train` may write to: its module's tensors, its children's."""
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
    """Restore the modes of modules, parents first, and the values of tensors."""
    for module, mode in modes:
        if module.training != mode and _has_own_train(module):
            module.train(mode)  # also sets the modules below it, which come later in this loop
    for module, mode in modes:
        if module.training != mode:
            module.training = mode
    for where, name, values in tensors:
        tensor = dict(where.items()).get(name)
        if tensor is not None and tensor.shape == values.shape and tensor.dtype == values.dtype:
            tensor.data.copy_(values)
