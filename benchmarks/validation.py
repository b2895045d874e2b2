"""An epoch of a student, ours against the published loop, both in one run: python benchmarks/validation.py

Ours: `dc3.students`. Published: a DataLoader over PIL images, each through ShufflePatches, RandomResizedCrop, flip,
ToTensor, Normalize; CutMix; an unused second student forward per step. Both: the same network and start, teacher, batch
size, loss, AdamW, learning rate; images of scenes10 in memory (the published code also decodes files each epoch). The
losses show that both train alike.

Seconds are the median over the epochs after the first; the sides take turns. Not convolution: 1 − c/t of our side, with
t the wall time of an epoch and c the self CPU time of all operators with "conv" in their name, forward and backward, by
torch.profiler, whose own cost is in t. Linear layer, batch norm, pooling and optimiser are not convolution.

Prints the table as markdown; writes its rows to validation.csv.
"""

import os
import random
import statistics
import time
from copy import deepcopy
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dc3 import students
from dc3 import teacher as teachers
from dc3.images import datasets
from dc3.images.image_set import ImageSet
from dc3.models import augmentation, networks
from dc3.models.augmentation import IMAGENET_MEAN, IMAGENET_STD
from dc3.students import Protocol, lr_factor, parameter_groups

OUTPUT = Path(__file__).parents[1] / "figures" / "benchmarks"
CPU = torch.device("cpu")
IMAGE_SIZE, SEED = 32, 0
TEACHER_IMAGES, TEACHER_EPOCHS = 50, 3  # images per class
SCHEDULE_EPOCHS = 300  # of the learning rate's schedule; fewer are run
PROFILED_EPOCHS = 2


