"""Folders of images: their splits, their class folders, the images in these, and what people meant by other names."""

import os

from dc3.machine.files import composed, is_utf8, printable
from dc3.machine.paths import Place, files_below, is_hidden

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "test")}  # the first that exists: ImageNet's test has no labels
MEANT = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
MEANT |= {"test": "test", "testing": "test"}  # what people call the folders of splits, in lower case
EXPECTED = "expected a folder with train/ and val/ (or test/), each with one folder of images per class"
NAMED = 5  # entries of a folder in a message


def visible_folders(folder: Place) -> list[Place]:
    """The folders in a folder, sorted by name, without those that `is_hidden`. OSError if it cannot be listed."""
    return sorted(
        (entry for entry in folder.iterdir() if not is_hidden(entry.name) and entry.is_dir()), key=lambda f: f.name
    )


def class_folders(folder: Place, parameter: str) -> dict[str, str]:
    """Class → its folder's name, sorted by class: the folder's name in Unicode's normal form C.

    So train and val of one set may be written in different forms.
    ValueError for fewer than two classes, names that are not UTF-8, and two folders of one class.
    """
    try:
        names = [entry.name for entry in visible_folders(folder)]
    except (FileNotFoundError, NotADirectoryError):
        names = []
    if len(names) < 2:
        raise ValueError(
            f"{parameter}: {folder} has {len(names)} class folders, at least 2 are needed{_wrapped(folder, 2)}"
        )
    unreadable = [printable(name) for name in names if not is_utf8(name)]
    if unreadable:
        raise ValueError(f"{parameter}: {folder} has class folders whose names are not UTF-8 ({', '.join(unreadable)})")
    found: dict[str, str] = {}
    for name, composed_name in zip(names, composed(names), strict=True):
        known = found.setdefault(composed_name, name)
        if known != name:
            raise ValueError(
                f"{parameter}: {folder} has two class folders {known!a} and {name!a}, which are one name in "
                "two forms of Unicode: put their images into one of them"
            )
    return dict(sorted(found.items()))


def images_of(folder: Place, names: list[str]) -> list[list[str]]:
    """The images of each class folder, relative to the folder's parent, in the order of torchvision's ImageFolder."""
    of_class: dict[str, list[str]] = {name: [] for name in names}
    for path in files_below(folder):
        if path.lower().endswith(IMG_EXTENSIONS):
            of_class.get(path.split("/")[0], []).append(path)
    return [
        [os.path.join(folder.name, path) for path in sorted(paths, key=os.path.split)] for paths in of_class.values()
    ]


def split_folder(data_dir: Place | None, split: str) -> Place:
    """The folder of `split` ("train" or "test") of an imagefolder.

    Raises ValueError when `data_dir` is None, FileNotFoundError naming what it holds when the split is missing.
    """
    if data_dir is None:
        raise ValueError(f"data_dir is not set: dataset = 'imagefolder' {EXPECTED}")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"data_dir = {str(data_dir)!r} is not a folder: {EXPECTED}")
    candidates = SPLIT_FOLDERS[split]
    found = [data_dir / name for name in candidates if (data_dir / name).is_dir()]
    if not found:
        visible = sorted(printable(entry.name) for entry in data_dir.iterdir() if not is_hidden(entry.name))
        held = ", ".join(visible[:NAMED]) or "nothing"
        missing = " or ".join(f"{name}/" for name in candidates)
        remedy = _remedy(data_dir) or EXPECTED
        raise FileNotFoundError(f"data_dir = {str(data_dir)!r} has no {missing} (it holds {held}): {remedy}")
    return found[0]


def meant_splits(folder: Place) -> dict[str, str]:
    """The folders that are named as splits in another spelling, such as Train or validation → train, val or test."""
    meant = {entry.name: MEANT.get(entry.name.lower(), "") for entry in visible_folders(folder)}
    return {name: split for name, split in meant.items() if split}


def is_data_set(folder: Place) -> bool:
    """Whether a folder holds splits, in any spelling, judged by what lies in them: a class may be called train."""
    folders, splits = visible_folders(folder), meant_splits(folder)
    if splits and len(splits) == len(folders):
        return True
    return any(_holds_class_folders(folder / name) for name in splits)


def wrapped_data_set(folder: Place) -> Place | None:
    """The only folder in a folder if it holds splits, as the wrapper folder of an unpacked archive does."""
    folders = visible_folders(folder)
    return folders[0] if len(folders) == 1 and is_data_set(folders[0]) else None


def _holds_class_folders(folder: Place) -> bool:
    entries = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
    loose = any(entry.name.lower().endswith(IMG_EXTENSIONS) and not entry.is_dir() for entry in entries)
    return not loose and any(entry.is_dir() for entry in entries)


def _remedy(data_dir: Place) -> str:
    """What to do where a split is missing; "" if nothing shows what was meant."""
    if wrapped := wrapped_data_set(data_dir):
        return f"the data set lies in {wrapped.name}/, so give data_dir = {str(wrapped)!r}"
    renamed = {name: split for name, split in meant_splits(data_dir).items() if name != split}
    if renamed:
        return f"found {' and '.join(renamed)}: rename to {' and '.join(renamed.values())}"
    folders = visible_folders(data_dir)
    if len(folders) >= 2 and not meant_splits(data_dir):
        return (
            f"its folders look like classes without splits; {EXPECTED}: move them into train/, and some images of each "
            "class into val/"
        )
    return ""


def _wrapped(folder: Place, least: int) -> str:
    """The hint that the class folders lie one folder deeper, for a message."""
    if not folder.is_dir():
        return ""
    folders = visible_folders(folder)
    if len(folders) == 1 and len(visible_folders(folders[0])) >= least:
        return f"; {folders[0].name}/ in it has more: give {str(folders[0])!r}, or move them up"
    return ""
