"""The student protocol of RDED (arXiv 2312.03526) and DC3: settings, schedule, loss, augmentation, training."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import std

from dc3.images.image_set import ImageSet, class_numbers
from dc3.machine import devices
from dc3.machine.files import replacing
from dc3.machine.keeping import read_undamaged
from dc3.machine.progress import tqdm
from dc3.models import augmentation, networks
from dc3.models.evaluation import (
    Evaluation,
    Images,
    Labelled,
    batches,
    evaluate,
    normalise,
    on_device,
)

log = logging.getLogger(__name__)

PARAMETERS = {  # field of Protocol → parameter of 05_validation
    "network": "student_network",
    "epochs": "student_epochs",
    "factor": "factor",
    "mix": "mix",
    "soft": "soft_labels",
    "hard_share": "hard_share",
    "temperature": "temperature",
    "lr": "student_lr",
    "batch_size": "student_batch_size",
    "batch_rule": "student_batch_rule",
    "accumulate": "student_accumulate",
    "width": "student_width",
    "evaluate_every": "evaluate_every",
    "compile": "student_compile",
    "ema": "student_ema",
}
TEMPERATURE = {"cutmix": 20.0, "mixup": 4.0, "none": 20.0}  # published; "none" is ours
CHECKPOINT_SECONDS = 60.0  # the training that a kill can cost


@dataclass(frozen=True)
class Protocol:
    """How a student is trained; the defaults are RDED's for 32 and 64 px. ValueError for a value out of range."""

    network: str
    epochs: int  # 300, CIFAR 2000
    factor: int = 1  # shuffled patches per side; crop area from 1/factor; 1 turns both off
    mix: str = "cutmix"  # cutmix, mixup, none
    flip: bool = True
    soft: bool = True  # train on the teacher's outputs for the mixed images; False: on the mixed labels
    hard_share: float = 0.0  # share of the epochs, in the middle, with hard labels all the same
    temperature: float | None = None  # None: 20 with cutmix, 4 with mixup
    lr: float | None = None  # None: the network's
    batch_size: int | None = None  # None: by the rule
    batch_rule: str = "rded"  # one of BATCH_RULES
    accumulate: int = 1  # parts into which a batch is cut, where memory is small; their gradients are added up
    weight_decay: float = 0.01
    width: int = networks.WIDTH  # of conv3 … conv6
    evaluate_every: int | None = None  # epochs; None: a tenth of them; 0: only after the last
    amp: bool | None = None  # bfloat16; None: on a GPU
    compile: bool = False
    ema: float | None = None  # decay of averaged weights, which the tests then use

    def __post_init__(self) -> None:
        networks.find(self.network)
        if self.mix not in TEMPERATURE:
            raise ValueError(f"mix = {self.mix!r}: choose one of {', '.join(TEMPERATURE)}")
        if self.batch_rule not in BATCH_RULES:
            raise ValueError(f"batch_rule = {self.batch_rule!r}: choose one of {', '.join(BATCH_RULES)}")
        least = {"epochs": 1, "factor": 1, "batch_size": 2, "accumulate": 1, "width": 1, "evaluate_every": 0}
        for name, low in least.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise ValueError(f"{name} = {value}: at least {low}")
        for name in ("temperature", "lr"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} = {value}: a finite number above 0")
        if not 0 <= self.hard_share < 1 or (self.hard_share and not self.soft):
            raise ValueError(f"hard_share = {self.hard_share}: from 0 to below 1, and only where soft_labels is true")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema = {self.ema}: a decay from 0 to below 1")

    @classmethod
    def of(cls, params: Mapping[str, Any], amp: bool | None) -> "Protocol":
        """The protocol in the parameters of 05_validation, where 0 means None."""
        values = {field: params[name] for field, name in PARAMETERS.items()}
        return cls(
            **values | {name: values[name] or None for name in ("temperature", "lr", "batch_size", "ema")}, amp=amp
        )

    def for_network(self, name: str) -> "Protocol":
        """The same protocol for another student."""
        return replace(self, network=name)

    @property
    def hard_epochs(self) -> range:
        """The epochs (from 0) with hard labels in a training with soft ones: soft, hard, soft, as HALD has it.

        HALD (arXiv 2512.15647): labels of the whole image correct what the teacher's answers to crops drift away from.
        """
        count = round(self.hard_share * self.epochs)
        first = (self.epochs - count) // 2
        return range(first, first + count)

    def resolved(self, num_classes: int, n: int) -> "Resolved":
        """Replaces every None by its value for this network, mix and set of n images."""
        values = {
            "temperature": self.temperature or TEMPERATURE[self.mix],
            "lr": self.lr or networks.find(self.network).lr,
            "batch_size": self.batch_size or BATCH_RULES[self.batch_rule](num_classes, n // num_classes),
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


def rded_batch(num_classes: int, ipc: int) -> int:
    """RDED's batch sizes: IPC 1 10, IPC 10 50, IPC 50 100; twice that from 100 classes on; at most the set.

    The Tiny-ImageNet exception: 100 for 200 classes. Other IPCs use the size of the next lower one.
    """
    size = 100 if ipc >= 50 else 50 if ipc >= 10 else 10
    if num_classes == 200:
        size = 100
    elif num_classes >= 100:
        size *= 2
    return min(size, num_classes * ipc)


DC3_BATCHES = {  # classes, at least → batch sizes at IPC 1, 10 and 50, as DC3's published code has them
    11: (10, 50, 200),
    100: (50, 200, 1000),  # CIFAR-100
    200: (100, 500, 2500),  # Tiny-ImageNet
    1000: (1000, 2000, 2000),  # ImageNet-1K
}


def dc3_batch(num_classes: int, ipc: int) -> int:
    """DC3's batch sizes: up to ten classes the full set, then DC3_BATCHES, other IPCs by the next lower one."""
    if num_classes <= 10:
        return num_classes * ipc
    sizes = DC3_BATCHES[max(least for least in DC3_BATCHES if least <= num_classes)]
    return min(sizes[2 if ipc >= 50 else 1 if ipc >= 10 else 0], num_classes * ipc)


BATCH_RULES: dict[str, Callable[[int, int], int]] = {"rded": rded_batch, "dc3": dc3_batch}


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


def augment(images: Tensor, factor: int, size: int, generator: torch.Generator, flip: bool = True) -> Tensor:
    """ShufflePatches, RandomResizedCrop(scale (1/factor, 1)) to `size`, flip, as RDED does; ImageNet normalisation.

    images: uint8 (n, H, W, 3) as they are stored → float32 (n, 3, size, size), channels_last. Squares of `size` px are
    left as they are at factor 1: torchvision's crop of scale (1, 1) is the whole image.
    """
    if factor == 1 and images.shape[1] == images.shape[2] == size:
        pixels = normalise(images)
    else:
        pixels = augmentation.normalise_floats(augmentation.shuffled_crops(images, factor, size, generator))
    return augmentation.random_flip(pixels, generator) if flip else pixels


@dataclass(frozen=True)
class Stored:
    """A condensed set on a device, with images of any sizes; `whole` holds them if all have one shape."""

    images: ImageSet | Images
    device: torch.device
    whole: Tensor | None = None  # uint8 (n, H, W, 3)

    @classmethod
    def of(cls, images: Labelled, device: torch.device) -> "Stored":
        """Moves a set in memory to the device; other sets are read batch by batch."""
        pixels = getattr(images, "held", None)
        return cls(images, device, None if pixels is None else torch.tensor(pixels, device=device))

    def parts(self, indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The images at `indices` (b,) by shape: their places in the batch (k,), and uint8 (k, H, W, 3)."""
        if self.whole is not None:
            yield torch.arange(len(indices)), self.whole[indices.to(self.whole.device)]
            return
        if isinstance(self.images, ImageSet) and self.images.frame is None:
            found = self.images.originals(indices.numpy())
        else:
            found = list(np.asarray(self.images.images(indices)))
        shapes = [image.shape for image in found]
        for shape in dict.fromkeys(shapes):
            places = [place for place, other in enumerate(shapes) if other == shape]
            yield torch.tensor(places), torch.from_numpy(np.stack([found[k] for k in places])).to(self.device)


def mix(images: Tensor, kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Mixed images (n, 3, S, S), the partner of each, (n,) int64, and the share λ of its own label, 0 … 1."""
    if kind == "cutmix":
        return augmentation.cutmix(images, generator)[:3]
    if kind == "mixup":
        return augmentation.mixup(images, generator)
    return images, torch.arange(len(images), device=images.device), 1.0


def check_classes(labels: np.ndarray, classes: int) -> None:
    """ValueError unless all classes 0 … classes − 1 have images in labels (n,), and equally many."""
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        missing = np.flatnonzero(counts == 0)
        raise ValueError(f"the condensed set has no images of {len(missing)} classes: {missing[:10].tolist()}")
    if counts.min() != counts.max():
        raise ValueError(
            f"the condensed set has {counts.min()} images of class {counts.argmin()} and {counts.max()} of class "
            f"{counts.argmax()}: expected equally many"
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
    bar: std.tqdm | None = None,
    checkpoint_path: Path | None = None,
) -> StudentResult:
    """Trains a student from scratch on `train` by `protocol`, and tests it on `test`.

    Images to train on may have any sizes; the student sees crops of the size of the test images. Runs on the teacher's
    device, without a teacher (soft=False) on `devices.device()`. The number of classes is that of the teacher, else of
    `test`. All draws come from (seed, epoch). `bar`, that of many students, advances by each epoch; None: the student
    has its own. With `checkpoint_path` the state of the training is saved there every minute, and a killed training
    continues from it: on a CPU to the same weights, on a GPU, whose kernels are not deterministic, to nearly the same.
    Give each training a path of its own: the file does not say which one it belongs to. Raises ValueError, before
    training, for a class without images, unequal images per class, and a teacher for images of another size or number
    of classes; FloatingPointError for a loss that is not finite.
    """
    if protocol.soft and teacher is None:
        raise ValueError("soft = True: needs a teacher; soft = False trains on hard labels")
    classes = networks.last_linear(teacher).out_features if teacher is not None else len(test.classes)
    labels = class_numbers(train.labels, count=len(train), classes=classes)
    check_classes(labels, classes)
    class_numbers(test.labels, count=len(test), classes=classes, name="test labels")
    device = next(teacher.parameters()).device if teacher is not None else devices.device()
    source, tested = Stored.of(train, device), on_device(test, device)
    size = tested.images(torch.arange(1)).shape[1]
    if teacher is not None:
        networks.check_takes(teacher, size, classes, "teacher")
    student = _Student(protocol.resolved(classes, len(labels)), teacher, classes, size, seed, device)
    name = f"student {protocol.network}, seed {seed}"
    with nullcontext(bar) if bar is not None else tqdm(total=protocol.epochs, desc=name, unit="epochs") as advanced:
        if checkpoint_path is not None:
            student.restore(checkpoint_path)
        save = partial(student.save, checkpoint_path) if checkpoint_path is not None else None
        return student.fit(source, torch.from_numpy(labels).to(device), tested, test.labels, advanced, save)


class _Student:
    """A student, its optimiser, and the steps of the protocol."""

    def __init__(
        self, protocol: Resolved, teacher: nn.Module | None, classes: int, size: int, seed: int, device: torch.device
    ):
        self.protocol, self.teacher, self.size, self.seed, self.device = protocol, teacher, size, seed, device
        # not the teacher's seed: a student with the teacher's start imitates it more easily on any images
        start = augmentation.mix_seed(seed, "student")
        model = networks.create(protocol.network, classes, size, protocol.width, seed=start)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.forward = torch.compile(self.model) if protocol.compile else self.model
        self.soft, self.average = protocol.soft, None
        if protocol.ema is not None:
            decay = get_ema_multi_avg_fn(protocol.ema)
            self.average = AveragedModel(model, multi_avg_fn=decay, use_buffers=True)
        groups = parameter_groups(self.model, protocol.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, protocol.lr, betas=(0.9, 0.999))
        self.history: list[dict] = []
        self.saved = time.monotonic()

    def fit(
        self,
        source: Stored,
        labels: Tensor,
        test: Images,
        test_labels: np.ndarray,
        bar: std.tqdm,
        save: Callable[[], None] | None,
    ) -> StudentResult:
        """Trains the epochs that the history lacks; `save` is called after each but the last."""
        if self.teacher is not None:
            self.teacher.eval()
        epochs, every = self.protocol.epochs, self.protocol.evaluate_every
        bar.update(len(self.history))
        for epoch in range(len(self.history), epochs):
            row = self._epoch(epoch, source, labels)
            if epoch + 1 == epochs or (every and (epoch + 1) % every == 0):
                final = evaluate(self._tested(), test, test_labels, amp=self.protocol.amp)
                row |= {"top1": final.top1, "top5": final.top5}
            self.history.append(row)
            bar.update()
            if save is not None and epoch + 1 < epochs:
                save()
        return StudentResult(self._tested().eval(), self.history, final)

    @property
    def _parts(self) -> dict[str, Any]:
        """What a checkpoint holds besides the history."""
        averaged = {} if self.average is None else {"average": self.average}
        return {"model": self.model, "optimizer": self.optimizer} | averaged

    def save(self, path: Path) -> None:
        """Writes a checkpoint, unless the last one is younger than CHECKPOINT_SECONDS."""
        if time.monotonic() - self.saved < CHECKPOINT_SECONDS:
            return
        state = {name: part.state_dict() for name, part in self._parts.items()}
        with replacing(path) as unfinished:
            torch.save(state | {"history": self.history}, unfinished)
        self.saved = time.monotonic()

    def restore(self, path: Path) -> None:
        """Continues from a checkpoint, if there is one."""
        state = read_undamaged(path, partial(torch.load, map_location="cpu", weights_only=True))
        if state is None:
            return
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.history = state["history"]
        log.info("student %s continues after epoch %d", self.protocol.network, len(self.history))

    def _tested(self) -> nn.Module:
        return self.model if self.average is None else self.average.module

    def _epoch(self, epoch: int, source: Stored, labels: Tensor) -> dict:
        self.model.train()
        self.soft = self.protocol.soft and epoch not in self.protocol.hard_epochs
        lr = self.protocol.lr * lr_factor(epoch, self.protocol.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        total = torch.zeros((), device=self.device)
        with augmentation.epoch_generator(self.seed, epoch, self.device) as generator:
            for batch in batches(torch.randperm(len(labels), generator=generator), self.protocol.batch_size):
                images = self._augmented(source, batch, generator)
                total += len(batch) * self._step(images, labels[batch.to(self.device)], generator)
        loss = total.item() / len(labels)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"student_lr = {self.protocol.lr}: the loss of {self.protocol.network} is {loss} in epoch {epoch + 1}; "
                "lower student_lr"
            )
        return {"epoch": epoch + 1, "loss": loss, "lr": lr}

    def _augmented(self, source: Stored, batch: Tensor, generator: torch.Generator) -> Tensor:
        protocol, found = self.protocol, []
        for places, images in source.parts(batch):
            found.append((places, augment(images, protocol.factor, self.size, generator, protocol.flip)))
        if len(found) == 1:
            return found[0][1]
        order = torch.cat([places for places, _ in found]).argsort()
        return torch.cat([images for _, images in found])[order.to(self.device)]

    def _step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        mixed, partner, lam = mix(images, self.protocol.mix, generator)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        count = min(self.protocol.accumulate, max(len(mixed) // 2, 1))  # batch norm needs two images a part
        parts = (values.tensor_split(count) for values in (mixed, labels, labels[partner]))
        for pixels, own, other in zip(*parts, strict=True):
            loss = self._loss(pixels, own, other, lam) * len(pixels) / len(mixed)
            loss.backward()
            total += loss.detach()
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return total

    def _loss(self, images: Tensor, labels: Tensor, partners: Tensor, lam: float) -> Tensor:
        """The loss of images whose share `lam` has `labels` (n,) and whose rest has the labels `partners` (n,)."""
        with devices.autocast(self.device, self.protocol.amp):
            logits = self.forward(images).float()
            if self.teacher is not None and self.soft:
                with torch.no_grad():
                    target = self.teacher(images).float()
                return distillation_loss(logits, target, self.protocol.temperature)
        return lam * F.cross_entropy(logits, labels) + (1 - lam) * F.cross_entropy(logits, partners)
