"""Colour compensation: every pick is edited warm and cold, the edits are blended, the result is filed with its history.

DC3, arXiv 2508.01139. All that is drawn for an image (prompts, noise, blend) comes from (run seed, image index), so an
image comes out the same alone or in any company, today or after a kill.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from dc3 import condensed
from dc3.blending import CELL, IMAGES_NEEDED, RAMP, blend
from dc3.images.image_set import ImageSet
from dc3.machine.engine import LOCAL, Engine
from dc3.machine.files import printable
from dc3.models.editor import Editor, load_editor, weights_hash
from dc3.models.evaluation import image_losses, weights_digest
from dc3.strategies import METHODS, RDED, mosaic

ATTEMPTS = 2
SOURCE_MODE = "none"  # no edit: the pick itself, for ablation
COPIES_A_BATCH = 256


class EditFailed(RuntimeError):
    """An image whose edit came out broken at every attempt; the message names it. What was made stays."""


@dataclass(frozen=True)
class Coloring:
    """What decides the colours of a condensed set."""

    seed: int
    warm_prompts: Sequence[str]
    cold_prompts: Sequence[str]
    instruction: str  # with {p} where the prompt goes
    blend_mode: str
    ramp: float = RAMP
    cell: float = CELL
    edit_strength: float = 1.0  # how far a pick moves to its edits: 1 all the way, as published
    edit_candidates: int = 1  # colourings a pick, of which the teacher keeps the one it is surest of

    def __post_init__(self) -> None:
        if not 0 < self.edit_strength <= 1:
            raise ValueError(f"edit_strength = {self.edit_strength}: a fraction above 0, and at most 1")
        if self.edit_candidates < 1:
            raise ValueError(f"edit_candidates = {self.edit_candidates}: at least 1")
        if "{p}" not in self.instruction:
            raise ValueError(f"instruction = {self.instruction!r} has no {{p}}: the place where the prompt goes")
        if self.blend_mode not in (*IMAGES_NEEDED, SOURCE_MODE):
            raise ValueError(
                f"blend_mode = {self.blend_mode!r}: choose one of {', '.join([*IMAGES_NEEDED, SOURCE_MODE])}"
            )

    @property
    def edits_per_pick(self) -> int:
        """How many edits the blend mode takes of one image: 2 or 4, 0 with "none"."""
        return IMAGES_NEEDED.get(self.blend_mode, 0)


@dataclass(frozen=True)
class Draw:
    """What was drawn for one image: its prompts (warm, cold, warm …), one noise seed an edit, the blend's seed."""

    prompts: list[str]
    edit_seeds: list[int]
    blend_seed: int
    attempt: int
    candidate: int = 0


def draw(index: int, coloring: Coloring, attempt: int = 0, candidate: int = 0) -> Draw:
    """The draws of image `index`, a pure function of (run seed, index, attempt, candidate)."""
    rng = np.random.default_rng([coloring.seed, index, attempt, candidate])
    pools = [coloring.warm_prompts, coloring.cold_prompts]
    prompts = [str(rng.choice(pools[k % 2])) for k in range(coloring.edits_per_pick)]
    seeds = rng.integers(2**62, size=coloring.edits_per_pick + 1).tolist()
    return Draw(prompts, seeds[:-1], seeds[-1], attempt, candidate)


def pairs_of(provenance: pd.DataFrame, coloring: Coloring) -> list[Draw]:
    """Of each row of `provenance` the first warm and cold edit that were asked for; drawn where there were fewer."""
    pair = replace(coloring, blend_mode="gradient")
    if "prompts" not in provenance or not provenance["prompts"].str.len().ge(2).all():
        return [draw(int(index), pair) for index in provenance["index"]]
    drawn = provenance[["prompts", "edit_seeds", "blend_seed", "attempt", "candidate"]]
    return [Draw(list(row.prompts[:2]), list(row.edit_seeds[:2]), *row[2:]) for row in drawn.itertuples(index=False)]


