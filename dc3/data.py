"""Image sets: the embedded scenes10, torchvision's CIFAR, any folder of class folders. Images: uint8 (n, S, S, 3)."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torchvision.datasets
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from dc3 import scenes
from dc3.decoding import UnreadableImage as UnreadableImage
from dc3.decoding import read_image, square

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "test")}  # the first that exists: ImageNet's test has no labels
CACHE_BYTES = 2e9  # image sets up to this size are decoded once and kept in memory
DECODERS = min(8, os.cpu_count() or 1)


def normalise(images: np.ndarray | Tensor, device: torch.device | str | None = None) -> Tensor:
    """ImageNet normalisation, (x/255 - mean)/std: uint8 (n, H, W, 3) to channels_last float32 (n, 3, H, W) on `device`.

    Raises ValueError for another dtype or shape.
    """
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images: expected uint8 (n, H, W, 3), got {images.dtype} {tuple(images.shape)}")
    pixels = images.to(device or images.device).permute(0, 3, 1, 2).to(torch.float32)
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return pixels.div_(255).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A labelled image set: `pixels` in memory, or files under `root` that are decoded when asked for."""

    name: str
    split: str
    classes: tuple[str, ...]
    labels: np.ndarray  # (n,) int64
    image_size: int
    sources: Sequence[str]  # relative to root, or an identifier such as scenes10/train/astronaut/00012
    pixels: np.ndarray | None = None  # (n, S, S, 3) uint8
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """The images at `indices` (None: all), in that order: uint8 (b, S, S, 3)."""
        chosen = self._positions(indices)
        if self.pixels is not None:
            return self.pixels[chosen]
        out = np.empty((len(chosen), self.image_size, self.image_size, 3), np.uint8)
        with ThreadPoolExecutor(DECODERS) as pool:
            decoded = pool.map(lambda i: read_image(self.root / self.sources[i], self.image_size), chosen)
            for row, image in enumerate(decoded):
                out[row] = image
        return out

    def batches(self, batch_size: int = 256) -> Iterator[np.ndarray]:
        """All images in order, uint8 (≤ batch_size, S, S, 3) at a time, so that a large set need not be held."""
        for start in range(0, len(self), batch_size):
            yield image_slice(self, start, start + batch_size)

    def source(self, index: int) -> str:
        """Where image `index` comes from."""
        return self.sources[index]

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
        """The same set with its pixels in memory where they take no more than `limit_bytes`, else the set itself."""
        if self.pixels is not None or len(self) * self.image_size**2 * 3 > limit_bytes:
            return self
        return replace(self, pixels=self.images())

    def first_per_class(self, k: int) -> "ImageSet":
        """The first `k` images of each class (fewer where there are fewer; 0: all), in the order of the set."""
        if k == 0:
            return self
        first = [self.class_indices(c)[:k] for c in range(len(self.classes))]
        return self.take(np.sort(np.concatenate(first)))

    def fingerprint(self) -> str:
        """SHA-256 over names, sizes and modification times of the files, or over the pixels of a set in memory."""
        digest = hashlib.sha256(repr((self.name, self.split, self.classes, self.image_size)).encode())
        digest.update(np.ascontiguousarray(self.labels))
        if self.pixels is not None:
            digest.update(np.ascontiguousarray(self.pixels))
            return digest.hexdigest()
        for source in self.sources:
            status = os.stat(self.root / source)
            digest.update(f"{source}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _positions(self, indices: Sequence[int] | np.ndarray | None) -> np.ndarray:
        everything = np.arange(len(self))
        if indices is None or np.size(indices) == 0:
            return everything if indices is None else everything[:0]
        return np.atleast_1d(everything[np.asarray(indices)])


def image_slice(images: ImageSet | np.ndarray, start: int, stop: int) -> np.ndarray:
    """Images start…stop of a set or of a uint8 array (n, H, W, 3): what kernels that walk through either call."""
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
    """An ImageSet around uint8 `pixels` (n, S, S, 3). Raises ValueError for another dtype, shape, label count."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != pixels.shape[2] or pixels.shape[3] != 3:
        raise ValueError(f"pixels: expected uint8 (n, S, S, 3), got {pixels.dtype} {pixels.shape}")
    labels = np.asarray(labels, np.int64)
    if labels.shape != (len(pixels),):
        raise ValueError(f"labels: expected one for each of {len(pixels)} images, got shape {labels.shape}")
    if sources is None:
        sources = [f"{name}/{split}/{classes[label]}/{index:05d}" for index, label in enumerate(labels)]
    return ImageSet(name, split, tuple(classes), labels, pixels.shape[1], sources, pixels=pixels)


@dataclass(frozen=True)
class _Request:
    dataset: str
    split: str
    data_dir: Path | None
    image_size: int
    images_per_class: int
    seed: int
    download: bool


def load(
    dataset: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int = 32,
    images_per_class: int = 0,
    seed: int = 0,
    download: bool = True,
) -> ImageSet:
    """Load `split` ("train" or "test") of a data set in DATASETS, at `image_size` pixels a side.

    images_per_class=k keeps the first k of each class (0: all; scenes10: 250 for training, 100 for testing).
    seed draws the crops of scenes10 anew (the other sets draw nothing): leave it at 0 to compare runs on one set.
    Raises ValueError or FileNotFoundError naming the parameter, its value and what is expected.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset={dataset!r}: expected one of {', '.join(DATASETS)}")
    if split not in SPLIT_FOLDERS:
        raise ValueError(f"split={split!r}: expected 'train' or 'test'")
    for parameter, value, least in (("image_size", image_size, 1), ("images_per_class", images_per_class, 0)):
        if value < least:
            raise ValueError(f"{parameter}={value}: expected a whole number of at least {least}")
    folder = None if data_dir in (None, "") else Path(data_dir).expanduser()
    return DATASETS[dataset](_Request(dataset, split, folder, image_size, images_per_class, seed, download))


def check_ipc(image_set: ImageSet, ipc: int) -> None:
    """Raises ValueError naming the smallest class when `ipc` images per class cannot be picked from it."""
    counts = image_set.counts()
    smallest = int(counts.argmin())
    if not 1 <= ipc <= counts[smallest]:
        raise ValueError(
            f"ipc={ipc}: expected 1 to {counts[smallest]}, the size of the smallest class "
            f"{image_set.classes[smallest]!r} of {image_set.name}/{image_set.split}"
        )


def image_folder(folder: Path, *, name: str, split: str, image_size: int, parameter: str = "data_dir") -> ImageSet:
    """A folder of class folders in the order of torchvision's ImageFolder; `parameter` is the one that errors name."""
    classes = _class_names(folder, parameter)
    samples = make_dataset(str(folder), {c: i for i, c in enumerate(classes)}, IMG_EXTENSIONS, allow_empty=True)
    labels = np.array([label for _, label in samples], np.int64)
    empty = [classes[c] for c in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)]
    if empty:
        raise ValueError(
            f"{parameter}: {folder} has {len(empty)} class folders without images ({', '.join(empty[:5])}): "
            f"add images ({' '.join(IMG_EXTENSIONS)}) or remove the folders"
        )
    sources = [os.path.relpath(path, folder.parent) for path, _ in samples]
    return ImageSet(name, split, tuple(classes), labels, image_size, sources, root=folder.parent)


