"""Strips of edits to look at: by prompt, seed, guidance and blend, and every step of the picks of a class."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from dc3.blending import IMAGES_NEEDED, blend
from dc3.compensation import Compensator, draw_for, recorded_pairs, to_uint8
from dc3.images.image_set import ImageSet
from dc3.models.editor import Editor

BATCH = 10  # edits: strips are short, and the editor pads every batch
BLENDS = ("gradient", "random", "grid", "fourfold_view")
CROWD = 25  # images that represent a class
PICKS = 5  # of a class, in every step


class Strips(NamedTuple):
    """Rows of uint8 images (columns, S, S, 3) by name, with one heading per column, for `figures.image_rows`."""

    rows: dict[str, np.ndarray]
    headings: list[str]


class Steps(NamedTuple):
    """One class in every step: uint8 images (n, H, W, 3), with the picks in the same order.

    `bin_map` has the columns index, bin, x, y of the class's images; `picked` are the indices of all its picks.
    """

    crowd: np.ndarray
    bin_map: pd.DataFrame
    picked: pd.Series
    picks: np.ndarray
    warm: np.ndarray
    cold: np.ndarray
    condensed: np.ndarray


def picks_and_edits(compensator: Compensator, train: ImageSet, condensed: ImageSet, provenance: pd.DataFrame) -> Strips:
    """Source, warm edit, cold edit and condensed image of the picks in `provenance`, one column per pick."""
    edits = _pairs(compensator, train, provenance)
    side = compensator.editor.settings.size
    rows = {"source": train.images(provenance["index"], side), "warm": edits[:, 0], "cold": edits[:, 1]}
    headings = [", ".join(drawn.prompts) for drawn in recorded_pairs(provenance, compensator.coloring)]
    return Strips(rows | {"blended": condensed.images(provenance.index, side)}, headings)


def picks_and_choices(
    compensator: Compensator, train: ImageSet, condensed: ImageSet, provenance: pd.DataFrame
) -> Strips:
    """Source and condensed image of the picks in `provenance`, where one candidate of each was chosen (dc3.gaps)."""
    side = compensator.editor.settings.size
    rows = {"source": train.images(provenance["index"], side), "chosen": condensed.images(provenance.index, side)}
    chosen = provenance[["prompts", "strength"]].itertuples(index=False)
    return Strips(rows, [f"{prompts[0]} {strength:g}" if len(prompts) else "unedited" for prompts, strength in chosen])


def blends(compensator: Compensator, name: str, source: np.ndarray, index: int) -> Strips:
    """One row, `name`: image `index`, uint8 (S, S, 3), two warm and two cold edits, and all their blends."""
    coloring = replace(compensator.coloring, blend_mode="fourfold_view")
    drawn = draw_for(index, coloring)
    edits = to_uint8(Compensator(coloring, _small_batches(compensator)).edits_of(source[None], [drawn]))[0]
    blended = [
        blend(
            list(edits[: IMAGES_NEEDED[mode]]),
            mode,
            np.random.default_rng(drawn.blend_seed),
            ramp=coloring.ramp,
            cell=coloring.cell,
        )
        for mode in BLENDS
    ]
    headings = ["source", *drawn.prompts, *(mode.replace("_", " ") for mode in BLENDS)]
    return Strips({name: np.stack([source, *edits, *blended])}, headings)


def prompts(compensator: Compensator, sources: Mapping[str, np.ndarray]) -> Strips:
    """One row per source, uint8 (S, S, 3) by name; one column per prompt; all with the same noise."""
    editor, pool = _small_batches(compensator), compensator.coloring.prompts
    return Strips({name: _edits(compensator, editor, source, pool) for name, source in sources.items()}, pool)


def seeds(compensator: Compensator, source: np.ndarray, some_prompts: Sequence[str], count: int = 10) -> Strips:
    """One row per prompt and one column per noise seed, for one uint8 (S, S, 3)."""
    editor, numbers = _small_batches(compensator), range(count)
    rows = {prompt: _edits(compensator, editor, source, [prompt] * count, numbers) for prompt in some_prompts}
    return Strips(rows, [f"seed {k}" for k in numbers])


def guidances(compensator: Compensator, source: np.ndarray, scales: Sequence[float]) -> Strips:
    """One row per guidance scale and one column per prompt, for one uint8 (S, S, 3)."""
    editor, pool = _small_batches(compensator), compensator.coloring.prompts
    rows = {
        f"guidance {scale:g}": _edits(compensator, editor.using(guidance_scale=scale), source, pool) for scale in scales
    }
    return Strips(rows, pool)


def class_steps(
    compensator: Compensator,
    train: ImageSet,
    condensed: ImageSet,
    of_class: pd.DataFrame,
    bin_map: pd.DataFrame,
) -> Steps:
    """The steps of the method for one class, its provenance `of_class`; shows the first PICKS picks."""
    some, label = of_class.head(PICKS), int(of_class["label"].iloc[0])
    edits, side = _pairs(compensator, train, some), compensator.editor.settings.size
    return Steps(
        crowd=train.images(train.class_indices(label)[:CROWD], side),
        bin_map=bin_map[bin_map["label"] == label],
        picked=of_class["index"],
        picks=train.images(some["index"], side),
        warm=edits[:, 0],
        cold=edits[:, 1],
        condensed=condensed.images(some.index, side),
    )


def _pairs(compensator: Compensator, train: ImageSet, provenance: pd.DataFrame) -> np.ndarray:
    """The first warm and cold edit in each row of the provenance, uint8 (n, 2, S, S, 3)."""
    draws = recorded_pairs(provenance, compensator.coloring)
    pair = Compensator(compensator.coloring.as_pair(), _small_batches(compensator))
    sources = train.images(provenance["index"], compensator.editor.settings.size)
    return to_uint8(pair.edits_of(sources, draws))


def _small_batches(compensator: Compensator) -> Editor:
    return compensator.editor.using(batch_size=BATCH)


def _edits(
    compensator: Compensator,
    editor: Editor,
    source: np.ndarray,
    some_prompts: Sequence[str],
    noise: Sequence[int] | None = None,
) -> np.ndarray:
    """One edit of `source` per prompt, uint8 (prompts, S, S, 3); without `noise` the same noise for all."""
    instructions = compensator.coloring.instructions(some_prompts)
    return to_uint8(editor.variations(source, instructions, noise or [0] * len(instructions)))
