"""`dc3 data check`: what a run would see in a folder of images.

`dc3.images` lists and decodes the files as in a run, so that refusals and their messages are the same.
"""

import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dc3.condensed import PROVENANCE
from dc3.images import datasets
from dc3.images.decoding import UnreadableImage, header_of, read_image
from dc3.images.framing import Frame
from dc3.images.image_set import DECODERS, ImageSet
from dc3.machine.files import printable, walk
from dc3.machine.progress import tqdm
from dc3.runs.parameters import declared

DATA_SET, CONDENSED = "data set", "condensed set"
DECODED_BY_DEFAULT = 20_000  # images: a minute or two for photographs
ANY_FRAME = Frame(8)  # decoding fails alike at any size
IMAGE_SIZES = (32, 64, 128, 224)  # the published ones
EVEN = 4  # other sizes must be multiples of this: networks and editor halve it twice
EDITOR_SIZES = (64, 128)  # at which the shipped editor was measured, beside the default 32
LAPTOP_SIZE = 64  # for photographs larger than the shipped editor's sizes
TEACHER_VIEWS = 15_000  # images that the demo's teacher sees in training: 6 epochs of 2,500
COLUMNS = ["split", "source", "width", "height", "mode", "format", "problem"]
CLASSES_SHOWN = 20  # in the table of counts; of more, the smallest and largest
KINDS_SHOWN = 8
UNREADABLE_SHOWN = 50
CONVERTED = {"L": "replicated to three channels", "1": "replicated to three channels", "P": "converted by its palette"}
CONVERTED |= dict.fromkeys(("RGBA", "LA", "PA"), "laid on white") | {"CMYK": "converted to RGB"}


@dataclass(frozen=True)
class DataCheck:
    """The content of a folder.

    `files` has one row per image in the order of `splits`: COLUMNS; width and height are 0 when unknown, `problem` says
    why a run cannot read the file (else ""). `others` counts, by split and suffix, files that are not images.
    `refused`: a run's messages about the folder as a whole.
    """

    folder: Path
    layout: str  # DATA_SET, or CONDENSED: class folders without splits
    decoded: bool
    splits: dict[str, ImageSet]
    files: pd.DataFrame
    others: dict[str, Counter]
    refused: list[str]

    @property
    def unreadable(self) -> pd.DataFrame:
        """The files that a run would refuse."""
        return self.files[self.files["problem"] != ""]

    @property
    def ready(self) -> bool:
        """Whether a run would accept it. Damage behind a file's header is found only if `decoded`."""
        return not self.refused and not len(self.unreadable)

    @property
    def sides(self) -> np.ndarray:
        """The shorter and the longer side of every readable image, (n, 2)."""
        return np.sort(self.files.loc[self.files["width"] > 0, ["width", "height"]].to_numpy(), axis=1)

    @property
    def image_size(self) -> int:
        """A size to begin with: the images' own if equal, else the largest published size up to their median."""
        shorter = self.sides[:, 0]
        if not len(shorter):
            return IMAGE_SIZES[0]
        if shorter.min() == shorter.max() and 8 <= shorter[0] <= IMAGE_SIZES[-1] and shorter[0] % EVEN == 0:
            return int(shorter[0])
        return max([size for size in IMAGE_SIZES if size <= np.median(shorter)], default=IMAGE_SIZES[0])

    def counts(self) -> pd.DataFrame:
        """Images per class, one column per split, in the order of the class folders."""
        columns = {name: pd.Series(images.counts(), images.classes) for name, images in self.splits.items()}
        return pd.DataFrame(columns).fillna(0).astype(int).rename_axis("class").reset_index()

    def kinds(self) -> pd.DataFrame:
        """Kinds of files, the most frequent first: columns width, height, mode, format, images, share."""
        readable = self.files[self.files["width"] > 0].groupby(["width", "height", "mode", "format"])
        kinds = readable.size().sort_values(ascending=False, kind="stable").rename("images").reset_index()
        return kinds.assign(share=kinds["images"] / max(len(self.files), 1))


def look(folder: Path | str, decode: bool | None = None) -> DataCheck:
    """Looks at a data set (train/ and val/ or test/) or a condensed set (class folders) in `folder`.

    decode: whether to decode every file, as in a run, or read only headers; None: decode up to DECODED_BY_DEFAULT.
    FileNotFoundError when there is no such folder, ValueError when it has neither layout.
    """
    folder = Path(folder).expanduser().resolve()
    layout = _layout(folder)
    splits, refused = _data_set(folder) if layout == DATA_SET else _condensed(folder)
    if decode is None:
        decode = sum(map(len, splits.values())) <= DECODED_BY_DEFAULT
    rows = [row for images in splits.values() for row in _inspect(images, decode)]
    others = {name: _others(images) for name, images in splits.items()}
    return DataCheck(folder, layout, decode, splits, pd.DataFrame(rows, columns=COLUMNS), others, refused)


