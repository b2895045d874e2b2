"""Finished work is kept: a file or folder is complete or absent, and made again when its key changes.

A file has the digest of its key in its name, a folder its key in key.json.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dc3.machine.files import remove, replacing

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

KEY = "key.json"  # in a folder: what its content was made from
Content = TypeVar("Content")
Key = Mapping[str, Any]


class AnotherTraining(ValueError):
    """Saved work comes from a training with another key; the message names the differences."""


def key_digest(key: Key) -> str:
    """Hex SHA-256 of a key with JSON values, for the name of its file."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def kept(path: Path, write: Callable[[Path], Any], read: Callable[[Path], Content]) -> Content:
    """What `read` makes of the file at `path`, which `write` makes first when it is absent or damaged.

    The file's name, or its folder's through `kept_folder`, says what it was made for. `write` gets a path beside it,
    with the same suffix; a kill during `write` leaves nothing at `path`.
    """
    found = read_undamaged(path, read)
    if found is not None:
        return found
    with replacing(path) as partial:
        write(partial)
    return read(path)


def kept_table(path: Path, make: Callable[[], "pd.DataFrame"]) -> "pd.DataFrame":
    """The table at `path`, a Parquet file, which `make` makes first when it is absent or damaged."""
    import pandas as pd

    return kept(path, lambda partial: make().to_parquet(partial), pd.read_parquet)


def read_undamaged(path: Path, read: Callable[[Path], Content]) -> Content | None:
    """What `read` makes of a file; None when it is absent or damaged. A damaged one is named in a warning and stays.

    Errors of the disk, of memory and of a missing library are raised: they say nothing about the file.
    """
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # each format raises its own
        if getattr(error, "errno", None):
            raise
        log.warning("%s is damaged (%s): it will be made again", path, type(error).__name__)
        return None


def kept_folder(folder: Path, key: Key, remedy: str = "") -> None:
    """Empties `folder` unless its content was made for `key`, and writes the key there.

    With a `remedy` nothing is removed: AnotherTraining, which ends in the remedy, for a folder with content of another,
    missing or unreadable key.
    """
    key = json.loads(json.dumps(key))
    found = _key_of(folder)
    if found == key:
        return
    if remedy and found is not None:
        check_same_training(str(folder), found, key, remedy)
    if remedy and folder.exists() and any(folder.iterdir()):
        raise AnotherTraining(f"{folder} is not empty and has no readable {KEY}: {remedy}")
    remove(folder)
    with replacing(folder / KEY) as partial:
        partial.write_text(json.dumps(key), encoding="utf-8")


def check_same_training(what: str, found: Key, wanted: Key, remedy: str) -> None:
    """AnotherTraining, naming the differences (found → wanted) and the remedy, unless `found` has all of `wanted`."""
    differing = [f"{name} {found.get(name)!r} → {wanted[name]!r}" for name in wanted if found.get(name) != wanted[name]]
    if differing:
        raise AnotherTraining(f"{what} comes from another training ({', '.join(differing)}): {remedy}")


def _key_of(folder: Path) -> dict[str, Any] | None:
    """The key of a folder; None when it is absent or unreadable."""
    try:
        key = json.loads((folder / KEY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return key if isinstance(key, dict) else None
