"""Finished work is kept: a file or folder is complete or absent, made for exactly one key, and else made again.

A file carries the digest of its key in its name, a folder its key in a file of its own.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dc3.machine.files import replacing

log = logging.getLogger(__name__)

KEY = "key.json"  # in a folder: what its content was made with
Content = TypeVar("Content")
Key = Mapping[str, Any]


class AnotherTraining(ValueError):
    """What is there was made by another training than the one that would go on from it; the message says which."""


def key_digest(key: Key) -> str:
    """Hex SHA-256 of a key, values that JSON knows, for the name of the file that is made for it."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def kept(path: Path, write: Callable[[Path], Any], read: Callable[[Path], Content]) -> Content:
    """What `read` makes of the file at `path`, which `write` first makes where it is absent or damaged.

    The name of the file, or of a folder that is `kept_folder`, says what it was made for. `write` gets a path beside
    it, with the same suffix; a kill before its end leaves nothing at `path`.
    """
    found = read_undamaged(path, read)
    if found is not None:
        return found
    with replacing(path) as partial:
        write(partial)
    return read(path)


def read_undamaged(path: Path, read: Callable[[Path], Content]) -> Content | None:
    """What `read` makes of a file; None where there is none, or a damaged one, which is removed with a warning.

    An error of the disk or of memory is raised: the file may be in order.
    """
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except MemoryError:
        raise
    except Exception as error:  # each format has errors of its own
        if getattr(error, "errno", None):
            raise
        log.warning("%s is damaged (%s) and is made again", path, type(error).__name__)
        path.unlink(missing_ok=True)
        return None


def kept_folder(folder: Path, key: Key, remedy: str = "") -> None:
    """What lies in `folder` afterwards was made for `key`: anything else is removed.

    With a `remedy` the folder is somebody's own and nothing is removed: AnotherTraining, which ends in the remedy, for
    a folder with the content of another key, or of one that is not written down or cannot be read.
    """
    key = json.loads(json.dumps(key))
    found = _key_of(folder)
    if found == key:
        return
    if remedy and found is not None:
        check_same_training(str(folder), found, key, remedy)
    if remedy and folder.exists() and any(folder.iterdir()):
        raise AnotherTraining(f"{folder} is not empty, and has no {KEY} that says what it was made with: {remedy}")
    shutil.rmtree(folder, ignore_errors=True)
    with replacing(folder / KEY) as partial:
        partial.write_text(json.dumps(key))


def check_same_training(what: str, found: Key, wanted: Key, remedy: str) -> None:
    """AnotherTraining, naming what differs (found → wanted) and the remedy, unless all of `wanted` was found."""
    differing = [f"{name} {found.get(name)!r} → {wanted[name]!r}" for name in wanted if found.get(name) != wanted[name]]
    if differing:
        raise AnotherTraining(f"{what} is of another training ({', '.join(differing)}): {remedy}")


def _key_of(folder: Path) -> dict[str, Any] | None:
    """The key of a folder; None where there is none, or one that cannot be read."""
    try:
        key = json.loads((folder / KEY).read_text())
    except (OSError, ValueError):
        return None
    return key if isinstance(key, dict) else None
