"""A colour compensation that fills gaps: picks get colours that their class has and its picks lack.

A pick's candidates are its source unedited, and its edits under every prompt at three strengths. One candidate of each
pick is chosen by greedy maximisation of a facility location: how well the chosen colours (`dc3.color.description`)
cover those of the whole class. One of each is a partition matroid, where greedy reaches half of the best (Fisher,
Nemhauser & Wolsey 1978). A candidate is allowed if the teacher's loss is at most the source's plus a margin. Where the
greedy covers no more than the sources do, these are kept: a set never covers its class's colours less than its picks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import nn

from dc3 import color, condensed
from dc3.blending import is_left_right
from dc3.compensation import Coloring, Compensator, EditFailed, failed, moved, to_uint8
from dc3.condensed import Storage
from dc3.images.decoding import resized
from dc3.images.image_set import ImageSet, in_memory
from dc3.machine.engine import LOCAL, Engine
from dc3.machine.fingerprints import module_fingerprint
from dc3.machine.keeping import kept, kept_table, key_digest
from dc3.machine.progress import tqdm
from dc3.models.evaluation import predict, weights_digest

GAP = "gap"  # the value of the parameter `coloring`
CHOICES = "gaps.parquet"  # of 04_compensation
STRENGTHS = (0.25, 0.5, 1.0)  # of the edits that are candidates
DESCRIBED = 32  # pixels a side: enough for the colours of an image
CROWD = 50_000  # images that are described in all; of larger sets each class gives evenly spaced ones, at least 100
COMPARED = 1000  # rows at most, evenly spaced, where all pairs are compared
DRAW = 1  # of the noise of candidates, beside the 0 of published compensation


@dataclass(frozen=True)
class Filling:
    """How gaps are filled: the teacher, pixels a side that it sees, and by how much its loss may grow (nats)."""

    teacher: nn.Module
    image_size: int
    margin: float

    def __post_init__(self) -> None:
        if not 0 <= self.margin < np.inf:
            raise ValueError(f"gap_margin = {self.margin}: by how many nats the teacher's loss may grow, 0 or more")

    def stamp(self) -> dict[str, Any]:
        """What decides which candidates it allows."""
        return {"teacher": weights_digest(self.teacher), "image_size": self.image_size, "margin": self.margin}

    def losses(self, images: np.ndarray, label: int) -> np.ndarray:
        """The teacher's cross entropy for images uint8 (n, S, S, 3) of a class, seen as test images: (n,) nats."""
        seen = in_memory("candidates", "train", ["all"], np.zeros(len(images), np.int64), images)
        logits = predict(self.teacher, seen.as_tested(self.image_size), amp=False)  # its losses are compared
        return F.cross_entropy(logits, torch.full((len(images),), label), reduction="none").numpy()


def class_colors(images: ImageSet, folder: Path) -> list[np.ndarray]:
    """The descriptions of each class's images, (n, d): of all in a set of up to CROWD images.

    They are read from `folder` if the same images were described before: on CIFAR-10 describing takes minutes.
    """
    key = {"images": images.fingerprint(), "size": DESCRIBED, "crowd": CROWD, "code": module_fingerprint("color")}
    return kept(folder / f"{key_digest(key)}.npz", partial(_write_colors, images), _read_colors)


def _write_colors(images: ImageSet, path: Path) -> None:
    classes = tqdm(range(len(images.classes)), desc="colours of the classes", unit="class")
    np.savez(path, *(_colors_of(images, label) for label in classes))


def _read_colors(path: Path) -> list[np.ndarray]:
    with np.load(path) as file:
        return [file[name] for name in file.files]


