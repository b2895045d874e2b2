"""A condensed set on disk: images in class folders 00000/, 00001/ … (the layout of RDED), and the sources of each.

Each file has its history in a text chunk (PNG) or a comment (JPEG), so that a run recognises and keeps each finished
image after a kill or a copy; a key of the whole folder (`dc3.machine.keeping`) could not do that. The provenance table
lies beside the class folders and is written last: a folder with a provenance table is complete.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin

from dc3.images.datasets import image_folder
from dc3.images.decoding import FORMATS, read_bytes, read_with_size
from dc3.images.folders import IMG_EXTENSIONS
from dc3.images.image_set import CACHE_BYTES, DECODERS, ImageSet, in_memory
from dc3.machine.engine import LOCAL, Columns, Engine
from dc3.machine.files import check_regular, composed, printable, remove, remove_abandoned, replacing, sha256
from dc3.machine.keeping import read_undamaged
from dc3.machine.paths import Place, files_below, reaching
from dc3.machine.progress import tqdm

CHUNK_KEY = "dc3"  # of the PNG text chunk
HISTORY_START = b'{"index": '  # of a JPEG's comment, which may be another's
SUFFIXES = {"png": ".png", "jpeg": ".jpg"}
PROVENANCE = "provenance.parquet"
NOT_IN_THE_TABLE = ("warm_prompts", "cold_prompts")  # the same for all images; the drawn prompts are in the table


@dataclass(frozen=True)
class Storage:
    """How condensed images are kept: their side in pixels, the format, "png" or "jpeg", and JPEG's quality (1 … 95)."""

    size: int
    format: str = "png"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.format not in SUFFIXES:
            raise ValueError(f"stored_format = {self.format!r}: choose one of {', '.join(SUFFIXES)}")
        if not 1 <= self.quality <= 95:
            raise ValueError(f"jpeg_quality = {self.quality}: a number from 1 to 95")

    @classmethod
    def of(cls, params: Mapping[str, Any], image_size: int, edits: bool) -> "Storage":
        """The storage in the parameters of 04_compensation; `stored_size` 0 is edit_size with edits, else `image_size`.

        ValueError for a size below `image_size`, the pixels a side that networks see.
        """
        size = params["stored_size"] or (params["edit_size"] if edits else image_size)
        if size < image_size:
            name = "stored_size" if params["stored_size"] else "edit_size"
            remedy = "" if params["stored_size"] else ", or a larger stored_size"
            raise ValueError(
                f"{name} = {size}: students crop images of image_size = {image_size} px from the stored ones; give at "
                f"least {image_size}{remedy}"
            )
        return cls(size, params["stored_format"], params["jpeg_quality"])

    @property
    def suffix(self) -> str:
        """Of the files: .png or .jpg."""
        return SUFFIXES[self.format]

    @property
    def stamp(self) -> dict[str, Any]:
        """What a history says about it."""
        quality = {"jpeg_quality": self.quality} if self.format == "jpeg" else {}
        return {"stored_size": self.size, "stored_format": self.format} | quality

    def encoded(self, image: np.ndarray, history: dict[str, Any] | None = None) -> bytes:
        """The bytes of a file with the image, uint8 (S, S, 3), and its history."""
        text, stream = json.dumps(history) if history else "", io.BytesIO()
        if self.format == "png":
            chunk = PngImagePlugin.PngInfo()
            if text:
                chunk.add_text(CHUNK_KEY, text)
            Image.fromarray(image).save(stream, format="PNG", pnginfo=chunk)
        else:
            Image.fromarray(image).save(stream, format="JPEG", quality=self.quality, comment=text.encode() or None)
        return stream.getvalue()

    def in_memory(self, name: str, classes: Sequence[str], images: np.ndarray, labels: np.ndarray) -> ImageSet:
        """A condensed set of images uint8 (n, S, S, 3), as a reader of its files gets them, with the files' bytes."""
        with ThreadPoolExecutor() as pool:
            files = list(pool.map(self.encoded, images))
        read = images if self.format == "png" else np.stack([np.asarray(Image.open(io.BytesIO(f))) for f in files])
        found = in_memory(name, "train", classes, labels, read)
        return replace(found, stored_bytes=np.array([len(file) for file in files], np.int64))


class Made(NamedTuple):
    """A condensed image: its row in the table of picks, its pixels uint8 (S, S, 3), and its draws."""

    row: int
    image: np.ndarray
    draw: dict[str, Any]


