"""Blending of a warm and a cold edit into one compensated image (DC3, arXiv 2508.01139).

All images are uint8 (H, W, 3) of one shape. With w the weight of the second image, a blend is (1 − w)·first + w·second,
rounded to the nearest integer; the modes differ in w:

- `gradient`: 0 in the left (or upper) half, 1 in the other, and a linear ramp of `ramp`·side pixels from 0 to 1 across
  the middle; the direction is drawn. At 256 pixels the ramp is 20 wide.
- `random`: 0 or 1 by an independent coin per pixel and channel.
- `grid`: 0 or 1 by a coin per square cell of `cell`·side pixels. At 256 pixels a cell is 8 wide.
- `fourfold_view`: no weight; a 2×2 mosaic of four images, each resized to its quadrant.
- `warm`, `cold`: only the first, only the second image, for ablation.
"""

from collections.abc import Sequence

import numpy as np

from dc3.images.decoding import resized
from dc3.images.image_set import check_images

RAMP = 20 / 256
CELL = 8 / 256
IMAGES_NEEDED = {"gradient": 2, "random": 2, "grid": 2, "fourfold_view": 4, "warm": 2, "cold": 2}


def blend(
    images: Sequence[np.ndarray], mode: str, rng: np.random.Generator, *, ramp: float = RAMP, cell: float = CELL
) -> np.ndarray:
    """Blends two uint8 (H, W, 3) images (`fourfold_view`: four) of one shape into one; formulas above.

    `ramp` and `cell` are fractions of the image's side in (0, 1], at least two pixels and one. ValueError for an
    unknown mode, a wrong number of images, differing shapes or another dtype.
    """
    _check(images, mode, ramp, cell)
    if mode == "fourfold_view":
        return _mosaic(images)
    height, width = images[0].shape[:2]
    weight = {
        "gradient": lambda: _ramp_weight(height, width, ramp, rng),
        "random": lambda: rng.integers(0, 2, size=(height, width, 3)),
        "grid": lambda: _grid_weight(height, width, cell, rng),
        "warm": lambda: np.zeros((1, 1, 1)),
        "cold": lambda: np.ones((1, 1, 1)),
    }[mode]()
    first, second = (image.astype(np.float64) for image in images)
    return np.rint((1 - weight) * first + weight * second).astype(np.uint8)


def _ramp_weight(height: int, width: int, ramp: float, rng: np.random.Generator) -> np.ndarray:
    if is_left_right(rng):
        return _ramp_profile(width, ramp)[None, :, None]
    return _ramp_profile(height, ramp)[:, None, None]


def is_left_right(rng: np.random.Generator) -> bool:
    """The first draw of a `gradient` blend: the first image is in the left half, else in the upper one."""
    return rng.random() < 0.5


def _ramp_profile(side: int, ramp: float) -> np.ndarray:
    """(side,) weights: 0, then linear from 0 to 1 over the ramp's pixels, then 1."""
    pixels = max(round(side * ramp), 2)
    start = side // 2 - pixels // 2
    return np.clip((np.arange(side) - start) / (pixels - 1), 0, 1)


def _grid_weight(height: int, width: int, cell: float, rng: np.random.Generator) -> np.ndarray:
    side = max(round(min(height, width) * cell), 1)
    coins = rng.integers(0, 2, size=(-(-height // side), -(-width // side)))
    return np.kron(coins, np.ones((side, side), int))[:height, :width, None]


def _mosaic(images: Sequence[np.ndarray]) -> np.ndarray:
    """First and second above, third and fourth below; an odd side gives its extra pixel to the right and the bottom."""
    height, width = images[0].shape[:2]
    rows, columns = (height // 2, height - height // 2), (width // 2, width - width // 2)
    quadrants = [resized(image, rows[k // 2], columns[k % 2]) for k, image in enumerate(images)]
    return np.vstack([np.hstack(quadrants[:2]), np.hstack(quadrants[2:])])


def _check(images: Sequence[np.ndarray], mode: str, ramp: float, cell: float) -> None:
    if mode not in IMAGES_NEEDED:
        raise ValueError(f"mode = {mode!r}: choose one of {', '.join(IMAGES_NEEDED)}")
    if len(images) != IMAGES_NEEDED[mode]:
        raise ValueError(f"images = {len(images)} images: mode {mode} takes {IMAGES_NEEDED[mode]}")
    for image in images:
        check_images(image[None])
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1 or min(shapes[0][:2]) < 2:
        raise ValueError(f"images = {shapes}: expected one shape of at least 2 × 2 pixels")
    for name, value in (("ramp", ramp), ("cell", cell)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} = {value}: a fraction of the image's side in (0, 1]")
