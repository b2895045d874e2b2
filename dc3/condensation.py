"""From picks to a condensed set on disk, by any method, all in the same layout with provenance (`dc3.condensed`)."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from dc3 import condensed
from dc3.compensation import Coloring, compensate, copy
from dc3.images.image_set import ImageSet
from dc3.machine.engine import LOCAL, Engine
from dc3.methods import METHODS, RDED, mosaic
from dc3.models.editor import Editor, load_editor

TILED_A_BATCH = 64


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
    names = ["warm_prompts", "cold_prompts", "instruction", "blend_mode", "ramp", "cell"]
    names += ["edit_strength", "edit_candidates"]
    return Coloring(seed, **{name: params[name] for name in names})


def condense(
    method: str,
    images: ImageSet,
    picks: pd.DataFrame,
    coloring: Coloring,
    editor: Editor | None,
    folder: Path,
    teacher: nn.Module | None = None,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Writes the condensed set of `picks` to `folder`; returns its provenance.

    Without edits `editor` may be None; `teacher` chooses where there are several candidates; `engine`: where is edited.
    """
    if "tile" in picks:
        return tile(images, picks, folder)
    if METHODS[method].edits:
        return compensate(images, picks, coloring, editor, folder, teacher, engine)
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
