"""Where compensation takes an image in feature space: measured against its source, its bin, its class, and mapped."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from dc3.binning import embed_2d

ROWS = 256  # of a distance matrix held at a time


def candidates(labels: np.ndarray, sources: np.ndarray, per_class: int) -> np.ndarray:
    """The images to compare with: the first `per_class` of each class of the sources, and these, ascending (n,)."""
    first = [np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels[sources])]
    return np.unique(np.concatenate([*first, sources]))


def measure_moves(
    real: np.ndarray, labels: np.ndarray, bins: np.ndarray, made: np.ndarray, sources: np.ndarray
) -> pd.DataFrame:
    """How far condensed images lie from their sources, a row an image of `made`.

    real (n, d): features of the training images, labels and bins (n,); made (m, d): of the condensed images; sources
    (m,): which row of `real` each one was made of. Columns: label; distance to the source (in features) and the same in
    units of the median distance between the source and its class (`relative`, NaN in a class of one image); whether the
    nearest training image is the source itself, of its bin, of its class; and how many training images lie nearer than
    the source.
    Raises ValueError for arrays that do not fit together.
    """
    _check(real, labels, bins, made, sources)
    real_rows, made_rows = (torch.from_numpy(np.asarray(rows, np.float64)) for rows in (real, made))
    parts = []
    for start in range(0, len(made), ROWS):
        chosen = sources[start : start + ROWS]
        distance = torch.cdist(made_rows[start : start + ROWS], real_rows).numpy()
        own = distance[np.arange(len(chosen)), chosen]
        nearest = distance.argmin(axis=1)
        same_class = labels[nearest] == labels[chosen]
        parts.append(
            pd.DataFrame(
                {
                    "label": labels[chosen],
                    "distance": own,
                    "relative": own / _spread(real_rows, labels, chosen),
                    "nearest is its source": nearest == chosen,
                    "nearest is of its bin": same_class & (bins[nearest] == bins[chosen]),
                    "nearest is of its class": same_class,
                    "nearer than the source": (distance < own[:, None]).sum(axis=1),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _spread(real: torch.Tensor, labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Median distance of each chosen image to the other images of its class; NaN where there are none."""
    medians = []
    for index in chosen:
        others = np.setdiff1d(np.flatnonzero(labels == labels[index]), [index])
        medians.append(float(np.median(torch.cdist(real[[index]], real[others]).numpy())) if len(others) else np.nan)
    return np.maximum(medians, np.finfo(float).tiny)


def summary(moved: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """`measure_moves` in a row a class, and one for all: medians of distances and ranks, shares of the rest."""
    named = moved["label"].map(dict(enumerate(classes)))
    groups = [*moved.groupby(named, sort=False), ("all", moved)]
    counted = ["relative", "nearer than the source"]
    shares = [column for column in moved if column.startswith("nearest")]
    return pd.DataFrame(
        [{"class": name, "images": len(part), **part[counted].median(), **part[shares].mean()} for name, part in groups]
    )


def map_moves(features: np.ndarray, made: np.ndarray, sources: np.ndarray, *, seed: int) -> pd.DataFrame:
    """One t-SNE of a class's features (n, d) and its condensed images' (m, d) together: columns x, y, to_x, to_y.

    A row an image of `features`; to_x, to_y: where its condensed image lies, NaN where it has none; `sources` (m,):
    the rows that have one. t-SNE keeps neighbours, not distances: the length of an arrow means nothing by itself.
    """
    places = embed_2d(np.concatenate([features, made]), seed=seed)
    table = pd.DataFrame(places[: len(features)], columns=["x", "y"])
    table[["to_x", "to_y"]] = np.nan
    table.loc[sources, ["to_x", "to_y"]] = places[len(features) :]
    return table


def _check(real: np.ndarray, labels: np.ndarray, bins: np.ndarray, made: np.ndarray, sources: np.ndarray) -> None:
    if real.ndim != 2 or made.ndim != 2 or real.shape[1] != made.shape[1]:
        raise ValueError(f"made: expected features as wide as those of real, got {made.shape} for {real.shape}")
    if not len(labels) == len(bins) == len(real):
        raise ValueError(f"labels, bins: expected one for each of {len(real)} images, got {len(labels)}, {len(bins)}")
    if len(sources) != len(made) or (len(sources) and not 0 <= min(sources) <= max(sources) < len(real)):
        raise ValueError(f"sources: expected a row of real (0 … {len(real) - 1}) for each of {len(made)} made images")
