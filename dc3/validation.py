"""The value of a condensed set: students trained on it by `dc3.students`, and scores of their accuracies."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import std

from dc3.images.image_set import ImageSet
from dc3.machine.keeping import kept_table
from dc3.machine.progress import tqdm
from dc3.models.evaluation import Labelled, images_digest, predict, weights_digest
from dc3.students import Protocol, train_student

CHECKPOINT = ".pt"  # the suffix of a student in training


def validate(
    sets: Mapping[str, ImageSet],
    teacher: nn.Module | None,
    test: Labelled,
    protocol: Protocol,
    *,
    seeds: Sequence[int],
    keep: Path | None = None,
    redrawn: Mapping[str, Sequence[ImageSet]] | None = None,
) -> pd.DataFrame:
    """Students of every set (method → images), one per seed, as train_student trains them.

    `redrawn` (method → one set per seed) has other draws of a set's images, so that the deviation over its students
    holds the draws too. ValueError unless there is one for each seed.

    One row per method, seed and epoch: method, network, seed, epoch, loss, lr, top1, top5 (NaN if not tested), and in
    the last epoch per_class, the accuracy of each class. The folder `keep` holds the rows of each finished student,
    under a digest of everything that decides them, including the test images; these students are not trained again.
    It also holds a checkpoint of the student in training, from which a killed one continues.
    """
    tables = []
    tested = images_digest(test) if keep else ""
    count = len(sets) * len(seeds)
    with tqdm(total=count * protocol.epochs, desc=f"{count} students {protocol.network}", unit="epochs") as bar:
        for method, whole in sets.items():
            for seed, images in zip(seeds, _draws(method, whole, seeds, redrawn or {}), strict=True):
                before, train = bar.n, partial(_student_table, images, teacher, test, protocol, seed, bar)
                if keep is None:
                    table = train()
                else:
                    file = keep / f"{_digest(images, teacher, protocol, seed, tested)}.parquet"
                    checkpoint = file.with_suffix(CHECKPOINT)
                    table = kept_table(file, partial(train, checkpoint))
                    checkpoint.unlink(missing_ok=True)
                if bar.n == before:  # it was there
                    bar.total -= protocol.epochs
                tables.append(table.assign(method=method, network=protocol.network, seed=seed))
    table = pd.concat(tables, ignore_index=True)
    first = ["method", "network", "seed"]
    return table[[*first, *(column for column in table if column not in first)]]


def teachers_view(
    sets: Mapping[str, ImageSet],
    teacher: nn.Module,
    size: int,
    sources: Mapping[str, ImageSet] | None = None,
    *,
    amp: bool | None = None,
) -> pd.DataFrame:
    """What the teacher answers to the images of each set, seen as test images of `size` px: one row per set.

    sources: for some of the sets, the training images that theirs were made from, in the same order.
    Columns method, ipc; entropy, in bits, of its softmax, a mean over the images; recognised, the share of images whose
    class is its first answer; agreement, the share that it answers first as it answers their sources (NaN without).
    """
    sources, rows = sources or {}, []
    for name, images in sets.items():
        logits = predict(teacher, images.as_tested(size), amp=amp).double()
        answers = logits.argmax(1)
        of_source = predict(teacher, sources[name].as_tested(size), amp=amp).argmax(1) if name in sources else None
        entropy = torch.distributions.Categorical(logits=logits).entropy().mean() / math.log(2)
        recognised = (answers.numpy() == images.labels).mean()
        agreement = math.nan if of_source is None else (answers == of_source).double().mean()
        rows.append((name, len(images) // len(images.classes), float(entropy), recognised, float(agreement)))
    return pd.DataFrame(rows, columns=["method", "ipc", "entropy", "recognised", "agreement"])


def _draws(
    method: str, images: ImageSet, seeds: Sequence[int], redrawn: Mapping[str, Sequence[ImageSet]]
) -> Sequence[ImageSet]:
    """The images of each seed's student."""
    draws = redrawn.get(method) or [images.cached()] * len(seeds)
    if len(draws) != len(seeds):
        raise ValueError(f"redrawn: has {len(draws)} sets for {method}; give one for each of {len(seeds)} seeds")
    return draws


def smaller(sets: Mapping[str, ImageSet], ipc: int) -> dict[str, ImageSet]:
    """The sets with the first `ipc` images of each class, in the order in which they were picked.

    A selection for the smaller IPC can differ: the budgets of bins do. ValueError for a class with fewer images.
    """
    for name, images in sets.items():
        if (fewest := images.counts().min()) < ipc:
            raise ValueError(f"smaller_ipcs = {ipc}: {name} has a class of {fewest} images; give at most {fewest}")
    return {name: images.first_per_class(ipc) for name, images in sets.items()}


