"""Colour compensation: every pick is edited warm and cold, the edits are blended, the result is filed with its history.

DC3, arXiv 2508.01139. All that is drawn for an image (prompts, noise, blend) comes from (run seed, image index), so an
image comes out the same alone or in any company, today or after a kill. Each PNG has its history in a text chunk, by
which what a killed run left is recognised and kept.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin

from dc3.blending import CELL, IMAGES_NEEDED, RAMP, blend
from dc3.data import ImageSet
from dc3.editor import Editor, weights_hash
from dc3.files import replacing, sha256
from dc3.progress import tqdm

CHUNK_KEY = "dc3"  # of the PNG text chunk
ATTEMPTS = 2
SOURCE_MODE = "none"  # no edit: the pick itself, for ablation


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

    def __post_init__(self) -> None:
        if "{p}" not in self.instruction:
            raise ValueError(f"instruction = {self.instruction!r} has no {{p}}: the place where the prompt goes")
        if self.blend_mode not in (*IMAGES_NEEDED, SOURCE_MODE):
            raise ValueError(
                f"blend_mode = {self.blend_mode!r}: choose one of {', '.join([*IMAGES_NEEDED, SOURCE_MODE])}"
            )

    @property
    def edits_per_pick(self) -> int:
        return IMAGES_NEEDED.get(self.blend_mode, 0)


@dataclass(frozen=True)
class Draw:
    """What was drawn for one image: its prompts (warm, cold, warm …), one noise seed an edit, the blend's seed."""

    prompts: list[str]
    edit_seeds: list[int]
    blend_seed: int
    attempt: int


def draw(index: int, coloring: Coloring, attempt: int = 0) -> Draw:
    """The draws of image `index`, a pure function of (run seed, index, attempt)."""
    rng = np.random.default_rng([coloring.seed, index, attempt])
    pools = [coloring.warm_prompts, coloring.cold_prompts]
    prompts = [str(rng.choice(pools[k % 2])) for k in range(coloring.edits_per_pick)]
    seeds = rng.integers(2**62, size=coloring.edits_per_pick + 1).tolist()
    return Draw(prompts, seeds[:-1], seeds[-1], attempt)


def edit_pairs(images: np.ndarray, draws: Sequence[Draw], coloring: Coloring, editor: Editor) -> np.ndarray:
    """Every edit of every image: uint8 (n, S, S, 3) → float32 (n, edits, S, S, 3) in 0…1, NaN where one failed."""
    count = coloring.edits_per_pick
    if not count:
        return np.empty((len(images), 0, *images.shape[1:]), np.float32)
    instructions = [coloring.instruction.format(p=prompt) for drawn in draws for prompt in drawn.prompts]
    seeds = [seed for drawn in draws for seed in drawn.edit_seeds]
    edits = editor.edit(np.repeat(images, count, axis=0), instructions, seeds)
    return edits.reshape(len(images), count, *images.shape[1:])


