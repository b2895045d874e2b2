"""Colour statistics of image sets, uint8 (n, H, W, 3). Per image where possible, to be bootstrapped."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial import ConvexHull
from skimage.color import lab2rgb, rgb2lab
from sklearn.cluster import KMeans

from dc3.images.image_set import check_images

CHUNK_PIXELS = 1 << 20
VISIBLE_CHROMA = 1.0  # CIELAB; below it a pixel is grey and its hue is rounding noise
SMALLEST_BANDWIDTH = 1 / 255  # one grey level: pixels are no finer than that


class Interval(NamedTuple):
    """A statistic with the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """The three numbers as columns of a table."""
        return {name: self.value, f"{name}, low": self.low, f"{name}, high": self.high}


def colorfulness(images: np.ndarray) -> np.ndarray:
    """Hasler & Süsstrunk 2003: sqrt(σ_rg² + σ_yb²) + 0.3·sqrt(μ_rg² + μ_yb²), rg = R − G, yb = (R + G)/2 − B.

    images: uint8 (n, H, W, 3). Returns (n,) float64, 0 for grey and about 110 for the most colourful photographs.
    """
    return np.concatenate([_colorfulness(chunk.astype(np.float64)) for chunk in _chunks(images)])


def _colorfulness(rgb: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb.reshape(len(rgb), -1, 3), -1, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    spread, offset = opponents.var(axis=2).sum(axis=0), (opponents.mean(axis=2) ** 2).sum(axis=0)
    return np.sqrt(spread) + 0.3 * np.sqrt(offset)


def mean_lab(images: np.ndarray) -> np.ndarray:
    """The mean CIELAB colour of each image (D65, 2°): (n, 3) float64, L* 0…100."""
    return np.concatenate([_lab(chunk).mean(axis=1) for chunk in _chunks(images)])


def hue_histogram(images: np.ndarray, bins: int = 36) -> np.ndarray:
    """The hue circle of each image: chroma per CIELAB hue angle atan2(b*, a*), averaged over its pixels, (n, bins).

    Bin 0 starts at 0°, counter-clockwise. Lab rather than HSV because its chroma fades with darkness, as a colour does.
    Pixels below VISIBLE_CHROMA do not count. The sum over images is the set's histogram.
    """
    return np.concatenate([_hue_histogram(_lab(chunk), bins) for chunk in _chunks(images)])


def _hue_histogram(lab: np.ndarray, bins: int) -> np.ndarray:
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    chroma[chroma < VISIBLE_CHROMA] = 0
    angle = np.arctan2(lab[..., 2], lab[..., 1]) / (2 * np.pi) % 1
    cell = np.minimum((angle * bins).astype(np.int64), bins - 1) + bins * np.arange(len(lab))[:, None]
    mass = np.bincount(cell.ravel(), chroma.ravel(), minlength=len(lab) * bins)
    return mass.reshape(len(lab), bins) / lab.shape[1]


def hue_entropy(histogram: np.ndarray) -> float:
    """Shannon entropy in bits of a hue histogram, (bins,) or (n, bins) summed over its images: 0 … log2(bins).

    0 for one hue and for a set without colour. A statistic for `bootstrap_ci` over per-image histograms.
    """
    total = histogram.reshape(-1, histogram.shape[-1]).sum(axis=0)
    if total.sum() == 0:
        return 0.0
    share = total[total > 0] / total.sum()
    return float(-(share * np.log2(share)).sum())


def description(images: np.ndarray, hues: int = 12) -> np.ndarray:
    """What colours each image has, (n, 6 + hues) float64, all in units of CIELAB, to be compared by Euclidean distance.

    Mean and standard deviation of L*, a* and b* (Reinhard et al. 2001), and a hue histogram weighted by chroma (van de
    Weijer & Schmid 2006) with soft bins: a pixel's chroma is shared between the two nearest centres of `hues` bins, the
    first at 0°, so that no small change of hue moves a pixel from one bin to the next.
    """
    return np.concatenate([_description(_lab(chunk), hues) for chunk in _chunks(images)])


def _description(lab: np.ndarray, hues: int) -> np.ndarray:
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    chroma[chroma < VISIBLE_CHROMA] = 0
    position = np.arctan2(lab[..., 2], lab[..., 1]) / (2 * np.pi) % 1 * hues
    lower = np.floor(position).astype(np.int64)
    row = hues * np.arange(len(lab))[:, None]
    mass = np.zeros(len(lab) * hues)
    for bin_of_pixel, share in ((lower, 1 - (position - lower)), (lower + 1, position - lower)):
        mass += np.bincount((row + bin_of_pixel % hues).ravel(), (share * chroma).ravel(), minlength=len(mass))
    return np.hstack([lab.mean(axis=1), lab.std(axis=1), mass.reshape(len(lab), hues) / lab.shape[1]])


def rgb_density(images: np.ndarray, grid: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian kernel density of the normalised R, G and B values: positions (grid,) over [0, 1], densities (3, grid).

    Exact over all pixels, because there are only 256 levels; Scott's bandwidth, at least one level. There is no
    boundary correction: mass near 0 and 1 leaks out.
    """
    levels, positions = np.arange(256) / 255, np.linspace(0, 1, grid)
    counts = np.zeros((3, 256))
    for chunk in _chunks(images):
        counts += [np.bincount(chunk[..., channel].ravel(), minlength=256) for channel in range(3)]
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    deviation = np.sqrt(share @ levels**2 - mean**2 + 1e-18)
    bandwidth = np.maximum(deviation * counts[0].sum() ** -0.2, SMALLEST_BANDWIDTH)[:, None, None]
    kernel = np.exp(-0.5 * ((positions[:, None] - levels) / bandwidth) ** 2) / (bandwidth * np.sqrt(2 * np.pi))
    return positions, np.einsum("cgl,cl->cg", kernel, share)


def gamut_area_of_equal_sets(
    images: np.ndarray, size: int, *, level: float = 0.95, seed: int, draws: int = 200
) -> Interval:
    """Area of the convex hull of the pixels of `size` images in the (a*, b*) plane, CIELAB units²; 0 on a line.

    The mean, and the range that holds `level` of the random draws without replacement.

    A hull only grows with images, so sets of unequal size are compared as ecologists compare species counts, by
    rarefaction. With half of a set (size = n/2), the range is as wide as a bootstrap's; the bootstrap itself draws
    images twice, so that a small set would lose colours.
    Raises ValueError for a size outside 1 … n.
    """
    outlines = [_outline(lab[:, 1:]) for chunk in _chunks(images) for lab in _lab(chunk)]
    if not 1 <= size <= len(outlines):
        raise ValueError(f"size = {size}: expected 1 … {len(outlines)}, the number of images")
    rng = np.random.default_rng(seed)
    drawn = (rng.choice(len(outlines), size, replace=False) for _ in range(draws))
    areas = [_area(_outline(np.concatenate([outlines[k] for k in chosen]))) for chosen in drawn]
    low, high = np.quantile(areas, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(areas)), float(low), float(high))


def _outline(plane: np.ndarray) -> np.ndarray:
    """The corners of the convex hull of points (n, 2); all distinct points where they lie on a line."""
    return np.unique(plane, axis=0) if _on_a_line(plane) else plane[ConvexHull(plane).vertices]


def _area(outline: np.ndarray) -> float:
    return 0.0 if _on_a_line(outline) else float(ConvexHull(outline).volume)  # "volume": the area in two dimensions


def _on_a_line(plane: np.ndarray) -> bool:
    return len(plane) < 3 or bool(np.linalg.matrix_rank(plane - plane[0], tol=1e-2) < 2)


def palette(images: np.ndarray, colors: int = 6, *, seed: int, pixels: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """The set's main colours, K-means in CIELAB over a sample of pixels: uint8 (colors, 3), and shares, falling."""
    images = _checked_images(images)
    sample = np.random.default_rng(seed).integers(images[..., 0].size, size=pixels)
    flat = images.reshape(-1, 3)[sample]
    distinct = len(np.unique(flat, axis=0))
    model = KMeans(min(colors, distinct), random_state=seed).fit(_lab(flat[None])[0])
    share = np.bincount(model.labels_, minlength=model.n_clusters) / pixels
    order = np.argsort(-share, kind="stable")
    rgb = lab2rgb(model.cluster_centers_[order][None])[0]
    return np.rint(rgb * 255).astype(np.uint8), share[order]


def bootstrap_ci(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] = np.mean,
    level: float = 0.95,
    *,
    seed: int,
    resamples: int = 1000,
) -> Interval:
    """Percentile bootstrap (Efron 1979) of statistic(values), resampling `values` (n, …) along its first axis.

    Raises ValueError for fewer than two values (one has no spread), NaN, or a level outside (0, 1).
    """
    values = np.asarray(values)
    if values.ndim == 0 or len(values) < 2 or np.isnan(values).any():
        raise ValueError(f"values = {values.dtype} {values.shape}: expected at least two values and no NaN")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: expected a fraction between 0 and 1, such as 0.95")
    rng = np.random.default_rng(seed)
    draws = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(resamples)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(values)), float(low), float(high))


