"""Files that are complete or absent: write beside the target, flush to the disk, rename over it."""

import errno
import hashlib
import os
import platform
import re
import shutil
import stat
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

FULL = 1 << 20  # bytes: with less free, a failed write counts as a full disk


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on leaving without an error the file there becomes `path`, durably.

    When the block raises (a full disk, a kill) the temporary file is removed where possible and `path` is as before.
    The suffix of `path` is kept, because writers choose their format by it. OSError naming `path` on a full disk, where
    torch.save says "unexpected pos 704 vs 598" and numpy "100000 requested and 25568 written".
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{_writer()}.partial{path.suffix}")
    try:
        yield partial
        flush_to_disk(partial)
        os.replace(partial, path)
        flush_to_disk(path.parent)
    except Exception as error:
        told = getattr(error, "errno", None) == errno.ENOSPC
        if told and error.filename is None:  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, error.strerror, str(path)) from error  # type: ignore[attr-defined]
        if not told and shutil.disk_usage(path.parent).free < FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Yields an empty folder beside `path`; on leaving without an error it becomes `path`, with all in it, durably.

    When the block raises, the folder is removed. FileExistsError when `path` exists already.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} already exists: remove it, or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{_writer()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for entry in (*partial.rglob("*"), partial):
            flush_to_disk(entry)
        partial.rename(path)
        flush_to_disk(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _writer() -> str:
    """The writing process in the name of a partial file: its number, and its machine's, which may share the folder."""
    return f"{os.getpid()}-{zlib.crc32(platform.node().encode()):08x}"


def remove_abandoned(folder: Path) -> None:
    """Removes partial files and folders in `folder` whose process on this machine is gone."""
    import psutil

    machine = _writer().partition("-")[2]
    for path in folder.glob(".*.partial*"):
        found = re.search(rf"\.([0-9]{{1,9}})-{machine}\.partial(\.|$)", path.name)
        if found and not psutil.pid_exists(int(found[1])):
            remove(path)


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with all in it, if it is there. A link is removed, never what it leads to."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def flush_to_disk(path: Path) -> None:
    """fsync of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_held: dict[Path, FileLock] = {}  # by this process


class Busy(RuntimeError):
    """The lock cannot be taken, most often because another process holds it; the message says what to do."""


def take_lock(path: Path, busy: str, wait: float = 0) -> None:
    """Takes the lock for this process, until `release_lock` or its death; does nothing when it already holds the lock.

    Busy with the message `busy` when another process still holds it after `wait` seconds; Busy naming the file when
    the file cannot be created.
    """
    if path in _held:
        return
    lock = FileLock(path, timeout=wait)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise Busy(busy) from None
    except OSError as error:
        raise Busy(f"the lock file {path} cannot be created: {error}") from error
    _held[path] = lock


def release_lock(path: Path) -> None:
    """Releases the lock; does nothing when this process does not hold it."""
    if path in _held:
        _held.pop(path).release()


@contextmanager
def locked(path: Path, busy: str, wait: float = 0) -> Iterator[None]:
    """`take_lock`, then `release_lock` on leaving."""
    take_lock(path, busy, wait)
    try:
        yield
    finally:
        release_lock(path)


KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def check_regular(path: Path | str) -> None:
    """OSError unless `path` leads to a regular file: opening a pipe or a device could wait for ever."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(f"it is {KINDS.get(stat.S_IFMT(mode), 'something else')}, not a regular file")


class LinkLoop(ValueError):
    """A symbolic link that leads back into a folder above it; the message names it."""


def walk(folder: Path | str) -> Iterator[str]:
    """Every file below `folder`, as a path that begins with it, in the order of sorted `Path`s.

    Linked folders are entered, as by torchvision's ImageFolder; a broken link counts as a file, so that opening it
    names it. Raises LinkLoop, and OSError for a folder that cannot be read.
    """
    yield from _walk(str(folder), frozenset())


def _walk(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)
    place = status.st_dev, status.st_ino
    if place in above:
        raise LinkLoop(f"{printable(folder)} contains itself through a symbolic link on this path: remove the link")
    with os.scandir(folder) as entries:
        found = sorted((entry.name, _is_folder(entry)) for entry in entries)
    for name, is_folder in found:
        path = os.path.join(folder, name)
        if is_folder:
            yield from _walk(path, above | {place})
        else:
            yield path


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LinkLoop(f"{printable(entry.path)} is a link that leads back to itself: remove the link") from error
        raise


def printable(name: str | Path) -> str:
    r"""A file name as text for tables and terminals: bytes that are not UTF-8 are written \xe9."""
    return os.fsencode(str(name)).decode("utf-8", "backslashreplace")


def composed(names: Iterable[str]) -> list[str]:
    """The names in Unicode's normal form C: macOS and others write é in two forms, which look alike and differ."""
    return [unicodedata.normalize("NFC", name) for name in names]


def is_utf8(name: str) -> bool:
    """Whether a file name is valid UTF-8."""
    return printable(name) == name


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the error's class when it has none."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
