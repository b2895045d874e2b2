"""`dc3 data check`: what a run would see in a folder of images.

`dc3.images` lists and decodes the files as in a run, so that refusals and their messages are the same.
"""

import math
import os
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
from dc3.images import datasets, folders
from dc3.images.decoding import UnreachableImage, UnreadableImage, header_of, read_image
from dc3.images.framing import Frame
from dc3.images.image_set import DECODERS, ImageSet
from dc3.machine import limits
from dc3.machine.files import printable
from dc3.machine.markup import for_terminal
from dc3.machine.paths import files_below, is_hidden
from dc3.machine.progress import tqdm
from dc3.runs import duplicates
from dc3.runs.parameters import ParameterError, all_declared, check, declared
from dc3.runs.written import shown_path

LONGEST_RUN_NAME = 40  # characters, of one that is suggested
DATA_SET, CONDENSED, UNSPLIT = "data set", "condensed set", "classes without splits"
DECODED_BY_DEFAULT = 20_000  # images: a minute or two for photographs
ANY_FRAME = Frame(limits.SMALLEST_SIZE)  # decoding fails alike at any size
IMAGE_SIZES = (32, 64, 128, 224)  # the published ones
EVEN = 4  # other sizes must be multiples of this: networks and editor halve it twice
EDITOR_SIZES = (64, 128)  # at which the shipped editor was measured, beside the default 32
LAPTOP_SIZE = 64  # for photographs larger than the shipped editor's sizes
TEACHER_VIEWS = 15_000  # images that the demo's teacher sees in training: 6 epochs of 2,500
COLUMNS = ["split", "source", "width", "height", "mode", "format", "orientation", "problem"]
CLASSES_SHOWN = 20  # in the table of counts; of more, the smallest and largest
KINDS_SHOWN = 8
UNREADABLE_SHOWN = 50
SHARED_SHOWN = 3  # test images that are in train
CONVERTED = {"L": "replicated to three channels", "1": "replicated to three channels", "P": "converted by its palette"}
CONVERTED |= dict.fromkeys(("RGBA", "LA", "PA"), "laid on white") | {"CMYK": "converted to RGB"}


@dataclass(frozen=True)
class DataCheck:
    """The content of a folder.

    `files` has one row per image in the order of `splits`: COLUMNS; width and height are 0 when unknown, `problem` says
    why a run cannot read the file (else ""). `others` counts, by split and suffix, files that are not images, `hidden`
    the files in what `paths.is_hidden`, by the uppermost hidden folder or file. `refused`: a run's messages about the
    folder as a whole. `duplicates`: None if the files were not read.
    """

    folder: Path
    layout: str  # DATA_SET, or class folders without splits: CONDENSED or UNSPLIT
    decoded: bool
    splits: dict[str, ImageSet]
    files: pd.DataFrame
    others: dict[str, Counter]
    hidden: dict[str, Counter]
    refused: list[str]
    duplicates: duplicates.Duplicates | None

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
        same, side = shorter.min() == shorter.max(), int(shorter[0])
        if same and limits.SMALLEST_SIZE <= side <= IMAGE_SIZES[-1] and side % EVEN == 0:
            return side
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


def look(folder: Path | str, decode: bool | None = None, condensed: bool = False) -> DataCheck:
    """Looks at a data set (train/ and val/ or test/) or a condensed set (class folders) in `folder`.

    decode: whether to decode every file, as in a run, or read only headers; None: decode up to DECODED_BY_DEFAULT.
    condensed: take class folders for a condensed set, whatever they are called. FileNotFoundError when there is no such
    folder, ValueError when it has no subfolders.
    """
    folder = Path(folder).expanduser().resolve()
    found = _layout(folder)
    layout = CONDENSED if condensed else found
    splits, refused = _data_set(folder) if layout == DATA_SET else _class_folders(folder, layout)
    refused = _refusals_of_path(folder, layout) + refused
    if decode is None:
        decode = sum(map(len, splits.values())) <= DECODED_BY_DEFAULT
    rows = [row for images in splits.values() for row in _inspect(images, decode)]
    return DataCheck(
        folder,
        layout,
        decode,
        splits,
        pd.DataFrame(rows, columns=COLUMNS),
        others={name: _others(images) for name, images in splits.items()},
        hidden={name: _hidden(images) for name, images in splits.items()},
        refused=refused,
        duplicates=duplicates.find(splits) if decode else None,
    )


