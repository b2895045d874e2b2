"""Memory and time per image as the image set grows: python benchmarks/scale.py

Features, bins and selection on sets of 1,000, 10,000 and 100,000 images of 32 px, each in its own process. Images are a
pure function of their index, made on demand. Classes have 100 images at every size and the teacher has 1,000 outputs,
so that only the number of images grows. With `--latents`: bins and selection of 1,000 classes of 1,280 images, the size
of ImageNet-1K, on synthetic latents and gradients, made class by class. With `--side 512 --batch-size 4`, in
scale_512.csv: images of 512 px, decoded and encoded at that size; the teacher sees them at 32 px, as in the other rows.

Seconds are processor time of one thread, which other work on the machine only lengthens through shared caches; the
table also has wall time. Peak memory is the largest resident set of the process.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from stopwatch import Stopwatch

from dc3 import binning, features, gradients, strategies
from dc3.images.framing import Frame
from dc3.images.image_set import ImageSet
from dc3.machine import paths
from dc3.models import networks

SEED = 0
SIDE, CLASS_SIZE, OUTPUTS, WIDTH = 32, 100, 1000, 32
COMPONENTS, BINS, IPC = 50, 10, 10
IMAGENET_CLASSES, IMAGENET_CLASS_SIZE = 1000, 1280
LATENT_VALUES, EMBEDDING = 256, 512  # of ImageNet's: 16,384 and, for a ResNet-18, 512
RESULTS = paths.REPOSITORY / "figures" / "benchmarks"


@dataclass(frozen=True, eq=False)
class Generated(ImageSet):
    """Originals of `drawn_side` px: 4 × 4 blocks of colour, each drawn from its index."""

    drawn_side: int = SIDE

    def _read(self, chosen: np.ndarray, frame: Frame | None) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
        for index in chosen:
            blocks = np.random.default_rng([SEED, index]).integers(0, 256, (4, 4, 3), np.uint8)
            image = blocks.repeat(self.drawn_side // 4, axis=0).repeat(self.drawn_side // 4, axis=1)
            yield image if frame is None else frame.pixels(image), image.shape[:2]

    def own_sizes(self, indices: np.ndarray | None = None) -> np.ndarray:
        return np.full((len(self._positions(indices)), 2), self.drawn_side)


@dataclass(frozen=True)
class ByClass:
    """An array (n, width) that makes the rows of one class at a time, a pure function of the class."""

    number: int  # distinguishes the arrays of one benchmark
    length: int
    class_size: int
    width: int
    dtype: type = np.float32

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        label = int(rows[0]) // self.class_size
        rng = np.random.default_rng([SEED, self.number, label])
        centres = rng.standard_normal((BINS, self.width), np.float32)
        noise = rng.standard_normal((self.class_size, self.width), np.float32)
        return (centres[np.arange(self.class_size) % BINS] + noise)[rows - label * self.class_size].astype(self.dtype)


def select(labels: np.ndarray, bins: np.ndarray, logit_grad: object, embedding: object) -> pd.DataFrame:
    pool = strategies.Pool(labels, bins, logit_grad, embedding)
    return strategies.pick("dc3", pool, strategies.PickOptions(IPC))


def of_images(count: int, folder: Path, side: int, batch_size: int) -> dict[str, float]:
    """Features → bins → selection on `count` generated images of `side` px."""
    labels = np.arange(count) // CLASS_SIZE
    classes = tuple(map(str, range(OUTPUTS)))
    images = Generated("generated", "train", classes, labels, sources=range(count), drawn_side=side)
    vae = features.load_vae(paths.SHIPPED_EDITOR)
    teacher = networks.create("conv3", OUTPUTS, SIDE, WIDTH, seed=SEED).eval()
    watch, began = Stopwatch(time.process_time), time.perf_counter()
    with watch.step("features"):
        latents = features.encode(vae, images, folder / "latents.npy", size=side, batch_size=batch_size)
    with watch.step("bins"):
        bins = binning.bin_all(latents, labels, COMPONENTS, BINS, seed=SEED)
    with watch.step("gradients"):
        files = folder / "logit_grad.npy", folder / "embedding.npy"
        written = gradients.to_disk(*files, teacher, images.at(SIDE), labels)
    with watch.step("selection"):
        picks = select(labels, bins, *written)
    wall = time.perf_counter() - began
    return row(count, watch.seconds, wall, picks, sum(path.stat().st_size for path in folder.iterdir()))


def of_latents(classes: int, class_size: int) -> dict[str, float]:
    """Bins → selection on synthetic latents and gradients."""
    count = classes * class_size
    labels = np.arange(count) // class_size
    watch, began = Stopwatch(time.process_time), time.perf_counter()
    with watch.step("bins"):
        latents = ByClass(0, count, class_size, LATENT_VALUES, np.float16)
        bins = binning.bin_all(latents, labels, COMPONENTS, BINS, seed=SEED)
    with watch.step("selection"):
        gradients = ByClass(1, count, class_size, OUTPUTS), ByClass(2, count, class_size, EMBEDDING)
        picks = select(labels, bins, *gradients)
    return row(count, watch.seconds, time.perf_counter() - began, picks, 0)


def row(count: int, seconds: dict[str, float], wall: float, picks: pd.DataFrame, disk: int) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    steps = {f"{name} ms/image": 1000 * of_step / count for name, of_step in seconds.items()}
    whole = {"all ms/image": sum(steps.values()), "wall s": wall}
    return {"images": count, "picks": len(picks)} | steps | whole | {"peak MB": peak / 1e6, "disk MB": disk / 1e6}


def in_own_process(*arguments: object) -> dict[str, float]:
    """One row, by this script in a new process, so that its peak memory is its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as answer:
        command = [sys.executable, __file__, *map(str, arguments), "--answer", answer.name]
        subprocess.run(command, check=True)
        return pd.read_json(answer.name, typ="series").to_dict()


