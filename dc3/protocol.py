"""The student protocol of RDED (arXiv 2312.03526) and DC3: settings, schedule, groups, loss, augmentation, checks."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dc3.models import augmentation, networks

TEMPERATURE = {"cutmix": 20.0, "mixup": 4.0, "none": 20.0}  # published; "none" is ours


@dataclass(frozen=True)
class Protocol:
    """How a student is trained; the defaults are the published settings. ValueError for a value out of range."""

    network: str
    epochs: int  # 300, CIFAR 2000
    factor: int = 1  # patches per side that are shuffled, and least crop area 1/factor: with 1 neither does anything
    mix: str = "cutmix"  # cutmix, mixup, none
    flip: bool = True
    soft: bool = True  # the teacher's answer to the mixed images; False: the mixed labels
    temperature: float | None = None  # None: 20 with cutmix, 4 with mixup
    lr: float | None = None  # None: the network's
    batch_size: int | None = None  # None: by batch_size()
    weight_decay: float = 0.01
    width: int = 128  # of conv3 … conv6
    evaluate_every: int | None = None  # epochs; None: ten times, 0: only after the last
    amp: bool | None = None  # bfloat16; None: on a GPU
    compile: bool = False
    ema: float | None = None  # decay of averaged weights, which are then the ones tested

    def __post_init__(self) -> None:
        networks.find(self.network)
        if self.mix not in TEMPERATURE:
            raise ValueError(f"mix is {self.mix!r}; allowed: {', '.join(TEMPERATURE)}")
        for name, low in {"epochs": 1, "factor": 1, "batch_size": 2, "width": 1, "evaluate_every": 0}.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise ValueError(f"{name} is {value}: it must be at least {low}")
        for name in ("temperature", "lr"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} is {value}: it must be above 0")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}: a decay from 0 to below 1")

    def resolved(self, num_classes: int, n: int) -> "Resolved":
        """With a value in the place of every None that depends on the network, the mix or the set's size n."""
        values = {
            "temperature": self.temperature or TEMPERATURE[self.mix],
            "lr": self.lr or networks.find(self.network).lr,
            "batch_size": self.batch_size or batch_size(num_classes, n // num_classes),
            "evaluate_every": max(1, self.epochs // 10) if self.evaluate_every is None else self.evaluate_every,
        }
        return Resolved(**(vars(self) | values))


@dataclass(frozen=True, kw_only=True)
class Resolved(Protocol):
    """A protocol for one training set: what may be None there has its value here."""

    temperature: float
    lr: float
    batch_size: int
    evaluate_every: int


def lr_factor(epoch: int, epochs: int) -> float:
    """The published half cosine, 0.5·(1 + cos(π·epoch / (2·epochs))): from 1 to 0.5."""
    return 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs)))


def batch_size(num_classes: int, ipc: int) -> int:
    """The published batch sizes: IPC 1 10, IPC 10 50, IPC 50 100; twice that from 100 classes on; never above the set.

    The Tiny-ImageNet exception is kept: 100 with 200 classes. An IPC in between takes the size of the next lower one.
    """
    size = 100 if ipc >= 50 else 50 if ipc >= 10 else 10
    if num_classes == 200:
        size = 100
    elif num_classes >= 100:
        size *= 2
    return min(size, num_classes * ipc)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """AdamW's two groups: weights of more than one dimension decay, biases, norms and embeddings of position do not."""
    decaying, others = [], []
    for name, parameter in model.named_parameters():
        if "weight" in name and parameter.ndim > 1:
            decaying.append(parameter)
        else:
            others.append(parameter)
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher/T) ‖ softmax(student/T)), mean over the batch of logits (n, C).

    As published without Hinton's factor T²: AdamW does not see it.
    """
    answer, target = F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(answer, target, reduction="batchmean", log_target=True)


def augment(images: Tensor, factor: int, generator: torch.Generator, flip: bool = True) -> Tensor:
    """ShufflePatches, RandomResizedCrop(scale (1/factor, 1)), flip, as RDED does, of float images (n, 3, S, S).

    On normalised images instead of pixels, which is the same: all three only move or average pixels. With factor 1
    nothing is shuffled, and of scale (1, 1) torchvision's crop always takes the whole (square) image.
    """
    if factor > 1:
        images = augmentation.shuffle_patches(images, factor, generator)
        images = augmentation.random_resized_crop(images, generator, (1 / factor, 1.0))
    return augmentation.random_flip(images, generator) if flip else images


def mix(images: Tensor, kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Mixed images (n, 3, S, S), the partner of each, (n,) int64, and the share λ of its own label, 0 … 1."""
    if kind == "cutmix":
        return augmentation.cutmix(images, generator)[:3]
    if kind == "mixup":
        return augmentation.mixup(images, generator)
    return images, torch.arange(len(images), device=images.device), 1.0


def check_labels(labels: np.ndarray, num_classes: int, *, allow_unequal: bool = False) -> None:
    """ValueError unless every class 0 … num_classes − 1 of labels (n,) has images, and equally many.

    With `allow_unequal` they may be of any number but 0.
    """
    if len(labels) < 2 or not 0 <= np.min(labels) <= np.max(labels) < num_classes:
        raise ValueError(f"labels: expected at least two, within 0 … {num_classes - 1}, got {np.unique(labels)[:10]}")
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        missing = np.flatnonzero(counts == 0)
        raise ValueError(f"the condensed set has no image of {len(missing)} classes: {missing[:10].tolist()}")
    if counts.min() != counts.max() and not allow_unequal:
        raise ValueError(
            f"the condensed set has {counts.min()} images of class {counts.argmin()} and {counts.max()} of class "
            f"{counts.argmax()}: expected one number for all (allow_unequal=True takes it as it is)"
        )
