"""FID, KID and Inception Score through torchmetrics, on features that are computed once and kept per set."""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from dc3.images.image_set import ImageSet, check_images, image_slice
from dc3.machine.fingerprints import module_fingerprint
from dc3.machine.keeping import kept, key_digest
from dc3.machine.progress import tqdm
from dc3.models.evaluation import images_digest
from dc3.models.feature_networks import FeatureNetwork

log = logging.getLogger(__name__)

CHUNK = 4096  # rows of features held in float64 at a time


class Embedded(NamedTuple):
    """The features (n, d) and logits (n, C) of a set, float32; every score below is computed from them."""

    features: np.ndarray
    logits: np.ndarray


class Score(NamedTuple):
    """Mean and standard deviation over subsets (KID) or splits (Inception Score); the deviation of one is NaN."""

    mean: float
    std: float


def embedded_batches(
    images: ImageSet | np.ndarray, network: FeatureNetwork, batch_size: int = 128
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and logits, batch by batch. `fid` takes the features one batch at a time, for sets that exceed memory.

    Raises ValueError for images that are not uint8 (n, H, W, 3), fewer than two of them, a network whose
    features are a map instead of a vector, and NaN.
    """
    _require_two("images", len(images))
    for start in tqdm(range(0, len(images), batch_size), desc=network.label("features"), unit="batches"):
        pixels = image_slice(images, start, start + batch_size)
        check_images(pixels)
        batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).to(network.device)
        features, logits = (output.float().cpu().numpy() for output in network.extract(batch))
        if features.ndim != 2 or len(features) != len(batch):
            raise ValueError(
                f"feature_network = {network.name!r}: gives features of shape {features.shape} of {len(batch)} images; "
                "expected one vector per image, (n, d): pool the map first"
            )
        if not np.isfinite(features).all():
            raise ValueError(f"feature_network = {network.name!r}: gives NaN or infinity for images from {start} on")
        yield features, logits


def embed(images: ImageSet | np.ndarray, network: FeatureNetwork, batch_size: int = 128) -> Embedded:
    """Features and logits of a whole set; raises as `embedded_batches`."""
    features, logits = zip(*embedded_batches(images, network, batch_size), strict=True)
    return Embedded(np.concatenate(features), np.concatenate(logits))


def fid(real: np.ndarray | Iterable[np.ndarray], fake: np.ndarray | Iterable[np.ndarray]) -> float:
    """Fréchet distance (Heusel 2017), |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), of features (n, d) or batches of them.

    Moments are streamed in float64. A set of fewer than d images has a singular covariance and its FID is biased
    upwards: the log warns, and `kid` is the score to read.
    Raises ValueError for features that are not (n, d), not finite, of unequal d, or of a single image.
    """
    metric = None
    for side, rows in (("real", real), ("fake", fake)):
        for chunk in feature_rows(rows, side):
            metric = metric or FrechetInceptionDistance(_ComputedFeatures(chunk.shape[1]))
            require_width(metric.inception.num_features, chunk.shape[1])
            metric.update(chunk, real=side == "real")
    if metric is None:
        raise ValueError("real, fake = no features: expected (n, d) of at least 2 images each")
    _check_count("real", int(metric.real_features_num_samples), metric.inception.num_features)
    _check_count("fake", int(metric.fake_features_num_samples), metric.inception.num_features)
    return max(0.0, float(metric.compute()))


def kid(real: np.ndarray, fake: np.ndarray, *, seed: int, subsets: int = 100, subset_size: int = 1000) -> Score:
    """Kernel distance (Bińkowski 2018), unbiased MMD² with (xᵀy/d + 1)³, over random subsets of features (n, d).

    subset_size is lowered to the smaller set's size; the cost grows with its square. Equal distributions often score
    slightly below 0. Raises as `fid`.
    """
    x, y = (torch.cat(list(feature_rows(rows, side))) for rows, side in ((real, "real"), (fake, "fake")))
    require_width(x.shape[1], y.shape[1])
    _require_two("real", len(x))
    _require_two("fake", len(y))
    metric = _quiet(KernelInceptionDistance, _ComputedFeatures(x.shape[1]), subsets, min(subset_size, len(x), len(y)))
    metric.update(x, real=True)
    metric.update(y, real=False)
    return _seeded(metric, seed)


def inception_score(logits: np.ndarray, *, seed: int, splits: int = 10) -> Score:
    """Inception Score (Salimans 2016), exp E KL(p(y|x) ‖ p(y)), of logits (n, C), over `splits` random parts: 1 … C."""
    rows = torch.cat(list(feature_rows(logits, "logits")))
    _require_two("logits", len(rows))
    metric = _quiet(InceptionScore, _ComputedFeatures(rows.shape[1]), min(splits, len(rows)))
    metric.update(rows)
    return _seeded(metric, seed)


def score_to_read(real: int, fake: int, dimension: int) -> str:
    """The score to read for these numbers of images and features: "FID", or "KID" if FID is biased."""
    return "KID" if min(real, fake) <= dimension else "FID"


class _ComputedFeatures(nn.Module):
    """Replaces the feature network in torchmetrics: the features are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def feature_rows(rows: np.ndarray | Iterable[np.ndarray], name: str) -> Iterator[Tensor]:
    """Features (n, d) or batches of them, float64, at most CHUNK rows at a time; ValueError for others."""
    if isinstance(rows, np.ndarray):
        chunks: Iterable[np.ndarray] = (rows[start : start + CHUNK] for start in range(0, max(1, len(rows)), CHUNK))
    else:
        chunks = rows
    for chunk in chunks:
        if chunk.ndim != 2 or 0 in chunk.shape:
            raise ValueError(f"{name} = {chunk.shape}: expected features (n, d) of at least one image")
        if not np.isfinite(chunk).all():
            raise ValueError(f"{name} = NaN or infinity in some features: expected finite values")
        yield torch.from_numpy(np.asarray(chunk, np.float64))


