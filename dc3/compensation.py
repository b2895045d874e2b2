"""Colour compensation: edits every pick warm and cold, blends the edits and files the result with its history.

DC3, arXiv 2508.01139. All draws of an image (prompts, noise, blend) come from (run seed, image index), so
that an image comes out the same alone, with others, or after a kill.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dc3 import condensed
from dc3.blending import CELL, IMAGES_NEEDED, RAMP, blend
from dc3.condensed import Storage
from dc3.images.decoding import resized
from dc3.images.image_set import ImageSet
from dc3.machine.engine import LOCAL, Engine
from dc3.machine.files import printable
from dc3.models.editor import Editor, EditorSettings, load_editor
from dc3.models.evaluation import weights_digest
from dc3.models.prompts import check_instruction
from dc3.models.stand_ins import EDITORS
from dc3.rded import mosaic
from dc3.strategies import METHODS, RDED

ATTEMPTS = 2
SOURCE_MODE = "none"  # no edit: the pick itself, for ablation
COPY_BATCH, MOSAIC_BATCH = 256, 64  # condensed images
CANDIDATE = 0  # older versions numbered several colourings of a pick: sets keep their bytes with the 0
HISTORY_OF_SET, HISTORY_OF_DRAW = {"edit_candidates": 1}, {"candidate": CANDIDATE}


class EditFailed(RuntimeError):
    """Every attempt to edit an image failed; the message names it. The finished images stay."""

    @classmethod
    def of(cls, images: ImageSet, indices: Iterable[int], when: str) -> "EditFailed":
        """The error for the images at `indices`."""
        names = ", ".join(printable(images.source(int(index))) for index in indices)
        return cls(f"the editor returned NaN or black {when} for {names}; finished images are kept")


@dataclass(frozen=True)
class Coloring:
    """The settings that decide the colours of a condensed set."""

    seed: int
    warm_prompts: Sequence[str]
    cold_prompts: Sequence[str]
    instruction: str  # with {p} where the prompt goes
    blend_mode: str
    ramp: float = RAMP
    cell: float = CELL
    edit_strength: float = 1.0  # how far a pick moves towards its edits: 1 all the way, as published

    def __post_init__(self) -> None:
        if not 0 < self.edit_strength <= 1:
            raise ValueError(f"edit_strength = {self.edit_strength}: a fraction above 0 and at most 1")
        check_instruction(self.instruction)
        if self.blend_mode not in (*IMAGES_NEEDED, SOURCE_MODE):
            raise ValueError(
                f"blend_mode = {self.blend_mode!r}: choose one of {', '.join([*IMAGES_NEEDED, SOURCE_MODE])}"
            )

    @classmethod
    def of(cls, params: Mapping[str, Any], seed: int) -> "Coloring":
        """The colouring in the parameters of 04_compensation."""
        names = ("warm_prompts", "cold_prompts", "instruction", "blend_mode", "ramp", "cell", "edit_strength")
        return cls(seed, **{name: params[name] for name in names})

    @property
    def edits_per_pick(self) -> int:
        """How many edits of one image the blend mode needs: 2 or 4, 0 for "none"."""
        return IMAGES_NEEDED.get(self.blend_mode, 0)

    @property
    def prompts(self) -> list[str]:
        """All prompts, each once."""
        return list(dict.fromkeys([*self.warm_prompts, *self.cold_prompts]))

    def instructions(self, prompts: Sequence[str]) -> list[str]:
        """The editor's instruction for each prompt."""
        return [self.instruction.format(p=prompt) for prompt in prompts]

    def as_pair(self) -> "Coloring":
        """The same with one warm and one cold edit per image."""
        return replace(self, blend_mode="gradient")


@dataclass(frozen=True)
class EditDraw:
    """The draws of one image: prompts (warm, cold, warm …), one noise seed per edit, the blend's seed."""

    prompts: list[str]
    edit_seeds: list[int]
    blend_seed: int
    attempt: int


def draw_for(index: int, coloring: Coloring, attempt: int = 0) -> EditDraw:
    """The draws of image `index`, a pure function of (run seed, index, attempt)."""
    rng = np.random.default_rng([coloring.seed, index, attempt, CANDIDATE])
    pools = [coloring.warm_prompts, coloring.cold_prompts]
    prompts = [str(rng.choice(pools[k % 2])) for k in range(coloring.edits_per_pick)]
    seeds = rng.integers(2**62, size=coloring.edits_per_pick + 1).tolist()
    return EditDraw(prompts, seeds[:-1], seeds[-1], attempt)


