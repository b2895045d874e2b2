import pytest
import torch

from dc3.machine import devices

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_devices():
    assert devices.device("cpu") == CPU
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert devices.device() == torch.device(best)
    with pytest.raises(ValueError, match=r"tpu.*allowed: auto"):
        devices.device("tpu")


@pytest.mark.parametrize(
    ("amp", "dtype"), [(None, torch.float32), (False, torch.float32), (True, torch.bfloat16)], ids=str
)
def test_precisions_of_a_cpu(amp, dtype):
    with devices.autocast(CPU, amp):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_float32_is_float32_within_another_precision():
    with devices.autocast(CPU, True), devices.autocast(CPU, False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(monkeypatch):
    def precision(*arguments):
        context = devices.autocast(GPU, *arguments)
        return context.fast_dtype if isinstance(context, torch.autocast) else torch.float32

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert (precision(), precision(True), precision(None, torch.float16)) == (
        torch.bfloat16, torch.bfloat16, torch.float16,
    )  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert (precision(), precision(True), precision(None, torch.float16)) == (
        torch.float32, torch.float32, torch.float16,
    )  # fmt: skip
