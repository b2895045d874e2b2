"""The methods that are compared, DC3 and its baselines: how each picks images, and what it makes of them.

One table, one parameter `method`. All write the same condensed-set layout with provenance (`dc3.condensed`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dc3 import condensed, rded, strategies
from dc3.compensation import Coloring, compensate, copy
from dc3.data import ImageSet
from dc3.editor import Editor, load_editor

RDED = "rded"
TILED_A_BATCH = 64


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


def editor_of(params: dict[str, Any], device: torch.device) -> Editor:
    """The editor that the parameters of 04_compensation name."""
    return load_editor(
        params["editor"],
        size=params["edit_size"],
        steps=params["edit_steps"],
        guidance_scale=params["guidance_scale"],
        image_guidance_scale=params["image_guidance_scale"],
        batch_size=params["edit_batch_size"],
        revision=params["editor_revision"],
        device=device,
        precision=params["edit_precision"],
        compile_unet=params["edit_compile"],
    )


def coloring_of(params: dict[str, Any], seed: int) -> Coloring:
    """The colouring that the parameters of 04_compensation name."""
    names = ("warm_prompts", "cold_prompts", "instruction", "blend_mode", "ramp", "cell")
    return Coloring(seed, **{name: params[name] for name in names})


def condense(
    method: str, images: ImageSet, picks: pd.DataFrame, coloring: Coloring, editor: Editor | None, folder: Path
) -> pd.DataFrame:
    """Writes the condensed set of `picks` to `folder`; returns its provenance. Without edits `editor` may be None."""
    if "tile" in picks:
        return tile(images, picks, folder)
    if METHODS[method].edits:
        return compensate(images, picks, coloring, editor, folder)
    return copy(images, picks, folder)


def tile(images: ImageSet, picks: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Writes RDED's mosaics of crops to `folder`: `picks` of `rded.choose`."""
    parts = {key: part.sort_values("tile") for key, part in picks.groupby(["label", "rank"])}

    def make(rows: pd.DataFrame) -> Iterator[condensed.Made]:
        for row in rows.itertuples():
            part = parts[row.label, row.rank]
            boxes = part[["index", "top", "left", "side"]].to_dict("list")
            yield condensed.Made(row.Index, mosaic(images, part), {"tiles": boxes})

    crops = sha256(pd.util.hash_pandas_object(picks, index=False).to_numpy()).hexdigest()
    stamp = {"method": RDED, "crops": crops}
    return condensed.fill(folder, images, picks[picks["tile"] == 0], stamp, make, TILED_A_BATCH)


def mosaic(images: ImageSet, part: pd.DataFrame) -> np.ndarray:
    """One condensed image of RDED, uint8 (S, S, 3), of its rows of the selection table."""
    return rded.condensed_image(images.images(part["index"].to_numpy()), part, isqrt(len(part)))


def plain_images(images: ImageSet, picks: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What a method that does not edit makes of its picks, in memory: uint8 (n, S, S, 3) and labels (n,) int64."""
    if "tile" not in picks:
        return images.images(picks["index"].to_numpy()), picks["label"].to_numpy()
    parts = [(label, mosaic(images, part.sort_values("tile"))) for (label, _), part in picks.groupby(["label", "rank"])]
    return np.stack([image for _, image in parts]), np.array([label for label, _ in parts])
