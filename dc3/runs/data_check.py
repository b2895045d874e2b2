"""What a run would see in a folder of images, before it spends an hour on them: `dc3 data check`.

Listing and decoding are those of a run (`dc3.images`), so that what is said here is what a run does;
`dc3.runs.data_check` tells it.
"""

import math
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dc3.condensed import PROVENANCE
from dc3.images import datasets
from dc3.images.decoding import UnreadableImage, header_of, read_image
from dc3.images.image_set import DECODERS, ImageSet
from dc3.machine.files import printable, walk
from dc3.machine.progress import tqdm
from dc3.runs.parameters import declared

DECODED_BY_DEFAULT = 20_000  # images: a minute or two where they are photographs
IMAGE_SIZES = (32, 64, 128, 224)  # the published ones
DATA_SET, CONDENSED = "data set", "condensed set"
EVEN = 4  # what a size that is not a published one has to be a multiple of: networks and editor halve it twice
TEACHER_VIEWS = 15_000  # images that a teacher sees in its training, as many as in the demo: 6 epochs of 2,500
ANY_SIZE = 8  # pixels a side: whether a file is refused does not depend on it


@dataclass(frozen=True)
class Split:
    """Images of one split and what their files are.

    `files` has a row an image in the order of `images`: source, width, height (0 where unknown), mode, format, and
    `problem`, why a run could not read it ("" where it can). `ignored` counts files that are no images by suffix.
    """

    name: str
    images: ImageSet
    files: pd.DataFrame
    ignored: Counter


@dataclass(frozen=True)
class Check:
    """Everything that was seen. `refused`: what a run would refuse about the folder as a whole, in its own words."""

    folder: Path
    layout: str  # DATA_SET, or CONDENSED: class folders without splits
    decoded: bool
    splits: dict[str, Split] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    @property
    def unreadable(self) -> pd.DataFrame:
        """The files, of all splits, that a run would refuse: columns source and problem among others."""
        tables = [split.files[split.files["problem"] != ""] for split in self.splits.values()]
        return pd.concat(tables) if tables else pd.DataFrame(columns=["source", "problem"])

    @property
    def fit(self) -> bool:
        """Whether a run would take it. Without `decoded` files that are damaged behind their headers go unseen."""
        return not self.refused and not len(self.unreadable)

    @property
    def image_size(self) -> int:
        """A size to begin with: that of the images where all have one, else the published size below their median."""
        files = pd.concat([split.files for split in self.splits.values()])
        shorter = files.loc[files["width"] > 0, ["width", "height"]].min(axis=1)
        if shorter.empty:
            return IMAGE_SIZES[0]
        if shorter.nunique() == 1 and 8 <= shorter.iloc[0] <= IMAGE_SIZES[-1] and shorter.iloc[0] % EVEN == 0:
            return int(shorter.iloc[0])
        return max([size for size in IMAGE_SIZES if size <= shorter.median()], default=IMAGE_SIZES[0])


def look(folder: Path | str, decode: bool | None = None) -> Check:
    """Looks at a data set (train/ and val/ or test/) or a condensed set (class folders) in `folder`.

    decode: whether every file is decoded, as a run would, or only its header read; None: decoded up to
    DECODED_BY_DEFAULT images. Raises FileNotFoundError when there is no such folder, ValueError when nothing in it has
    either layout.
    """
    folder = Path(folder).expanduser().resolve()
    layout = _layout(folder)
    found, refused = _data_set(folder) if layout == DATA_SET else _condensed(folder)
    if decode is None:
        decode = sum(map(len, found.values())) <= DECODED_BY_DEFAULT
    splits = {name: Split(name, images, _files(images, decode), _ignored(images)) for name, images in found.items()}
    return Check(folder, layout, decode, splits, refused)


