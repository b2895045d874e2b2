"""Files that are complete or absent: write beside the target, flush to the disk, rename over it."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 1 << 20
FULL = 1 << 20  # bytes: with less free, a write that failed is taken to have failed for want of room


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on leaving without an error the file there becomes `path`, durably.

    When the block raises (a full disk, a kill) the temporary file is removed where possible and `path` is as before.
    The suffix of `path` is kept, because writers choose their format by it. OSError naming `path` on a full disk, where
    writers of their own say "unexpected pos 704 vs 598" (torch.save) or "100000 requested and 25568 written" (numpy).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        flush_to_disk(partial)
        os.replace(partial, path)
        flush_to_disk(path.parent)
    except Exception as error:
        if getattr(error, "errno", None) != errno.ENOSPC and shutil.disk_usage(path.parent).free < FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Yields an empty folder beside `path`; on leaving without an error it becomes `path`, with all in it, durably.

    When the block raises it is removed, and nothing is at `path`. FileExistsError when something is there already:
    nobody's folder is replaced.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is there already: remove it, or give another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for entry in partial.rglob("*"):
            flush_to_disk(entry)
        partial.rename(path)
        flush_to_disk(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def flush_to_disk(path: Path) -> None:
    """fsync of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
