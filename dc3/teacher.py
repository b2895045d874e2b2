"""Teachers: train (resumable), save, load ours and foreign ones, and check that they know the data's classes."""

import json
import logging
import math
import pickle
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import trange

from dc3 import networks
from dc3.augmentation import epoch_generator, mix_seed, pad_crop_flip
from dc3.data import normalise
from dc3.evaluation import Images, accuracy, autocast, batches, evaluate, labels_tensor, on_device, predict
from dc3.files import replacing

__all__ = ["Recipe", "Teacher", "check_classes", "load", "load_foreign", "save", "train"]
__all__ += ["accuracy", "evaluate", "predict"]  # of dc3.evaluation
log = logging.getLogger(__name__)
METADATA = "dc3.teacher"
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")


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
    **recipe,
) -> tuple[nn.Module, list[dict]]:
    """Trains `recipe["network"]` (fields of Recipe) on images (n, S, S, 3); returns it in eval mode, and its history.

    A row of the history: epoch (1 … epochs), loss, lr at the epoch's end, train_accuracy on the augmented images and,
    every `evaluate_every` epochs (None: only after the last) where test images are given, test_accuracy.
    With `checkpoint_path` a killed training goes on after its last checkpoint, to the weights of an undisturbed one.
    ValueError: labels that do not fit, an unknown network, a checkpoint of another training.
    FloatingPointError: the loss is not finite.
    """
    target = networks.device(device)
    source = on_device(images, target)
    labels = labels_tensor(labels, source)
    recipe = Recipe(**{"num_classes": int(labels.max()) + 1} | recipe)
    if labels.max() >= recipe.num_classes:
        raise ValueError(f"labels go up to {int(labels.max())}, num_classes is {recipe.num_classes}")
    run = _Run(source, labels.to(target), recipe, seed, target)
    test = None if test_images is None else on_device(test_images, target)
    if checkpoint_path is not None:
        run.restore(Path(checkpoint_path))
    for epoch in (bar := trange(run.epoch, recipe.epochs, desc=f"teacher {recipe.network}", leave=False)):
        row = run.train_epoch(epoch)
        last = epoch + 1 == recipe.epochs
        if test is not None and (last or (evaluate_every and (epoch + 1) % evaluate_every == 0)):
            row["test_accuracy"] = accuracy(run.model, test, test_labels)
        run.history.append(row)
        bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['train_accuracy']:.3f}")
        if checkpoint_path is not None and (last or (epoch + 1) % checkpoint_every == 0):
            run.save(Path(checkpoint_path))
    return run.model.eval(), run.history


class _Run:
    """The state of one training: what a checkpoint holds, and the data it learns from."""

    def __init__(self, source: Images, labels: Tensor, recipe: Recipe, seed: int, device: torch.device):
        self.source, self.labels, self.recipe, self.seed, self.device = source, labels, recipe, seed, device
        size = source.images(torch.arange(1)).shape[1]
        model = networks.create(
            recipe.network, recipe.num_classes, size, recipe.width, recipe.weights, seed=mix_seed(seed)
        )
        self.model = model.to(device, memory_format=torch.channels_last)
        peak = recipe.lr or networks.find(recipe.network).teacher_lr
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), peak, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
        )
        steps = recipe.epochs * len(batches(torch.arange(len(labels)), recipe.batch_size))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, peak, total_steps=steps, pct_start=0.2, cycle_momentum=False
        )
        self.epoch, self.history = 0, []

    def train_epoch(self, epoch: int) -> dict:
        self.model.train()
        totals = torch.zeros(2, device=self.device)  # loss, hits
        with epoch_generator(self.seed, epoch) as generator:
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
        with autocast(self.device, self.recipe.amp):
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
        data = {"seed": self.seed, "images": len(self.labels), "labels": zlib.crc32(self.labels.cpu().numpy())}
        return asdict(self.recipe) | data

    def save(self, path: Path) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
        with replacing(path) as partial:
            torch.save(parts | {"identity": self._identity, "epoch": self.epoch, "history": self.history}, partial)

    def restore(self, path: Path) -> None:
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        theirs, ours = state["identity"], self._identity
        differing = [f"{key} {theirs.get(key)!r} → {ours[key]!r}" for key in ours if theirs.get(key) != ours[key]]
        if differing:
            raise ValueError(f"checkpoint_path {path} is of another training ({', '.join(differing)}): remove it")
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.epoch, self.history = state["epoch"], state["history"]
        log.info("teacher %s goes on after epoch %d", self.recipe.network, self.epoch)


