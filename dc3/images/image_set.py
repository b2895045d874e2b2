"""Image sets in memory or on disk, uint8 (n, S, S, 3)."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from dc3.images.decoding import read_image
from dc3.machine.paths import Place, marks

CACHE_BYTES = 2e9  # image sets up to this size are decoded once and kept in memory
DECODERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A labelled image set: `pixels` in memory, or local or remote files under `root`, decoded on access."""

    name: str
    split: str
    classes: tuple[str, ...]
    labels: np.ndarray  # (n,) int64
    image_size: int
    sources: Sequence[str]  # relative to root, or an identifier such as scenes10/train/astronaut/00012
    pixels: np.ndarray | None = None  # (n, S, S, 3) uint8
    root: Place | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: ArrayLike | None = None) -> np.ndarray:
        """The images at `indices` (None: all), in that order: uint8 (b, S, S, 3)."""
        chosen = self._positions(indices)
        if self.pixels is not None:
            return self.pixels[chosen]
        out = np.empty((len(chosen), self.image_size, self.image_size, 3), np.uint8)
        with ThreadPoolExecutor(DECODERS) as pool:
            decoded = pool.map(lambda i: read_image(self.file(i), self.image_size), chosen)
            for row, image in enumerate(decoded):
                out[row] = image
        return out

    def batches(self, batch_size: int = 256) -> Iterator[np.ndarray]:
        """All images in order, uint8 (≤ batch_size, S, S, 3) at a time."""
        for start in range(0, len(self), batch_size):
            yield image_slice(self, start, start + batch_size)

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
        pixels = None if self.pixels is None else self.pixels[chosen]
        return replace(self, labels=self.labels[chosen], sources=[self.sources[i] for i in chosen], pixels=pixels)

    def cached(self, limit_bytes: float = CACHE_BYTES) -> "ImageSet":
        """The same set with its pixels in memory when they take at most `limit_bytes`, else the set itself."""
        if self.pixels is not None or len(self) * self.image_size**2 * 3 > limit_bytes:
            return self
        return replace(self, pixels=self.images())

    def first_per_class(self, k: int, classes: int | None = None) -> "ImageSet":
        """The first `k` images of each class (at most; 0: all), in the order of the set.

        classes: how many classes, from the first on; None: all.
        """
        if k == 0:
            return self
        first = [self.class_indices(c)[:k] for c in range(len(self.classes))[:classes]]
        return self.take(np.sort(np.concatenate(first)))

    def fingerprint(self) -> str:
        """SHA-256 over the pixels of a set in memory; for files over names, sizes and modification times or ETags."""
        digest = hashlib.sha256(repr((self.name, self.split, self.classes, self.image_size)).encode())
        digest.update(np.ascontiguousarray(self.labels).data)
        if self.pixels is not None:
            digest.update(np.ascontiguousarray(self.pixels).data)
            return digest.hexdigest()
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


def in_memory(
    name: str,
    split: str,
    classes: Sequence[str],
    labels: np.ndarray,
    pixels: np.ndarray,
    sources: Sequence[str] | None = None,
) -> ImageSet:
    """An ImageSet around uint8 `pixels` (n, S, S, 3). ValueError for another dtype, shape or number of labels."""
    check_images(pixels, "pixels", square=True)
    labels = class_numbers(labels, count=len(pixels), classes=len(classes))
    if sources is None:
        sources = [f"{name}/{split}/{classes[label]}/{index:05d}" for index, label in enumerate(labels)]
    return ImageSet(name, split, tuple(classes), labels, pixels.shape[1], sources, pixels=pixels)


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
