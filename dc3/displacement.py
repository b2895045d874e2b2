"""How far compensation moves an image in feature space: from its source, its bin and its class; with maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from dc3.binning import embed_2d
from dc3.fidelity import Embedded
from dc3.images.image_set import ImageSet

ROWS = 256  # of a distance matrix held at a time


@dataclass(frozen=True, eq=False)
class Places:
    """Training images and the condensed images of some of them in feature space.

    real (n, d): features of the training images, with labels and bins (n,); made (m, d): of the condensed images;
    sources (m,): the row of `real` that is the source of each. Raises ValueError for arrays that do not match.
    """

    real: np.ndarray
    labels: np.ndarray
    bins: np.ndarray
    made: np.ndarray
    sources: np.ndarray

    def __post_init__(self) -> None:
        real, made, count = self.real, self.made, len(self.real)
        if real.ndim != 2 or made.ndim != 2 or real.shape[1] != made.shape[1]:
            raise ValueError(f"made = {made.shape}: expected as many features as real = {real.shape}")
        if not len(self.labels) == len(self.bins) == count:
            given = f"{len(self.labels)}, {len(self.bins)}"
            raise ValueError(f"labels, bins = {given} values: expected one for each of {count} images")
        if len(self.sources) != len(made) or (len(made) and not 0 <= min(self.sources) <= max(self.sources) < count):
            raise ValueError(
                f"sources = {self.sources}: expected a row of real, 0 … {count - 1}, for each of {len(made)} images"
            )


def locate(
    train: ImageSet,
    condensed: ImageSet,
    provenance: pd.DataFrame,
    bins: np.ndarray,
    embed: Callable[[np.ndarray], Embedded],
    per_class: int,
) -> Places:
    """The places of the condensed images in `provenance`, among `per_class` training images of each class.

    Both sets have a frame. bins (n,) of all training images; embed: `fidelity.embed` of uint8 images (k, S, S, 3) by
    some network.
    """
    rows = compared_with(train.labels, provenance["index"].to_numpy(), per_class)
    real, made = (embed(images).features for images in (train.images(rows), condensed.images(provenance.index)))
    return Places(real, train.labels[rows], bins[rows], made, np.searchsorted(rows, provenance["index"]))


def compared_with(labels: np.ndarray, sources: np.ndarray, per_class: int) -> np.ndarray:
    """The first `per_class` images of each class of the sources, and the sources, ascending (n,)."""
    first = [np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels[sources])]
    return np.unique(np.concatenate([*first, sources]))


def measure(places: Places) -> pd.DataFrame:
    """How far condensed images lie from their sources, one row per condensed image.

    Columns: label; distance to the source (in features) and the same in units of the median distance between the source
    and its class (`relative`, NaN in a class of one image); whether the nearest training image is the source, in
    its bin, in its class; and how many training images lie nearer than the source.
    """
    labels, bins = places.labels, places.bins
    real, made = (torch.from_numpy(np.asarray(rows, np.float64)) for rows in (places.real, places.made))
    parts = []
    for start in range(0, len(made), ROWS):
        chosen = places.sources[start : start + ROWS]
        distance = torch.cdist(made[start : start + ROWS], real).numpy()
        own = distance[np.arange(len(chosen)), chosen]
        nearest = distance.argmin(axis=1)
        same_class = labels[nearest] == labels[chosen]
        parts.append(
            pd.DataFrame(
                {
                    "label": labels[chosen],
                    "distance": own,
                    "relative": own / _spread(real, labels, chosen),
                    "nearest is its source": nearest == chosen,
                    "nearest is of its bin": same_class & (bins[nearest] == bins[chosen]),
                    "nearest is of its class": same_class,
                    "nearer than the source": (distance < own[:, None]).sum(axis=1),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _spread(real: torch.Tensor, labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Median distance of each chosen image to the other images of its class; NaN without others."""
    medians = []
    for index in chosen:
        others = np.setdiff1d(np.flatnonzero(labels == labels[index]), [index])
        medians.append(float(np.median(torch.cdist(real[[index]], real[others]).numpy())) if len(others) else np.nan)
    return np.maximum(medians, np.finfo(float).tiny)


def by_class(measured: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """`measure` in one row per class, and one for all: medians of distances and ranks, shares of the rest."""
    named = measured["label"].map(dict(enumerate(classes)))
    groups = [*measured.groupby(named, sort=False), ("all", measured)]
    counted = ["relative", "nearer than the source"]
    shares = [column for column in measured if column.startswith("nearest")]
    return pd.DataFrame(
        [{"class": name, "images": len(part), **part[counted].median(), **part[shares].mean()} for name, part in groups]
    )


def maps(places: Places, *, seed: int) -> pd.DataFrame:
    """One t-SNE per class, of training and condensed images together: columns x, y, to_x, to_y, label, bin.

    One row per training image; to_x, to_y: the place of its condensed image, or NaN. t-SNE keeps neighbours, not
    distances: the length of an arrow means nothing.
    """
    return pd.concat([_class_map(places, label, seed) for label in np.unique(places.labels)])


def _class_map(places: Places, label: int, seed: int) -> pd.DataFrame:
    members = np.flatnonzero(places.labels == label)
    made = places.labels[places.sources] == label
    sources = np.searchsorted(members, places.sources[made])
    points = embed_2d(np.concatenate([places.real[members], places.made[made]]), seed=seed)
    table = pd.DataFrame(points[: len(members)], columns=["x", "y"])
    table[["to_x", "to_y"]] = np.nan
    table.loc[sources, ["to_x", "to_y"]] = points[len(members) :]
    return table.assign(label=label, bin=places.bins[members])