def _layout(folder: Path) -> str:
    if not folder.is_dir():
        raise FileNotFoundError(f"{printable(folder)} is not a folder")
    folders = {entry.name for entry in folder.iterdir() if entry.is_dir()}
    if folders & {name for names in datasets.SPLIT_FOLDERS.values() for name in names}:
        return DATA_SET
    if not folders:
        held = ", ".join(sorted(printable(entry.name) for entry in folder.iterdir())[:5]) or "nothing"
        raise ValueError(
            f"{printable(folder)} has no subfolders (it holds {held}): expected train/ and val/ (or test/) with one "
            "folder of images per class, or, for a condensed set, the class folders themselves"
        )
    return CONDENSED


def _data_set(folder: Path) -> tuple[dict[str, ImageSet], list[str]]:
    """The readable splits, and a run's refusals."""
    splits, refused = {}, []
    for split in datasets.SPLIT_FOLDERS:
        try:
            splits[split] = datasets.load("imagefolder", split, data_dir=folder)
        except (ValueError, OSError) as error:
            refused.append(str(error))
            with suppress(ValueError, OSError):  # perhaps only the classes of the splits differ
                own = datasets.split_folder(folder, split)
                splits[split] = datasets.image_folder(own, name="imagefolder", split=split)
    return splits, list(dict.fromkeys(refused))


def _condensed(folder: Path) -> tuple[dict[str, ImageSet], list[str]]:
    name = "condensed"
    try:
        found = datasets.image_folder(folder, name=name, split=name, parameter="condensed_dir")
    except (ValueError, OSError) as error:
        return {}, [str(error)]
    return {name: found}, []


def _inspect(images: ImageSet, decode: bool) -> Iterator[dict[str, Any]]:
    """A row of `files` for each image."""

    def inspect(index: int) -> dict[str, Any]:
        row: dict[str, Any] = {"split": images.split, "source": printable(images.source(index))}
        row |= {"width": 0, "height": 0, "mode": "?", "format": "?", "problem": ""}
        try:
            header = header_of(images.file(index))
            row |= header._asdict()
            if decode or header.in_doubt:
                read_image(images.file(index), ANY_FRAME)
        except UnreadableImage as error:
            row["problem"] = str(error.__cause__)
        return row

    with ThreadPoolExecutor(DECODERS) as pool:
        yield from tqdm(pool.map(inspect, range(len(images))), total=len(images), desc=images.split, unit="img")


def _others(images: ImageSet) -> Counter:
    """How many files in the split's folder a run ignores, by suffix ("" for none)."""
    root = Path(str(images.root))
    folder = root / Path(images.sources[0]).parts[0]
    used = {str(root / source) for source in images.sources} | {str(folder / PROVENANCE)}
    return Counter(Path(path).suffix.lower() for path in walk(folder) if path not in used)


def teacher_epochs(images: int) -> int | None:
    """Epochs in which a teacher sees as many images as in the demo; None when the default is enough."""
    epochs = math.ceil(TEACHER_VIEWS / images)
    return epochs if epochs > declared("00_teacher")["teacher_epochs"].default else None


def suggestions(check: DataCheck) -> dict[str, str]:
    """`dc3 run` commands for the folder, by purpose."""
    size, folder = check.image_size, str(check.folder)
    name = re.sub(r"[^\w.-]", "_", check.folder.name) or "mine"
    if check.layout == CONDENSED:
        return {"to begin with": _command("demo", run=name, condensed_dir=folder, image_size=size)}
    train = check.splits["train"]
    common: dict[str, Any] = {"data_dir": folder, "ipc": min(10, int(train.counts().min()))}
    small = size if size <= EDITOR_SIZES[-1] else LAPTOP_SIZE
    editor = {"encode_size": small, "edit_size": small} if small in EDITOR_SIZES else {}
    epochs = teacher_epochs(len(train))
    teacher = {"teacher_epochs": epochs} if epochs else {}
    return {
        "with the embedded editor, without a GPU": _command(
            "demo", run=name, dataset="imagefolder", **common, image_size=small, **editor, **teacher
        ),
        "with the published models, on a GPU": _command("own_images", run=name, **common, image_size=size),
    }


def _command(params_file: str, **values: Any) -> str:
    options = [f"-p {key} {shlex.quote(str(value))}" for key, value in values.items()]
    return " ".join([f"dc3 run params/{params_file}.yaml", *options])


def report(check: DataCheck) -> str:
    """The whole check as text."""
    paragraphs: list[Callable[[DataCheck], Iterator[str]]] = [_overview]
    if check.splits:
        paragraphs += [_counts_table, _kinds_table, _notes]
    paragraphs += [_unreadable, _classes_of_one_split, _refused, _verdict]
    texts = ("\n".join(lines(check)) for lines in paragraphs)
    return "\n\n".join(filter(None, texts))