@dataclass(frozen=True)
class Teacher:
    """A trained network and what it must be told apart from: `classes` in the order of its outputs, or None."""

    model: nn.Module
    network: str
    classes: list[str]
    image_size: int
    accuracy: float | None = None  # top-1 fraction on the test set it was saved with


def save(
    model: nn.Module,
    path: Path | str,
    *,
    network: str,
    classes: Sequence[str],
    image_size: int,
    accuracy: float | None = None,
) -> None:
    """Writes a teacher as safetensors: weights, and as metadata what `load` needs. Complete or not at all."""
    about = {"network": network, "classes": list(classes), "image_size": image_size, "accuracy": accuracy}
    about["width"] = getattr(model, "width", None)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as partial:
        safetensors.torch.save_file(weights, partial, metadata={METADATA: json.dumps(about)})


def load(path: Path | str, device: str | torch.device = "cpu") -> Teacher:
    """Reads what `save` wrote, in eval mode. ValueError for a file that is not ours, FileNotFoundError for none."""
    path = _existing(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[METADATA])
        weights = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is not a teacher saved by dc3 ({error!r}): load_foreign reads others") from error
    width = about.pop("width") or 128
    model = networks.create(about["network"], len(about["classes"]), about["image_size"], width)
    _fill(model, weights, path)
    return Teacher(model.to(device, memory_format=torch.channels_last).eval(), **about)


def load_foreign(path: Path | str, network: str, num_classes: int, image_size: int, width: int = 128) -> nn.Module:
    """Reads a checkpoint made elsewhere (RDED's observers, plain or wrapped state dicts, safetensors), in eval mode.

    Takes off "model", "state_dict", … around the weights and "module." before their names, and knows RDED's names for
    ConvNets. ValueError names the weights that are missing, left over or of another shape.
    """
    path = _existing(path)
    model = networks.create(network, num_classes, image_size, width)
    if path.suffix == ".safetensors":
        state = safetensors.torch.load_file(path)
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path} cannot be read as weights only, save the state_dict alone: {error}") from error
    weights = _unwrapped(state)
    if isinstance(model, networks.ConvNet):
        weights = {_from_rded(name, model.depth): tensor for name, tensor in weights.items()}
    _fill(model, weights, path)
    return model.to(memory_format=torch.channels_last).eval()


def _existing(path: Path | str) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no teacher at {path}: train one, or give the path of a checkpoint")
    return Path(path)


def _unwrapped(state: dict) -> dict[str, Tensor]:
    while isinstance(state, dict) and (inner := [state[k] for k in WRAPPERS if isinstance(state.get(k), dict)]):
        state = inner[0]
    if not isinstance(state, dict):
        return {}
    prefixes = r"^(module\.|_orig_mod\.)+"
    return {re.sub(prefixes, "", name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _from_rded(name: str, depth: int) -> str:
    """RDED's layers.conv.0.weight is our 0.0.weight, layers.norm.0 our 0.1, classifier our last layer."""
    name = re.sub(r"^layers\.conv\.(\d+)\.", r"\1.0.", name)
    name = re.sub(r"^layers\.norm\.(\d+)\.", r"\1.1.", name)
    return re.sub(r"^classifier\.", f"{depth + 1}.", name)


def _fill(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    misfits = {
        "missing": [n for n in own if n not in weights and not n.endswith("num_batches_tracked")],
        "left over": [n for n in weights if n not in own],
        "of another shape": [
            f"{n} {tuple(weights[n].shape)} instead of {tuple(own[n].shape)}"
            for n in own
            if n in weights and weights[n].shape != own[n].shape
        ],
    }
    told = [f"{len(names)} {how} ({', '.join(names[:3])})" for how, names in misfits.items() if names]
    if told:
        raise ValueError(f"{path} does not fit the network: {'; '.join(told)}. Check network, num_classes, image_size")
    model.load_state_dict(weights, strict=False)


def check_classes(teacher_classes: Sequence[str], data_classes: Sequence[str]) -> None:
    """ValueError naming the difference unless both lists have the same names in the same order."""
    ours, theirs = list(data_classes), list(teacher_classes)
    if ours == theirs:
        return
    unknown, absent = [c for c in ours if c not in theirs], [c for c in theirs if c not in ours]
    if sorted(ours) != sorted(theirs):
        raise ValueError(
            f"the teacher was trained on other classes: {len(unknown)} only in the data ({', '.join(unknown[:5])}), "
            f"{len(absent)} only in the teacher ({', '.join(absent[:5])})"
        )
    first = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    raise ValueError(
        f"the teacher has the classes in another order: its output {first} is {theirs[first]!r}, "
        f"the data's class {first} is {ours[first]!r}. Reorder the data's classes, or train a teacher on them"
    )
