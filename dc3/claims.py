"""What a checkpoint or a folder of results was made with, so that nothing goes on from another training's weights."""

from collections.abc import Mapping
from typing import Any


class AnotherTraining(ValueError):
    """A checkpoint of other settings or images than the training that would go on from it; the message names them."""


def check_same(what: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], remedy: str) -> None:
    """AnotherTraining, naming what differs (theirs → ours) and the remedy, unless all of `ours` are theirs."""
    differing = [f"{key} {theirs.get(key)!r} → {ours[key]!r}" for key in ours if theirs.get(key) != ours[key]]
    if differing:
        raise AnotherTraining(f"{what} is of another training ({', '.join(differing)}): {remedy}")
