"""Arrays larger than memory: .npy files that are written and read some rows at a time.

A memory map would do, but the pages written or read through it count as the process's own memory until the system
reclaims them; for the latents of ImageNet that is 42 GB.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

T = TypeVar("T")
BLOCK_ROWS = 4096


class Rows(Protocol):
    """Anything with rows: an array, a memory map, or an object that computes them on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray) -> np.ndarray: ...


class RowFile:
    """A .npy of a known shape, written some rows at a time; byte for byte what np.save writes."""

    def __init__(self, path: Path, shape: tuple[int, int], dtype: np.dtype | type | str, what: str) -> None:
        """`what` names the rows in messages. OSError, before any work is done, when the disk has no room for them."""
        self.path, self.shape, self.dtype, self.filled = path, shape, np.dtype(dtype), 0
        self._file = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.flush()
        self._start = self._file.tell()
        self._reserve(shape[0] * shape[1] * self.dtype.itemsize, what)

    def _reserve(self, size: int, what: str) -> None:
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self._file.fileno(), 0, self._file.tell() + size)
        except OSError as error:
            self._file.close()
            message = f"no room for {size / 1e9:.3f} GB of {what} ({error.strerror}): free some space on this disk"
            raise OSError(error.errno, message, str(self.path)) from error

    def put(self, positions: np.ndarray, rows: np.ndarray) -> None:
        """Rows (b, columns) at their positions (b,), in any order, each position once; cast to the file's dtype.

        ValueError for another width, or more rows than the file has.
        """
        if rows.shape != (len(positions), self.shape[1]) or self.filled + len(rows) > self.shape[0]:
            raise ValueError(f"rows of shape {rows.shape} do not fit: {self.filled} rows of {self.shape} are written")
        rows = np.ascontiguousarray(rows, self.dtype)
        runs = np.flatnonzero(np.diff(positions) != 1) + 1
        for places, part in zip(np.split(positions, runs), np.split(rows, runs), strict=True):
            self._file.seek(self._start + int(places[0]) * self.shape[1] * self.dtype.itemsize)
            self._file.write(part.data)
        self.filled += len(rows)

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._file.close()
        if kind is None and self.filled != self.shape[0]:
            raise ValueError(f"{self.filled} of {self.shape[0]} rows were written")


def read_rows(array: Rows, rows: np.ndarray) -> np.ndarray:
    """A copy (b, columns) of the rows numbered (b,); the pages of a memory map are released."""
    found = array[rows]
    if isinstance(array, np.ndarray) and np.may_share_memory(found, array):  # `rows` was a slice
        found = np.array(found)
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED") and getattr(array, "mode", None) == "r":
        mapped.madvise(mmap.MADV_DONTNEED)
    return np.asarray(found)


@dataclass
class OnDisk:
    """A .npy by its path, opened where it is read: sent to other processes instead of a memory map."""

    path: str
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return read_rows(np.load(self.path, mmap_mode="r"), rows)


def portable(array: T) -> T | OnDisk:
    """The array, or for a whole memory-mapped .npy its path."""
    if isinstance(array, np.memmap) and not isinstance(array.base, np.ndarray):
        return OnDisk(str(array.filename), len(array))
    return array


def blocks(array: Rows) -> Iterator[np.ndarray]:
    """All rows in order, BLOCK_ROWS at a time: (≤ BLOCK_ROWS, columns)."""
    for start in range(0, len(array), BLOCK_ROWS):
        yield read_rows(array, np.arange(start, min(start + BLOCK_ROWS, len(array))))


def is_finite(array: Rows) -> bool:
    """Whether no value is NaN or infinite; holds one block of rows in memory at a time."""
    return all(np.isfinite(block).all() for block in blocks(array))


def groups(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each distinct value of labels (n,), ascending, with its positions, ascending int64. One sort in all."""
    if not len(labels):
        return
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    yield from zip(values, np.split(order, starts[1:]), strict=True)
