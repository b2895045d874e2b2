"""A condensed set on disk: PNGs in class folders 00000/, 00001/ … (the layout of RDED), and the sources of each image.

Each PNG has its history in a text chunk, so that a run recognises and keeps each finished image after a kill or a copy;
a key of the whole folder (`dc3.machine.keeping`) could not do that. The provenance table stands beside the class
folders and is written last: a folder with a provenance table is complete.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin

from dc3.images.datasets import IMG_EXTENSIONS, image_folder
from dc3.images.decoding import size_of
from dc3.images.image_set import ImageSet
from dc3.machine.engine import LOCAL, Columns, Engine
from dc3.machine.files import printable, replacing, sha256
from dc3.machine.keeping import read_undamaged
from dc3.machine.paths import Place, files_below, reaching
from dc3.machine.progress import tqdm

CHUNK_KEY = "dc3"  # of the PNG text chunk
PROVENANCE = "provenance.parquet"
NOT_IN_THE_TABLE = ("warm_prompts", "cold_prompts")  # the same for all images; the drawn prompts are in the table


class Made(NamedTuple):
    """A condensed image: its row in the table of picks, its pixels uint8 (S, S, 3), and its draws."""

    row: int
    image: np.ndarray
    draw: dict[str, Any]


def fill(
    folder: Path,
    images: ImageSet,
    picks: pd.DataFrame,
    stamp: dict[str, Any],
    make: Callable[[pd.DataFrame], Iterable[Made]],
    batch: int,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Makes the missing images of a condensed set and returns its provenance, one row per image.

    `picks` has one row per image, columns index (its first source in `images`), label, bin, rank; image (label, rank)
    becomes folder/<label>/<rank>.png. `stamp` is the history that all images share; `make` makes the images of `batch`
    rows of the picks at a time, locally or in Ray's actors. Keeps images with the same history, removes files that
    belong to no pick.
    """
    picks = picks.sort_values(["label", "rank"]).reset_index(drop=True)
    targets = [folder / f"{row.label:05d}" / f"{row.rank:05d}.png" for row in picks.itertuples()]
    stamp = json.loads(json.dumps(stamp))
    (folder / PROVENANCE).unlink(missing_ok=True)
    _remove_others(folder, set(targets))
    origins = [_origin(images, int(index), stamp) for index in picks["index"]]
    waiting = [k for k, path in enumerate(targets) if not _is_made(path, origins[k])]
    with tqdm(total=len(picks), initial=len(picks) - len(waiting), desc="condensed", unit="img") as bar:
        for made in _all_made(make, picks, np.array(waiting, np.int64), batch, engine):
            _write(targets[made.row], made.image, origins[made.row] | {"draw": made.draw})
            bar.update()
    table = _provenance(images, picks, targets, folder)
    with replacing(folder / PROVENANCE) as partial:
        table.to_parquet(partial)
    return table


def _all_made(
    make: Callable[[pd.DataFrame], Iterable[Made]], picks: pd.DataFrame, waiting: np.ndarray, batch: int, engine: Engine
) -> Iterator[Made]:
    parts = [waiting[start : start + batch] for start in range(0, len(waiting), batch)]
    if engine.is_local:  # image by image, to keep those that a batch made before an error
        for part in parts:
            yield from make(picks.loc[part])
    elif parts:
        for block in engine.map(MakeWork(make, picks), parts, "condensed"):
            for row, image, drawn in zip(block["row"], block["image"], block["draw"], strict=True):
                yield Made(int(row), image, json.loads(drawn))


@dataclass(frozen=True, eq=False)
class MakeWork:
    """`engine.Work`: the images of some rows of the picks, columns "row", "image" uint8 and "draw" (JSON)."""

    make: Callable[[pd.DataFrame], Iterable[Made]]
    picks: pd.DataFrame

    def __call__(self, chunk: np.ndarray) -> Columns:
        """The chunk's picks: their rows, images and draws."""
        rows, images, draws = zip(*self.make(self.picks.loc[chunk]), strict=True)
        return {"row": np.array(rows), "image": np.stack(images), "draw": [json.dumps(drawn) for drawn in draws]}


