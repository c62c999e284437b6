"""Make results independent of the caller's settings of torch."""

from contextlib import ExitStack, contextmanager, nullcontext

import torch

# Autocast is a separate setting for each.
_DEVICE_TYPES = ("cpu", "cuda", "xpu")


@contextmanager
def without_autocast():
    """Compute in the precision of the tensors; also a decorator."""
    if not any(map(torch.is_autocast_enabled, _DEVICE_TYPES)):
        yield
        return
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
    inferring = torch.is_inference_mode_enabled()
    outside = torch.inference_mode(False) if inferring else nullcontext()
    # gradients are turned off last: inference_mode(False) turns them on
    with without_autocast(), outside, torch.no_grad():
        yield


@contextmanager
def differentiable_torch():
    """As `plain_torch`, but with the caller's gradients; also a decorator.

    What is prepared on the way can then be used in a backward pass at any time.
    """
    inferring = torch.is_inference_mode_enabled()
    with without_autocast():
        if not inferring:
            yield
            return
        with torch.inference_mode(False), torch.no_grad():
            yield