def require_width(real: int, fake: int) -> None:
    """ValueError unless two sets have the same number of features per image."""
    if real != fake:
        raise ValueError(f"fake = {fake} features per image: real has {real}; embed both sets with one network")


def _require_two(name: str, count: int) -> None:
    if count < 2:
        raise ValueError(f"{name} = {count} images: expected at least 2, to compare distributions")


def _check_count(side: str, count: int, dimension: int) -> None:
    _require_two(side, count)
    if score_to_read(count, count, dimension) == "KID":
        log.warning("FID of %d %s images in %d dimensions is biased upwards: read KID instead", count, side, dimension)


def _quiet(metric: type, *arguments: object) -> KernelInceptionDistance | InceptionScore:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*extracted features in buffer")  # they are in memory anyway
        return metric(*arguments)


def _seeded(metric: KernelInceptionDistance | InceptionScore, seed: int) -> Score:
    """torchmetrics draws its subsets from the global generator."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="std.*degrees of freedom")  # NaN for a single split, as documented
        torch.manual_seed(seed)
        mean, std = metric.compute()
    return Score(float(mean), float(std))


ROWS = 1024  # of a distance matrix held at a time


class Neighbourhoods(NamedTuple):
    """Shares 0 … 1, except density: 1 for equal distributions, and it can be higher."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(real: np.ndarray, fake: np.ndarray, neighbours: int = 5) -> Neighbourhoods:
    """Precision and recall (Kynkäänniemi 2019), density and coverage (Naeem 2020) of features (n, d) and (m, d).

    The ball of an image reaches to its k-th neighbour in its own set. Precision: the share of fake images in a ball of
    a real one; density: the mean number of such balls, over k; recall: the share of real images in a ball of
    a fake one; coverage: the share of real balls with a fake image. k is `neighbours`, at most all
    others. The balls of a small fake set are wide: compare recall only between sets of one size; coverage, unlike FID,
    is meaningful for a few images. Raises as `fid`, and ValueError for neighbours below 1.
    """
    x, y = (torch.cat(list(feature_rows(rows, side))) for rows, side in ((real, "real"), (fake, "fake")))
    require_width(x.shape[1], y.shape[1])
    if neighbours < 1:
        raise ValueError(f"neighbours = {neighbours}: at least 1")
    _require_two("real", len(x))
    _require_two("fake", len(y))
    real_radius, fake_radius = _radii(x, neighbours), _radii(y, neighbours)
    reached, recalled = (torch.zeros(len(x), dtype=torch.bool) for _ in range(2))
    inside = precise = 0
    for rows, radius in zip(y.split(ROWS), fake_radius.split(ROWS), strict=True):
        distance = torch.cdist(rows, x)
        in_real = distance <= real_radius
        inside, precise = inside + int(in_real.sum()), precise + int(in_real.any(dim=1).sum())
        reached |= in_real.any(dim=0)
        recalled |= (distance <= radius[:, None]).any(dim=0)
    share = min(neighbours, len(x) - 1) * len(y)
    return Neighbourhoods(
        precise / len(y), float(recalled.double().mean()), inside / share, float(reached.double().mean())
    )