def main(
    sizes: Annotated[str, typer.Option(help="numbers of images, multiples of 100")] = "1000,10000,100000",
    side: Annotated[
        int, typer.Option(help="pixels a side of the images and of what the VAE sees, a multiple of 8")
    ] = SIDE,
    batch_size: Annotated[int, typer.Option(min=1, help="images a batch of the VAE")] = 64,
    latents: Annotated[bool, typer.Option(help="bins and selection on synthetic latents instead")] = False,
    classes: Annotated[int, typer.Option(help="of the synthetic latents")] = IMAGENET_CLASSES,
    class_size: Annotated[int, typer.Option(help="of the synthetic latents")] = IMAGENET_CLASS_SIZE,
    out: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
    answer: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    counts = [int(size) for size in sizes.split(",")]
    if any(count < CLASS_SIZE or count % CLASS_SIZE for count in counts):
        raise typer.BadParameter(f"--sizes {sizes}: expected multiples of {CLASS_SIZE}, the size of a class")
    if side < SIDE or side % 8:
        raise typer.BadParameter(f"--side {side}: expected a multiple of 8 from {SIDE} on, which the VAE takes")
    if answer:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            made = of_latents(classes, class_size) if latents else of_images(counts[0], Path(folder), side, batch_size)
        pd.Series(made).to_json(answer)
        return
    jobs = [("--sizes", count, "--side", side, "--batch-size", batch_size) for count in counts]
    if latents:
        jobs = [("--latents", "--classes", classes, "--class-size", class_size)]
    name = "scale_latents" if latents else "scale" if side == SIDE else f"scale_{side}"
    rows = []
    for job in jobs:
        rows.append(in_own_process(*job))
        table = pd.DataFrame(rows)  # written after every row: the last may take hours
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.5g")
    print(table.to_markdown(index=False, floatfmt=".4g"))


if __name__ == "__main__":
    typer.run(main)
