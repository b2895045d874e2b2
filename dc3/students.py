"""The student protocol of RDED (arXiv 2312.03526) and DC3: settings, schedule, loss, augmentation, training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dc3.images.image_set import class_numbers
from dc3.machine import devices
from dc3.machine.progress import trange
from dc3.models import augmentation, networks
from dc3.models.evaluation import Evaluation, Images, Labelled, batches, evaluate, normalise, on_device

PARAMETERS = {  # field of Protocol → parameter of 05_validation
    "network": "student_network",
    "epochs": "student_epochs",
    "factor": "factor",
    "mix": "mix",
    "soft": "soft_labels",
    "temperature": "temperature",
    "lr": "student_lr",
    "batch_size": "student_batch_size",
    "width": "student_width",
    "evaluate_every": "evaluate_every",
    "compile": "student_compile",
    "ema": "student_ema",
}
TEMPERATURE = {"cutmix": 20.0, "mixup": 4.0, "none": 20.0}  # published; "none" is ours


@dataclass(frozen=True)
class Protocol:
    """How a student is trained; the defaults are the published settings. ValueError for a value out of range."""

    network: str
    epochs: int  # 300, CIFAR 2000
    factor: int = 1  # shuffled patches per side; crop area from 1/factor; 1 turns both off
    mix: str = "cutmix"  # cutmix, mixup, none
    flip: bool = True
    soft: bool = True  # train on the teacher's outputs for the mixed images; False: on the mixed labels
    temperature: float | None = None  # None: 20 with cutmix, 4 with mixup
    lr: float | None = None  # None: the network's
    batch_size: int | None = None  # None: by batch_size()
    weight_decay: float = 0.01
    width: int = 128  # of conv3 … conv6
    evaluate_every: int | None = None  # epochs; None: ten times in all; 0: only after the last
    amp: bool | None = None  # bfloat16; None: on a GPU
    compile: bool = False
    ema: float | None = None  # decay of averaged weights, which the tests then use

    def __post_init__(self) -> None:
        networks.find(self.network)
        if self.mix not in TEMPERATURE:
            raise ValueError(f"mix = {self.mix!r}: choose one of {', '.join(TEMPERATURE)}")
        for name, low in {"epochs": 1, "factor": 1, "batch_size": 2, "width": 1, "evaluate_every": 0}.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise ValueError(f"{name} = {value}: at least {low}")
        for name in ("temperature", "lr"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} = {value}: above 0")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema = {self.ema}: a decay from 0 to below 1")

    @classmethod
    def of(cls, params: Mapping[str, Any], amp: bool | None) -> "Protocol":
        """The protocol in the parameters of 05_validation, where 0 means None."""
        values = {field: params[name] for field, name in PARAMETERS.items()}
        return cls(
            **values | {name: values[name] or None for name in ("temperature", "lr", "batch_size", "ema")}, amp=amp
        )

    def resolved(self, num_classes: int, n: int) -> "Resolved":
        """Replaces every None by its value for this network, mix and set of n images."""
        values = {
            "temperature": self.temperature or TEMPERATURE[self.mix],
            "lr": self.lr or networks.find(self.network).lr,
            "batch_size": self.batch_size or batch_size(num_classes, n // num_classes),
            "evaluate_every": max(1, self.epochs // 10) if self.evaluate_every is None else self.evaluate_every,
        }
        return Resolved(**(vars(self) | values))


@dataclass(frozen=True, kw_only=True)
class Resolved(Protocol):
    """A protocol for one training set, without None for these settings."""

    temperature: float
    lr: float
    batch_size: int
    evaluate_every: int


def lr_factor(epoch: int, epochs: int) -> float:
    """The published half cosine, 0.5·(1 + cos(π·epoch / (2·epochs))): from 1 to 0.5."""
    return 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs)))


def batch_size(num_classes: int, ipc: int) -> int:
    """The published batch sizes: IPC 1 10, IPC 10 50, IPC 50 100; twice that from 100 classes on; at most the set.

    The Tiny-ImageNet exception: 100 for 200 classes. Other IPCs use the size of the next lower one.
    """
    size = 100 if ipc >= 50 else 50 if ipc >= 10 else 10
    if num_classes == 200:
        size = 100
    elif num_classes >= 100:
        size *= 2
    return min(size, num_classes * ipc)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """AdamW's two groups: weights of more than one dimension decay; biases, norms and position embeddings do not."""
    decaying, others = [], []
    for name, parameter in model.named_parameters():
        if "weight" in name and parameter.ndim > 1:
            decaying.append(parameter)
        else:
            others.append(parameter)
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher/T) ‖ softmax(student/T)), mean over the batch of logits (n, C).

    As published, without Hinton's factor T²: AdamW cancels it.
    """
    answer, target = F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(answer, target, reduction="batchmean", log_target=True)


def augment(images: Tensor, factor: int, generator: torch.Generator, flip: bool = True) -> Tensor:
    """ShufflePatches, RandomResizedCrop(scale (1/factor, 1)), flip, as RDED does, of float images (n, 3, S, S).

    Normalised images give the same result as pixels: all three only move or average pixels. Factor 1 skips shuffle and
    crop: torchvision's crop of scale (1, 1) is the whole (square) image.
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


