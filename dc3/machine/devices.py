"""Which device to compute on and in which precision, mixed on GPUs with a half precision; arrays as tensors."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray | Tensor


def device(name: str = "auto") -> torch.device:
    """The torch device of that name; "auto" takes cuda before mps before cpu. ValueError where it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, available in there.items() if available))
    if not there.get(name.split(":")[0], False):
        allowed = ", ".join(kind for kind, available in there.items() if available)
        raise ValueError(f"device {name!r} is not available here; allowed: auto, {allowed}")
    return torch.device(name)


def autocast(
    device: torch.device, amp: bool | None = None, on_gpu: torch.dtype = torch.bfloat16
) -> AbstractContextManager:
    """Mixed precision, by `amp`: True bfloat16, False none, None `on_gpu` on an NVIDIA or AMD GPU and none elsewhere.

    False holds within another autocast too. On a GPU that only emulates bfloat16 (T4, V100) it is slower than float32,
    which is computed there in its place.
    """
    if amp is False:
        return torch.autocast(device.type, enabled=False)
    if amp is None and device.type != "cuda":
        return nullcontext()
    dtype = torch.bfloat16 if amp else on_gpu
    if dtype == torch.bfloat16 and device.type == "cuda" and not has_bfloat16():
        return nullcontext()
    return torch.autocast(device.type, dtype)


def has_bfloat16() -> bool:
    """Whether the current GPU computes in bfloat16 itself."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def as_tensor(array: Array) -> Tensor:
    """The array as a tensor that shares its memory, or a copy where it is read-only (a memory map)."""
    return array if isinstance(array, Tensor) else torch.from_numpy(np.require(array, requirements=["C", "W"]))


def accumulator(device: torch.device) -> torch.dtype:
    """float64, in which sums of float32 similarities are exact enough for ties; float32 where float64 is missing."""
    return torch.float32 if device.type == "mps" else torch.float64
