"""Latents: the posterior means of a latent diffusion model's VAE, streamed to disk."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dc3.images.image_set import ImageSet, in_memory
from dc3.machine.arrays import RowFile
from dc3.machine.devices import autocast
from dc3.machine.engine import LOCAL, Columns, Engine, chunks
from dc3.machine.files import first_line, replacing

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

log = logging.getLogger(__name__)

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
VAE_EXPECTED = (
    "expected a folder in diffusers format (a pipeline with vae/, or a VAE with config.json), "
    "or the owner/name of a model on the Hugging Face Hub and a network connection"
)


def load_vae(path_or_id: str | Path, revision: str | None = None, device: torch.device | str = "cpu") -> AutoencoderKL:
    """The VAE of a diffusers pipeline (its "vae" subfolder), or a single VAE, from a folder or the Hugging Face Hub.

    Raises FileNotFoundError if neither has it.
    """
    from diffusers import AutoencoderKL  # seconds, which the checks before a run do not need
    from huggingface_hub.errors import LocalEntryNotFoundError

    name = str(path_or_id)
    local = Path(name).expanduser().is_dir()
    if not local and not HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"vae = {name!r}: not a folder; {VAE_EXPECTED}")
    source = str(Path(name).expanduser()) if local else name
    subfolders = ["vae", None] if not local or (Path(source) / "vae").is_dir() else [None]
    offline, reason = local, ""
    for subfolder in subfolders:
        try:
            vae = AutoencoderKL.from_pretrained(
                source, subfolder=subfolder, revision=revision, local_files_only=offline
            )
            return vae.eval().requires_grad_(False).to(device)
        except (OSError, ValueError) as error:
            told = error.__context__ if isinstance(error.__context__, LocalEntryNotFoundError) else error
            offline = offline or told is not error  # the hub is out of reach: half a minute of retries, not twice
            reason = reason or first_line(told)
    raise FileNotFoundError(f"vae = {name!r}: cannot be loaded ({reason}); {VAE_EXPECTED}")


def encode(
    vae: AutoencoderKL,
    images: ImageSet | np.ndarray,
    out_path: str | Path,
    *,
    size: int,
    batch_size: int = 16,
    dtype: np.dtype | type | str = np.float16,
    engine: Engine = LOCAL,
    amp: bool | None = None,
    resampling: str | None = None,
) -> np.ndarray:
    """Posterior means (not scaled, flattened) of all images, in index order, as a .npy of shape (n, d) at `out_path`.

    images: a set or uint8 (n, H, W, 3), made square at `size` from the originals: by the set's framing, and by
    `resampling` (`framing.FILTERS`; None: the set's; published: "nearest"). The last batch is padded, so that a row
    depends on its image only. A warning says how many images are enlarged.
    amp: float16 autocast on cuda and float32 elsewhere (None), float32 everywhere (False), bfloat16 autocast (True).
    dtype: float16 keeps 11 bits, enough for K-means, at half the disk and reading time; float32 is for VAEs whose
    latents exceed 65,504.
    engine: local, or Ray's actors, with the same bytes at the same batch size.
    Writes rows directly to disk; the file appears when complete. Returns it memory-mapped, read-only.
    Raises ValueError for no images, a bad size or batch size and latents that are not finite, OSError for a full disk.
    """
    for parameter, value in (("images", len(images)), ("size", size), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{parameter} = {value}: at least 1")
    check_size("size", size, downscaling(vae.config))
    if not isinstance(images, ImageSet):
        images = in_memory("images", "", ("",), np.zeros(len(images), int), images)
    work = LatentWork(vae, images.at(size, resampling), batch_size, amp)
    batches = engine.map(work, chunks(len(images), batch_size), "latents")
    first = next(batches)
    shape, enlarged = (len(images), first["latents"].shape[1]), 0
    with replacing(out_path) as partial, RowFile(partial, shape, dtype, "latents") as file:
        for batch in chain([first], batches):
            file.put(batch["row"], _finite(batch["latents"], file.dtype, batch["row"]))
            enlarged += int(batch["enlarged"].sum())
    if enlarged:
        log.warning("%d of %d images are smaller than %d px and were enlarged for the VAE", enlarged, len(images), size)
    return np.load(out_path, mmap_mode="r")


def downscaling(config: Mapping[str, Any]) -> int:
    """Pixels a side of the image for each of a latent: 8 in Stable Diffusion's VAE. `config`: the VAE's own."""
    return 2 ** (len(config["block_out_channels"]) - 1)


def check_size(name: str, size: int, factor: int) -> None:
    """ValueError unless a VAE with this `downscaling` takes images of `size` px."""
    if size % factor:
        raise ValueError(f"{name} = {size}: a multiple of {factor}, by which the VAE scales images down")


@dataclass(frozen=True, eq=False)
class LatentWork:
    """`engine.Work`: the latents of the images at some positions.

    Columns "row" (b,), "latents" (b, d) float32 and "enlarged" (b,) bool: whether the original is smaller.
    """

    vae: AutoencoderKL
    images: ImageSet  # with a frame
    batch_size: int  # every batch is padded to it
    amp: bool | None = None

    def __call__(self, chunk: np.ndarray) -> Columns:
        """The chunk's latents."""
        batch, sizes = self.images.images_and_sizes(chunk)
        padded = np.pad(batch, ((0, self.batch_size - len(batch)), (0, 0), (0, 0), (0, 0)), mode="edge")
        pixels = torch.from_numpy(padded).to(next(self.vae.parameters()).device)
        latents = posterior_mean(self.vae, pixels, self.amp)
        enlarged = sizes.min(axis=1) < self.images.image_size
        return {"row": chunk, "latents": latents.cpu().numpy()[: len(batch)], "enlarged": enlarged}


@torch.inference_mode()
def posterior_mean(vae: AutoencoderKL, images: Tensor, amp: bool | None = None) -> Tensor:
    """The mean of q(z|x), without the scaling factor: uint8 (b, H, W, 3) → float32 (b, d); `amp` as in `encode`."""
    pixels = _from_uint8(images)
    with autocast(images.device, amp, on_gpu=torch.float16):  # finer than bfloat16; latents stay within its range
        posterior = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latent_dist
    return posterior.mode().float().flatten(1)


@torch.inference_mode()
def reconstruct(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """Decodes the posterior means of uint8 (n, S, S, 3), to show what the latents keep: uint8 (n, S, S, 3)."""
    pixels = _from_uint8(torch.from_numpy(images)).to(next(vae.parameters()).device)
    return _to_uint8(vae.decode(vae.encode(pixels).latent_dist.mode()).sample)


def _from_uint8(images: Tensor) -> Tensor:
    """uint8 (n, H, W, 3) → float32 (n, 3, H, W) in −1…1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def _to_uint8(pixels: Tensor) -> np.ndarray:
    """float (n, 3, H, W) in −1…1 → uint8 (n, H, W, 3), rounded."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _finite(rows: np.ndarray, dtype: np.dtype, positions: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = rows.astype(dtype)
    broken = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if len(broken):
        raise ValueError(
            f"vae: the latents of image {positions[broken[0]]} are not finite in {dtype}; "
            "the model needs float32 (precision, latents_dtype), or its weights are damaged"
        )
    return stored
