"""Our encode and edit at the size of the real models, without their weights: python benchmarks/real_size.py

Builds an InstructPix2Pix pipeline with the parameter counts of Stable Diffusion 1.5 (U-Net 860 M with 8 input channels,
VAE 84 M, CLIP text encoder 123 M) and random weights in a temporary folder (4.3 GB), loads it as a user's editor, and
measures seconds per U-Net pass and per encoded image, the share of an edit outside the U-Net, and the peak memory. The
tokenizer is CLIP's own vocabulary, as open_clip_torch carries it. What the edits show has no meaning. Batches that do
not fit are left out. On a processor, seconds are those of the process, beside the wall time. The defaults are for a
processor; on a GPU: --batches 1,8,32 --steps 20 --encoded 64.
"""

import gzip
import importlib.util
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from compensation import clock_of, watch
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dc3.features import encode
from dc3.machine import devices, paths
from dc3.machine.files import replacing
from dc3.models.editor import Editor, EditorSettings, load_editor

VOCABULARY = 49_408
SCALES = {  # channels of the U-Net, of the VAE, width and layers of the text encoder
    "real": ((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12),
    "small": ((32, 32, 64, 64), (32, 32, 32, 32), 64, 1),
}
INSTRUCTION = "Adjust the color hue to be sunny and preserve all details and content"


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair vocabulary, in the order of its merges, read without importing open_clip and its models."""
    found = importlib.util.find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the tokenizer's vocabulary needs open_clip_torch: pip install open_clip_torch")
    file = Path(found.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : VOCABULARY - 2 * 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    from open_clip.tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {word: k for k, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token="<|endoftext|>")


def build(folder: Path, scale: str = "real", dtype: torch.dtype = torch.float32) -> dict[str, int]:
    """Saves a pipeline with random weights to `folder`; returns its parameter counts."""
    torch.manual_seed(0)
    channels, vae_channels, width, layers = SCALES[scale]
    text = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
    )
    with torch.device(devices.device()):  # a GPU draws a billion weights in no time
        unet = UNet2DConditionModel(
            sample_size=64, in_channels=8, block_out_channels=channels, cross_attention_dim=width, attention_head_dim=8
        )
        vae = AutoencoderKL(
            sample_size=512,
            block_out_channels=vae_channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        parts = {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(text)}
    for part in parts.values():
        part.to(dtype).eval()
    schedule = EulerAncestralDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    pipeline = StableDiffusionInstructPix2PixPipeline(
        **parts, tokenizer=clip_tokenizer(), scheduler=schedule, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return {name: sum(weights.numel() for weights in part.parameters()) for name, part in parts.items()}


def photographs(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def synchronized() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gb() -> float:
    """Of the GPU since its counter was reset, else of the process since it began."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def described(tool: Editor) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if tool.device.type == "cuda" else tool.device.type
    return {"device": device, "threads": torch.get_num_threads(), "precision": tool.precision}


def edit_row(tool: Editor, batch: int) -> dict[str, Any]:
    """One batch of edits, after a first one of few steps if there is a GPU to warm."""
    images, seeds = photographs(batch, tool.settings.size), range(batch)
    if torch.cuda.is_available():
        tool.using(steps=4, batch_size=batch).edit(images, [INSTRUCTION] * batch, seeds)  # unipc's order 2 needs 3
        torch.cuda.reset_peak_memory_stats()
    tool.embeddings.clear()
    now = clock_of(tool)
    with watch(tool) as clock:
        started, wall = now(), synchronized()
        edited = tool.using(batch_size=batch).edit(images, [INSTRUCTION] * batch, seeds)
        wall = synchronized() - wall
        seconds = now() - started
    used = tool.settings
    passes = batch * used.guided_steps.passes(used.steps)
    return described(tool) | {
        "what": "edit", "size": used.size, "batch": batch, "sampler": used.sampler, "steps": used.steps,
        "guidance_until": used.guidance_until, "compiled": used.compiled, "passes": passes, "seconds": seconds,
        "wall seconds": wall, "images/s": batch / seconds, "seconds per pass": clock.seconds["U-Net"] / passes,
        "share outside the U-Net": 1 - clock.seconds["U-Net"] / seconds, "peak GB": peak_gb(),
        "finite": bool(np.isfinite(edited).all()),
    }  # fmt: skip


def encode_row(tool: Editor, count: int, size: int, batch: int) -> dict[str, Any]:
    images, amp = photographs(count, size), True if tool.precision == "bfloat16" else None
    with tempfile.TemporaryDirectory() as folder:
        vae, out = tool.pipeline.vae, Path(folder) / "latents.npy"
        if torch.cuda.is_available():
            encode(vae, images[:batch], out, size=size, batch_size=batch, amp=amp)
            torch.cuda.reset_peak_memory_stats()
        now = clock_of(tool)
        started, wall = now(), synchronized()
        latents = encode(vae, images, out, size=size, batch_size=batch, amp=amp)
        wall = synchronized() - wall
        seconds = now() - started
        finite = bool(np.isfinite(latents).all())
    found = {"what": "encode", "size": size, "batch": batch, "seconds": seconds, "wall seconds": wall}
    found["images/s"] = count / seconds
    return described(tool) | found | {"peak GB": peak_gb(), "finite": finite}


def fitting(tool: Editor, batches: list[int]) -> Iterator[dict[str, Any]]:
    """A row of edits for each batch that fits into the memory."""
    for batch in batches:
        try:
            yield edit_row(tool, batch)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return


def main(
    scale: Annotated[str, typer.Option(help="real, or small for a test")] = "real",
    edit_size: Annotated[int, typer.Option(help="published: 256")] = 256,
    steps: int = 2,
    batches: Annotated[str, typer.Option(help="edits a batch, smallest first")] = "1",
    encode_size: Annotated[int, typer.Option(help="published: 512")] = 512,
    encoded: Annotated[int, typer.Option(help="images to encode")] = 1,
    precision: str = "auto",
    out: str = "figures/benchmarks/real_size.csv",
) -> None:
    """Append rows to the table, each as soon as it is known, and print them."""
    file = paths.resolve(out)
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        with replacing(file) as partial:
            pd.DataFrame(rows).to_csv(partial, index=False, float_format="%.4g")

    with tempfile.TemporaryDirectory() as folder:
        counts = build(Path(folder), scale)
        print({name: f"{count / 1e6:.1f} M" for name, count in counts.items()}, flush=True)
        used = EditorSettings(folder, edit_size, steps, 4.0, 1.5, 1, precision=precision)
        tool = load_editor(used, devices.device())
        keep(encode_row(tool, encoded, encode_size, min(encoded, 16)))
        for row in fitting(tool, [int(batch) for batch in batches.split(",")]):
            keep(row)


if __name__ == "__main__":
    typer.run(main)