def _overview(check: DataCheck) -> Iterator[str]:
    yield _headline(check)
    yield from map(_split_line, check.splits.values())


def _headline(check: DataCheck) -> str:
    numbered = any(all(name.isdigit() for name in images.classes) for images in check.splits.values())
    named = " named by numbers (RDED's form: the classes have no names)" if numbered else ""
    if check.layout == CONDENSED:
        return f"{check.folder}: class folders{named} without train/ and val/: a condensed set"
    folders = " and ".join(f"{images.sources[0].split('/')[0]}/" for images in check.splits.values())
    return f"{check.folder}: {folders or 'no split that can be listed'} with class folders{named}: a data set"


def _split_line(images: ImageSet) -> str:
    of_class, classes = images.counts(), images.classes
    line = f"  {images.split:9} {len(classes):,} classes, {len(images):,} images; "
    if of_class.min() == of_class.max():
        return line + f"{of_class.min():,} per class"
    few, many = classes[of_class.argmin()], classes[of_class.argmax()]
    middle = f"{np.median(of_class):,g}"
    return line + f"per class {of_class.min():,} ({few}) to {of_class.max():,} ({many}), median {middle}"


def _counts_table(check: DataCheck) -> Iterator[str]:
    table = check.counts()
    if len(table) > CLASSES_SHOWN:
        ordered, half = table.sort_values(table.columns[1], kind="stable"), CLASSES_SHOWN // 2
        yield f"the {half} smallest and the {half} largest of {len(table):,} classes:"
        table = pd.concat([ordered.head(half), ordered.tail(half)])
    yield table.to_string(index=False)


def _kinds_table(check: DataCheck) -> Iterator[str]:
    kinds = check.kinds()
    shown = kinds.head(KINDS_SHOWN)
    yield shown.assign(share=shown["share"].map("{:.1%}".format)).to_string(index=False)
    if len(kinds) > KINDS_SHOWN:
        yield f"… and {len(kinds) - KINDS_SHOWN:,} more kinds, {kinds['images'][KINDS_SHOWN:].sum():,} images"


def _notes(check: DataCheck) -> Iterator[str]:
    if check.decoded:
        yield "read: every file was decoded, as in a run"
    else:
        yield "read: headers only; a file truncated after its header is not noticed (--decode reads whole files)"
    for mode, images in check.kinds().groupby("mode", sort=False)["images"].sum().items():
        if mode in CONVERTED:
            yield f"note: images of mode {mode} ({images:,}) are {CONVERTED[mode]}"
    shorter, longer = check.sides.T
    if smaller := (shorter < check.image_size).sum():
        yield f"note: images smaller than {check.image_size} px ({smaller:,}) would be enlarged"
    if len(shorter) and (lost := np.median(1 - shorter / longer)) >= 0.05:
        yield f"note: images are cropped to a central square; half of them lose {lost:.0%} or more"
    for split, others in check.others.items():
        if others:
            found = ", ".join(f"{count:,} × {suffix or 'no suffix'}" for suffix, count in others.most_common(5))
            yield f"note: {split} has files that are not images, which a run ignores: {found}"


def _unreadable(check: DataCheck) -> Iterator[str]:
    if count := len(check.unreadable):
        yield f"unreadable files (a run would stop at the first): {count:,}"
        yield from (f"  {row.source}: {row.problem}" for row in check.unreadable.head(UNREADABLE_SHOWN).itertuples())
        if count > UNREADABLE_SHOWN:
            yield f"  … and {count - UNREADABLE_SHOWN:,} more"


def _classes_of_one_split(check: DataCheck) -> Iterator[str]:
    counts = check.counts().set_index("class")
    for name in counts:
        only = counts.index[(counts[name] > 0) & (counts == 0).any(axis=1)]
        if len(only):
            yield f"classes only in {name} ({len(only):,}): {', '.join(only[:CLASSES_SHOWN])}"


def _refused(check: DataCheck) -> Iterator[str]:
    if check.refused:
        yield "a run would refuse this folder:"
        yield from (f"  {reason}" for reason in check.refused)


def _verdict(check: DataCheck) -> Iterator[str]:
    if not check.ready:
        yield "not ready: fix the above, then check again"
        return
    yield "ready" if check.decoded else "ready, judging by the headers"
    for purpose, command in suggestions(check).items():
        yield f"{purpose}:\n  {command}"
    if check.layout == CONDENSED:
        yield "  (dataset and data_dir must name the set that it was condensed from, with its classes and image_size;"
        yield "  to use the folder as data_dir, put its images under train/ and val/)"
        of_class = check.splits["condensed"].counts()
        if of_class.min() != of_class.max():
            yield "  05 and 06 would refuse it: they need the same number of images (IPC) per class"