def fill(
    folder: Path,
    images: ImageSet,
    picks: pd.DataFrame,
    storage: Storage,
    stamp: dict[str, Any],
    make: Callable[[pd.DataFrame], Iterable[Made]],
    batch: int,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Makes the missing images of a condensed set and returns its provenance, one row per image.

    `picks` has one row per image, columns index (its first source in `images`), label, bin, rank; image (label, rank)
    becomes folder/<label>/<rank>.png, or .jpg. `stamp` is the history that all images share; `make` makes the images of
    `batch` rows of the picks at a time, locally or in Ray's actors. Keeps images with the same history, removes files
    that belong to no pick.
    """
    picks = picks.sort_values(["label", "rank"]).reset_index(drop=True)
    targets = [folder / f"{row.label:05d}" / f"{row.rank:05d}{storage.suffix}" for row in picks.itertuples()]
    framing: dict[str, Any] = {"framing": images.framing, "resampling": images.resampling}
    if images.root is not None:
        framing["exif_orientation"] = images.exif_orientation
    stamp = json.loads(json.dumps(stamp | framing | storage.stamp))
    (folder / PROVENANCE).unlink(missing_ok=True)
    _remove_others(folder, set(targets))
    origins = [_origin(images, int(index), stamp) for index in picks["index"]]
    waiting = [k for k, path in enumerate(targets) if not _is_made(path, origins[k])]
    with tqdm(total=len(picks), initial=len(picks) - len(waiting), desc="condensed", unit="images") as bar:
        for made in _all_made(make, picks, np.array(waiting, np.int64), batch, engine):
            with replacing(targets[made.row]) as partial:
                partial.write_bytes(storage.encoded(made.image, origins[made.row] | {"draw": made.draw}))
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


def history(path: Path) -> dict[str, Any]:
    """The history in a condensed image: {"index", "source_sha256", "set", "draw"}."""
    check_regular(path)
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        return json.loads(image.text[CHUNK_KEY] if image.format == "PNG" else image.info["comment"])


def _origin(images: ImageSet, index: int, stamp: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "source_sha256": source_sha256(images, index), "set": stamp}


def _is_made(path: Path, origin: dict[str, Any]) -> bool:
    made = read_undamaged(path, history)
    return made is not None and origin.items() <= made.items()


def _remove_others(folder: Path, targets: set[Path]) -> None:
    """Removes other folders, other files in class folders, and what a killed run left; of links only the link."""
    if folder.is_symlink():
        remove(folder)
    remove_abandoned(folder)
    classes = {target.parent for target in targets}
    for path in list(folder.glob("*")):
        if path.is_symlink() or path.is_dir() != (path in classes):
            remove(path)
    for path in list(folder.glob("*/*")):
        if path not in targets or path.is_symlink():
            remove(path)


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
    """SHA-256 of the file of image `index`; of its original pixels (uint8, row by row) if there is no file."""
    content = images.originals([index])[0].tobytes() if images.root is None else read_bytes(images.file(index))
    return hashlib.sha256(content).hexdigest()


def load(
    folder: Place | str,
    classes: tuple[str, ...],
    *,
    allow_unequal: bool = False,
    parameter: str = "condensed_dir",
) -> ImageSet:
    """Loads a condensed set, ours or another: class folders that sort as `classes`, or are named 00000, ….

    Images may have any sizes and formats; each keeps its own size. `parameter` named the folder, for messages.
    Raises ValueError for other classes, a class without images, unequal IPC (unless allowed) and a file that cannot be
    read; FileNotFoundError for a missing `folder`.
    """
    folder = Path(folder) if isinstance(folder, str) else folder
    if not folder.is_dir():
        raise FileNotFoundError(f"{parameter} = {str(folder)!r}: not a folder; expected one with class folders")
    found = image_folder(folder, name="condensed", split=folder.name, parameter=parameter)
    where = f"{parameter} = {str(folder)!r}"
    _check_names(where, found.classes, tuple(composed(classes)))
    counts = found.counts()
    if counts.min() != counts.max() and not allow_unequal:
        few, many = classes[counts.argmin()], classes[counts.argmax()]
        raise ValueError(
            f"{where}: {counts.min()} images of {few} and {counts.max()} of {many}; "
            "expected the same number (IPC) of each class"
        )
    return _read(found)


def _read(found: ImageSet) -> ImageSet:
    """The set with the bytes that its files store, and as `ImageSet.cached` in memory; each file is read once."""
    stored, originals, room = [], [], CACHE_BYTES
    with ThreadPoolExecutor(DECODERS) as pool:
        files = map(found.file, range(len(found)))
        for size, image in pool.map(lambda file: _stored_bytes(file, found.exif_orientation), files):
            stored.append(size)
            originals.append(image)
            room -= image.nbytes
            if room < 0:
                originals.clear()
    if room >= 0:
        found = found.holding(originals)
    return replace(found, stored_bytes=np.array(stored, np.int64))


def _stored_bytes(file: Place, exif_orientation: bool) -> tuple[int, np.ndarray]:
    """How many bytes a file stores, without its history; and its image."""
    content = read_bytes(file)
    image, _ = read_with_size(io.BytesIO(content), None, exif_orientation, str(file))
    return len(without_history(content)), image


def set_name(folder: str | Path) -> str:
    """What a set is called by its folder: the folder's name, or of train/, as `dc3 export` writes it, that above it."""
    path = Path(folder)
    return path.parent.name if path.name == "train" and path.parent.name else path.name


def load_beside(folders: list[str], classes: tuple[str, ...], parameter: str) -> dict[str, ImageSet]:
    """Other condensed sets, named by their folders, with any IPC. Raises as `load`.

    ValueError for two folders of one name.
    """
    sets: dict[str, ImageSet] = {}
    for folder in folders:
        if (name := set_name(folder)) in sets:
            raise ValueError(f"{parameter} = {folders!r}: two folders are named {name!r}; rename one")
        sets[name] = load(folder, classes, allow_unequal=True, parameter=parameter)
    return sets


def _check_names(where: str, found: tuple[str, ...], classes: tuple[str, ...]) -> None:
    numbered = tuple(f"{label:05d}" for label in range(len(classes)))
    if found in (classes, numbered):
        return
    expected = numbered if all(name.isdigit() for name in found) else classes
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    faults = [f"no folder for {', '.join(missing[:5])}"] if missing else []
    faults += [f"folders without a class: {', '.join(unknown[:5])}"] if unknown else []
    raise ValueError(
        f"{where}: {'; '.join(faults) or 'the class folders sort in another order'} "
        f"({len(found)} folders for {len(classes)} classes)"
    )


def storage_of(images: ImageSet, provenance: pd.DataFrame | None, image_size: int) -> Storage:
    """How sets are kept that a condensed set is compared with: as the set itself, by its `provenance` if it has one.

    For a set from elsewhere: at its size if its images are squares of one size, else at `image_size`; as PNG.
    """
    if provenance is None or "stored_size" not in provenance:
        sides = np.unique(images.own_sizes())
        return Storage(max(int(sides[0]), image_size) if len(sides) == 1 else image_size)
    row = provenance.iloc[0]
    return Storage(int(row["stored_size"]), row["stored_format"], int(row.get("jpeg_quality", Storage.quality)))


def without_history(content: bytes) -> bytes:
    """A condensed image's file without the history that `fill` wrote into it; other files as they are."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:  # the history precedes the pixels: none is decoded
        if image.format == "PNG" and isinstance(text := image.info.get(CHUNK_KEY), str):
            chunk = b"tEXt" + CHUNK_KEY.encode() + b"\0" + text.encode()
            start = content.index(chunk) - 4  # after its length; its checksum follows
            return content[:start] + content[start + len(chunk) + 8 :]
        if image.format == "JPEG" and image.info.get("comment", b"").startswith(HISTORY_START):
            comment = image.info["comment"]
            return content.replace(b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment, b"", 1)
    return content


class Size(NamedTuple):
    """What a condensed set holds of each class: images, their pixels, and the bytes of their files."""

    ipc: int
    pixels: float
    stored_bytes: float


def sizes(sets: Mapping[str, ImageSet]) -> dict[str, Size]:
    """The sizes per class of condensed sets (of `load` or `Storage.in_memory`), by name.

    Bytes are those of the files as they are stored, without the histories in them.
    """
    found = {}
    for name, images in sets.items():
        classes, pixels = len(images.classes), images.own_sizes().prod(axis=1).sum()
        stored = np.asarray(images.stored_bytes).sum()
        found[name] = Size(len(images) // classes, float(pixels) / classes, float(stored) / classes)
    return found


def storage_table(found: Mapping[str, Size], classes: int, epochs: int) -> pd.DataFrame:
    """One row per set of `sizes`: method, images, pixels, bytes and bits of a class, bytes of all soft labels.

    Soft labels, if they are kept, take two bytes per class for each image and epoch.
    """
    return pd.DataFrame(
        {
            "method": name,
            "images per class": size.ipc,
            "pixels per class": size.pixels,
            "bytes per class": size.stored_bytes,
            "bits per class": 8 * size.stored_bytes,
            "soft labels per class, if kept (bytes)": 2 * size.ipc * classes * epochs,
        }
        for name, size in found.items()
    )


def publish(folder: Path, target: Place) -> int:
    """Copies the condensed set in `folder` (by `fill`) to `target`; returns the number of images.

    Every file arrives complete or not at all; provenance.parquet, with the SHA-256 of each image, comes last: with it
    the set is complete. ValueError as `check_room_for`, OSError if the target cannot be written.
    """
    suffixes = tuple(SUFFIXES.values())
    names = [name for name in files_below(folder) if name.count("/") == 1 and name.endswith(suffixes)]
    check_room_for(names, target)
    with reaching(target):
        (target / PROVENANCE).unlink(missing_ok=True)
        for name in tqdm([*names, PROVENANCE], desc="published", unit="files"):
            _copy(folder / name, target / name)
    return len(names)


def image_names(classes: int, ipc: int, suffix: str) -> Iterable[str]:
    """The files of a condensed set, as `fill` names them."""
    return (f"{label:05d}/{rank:05d}{suffix}" for label in range(classes) for rank in range(ipc))


def check_room_for(names: Iterable[str], target: Place) -> None:
    """ValueError if `target` is no folder, or holds images that are not among `names`: a reader would load both."""
    with reaching(target):
        if target.exists() and not target.is_dir():
            raise ValueError(f"condensed_out = {str(target)!r}: it is there and no folder; give a new or empty folder")
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