def edit_pairs(images: np.ndarray, draws: Sequence[Draw], coloring: Coloring, editor: Editor) -> np.ndarray:
    """Every edit of every draw: uint8 (n, S, S, 3) → float32 (draws, edits, S, S, 3) in 0…1, NaN where one failed.

    The draws are those of the first image, as many of the second, and so on; mostly one an image.
    """
    count = coloring.edits_per_pick
    instructions = [coloring.instruction.format(p=prompt) for drawn in draws for prompt in drawn.prompts]
    seeds = [seed for drawn in draws for seed in drawn.edit_seeds]
    of = np.repeat(np.arange(len(images)), count * len(draws) // max(len(images), 1))
    return editor.edit(images, instructions, seeds, of=of).reshape(len(draws), count, *images.shape[1:])


def compensated(source: np.ndarray, edits: np.ndarray, drawn: Draw, coloring: Coloring) -> np.ndarray | None:
    """The blended image, uint8 (S, S, 3); None when an edit is not finite, or black where the source is not.

    With a strength s below 1, s·edit + (1 − s)·source is blended in the place of each edit.
    """
    black = (edits.max(axis=(1, 2, 3)) <= 0) & (source.max() > 0)
    if not np.isfinite(edits).all() or black.any():
        return None
    rng = np.random.default_rng(drawn.blend_seed)
    if coloring.edit_strength < 1:
        edits = coloring.edit_strength * edits + (1 - coloring.edit_strength) * (source / 255)
    return blend(list(to_uint8(edits)), coloring.blend_mode, rng, ramp=coloring.ramp, cell=coloring.cell)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Floats 0…1 of any shape → uint8 0…255, rounded."""
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def compensate(
    images: ImageSet,
    picks: pd.DataFrame,
    coloring: Coloring,
    editor: Editor | None,
    folder: Path,
    teacher: nn.Module | None = None,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Writes the compensated picks to `folder` in the layout of `dc3.condensed.fill`, and returns their provenance.

    `picks` has the columns index, label, bin, rank. A killed run goes on where it was. EditFailed when an image cannot
    be edited in two attempts; all others are kept, on Ray (`engine`) those of other batches. With blend_mode "none" the
    picks themselves are filed, as `copy`.
    With several candidates a pick, `teacher` chooses; ValueError when there is none.
    """
    if not coloring.edits_per_pick:
        return copy(images, picks, folder)
    if editor is None:
        raise ValueError(f"blend_mode = {coloring.blend_mode!r}: an editor is needed")
    stamp = {"method": "compensate"} | asdict(coloring) | _settings(editor)
    if coloring.edit_candidates > 1:
        if teacher is None:
            raise ValueError(f"edit_candidates = {coloring.edit_candidates}: a teacher is needed to choose among them")
        stamp["teacher_sha256"] = weights_digest(teacher)
    a_batch = max(editor.batch_size // (coloring.edits_per_pick * coloring.edit_candidates), 1)
    make = _Compensator(images, coloring, editor, teacher)
    return condensed.fill(folder, images, picks, stamp, make, a_batch, engine)


def copy(images: ImageSet, picks: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Files the picks as they are: what the baselines train on."""

    def make(rows: pd.DataFrame) -> Iterator[condensed.Made]:
        for row, image in zip(rows.index, images.images(rows["index"].to_numpy()), strict=True):
            yield condensed.Made(row, image, {})

    return condensed.fill(folder, images, picks, {"method": "copy"}, make, COPIES_A_BATCH)


def _settings(editor: Editor) -> dict:
    return {
        "editor": editor.name,
        "editor_sha256": weights_hash(editor),
        "precision": editor.precision,
        "size": editor.size,
        "steps": editor.steps,
        "guidance_scale": editor.guidance_scale,
        "image_guidance_scale": editor.image_guidance_scale,
        "batch_size": editor.batch_size,
    }


class Candidate(NamedTuple):
    """A colouring of a pick: the image, and what was drawn for it."""

    image: np.ndarray
    draw: Draw


@dataclass(frozen=True)
class _Compensator:
    """Edits and blends the images of some rows; those whose edit failed go once more with the next draw."""

    images: ImageSet
    coloring: Coloring
    editor: Editor
    teacher: nn.Module | None

    def __call__(self, rows: pd.DataFrame) -> Iterator[condensed.Made]:
        for attempt in range(ATTEMPTS):
            candidates = self._candidates(rows["index"].to_numpy(), attempt)
            for row, label, of_row in zip(rows.index, rows["label"], candidates, strict=True):
                if of_row:
                    kept = of_row[self._surest(of_row, label)]
                    yield condensed.Made(row, kept.image, asdict(kept.draw))
            rows = rows[[not of_row for of_row in candidates]]
            if rows.empty:
                return
        names = ", ".join(printable(self.images.source(int(index))) for index in rows["index"])
        raise EditFailed(f"the editor returned NaN or black in {ATTEMPTS} attempts for {names}; all else is kept")

    def _candidates(self, indices: np.ndarray, attempt: int) -> list[list[Candidate]]:
        """The colourings of each image whose edits did not fail."""
        count = self.coloring.edit_candidates
        sources = self.images.images(indices)
        draws = [draw(int(index), self.coloring, attempt, k) for index in indices for k in range(count)]
        edits = edit_pairs(sources, draws, self.coloring, self.editor)
        made = [
            (compensated(sources[k // count], edits[k], drawn, self.coloring), drawn) for k, drawn in enumerate(draws)
        ]
        parts = (made[k : k + count] for k in range(0, len(made), count))
        return [[Candidate(image, drawn) for image, drawn in part if image is not None] for part in parts]

    def _surest(self, candidates: list[Candidate], label: int) -> int:
        """The place of the colouring for which the teacher's loss with the pick's label is lowest."""
        if len(candidates) == 1 or self.teacher is None:
            return 0
        return int(image_losses(self.teacher, np.stack([one.image for one in candidates]), int(label)).argmin())


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