def recorded_pairs(provenance: pd.DataFrame, coloring: Coloring) -> list[EditDraw]:
    """The draws of the first warm and cold edit in each row of `provenance`; new draws if it has fewer edits."""
    if "prompts" not in provenance or not provenance["prompts"].str.len().ge(2).all():
        return [draw_for(int(index), coloring.as_pair()) for index in provenance["index"]]
    drawn = provenance[["prompts", "edit_seeds", "blend_seed", "attempt"]]
    return [
        EditDraw(list(row.prompts[:2]), list(row.edit_seeds[:2]), *row[2:]) for row in drawn.itertuples(index=False)
    ]


def compensated(source: np.ndarray, edits: np.ndarray, drawn: EditDraw, coloring: Coloring) -> np.ndarray | None:
    """The blended image, uint8 (S, S, 3), of edits float32 (k, S, S, 3) in 0 … 1; None when an edit `failed`.

    source: uint8 (S, S, 3). With a strength s below 1, s·edit + (1 − s)·source replaces each edit.
    """
    if failed(source, edits).any():
        return None
    rng = np.random.default_rng(drawn.blend_seed)
    if coloring.edit_strength < 1:
        edits = moved(source, edits, coloring.edit_strength)
    return blend(list(to_uint8(edits)), coloring.blend_mode, rng, ramp=coloring.ramp, cell=coloring.cell)


def failed(source: np.ndarray, edits: np.ndarray) -> np.ndarray:
    """Which edits (k, S, S, 3) are not finite, or black where the source (S, S, 3) is not: bool (k,)."""
    black = (edits.max(axis=(1, 2, 3)) <= 0) & (source.max() > 0)
    return black | ~np.isfinite(edits).all(axis=(1, 2, 3))


def moved(source: np.ndarray, edits: np.ndarray, strength: float) -> np.ndarray:
    """strength·edit + (1 − strength)·source, floats in 0 … 1: edits float (…, S, S, 3), source uint8 (S, S, 3)."""
    return strength * edits + (1 - strength) * (source / 255)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Floats 0…1 of any shape → uint8 0…255, rounded."""
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True)
class Compensator:
    """A colouring and its editor."""

    coloring: Coloring
    editor: Editor

    @classmethod
    def of(cls, params: Mapping[str, Any], seed: int, device: torch.device) -> "Compensator | None":
        """The compensator in the parameters of 04_compensation; None if their `method` does not edit."""
        if not METHODS[params["method"]].edits:
            return None
        kind = EDITORS[params.get("edit_by", Editor.edited_by)]  # runs of earlier versions lack it
        return cls(Coloring.of(params, seed), load_editor(EditorSettings.of(params), device, kind))

    def edits_of(self, images: np.ndarray, draws: Sequence[EditDraw]) -> np.ndarray:
        """Every edit of uint8 images (n, S, S, 3), n draws: float32 (n, edits, S, S, 3) in 0…1, NaN where it failed."""
        prompts = [prompt for drawn in draws for prompt in drawn.prompts]
        seeds = [seed for drawn in draws for seed in drawn.edit_seeds]
        count = self.coloring.edits_per_pick
        edits = self.edits_under(images, np.repeat(np.arange(len(images)), count), prompts, seeds)
        return edits.reshape(len(draws), count, *images.shape[1:])

    def edits_under(self, images: np.ndarray, rows: np.ndarray, prompts: list[str], seeds: list[int]) -> np.ndarray:
        """Edit k: of images[rows[k]], uint8 (n, S, S, 3), under prompts[k]: float32 (k, S, S, 3), NaN where failed."""
        return self.editor.edit(images, self.coloring.instructions(prompts), seeds, sources=rows)

    def stamp(self) -> dict[str, Any]:
        """The history that all its images have in common."""
        used = self.editor.settings
        editor = {
            "editor": used.name,
            "editor_sha256": weights_digest(*self.editor.networks),
            "precision": self.editor.precision,
            "size": used.size,
            "steps": used.steps,
            "guidance_scale": used.guidance_scale,
            "image_guidance_scale": used.image_guidance_scale,
            "batch_size": used.batch_size,
            "sampler": used.sampler,
            "guidance_from": used.guidance_from,
            "guidance_until": used.guidance_until,
        }
        if (kind := self.editor.edited_by) != Editor.edited_by:  # sets of earlier versions lack it
            editor["edited_by"] = kind
        return {"method": "compensate"} | asdict(self.coloring) | HISTORY_OF_SET | editor


def condense(
    images: ImageSet,
    picks: pd.DataFrame,
    folder: Path,
    storage: Storage,
    compensator: Compensator | None = None,
    engine: Engine = LOCAL,
    among: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Writes the condensed set of `picks` to `folder`, in the layout of `dc3.condensed.fill`; returns its provenance.

    Tiles RDED's crops; compensates other picks, or without a `compensator` files the originals at the stored size.
    `among`: all picks of the set, where `picks` are some of them; then these images get the bytes they have in the set.
    """
    if "tile" in picks:
        return tile(images, picks, folder, storage, among)
    if compensator is None:
        return copy(images, picks, folder, storage)
    return compensate(images, picks, folder, storage, compensator, engine)