def _write(target: Path, image: np.ndarray, history: dict[str, Any]) -> None:
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text(CHUNK_KEY, json.dumps(history))
    with replacing(target) as partial:
        Image.fromarray(image).save(partial, format="PNG", pnginfo=chunk)


def history(path: Path) -> dict[str, Any]:
    """The history in a PNG: {"index", "source_sha256", "set", "draw"}."""
    with Image.open(path) as image:
        image.load()
        return json.loads(image.text[CHUNK_KEY])


def _origin(images: ImageSet, index: int, stamp: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "source_sha256": source_sha256(images, index), "set": stamp}


def _is_made(path: Path, origin: dict[str, Any]) -> bool:
    made = read_undamaged(path, history)
    return made is not None and origin.items() <= made.items()


def _remove_others(folder: Path, targets: set[Path]) -> None:
    for path in folder.glob("*/*"):
        if path not in targets:
            path.unlink()


def _provenance(images: ImageSet, picks: pd.DataFrame, targets: list[Path], folder: Path) -> pd.DataFrame:
    rows = []
    for row, target in zip(picks.itertuples(), targets, strict=True):
        made = history(target)
        rows.append(
            {
                "index": made["index"],
                "source": printable(images.source(made["index"])),
                "source_sha256": made["source_sha256"],
                "class": images.classes[int(row.label)],
                "label": int(row.label),
                "bin": int(row.bin),
                "rank": int(row.rank),
                **made["draw"],
                **{key: value for key, value in made["set"].items() if key not in NOT_IN_THE_TABLE},
                "file": target.relative_to(folder).as_posix(),
                "sha256": sha256(target),
            }
        )
    return pd.DataFrame(rows)


def source_sha256(images: ImageSet, index: int) -> str:
    """SHA-256 of the file of image `index`; of its pixels (uint8, row by row) if there is no file."""
    content = images.images([index]).tobytes() if images.root is None else images.file(index).read_bytes()
    return hashlib.sha256(content).hexdigest()


