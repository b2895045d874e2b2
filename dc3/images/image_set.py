"""Image sets in memory or on disk, without a size of their own."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from dc3.images.decoding import read_with_size, size_of
from dc3.images.framing import TEST, Frame
from dc3.machine.paths import Place, marks

CACHE_BYTES = 2e9  # image sets up to this size are decoded once and kept in memory
DIGEST_BATCH = 256  # images decoded at a time
DECODERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A labelled image set: originals of any size, in memory or in local or remote files under `root`.

    A set has no size: `images(indices, size)` makes squares of the originals, read at the size asked for, by the set's
    `framing` and `resampling` (`framing.Frame`). `at` and `as_tested` give the same set with a `frame`, whose images
    are always that square; `frames` holds them in memory once `cached`.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    labels: np.ndarray  # (n,) int64
    sources: Sequence[str]  # relative to root, or an identifier such as scenes10/train/astronaut/00012
    pixels: np.ndarray | Sequence[np.ndarray] | None = None  # originals: (n, H, W, 3), or n of (H, W, 3), uint8
    root: Place | None = None
    framing: str = "crop"
    resampling: str = "bilinear"
    exif_orientation: bool = True  # of files, as in `read_image`
    frame: Frame | None = None
    frames: np.ndarray | None = None  # (n, S, S, 3) uint8
    stored_bytes: np.ndarray | None = None  # (n,) int64, of the files of a condensed set

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, size: int, resampling: str | None = None) -> "ImageSet":
        """The set as squares of `size` pixels, by its framing and its own or another resampling."""
        return self._framed(Frame(size, self.framing, resampling or self.resampling))

    def as_tested(self, size: int) -> "ImageSet":
        """The set as networks for `size` pixels are tested on it: framing "test", bilinear."""
        return self._framed(Frame(size, TEST))

    def _framed(self, frame: Frame) -> "ImageSet":
        return self if frame == self.frame else replace(self, frame=frame, frames=None)

    def images(self, indices: ArrayLike | None = None, size: int | None = None) -> np.ndarray:
        """The images at `indices` (None: all), in that order: uint8 (b, size, size, 3).

        Without a size: those of the set's frame, or the originals themselves if these are squares of one size.
        ValueError if they are not.
        """
        if size is not None:
            return self.at(size).images(indices)
        chosen = self._positions(indices)
        if self.frames is not None:
            return self.frames[chosen]
        if self.frame is None:
            if self.side is None:
                raise ValueError(f"{self.name}/{self.split}: its images differ in size; ask for images of one size")
            return np.asarray(self.pixels)[chosen]
        if isinstance(self.pixels, np.ndarray) and self.frame.keeps(*self.pixels.shape[1:3]):
            return self.pixels[chosen]
        return self._read_framed(chosen, self.frame)[0]

    def images_and_sizes(self, indices: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
        """`images` of a set with a frame, and their `own_sizes`: each file is read once, for both."""
        if self.frame is None or self.frames is not None or self.pixels is not None:
            return self.images(indices), self.own_sizes(indices)
        return self._read_framed(self._positions(indices), self.frame)

    def _read_framed(self, chosen: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty((len(chosen), frame.size, frame.size, 3), np.uint8)
        sizes = np.empty((len(chosen), 2), np.int64)
        for row, (image, size) in enumerate(self._read(chosen, frame)):
            images[row], sizes[row] = image, size
        return images, sizes

    def originals(self, indices: ArrayLike | None = None) -> list[np.ndarray]:
        """The images at `indices` (None: all) at their own sizes, each uint8 (H, W, 3), unframed."""
        return [image for image, _ in self._read(self._positions(indices), None)]

    def _read(self, chosen: np.ndarray, frame: Frame | None) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
        """Images, and the height and width of their originals."""
        if self.pixels is not None:
            for pixels in (self.pixels[i] for i in chosen):
                yield pixels if frame is None else frame.pixels(pixels), pixels.shape[:2]
            return
        with ThreadPoolExecutor(DECODERS) as pool:
            yield from pool.map(lambda i: read_with_size(self.file(i), frame, self.exif_orientation), chosen)

    def own_sizes(self, indices: ArrayLike | None = None) -> np.ndarray:
        """Height and width of the originals at `indices` (None: all), from the files' headers: int64 (b, 2)."""
        chosen = self._positions(indices)
        if self.pixels is not None:
            return np.array([self.pixels[i].shape[:2] for i in chosen], np.int64).reshape(-1, 2)
        with ThreadPoolExecutor(DECODERS) as pool:
            sizes = list(pool.map(lambda i: size_of(self.file(i), self.exif_orientation)[::-1], chosen))
        return np.array(sizes, np.int64).reshape(-1, 2)

    @property
    def side(self) -> int | None:
        """The side of the images: the frame's size, or that of originals in memory if all are squares of one size."""
        if self.frame is not None:
            return self.frame.size
        if self.pixels is None or not len(self.pixels):
            return None
        shapes = {self.pixels.shape[1:]} if isinstance(self.pixels, np.ndarray) else {p.shape for p in self.pixels}
        height, width = next(iter(shapes))[:2]
        return height if len(shapes) == 1 and height == width else None

    @property
    def image_size(self) -> int:
        """`side`, for a set whose images have one. ValueError for another."""
        if self.side is None:
            raise ValueError(f"{self.name}/{self.split}: its images have no common size; give it one with at(size)")
        return self.side

    def source(self, index: int) -> str:
        """Where image `index` comes from."""
        return self.sources[index]

    def file(self, index: int) -> Place:
        """The file of image `index`. ValueError for a set without files."""
        if self.root is None:
            raise ValueError(f"{self.name}/{self.split} is in memory: its images are not files")
        return self.root / self.sources[index]

    def counts(self) -> np.ndarray:
        """Images per class, (C,) int64."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def class_indices(self, c: int) -> np.ndarray:
        """The positions of class `c`, ascending, int64."""
        return np.flatnonzero(self.labels == c)

    def take(self, indices: Sequence[int] | np.ndarray) -> "ImageSet":
        """The subset at `indices`, in that order, with the same classes."""
        chosen = self._positions(indices)
        pixels = self.pixels
        if pixels is not None:
            pixels = pixels[chosen] if isinstance(pixels, np.ndarray) else [pixels[i] for i in chosen]
        frames = None if self.frames is None else self.frames[chosen]
        stored = None if self.stored_bytes is None else self.stored_bytes[chosen]
        sources = [self.sources[i] for i in chosen]
        labels = self.labels[chosen]
        return replace(self, labels=labels, sources=sources, pixels=pixels, frames=frames, stored_bytes=stored)

    def cached(self) -> "ImageSet":
        """The same set with its images in memory if they take at most CACHE_BYTES, else the set itself.

        With a frame these are the framed images, else the originals.
        """
        if self.frame is not None:
            fits = self.frames is None and len(self) * self.frame.size**2 * 3 <= CACHE_BYTES
            return replace(self, frames=self.images()) if fits else self
        if self.pixels is not None or 3 * self.own_sizes().prod(axis=1).sum() > CACHE_BYTES:
            return self
        return self.holding(self.originals())

    def holding(self, originals: list[np.ndarray]) -> "ImageSet":
        """The same set with its originals, uint8 (H, W, 3) in the order of the set, in memory."""
        same = len({image.shape for image in originals}) == 1
        return replace(self, pixels=np.stack(originals) if same else originals)

    def first_per_class(self, k: int, classes: int | None = None) -> "ImageSet":
        """The first `k` images of each class (at most; 0: all), in the order of the set.

        classes: how many classes, from the first on; None: all.
        """
        if k == 0:
            return self
        first = [self.class_indices(c)[:k] for c in range(len(self.classes))[:classes]]
        return self.take(np.sort(np.concatenate(first)))

    def pixels_digest(self) -> str:
        """SHA-256 over the images, framed or original, and their shapes."""
        digest = hashlib.sha256()
        for start in range(0, len(self), DIGEST_BATCH):
            for image, _ in self._read(np.arange(start, min(start + DIGEST_BATCH, len(self))), self.frame):
                _add_image(digest, image)
        return digest.hexdigest()

    @property
    def held(self) -> np.ndarray | None:
        """All images as one array in memory, (n, H, W, 3) uint8; None if there is no such array."""
        pixels = self.pixels if self.frame is None else self.frames
        return pixels if isinstance(pixels, np.ndarray) else None

    def fingerprint(self) -> str:
        """SHA-256 over the originals in memory; for files over names, sizes and modification times or ETags.

        Includes how the images are framed and turned.
        """
        framed = self.frame or (self.framing, self.resampling)
        digest = hashlib.sha256(repr((self.name, self.split, self.classes, framed)).encode())
        digest.update(np.ascontiguousarray(self.labels).data)
        if self.pixels is not None:
            for image in self.pixels:
                _add_image(digest, image)
            return digest.hexdigest()
        digest.update(f"exif_orientation={self.exif_orientation}\n".encode())
        for source, mark in zip(self.sources, self._marks(), strict=True):
            digest.update(f"{source}\0{mark}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _marks(self) -> Iterator[str]:
        """For every source what changes when its file does."""
        assert self.root is not None, "a set in memory has no files"
        if isinstance(self.root, Path):
            for source in self.sources:
                status = os.stat(self.root / source)
                yield f"{status.st_size}\0{status.st_mtime_ns}"
        else:
            tops = {source.split("/")[0] for source in self.sources}
            listed = {f"{top}/{file}": mark for top in tops for file, mark in marks(self.root / top).items()}
            yield from (listed.get(source, "gone") for source in self.sources)

    def _positions(self, indices: ArrayLike | None) -> np.ndarray:
        everything = np.arange(len(self))
        if indices is None:
            return everything
        chosen = np.asarray(indices)
        return np.atleast_1d(everything[chosen]) if chosen.size else everything[:0]


def image_slice(images: ImageSet | np.ndarray, start: int, stop: int) -> np.ndarray:
    """Images start … stop − 1 of a set or of a uint8 array (n, H, W, 3)."""
    if isinstance(images, ImageSet):
        return images.images(np.arange(start, min(stop, len(images))))
    return images[start:stop]


def _add_image(digest: "hashlib._Hash", image: np.ndarray) -> None:
    digest.update(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)


def in_memory(
    name: str,
    split: str,
    classes: Sequence[str],
    labels: np.ndarray,
    pixels: np.ndarray | Sequence[np.ndarray],
    sources: Sequence[str] | None = None,
) -> ImageSet:
    """An ImageSet around uint8 `pixels`, (n, H, W, 3) or n of (H, W, 3).

    ValueError for another dtype, shape or number of labels.
    """
    if isinstance(pixels, np.ndarray):
        check_images(pixels, "pixels")
    else:
        for image in pixels:
            check_images(image[None], "pixels")
    labels = class_numbers(labels, count=len(pixels), classes=len(classes))
    if sources is None:
        sources = [f"{name}/{split}/{classes[label]}/{index:05d}" for index, label in enumerate(labels)]
    return ImageSet(name, split, tuple(classes), labels, sources, pixels=pixels)


def check_images(images: np.ndarray, name: str = "images", *, square: bool = False) -> None:
    """ValueError unless `images` are uint8 (n, H, W, 3), with `square` (n, S, S, 3)."""
    fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    if not fits or (square and images.shape[1] != images.shape[2]):
        shape = "(n, S, S, 3)" if square else "(n, H, W, 3)"
        raise ValueError(f"{name} = {images.dtype} {images.shape}: expected uint8 {shape}")


def class_numbers(
    labels: Sequence[int] | np.ndarray, *, count: int | None = None, classes: int | None = None, name: str = "labels"
) -> np.ndarray:
    """labels (n,) as int64. ValueError unless they are integers from 0 to classes − 1, n ≥ 1, or n = `count`."""
    numbers = np.asarray(labels)
    whole = numbers.ndim == 1 and len(numbers) and numbers.dtype.kind in "iu"
    if not whole or (count is not None and len(numbers) != count):
        wanted = "one integer or more" if count is None else f"one integer per image, {count} in all"
        raise ValueError(f"{name} = {numbers.dtype} {numbers.shape}: expected {wanted}")
    if numbers.min() < 0 or (classes is not None and numbers.max() >= classes):
        allowed = "≥ 0" if classes is None else f"0 … {classes - 1}"
        raise ValueError(f"{name} = {numbers.min()} … {numbers.max()}: expected class numbers {allowed}")
    return numbers.astype(np.int64)