def compensate(
    images: ImageSet,
    picks: pd.DataFrame,
    folder: Path,
    storage: Storage,
    compensator: Compensator,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Writes the compensated picks to `folder` in the layout of `dc3.condensed.fill`, and returns their provenance.

    Each pick is read from its original at the editor's size, edited and blended at that size, then resized for
    storage. `picks` has the columns index, label, bin, rank. A killed run continues. Raises EditFailed if an image
    fails twice; finished images are kept, on Ray (`engine`) those of other batches. With blend_mode "none" as `copy`.
    """
    count = compensator.coloring.edits_per_pick
    if not count:
        return copy(images, picks, folder, storage)
    batch = max(compensator.editor.settings.batch_size // count, 1)
    rows = CompensateRows(images, compensator, storage.size)
    return condensed.fill(folder, images, picks, storage, compensator.stamp(), rows, batch, engine)


@dataclass(frozen=True)
class CompensateRows:
    """Edits and blends the images of some rows; a failed edit is repeated with the next draw."""

    images: ImageSet
    compensator: Compensator
    stored_size: int

    def __call__(self, rows: pd.DataFrame) -> Iterator[condensed.Made]:
        """Edits and blends some rows of the picks."""
        for attempt in range(ATTEMPTS):
            made = self._attempt(rows, attempt)
            yield from (one for one in made if one is not None)
            rows = rows[[one is None for one in made]]
            if rows.empty:
                return
        raise EditFailed.of(self.images, rows["index"], f"in {ATTEMPTS} attempts")

    def _attempt(self, rows: pd.DataFrame, attempt: int) -> list[condensed.Made | None]:
        """The image of each row; None if its edit failed."""
        coloring = self.compensator.coloring
        sources = self.images.images(rows["index"].to_numpy(), self.compensator.editor.settings.size)
        draws = [draw_for(int(index), coloring, attempt) for index in rows["index"]]
        edits = self.compensator.edits_of(sources, draws)
        images = [compensated(*parts, coloring) for parts in zip(sources, edits, draws, strict=True)]
        return [
            None
            if image is None
            else condensed.Made(row, resized(image, self.stored_size), asdict(drawn) | HISTORY_OF_DRAW)
            for row, image, drawn in zip(rows.index, images, draws, strict=True)
        ]


def copy(images: ImageSet, picks: pd.DataFrame, folder: Path, storage: Storage) -> pd.DataFrame:
    """Files the originals of the picks at the stored size, without edits."""

    def make(rows: pd.DataFrame) -> Iterator[condensed.Made]:
        for row, image in zip(rows.index, images.images(rows["index"].to_numpy(), storage.size), strict=True):
            yield condensed.Made(row, image, {})

    return condensed.fill(folder, images, picks, storage, {"method": "copy"}, make, COPY_BATCH)


def tile(
    images: ImageSet, picks: pd.DataFrame, folder: Path, storage: Storage, among: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Writes RDED's mosaics of crops to `folder`: `picks` of `rded.pick_crops`; `among` as in `condense`."""
    parts = {key: part.sort_values("tile") for key, part in picks.groupby(["label", "rank"])}

    def make(rows: pd.DataFrame) -> Iterator[condensed.Made]:
        for row in rows.itertuples():
            part = parts[row.label, row.rank]
            boxes = part[["index", "top", "left", "side", "picture"]].to_dict("list")
            yield condensed.Made(row.Index, mosaic(images, part, storage.size), {"tiles": boxes})

    of_set = picks if among is None else among
    crops = sha256(pd.util.hash_pandas_object(of_set, index=False).to_numpy()).hexdigest()
    stamp = {"method": RDED, "crops": crops}
    return condensed.fill(folder, images, picks[picks["tile"] == 0], storage, stamp, make, MOSAIC_BATCH)
