"""What to look at after a run: its accuracy, a few pictures, its condensed set, and a command to go on with."""

import shlex
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from dc3.machine import paths
from dc3.runs.manifests import COMPENSATION, TEACHER, VALIDATION, NotAsWritten, read_manifest, written
from dc3.runs.parameters import notebook_names

PICTURES = {  # the best first; what each one shows
    "compensation_method.png": "the method on one class: images, bins and picks, edits, condensed images",
    "sampling_tsne.png": "the picks as stars among all images of their class",
    "compensation_strips.png": "the first pick of each class, its warm and cold edit, and what a student sees",
    "validation_curves.png": "how students of each set learn",
    "color_and_fid_hues.png": "the hues of each set beside those of all images",
    "compensation_set.png": "the condensed images",
    "teacher_confusion.png": "which classes the teacher takes for each other",
    "validation_classes.png": "the accuracy of each class",
    "binning_bins.png": "the bins of a class: what is alike lies together",
}
MOST = 5
COLUMNS = ["method", "network", "ipc", "seed", "stored_bytes", "top1"]


def guide(run: str) -> str:
    """The guide of a run, of as many parts as its finished stages give."""
    parts = ["\n".join(part) for part in (_accuracies(run), _pictures(run), _condensed(run), _commands(run)) if part]
    return "\n\n".join(parts)


def _accuracies(run: str) -> list[str]:
    """The accuracy of students of each set, as kept in results.parquet; [] before 05_validation is done."""
    manifest = read_manifest(run, VALIDATION)
    if manifest is None or "results.parquet" not in manifest["outputs"]:
        return []
    from pyarrow import parquet  # not pandas, which takes twice as long to import

    try:
        rows = parquet.read_table(written(run, f"{VALIDATION}/results.parquet"), columns=COLUMNS).to_pylist()
    except NotAsWritten as error:
        return [str(error)]
    network = rows[0]["network"]
    sets: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["network"] == network:
            sets.setdefault(row["method"], []).append(row)
    heading = f"accuracy of {network} on the test images, in percent, by what it was trained on:"
    return [heading, *(_accuracy(name, of_set) for name, of_set in sets.items()), _teacher(run, manifest)]


def _accuracy(name: str, rows: list[dict[str, Any]]) -> str:
    """A line on the students of a whole set, without those of smaller_ipcs."""
    ipc = max(row["ipc"] for row in rows)
    whole = [row for row in rows if row["ipc"] == ipc]
    top1 = [100 * row["top1"] for row in whole]
    deviation = f"± {statistics.stdev(top1):.1f}" if len(top1) > 1 else ""
    size = f"{ipc} images, {whole[0]['stored_bytes'] / 1000:.1f} kB a class"
    return f"  {statistics.mean(top1):5.1f} {deviation:<6} {name} ({size})"


def _teacher(run: str, manifest: dict[str, Any]) -> str:
    count = (read_manifest(run, TEACHER) or {"facts": {}})["facts"].get("training_images")
    images = f"all {count:,} images" if count else "all images"
    return f"  {100 * manifest['facts']['teacher']:5.1f}        the teacher ({images})"


def _pictures(run: str) -> list[str]:
    folder = paths.FIGURES / run
    found = [name for name in PICTURES if (folder / name).exists()][:MOST]
    if not found:
        return [f"figures and tables: {paths.shown(folder)}"]
    lines = _aligned([(paths.shown(folder / name), PICTURES[name]) for name in found])
    return [f"worth opening ({paths.shown(folder / 'README.md')} has all figures and tables):", *lines]


def _condensed(run: str) -> list[str]:
    made = read_manifest(run, COMPENSATION)
    if made is None:
        return []
    folder = paths.shown(paths.RUNS / run / COMPENSATION / "condensed")
    return [f"the condensed set: {made['facts'].get('images', '')} images in class folders in {folder}"]


def _commands(run: str) -> list[str]:
    """Lines for the shell, with comments."""
    dc3 = _command()
    return ["next:", *_aligned([(f"{dc3} report {shlex.quote(run)}", "# everything on one page"), *_next(run, dc3)])]


def _next(run: str, dc3: str) -> list[tuple[str, str]]:
    """One command to go on with; none while stages are missing, which the same command as before goes on with."""
    if any(read_manifest(run, name) is None for name in notebook_names()):
        return []
    dataset = (read_manifest(run, TEACHER) or {"params": {}})["params"].get("dataset")
    if dataset == "scenes10":
        return [(f"{dc3} data check FOLDER", "# your own images, and the command that runs them")]
    return [(f"{dc3} export {shlex.quote(run)} --to hf", "# the condensed set with its card, to share")]


def _aligned(pairs: list[tuple[str, str]]) -> list[str]:
    width = max(len(first) for first, _ in pairs)
    return [f"  {first:<{width}}  {second}" for first, second in pairs]


def _command() -> str:
    """How dc3 is called here: by its path where the environment is not active."""
    called = sys.argv[0]
    return shlex.quote(called) if Path(called).name == "dc3" and shutil.which("dc3") is None else "dc3"