def smaller_draws(redrawn: Mapping[str, Sequence[ImageSet]], ipc: int) -> dict[str, list[ImageSet]]:
    """`validate`'s `redrawn` with the first `ipc` images of each class of every draw."""
    return {name: [draw.first_per_class(ipc) for draw in draws] for name, draws in redrawn.items()}


def _student_table(
    images: ImageSet,
    teacher: nn.Module | None,
    test: Labelled,
    protocol: Protocol,
    seed: int,
    bar: std.tqdm,
    checkpoint: Path | None = None,
) -> pd.DataFrame:
    """The history of one student, one row per epoch. Checkpoints of other students beside `checkpoint` are removed."""
    if checkpoint is not None:
        for file in checkpoint.parent.glob(f"*{CHECKPOINT}"):
            if file != checkpoint:
                file.unlink()
    result = train_student(images, teacher, test, protocol, seed=seed, bar=bar, checkpoint_path=checkpoint)
    table = pd.DataFrame(result.history)
    table["per_class"] = [None] * (len(table) - 1) + [result.final.per_class]
    return table


def _digest(images: ImageSet, teacher: nn.Module | None, protocol: Protocol, seed: int, tested: str) -> str:
    """A digest of everything that decides a student except the set's name: equal sets share their students."""
    digest = hashlib.sha256(images.pixels_digest().encode())
    digest.update(np.ascontiguousarray(images.labels, np.int64).data)
    digest.update(weights_digest(teacher).encode() if teacher else b"")
    digest.update(repr((tested, seed, protocol)).encode())
    return digest.hexdigest()[:20]


def by_class(history: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Accuracy of each class after the last epoch, mean over the seeds: columns method, class, accuracy (fractions).

    history: from `validate`, for one network.
    """
    final = history.dropna(subset=["per_class"]).groupby("method", sort=False)["per_class"]
    parts = [
        pd.DataFrame({"method": name, "class": list(classes), "accuracy": np.mean(rows.tolist(), axis=0)})
        for name, rows in final
    ]
    return pd.concat(parts, ignore_index=True)


def ranking(
    condensed: ImageSet,
    random: ImageSet,
    teacher: nn.Module,
    test: Labelled,
    protocol: Protocol,
    *,
    seeds: Sequence[int],
    real_hard: float,
    keep: Path | None = None,
) -> dict[str, float]:
    """DD-Ranking's scores of a set against as many random images, accuracies averaged over the seeds.

    `real_hard` is the accuracy of the full set with hard labels. Trains students on both sets with all augmentation and
    with none, and on the condensed set with hard labels.
    """

    def accuracy(images: ImageSet, changed: Protocol) -> float:
        history = validate({"": images}, teacher, test, changed, seeds=seeds, keep=keep)
        return float(history.groupby("seed")["top1"].last().mean())

    plain = replace(protocol, mix="none", flip=False, factor=1)
    hard = accuracy(condensed, replace(protocol, soft=False, hard_share=0.0, mix="none"))
    own, chance = (accuracy(images, protocol) for images in (condensed, random))
    bare = [accuracy(images, plain) for images in (condensed, random)]
    lack, gain = hlr(real_hard, hard), ior(own, chance)
    return {"hard labels": hard, "HLR": lack, "IOR": gain, "LRS": lrs(lack, gain), "ARS": ars(own, chance, *bare)}


def hlr(real_hard: float, condensed_hard: float) -> float:
    """Hard label recovery: the accuracy of the real set minus the condensed set's, with hard labels. Small is good."""
    _check_fractions(real_hard=real_hard, condensed_hard=condensed_hard)
    return real_hard - condensed_hard


def ior(condensed_any: float, random_any: float) -> float:
    """Improvement over random: the gain over equally many random images with the same kind of labels."""
    _check_fractions(condensed_any=condensed_any, random_any=random_any)
    return condensed_any - random_any


def lrs(hlr: float, ior: float, weight: float = 0.5) -> float:
    """Label-robust score (e^α − e^−1)/(e − e^−1), α = w·IOR − (1 − w)·HLR: in 0 … 1, large is good."""
    _check_fractions(weight=weight)
    return _normalised(weight * ior - (1 - weight) * hlr)


def ars(
    condensed_augmented: float, random_augmented: float, condensed_plain: float, random_plain: float, gamma: float = 0.5
) -> float:
    """Augmentation-robust score: LRS's normalisation of β = γ·(gain with augmentation) + (1 − γ)·(gain without)."""
    _check_fractions(gamma=gamma)
    with_augmentation = ior(condensed_augmented, random_augmented)
    return _normalised(gamma * with_augmentation + (1 - gamma) * ior(condensed_plain, random_plain))


def _normalised(exponent: float) -> float:
    return (np.exp(exponent) - np.exp(-1)) / (np.e - np.exp(-1))


def _check_fractions(**fractions: float) -> None:
    for name, value in fractions.items():
        if not np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 1)):
            raise ValueError(f"{name} = {value}: give a fraction between 0 and 1, not percent")
