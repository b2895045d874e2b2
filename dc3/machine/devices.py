"""Device, mixed precision, and arrays as tensors."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import numpy as np
import torch
from torch import Tensor

from dc3.machine.files import first_line

Array = np.ndarray | Tensor


def device(name: str = "auto") -> torch.device:
    """The torch device of that name; "auto" prefers cuda, then mps, then cpu. ValueError when it is not available."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind in available if available[kind]))
    if not available.get(name.split(":")[0], False):
        allowed = ", ".join(kind for kind in available if available[kind])
        raise ValueError(f"device = {name!r}: not available on this machine; allowed: auto, {allowed}")
    return torch.device(name)


@cache
def why_no_compile(name: str) -> str:
    """Why torch.compile fails on a device, most often for want of a compiler; "" when it works. Takes seconds."""
    try:
        torch.compile(torch.sin)(torch.ones(1, device=device(name)))
    except Exception as error:  # torch's own are of many kinds
        return first_line(error)
    return ""


def autocast(
    device: torch.device, amp: bool | None = None, on_gpu: torch.dtype = torch.bfloat16
) -> AbstractContextManager:
    """Mixed precision, by `amp`: True bfloat16, False none, None `on_gpu` on an NVIDIA or AMD GPU and none elsewhere.

    False also overrides an outer autocast. A GPU that only emulates bfloat16 (T4, V100) computes in float32, which is
    faster there.
    """
    if amp is False:
        return torch.autocast(device.type, enabled=False)
    if amp is None and device.type != "cuda":
        return nullcontext()
    dtype = torch.bfloat16 if amp else on_gpu
    if dtype == torch.bfloat16 and device.type == "cuda" and not has_bfloat16(device):
        return nullcontext()
    return torch.autocast(device.type, dtype)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU or a processor computes bfloat16 in hardware; Apple's GPUs count as such."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return any("bf16" in name and there for name, there in torch.cpu.get_capabilities().items())
    return True


def as_tensor(array: Array) -> Tensor:
    """The array as a tensor that shares its memory; a copy when the array is read-only (a memory map)."""
    return array if isinstance(array, Tensor) else torch.from_numpy(np.require(array, requirements=["C", "W"]))


def accumulator(device: torch.device) -> torch.dtype:
    """float64, which keeps ties between sums of float32 similarities; float32 on mps, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
