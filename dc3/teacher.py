"""Teachers: trained (resumable), or read from a checkpoint, and refused when they do not know the data's classes."""

import logging
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dc3.images.image_set import ImageSet, normalise
from dc3.machine import devices, paths
from dc3.machine.files import AnotherTraining, check_same, replacing
from dc3.machine.progress import trange
from dc3.models import checkpoints, networks
from dc3.models.augmentation import epoch_generator, mix_seed, pad_crop_flip
from dc3.models.evaluation import Images, accuracy, batches, images_digest, labels_tensor, on_device

log = logging.getLogger(__name__)

RISE = 0.2  # of the steps, in which the one cycle's learning rate rises


@dataclass(frozen=True)
class Recipe:
    """How a teacher is trained: SGD with Nesterov momentum, one cycle of the learning rate, padded crops and flips."""

    network: str
    epochs: int
    num_classes: int
    width: int = 128
    weights: str | None = None  # torchvision's, to fine-tune
    batch_size: int = 128
    lr: float | None = None  # peak; None: the network's teacher_lr
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    amp: bool | None = None


def train(
    images: np.ndarray | Images,
    labels: Sequence[int] | np.ndarray,
    *,
    seed: int,
    test_images: np.ndarray | Images | None = None,
    test_labels: Sequence[int] | np.ndarray | None = None,
    evaluate_every: int | None = None,
    device: str = "auto",
    checkpoint_path: Path | str | None = None,
    checkpoint_every: int = 1,
    **fields: Any,
) -> tuple[nn.Module, list[dict]]:
    """Trains a network as `fields` of Recipe say, on images (n, S, S, 3); returns it in eval mode, and its history.

    A row of the history: epoch (1 … epochs), loss, lr at the epoch's end, train_accuracy on the augmented images and,
    every `evaluate_every` epochs (None: only after the last) where test images are given, test_accuracy.
    With `checkpoint_path` a killed training goes on after its last checkpoint: on a CPU to the weights of one that was
    not killed, on a GPU close to them, for there kernels are not deterministic.
    ValueError: labels that do not fit, an unknown network. files.AnotherTraining, a ValueError: a checkpoint of other
    settings, labels or images.
    FloatingPointError: the loss is not finite.
    """
    target = devices.device(device)
    source = on_device(images, target)
    numbers = labels_tensor(labels, source)
    recipe = Recipe(**{"num_classes": int(numbers.max()) + 1} | fields)
    if numbers.max() >= recipe.num_classes:
        raise ValueError(f"labels go up to {int(numbers.max())}, num_classes is {recipe.num_classes}")
    run = _Run(source, numbers.to(target), recipe, seed, target)
    test = None if test_images is None else (on_device(test_images, target), np.asarray(test_labels))
    if checkpoint_path is not None:
        run.images = images_digest(images)
        run.restore(Path(checkpoint_path))
    for epoch in (bar := trange(run.epoch, recipe.epochs, desc=f"teacher {recipe.network}")):
        row = run.train_epoch(epoch)
        last = epoch + 1 == recipe.epochs
        if test is not None and (last or (evaluate_every and (epoch + 1) % evaluate_every == 0)):
            row["test_accuracy"] = accuracy(run.model, *test, amp=recipe.amp)
        run.history.append(row)
        bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['train_accuracy']:.3f}")
        if checkpoint_path is not None and (last or (epoch + 1) % checkpoint_every == 0):
            run.save(Path(checkpoint_path))
    return run.model.eval(), run.history


def _rise(steps: int) -> float:
    """The share of the steps in which the learning rate rises: a fifth, as long as that is not the first step alone.

    Torch's schedule divides by the length of the rise less one step, which of five steps is 0.
    """
    return RISE if RISE * steps != 1 else 2 / steps


