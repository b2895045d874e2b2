"""Locks of the operating system: one process at a time works on a run, and one on a stage.

A process that dies, however it dies, holds its locks no longer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_held: dict[Path, FileLock] = {}  # by this process


class Busy(RuntimeError):
    """The lock is not to be had, most often because another process holds it; the message says what to do."""


def take(path: Path, busy: str, wait: float = 0) -> None:
    """Takes the lock for this process, until `release` or its death; what it holds already it keeps.

    Busy with the message `busy` when another process still holds it after `wait` seconds, and naming the file where
    the file system does not let it be made.
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
        raise Busy(f"the lock {path} cannot be made: {error}") from error
    _held[path] = lock


def release(path: Path) -> None:
    """Gives the lock back; one that this process does not hold is left alone."""
    if path in _held:
        _held.pop(path).release()


@contextmanager
def holding(path: Path, busy: str, wait: float = 0) -> Iterator[None]:
    """`take`, and `release` afterwards."""
    take(path, busy, wait)
    try:
        yield
    finally:
        release(path)