class ShufflePatches:
    """Shuffles the factor × factor patches of a PIL image: the columns of patches, then the rows."""

    def __init__(self, factor: int):
        self.factor = factor

    def __call__(self, image: Image.Image) -> Image.Image:
        pixels = np.asarray(image)
        for axis in (1, 0):
            strips = np.split(pixels, [pixels.shape[axis] // self.factor * k for k in range(1, self.factor)], axis)
            random.shuffle(strips)
            pixels = np.concatenate(strips, axis)
        return Image.fromarray(pixels)


class PILImages(Dataset):
    """PIL images, transformed one by one, and their labels."""

    def __init__(self, images: ImageSet, transform: transforms.Compose):
        self.images = [Image.fromarray(pixels) for pixels in images.images()]
        self.labels, self.transform = images.labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def cutmix(images: Tensor) -> Tensor:
    """One box, λ ~ Beta(1, 1), filled from a permuted batch."""
    height, width = images.shape[2:]
    fraction = np.sqrt(1 - np.random.beta(1, 1))
    half_height, half_width = int(height * fraction) // 2, int(width * fraction) // 2
    y, x = np.random.randint(height), np.random.randint(width)
    rows, columns = slice(max(y - half_height, 0), y + half_height), slice(max(x - half_width, 0), x + half_width)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[torch.randperm(len(images)), :, rows, columns]
    return mixed


class Published:
    """The published loop: a student, its optimiser, and an epoch."""

    def __init__(self, images: ImageSet, student: nn.Module, teacher: nn.Module, protocol: Protocol, workers: int):
        self.student, self.teacher, self.protocol = student, teacher, protocol
        transform = transforms.Compose(
            [
                ShufflePatches(protocol.factor),
                transforms.RandomResizedCrop(IMAGE_SIZE, (1 / protocol.factor, 1), antialias=True),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )
        self.loader = DataLoader(
            PILImages(images, transform),
            protocol.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        groups = parameter_groups(student, protocol.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, protocol.lr, betas=(0.9, 0.999))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda epoch: lr_factor(epoch, protocol.epochs)
        )

    def epoch(self, number: int) -> float:
        """Trains for an epoch; the mean loss."""
        self.student.train()
        total = 0.0
        for images, _ in self.loader:
            total += len(images) * self._step(images)
        self.schedule.step()
        return total / len(self.loader.dataset)

    def _step(self, images: Tensor) -> float:
        mixed, temperature = cutmix(images), self.protocol.temperature
        with torch.no_grad():
            target = F.softmax(self.teacher(mixed) / temperature, dim=1)
        self.student(images)
        answer = F.log_softmax(self.student(mixed) / temperature, dim=1)
        loss = F.kl_div(answer, target, reduction="batchmean")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


class Ours:
    """The loop of dc3.students."""

    def __init__(self, images: ImageSet, teacher: nn.Module, protocol: Protocol):
        self.source = students.Stored.of(images, CPU)
        self.labels = torch.from_numpy(images.labels)
        self.student = students._Student(protocol, teacher, len(images.classes), IMAGE_SIZE, SEED, CPU)

    def epoch(self, number: int) -> float:
        """Trains for an epoch; the mean loss."""
        return self.student._epoch(number, self.source, self.labels)["loss"]


def scenes(ipc: int, side: int = IMAGE_SIZE) -> ImageSet:
    return datasets.load("scenes10", "train", images_per_class=ipc).at(side).cached()


def brief_teacher(network: str, width: int) -> nn.Module:
    """A teacher of a few epochs, so that the soft labels differ between images."""
    recipe = teachers.TeacherRecipe(network, TEACHER_EPOCHS, SEED, width)
    return teachers.train(scenes(TEACHER_IMAGES), recipe, device="cpu")[0]


def sides(images: ImageSet, teacher: nn.Module, protocol: Protocol, workers: int) -> dict[str, Ours | Published]:
    """Both loops before training: students with the same weights, each with a copy of the teacher in its layout."""
    seed = augmentation.mix_seed(SEED, "student")  # as dc3.students draws it
    student = networks.create(protocol.network, len(images.classes), IMAGE_SIZE, protocol.width, seed=seed)
    plain = deepcopy(teacher).to(memory_format=torch.contiguous_format)
    return {
        "ours": Ours(images, deepcopy(teacher), protocol),
        "published": Published(images, student, plain, protocol, workers),
    }


def seconds_and_losses(loops: dict, epochs: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of epochs 1 … epochs (0 warms up), and the mean loss of the last."""
    seconds, losses = {name: [] for name in loops}, {}
    for number in range(epochs + 1):
        for name, loop in loops.items():
            start = time.perf_counter()
            losses[name] = loop.epoch(number)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}, losses


def not_convolution(loop: Ours) -> float:
    """The share of an epoch's wall time outside convolutions."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        start = time.perf_counter()
        for _ in range(PROFILED_EPOCHS):
            loop.epoch(0)
        wall = time.perf_counter() - start
    operators = recorded.key_averages()
    convolution = sum(entry.self_cpu_time_total for entry in operators if "conv" in entry.key.lower()) / 1e6
    return 1 - convolution / wall


def row(teacher: nn.Module, protocol: Protocol, ipc: int, stored: int, epochs: int, workers: int) -> dict:
    """One line of the table, for images stored at `stored` px."""
    images = scenes(ipc, stored)
    protocol = protocol.resolved(len(images.classes), len(images))
    loops = sides(images, teacher, protocol, workers)
    seconds, losses = seconds_and_losses(loops, epochs)
    return {
        "network": protocol.network,
        "width": protocol.width,
        "ipc": ipc,
        "stored_size": stored,
        "factor": protocol.factor,
        "batch_size": protocol.batch_size,
        "threads": torch.get_num_threads(),
        "ours_s": seconds["ours"],
        "published_s": seconds["published"],
        "ratio": seconds["published"] / seconds["ours"],
        "not_convolution": not_convolution(loops["ours"]),
        "ours_loss": losses["ours"],
        "published_loss": losses["published"],
    }


def table(rows: pd.DataFrame) -> str:
    lines = [
        "| IPC | stored, px | factor | batch | ours, s/epoch | published | ratio | ours, not convolution "
        "| loss, ours | published |",
        "| --- " * 10 + "|",
    ]
    for line in rows.itertuples():
        lines.append(
            f"| {line.ipc} | {line.stored_size} | {line.factor} | {line.batch_size} "
            f"| {line.ours_s:.3g} | {line.published_s:.3g} "
            f"| {line.ratio:.2f}× | {line.not_convolution:.0%} | {line.ours_loss:.2e} | {line.published_loss:.2e} |"
        )
    return "\n".join(lines)


def main(
    network: Annotated[
        str, typer.Option(help="of teacher and student: a name in dc3.models.networks.NETWORKS")
    ] = "conv3",
    width: Annotated[int, typer.Option(help="of conv3 … conv6")] = 128,
    ipc: Annotated[list[int], typer.Option(help="images per class; may be repeated")] = [10, 50],  # noqa: B006
    factor: Annotated[list[int], typer.Option(help="patches per side; may be repeated")] = [1, 2],  # noqa: B006
    stored: Annotated[list[int], typer.Option(help="pixels a side of the stored images; may be repeated")] = [32, 256],  # noqa: B006
    epochs: Annotated[int, typer.Option(min=1, help="timed epochs of each side, after one to warm up")] = 5,
    workers: Annotated[int, typer.Option(help="processes of the published DataLoader")] = 0,
    threads: Annotated[int, typer.Option(help="torch threads")] = os.cpu_count() or 1,
    output: Annotated[Path, typer.Option(help="folder of the table")] = OUTPUT,
) -> None:
    """Print and write the table."""
    torch.set_num_threads(threads)
    load = os.getloadavg()[0]
    print(
        f"{network} of {width}, torch {torch.__version__}, threads: {threads}, load average {load:.1f} at the start\n"
    )
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(SEED)
    teacher = brief_teacher(network, width)
    protocols = [Protocol(network, SCHEDULE_EPOCHS, factor=side, width=width) for side in factor]
    rows = pd.DataFrame(
        [
            row(teacher, protocol, count, side, epochs, workers)
            for side in stored
            for count in ipc
            for protocol in protocols
        ]
    )
    print(table(rows))
    output.mkdir(parents=True, exist_ok=True)
    rows.to_csv(output / "validation.csv", index=False)


if __name__ == "__main__":
    typer.run(main)
