"""Where the computation runs."""

import re
from contextlib import suppress
from pathlib import Path

import torch


def resolve_device(device, dtype=torch.float64):
    """Turn the ``device`` parameter of an estimator into a `torch.device`.

    Parameters
    ----------
    device : str
        "auto" (CUDA if there is one, else the CPU) or any device name of torch, such as
        "cpu", "cuda" or "cuda:1".
    dtype : torch.dtype
        What the device has to compute in. Means, scales and duality gaps are computed in
        float64, which Apple's "mps" does not have.

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If torch has no device of that name, if this machine does not have the device, or if
        the device cannot compute in this dtype.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} is not a device name of torch. Use 'auto', 'cpu', 'cuda' or "
            "'cuda:<index>'."
        ) from error
    if resolved.type == "cuda":
        n_devices = torch.cuda.device_count()
        if not torch.cuda.is_available() or (resolved.index or 0) >= n_devices:
            raise ValueError(
                f"device={device!r} asks for CUDA, but this machine has {n_devices} usable CUDA "
                "devices. Use device='auto' or device='cpu'."
            )
    elif resolved.type != "cpu":
        try:
            torch.zeros(1, dtype=dtype, device=resolved).item()
        except (RuntimeError, TypeError, AssertionError, ImportError) as error:
            reason = str(error).split(". ")[0]
            raise ValueError(
                f"device={device!r} cannot be used on this machine: {reason}. Use device='auto' "
                "or device='cpu'."
            ) from error
    return resolved


def available_memory(device):
    """Memory that a device has left, in bytes; infinite if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = [float("inf")]
    with suppress(OSError, TypeError):  # Linux only
        found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
        available.append(1024 * int(found[1]))
    with suppress(OSError, ValueError):  # of a container; "max" where it has no limit
        available.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(available)
