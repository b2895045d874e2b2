"""Images on the device in batches, and a classifier's logits, top-1, top-5 and accuracy per class."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dc3.images.image_set import check_images, class_numbers
from dc3.machine.devices import autocast
from dc3.models.augmentation import normalise

DIGEST_BATCH = 1024  # images


class Images(Protocol):
    """What trains and tests a network: a uint8 (n, S, S, 3) array, or an object with these methods of an ImageSet."""

    def __len__(self) -> int: ...

    def images(self, indices: Tensor) -> np.ndarray | Tensor:
        """The images at `indices` (b,) int64, in that order: uint8 (b, S, S, 3)."""


class Labelled(Images, Protocol):
    """Images with labels, such as an ImageSet."""

    @property
    def labels(self) -> np.ndarray:
        """The class of each image, (n,) int64."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes."""


@dataclass
class InMemory:
    """The pixels of an array, as one uint8 tensor on a device."""

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, indices: Tensor) -> Tensor:
        """The images at `indices` (b,) int64, in that order: uint8 (b, S, S, 3) on the pixels' device."""
        return self.pixels[indices.to(self.pixels.device)]


def on_device(images: np.ndarray | Images, device: torch.device) -> Images:
    """Moves arrays and sets in memory to the device as a whole; other sets are read batch by batch.

    ValueError for pixels that are not uint8 (n, S, S, 3).
    """
    pixels = images if isinstance(images, np.ndarray) else getattr(images, "held", None)
    if not isinstance(pixels, np.ndarray):
        return images  # type: ignore[return-value]
    check_images(pixels, square=True)
    return InMemory(torch.tensor(pixels, device=device))


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """`order` (n,) cut into batches. A last batch of one image joins the one before it: batch norm needs two."""
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


@dataclass(frozen=True)
class Evaluation:
    """Accuracies as fractions; per_class is (C,) float64, NaN for a class without images."""

    top1: float
    top5: float
    per_class: np.ndarray


@torch.no_grad()
def predict(model: nn.Module, images: np.ndarray | Images, batch_size: int = 250, *, amp: bool | None = None) -> Tensor:
    """Logits float32 (n, C) on the CPU, in eval mode; the model's mode is restored."""
    device = next(model.parameters()).device
    source, training = on_device(images, device), model.training
    model.eval()
    with autocast(device, amp):
        logits = [
            model(normalise(source.images(batch), device)) for batch in torch.arange(len(source)).split(batch_size)
        ]
    model.train(training)
    return torch.cat(logits).float().cpu()


def evaluate(
    model: nn.Module,
    images: np.ndarray | Images,
    labels: Sequence[int] | np.ndarray,
    batch_size: int = 250,
    *,
    amp: bool | None = None,
) -> Evaluation:
    """Top-1, top-5 (with fewer than five classes: any class) and top-1 per class of a classifier.

    ValueError unless there is one label per image, below the network's number of classes.
    """
    logits = predict(model, images, batch_size, amp=amp)
    classes = logits.shape[1]
    targets = torch.from_numpy(class_numbers(labels, count=len(images), classes=classes))
    hits = logits.topk(min(5, classes)).indices == targets[:, None]
    counts = np.bincount(targets, minlength=classes)
    with np.errstate(invalid="ignore"):
        per_class = np.bincount(targets, weights=hits[:, 0].double(), minlength=classes) / counts
    return Evaluation(hits[:, 0].double().mean().item(), hits.any(1).double().mean().item(), per_class)


def accuracy(
    model: nn.Module,
    images: np.ndarray | Images,
    labels: Sequence[int] | np.ndarray,
    batch_size: int = 250,
    *,
    amp: bool | None = None,
) -> float:
    """Top-1 accuracy, a fraction; arguments and errors of `evaluate`."""
    return evaluate(model, images, labels, batch_size, amp=amp).top1


def weights_digest(*networks: nn.Module) -> str:
    """SHA-256 over the weights by name, or of several networks over their digests."""
    if len(networks) > 1:
        return hashlib.sha256("".join(map(weights_digest, networks)).encode()).hexdigest()
    digest = hashlib.sha256()
    for name, tensor in sorted(networks[0].state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def images_digest(images: np.ndarray | Images) -> str:
    """SHA-256 of a set: its own `fingerprint()` where it has one (an ImageSet), else over its pixels and their shape.

    A set that is read in batches has the digest of the whole array.
    """
    if hasattr(images, "fingerprint"):
        return images.fingerprint()
    batches_of = torch.arange(len(images)).split(DIGEST_BATCH)
    parts = [images] if isinstance(images, np.ndarray) else map(images.images, batches_of)
    digest, shape = hashlib.sha256(), ()
    for part in parts:
        pixels = np.ascontiguousarray(part)
        digest.update(pixels.data)
        shape = (len(images), *pixels.shape[1:])
    digest.update(f"{shape} {pixels.dtype}".encode())
    return digest.hexdigest()


def confusion_matrix(logits: Tensor, labels: Sequence[int] | np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (C, C) int64: row = true class, column = class of the highest logit."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (np.asarray(labels), logits.argmax(1).numpy()), 1)
    return matrix