def _layout(folder: Path) -> str:
    if not folder.is_dir():
        raise FileNotFoundError(f"{printable(folder)} is not a folder")
    folders = {entry.name for entry in folder.iterdir() if entry.is_dir()}
    if folders & {name for names in datasets.SPLIT_FOLDERS.values() for name in names}:
        return DATA_SET
    if not folders:
        held = ", ".join(sorted(printable(entry.name) for entry in folder.iterdir())[:5]) or "nothing"
        raise ValueError(
            f"{printable(folder)} has no folders in it (it holds {held}): expected train/ and val/ (or test/) with one "
            "folder of images per class, or, for a condensed set, the class folders themselves"
        )
    return CONDENSED


def _data_set(folder: Path) -> tuple[dict[str, ImageSet], list[str]]:
    """The splits that can be listed, and what `data.load`, which the run asks, says against them."""
    found, refused = {}, []
    for split in datasets.SPLIT_FOLDERS:
        try:
            found[split] = datasets.load("imagefolder", split, data_dir=folder, image_size=ANY_SIZE)
        except (ValueError, OSError) as error:
            refused.append(str(error))
            if listed := _listed(folder, split):
                found[split] = listed
    return found, list(dict.fromkeys(refused))


def _listed(folder: Path, split: str) -> ImageSet | None:
    """A split by itself, where it is refused only for not being like the other."""
    try:
        return datasets.image_folder(
            datasets.split_folder(folder, split), name="imagefolder", split=split, image_size=ANY_SIZE
        )
    except (ValueError, OSError):
        return None


def _condensed(folder: Path) -> tuple[dict[str, ImageSet], list[str]]:
    name = "condensed"
    try:
        found = datasets.image_folder(folder, name=name, split=name, image_size=ANY_SIZE, parameter="condensed_dir")
    except (ValueError, OSError) as error:
        return {}, [str(error)]
    return {name: found}, []


def _root(images: ImageSet) -> Path:
    assert isinstance(images.root, Path), "it was listed from a folder of this machine"
    return images.root


def _files(images: ImageSet, decode: bool) -> pd.DataFrame:
    root = _root(images)

    def look_at(source: str) -> dict:
        path, row = root / source, {"source": printable(source), "width": 0, "height": 0, "mode": "?"}
        try:
            header = header_of(path)
            row |= header._asdict()
            if decode or header.in_doubt:
                read_image(path, ANY_SIZE)
        except UnreadableImage as error:
            return row | {"problem": str(error.__cause__)}
        return row | {"problem": ""}

    with ThreadPoolExecutor(DECODERS) as pool:
        rows = list(tqdm(pool.map(look_at, images.sources), total=len(images), desc=images.split, unit="img"))
    return pd.DataFrame(rows).fillna({"format": "?"})


def _ignored(images: ImageSet) -> Counter:
    """Files below the split's folder that no run takes for images, by suffix ("" for none)."""
    folder = _root(images) / Path(images.sources[0]).parts[0]
    ours = {str(_root(images) / source) for source in images.sources} | {str(folder / PROVENANCE)}
    return Counter(Path(path).suffix.lower() for path in walk(folder) if path not in ours)


def counts(check: Check) -> pd.DataFrame:
    """Images of each class, a column a split, in the order of the class folders; 0 where a split lacks the class."""
    columns = {name: pd.Series(split.images.counts(), split.images.classes) for name, split in check.splits.items()}
    return pd.DataFrame(columns).fillna(0).astype(int).rename_axis("class").reset_index()


def sizes(check: Check) -> pd.DataFrame:
    """Kinds of files, the commonest first: columns width, height, mode, format, images, share."""
    files = pd.concat([split.files for split in check.splits.values()])
    readable = files[files["width"] > 0]
    kinds = readable.groupby(["width", "height", "mode", "format"]).size().sort_values(ascending=False, kind="stable")
    return kinds.rename("images").reset_index().assign(share=lambda table: table["images"] / max(len(files), 1))


def cropped_share(check: Check) -> float:
    """Of the pixels of a median image, how many the crop to a square leaves out, 0 to 1."""
    files = pd.concat([split.files for split in check.splits.values()])
    sides = np.sort(files.loc[files["width"] > 0, ["width", "height"]].to_numpy(), axis=1)
    return float(np.median(1 - sides[:, 0] / sides[:, 1])) if len(sides) else 0.0


