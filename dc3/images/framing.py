"""How a picture of any shape becomes a square: the framing of a run, and the transform of test images."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

FRAMINGS = ("crop", "squash")
TEST = "test"  # the networks' own framing of the images they are tested on
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,  # PIL's filters are antialiased
    "bicubic": Image.Resampling.BICUBIC,
}
DRAFT_MARGIN = 2  # JPEG's scaled decoding leaves at least so many pixels for each one asked for


@dataclass(frozen=True)
class Frame:
    """A square of `size` pixels a side and how a picture gets into it.

    framing "crop": the shorter side is scaled to `size`, the centre is kept. "squash": the whole picture is forced into
    the square (published). "test": as in the recipe of the published students and of torchvision's weights, the shorter
    side is scaled to ⌊size / 7⌋ · 8 pixels (32: 32, 64: 72, 224: 256) and the centre of `size` pixels is kept.
    resampling: one of FILTERS. ValueError for a size below 1 and unknown names.
    """

    size: int
    framing: str = "crop"
    resampling: str = "bilinear"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size = {self.size}: at least 1 pixel")
        for name, value, allowed in (
            ("framing", self.framing, (*FRAMINGS, TEST)),
            ("resampling", self.resampling, tuple(FILTERS)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} = {value!r}: expected one of {', '.join(allowed)}")

    def keeps(self, height: int, width: int) -> bool:
        """Whether a picture of this size is already as the frame wants it, and is not resampled."""
        return height == width == self.size and (self.framing != TEST or tested_side(self.size) == self.size)

    def of(self, image: Image.Image) -> Image.Image:
        """The framed image, (size, size)."""
        if self.keeps(image.height, image.width):
            return image
        if self.framing == TEST:
            return self._tested(image)
        if self.framing == "squash":
            return image.resize((self.size, self.size), FILTERS[self.resampling])
        return ImageOps.fit(image, (self.size, self.size), FILTERS[self.resampling])

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """The same for uint8 (H, W, 3) → (size, size, 3)."""
        return image if self.keeps(*image.shape[:2]) else np.asarray(self.of(Image.fromarray(image)))

    def _tested(self, image: Image.Image) -> Image.Image:
        """v2.Resize(⌊size / 7⌋ · 8) and v2.CenterCrop(size), in one step that computes no pixel outside the crop."""
        shorter, scaled = min(image.size), tested_side(self.size)
        width, height = (scaled if side == shorter else int(scaled * side / shorter) for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + self.size) * across, (top + self.size) * down)
        return image.resize((self.size, self.size), FILTERS[self.resampling], box=box)


def tested_side(size: int) -> int:
    """The shorter side to which a test image is scaled before its centre of `size` pixels is kept: ⌊size / 7⌋ · 8."""
    return max(size // 7 * 8, size)
