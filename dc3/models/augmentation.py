"""Augmentation of whole batches on the device, from explicit generators.

torchvision's v2 transforms draw one crop and one flip per call, so all images of a batch get the same, and they take no
generator. Here every image gets its own draw, on the generator's device (a CPU generator gives the same draws on
every device). Images are float (n, C, H, W) unless a function says otherwise.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from dc3.machine.devices import as_tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ASPECT_RATIOS = (3 / 4, 4 / 3)  # width to height of crops, the narrowest and the widest
Box = tuple[int, int, int, int]  # top, left, bottom, right


def normalise(images: np.ndarray | Tensor, device: torch.device | str | None = None) -> Tensor:
    """ImageNet normalisation, (x/255 - mean)/std: uint8 (n, H, W, 3) to channels_last float32 (n, 3, H, W) on `device`.

    Raises ValueError for another dtype or shape.
    """
    images = as_tensor(images)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images = {images.dtype} {tuple(images.shape)}: expected uint8 (n, H, W, 3)")
    return normalise_floats(images.to(device or images.device).permute(0, 3, 1, 2).to(torch.float32))


def normalise_floats(pixels: Tensor) -> Tensor:
    """The same, in place, for float32 (n, 3, H, W) of the range 0 … 255."""
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return pixels.div_(255).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def mix_seed(*keys: int | str) -> int:
    """One 63-bit seed from several non-negative numbers and names, such as (run seed, epoch)."""
    numbers = [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def epoch_generator(seed: int, epoch: int, device: torch.device | None = None) -> Iterator[torch.Generator]:
    """The generator of one epoch; inside, torch's global one (dropout, stochastic depth) is seeded too.

    An epoch thus depends on (seed, epoch) only, and a resumed training repeats the undisturbed one. The global
    generators of the CPU and of `device`, the training GPU, are restored.
    """
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(mix_seed(seed, epoch, "global"))
        yield torch.Generator().manual_seed(mix_seed(seed, epoch))


def shuffled_crops(images: Tensor, factor: int, size: int, generator: torch.Generator) -> Tensor:
    """RDED's ShufflePatches and RandomResizedCrop(scale (1/factor, 1)) of whole images, antialiased, in one step.

    images: uint8 or float (n, H, W, 3), on any device → float32 (n, 3, size, size), in their range.
    ShufflePatches: the factor × factor patches of each image change places. As published, the columns of patches are
    permuted, then the rows (factor 2: 4 arrangements, not 24); remaining pixels belong to the last patch. The crops are
    those of v2.functional.resized_crop(antialias=True) to within 2e-5 of the range, with one box an image.
    Both only move and average pixels, so each image is multiplied by one matrix for its rows and one for its columns.
    ValueError for a factor outside 1 … the shorter side.
    """
    n, height, width = images.shape[:3]
    check_factor(factor, min(height, width))
    orders = [shuffled_pixels(n, side, factor, generator) for side in (height, width)]
    top, left, h, w = crop_boxes(n, height, width, generator, (1 / factor, 1.0)).to(images.device).unbind(1)
    weights = (resizing_weights(top, h, size, height), resizing_weights(left, w, size, width))
    rows, columns = (
        torch.zeros_like(weight).scatter_(2, order.to(images.device)[:, None].expand_as(weight), weight)
        for weight, order in zip(weights, orders, strict=True)
    )
    return resampled(images, rows, columns)


def resampled(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows · image · columnsᵀ: images (n, H, W, 3), rows (n, y, H), columns (n, x, W) → float32 (n, 3, y, x).

    3·y·W·(H + x) multiplications an image: 7 million from 256 to 32 px, 83 million from 256 to 224 px.
    """
    n, height, width, channels = images.shape
    down = torch.bmm(rows, images.float().reshape(n, height, width * channels))
    across = down.reshape(n, -1, width, channels).transpose(1, 2).reshape(n, width, -1)
    return torch.bmm(columns, across).reshape(n, columns.shape[1], rows.shape[1], channels).permute(0, 3, 2, 1)


def resizing_weights(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """(n, size, side) float32: row i holds the weights of an image's `side` pixels in pixel i of the resized piece.

    The piece of an image is its pixels start … start + length − 1, (n,) each. The filter is torchvision's antialiased
    bilinear one: a triangle whose half width is one pixel of the coarser of the two grids, cut at the piece's ends.
    """
    start, length = start[:, None, None].float(), length[:, None, None].float()
    step = length / size
    centre = start + (torch.arange(size, device=start.device)[:, None] + 0.5) * step
    pixel = torch.arange(side, device=start.device) + 0.5
    weights = (1 - (pixel - centre).abs() / step.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixel > start) & (pixel < start + length))
    return weights / weights.sum(2, keepdim=True)


def crop_boxes(n: int, height: int, width: int, generator: torch.Generator, scale: tuple[float, float]) -> Tensor:
    """(n, 4) int64 boxes (top, left, height, width) as torchvision's RandomResizedCrop draws them.

    Area uniform in scale, log aspect ratio uniform; the first of ten tries that lies inside the image, else the
    largest central box within the ratios. All ten tries of all images are drawn at once. ValueError for a scale that
    is not two fractions, 0 < low ≤ high ≤ 1.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale = {scale}: expected two fractions of the image's area, 0 < low ≤ high ≤ 1")
    uniform = torch.rand((2, 10, n), generator=generator, dtype=torch.float64, device=generator.device)
    corner = torch.rand((2, n), generator=generator, dtype=torch.float64, device=generator.device)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[0])
    low, high = np.log(ASPECT_RATIOS)
    aspect = torch.exp(low + (high - low) * uniform[1])
    w, h = torch.sqrt(area * aspect).round().long(), torch.sqrt(area / aspect).round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(0, keepdim=True)  # 0 where no try fits, replaced next
    h, w = h.gather(0, first)[0], w.gather(0, first)[0]
    none = ~fits.any(0)
    h[none], w[none] = _central_box(height, width)
    top, left = (corner[0] * (height - h + 1)).long(), (corner[1] * (width - w + 1)).long()
    top[none], left[none] = (height - h[none]) // 2, (width - w[none]) // 2
    return torch.stack([top, left, h, w], dim=1)


def _central_box(height: int, width: int) -> tuple[int, int]:
    narrowest, widest = ASPECT_RATIOS
    if width / height < narrowest:
        return round(width / narrowest), width
    if width / height > widest:
        return height, round(height * widest)
    return height, width


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors each image left to right half the time."""
    flip = torch.rand(len(images), generator=generator, device=generator.device) < 0.5
    return torch.where(flip.to(images.device)[:, None, None, None], images.flip(-1), images)