def _refusals_of_path(folder: Path, layout: str) -> list[str]:
    """Why no parameter takes the folder's path, such as a control character in it."""
    parameter = "condensed_dir" if layout == CONDENSED else "data_dir"
    try:
        check({parameter: str(folder)}, {parameter: all_declared()[parameter]})
    except ParameterError as error:
        return [f"{error}; rename the folder"]
    return []


def _layout(folder: Path) -> str:
    """Judged by what lies in the folder, since a class may be called train and a split Train."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{printable(folder)} is not a folder")
    names = [entry.name for entry in folders.visible_folders(folder)]
    if not names:
        held = ", ".join(sorted(printable(entry.name) for entry in folder.iterdir())[:5]) or "nothing"
        raise ValueError(
            f"{printable(folder)} has no subfolders (it holds {held}): expected train/ and val/ (or test/) with one "
            "folder of images per class, or, for a condensed set, the class folders themselves"
        )
    if (folder / PROVENANCE).is_file() or names == [f"{label:05d}" for label in range(len(names))]:
        return CONDENSED
    return DATA_SET if folders.is_data_set(folder) or folders.wrapped_data_set(folder) else UNSPLIT


def _data_set(folder: Path) -> tuple[dict[str, ImageSet], list[str]]:
    """The readable splits, and a run's refusals."""
    splits, refused = {}, []
    for split in datasets.SPLIT_FOLDERS:
        try:
            splits[split] = datasets.load("imagefolder", split, data_dir=folder)
        except (ValueError, OSError) as error:
            refused.append(str(error))
            with suppress(ValueError, OSError):  # perhaps only the classes of the splits differ
                own = folders.split_folder(folder, split)
                splits[split] = datasets.image_folder(own, name="imagefolder", split=split)
    return splits, list(dict.fromkeys(refused))


def _class_folders(folder: Path, layout: str) -> tuple[dict[str, ImageSet], list[str]]:
    """The classes of a condensed set, or of a data set without splits, and a run's refusals."""
    name = "condensed" if layout == CONDENSED else "images"
    parameter = "condensed_dir" if layout == CONDENSED else "data_dir"
    refused = _data_set(folder)[1][:1] if layout == UNSPLIT else []
    try:
        return {name: datasets.image_folder(folder, name=name, split=name, parameter=parameter)}, refused
    except (ValueError, OSError) as error:
        return {}, [*refused, str(error)]


def _inspect(images: ImageSet, decode: bool) -> Iterator[dict[str, Any]]:
    """A row of `files` for each image."""

    def inspect(index: int) -> dict[str, Any]:
        row: dict[str, Any] = {"split": images.split, "source": printable(images.source(index))}
        row |= {"width": 0, "height": 0, "mode": "?", "format": "?", "orientation": 1, "problem": ""}
        try:
            header = header_of(images.file(index))
            row |= header._asdict()
            if decode or header.in_doubt:
                read_image(images.file(index), ANY_FRAME)
        except UnreadableImage as error:
            row["problem"] = str(error.__cause__)
        except UnreachableImage as error:
            row["problem"] = str(error)
        return row

    with ThreadPoolExecutor(DECODERS) as pool:
        yield from tqdm(pool.map(inspect, range(len(images))), total=len(images), desc=images.split, unit="images")


def _others(images: ImageSet) -> Counter:
    """How many files in the split's folder a run ignores, by suffix ("" for none)."""
    folder = _folder_of(images)
    used = {*(str(source) for source in images.sources), os.path.join(folder.name, PROVENANCE)}
    found = (path for path in files_below(folder) if os.path.join(folder.name, path) not in used)
    return Counter(Path(path).suffix.lower() for path in found)


def _hidden(images: ImageSet) -> Counter:
    """How many files lie in each hidden folder of the split's folder, or are hidden themselves."""
    return Counter(printable(_hidden_part(path)) for path in files_below(_folder_of(images), hidden=True))


