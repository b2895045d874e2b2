"""Image files as RGB arrays."""

from __future__ import annotations

import errno
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from dc3.images.framing import DRAFT_MARGIN, Frame, tested_side
from dc3.machine.files import check_regular, printable

if TYPE_CHECKING:
    from dc3.machine.paths import Place

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # Pillow's names; others may start programs (EPS: Ghostscript)
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
UPRIGHT = 1  # of the EXIF orientations
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TRANSPARENT_VALUES = {  # Pillow leaves a PNG's at the file's depth, where it scales the pixels
    "L;2": lambda value: 85 * value,
    "L;4": lambda value: 17 * value,
    "RGB;16B": lambda value: tuple(part >> 8 for part in value),
}
LYING = (5, 6, 7, 8)  # orientations whose stored width is the height
BAD_EXIF = (SyntaxError, ValueError, TypeError, KeyError, struct.error)  # as Pillow says it
FILE_FAULTS = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)  # OSErrors of the file; None: a decoder's
REMEDIES = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the whole machine has too many files open; close some programs",
    errno.EACCES: "give yourself the right to read it",
    errno.EPERM: "give yourself the right to read it",
}


class UnreadableImage(ValueError):
    """An image file that cannot be decoded; the message names the file and what to do."""


class UnreachableImage(OSError):
    """An image file that the machine did not read; the message names the file, the machine's reason, what to do."""


def read_image(path: str | Place, frame: Frame | None = None, exif_orientation: bool = True) -> np.ndarray:
    """Decode a file to RGB: uint8 (size, size, 3) in a frame, or (H, W, 3) at its own size.

    Grey is replicated, palette and CMYK are converted, alpha is composited over white, 16-bit grey is scaled by 1/257
    (not clipped), an animation gives its first frame. Images are turned as their EXIF orientation says, as by Hugging
    Face's datasets; without `exif_orientation` only TIFFs are, as by torchvision's ImageFolder.
    A JPEG with more than DRAFT_MARGIN · size pixels a side is decoded at a half, a quarter or an eighth of its size.
    Raises UnreadableImage for a missing, truncated or undecodable file, one that is no regular file or in none of
    FORMATS, and more than PIL.Image.MAX_IMAGE_PIXELS pixels; UnreachableImage for an error of the machine.
    """
    return read_with_size(path, frame, exif_orientation)[0]


def read_with_size(
    path: str | Place | BytesIO, frame: Frame | None = None, exif_orientation: bool = True, name: str = ""
) -> tuple[np.ndarray, tuple[int, int]]:
    """`read_image` of a file, or of its content with its `name`; and the height and width of the image at its own size.

    Raises like `read_image`.
    """
    with opened(path, name) as image:
        width, height = image.size  # a draft's is smaller
        if frame is not None and frame.resampling != "nearest":
            image.draft(None, (DRAFT_MARGIN * tested_side(frame.size),) * 2)
        upright = _turned(image) if exif_orientation else image
        if upright is not image and _orientation(image) in LYING:
            width, height = height, width
        rgb = _to_rgb(upright)
        return np.asarray(rgb if frame is None else frame.of(rgb)), (height, width)


class Header(NamedTuple):
    """A file's header: size in pixels, PIL's mode ("RGB", "L", "I;16" …) and format ("PNG", "JPEG" …).

    The size is that of the image as `read_image` turns it; `orientation` is the EXIF tag's, 1 for upright.
    """

    width: int
    height: int
    mode: str
    format: str
    orientation: int

    @property
    def in_doubt(self) -> bool:
        """Whether only decoding shows if `read_image` accepts the file: grey levels of more than 8 bits."""
        return self.mode[0] in "IF"


def header_of(path: str | Place, exif_orientation: bool = True) -> Header:
    """Reads a file's header without decoding the image. Raises like `read_image`."""
    with opened(path) as image:
        width, height = image.size
        if image.format == "PNG" and "exif" not in image.info:
            image.info["exif"] = _exif_behind_pixels(image)
        orientation = _orientation(image)
        if exif_orientation and orientation in LYING and image.format != "TIFF":  # Pillow's size of a TIFF is turned
            width, height = height, width
        return Header(width, height, image.mode, image.format, orientation)


def size_of(path: str | Place, exif_orientation: bool = True) -> tuple[int, int]:
    """Width and height from the file's header. Raises like `read_image`."""
    return header_of(path, exif_orientation)[:2]


def read_bytes(path: str | Place) -> bytes:
    """An image file's content. Raises UnreadableImage if it is missing or no regular file, and UnreachableImage."""
    with _naming(path):
        return _content(path)


@contextmanager
def opened(path: str | Place | BytesIO, name: str = "") -> Iterator[Image.Image]:
    """A file, or its content with its `name`, as an image of one of FORMATS. Raises like `read_image`."""
    with _naming(name or path), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an error below
        if isinstance(path, str | Path):
            check_regular(path)
        file = path if isinstance(path, str | Path | BytesIO) else BytesIO(_content(path))
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels, at most {Image.MAX_IMAGE_PIXELS} are allowed")
            _scale_transparent_value(image)
            yield image


def _content(path: str | Place) -> bytes:
    path = Path(path) if isinstance(path, str) else path
    if isinstance(path, Path):
        check_regular(path)
        return path.read_bytes()
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, PermissionError, MemoryError):
        raise
    except Exception as error:  # each store has exceptions of its own
        raise ConnectionError(errno.EIO, f"{type(error).__name__}: {error}") from error


@contextmanager
def _naming(path: str | Place | BytesIO) -> Iterator[None]:
    what = f"cannot read image {printable(str(path))}"
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, zlib.error and more
        if isinstance(error, OSError) and _is_the_machines(error):
            remedy = REMEDIES.get(error.errno or errno.EACCES, "look at the disk or the network that it lies on")
            reason = f"{error.strerror or error}: an error of the machine, not of the image"
            raise UnreachableImage(f"{what} ({reason}): {remedy}, then run again") from error
        raise UnreadableImage(f"{what} ({error}): replace or remove the file, then run again") from error


def _is_the_machines(error: OSError) -> bool:
    return isinstance(error, PermissionError) or error.errno not in FILE_FAULTS


def _exif_behind_pixels(image: Image.Image) -> bytes:
    """The EXIF data of a PNG that follow its pixels, which Pillow reads only when it decodes them; b"" for none."""
    assert image.fp is not None
    place, found = image.fp.tell(), b""
    image.fp.seek(len(PNG_SIGNATURE))
    while len(head := image.fp.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            found = b"Exif\0\0" + image.fp.read(length)
            break
        image.fp.seek(length + 4, os.SEEK_CUR)  # 4: its checksum
    image.fp.seek(place)
    return found


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, from what is known of the file: of a PNG, before decoding, not what follows its pixels."""
    try:
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, UPRIGHT)  # a PNG's own getexif decodes it
    except BAD_EXIF:  # metadata that say nothing; the image is whole
        return UPRIGHT


def _turned(image: Image.Image) -> Image.Image:
    image.load()
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _scale_transparent_value(image: Image.Image) -> None:
    value, stored = image.info.get("transparency"), image.tile[0].args if image.tile else None
    if value is not None and isinstance(stored, str) and stored in TRANSPARENT_VALUES:
        image.info["transparency"] = TRANSPARENT_VALUES[stored](value)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit PNG, TIFF and PGM; PIL's own conversion clips at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit grey levels have no defined white: save it with 8 or 16 bits")
        levels = np.rint(values / 257).astype(np.uint8)
        levels[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(levels).convert("RGB")
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
