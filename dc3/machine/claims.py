"""What a checkpoint or a folder of results was made with, so that nothing goes on from another training's weights."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dc3.machine.files import replacing

KEY = "key.json"  # in a folder: what its content was made with


class AnotherTraining(ValueError):
    """A checkpoint of other settings or images than the training that would go on from it; the message names them."""


def check_same(what: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], remedy: str) -> None:
    """AnotherTraining, naming what differs (theirs → ours) and the remedy, unless all of `ours` are theirs."""
    differing = [f"{key} {theirs.get(key)!r} → {ours[key]!r}" for key in ours if theirs.get(key) != ours[key]]
    if differing:
        raise AnotherTraining(f"{what} is of another training ({', '.join(differing)}): {remedy}")


def claim(folder: Path, key: Mapping[str, Any]) -> None:
    """Empties a folder unless what lies in it was made for the same key."""
    if _key(folder) != json.loads(json.dumps(key)):
        shutil.rmtree(folder, ignore_errors=True)
        _write(folder, key)


def claim_or_refuse(folder: Path, key: Mapping[str, Any], remedy: str) -> None:
    """The same for folders that are somebody's own: nothing is removed.

    AnotherTraining where there is something already, made with another key or with none that was written down.
    """
    theirs = _key(folder)
    if theirs is not None:
        check_same(str(folder), theirs, json.loads(json.dumps(key)), remedy)
    elif folder.exists() and any(folder.iterdir()):
        raise AnotherTraining(f"{folder} is not empty, and has no {KEY} that says of which training it is: {remedy}")
    else:
        _write(folder, key)


def _key(folder: Path) -> dict[str, Any] | None:
    return json.loads((folder / KEY).read_text()) if (folder / KEY).exists() else None


def _write(folder: Path, key: Mapping[str, Any]) -> None:
    with replacing(folder / KEY) as partial:
        partial.write_text(json.dumps(key))
