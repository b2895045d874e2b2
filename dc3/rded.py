"""RDED, the baseline of realistic crops: tiles the easiest crops for a teacher into condensed images.

Sun et al., CVPR 2024, arXiv 2312.03526, with the crops, scores and mosaics of the authors' code (LINs-lab/RDED).
The lower the teacher's loss of a crop, the more realistic it is.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isqrt
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dc3.images.decoding import resized
from dc3.images.image_set import ImageSet
from dc3.machine.devices import autocast
from dc3.machine.progress import tqdm
from dc3.models.augmentation import normalise
from dc3.models.networks import check_takes

NO_BIN = -1  # the bin of images that are picked without bins
SMALLEST_AREA = 0.08  # share of the image that a crop covers at least: torchvision's default
SMALLEST_TILE = 4  # pixels a side
COLUMNS = ["index", "label", "bin", "rank", "gain", "tile", "top", "left", "side", "picture"]


@dataclass(frozen=True)
class Crops:
    """How RDED crops: `factor` crops per side of a condensed image, `num_crop` per source, `mipc` sources per class.

    `batch_size` counts crops; those of one image stay together. Only one batch of pixels is in memory.
    """

    factor: int = 1
    num_crop: int = 5
    mipc: int = 300
    batch_size: int = 500

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "Crops":
        """The crops in the parameters of 03_sampling."""
        return cls(params["crops_per_side"], params["crop_tries"], params["crop_images"])


def pick_crops(images: ImageSet, teacher: nn.Module, ipc: int, seed: int, crops: Crops) -> pd.DataFrame:
    """RDED's picks: the best crop of each of `mipc` drawn images of a class; of these the best ipc·factor².

    images: a set with a frame of the size that the teacher sees.

    The best crop has the lowest of `crop_losses`. With the picks of a class in order, best first, condensed image r has
    picks r, r + ipc, r + 2·ipc, … in its tiles 0, 1, 2, …: one of each tier of quality. Equal losses keep the order of
    the set.
    Returns COLUMNS, one row per crop, sorted by label, rank, tile: index (position in the set), label, bin (−1), rank
    (of the condensed image in its class), gain (minus the loss), tile (0 … factor²−1, row by row), top, left, side (of
    the crop, in pixels of its framed source) and picture (the side of the framed source, in pixels).
    Raises ValueError for a number out of range, a class with fewer than ipc·factor² drawn images, and a teacher that
    does not fit the images or has losses that are not finite.
    """
    check_crops(images, ipc, seed, crops)
    check_takes(teacher, images.image_size, len(images.classes), "teacher")
    tables = []
    for label in tqdm(range(len(images.classes)), desc="crops of classes", unit="classes"):
        indices, boxes = random_crops(images, label, seed, crops)
        losses = crop_losses(images, indices, boxes, teacher, crops)
        tables.append(_best_crops(indices, boxes, losses, ipc, crops.factor).assign(label=label))
    return pd.concat(tables, ignore_index=True).assign(bin=NO_BIN, picture=images.image_size)[COLUMNS]


def check_crops(images: ImageSet, ipc: int, seed: int, crops: Crops) -> None:
    """ValueError for a number out of range or too few images in a class, as `pick_crops`."""
    counts = {"ipc": ipc, **asdict(crops)}
    for name, value, least in [*((name, count, 1) for name, count in counts.items()), ("seed", seed, 0)]:
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} = {value!r}: an integer ≥ {least}")
    size, factor = images.image_size, crops.factor
    if factor > size // SMALLEST_TILE:
        raise ValueError(f"factor = {factor}: at image_size {size} rded takes 1 to {size // SMALLEST_TILE}")
    sizes, needed = images.counts(), ipc * factor**2
    smallest = int(sizes.argmin())
    if min(sizes[smallest], crops.mipc) < needed:
        raise ValueError(
            f"factor = {factor}: with ipc = {ipc} rded needs {needed} images of each class; "
            f"{images.classes[smallest]!r} has {sizes[smallest]}, and at most mipc = {crops.mipc} are drawn"
        )


def random_crops(images: ImageSet, label: int, seed: int, crops: Crops) -> tuple[np.ndarray, np.ndarray]:
    """The images of a class to crop, int64 (m,), ascending, m ≤ mipc; top, left, side of the crops, (m, num_crop, 3).

    As RandomResizedCrop with ratio (1, 1): a square of 8 to 100 % of the area, uniform, its side √(area·S²)
    rounded, anywhere in the framed S × S image (the authors crop the original files).
    Crops are a pure function of (seed, label, position in the class). A larger mipc includes the images of a smaller.
    """
    members, size = images.class_indices(label), images.image_size
    which, where = np.random.default_rng([seed, label]).spawn(2)
    drawn = np.sort(which.permutation(len(members))[: crops.mipc])
    area, *place = np.moveaxis(where.random((len(members), crops.num_crop, 3))[drawn], -1, 0)
    side = np.rint(size * np.sqrt(SMALLEST_AREA + (1 - SMALLEST_AREA) * area))
    top, left = (np.floor(fraction * (size - side + 1)) for fraction in place)
    return members[drawn], np.stack([top, left, side], axis=-1).astype(np.int64)


@torch.no_grad()
def crop_losses(
    images: ImageSet, indices: np.ndarray, boxes: np.ndarray, teacher: nn.Module, crops: Crops
) -> np.ndarray:
    """The teacher's cross-entropy of each of `random_crops` with its image's label: float64 (m, num_crop).

    A crop has S // factor pixels per side in the centre of an S × S image; the rest is 0 AFTER ImageNet normalisation,
    the mean colour. The teacher runs in eval mode, then gets its mode back; always in float32, because the losses rank
    the crops, with softmax in float64, because in float32 all easy crops have loss 0.
    ValueError for a loss that is not finite.
    """
    device, training = next(teacher.parameters()).device, teacher.training
    shown, batch_size = images.image_size // crops.factor, max(crops.batch_size // boxes.shape[1], 1)
    teacher.eval()
    logits = []
    for start in range(0, len(indices), batch_size):
        part = slice(start, start + batch_size)
        batch = _padded_crops(images.images(indices[part]), boxes[part], shown, device)
        with autocast(device, amp=False):
            logits.append(teacher(batch).cpu())
    teacher.train(training)
    labels = torch.from_numpy(images.labels[indices]).repeat_interleave(boxes.shape[1])
    losses = F.cross_entropy(torch.cat(logits).double(), labels, reduction="none").reshape(boxes.shape[:2]).numpy()
    broken = np.flatnonzero(~np.isfinite(losses).all(axis=1))
    if len(broken):
        raise ValueError(f"teacher: the loss of {images.source(int(indices[broken[0]]))} is not finite")
    return losses


def _padded_crops(pixels: np.ndarray, boxes: np.ndarray, shown: int, device: torch.device) -> Tensor:
    """uint8 (b, S, S, 3), (b, k, 3) → normalised float32 (b·k, 3, S, S), extra padding below and right."""
    pairs = zip(pixels, boxes.tolist(), strict=True)
    crops = [_cut(image, top, left, side, shown, shown) for image, squares in pairs for top, left, side in squares]
    padding = pixels.shape[1] - shown
    return F.pad(normalise(np.stack(crops), device), (padding // 2, padding - padding // 2) * 2)


def _cut(source: np.ndarray, top: int, left: int, side: int, height: int, width: int) -> np.ndarray:
    """A square of a uint8 image, resized to (height, width, 3)."""
    return resized(source[top : top + side, left : left + side], height, width)


def _best_crops(indices: np.ndarray, boxes: np.ndarray, losses: np.ndarray, ipc: int, factor: int) -> pd.DataFrame:
    best = losses.argmin(axis=1)
    lowest = losses[np.arange(len(losses)), best]
    tiers = np.argsort(lowest, kind="stable")[: ipc * factor**2].reshape(factor**2, ipc)
    order = tiers.T.ravel()
    rank, tile = np.divmod(np.arange(len(order)), factor**2)
    top, left, side = boxes[order, best[order]].T
    columns = {"index": indices[order], "rank": rank, "gain": -lowest[order], "tile": tile}
    return pd.DataFrame({**columns, "top": top, "left": left, "side": side})


def mosaic(images: ImageSet, rows: pd.DataFrame, size: int) -> np.ndarray:
    """One condensed image, uint8 (size, size, 3), of factor × factor crops of the original images.

    rows: the factor² rows of one condensed image in the table of `pick_crops`. The crops are cut from the sources
    framed at `size`, or at the size at which they were scored if that is larger. At that size, and if factor divides
    it, the tiles are the pixels that the teacher scored. If factor does not divide size, the first size mod factor rows
    and columns of tiles are one pixel larger. Raises ValueError unless the rows are one per tile.
    """
    factor = isqrt(len(rows))
    if sorted(rows["tile"]) != list(range(factor**2)):
        raise ValueError(
            f"rows = tiles {sorted(rows['tile'])}: expected tiles 0 to {factor**2 - 1} for factor {factor}, each once"
        )
    picture = int(rows["picture"].iloc[0])
    sources = images.images(rows["index"].to_numpy(), max(size, picture))
    edges = [k * (size // factor) + min(k, size % factor) for k in range(factor + 1)]
    canvas = np.empty((size, size, 3), np.uint8)
    for source, row in zip(sources, rows.itertuples(), strict=True):
        (top, bottom), (left, right) = (edges[k : k + 2] for k in divmod(row.tile, factor))
        y, x, side = (round(value * len(source) / picture) for value in (row.top, row.left, row.side))
        canvas[top:bottom, left:right] = _cut(source, y, x, side, bottom - top, right - left)
    return canvas