def load(
    folder: Path | str,
    classes: tuple[str, ...],
    image_size: int,
    *,
    allow_unequal: bool = False,
    parameter: str = "condensed_dir",
) -> ImageSet:
    """Loads a condensed set, ours or another: class folders that sort as `classes`, or are named 00000, ….

    `parameter` named the folder, for messages.
    Raises ValueError for other classes, a class without images, unequal IPC (unless allowed) and images of another size
    than `image_size`; FileNotFoundError for a missing `folder`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{parameter} = {str(folder)!r}: not a folder; expected one with class folders")
    found = image_folder(folder, name="condensed", split=folder.name, image_size=image_size, parameter=parameter)
    where = f"{parameter} = {str(folder)!r}"
    _check_names(where, found.classes, classes)
    counts = found.counts()
    if counts.min() != counts.max() and not allow_unequal:
        few, many = classes[counts.argmin()], classes[counts.argmax()]
        raise ValueError(
            f"{where}: {counts.min()} images of {few} and {counts.max()} of {many}; "
            "expected the same number (IPC) of each class"
        )
    _check_sizes(where, found)
    return found.cached()


def load_beside(folders: list[str], classes: tuple[str, ...], image_size: int, parameter: str) -> dict[str, ImageSet]:
    """Other condensed sets, named by their folders, with any IPC. Raises as `load`.

    ValueError for two folders of one name.
    """
    sets: dict[str, ImageSet] = {}
    for folder in map(Path, folders):
        if folder.name in sets:
            raise ValueError(f"{parameter} = {folders!r}: two folders are named {folder.name!r}; rename one")
        sets[folder.name] = load(folder, classes, image_size, allow_unequal=True, parameter=parameter)
    return sets


def _check_names(where: str, found: tuple[str, ...], classes: tuple[str, ...]) -> None:
    numbered = tuple(f"{label:05d}" for label in range(len(classes)))
    if found in (tuple(classes), numbered):
        return
    expected = numbered if all(name.isdigit() for name in found) else tuple(classes)
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    faults = [f"no folder for {', '.join(missing[:5])}"] if missing else []
    faults += [f"folders without a class: {', '.join(unknown[:5])}"] if unknown else []
    raise ValueError(
        f"{where}: {'; '.join(faults) or 'the class folders sort in another order'} "
        f"({len(found)} folders for {len(classes)} classes)"
    )


def _check_sizes(where: str, found: ImageSet) -> None:
    for index, source in enumerate(found.sources):
        width, height = size_of(found.file(index))
        if (width, height) != (found.image_size, found.image_size):
            raise ValueError(
                f"{where}: {printable(source)} is {width}×{height} px, the data set's images are "
                f"{found.image_size}×{found.image_size} px"
            )


def sizes(sets: Mapping[str, ImageSet]) -> dict[str, tuple[int, float]]:
    """Images and stored bytes per class of training sets, by name.

    The bytes are those of PNG files of the pixels, without histories, also for sets in memory.
    """
    found = {}
    with ThreadPoolExecutor() as pool:
        for name, images in sets.items():
            stored = sum(pool.map(lambda k, of=images: _png_bytes(of.images([k])[0]), range(len(images))))
            found[name] = len(images) // len(images.classes), stored / len(images.classes)
    return found


def storage(ipc: int, stored_bytes: float, train: ImageSet, epochs: int) -> dict[str, int]:
    """Bytes of a condensed set's images, of its soft labels over `epochs`, and of the full training set's pixels.

    ipc, stored_bytes: per class, of `sizes`. Soft labels take two bytes per class for each image and epoch.
    """
    classes = len(train.classes)
    return {
        "images": round(stored_bytes * classes),
        "soft labels, if kept": 2 * ipc * classes * epochs * classes,
        "full training set, uncompressed": 3 * len(train) * train.image_size**2,
    }


def _png_bytes(image: np.ndarray) -> int:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.tell()


def publish(folder: Path, target: Place) -> int:
    """Copies the condensed set in `folder` (by `fill`) to `target`; returns the number of images.

    Every file arrives complete or not at all; provenance.parquet, with the SHA-256 of each image, comes last: with it
    the set is complete. ValueError as `check_room_for`, OSError if the target cannot be written.
    """
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*.png"))]
    check_room_for(names, target)
    with reaching(target):
        (target / PROVENANCE).unlink(missing_ok=True)
        for name in tqdm([*names, PROVENANCE], desc="published", unit="file"):
            _copy(folder / name, target / name)
    return len(names)


def image_names(classes: int, ipc: int) -> Iterable[str]:
    """The files of a condensed set, as `fill` names them."""
    return (f"{label:05d}/{rank:05d}.png" for label in range(classes) for rank in range(ipc))


def check_room_for(names: Iterable[str], target: Place) -> None:
    """ValueError if `target` holds images that are not among `names`: a reader would load both."""
    with reaching(target):
        held = files_below(target) if target.is_dir() else ()
    others = sorted({name for name in held if name.lower().endswith(IMG_EXTENSIONS)} - set(names))
    if others:
        some = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
        raise ValueError(
            f"condensed_out = {str(target)!r}: holds other images ({some}); empty it, or give another place"
        )


def _copy(source: Path, target: Place) -> None:
    if isinstance(target, Path):
        with replacing(target) as partial:
            shutil.copyfile(source, partial)
    else:
        target.fs.makedirs(target.parent.path, exist_ok=True)
        target.fs.pipe_file(target.path, source.read_bytes())  # one request: the store has it whole or not at all