def _radii(features: Tensor, neighbours: int) -> Tensor:
    kth = min(neighbours, len(features) - 1) + 1  # the first is the image itself
    return torch.cat([torch.cdist(rows, features).kthvalue(kth, dim=1).values for rows in features.split(ROWS)])


KID_SUBSET = 100  # images in a subset


def scores(
    real: Embedded,
    fake: Embedded,
    network: FeatureNetwork,
    *,
    seed: int,
    subset_size: int = KID_SUBSET,
    splits: int = 1,
) -> dict[str, float]:
    """FID, KID and IS of a set against the real one, named after `network`, and the deviations of the last two."""
    distance = kid(real.features, fake.features, seed=seed, subset_size=subset_size)
    inception = inception_score(fake.logits, seed=seed, splits=splits)
    return {
        network.label("FID"): fid(real.features, fake.features),
        network.label("KID"): distance.mean,
        "KID, ±": distance.std,
        network.label("IS"): inception.mean,
        "IS, ±": inception.std,
    }


def distances(
    real: Embedded,
    sets: Mapping[str, Embedded],
    network: FeatureNetwork,
    *,
    seed: int,
    neighbours: int = 5,
    labels: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """One row per set: columns set, images, read (the score to read), `scores`, `neighbourhoods`.

    All sets have the smallest set's sizes of KID's subsets and IS's splits. With `labels` (n,) of every set, for a
    network that knows their classes, also "class named": the share of images that it assigns to their class.
    """
    smallest, dimension = min(len(fake.features) for fake in sets.values()), real.features.shape[1]
    rows = []
    for name, fake in sets.items():
        count = len(fake.features)
        sizes = {"subset_size": min(KID_SUBSET, smallest), "splits": max(1, 4 * count // smallest)}
        row = {"set": name, "images": count, "read": network.label(score_to_read(len(real.features), count, dimension))}
        row |= scores(real, fake, network, seed=seed, **sizes)
        row |= neighbourhoods(real.features, fake.features, neighbours)._asdict()
        if labels is not None:
            row["class named"] = (fake.logits.argmax(axis=1) == labels[name]).mean()
        rows.append(row)
    return pd.DataFrame(rows)


def cached_embed(images: ImageSet | np.ndarray, network: FeatureNetwork, folder: Path) -> Embedded:
    """`embed`, read from `folder` if the same images went through the same network before.

    Same: pixels (of an image set: its fingerprint), weights, kind of device, and the code that embeds. A file that
    cannot be read is made again. Raises as `embed`, and ValueError for a network whose weights are not known.
    """
    if not network.fingerprint:
        raise ValueError(
            f"feature_network = {network.name!r}: has no fingerprint, so its features cannot be kept; use embed"
        )
    key = {
        "images": images_digest(images),
        "network": network.name,
        "weights": network.fingerprint,
        "device": str(getattr(network.device, "type", network.device)),
        "code": module_fingerprint("fidelity"),
    }
    return kept(
        folder / f"{key_digest(key)}.npz",
        lambda path: np.savez(path, **embed(images, network)._asdict()),
        _read_embedded,
    )


def _read_embedded(path: Path) -> Embedded:
    with np.load(path) as file:
        return Embedded(file["features"], file["logits"])
