"""A finished condensed set, copied to where others can read it: a folder, or a URL that fsspec knows."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from dc3.condensed import PROVENANCE
from dc3.machine.files import replacing
from dc3.machine.folders import walk
from dc3.machine.progress import tqdm
from dc3.machine.storage import Place, Remote


def publish(folder: Path, target: Place) -> int:
    """Copies the condensed set in `folder`, of `condensed.fill`, to `target`; returns the number of images.

    Every file is there whole or not at all, and provenance.parquet, with the SHA-256 of each image, comes last: where
    it is, the set is complete. ValueError as `check_room_for`, OSError where the target cannot be written.
    """
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*.png"))]
    check_room_for(names, target)
    (target / PROVENANCE).unlink(missing_ok=True)
    for name in tqdm([*names, PROVENANCE], desc="published", unit="file"):
        _copy(folder / name, target / name)
    return len(names)


def image_names(classes: int, ipc: int) -> Iterable[str]:
    """The files of a condensed set, as `condensed.fill` names them."""
    return (f"{label:05d}/{rank:05d}.png" for label in range(classes) for rank in range(ipc))


def check_room_for(names: Iterable[str], target: Place) -> None:
    """ValueError when `target` holds images that are not among `names`: whoever loads it would get both."""
    held = target.files() if isinstance(target, Remote) else _files(target)
    strangers = sorted({name for name in held if name.lower().endswith(IMG_EXTENSIONS)} - set(names))
    if strangers:
        some = ", ".join(strangers[:3]) + " …" * (len(strangers) > 3)
        raise ValueError(
            f"condensed_out = {str(target)!r} holds other images ({some}): empty it, or give another place"
        )


def _files(folder: Path) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in walk(folder)] if folder.is_dir() else []


def _copy(source: Path, target: Place) -> None:
    if isinstance(target, Remote):
        target.write_bytes(source.read_bytes())
        return
    with replacing(target) as partial:
        shutil.copyfile(source, partial)