def compensated(source: np.ndarray, edits: np.ndarray, drawn: Draw, coloring: Coloring) -> np.ndarray | None:
    """The blended image, uint8 (S, S, 3); None when an edit is not finite, or black where the source is not."""
    if coloring.blend_mode == SOURCE_MODE:
        return source
    black = (edits.max(axis=(1, 2, 3)) <= 0) & (source.max() > 0)
    if not np.isfinite(edits).all() or black.any():
        return None
    rng = np.random.default_rng(drawn.blend_seed)
    return blend(list(to_uint8(edits)), coloring.blend_mode, rng, ramp=coloring.ramp, cell=coloring.cell)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """0…1 → 0…255, rounded."""
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def compensate(images: ImageSet, picks: pd.DataFrame, coloring: Coloring, editor: Editor, folder: Path) -> pd.DataFrame:
    """Writes the condensed set to folder/00000/00000.png … (class, rank) and returns its provenance, a row an image.

    `picks` has the columns index, label, bin, rank. Images that are already there with the same history are kept, files
    that belong to no pick are removed. EditFailed when an image cannot be edited in two attempts.
    """
    stamp = _stamp(coloring, editor)
    picks = picks.sort_values(["label", "rank"]).reset_index(drop=True)
    targets = [folder / f"{row.label:05d}" / f"{row.rank:05d}.png" for row in picks.itertuples()]
    _remove_strangers(folder, set(targets))
    waiting = [k for k, path in enumerate(targets) if not _is_made(path, int(picks["index"][k]), stamp)]
    a_batch = max(editor.batch_size // max(coloring.edits_per_pick, 1), 1)
    with tqdm(total=len(picks), initial=len(picks) - len(waiting), desc="compensated", unit="img") as bar:
        for start in range(0, len(waiting), a_batch):
            batch = waiting[start : start + a_batch]
            _make(images, picks["index"].to_numpy()[batch], [targets[k] for k in batch], coloring, editor, stamp)
            bar.update(len(batch))
    return _provenance(images, picks, targets, folder)


def _stamp(coloring: Coloring, editor: Editor) -> dict:
    """What all images of a set have in common."""
    return asdict(coloring) | {
        "editor": weights_hash(editor) if coloring.edits_per_pick else "",
        "size": editor.size,
        "steps": editor.steps,
        "guidance_scale": editor.guidance_scale,
        "image_guidance_scale": editor.image_guidance_scale,
        "batch_size": editor.batch_size,
    }


def _make(
    images: ImageSet, indices: np.ndarray, targets: list[Path], coloring: Coloring, editor: Editor, stamp: dict
) -> None:
    """Edits, blends and writes a batch; images whose edit failed go once more with the next draw."""
    for attempt in range(ATTEMPTS):
        sources = images.images(indices)
        draws = [draw(int(index), coloring, attempt) for index in indices]
        edits = edit_pairs(sources, draws, coloring, editor)
        failed = []
        for k, target in enumerate(targets):
            result = compensated(sources[k], edits[k], draws[k], coloring)
            if result is None:
                failed.append(k)
            else:
                _write(target, result, {"index": int(indices[k]), "set": stamp, "draw": asdict(draws[k])})
        if not failed:
            return
        indices, targets = indices[failed], [targets[k] for k in failed]
    names = ", ".join(str(images.source(int(index))) for index in indices)
    raise EditFailed(f"the editor returned NaN or a black frame in {ATTEMPTS} attempts for {names}; all else is kept")


def _write(target: Path, image: np.ndarray, history: dict) -> None:
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text(CHUNK_KEY, json.dumps(history))
    with replacing(target) as partial:
        Image.fromarray(image).save(partial, format="PNG", pnginfo=chunk)


def history(path: Path) -> dict:
    """What the PNG says of its own making: {"index", "set", "draw"}."""
    with Image.open(path) as image:
        return json.loads(image.text[CHUNK_KEY])


def _is_made(path: Path, index: int, stamp: dict) -> bool:
    if not path.exists():
        return False
    made = history(path)
    return made["index"] == index and made["set"] == json.loads(json.dumps(stamp))


def _remove_strangers(folder: Path, targets: set[Path]) -> None:
    for path in folder.glob("*/*.png"):
        if path not in targets:
            path.unlink()


def _provenance(images: ImageSet, picks: pd.DataFrame, targets: list[Path], folder: Path) -> pd.DataFrame:
    """index, label, bin, rank, and for each image: source, prompts, seeds, settings, file, SHA-256 of the file."""
    rows = []
    for row, target in zip(picks.itertuples(), targets, strict=True):
        made = history(target)
        rows.append(
            {
                "index": made["index"],
                "source": str(images.source(int(made["index"]))),
                "class": images.classes[int(row.label)],
                "label": int(row.label),
                "bin": int(row.bin),
                "rank": int(row.rank),
                **made["draw"],
                **{key: value for key, value in made["set"].items() if key not in ("warm_prompts", "cold_prompts")},
                "file": target.relative_to(folder).as_posix(),
                "sha256": sha256(target),
            }
        )
    return pd.DataFrame(rows)
