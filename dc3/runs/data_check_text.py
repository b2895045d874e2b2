"""What `dc3 data check` prints of what it saw (`dc3.runs.data_check`)."""

import shlex
from collections.abc import Iterator, Mapping

import pandas as pd

from dc3.runs.data_check import (
    CONDENSED,
    Check,
    Split,
    counts,
    cropped_share,
    run_name,
    sizes,
    smallest_class,
    teacher_epochs,
)

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
    yield f"{check.folder}: {_layout(check)}"
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


def _layout(check: Check) -> str:
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