def _hidden_part(path: str) -> str:
    parts = path.split("/")
    first = next(k for k, part in enumerate(parts) if is_hidden(part))
    return "/".join(parts[: first + 1])


def _folder_of(images: ImageSet) -> Path:
    return Path(str(images.root)) / Path(images.sources[0]).parts[0]


def teacher_epochs(images: int) -> int | None:
    """Epochs in which a teacher sees as many images as in the demo; None when the default is enough."""
    epochs = math.ceil(TEACHER_VIEWS / images)
    return epochs if epochs > declared("00_teacher")["teacher_epochs"].default else None


def suggestions(check: DataCheck) -> dict[str, str]:
    """`dc3 run` commands for the folder, by purpose."""
    size, folder = check.image_size, str(check.folder)
    name = re.sub(r"[^\w.-]", "_", check.folder.name[:LONGEST_RUN_NAME]).lstrip(".-") or "mine"
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
        paragraphs += [_counts_table, _kinds_table, _notes, _equal_files]
    paragraphs += [_unreadable, _classes_of_one_split, _refused, _verdict]
    texts = ("\n".join(lines(check)) for lines in paragraphs)
    return for_terminal("\n\n".join(filter(None, texts)))


def _overview(check: DataCheck) -> Iterator[str]:
    yield _headline(check)
    yield from map(_split_line, check.splits.values())


def _headline(check: DataCheck) -> str:
    numbered = any(all(name.isdigit() for name in images.classes) for images in check.splits.values())
    named = " named by numbers (RDED's form: the classes have no names)" if numbered else ""
    if check.layout != DATA_SET:
        kind = ": a condensed set" if check.layout == CONDENSED else ""
        return f"{shown_path(check.folder)}: class folders{named} without train/ and val/{kind}"
    found = " and ".join(f"{images.sources[0].split('/')[0]}/" for images in check.splits.values())
    return f"{shown_path(check.folder)}: {found or 'no split that can be listed'} with class folders{named}: a data set"


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
    if turned := (check.files["orientation"] != 1).sum():
        yield (
            f"note: images with an EXIF orientation ({turned:,}) are turned upright "
            "(exif_orientation false leaves them, as torchvision's ImageFolder does)"
        )
    if smaller := (shorter < check.image_size).sum():
        yield f"note: images smaller than {check.image_size} px ({smaller:,}) would be enlarged"
    if len(shorter) and (lost := np.median(1 - shorter / longer)) >= 0.05:
        yield f"note: images are cropped to a central square; half of them lose {lost:.0%} or more"
    for split, others in check.others.items():
        if others:
            found = ", ".join(f"{count:,} × {suffix or 'no suffix'}" for suffix, count in others.most_common(5))
            yield f"note: {split} has files that are not images, which a run ignores: {found}"
    for split, hidden in check.hidden.items():
        if hidden:
            found = ", ".join(f"{name} ({count:,})" for name, count in hidden.most_common(5))
            more = f" and {len(hidden) - 5:,} more" if len(hidden) > 5 else ""
            yield f"note: {split} has hidden files or what a system left, which a run ignores: {found}{more}"


def _equal_files(check: DataCheck) -> Iterator[str]:
    if check.duplicates is None:
        yield "equal files: not looked for (--decode reads whole files)"
        return
    for name, images in check.splits.items():
        if equal := check.duplicates.equal_within(name):
            across = check.duplicates.across_classes(name)
            elsewhere = f"; {across:,} lie in more than one class" if across else ""
            yield f"equal files: {equal:,} of {len(images):,} images in {name} repeat another{elsewhere}"
    if "train" in check.splits and "test" in check.splits:
        shared = check.duplicates.shared("test", "train")
        if len(shared):
            some = ", ".join(map(printable, shared["source"][:SHARED_SHOWN]))
            yield (
                f"equal files: {len(shared):,} of {len(check.splits['test']):,} test images are also in train ({some}"
                f"{' …' if len(shared) > SHARED_SHOWN else ''}): accuracies would be too high; remove them from one"
            )


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
        if check.layout == UNSPLIT and not _refusals_of_path(check.folder, UNSPLIT):
            yield f"if it is a condensed set: dc3 data check --condensed {shlex.quote(str(check.folder))}"
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
