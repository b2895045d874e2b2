"""Bins: PCA and K-means over the latents of each class, so that the picks cover the class."""

import logging
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from dc3.images.image_set import class_numbers
from dc3.machine.arrays import Rows, groups, read_rows
from dc3.machine.progress import tqdm

log = logging.getLogger(__name__)

MAP_COMPONENTS, MAP_PERPLEXITY, MAP_STEPS = 50, 30, 500  # of PCA, then of t-SNE

PCASolver = Literal["auto", "full", "randomized"]
KMeansKind = Literal["full", "minibatch"]


@dataclass(frozen=True)
class Bins:
    """The bins of one class: 0 … bins_used - 1, none of them empty."""

    labels: np.ndarray  # (n,) int64
    components_used: int
    bins_used: int
    inertia: float  # sum of squared distances to the centres, in the PCA space
    projected: np.ndarray  # (n, components_used) float32


def bin_class(
    latents: np.ndarray,
    components: int = 50,
    bins: int = 10,
    *,
    seed: int,
    pca: PCASolver = "auto",
    kmeans: KMeansKind = "full",
) -> Bins:
    """DC3's binning of one class, latents (n, d) of any float type: PCA to `components`, then K-means with K = `bins`.

    components is reduced to min(components, n - 1, d), bins to the number of distinct images, each with a log
    message. Equal rows share a bin.
    pca: "full" is the exact decomposition; "randomized" (Halko et al. 2011) finds only the leading components, several
    times faster where d is in the thousands, and almost exactly for so few; "auto" is scikit-learn's choice by
    shape, the randomized one above 500 images. kmeans: "full" sees all images in every
    step, as published; "minibatch" (Sculley 2010) 1,024 of them, faster for classes of many thousands, with slightly
    wider bins. Raises ValueError for a wrong shape, values that are not finite or options out of range.
    """
    latents = _checked_latents(latents)
    _check_options(components, bins, pca, kmeans)
    copies = _copies(latents)
    distinct = int(copies.max()) + 1
    if distinct == 1:
        _note_reduction("bins", bins, 1, len(latents))
        return Bins(np.zeros(len(latents), np.int64), 0, 1, 0.0, np.zeros((len(latents), 0), np.float32))
    used = min(components, len(latents) - 1, latents.shape[1])
    _note_reduction("components", components, used, len(latents))
    projected = PCA(used, svd_solver=pca, random_state=seed).fit_transform(latents)
    projected = projected[np.unique(copies, return_index=True)[1]][copies]  # rounding may separate equal rows
    clusters = min(bins, distinct)
    _note_reduction("bins", bins, clusters, len(latents))
    model = {"full": KMeans, "minibatch": MiniBatchKMeans}[kmeans](clusters, random_state=seed).fit(projected)
    filled, labels = np.unique(model.labels_, return_inverse=True)
    return Bins(labels.astype(np.int64), used, len(filled), float(model.inertia_), projected)


def bin_all(
    latents: Rows,
    labels: np.ndarray,
    components: int = 50,
    bins: int = 10,
    *,
    seed: int,
    pca: PCASolver = "auto",
    kmeans: KMeansKind = "full",
) -> np.ndarray:
    """The bin of every image within its class, (n,) int64; reads one class of `latents` (or a memory map) at a time.

    latents (n, d), labels (n,), the rest as in `bin_class`. Raises as `bin_class`, and for another count of labels.
    """
    labels = class_numbers(labels, count=len(latents))
    bin_numbers = np.empty(len(labels), np.int64)
    for _, members in tqdm(list(groups(labels)), desc="bins", unit="classes"):
        binned = bin_class(read_rows(latents, members), components, bins, seed=seed, pca=pca, kmeans=kmeans)
        bin_numbers[members] = binned.labels
    return bin_numbers


def bin_table(labels: np.ndarray, bins: np.ndarray) -> pd.DataFrame:
    """The table of the binning stage, from labels and bins (n,): columns index, label, bin, one row per image."""
    return pd.DataFrame({"index": np.arange(len(labels)), "label": labels, "bin": bins})


def map_bins(latents: Rows, table: pd.DataFrame, per_class: int, classes: int, *, seed: int) -> pd.DataFrame:
    """One t-SNE map per class, for figures: rows of `bin_table` with their places, columns index, label, bin, x, y.

    The first `per_class` images of each of the first `classes` classes; latents (n, d).
    """
    maps = []
    for _, members in table[table["label"] < classes].groupby("label"):
        shown = members.head(per_class)
        x, y = embed_2d(read_rows(latents, shown["index"].to_numpy()), seed=seed).T
        maps.append(shown.assign(x=x, y=y))
    return pd.concat(maps)


def embed_2d(latents: np.ndarray, *, seed: int) -> np.ndarray:
    """t-SNE of latents (n, d) after PCA, for figures: (n, 2) float32. The perplexity is bounded by (n - 1) / 3.

    It ends after MAP_STEPS steps, half of scikit-learn's usual number, from which maps hardly differ. It works on one
    thread: the map does not depend on their number, and with some hundred images several only wait for each other.
    """
    latents = _checked_latents(latents)
    if np.ptp(latents, axis=0).max() == 0:  # one image, or copies of one
        return np.zeros((len(latents), 2), np.float32)
    pca = PCA(min(MAP_COMPONENTS, len(latents) - 1, latents.shape[1]), random_state=seed)
    tsne = TSNE(
        perplexity=min(MAP_PERPLEXITY, (len(latents) - 1) / 3),
        init="pca" if pca.n_components >= 2 else "random",
        max_iter=MAP_STEPS,
        random_state=seed,
    )
    with threadpool_limits(1):
        return tsne.fit_transform(pca.fit_transform(latents))


def _checked_latents(latents: np.ndarray) -> np.ndarray:
    latents = np.asarray(latents, np.float32)
    if latents.ndim != 2 or 0 in latents.shape:
        raise ValueError(f"latents = {latents.dtype} {latents.shape}: expected (n, d), n ≥ 1")
    if not np.isfinite(latents).all():
        raise ValueError("latents = NaN or infinity in some rows: run the features stage again")
    return latents


def _check_options(components: int, bins: int, pca: str, kmeans: str) -> None:
    for name, value in (("components", components), ("bins", bins)):
        if value < 1:
            raise ValueError(f"{name} = {value}: at least 1")
    for name, given, allowed in (("pca", pca, get_args(PCASolver)), ("kmeans", kmeans, get_args(KMeansKind))):
        if given not in allowed:
            raise ValueError(f"{name} = {given!r}: choose one of {', '.join(allowed)}")


def _copies(latents: np.ndarray) -> np.ndarray:
    return pd.factorize(np.array([hash(row.tobytes()) for row in latents]))[0]


def _note_reduction(name: str, wanted: int, used: int, n: int) -> None:
    if used < wanted:
        log.info("%s = %d reduced to %d for a class of %d images", name, wanted, used, n)