def statistics(sets: Mapping[str, np.ndarray], *, seed: int) -> pd.DataFrame:
    """One row per set, uint8 (n, H, W, 3) by name: set, images, and each statistic with the ends of its interval.

    Colourfulness and hue entropy are bootstrapped; gamuts use half as many images as the smallest set has.
    """
    size = min(map(len, sets.values())) // 2
    rows = []
    for name, images in sets.items():
        measured = {
            "colourfulness M": bootstrap_ci(colorfulness(images), seed=seed),
            "hue entropy (bits)": bootstrap_ci(hue_histogram(images), hue_entropy, seed=seed),
            f"gamut of {size} images (a*b*)": gamut_area_of_equal_sets(images, size, seed=seed),
        }
        columns = [interval.columns(column) for column, interval in measured.items()]
        rows.append(
            {"set": name, "images": len(images)} | {key: value for part in columns for key, value in part.items()}
        )
    return pd.DataFrame(rows)


def _lab(rgb: np.ndarray) -> np.ndarray:
    return rgb2lab(rgb).reshape(len(rgb), -1, 3)


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    images = _checked_images(images)
    step = max(1, CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), step):
        yield images[start : start + step]


def _checked_images(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    check_images(images)
    if not images.size:
        raise ValueError(f"images = {images.shape}: expected at least one image")
    return images
