"""Teachers: trained (resumable) or read from a checkpoint, and refused below a minimum accuracy."""

import logging
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dc3.images.image_set import ImageSet, class_numbers
from dc3.machine import devices, paths
from dc3.machine.files import replacing
from dc3.machine.keeping import check_same_training, read_undamaged
from dc3.machine.progress import trange
from dc3.models import checkpoints, networks
from dc3.models.augmentation import color_jitter, epoch_generator, mix_seed, normalise, normalise_floats, pad_crop_flip
from dc3.models.evaluation import Labelled, accuracy, batches, images_digest, on_device

log = logging.getLogger(__name__)

SHIPPED = {  # a teacher's file → what it was trained for; more about it in teachers/README.md
    "teachers/scenes10_conv3.safetensors": {
        "dataset": "scenes10",
        "images_per_class": 0,
        "image_size": 32,
        "teacher_network": "conv3",
        "teacher_width": 64,
    }
}
RISE = 0.2  # share of the steps in which the learning rate rises


@dataclass(frozen=True)
class TeacherRecipe:
    """How a teacher is trained: SGD with Nesterov momentum, one cycle of the learning rate, padded crops and flips.

    `amp`: bfloat16 autocast, None: only on a GPU. ValueError for an unknown network.
    """

    network: str
    epochs: int
    seed: int
    width: int = networks.WIDTH  # of conv3 … conv6
    batch_size: int = 128
    lr: float | None = None  # peak; None: the network's teacher_lr
    momentum: float = 0.9
    weight_decay: float = 5e-4
    jitter: float = 0.0  # strength of `augmentation.color_jitter`
    amp: bool | None = None

    def __post_init__(self) -> None:
        networks.find(self.network)

    @classmethod
    def of(cls, params: Mapping[str, Any], amp: bool | None) -> "TeacherRecipe":
        """The recipe in the parameters of 00_teacher."""
        return cls(
            network=params["teacher_network"],
            epochs=params["teacher_epochs"],
            seed=params["seed"],
            width=params["teacher_width"],
            jitter=params["teacher_jitter"],
            amp=amp,
        )


def train(
    images: Labelled,
    recipe: TeacherRecipe,
    *,
    test: Labelled | None = None,
    evaluate_every: int | None = None,
    device: str | torch.device = "auto",
    checkpoint_path: Path | str | None = None,
    replace_checkpoint: bool = False,
) -> tuple[nn.Module, list[dict]]:
    """Trains a network by `recipe`; returns it in eval mode, with one output per class, and its history.

    A row of the history: epoch (1 … epochs), loss, lr at the epoch's end, train_accuracy on the augmented images and,
    with `test`, every `evaluate_every` epochs (None: only after the last) test_accuracy.
    With `checkpoint_path` a killed training continues from its last checkpoint: on a CPU to the same weights, on a GPU,
    whose kernels are not deterministic, to nearly the same. `replace_checkpoint` overwrites a checkpoint of other
    settings, labels or images.
    Raises ValueError for labels that do not match, keeping.AnotherTraining (a ValueError) for a checkpoint of another
    training, FloatingPointError for a loss that is not finite.
    """
    run = _Run(images, recipe, devices.device(str(device)))
    tested = None if test is None else (on_device(test, run.device), test.labels)
    if checkpoint_path is not None:
        run.images = images_digest(images)
        run.restore(Path(checkpoint_path), replace_checkpoint)
    for epoch in (bar := trange(run.epoch, recipe.epochs, desc=f"teacher {recipe.network}", unit="epochs")):
        row = run.train_epoch(epoch)
        last = epoch + 1 == recipe.epochs
        if tested is not None and (last or (evaluate_every and (epoch + 1) % evaluate_every == 0)):
            row["test_accuracy"] = accuracy(run.model, *tested, amp=recipe.amp)
        run.history.append(row)
        bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['train_accuracy']:.3f}")
        if checkpoint_path is not None:
            run.save(Path(checkpoint_path))
    return run.model.eval(), run.history


def _rise(steps: int) -> float:
    """The share of the steps in which the learning rate rises: a fifth, unless that is only the first step.

    Torch's schedule divides by the length of the rise minus one step, 0 for five steps.
    """
    return RISE if RISE * steps != 1 else 2 / steps


