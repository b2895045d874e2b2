"""A maker of condensed images for test_engine_faults, light to import; it lingers as long as a file is there."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dc3.condensed import Made, Storage
from dc3.images.image_set import in_memory

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
IMAGES = in_memory("noise", "train", ["a", "b"], np.repeat([0, 1], 6), PIXELS)
PICKS = pd.DataFrame({"index": np.arange(12), "label": np.arange(12) // 6, "bin": 0, "rank": np.arange(12) % 6})
STORAGE = Storage(8)
STAMP = {"method": "inverted"}
BATCH = 2


@dataclass(frozen=True)
class Inverted:
    """The pick with its colours inverted; from the third batch on it waits for `lingering` to go."""

    lingering: Path

    def __call__(self, rows):
        while self.lingering.exists() and rows.index[0] >= 2 * BATCH:
            time.sleep(0.05)
        for row, index in zip(rows.index, rows["index"], strict=True):
            yield Made(row, 255 - PIXELS[index], {"attempt": 0})