def smallest_class(check: Check) -> int:
    """Images of the smallest class that picks are made from: the largest IPC."""
    split = check.splits.get("train") or next(iter(check.splits.values()), None)
    return int(split.images.counts().min()) if split else 0


def teacher_epochs(check: Check) -> int | None:
    """Epochs in which a teacher sees as many images as in the demo; None where the default gives it as many."""
    if "train" not in check.splits:
        return None
    epochs = math.ceil(TEACHER_VIEWS / len(check.splits["train"].images))
    return epochs if epochs > declared("00_teacher")["teacher_epochs"].default else None


def run_name(check: Check) -> str:
    """A name for a run over it, of the letters that run names may have."""
    name = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in os.path.basename(check.folder))
    return name or "mine"


CLASSES_SHOWN = 20  # in the table of counts: all up to that, else as many of the smallest and largest
KINDS_SHOWN = 8
UNREADABLE_SHOWN = 50
EDITOR_SIZES = (64, 128)  # pixels a side that the shipped editor was measured at, beside the 32 of the defaults
LAPTOP_SIZE = 64  # of photographs that are larger than the shipped editor's sizes
RESAMPLED = {"L": "replicated to three channels", "1": "replicated to three channels", "P": "converted by its palette"}
RESAMPLED |= dict.fromkeys(("RGBA", "LA", "PA"), "laid on white") | {"CMYK": "converted to RGB"}


def told(check: Check) -> str:
    """The whole report, as lines."""
    return "\n".join(_lines(check))


def _lines(check: Check) -> Iterator[str]:
    yield f"{check.folder}: {_form(check)}"
    yield from (_split_line(split) for split in check.splits.values())
    if check.splits:
        yield ""
        yield from _counts_table(check)
        yield ""
        yield from _sizes_table(check)
        yield ""
        yield from _notes(check)
    yield from _faults(check)
    yield ""
    yield from _verdict(check)


def _form(check: Check) -> str:
    numbered = any(all(name.isdigit() for name in split.images.classes) for split in check.splits.values())
    form = " named by numbers (RDED's form: the classes have no names)" if numbered else ""
    if check.layout == CONDENSED:
        return f"class folders{form} without train/ and val/: a condensed set"
    folders = " and ".join(f"{split.images.sources[0].split('/')[0]}/" for split in check.splits.values())
    return f"{folders or 'no split that can be listed'} with class folders{form}: a data set"


def _split_line(split: Split) -> str:
    of_class, classes = split.images.counts(), split.images.classes
    line = f"  {split.name:9} {len(classes):,} classes, {len(split.images):,} images; "
    if of_class.min() == of_class.max():
        return line + f"{of_class.min():,} of each class"
    few, many = classes[of_class.argmin()], classes[of_class.argmax()]
    middle = f"{pd.Series(of_class).median():,g}"
    return line + f"of a class {of_class.min():,} ({few}) to {of_class.max():,} ({many}), median {middle}"


def _counts_table(check: Check) -> Iterator[str]:
    table = counts(check)
    if len(table) > CLASSES_SHOWN:
        ordered = table.sort_values(table.columns[1], kind="stable")
        half = CLASSES_SHOWN // 2
        yield f"the {half} smallest and the {half} largest of {len(table):,} classes:"
        table = pd.concat([ordered.head(half), ordered.tail(half)])
    yield table.to_string(index=False)


def _sizes_table(check: Check) -> Iterator[str]:
    table = sizes(check)
    shown = table.head(KINDS_SHOWN).assign(share=[f"{share:.1%}" for share in table["share"].head(KINDS_SHOWN)])
    yield shown.to_string(index=False)
    if (rest := len(table) - len(shown)) > 0:
        yield f"… and {rest:,} more kinds, {table['images'][KINDS_SHOWN:].sum():,} images"