def _colors_of(images: ImageSet, label: int) -> np.ndarray:
    indices = evenly(images.class_indices(label), max(CROWD // len(images.classes), 100))
    parts = np.array_split(indices, -(-len(indices) // COMPARED))
    return np.concatenate([color.description(images.images(part, DESCRIBED)) for part in parts])


def similarity(colors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """exp(−d²/2σ²) of descriptions (n, d) and (m, d): (n, m) in 0 … 1, with σ the median distance within `colors`."""
    some = evenly(colors)
    distances = cdist(some, some)
    scale = np.median(distances[distances > 0]) if (distances > 0).any() else 1.0
    return np.exp(-0.5 * (cdist(colors, others) / scale) ** 2)


def evenly(rows: np.ndarray, most: int = COMPARED) -> np.ndarray:
    """At most `most` rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]


def coverage(similar: np.ndarray) -> float:
    """How well a set covers a class: the mean over the class's images of the largest similarity (n, m), 0 … 1."""
    return float(similar.max(axis=1).mean())


def choose(similar: np.ndarray, pick: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """One candidate of each pick, (picks,) positions, in the order of the picks' numbers.

    similar (n, m): of the class's images and the candidates; pick (m,): the number of each candidate's pick, 0 …; the
    first candidate of each pick is its source; allowed (m,) bool. Ties go to the first candidate, so to the source.
    """
    sources = np.unique(pick, return_index=True)[1]
    allowed = allowed.copy()
    allowed[sources] = True
    chosen, closest = np.full(len(sources), -1), np.zeros((len(similar), 1))
    for _ in sources:
        gains = np.maximum(similar - closest, 0).sum(axis=0)
        best = int(np.where(allowed & (chosen[pick] < 0), gains, -1).argmax())
        chosen[pick[best]] = best
        closest = np.maximum(closest, similar[:, [best]])
    return chosen if coverage(similar[:, chosen]) > coverage(similar[:, sources]) else sources


def candidates(compensator: Compensator, sources: np.ndarray, indices: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """The candidates of sources uint8 (n, S, S, 3): a table, and uint8 (m, S, S, 3), pick after pick.

    The table has the columns pick (0 …), index, prompt ("" for the source), strength and edit_seed. Failed edits (NaN,
    or black where the source is not) are no candidates.
    """
    prompts = compensator.coloring.prompts
    seeds = [seeds_of(compensator.coloring, int(index)) for index in indices]
    rows_of = np.repeat(np.arange(len(sources)), len(prompts))
    edits = compensator.edits_under(sources, rows_of, prompts * len(sources), np.ravel(seeds).tolist())
    rows, images = [], []
    for pick, (source, index) in enumerate(zip(sources, indices, strict=True)):
        rows.append((pick, int(index), "", 0.0, 0))
        images.append(source)
        of_pick = edits[pick * len(prompts) :][: len(prompts)]
        for k in np.flatnonzero(~failed(source, of_pick)):
            rows += [(pick, int(index), prompts[k], strength, seeds[pick][k]) for strength in STRENGTHS]
            images += [to_uint8(moved(source, of_pick[k], strength)) for strength in STRENGTHS]
    return pd.DataFrame(rows, columns=["pick", "index", "prompt", "strength", "edit_seed"]), np.stack(images)


def seeds_of(coloring: Coloring, index: int) -> list[int]:
    """The noise seed of image `index` under each of `coloring.prompts`: a function of (run seed, index)."""
    rng = np.random.default_rng([coloring.seed, index, 0, DRAW])
    return rng.integers(2**62, size=len(coloring.prompts)).tolist()


def choices(
    train: ImageSet,
    picks: pd.DataFrame,
    compensator: Compensator,
    filling: Filling,
    colors: Sequence[np.ndarray],
    keep: Path,
) -> pd.DataFrame:
    """The chosen candidate of every pick: index, label, prompt, strength, edit_seed, loss and source_loss (nats).

    colors: of the classes, by `class_colors`. The classes are independent, and kept one by one in the folder `keep`,
    under a digest of everything that decides them: a killed run goes on with the next class.
    """
    tables = []
    common = {"set": train.fingerprint(), "strengths": STRENGTHS} | compensator.stamp() | filling.stamp()
    for label, of_class in tqdm(list(picks.groupby("label")), desc="filling gaps", unit="class"):
        of_class = of_class.sort_values("rank")
        digest = key_digest(common | {"picks": of_class["index"].tolist()})
        make = partial(_class_choices, train, of_class, compensator, filling, colors[int(label)])
        file = keep / f"{label:05d}-{digest[:20]}.parquet"
        tables.append(kept_table(file, make))
    return pd.concat(tables, ignore_index=True)


def _class_choices(
    train: ImageSet, picks: pd.DataFrame, compensator: Compensator, filling: Filling, colors: np.ndarray
) -> pd.DataFrame:
    indices, label = picks["index"].to_numpy(), int(picks["label"].iloc[0])
    table, images = candidates(compensator, train.images(indices, compensator.editor.settings.size), indices)
    loss = filling.losses(images, label)
    table = table.assign(label=label, loss=loss, source_loss=loss[table["prompt"] == ""][table["pick"]])
    allowed = (table["loss"] <= table["source_loss"] + filling.margin).to_numpy()
    similar = similarity(colors, color.description(at_described_size(images)))
    return table.iloc[choose(similar, table["pick"].to_numpy(), allowed)].drop(columns="pick")


def at_described_size(images: Iterable[np.ndarray]) -> np.ndarray:
    """Images uint8 (H, W, 3) of any sizes → (n, DESCRIBED, DESCRIBED, 3)."""
    return np.stack([resized(image, DESCRIBED) for image in images])


@dataclass(frozen=True)
class FillRows:
    """Makes the condensed images of some picks from the choices (index → prompt, strength, edit_seed)."""

    images: ImageSet
    compensator: Compensator
    choices: pd.DataFrame
    stored_size: int

    def __call__(self, rows: pd.DataFrame) -> Iterator[condensed.Made]:
        """Edits the sources whose choice is an edit. EditFailed after all other images if an edit failed."""
        sources = self.images.images(rows["index"].to_numpy(), self.compensator.editor.settings.size)
        chosen = self.choices.set_index("index").loc[rows["index"]]
        places = np.flatnonzero(chosen["prompt"] != "")
        prompts, seeds = (chosen[name].iloc[places].tolist() for name in ("prompt", "edit_seed"))
        edits = dict(zip(places, self.compensator.edits_under(sources, places, prompts, seeds), strict=True))
        broken = [place for place, edit in edits.items() if failed(sources[place], edit[None]).any()]
        for place, (row, choice) in enumerate(zip(rows.index, chosen.itertuples(), strict=True)):
            if place in broken:
                continue
            image, draw = sources[place], {"prompts": [], "edit_seeds": [], "strength": float(choice.strength)}
            if place in edits:
                image = to_uint8(moved(image, edits[place], choice.strength))
                draw |= {"prompts": [choice.prompt], "edit_seeds": [int(choice.edit_seed)]}
            yield condensed.Made(row, resized(image, self.stored_size), draw)
        if broken:
            indices = rows["index"].iloc[broken]
            raise EditFailed.of(self.images, indices, "now, though not when the colours were chosen,")


def fill_gaps(
    images: ImageSet,
    picks: pd.DataFrame,
    folder: Path,
    storage: Storage,
    compensator: Compensator,
    chosen: pd.DataFrame,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Writes the chosen candidates to `folder` in the layout of `dc3.condensed.fill`, and returns their provenance."""
    stamp = compensator.stamp() | {"coloring": GAP, "strengths": list(STRENGTHS)}
    rows = FillRows(images, compensator, chosen, storage.size)
    return condensed.fill(folder, images, picks, storage, stamp, rows, compensator.editor.settings.batch_size, engine)


def parts(made: ImageSet, provenance: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """A set as colours count, uint8 (m, DESCRIBED, DESCRIBED, 3), with its labels (m,): a gradient blend is two halves.

    `provenance` has one row per image, in their order.
    """
    is_halved = "blend_seed" in provenance and (provenance["blend_mode"] == "gradient").all()
    images: list[np.ndarray] = []
    for index, image in enumerate(made.originals()):
        if is_halved:
            axis = 1 if is_left_right(np.random.default_rng(int(provenance["blend_seed"].iloc[index]))) else 0
            images += np.array_split(image, 2, axis)
        else:
            images.append(image)
    return at_described_size(images), np.repeat(made.labels, len(images) // len(made))


def measured(colors: Sequence[np.ndarray], sets: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """How sets cover the colours of their classes: a row per set, means over the classes.

    colors: of the classes, by `class_colors`. sets: uint8 images (n, S, S, 3) and their labels (n,) by name.
    Columns: set, coverage (0 … 1), hue entropy (bits), energy distance of its descriptions to those of the class
    (Székely & Rizzo 2013; CIELAB units, 0 for equal ones).
    """
    sets = {name: (at_described_size(images), labels) for name, (images, labels) in sets.items()}
    rows = []
    for label in np.unique(np.concatenate([labels for _, labels in sets.values()])):
        of_class = colors[int(label)]
        for name, (images, labels) in sets.items():
            own = images[labels == label]
            described = color.description(own)
            entropy = color.hue_entropy(color.hue_histogram(own))
            covered = coverage(similarity(of_class, described))
            rows.append((name, covered, entropy, energy_distance(evenly(of_class), described)))
    table = pd.DataFrame(rows, columns=["set", "coverage", "hue entropy (bits)", "energy distance"])
    return table.groupby("set", sort=False, as_index=False).mean()


def energy_distance(first: np.ndarray, second: np.ndarray) -> float:
    """2·E|X − Y| − E|X − X′| − E|Y − Y′| of two samples (n, d), (m, d), ≥ 0."""
    return float(2 * cdist(first, second).mean() - cdist(first, first).mean() - cdist(second, second).mean())
