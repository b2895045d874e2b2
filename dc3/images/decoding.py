"""Image files of any format as RGB arrays."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dc3.images.framing import DRAFT_MARGIN, Frame, tested_side
from dc3.machine.files import printable
from dc3.machine.paths import Place

ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


class UnreadableImage(ValueError):
    """An image file that cannot be decoded; the message names the file and what to do."""


def read_image(path: str | Place, frame: Frame | None = None) -> np.ndarray:
    """Decode a file to RGB: uint8 (size, size, 3) in a frame, or (H, W, 3) at its own size.

    Grey is replicated, palette and CMYK are converted, alpha is composited over white, 16-bit grey is scaled by 1/257
    (not clipped), an animation gives its first frame. EXIF orientation is not applied, as in torchvision's ImageFolder.
    A JPEG with more than DRAFT_MARGIN · size pixels a side is decoded at a half, a quarter or an eighth of its size.
    Raises UnreadableImage for a missing, truncated or undecodable file, or more than PIL.Image.MAX_IMAGE_PIXELS pixels.
    """
    with _naming(path), _opened(path) as image:
        if frame is None:
            return np.asarray(_to_rgb(image))
        if frame.resampling != "nearest":
            image.draft(None, (DRAFT_MARGIN * tested_side(frame.size),) * 2)
        return np.asarray(frame.of(_to_rgb(image)))


class Header(NamedTuple):
    """A file's header: size in pixels, PIL's mode ("RGB", "L", "I;16" …) and format ("PNG", "JPEG" …)."""

    width: int
    height: int
    mode: str
    format: str

    @property
    def in_doubt(self) -> bool:
        """Whether only decoding shows if `read_image` accepts the file: grey levels of more than 8 bits."""
        return self.mode[0] in "IF"


def header_of(path: str | Place) -> Header:
    """Reads a file's header without decoding the image. Raises like `read_image`."""
    with _naming(path), _opened(path) as image:
        width, height = image.size
        return Header(width, height, image.mode, image.format)


def size_of(path: str | Place) -> tuple[int, int]:
    """Width and height from the file's header. Raises like `read_image`."""
    return header_of(path)[:2]


@contextmanager
def _opened(path: str | Place) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an error below
        image = Image.open(path if isinstance(path, str | Path) else BytesIO(path.read_bytes()))
    with image:
        if image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{image.width}×{image.height} pixels, at most {Image.MAX_IMAGE_PIXELS} are allowed")
        yield image


@contextmanager
def _naming(path: str | Place) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, zlib.error and more
        raise UnreadableImage(
            f"cannot read image {printable(str(path))} ({error}): replace or remove the file, then run again"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit PNG, TIFF and PGM; PIL's own conversion clips at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit grey levels have no defined white: save it with 8 or 16 bits")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white: save it with 8 or 16 bits")
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def resized(image: np.ndarray, height: int, width: int | None = None) -> np.ndarray:
    """uint8 or float32 (H, W, 3) → the same dtype (height, width, 3), antialiased bilinear; width defaults to height.

    uint8 is rounded, floats are resized channel by channel. An image of the right size is returned unchanged.
    """
    width = width or height
    if image.shape[:2] == (height, width):
        return image
    parts = [image] if image.dtype == np.uint8 else np.moveaxis(image, -1, 0)
    scaled = [np.asarray(Image.fromarray(part).resize((width, height), Image.Resampling.BILINEAR)) for part in parts]
    return scaled[0] if image.dtype == np.uint8 else np.stack(scaled, axis=-1)
