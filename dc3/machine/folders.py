"""Folders that others made: walked in one order on every machine, links followed, loops of links refused."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path


class LinkLoop(ValueError):
    """A symbolic link that leads back into a folder it lies in; the message names it."""


def walk(folder: Path | str) -> Iterator[str]:
    """Every file below `folder`, as a path that begins with it, in the order of sorted `Path`s.

    Linked folders are entered, as torchvision's ImageFolder does; a link that leads nowhere is given as a file, so that
    whoever opens it says which. Raises LinkLoop, OSError for a folder that cannot be read.
    """
    yield from _walk(str(folder), frozenset())


def _walk(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)
    place = status.st_dev, status.st_ino
    if place in above:
        raise LinkLoop(f"{printable(folder)} lies in itself, by a symbolic link on this path: remove the link")
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
    """A file name as text that every table and terminal takes: bytes that are not UTF-8 are written \\xe9."""
    return os.fsencode(str(name)).decode("utf-8", "backslashreplace")


def is_utf8(name: str) -> bool:
    """Whether a file name can be written as text as it is."""
    return printable(name) == name