def check_classes(labels: np.ndarray, classes: int, *, allow_unequal: bool = False) -> None:
    """ValueError unless all classes 0 … classes − 1 have images in labels (n,), equally many unless `allow_unequal`."""
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        missing = np.flatnonzero(counts == 0)
        raise ValueError(f"the condensed set has no images of {len(missing)} classes: {missing[:10].tolist()}")
    if counts.min() != counts.max() and not allow_unequal:
        raise ValueError(
            f"the condensed set has {counts.min()} images of class {counts.argmin()} and {counts.max()} of class "
            f"{counts.argmax()}: expected equally many, or allow_unequal = True"
        )


@dataclass(frozen=True)
class StudentResult:
    """A trained student. `history`: one row per epoch: epoch (1 …), loss, lr and, if tested, top1, top5 (fractions).

    Report `final`, the test after the last epoch: the best epoch on the test set is biased upwards.
    """

    model: nn.Module
    history: list[dict]
    final: Evaluation


def train_student(
    train: Labelled,
    teacher: nn.Module | None,
    test: Labelled,
    protocol: Protocol,
    *,
    seed: int,
    allow_unequal: bool = False,
    device: str | torch.device | None = None,
) -> StudentResult:
    """Trains a student from scratch on `train` by `protocol`, and tests it on `test`.

    Runs on the teacher's device, without a teacher (soft=False) on `device`. The number of classes is that of the
    teacher, else of `test`. All draws come from (seed, epoch). Raises ValueError, before training, for a class without
    images, unequal images per class, and image sizes or classes that differ from the test set or the teacher.
    """
    if protocol.soft and teacher is None:
        raise ValueError("soft = True: needs a teacher; soft = False trains on hard labels")
    classes = networks.last_linear(teacher).out_features if teacher is not None else len(test.classes)
    labels = class_numbers(train.labels, count=len(train), classes=classes)
    check_classes(labels, classes, allow_unequal=allow_unequal)
    class_numbers(test.labels, count=len(test), classes=classes, name="test labels")
    device = next(teacher.parameters()).device if teacher is not None else devices.device(str(device or "cpu"))
    source, tested = on_device(train, device), on_device(test, device)
    size, test_size = (images.images(torch.arange(1)).shape[1] for images in (source, tested))
    if size != test_size:
        raise ValueError(f"the condensed images are {size} px, the test images {test_size} px: both need one size")
    if teacher is not None:
        networks.check_takes(teacher, size, classes, "teacher")
    student = _Student(protocol.resolved(classes, len(labels)), teacher, classes, size, seed, device)
    return student.fit(source, torch.from_numpy(labels).to(device), tested, test.labels)


class _Student:
    """A student, its optimiser, and the steps of the protocol."""

    def __init__(
        self, protocol: Resolved, teacher: nn.Module | None, classes: int, size: int, seed: int, device: torch.device
    ):
        self.protocol, self.teacher, self.seed, self.device = protocol, teacher, seed, device
        # not the teacher's seed: a student with the teacher's start imitates it more easily on any images
        start = augmentation.mix_seed(seed, "student")
        model = networks.create(protocol.network, classes, size, protocol.width, seed=start)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.forward = torch.compile(self.model) if protocol.compile else self.model
        self.average = None
        if protocol.ema is not None:
            decay = get_ema_multi_avg_fn(protocol.ema)
            self.average = AveragedModel(model, multi_avg_fn=decay, use_buffers=True)
        groups = parameter_groups(self.model, protocol.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, protocol.lr, betas=(0.9, 0.999))

    def fit(self, source: Images, labels: Tensor, test: Images, test_labels: np.ndarray) -> StudentResult:
        if self.teacher is not None:
            self.teacher.eval()
        epochs, every, history = self.protocol.epochs, self.protocol.evaluate_every, []
        for epoch in trange(epochs, desc=f"student {self.protocol.network}, seed {self.seed}"):
            row = self._epoch(epoch, source, labels)
            if epoch + 1 == epochs or (every and (epoch + 1) % every == 0):
                final = evaluate(self._tested(), test, test_labels, amp=self.protocol.amp)
                row |= {"top1": final.top1, "top5": final.top5}
            history.append(row)
        return StudentResult(self._tested().eval(), history, final)

    def _tested(self) -> nn.Module:
        return self.model if self.average is None else self.average.module

    def _epoch(self, epoch: int, source: Images, labels: Tensor) -> dict:
        self.model.train()
        lr = self.protocol.lr * lr_factor(epoch, self.protocol.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        total = torch.zeros((), device=self.device)
        with augmentation.epoch_generator(self.seed, epoch, self.device) as generator:
            for batch in batches(torch.randperm(len(labels), generator=generator), self.protocol.batch_size):
                images = normalise(source.images(batch), self.device)
                total += len(batch) * self._step(images, labels[batch.to(self.device)], generator)
        return {"epoch": epoch + 1, "loss": total.item() / len(labels), "lr": lr}

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return augment(images, self.protocol.factor, generator, self.protocol.flip)

    def _step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        mixed, partner, lam = mix(self._augmented(images, generator), self.protocol.mix, generator)
        with devices.autocast(self.device, self.protocol.amp):
            logits = self.forward(mixed).float()
            with torch.no_grad():
                target = self.teacher(mixed).float() if self.teacher is not None and self.protocol.soft else None
        if target is None:
            loss = lam * F.cross_entropy(logits, labels) + (1 - lam) * F.cross_entropy(logits, labels[partner])
        else:
            loss = distillation_loss(logits, target, self.protocol.temperature)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss.detach()