class _Run:
    """The state of one training, which checkpoints hold, and its data."""

    def __init__(self, images: Labelled, recipe: TeacherRecipe, device: torch.device):
        self.recipe, self.device, self.classes = recipe, device, len(images.classes)
        self.source = on_device(images, device)
        labels = class_numbers(images.labels, count=len(images), classes=self.classes)
        self.labels = torch.from_numpy(labels).to(device)
        size, seed = self.source.images(torch.arange(1)).shape[1], mix_seed(recipe.seed, "teacher")
        model = networks.create(recipe.network, self.classes, size, recipe.width, seed=seed)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        peak = recipe.lr or networks.find(recipe.network).teacher_lr
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), peak, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
        )
        steps = recipe.epochs * len(batches(torch.arange(len(self.labels)), recipe.batch_size))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, peak, total_steps=steps, pct_start=_rise(steps), cycle_momentum=False
        )
        self.epoch, self.images = 0, ""  # the images' digest, to compare with a checkpoint
        self.history: list[dict] = []

    def train_epoch(self, epoch: int) -> dict:
        self.model.train()
        totals = torch.zeros(2, device=self.device)  # loss, hits
        with epoch_generator(self.recipe.seed, epoch, self.device) as generator:
            for batch in batches(torch.randperm(len(self.labels), generator=generator), self.recipe.batch_size):
                totals += self._step(batch, generator)
        loss, hits = (totals / len(self.labels)).tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of epoch {epoch + 1} is {loss}: lower lr of {self.recipe.network}")
        self.epoch = epoch + 1
        return {"epoch": epoch + 1, "loss": loss, "lr": self.schedule.get_last_lr()[0], "train_accuracy": hits}

    def _pixels(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        found = self.source.images(batch)
        if not self.recipe.jitter:
            return normalise(found, self.device)
        pixels = torch.as_tensor(found).to(self.device).permute(0, 3, 1, 2).float()
        return normalise_floats(color_jitter(pixels, self.recipe.jitter, generator))

    def _step(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        images = pad_crop_flip(self._pixels(batch, generator), generator)
        labels = self.labels[batch.to(self.device)]
        with devices.autocast(self.device, self.recipe.amp):
            logits = self.model(images).float()
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.schedule.last_epoch + 1 < self.schedule.total_steps:  # it refuses a step after the last
            self.schedule.step()
        return torch.stack([loss.detach() * len(batch), (logits.argmax(1) == labels).sum()])

    @property
    def _identity(self) -> dict:
        labels = zlib.crc32(self.labels.cpu().numpy().data)
        data = {"num_classes": self.classes, "count": len(self.labels), "labels": labels, "images": self.images}
        return asdict(self.recipe) | data

    def save(self, path: Path) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
        with replacing(path) as partial:
            torch.save(parts | {"identity": self._identity, "epoch": self.epoch, "history": self.history}, partial)

    def restore(self, path: Path, replace: bool) -> None:
        state = read_undamaged(path, partial(torch.load, map_location="cpu", weights_only=True))
        if state is None:
            return
        if replace and state["identity"] != self._identity:
            log.info("checkpoint_path %s is of another training: the teacher is trained again", path)
            return
        check_same_training(f"checkpoint_path {path}", state["identity"], self._identity, "remove it")
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.epoch, self.history = state["epoch"], state["history"]
        log.info("teacher %s continues after epoch %d", self.recipe.network, self.epoch)


def chosen(params: Mapping[str, Any]) -> str:
    """The parameter `teacher` of 00_teacher, with "auto" decided: a shipped teacher's file if one fits, else "train".

    It fits the image set as a whole, at the size and with the network that it was trained for.
    """
    if params["teacher"] != "auto":
        return params["teacher"]
    fitting = (file for file, made in SHIPPED.items() if all(params.get(name) == value for name, value in made.items()))
    return next(fitting, "train")


def obtain(
    teacher: str,
    train_set: ImageSet,
    test_set: ImageSet,
    recipe: TeacherRecipe,
    *,
    min_accuracy: float,
    device: torch.device,
    checkpoint_path: Path,
    allow_pickle: bool = False,
) -> tuple[nn.Module, list[dict]]:
    """The run's teacher and its history: trained ("train"), from any checkpoint, or with torchvision's weights.

    For a teacher from a file, `recipe` gives its network, its width and the precision of its test. `checkpoint_path`
    belongs to the run: a checkpoint of another training there, for example on older images, is replaced.
    ValueError for a top-1 on the test set below `min_accuracy`: a teacher from a file often has its classes in another
    order, a trained one has seen too little.
    """
    classes, path = list(train_set.classes), paths.resolve(teacher)
    history: list[dict] = []
    if teacher == "train":
        model, history = train(
            train_set,
            recipe,
            test=test_set,
            evaluate_every=max(recipe.epochs // 10, 1),
            device=device,
            checkpoint_path=checkpoint_path,
            replace_checkpoint=True,
        )
    elif path.is_file():
        model = from_file(path, recipe, classes, train_set.image_size, allow_pickle)
    else:
        check_named(teacher, recipe.network, len(classes))
        model = networks.create(recipe.network, len(classes), train_set.image_size, recipe.width, weights=teacher)
    top1 = accuracy(model.to(device), test_set, test_set.labels, amp=recipe.amp)
    if top1 < min_accuracy:
        remedy = (
            f"train it longer (teacher_epochs = {recipe.epochs}), or lower teacher_min_accuracy"
            if teacher == "train"
            else f"are its classes in the order {classes[:3]} …?"
        )
        raise ValueError(
            f"teacher = {teacher!r}: it classifies {top1:.1%} of the test images correctly, less than "
            f"teacher_min_accuracy = {min_accuracy:.1%}; {remedy}"
        )
    return model.eval(), history


def check_named(weights: str, network: str, classes: int) -> None:
    """ValueError unless `weights` names torchvision's for the network, and the data set has their 1,000 classes."""
    networks.check_weights(network, weights)
    if classes != networks.IMAGENET_CLASSES:
        raise ValueError(
            f"weights = {weights!r}: they know {networks.IMAGENET_CLASSES} classes, the data set has {classes}; "
            "give 'train', or a file"
        )


def from_file(path: Path, recipe: TeacherRecipe, classes: list[str], image_size: int, allow_pickle: bool) -> nn.Module:
    """The teacher in a file, dc3's or another's. ValueError, naming it, for one that does not fit or is damaged."""
    if not checkpoints.is_ours(path):
        return checkpoints.load_foreign(path, recipe.network, len(classes), image_size, recipe.width, allow_pickle)
    ours = checkpoints.load(path)
    if ours.network != recipe.network:
        raise ValueError(
            f"{path} is a {ours.network} and teacher_network = {recipe.network!r}: "
            f"set teacher_network to {ours.network}, or give another teacher"
        )
    checkpoints.check_classes(ours.classes, classes)
    networks.check_takes(ours.model, image_size, len(classes), f"{path}, made for image_size {ours.image_size}")
    return ours.model
