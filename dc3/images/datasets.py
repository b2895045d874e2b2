"""Image sets by name: the embedded scenes10, torchvision's CIFAR, any folder of class folders."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dc3.images import scenes
from dc3.images.folders import IMG_EXTENSIONS, SPLIT_FOLDERS, class_folders, images_of, split_folder
from dc3.images.framing import Frame
from dc3.images.image_set import ImageSet, in_memory
from dc3.machine.paths import Place, place, reaching


@dataclass(frozen=True)
class _Request:
    dataset: str
    split: str
    data_dir: Place | None
    images_per_class: int


def load(
    dataset: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    images_per_class: int = 0,
    framing: str = "crop",
    resampling: str = "bilinear",
    exif_orientation: bool = True,
) -> ImageSet:
    """Load `split` ("train" or "test") of a data set in DATASETS: its original images, of any size.

    framing and resampling: how they become squares (`framing.Frame`).
    data_dir: a folder, or for "imagefolder" also a URL that fsspec opens (s3://…, memory://…).
    images_per_class=k keeps the first k of each class (0: all; scenes10: 250 for training, 100 for testing).
    Raises ValueError or FileNotFoundError naming the parameter, its value and what is expected.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset = {dataset!r}: expected one of {', '.join(DATASETS)}")
    if split not in SPLIT_FOLDERS:
        raise ValueError(f"split = {split!r}: expected 'train' or 'test'")
    if images_per_class < 0:
        raise ValueError(f"images_per_class = {images_per_class}: expected a whole number of at least 0")
    Frame(1, framing, resampling)
    folder = None if data_dir in (None, "") else place(data_dir)
    with reaching(folder):
        images = DATASETS[dataset](_Request(dataset, split, folder, images_per_class))
    return replace(images, framing=framing, resampling=resampling, exif_orientation=exif_orientation)


def check_ipc(image_set: ImageSet, ipc: int) -> None:
    """Raises ValueError naming the smallest class when it has fewer than `ipc` images."""
    counts = image_set.counts()
    smallest = int(counts.argmin())
    if not 1 <= ipc <= counts[smallest]:
        raise ValueError(
            f"ipc = {ipc}: expected 1 to {counts[smallest]}, the size of the smallest class "
            f"{image_set.classes[smallest]!r} of {image_set.name}/{image_set.split}"
        )


def image_folder(folder: Place, *, name: str, split: str, parameter: str = "data_dir") -> ImageSet:
    """A folder of class folders in the order of torchvision's ImageFolder; `parameter` names it in errors.

    What systems leave behind is no image and no class (`paths.is_hidden`). ValueError as `folders.class_folders`, and
    for a class without images.
    """
    found = class_folders(folder, parameter)
    classes, files = list(found), images_of(folder, list(found.values()))
    labels = np.repeat(np.arange(len(classes)), [len(of_class) for of_class in files])
    empty = [classes[c] for c in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)]
    if empty:
        raise ValueError(
            f"{parameter}: {folder} has {len(empty)} class folders without images ({', '.join(empty[:5])}): "
            f"add images ({' '.join(IMG_EXTENSIONS)}) or remove the folders"
        )
    sources = [source for of_class in files for source in of_class]
    return ImageSet(name, split, tuple(classes), labels, sources, root=folder.parent)


def _load_imagefolder(request: _Request) -> ImageSet:
    folder = split_folder(request.data_dir, request.split)
    if request.split == "test":
        folders = (split_folder(request.data_dir, split) for split in ("train", "test"))
        train, test = (list(class_folders(folder, "data_dir")) for folder in folders)
        if train != test:
            only = ", ".join(sorted(set(train) ^ set(test))[:5])
            raise ValueError(
                f"data_dir = {str(request.data_dir)!r}: the class folders of train and test differ ({only})"
            )
    image_set = image_folder(folder, name="imagefolder", split=request.split)
    return image_set.first_per_class(request.images_per_class)


def _load_scenes(request: _Request) -> ImageSet:
    count = request.images_per_class or scenes.DEFAULT_COUNTS[request.split]
    pixels, labels = scenes.crops(request.split, count)
    sources = [f"scenes10/{request.split}/{name}/{index:05d}" for name in scenes.CLASSES for index in range(count)]
    return in_memory("scenes10", request.split, scenes.CLASSES, labels, pixels, sources)


def _load_cifar(request: _Request) -> ImageSet:
    if request.data_dir is None:
        raise ValueError(
            f"data_dir is not set: dataset = {request.dataset!r} is downloaded into that folder on first use"
        )
    if not isinstance(request.data_dir, Path):
        raise ValueError(
            f"data_dir = {str(request.data_dir)!r} is a URL: dataset = {request.dataset!r} needs a local folder"
        )
    import torchvision.datasets  # brings torch

    make = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[request.dataset]
    try:
        cifar = make(request.data_dir, train=request.split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"data_dir = {str(request.data_dir)!r} has no {request.dataset}, and the download failed ({error}): "
            f"put {make.filename} there, or connect to the network"
        ) from error
    image_set = in_memory(request.dataset, request.split, cifar.classes, cifar.targets, cifar.data)
    return image_set.first_per_class(request.images_per_class)


DATASETS: dict[str, Callable[[_Request], ImageSet]] = {
    "scenes10": _load_scenes,
    "cifar10": _load_cifar,
    "cifar100": _load_cifar,
    "imagefolder": _load_imagefolder,
}