class _Run:
    """The state of one training: what a checkpoint holds, and the data it learns from."""

    def __init__(self, source: Images, labels: Tensor, recipe: Recipe, seed: int, device: torch.device):
        self.source, self.labels, self.recipe, self.seed, self.device = source, labels, recipe, seed, device
        size = source.images(torch.arange(1)).shape[1]
        model = networks.create(
            recipe.network, recipe.num_classes, size, recipe.width, recipe.weights, seed=mix_seed(seed, "teacher")
        )
        self.model = model.to(device).to(memory_format=torch.channels_last)
        peak = recipe.lr or networks.find(recipe.network).teacher_lr
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), peak, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
        )
        steps = recipe.epochs * len(batches(torch.arange(len(labels)), recipe.batch_size))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, peak, total_steps=steps, pct_start=_rise(steps), cycle_momentum=False
        )
        self.epoch, self.images = 0, ""  # the images' digest, where there is a checkpoint to compare it with
        self.history: list[dict] = []

    def train_epoch(self, epoch: int) -> dict:
        self.model.train()
        totals = torch.zeros(2, device=self.device)  # loss, hits
        with epoch_generator(self.seed, epoch, self.device) as generator:
            for batch in batches(torch.randperm(len(self.labels), generator=generator), self.recipe.batch_size):
                totals += self._step(batch, generator)
        loss, hits = (totals / len(self.labels)).tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of epoch {epoch + 1} is {loss}: lower lr of {self.recipe.network}")
        self.epoch = epoch + 1
        return {"epoch": epoch + 1, "loss": loss, "lr": self.schedule.get_last_lr()[0], "train_accuracy": hits}

    def _step(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        images = pad_crop_flip(normalise(self.source.images(batch), self.device), generator)
        labels = self.labels[batch.to(self.device)]
        with devices.autocast(self.device, self.recipe.amp):
            logits = self.model(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.schedule.last_epoch + 1 < self.schedule.total_steps:  # it refuses the step behind the last
            self.schedule.step()
        return torch.stack([loss.detach() * len(batch), (logits.argmax(1) == labels).sum()])

    @property
    def _identity(self) -> dict:
        labels = zlib.crc32(self.labels.cpu().numpy().data)
        data = {"seed": self.seed, "count": len(self.labels), "labels": labels, "images": self.images}
        return asdict(self.recipe) | data

    def save(self, path: Path) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
        with replacing(path) as partial:
            torch.save(parts | {"identity": self._identity, "epoch": self.epoch, "history": self.history}, partial)

    def restore(self, path: Path) -> None:
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        check_same(f"checkpoint_path {path}", state["identity"], self._identity, "remove it")
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.epoch, self.history = state["epoch"], state["history"]
        log.info("teacher %s goes on after epoch %d", self.recipe.network, self.epoch)


def obtain(
    teacher: str,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    network: str,
    width: int,
    epochs: int,
    min_accuracy: float,
    seed: int,
    device: torch.device,
    checkpoint_path: Path,
    amp: bool | None = None,
    allow_pickle: bool = False,
) -> tuple[nn.Module, list[dict]]:
    """The run's teacher and its training history: trained ("train"), a checkpoint of ours or others, or torchvision's.

    `checkpoint_path` is the run's own: what lies there of another training, such as one on images that have changed
    since, is replaced.
    ValueError when its top-1 on the test set lies below `min_accuracy`: one that was read has most often its classes in
    another order, one that was trained has seen too little.
    """
    classes, path = list(train_set.classes), paths.resolve(teacher)
    history: list[dict] = []
    if teacher == "train":
        model, history = _trained(
            train_set, test_set, checkpoint_path,
            network=network, width=width, epochs=epochs, seed=seed, device=str(device), amp=amp,
        )  # fmt: skip
    elif path.is_file():
        model = _from_file(path, network, classes, train_set.image_size, width, allow_pickle)
    else:
        model = networks.create(network, len(classes), train_set.image_size, width, weights=teacher)
    top1 = accuracy(model.to(device), test_set, test_set.labels, amp=amp)
    if top1 < min_accuracy:
        remedy = (
            f"train it longer (teacher_epochs is {epochs}), or lower teacher_min_accuracy"
            if teacher == "train"
            else f"are its classes in the order {classes[:3]} …?"
        )
        raise ValueError(
            f"the teacher ({teacher}) names {top1:.1%} of the test images rightly, less than teacher_min_accuracy "
            f"{min_accuracy:.1%}: {remedy}"
        )
    return model.eval(), history


def _trained(
    train_set: ImageSet, test_set: ImageSet, checkpoint_path: Path, *, epochs: int, **settings: Any
) -> tuple[nn.Module, list[dict]]:
    settings |= {"epochs": epochs, "num_classes": len(train_set.classes), "checkpoint_path": checkpoint_path}
    settings |= {"test_images": test_set, "test_labels": test_set.labels, "evaluate_every": max(epochs // 10, 1)}
    try:
        return train(train_set, train_set.labels, **settings)
    except AnotherTraining as error:
        log.info("%s; it is, and the teacher trained anew", error)
        checkpoint_path.unlink()
        return train(train_set, train_set.labels, **settings)


def _from_file(
    path: Path, network: str, classes: list[str], image_size: int, width: int, allow_pickle: bool
) -> nn.Module:
    try:
        ours = checkpoints.load(path)
    except ValueError:
        return checkpoints.load_foreign(path, network, len(classes), image_size, width, allow_pickle)
    checkpoints.check_classes(ours.classes, classes)
    return ours.model
