"""What a condensed set is worth: students trained on it by `dc3.protocol`, any images and labels."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dc3.images.image_set import normalise
from dc3.machine import devices
from dc3.machine.files import replacing
from dc3.machine.progress import trange
from dc3.models import augmentation, networks
from dc3.models.evaluation import (
    Evaluation,
    Images,
    batches,
    evaluate,
    images_digest,
    labels_tensor,
    on_device,
    weights_digest,
)
from dc3.protocol import Protocol, Resolved, augment, check_labels, distillation_loss, lr_factor, mix, parameter_groups
from dc3.scores import ars, hlr, ior, lrs


@dataclass(frozen=True)
class StudentResult:
    """A trained student. `history` has a row per epoch: epoch (1 …), loss, lr, and where tested top1, top5 (fractions).

    What is told of it is `final`, the test after the last epoch: the best epoch on the test set would flatter.
    """

    model: nn.Module
    history: list[dict]
    final: Evaluation


def train_student(
    images: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    teacher: nn.Module | None,
    *,
    test_images: np.ndarray | Images,
    test_labels: Sequence[int] | np.ndarray,
    seed: int,
    allow_unequal: bool = False,
    device: str | torch.device | None = None,
    **fields: Any,
) -> StudentResult:
    """Trains a student from scratch on uint8 images (n, S, S, 3) as `fields` of Protocol say, and tests it.

    On the teacher's device; without a teacher (soft=False) on `device`. The number of classes is the teacher's, or the
    test labels'. Everything is drawn from (seed, epoch). ValueError, before any training: a class without images,
    unequal images per class, other image sizes or classes than the test set or the teacher.
    """
    protocol, test_labels = Protocol(**fields), np.asarray(test_labels)
    classes = networks.last_linear(teacher).out_features if teacher is not None else int(test_labels.max()) + 1
    check_labels(np.asarray(labels), classes, allow_unequal=allow_unequal)
    device = next(teacher.parameters()).device if teacher is not None else devices.device(str(device or "cpu"))
    source, test = on_device(images, device), on_device(test_images, device)
    numbers = labels_tensor(labels, source).to(device)
    size, test_size = (s.images(torch.arange(1)).shape[1] for s in (source, test))
    if size != test_size:
        raise ValueError(f"the condensed images are {size} px, the test images {test_size} px: one size is needed")
    if protocol.soft and teacher is None:
        raise ValueError("soft=True needs a teacher; soft=False trains on hard labels")
    if labels_tensor(test_labels, test, "test_labels").max() >= classes:
        raise ValueError(f"test_labels go up to {test_labels.max()}, the teacher tells {classes} classes apart")
    if teacher is not None:
        networks.check_takes(teacher, size, classes, "the teacher")
    student = _Student(protocol.resolved(classes, len(numbers)), teacher, classes, size, seed, device)
    return student.fit(source, numbers, test, test_labels)


class _Student:
    """A student, its optimiser, and the steps of the protocol."""

    def __init__(
        self, protocol: Resolved, teacher: nn.Module | None, classes: int, size: int, seed: int, device: torch.device
    ):
        self.protocol, self.teacher, self.seed, self.device = protocol, teacher, seed, device
        # never the teacher's own start: a student that shares it imitates more easily, whatever the images are worth
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


def validate(
    condensed: Mapping[str, tuple[np.ndarray, np.ndarray]],
    teacher: nn.Module | None,
    *,
    seeds: Sequence[int],
    keep: Path | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Students of every set in `condensed` (method → images, labels), one per seed, as train_student trains them.

    A row per method, seed and epoch: method, network, seed, epoch, loss, lr, top1, top5 (NaN where not tested), and in
    the last epoch per_class, the accuracy of each class. With `keep`, a folder, each student's rows are filed there
    when it is done, under a digest of all that decides them, test images included, and are not trained again.
    """
    tables = []
    tested = images_digest(settings["test_images"]) if keep else ""
    for method, (images, labels) in condensed.items():
        for seed in seeds:
            file = keep and keep / f"{_digest(images, labels, teacher, seed, settings, tested)}.parquet"
            if file is None or not file.exists():
                table = _student_table(train_student(images, labels, teacher, seed=seed, **settings))
                _file(table, file)
            else:
                table = pd.read_parquet(file)
            tables.append(table.assign(method=method, network=settings["network"], seed=seed))
    table = pd.concat(tables, ignore_index=True)
    first = ["method", "network", "seed"]
    return table[[*first, *(column for column in table if column not in first)]]


