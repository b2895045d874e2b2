"""The methods that are compared, DC3 and its baselines: how each picks images, and what it makes of them.

One table, one parameter `method`. `dc3.condensation` writes their sets to the disk.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from dc3 import rded, strategies
from dc3.condensed import PROVENANCE
from dc3.images.image_set import ImageSet
from dc3.machine.storage import Place
from dc3.runs.stage import Stage

RDED = "rded"


@dataclass(frozen=True)
class Method:
    """`picked_by`: a strategy of dc3.strategies, or "rded"; None: the run's own `selection`. `edits`: by the editor."""

    name: str
    picked_by: str | None = None
    edits: bool = False

    @property
    def picks_file(self) -> str:
        """The selection table of the method among the outputs of 03_sampling."""
        return f"compared/{self.picked_by}.parquet" if self.picked_by else "selection.parquet"


METHODS = {
    "dc3": Method("DC3", edits=True),
    "dc3_plain": Method("DC3 picks, plain"),
    "submodular": Method("submodular, no bins", "submodular"),
    "random": Method("random", "random"),
    "herding": Method("herding", "herding"),
    "kcenter": Method("k-center", "kcenter"),
    "dq": Method("DQ", "dq"),
    "rded": Method("RDED", RDED),
}


def pick(
    picked_by: str,
    images: ImageSet,
    teacher: nn.Module,
    *,
    ipc: int,
    seed: int,
    crops: dict[str, Any] | None = None,
    **candidates: Any,
) -> pd.DataFrame:
    """The selection table: columns index, label, bin, rank, gain; for "rded" also tile, top, left, side.

    `crops`: factor, num_crop, mipc of `rded.choose`; `candidates`: the other arguments of `strategies.choose`.
    """
    if picked_by == RDED:
        return rded.choose(images, teacher, ipc=ipc, seed=seed, **(crops or {}))
    return strategies.choose(picked_by, labels=images.labels, ipc=ipc, seed=seed, **candidates)


def own_set(stage: Stage, method: str, condensed_dir: str) -> tuple[Place, str]:
    """Folder and name of the condensed set that a stage studies: `condensed_dir`, or the run's own, by `method`.

    The stage depends on it. runs.StageMissing when 04_compensation is not finished.
    """
    if condensed_dir:
        folder = stage.use(condensed_dir)
        return folder, f"condensed_dir {folder.name}"
    return stage.input(f"04_compensation/condensed/{PROVENANCE}").parent, METHODS[method].name


def mosaic(images: ImageSet, part: pd.DataFrame) -> np.ndarray:
    """One condensed image of RDED, uint8 (S, S, 3), of its rows of the selection table."""
    return rded.condensed_image(images.images(part["index"].to_numpy()), part, isqrt(len(part)))


def plain_images(images: ImageSet, picks: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What a method that does not edit makes of its picks, in memory: uint8 (n, S, S, 3) and labels (n,) int64."""
    if "tile" not in picks:
        return images.images(picks["index"].to_numpy()), picks["label"].to_numpy()
    parts = [(label, mosaic(images, part.sort_values("tile"))) for (label, _), part in picks.groupby(["label", "rank"])]
    return np.stack([image for _, image in parts]), np.array([label for label, _ in parts])
