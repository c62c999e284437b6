"""Names of devices."""

import pytest
import torch

from skdict._core.device import resolve_device

HAS_CUDA = torch.cuda.is_available()


def test_auto_and_cpu():
    assert resolve_device("auto").type == ("cuda" if HAS_CUDA else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")


def test_auto_takes_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"device='cuda:2' asks for CUDA, but .* 2 usable CUDA"):
        resolve_device("cuda:2")


@pytest.mark.skipif(HAS_CUDA, reason="there is CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_where_there_is_none(device):
    message = f"device='{device}' asks for CUDA, but this machine has 0 .*device='auto' or device="
    with pytest.raises(ValueError, match=message):
        resolve_device(device)


@pytest.mark.parametrize("device", ["abacus", "", "cpu:x", "CPU", None, 1.5])
def test_no_name_of_a_device(device):
    with pytest.raises(ValueError, match=r"is not a device name of torch\. Use 'auto', 'cpu',"):
        resolve_device(device)


def test_a_device_without_float64(monkeypatch):
    """Apple's says so with a TypeError."""

    def zeros(size, dtype, device):
        if dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype. Use float32 instead.")
        return torch.ones(size, dtype=dtype)

    monkeypatch.setattr(torch, "zeros", zeros)
    with pytest.raises(
        ValueError, match=r"device='mps' cannot be used .*: Cannot convert .*float64"
    ):
        resolve_device("mps")
    assert resolve_device("mps", torch.float32).type == "mps"  # enough for a model


@pytest.mark.parametrize("device", ["meta", "xpu", "mps", "hpu"])
def test_devices_of_other_machines(device):
    try:
        usable = device != "meta" and torch.zeros(1, device=device).item() == 0
    except (RuntimeError, AssertionError, ImportError):
        usable = False
    if usable:
        assert resolve_device(device).type == device
        return
    with pytest.raises(ValueError, match=f"device='{device}' cannot be used .* Use device='auto'"):
        resolve_device(device)
