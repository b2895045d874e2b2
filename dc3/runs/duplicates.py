"""Image files with the same bytes in the splits of a data set."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pandas as pd

from dc3.images.decoding import UnreachableImage, UnreadableImage, read_bytes
from dc3.images.image_set import DECODERS, ImageSet
from dc3.machine.paths import Place

COLUMNS = ["split", "class", "source", "digest"]


@dataclass(frozen=True)
class Duplicates:
    """Readable files that have the same bytes as others: `files` has one row for each, COLUMNS."""

    files: pd.DataFrame

    def equal_within(self, split: str) -> int:
        """Files of a split that repeat an earlier one."""
        return int(self._of(split).duplicated("digest").sum())

    def across_classes(self, split: str) -> int:
        """Files of a split that also lie in another of its classes."""
        own = self._of(split)
        return int((own.groupby("digest")["class"].transform("nunique") > 1).sum())

    def shared(self, first: str, second: str) -> pd.DataFrame:
        """The files of split `first` that are also in `second`, in order."""
        own = self._of(first)
        return own[own["digest"].isin(self._of(second)["digest"])]

    def _of(self, split: str) -> pd.DataFrame:
        return self.files[self.files["split"] == split]


def find(splits: Mapping[str, ImageSet]) -> Duplicates:
    """Compares the files of image sets by their bytes; files of a size of their own are not read."""
    rows = [
        (name, images.classes[int(label)], source, index)
        for name, images in splits.items()
        for index, (label, source) in enumerate(zip(images.labels, images.sources, strict=True))
    ]
    table = pd.DataFrame(rows, columns=["split", "class", "source", "index"])
    with ThreadPoolExecutor(DECODERS) as pool:
        paths = [splits[split].file(index) for split, _, _, index in rows]
        table["size"] = list(pool.map(_size, paths))
        same = (table["size"] >= 0) & table.duplicated("size", keep=False)
        table["digest"] = list(pool.map(_digest, paths, same))
    equal = table[(table["digest"] != "") & table.duplicated("digest", keep=False)]
    return Duplicates(equal[COLUMNS].reset_index(drop=True))


def _size(path: Place) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest(path: Place, wanted: bool) -> str:
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest() if wanted else ""
    except (UnreadableImage, UnreachableImage):
        return ""
