"""The sampling stage on a whole image set, step by step: python benchmarks/sampling_stage.py --data-dir data/cifar10

Forward: the gradient factors of every image, as in 03_sampling. Kernel and greedy: the calls in `strategies.pick`, for
dc3 (BINS bins per class) and for submodular (whole classes), with IPC picks per class. Rest: the rest of
`strategies.pick` (reading the arrays class by class, the table of picks). Decoding is timed separately. The bins, a
result of stage 02, are not timed: here K-means uses 8×8 pixels instead of latents.

Prints the table as markdown. Every step runs once, on the wall clock: use an idle machine.
"""

import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import typer
from stopwatch import Stopwatch
from torch import nn

from dc3 import binning, gradients, strategies
from dc3.images import datasets
from dc3.images.image_set import ImageSet
from dc3.machine import paths
from dc3.models import checkpoints, networks

IMAGE_SIZE, IPC, BINS = 32, 10, 10
GRID = 8  # pixels per side in the data of the bins
STRATEGIES = ("dc3", "submodular")
TIMED = {"kernel": "gradient_kernel", "greedy": "select"}  # step → the name that strategies.pick calls


def obtain_teacher(path: str, classes: int) -> nn.Module:
    """A saved teacher, or conv3 of width 128 with random weights: the time is the same."""
    if path:
        return checkpoints.load(paths.resolve(path)).model
    return networks.create("conv3", classes, IMAGE_SIZE, 128, seed=0).eval()


def pixel_bins(images: ImageSet) -> np.ndarray:
    """The bin of every image, (n,) int64, from its pixels averaged to GRID × GRID."""
    cell = IMAGE_SIZE // GRID
    small = images.images().reshape(len(images), GRID, cell, GRID, cell, 3).mean(axis=(2, 4))
    return binning.bin_all(small.reshape(len(images), -1), images.labels, bins=BINS, seed=0)


def strategy_seconds(strategy: str, pool: strategies.Pool) -> dict[str, float]:
    """Seconds of kernel, greedy and rest in `strategies.pick`."""
    watch = Stopwatch()
    replaced = {name: watch.timed(step, getattr(strategies, name)) for step, name in TIMED.items()}
    with patch.multiple(strategies, **replaced):
        watch.timed("all", strategies.pick)(strategy, pool, strategies.PickOptions(IPC))
    whole = watch.seconds.pop("all")
    return watch.seconds | {"rest": whole - sum(watch.seconds.values())}


def stage_table(forward: float, strategy_steps: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Columns step, and for each strategy seconds and share of its stage (text)."""
    columns = {}
    for strategy, steps in strategy_steps.items():
        seconds = pd.Series({"forward": forward, **steps})
        seconds["all"] = seconds.sum()
        columns[f"{strategy}, s"] = seconds.map("{:.3g}".format)
        columns[f"{strategy}, share"] = (seconds / seconds["all"]).map("{:.1%}".format)
    return pd.DataFrame(columns).rename_axis("step").reset_index()


def peak_gigabytes() -> float:
    """The peak memory of the process; macOS counts it in bytes, Linux in kB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def main(
    data_dir: Annotated[str, typer.Option(help="class folders under train/; relative to the repository")],
    teacher: Annotated[str, typer.Option(help="of 00_teacher; empty: conv3 with random weights")] = "",
    images_per_class: Annotated[int, typer.Option(help="only the first images of each class; 0: all")] = 0,
    threads: Annotated[int, typer.Option(help="torch threads")] = os.cpu_count() or 1,
) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, threads: {threads}, load average {os.getloadavg()[0]:.1f} at the start")
    watch = Stopwatch()
    folder = str(paths.resolve(data_dir))
    files = datasets.load("imagefolder", "train", data_dir=folder, images_per_class=images_per_class).at(IMAGE_SIZE)
    images = watch.timed("decode", files.cached)()
    model = obtain_teacher(teacher, len(images.classes))
    with tempfile.TemporaryDirectory() as scratch:
        arrays = Path(scratch, "logit_grad.npy"), Path(scratch, "embedding.npy")
        logit_grad, embedding = watch.timed("forward", gradients.to_disk)(*arrays, model, images, images.labels)
        pool = strategies.Pool(images.labels, pixel_bins(images), logit_grad, embedding)
        steps = {strategy: strategy_seconds(strategy, pool) for strategy in STRATEGIES}

    counts, rates = images.counts(), {step: len(images) / seconds for step, seconds in watch.seconds.items()}
    print(f"{len(images):,} images of {IMAGE_SIZE} px, {counts.min():,} to {counts.max():,} a class, IPC {IPC}", end="")
    print(f"; gradients at {logit_grad.shape[1]} logits, {embedding.shape[1]:,} features\n")
    print(stage_table(watch.seconds["forward"], steps).to_markdown(index=False))
    print(f"\ndecoded {rates['decode']:,.0f} images/s ({watch.seconds['decode']:.3g} s, counted in no share), ", end="")
    print(f"forward {rates['forward']:,.0f} images/s, peak memory of the process {peak_gigabytes():.2f} GB")


if __name__ == "__main__":
    typer.run(main)