def _notes(check: Check) -> Iterator[str]:
    if check.decoded:
        yield "read: every file was decoded, as a run would"
    else:
        yield "read: headers only; a file that is cut off behind its header goes unseen (--decode reads all of each)"
    kinds = sizes(check)
    for mode, part in kinds.groupby("mode", sort=False):
        if mode in RESAMPLED:
            yield f"note: images of mode {mode} ({part['images'].sum():,}) are {RESAMPLED[mode]}"
    smaller = kinds[kinds[["width", "height"]].min(axis=1) < check.image_size]["images"].sum()
    if smaller:
        yield f"note: images smaller than {check.image_size} px ({smaller:,}) would be enlarged"
    if (share := cropped_share(check)) >= 0.05:
        yield f"note: images are cropped to a square in the middle, and half of them lose {share:.0%} or more"
    for split in check.splits.values():
        if split.ignored:
            kept = ", ".join(f"{count:,} × {suffix or 'no suffix'}" for suffix, count in split.ignored.most_common(5))
            yield f"note: {split.name} has files that no run takes for images: {kept}"


def _faults(check: Check) -> Iterator[str]:
    bad = check.unreadable
    if len(bad):
        yield f"\nunreadable files, at the first of which a run would end: {len(bad):,}"
        yield from (f"  {row.source}: {row.problem}" for row in bad.head(UNREADABLE_SHOWN).itertuples())
        if len(bad) > UNREADABLE_SHOWN:
            yield f"  … and {len(bad) - UNREADABLE_SHOWN:,} more"
    if len(check.splits) == 2:
        train, test = (set(split.images.classes) for split in check.splits.values())
        for name, only in (("train", train - test), ("test", test - train)):
            if only:
                yield f"\nclasses only in {name} ({len(only):,}): {', '.join(sorted(only)[:CLASSES_SHOWN])}"
    if check.refused:
        yield "\na run would refuse this folder:"
        yield from (f"  {reason}" for reason in check.refused)


def _verdict(check: Check) -> Iterator[str]:
    if not check.fit:
        yield "not ready: mend what is named above, then check again"
        return
    yield "ready" if check.decoded else "ready, by the headers"
    for purpose, line in suggestions(check).items():
        yield f"{purpose}:"
        yield "  " + line
    if check.layout == CONDENSED:
        yield "  (with the data set that it was condensed from, whose classes and image_size it must have; to be a data"
        yield "  set itself, data_dir, the folder would need its images under train/ and val/)"
        of_class = next(iter(check.splits.values())).images.counts()
        if of_class.min() != of_class.max():
            yield "  05 and 06 want the same number of images (IPC) of each class, and would refuse it"


def suggestions(check: Check) -> dict[str, str]:
    """`dc3 run` lines that take the folder, by what they are for."""
    name, folder = run_name(check), str(check.folder)
    if check.layout == CONDENSED:
        values: dict[str, str | int] = {"run": name, "condensed_dir": folder, "image_size": check.image_size}
        return {"to begin with": _line("params/demo.yaml", values)}
    size = check.image_size if check.image_size <= EDITOR_SIZES[-1] else LAPTOP_SIZE
    ipc = min(10, smallest_class(check))
    small: dict[str, str | int] = {"run": name, "dataset": "imagefolder", "data_dir": folder, "ipc": ipc}
    small |= {"image_size": size}
    if size in EDITOR_SIZES:
        small |= {"encode_size": size, "edit_size": size}
    if epochs := teacher_epochs(check):
        small["teacher_epochs"] = epochs
    large: dict[str, str | int] = {"run": name, "data_dir": folder, "ipc": ipc, "image_size": check.image_size}
    return {
        "with the embedded editor, without a GPU": _line("params/demo.yaml", small),
        "with the published models, on a GPU": _line("params/own_images.yaml", large),
    }


def _line(params_file: str, values: Mapping[str, str | int]) -> str:
    return " ".join([f"dc3 run {params_file}", *(f"-p {key} {shlex.quote(str(values[key]))}" for key in values)])