def smaller(sets: Mapping[str, tuple[np.ndarray, np.ndarray]], ipc: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The sets with the first `ipc` images of each class, in the order in which they were picked.

    A selection made for a smaller IPC may differ from it: budgets of bins do. ValueError for a class with fewer images.
    """
    firsts = {}
    for name, (images, labels) in sets.items():
        place = pd.Series(labels).groupby(labels).cumcount().to_numpy()
        if (fewest := np.unique(labels, return_counts=True)[1].min()) < ipc:
            raise ValueError(f"smaller_ipcs: {ipc} images of each class of {name} are asked for, one has {fewest}")
        firsts[name] = images[place < ipc], labels[place < ipc]
    return firsts


def _student_table(result: StudentResult) -> pd.DataFrame:
    table = pd.DataFrame(result.history)
    table["per_class"] = [None] * (len(table) - 1) + [result.final.per_class]
    return table


def _file(table: pd.DataFrame, file: Path | None) -> None:
    if file is not None:
        with replacing(file) as partial:
            table.to_parquet(partial)


def _digest(
    images: np.ndarray, labels: np.ndarray, teacher: nn.Module | None, seed: int, settings: dict, tested: str
) -> str:
    """Of training set, teacher's weights, seed, test images (`tested`), their labels and protocol: 20 hex digits."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, np.int64).data)
    digest.update(weights_digest(teacher).encode() if teacher else b"")
    digest.update(tested.encode())
    digest.update(np.ascontiguousarray(settings["test_labels"], np.int64).data)
    named = {key: value for key, value in settings.items() if not key.startswith("test_")}
    digest.update(repr((seed, sorted(named.items()))).encode())
    return digest.hexdigest()[:20]


def ranking(
    condensed: tuple[np.ndarray, np.ndarray],
    random: tuple[np.ndarray, np.ndarray],
    teacher: nn.Module,
    *,
    real_hard: float,
    **settings: Any,
) -> dict[str, float]:
    """DD-Ranking's scores (`dc3.scores`) of a set against as many random images, accuracies averaged over the seeds.

    `real_hard` is the accuracy of the full set with hard labels; `settings` are those of `validate`. Trained are, of
    both sets, students with all augmentation and with none, and of the condensed set students on hard labels.
    """

    def accuracy(images: tuple[np.ndarray, np.ndarray], **changed: Any) -> float:
        history = validate({"": images}, teacher, **(settings | changed))
        return float(summary(history)["top1_mean"].iloc[0])

    plain = {"mix": "none", "flip": False, "factor": 1}
    hard = accuracy(condensed, soft=False, mix="none")
    own, chance = (accuracy(images) for images in (condensed, random))
    bare = [accuracy(images, **plain) for images in (condensed, random)]
    lack, gain = hlr(real_hard, hard), ior(own, chance)
    return {"hard labels": hard, "HLR": lack, "IOR": gain, "LRS": lrs(lack, gain), "ARS": ars(own, chance, *bare)}


def summary(table: pd.DataFrame, by: Sequence[str] = ("method", "network")) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds (NaN for one seed): top1, top5 after the last epoch, and best_top1.

    One row per group of `by`, in the order of the table, with the number of seeds.
    """
    by = list(by)
    runs = table.sort_values("epoch", kind="stable").groupby([*by, "seed"], sort=False)
    last = runs.last()[["top1", "top5"]].assign(best_top1=runs["top1"].max())
    groups = last.groupby(by, sort=False)
    out = groups.agg(["mean", "std"])
    out.columns = [f"{score}_{statistic}" for score, statistic in out.columns]
    out.insert(0, "seeds", groups.size())
    return out.reindex(table.drop_duplicates(by).set_index(by).index).reset_index()