def _class_names(folder: Path, parameter: str) -> list[str]:
    try:
        classes = find_classes(folder)[0]
    except FileNotFoundError:
        classes = []
    if len(classes) < 2:
        raise ValueError(f"{parameter}: {folder} has {len(classes)} class folders, at least 2 are needed")
    return classes


def _split_folder(request: _Request, split: str) -> Path:
    data_dir, candidates = request.data_dir, SPLIT_FOLDERS[split]
    expected = "expected a folder with train/ and val/ (or test/), each with one folder of images per class"
    if data_dir is None:
        raise ValueError(f"data_dir is not set: dataset={request.dataset!r} {expected}")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"data_dir={str(data_dir)!r} is not a folder: {expected}")
    found = [data_dir / name for name in candidates if (data_dir / name).is_dir()]
    if not found:
        held = ", ".join(sorted(entry.name for entry in data_dir.iterdir())[:5]) or "nothing"
        missing = " or ".join(f"{name}/" for name in candidates)
        raise FileNotFoundError(f"data_dir={str(data_dir)!r} has no {missing} (it holds {held}): {expected}")
    return found[0]


def _load_imagefolder(request: _Request) -> ImageSet:
    folder = _split_folder(request, request.split)
    if request.split == "test":
        train, test = (_class_names(_split_folder(request, split), "data_dir") for split in ("train", "test"))
        if train != test:
            only = ", ".join(sorted(set(train) ^ set(test))[:5])
            raise ValueError(f"data_dir={str(request.data_dir)!r}: the class folders of train and test differ ({only})")
    image_set = image_folder(folder, name="imagefolder", split=request.split, image_size=request.image_size)
    return image_set.first_per_class(request.images_per_class)


def _load_scenes(request: _Request) -> ImageSet:
    count = request.images_per_class or scenes.DEFAULT_COUNTS[request.split]
    pixels, labels = scenes.crops(request.split, count, request.image_size, request.seed)
    prefix = "scenes10" if request.seed == 0 else f"scenes10-seed{request.seed}"
    sources = [f"{prefix}/{request.split}/{name}/{index:05d}" for name in scenes.CLASSES for index in range(count)]
    return in_memory("scenes10", request.split, scenes.CLASSES, labels, pixels, sources)


def _load_cifar(request: _Request) -> ImageSet:
    if request.data_dir is None:
        raise ValueError(
            f"data_dir is not set: dataset={request.dataset!r} is downloaded into that folder on first use"
        )
    make = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[request.dataset]
    try:
        cifar = make(request.data_dir, train=request.split == "train", download=request.download)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"data_dir={str(request.data_dir)!r} has no {request.dataset}, nor could it be downloaded ({error}): "
            f"put {make.filename} there, or connect to the network"
        ) from error
    image_set = in_memory(request.dataset, request.split, cifar.classes, cifar.targets, cifar.data)
    return _resized(image_set.first_per_class(request.images_per_class), request.image_size)


def _resized(image_set: ImageSet, size: int) -> ImageSet:
    if image_set.image_size == size:
        return image_set
    fitted = [square(Image.fromarray(p), size) for p in image_set.pixels]
    return replace(image_set, image_size=size, pixels=np.stack(fitted))


DATASETS: dict[str, Callable[[_Request], ImageSet]] = {
    "scenes10": _load_scenes,
    "cifar10": _load_cifar,
    "cifar100": _load_cifar,
    "imagefolder": _load_imagefolder,
}