def color_jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Each image with another white balance, brightness, contrast and saturation: float (n, 3, H, W) in 0 … 255.

    Factors are 1 + u·strength, u uniform in −1 … 1; those of the three channels, which make an image warmer or colder,
    1 + u·strength/2. Brightness, contrast and saturation are torchvision's `adjust_…`, in this order, clipped likewise.
    """
    draws = torch.rand((6, len(images), 1, 1, 1), generator=generator, device=generator.device).to(images.device)
    factors = 1 + strength * (2 * draws - 1)
    balance = (1 + factors[3:].squeeze(4).permute(1, 0, 2, 3)) / 2
    pixels = (images * balance).clamp(0, 255)
    pixels = (pixels * factors[0]).clamp(0, 255)
    pixels = _blended(pixels, _grey(pixels).mean((1, 2, 3), keepdim=True), factors[1])
    return _blended(pixels, _grey(pixels), factors[2])


def _grey(images: Tensor) -> Tensor:
    """Luma of (n, 3, H, W) as torchvision weighs it: (n, 1, H, W)."""
    return (images * images.new_tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def _blended(images: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return (share * images + (1 - share) * other).clamp(0, 255)


def check_factor(factor: int, side: int) -> None:
    """ValueError unless images of `side` px can have `factor` patches per side."""
    if not 1 <= factor <= side:
        raise ValueError(f"factor = {factor}: expected 1 to {side} patches per side at {side} px")


def shuffled_pixels(n: int, side: int, factor: int, generator: torch.Generator) -> Tensor:
    """(n, side) pixel numbers: each row lists the pixels of `factor` runs, the runs in random order."""
    rank = torch.rand((n, factor), generator=generator, device=generator.device)
    patch_of_pixel = (torch.arange(side, device=rank.device) // (side // factor)).clamp(max=factor - 1)
    return rank[:, patch_of_pixel].argsort(dim=1, stable=True)


def pad_crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop of a square image padded by 4 px at 32 px, else in proportion, and mirrored half the time.

    Padding reflects the image at its border.
    """
    n, _, height, width = images.shape
    padding = 4 * height // 32
    shift = torch.randint(-padding, padding + 1, (2, n, 1), generator=generator, device=generator.device)
    rows = _reflect(torch.arange(height, device=shift.device) + shift[0], height)
    columns = _reflect(torch.arange(width, device=shift.device) + shift[1], width)
    flip = torch.rand((n, 1), generator=generator, device=generator.device) < 0.5
    return _gather_pixels(images, rows, torch.where(flip, columns.flip(1), columns))


def _reflect(pixel: Tensor, side: int) -> Tensor:
    pixel = pixel.abs()
    return torch.where(pixel >= side, 2 * (side - 1) - pixel, pixel)


def _gather_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """out[i, :, y, x] = images[i, :, rows[i, y], columns[i, x]], in channels_last memory."""
    rows, columns = rows.to(images.device), columns.to(images.device)
    image = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutmix(images: Tensor, generator: torch.Generator, alpha: float = 1.0) -> tuple[Tensor, Tensor, float, Box]:
    """CutMix (Yun et al., 2019): one box for the batch, filled from a permuted batch. λ ~ Beta(alpha, alpha).

    The box has sides ⌊S·sqrt(1 − λ)⌋ around a uniform centre, clipped to the image. Returns the mixed images, the
    partner of each, λ corrected for rounding and clipping (1 − box area / image area), and the box.
    v2.CutMix pairs each image with its neighbour and draws from the global generator.
    """
    height, width = images.shape[2:]
    partner = _partners(images, generator)
    cut = (1.0 - _beta(alpha, generator)) ** 0.5
    top, bottom = _cut(height, cut, generator)
    left, right = _cut(width, cut, generator)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    lam = 1.0 - (bottom - top) * (right - left) / (height * width)
    return mixed, partner, lam, (top, left, bottom, right)


def _cut(side: int, fraction: float, generator: torch.Generator) -> tuple[int, int]:
    half = int(side * fraction) // 2
    centre = int(torch.randint(side, (), generator=generator, device=generator.device))
    return max(centre - half, 0), min(centre + half, side)


def mixup(images: Tensor, generator: torch.Generator, alpha: float = 0.8) -> tuple[Tensor, Tensor, float]:
    """MixUp (Zhang et al., 2018): λ·image + (1 − λ)·partner, one λ ~ Beta(alpha, alpha) per batch.

    Returns the mixed images, the partner of each and λ.
    """
    partner, lam = _partners(images, generator), _beta(alpha, generator)
    return lam * images + (1 - lam) * images[partner], partner, lam


def _partners(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)


def _beta(alpha: float, generator: torch.Generator) -> float:
    # torch.distributions.Beta draws from the global generator only
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return float(np.random.default_rng(seed).beta(alpha, alpha))
