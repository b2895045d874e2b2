"""How much sharpness storing at a larger size costs: images are blown up, stored, and shrunk again for the student.

    python benchmarks/sharpness.py data/cifar10

The shrinking is that of students with factor 1 (`dc3.models.augmentation.shuffled_crops`). Writes
figures/benchmarks/sharpness.csv: stored_size (pixels a side), resampling (of the blowing up), contrast (the mean
absolute difference between neighbouring pixels, over that of the originals), difference (from the originals, of 255).
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer

from dc3.images import datasets
from dc3.images.image_set import ImageSet
from dc3.models.augmentation import shuffled_crops

OUTPUT = Path(__file__).parents[1] / "figures" / "benchmarks" / "sharpness.csv"
SIZES, RESAMPLINGS = (32, 64, 128, 256), ("bilinear", "bicubic")


def neighbour_contrast(images: np.ndarray) -> float:
    """Mean absolute difference between pixels side by side and one above the other, images (n, H, W, 3)."""
    return float(np.abs(np.diff(images, axis=1)).mean() + np.abs(np.diff(images, axis=2)).mean()) / 2


def seen_by_students(images: ImageSet, stored_size: int, image_size: int, resampling: str) -> np.ndarray:
    """The images after storing at one size and shrinking to another: float32 (n, S, S, 3), 0 … 255."""
    stored = torch.from_numpy(images.at(stored_size, resampling).images())
    return shuffled_crops(stored, 1, image_size, torch.Generator().manual_seed(0)).permute(0, 2, 3, 1).numpy()


def measure(images: ImageSet, image_size: int) -> pd.DataFrame:
    """One row per stored size and resampling, at an image size that is that of the originals."""
    originals, rows = images.images(size=image_size).astype(np.float32), []
    for size in (size for size in SIZES if size >= image_size):
        for resampling in RESAMPLINGS:
            seen = seen_by_students(images, size, image_size, resampling)
            contrast = neighbour_contrast(seen) / neighbour_contrast(originals)
            rows.append((size, resampling, contrast, float(np.abs(seen - originals).mean())))
    return pd.DataFrame(rows, columns=["stored_size", "resampling", "contrast", "difference"])


def main(data_dir: str, per_class: int = 100, image_size: int = 32, output: Path = OUTPUT) -> None:
    """Measures the first images of each class in `data_dir`, class folders whose images have `image_size` px."""
    train = datasets.load("imagefolder", "train", data_dir=data_dir, images_per_class=per_class)
    table = measure(train, image_size).round(4)
    table.to_csv(output, index=False)
    print(table.to_markdown(index=False))


if __name__ == "__main__":
    typer.run(main)
