"""Make results independent of the caller's settings of torch."""

from contextlib import ExitStack, contextmanager

import torch

# Autocast is a separate setting for each.
_DEVICE_TYPES = ("cpu", "cuda", "xpu")


@contextmanager
def without_autocast():
    """Compute in the precision of the tensors; also a decorator."""
    with ExitStack() as stack:
        for device_type in _DEVICE_TYPES:
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


@contextmanager
def plain_torch():
    """Compute without the caller's autocast, inference mode and gradients; also a decorator.

    Autocast would round products to half precision, and tensors made in inference mode can
    neither be trained nor be changed in place afterwards. The default device and dtype stay as
    they are, because to change them has a cost: every tensor names its own instead.
    """
    with without_autocast(), ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())  # inference_mode(False) turns gradients on
        yield
