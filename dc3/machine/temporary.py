"""Temporary folders with short paths, which the next process removes when the one that made them was killed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "dc3-kernel-"
LOCK = "lock"  # in a folder: held as long as its process lives
LONGEST_SOCKET = 103  # bytes of a socket's path on macOS; 107 on Linux
COMMON = ("/tmp", "/var/tmp")
ATTEMPTS = 5


@contextmanager
def temporary_folder(room: int = 0) -> Iterator[Path]:
    """A new folder for the time of the block, in the system's folder for temporary files.

    room: bytes that the path of a socket in it needs beside the folder's. Folders of killed processes are removed.
    OSError when there is no folder to make one in.
    """
    base = short_base(room + len(f"/{PREFIX}12345678"))
    _remove_abandoned(base)
    folder, lock = _locked_folder(base)
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def short_base(room: int) -> str:
    """The folder for temporary files; another, with a shorter path, where sockets with `room` more bytes do not fit.

    OSError naming TMPDIR when none is short enough.
    """
    usual = tempfile.gettempdir()
    for base in (usual, *COMMON):
        if len(os.fsencode(base)) + room <= LONGEST_SOCKET and os.access(base, os.W_OK):
            return base
    raise OSError(f"TMPDIR = {usual!r}: too long a path for sockets; set TMPDIR to a folder with a shorter one")


def _locked_folder(base: str) -> tuple[Path, FileLock]:
    """A new folder, and its lock, held. Another process may take the folder for abandoned before it is locked."""
    for _ in range(ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, FileNotFoundError):
            continue
        return folder, lock
    raise OSError(f"{base}: a temporary folder cannot be locked")


def _remove_abandoned(base: str) -> None:
    """Removes the folders of this user's killed processes, whose locks nobody holds."""
    for folder in Path(base).glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid() or not (folder / LOCK).is_file():
                continue
            with FileLock(folder / LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):  # in use, or just removed by another process
            continue
