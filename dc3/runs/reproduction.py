"""Makes one condensed image again from its run's records, and compares the bytes."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from dc3 import condensed, gaps, strategies
from dc3.compensation import Compensator, condense
from dc3.images.decoding import FORMATS
from dc3.runs.manifests import COMPENSATION, StageMissing, read_manifest, written
from dc3.runs.notebook_stage import Settings


class Reproduction(NamedTuple):
    """The condensed file, its SHA-256 on disk and when made again, and the largest pixel difference (0 … 255)."""

    file: Path
    on_disk: str
    again: str
    largest_difference: int


def reproduce(run: str, index: int) -> Reproduction:
    """Makes a run's condensed image of source `index` again, in a temporary folder.

    StageMissing when the run has no finished compensation stage, ValueError naming some sources when this one has no
    condensed image, NotAsWritten when the condensed image is not what the stage wrote.
    """
    manifest = read_manifest(run, COMPENSATION)
    if manifest is None:
        raise StageMissing(f"run {run!r} has no finished {COMPENSATION}: dc3 run it first")
    params, settings = manifest["params"], Settings.of_run(run)
    made = pd.read_parquet(written(run, f"{COMPENSATION}/condensed/{condensed.PROVENANCE}"))
    wanted = made[made["index"] == index]
    if wanted.empty:
        some = ", ".join(map(str, sorted(made["index"])[:5]))
        raise ValueError(f"INDEX = {index}: no condensed image of run {run!r} comes from it; choose from {some} …")
    row = wanted.iloc[0]
    file = written(run, f"{COMPENSATION}/condensed/{row['file']}")
    method = strategies.METHODS[params["method"]]
    of_set = pd.read_parquet(written(run, f"03_sampling/{method.picks_file}"))
    picks = of_set[(of_set["label"] == row["label"]) & (of_set["rank"] == row["rank"])]
    compensator = Compensator.of(params, settings.seed, settings.device)
    with tempfile.TemporaryDirectory() as again:
        storage = condensed.Storage.of(params, settings.image_size, method.edits)
        train = settings.image_set("train")
        if compensator is not None and params["coloring"] == gaps.GAP:
            chosen = pd.read_parquet(written(run, f"{COMPENSATION}/{gaps.CHOICES}"))
            table = gaps.fill_gaps(train, picks, Path(again), storage, compensator, chosen)
        else:
            table = condense(train, picks, Path(again), storage, compensator, among=of_set)
        difference = _largest_difference(file, Path(again) / row["file"])
    return Reproduction(file, row["sha256"], table["sha256"].iloc[0], difference)


def _largest_difference(*files: Path) -> int:
    first, second = (np.asarray(Image.open(file, formats=FORMATS)).astype(int) for file in files)
    return int(np.abs(first - second).max())
