"""The records of stages, manifest.json and begun.json, and the files that manifests list: a run reads no others.

Runs are copied, cut short by full disks, edited and shared. A record that is not whole counts as absent, a name in it
never leads out of its folder, and a file whose bytes are not those of its manifest is refused.
"""

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from dc3.machine import paths
from dc3.machine.files import composed, printable, replacing, sha256

TEACHER, COMPENSATION, VALIDATION = "00_teacher", "04_compensation", "05_validation"  # stages that are read by name
TEACHER_FILE = f"{TEACHER}/teacher.safetensors"
MANIFEST = "manifest.json"
BEGUN = "begun.json"  # what a stage under way began with: decides if it resumes after a kill
SMALL = 64 << 20  # bytes: larger inputs, such as latents, are compared with their manifest by the runner only
RECORD_FORM: dict[str, type | tuple[type, ...]] = {"params": dict, "code": str, "external": dict}
BEGUN_FORM = RECORD_FORM | {"superseded": dict}  # figures of before: name → mtime_ns
MANIFEST_FORM = RECORD_FORM | {
    **{"inputs": dict, "outputs": dict, "figures": dict, "facts": dict, "versions": dict},
    **{"wall_seconds": (int, float), "finished": str},
}
Record = dict[str, Any]


class StageMissing(RuntimeError):
    """A stage needs another that is not finished in this run; the message says what to run."""


class NotAsWritten(ValueError):
    """A file of a finished stage is not what the stage wrote; the message names it and says what to do."""


def read_json(path: Path) -> Any:
    """The content of a JSON file; None when it is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, complete or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")


def read_manifest(run: str, stage: str) -> Record | None:
    """A finished stage's manifest; None when it is absent or damaged."""
    record = read_record(paths.RUNS / run / stage / MANIFEST)
    return record if record and _has_form(record, MANIFEST_FORM) and _names_are_inside(record) else None


def read_begun(folder: Path) -> Record | None:
    """What the stage in `folder` began with; None when begun.json is absent or damaged."""
    record = read_record(folder / BEGUN)
    return record if record and _has_form(record, BEGUN_FORM) else None


def read_record(path: Path) -> Record | None:
    """A JSON mapping, of any form; None when it is absent or damaged."""
    content = read_json(path)
    return content if isinstance(content, dict) else None


def read_settings(path: Path) -> dict[str, Any] | None:
    """The content of a settings.json, also of an earlier version; None when it is absent or damaged."""
    content = read_record(path)
    if content and "image_size" in content.get("load", {}):  # where earlier versions kept it
        content["image_size"] = content["load"].pop("image_size")
    if content and "classes" in content:  # earlier versions kept them as the folders are written
        content["classes"] = composed(content["classes"])
    return content


def _has_form(record: Record, form: dict[str, type | tuple[type, ...]]) -> bool:
    return isinstance(record.get("layout", 1), int) and all(isinstance(record.get(key), form[key]) for key in form)


def _names_are_inside(manifest: Record) -> bool:
    """Whether the listed files lie in the stage's folder and the run's folder of figures."""
    return all(_is_inside(file) for file in (*manifest["outputs"], *manifest["figures"]))


def _is_inside(file: str) -> bool:
    parts = PurePosixPath(file).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in file


def listed(run: str, name: str) -> str:
    """The SHA-256 of a finished stage's file, such as "02_binning/bins.parquet". StageMissing when none is listed."""
    stage, file = name.split("/", 1)
    manifest = read_manifest(run, stage)
    if manifest is None or file not in manifest["outputs"]:
        raise StageMissing(f"run {run!r} has no finished {stage}: run notebooks/{stage}.ipynb first")
    return manifest["outputs"][file]


def written(run: str, name: str, largest: float = float("inf")) -> Path:
    """The path of a finished stage's file, such as "02_binning/bins.parquet".

    StageMissing when the manifest does not list it, NotAsWritten when its bytes are others; a file of more than
    `largest` bytes is not compared.
    """
    digest, path = listed(run, name), paths.RUNS / run / name
    if not path.is_file() or (path.stat().st_size <= largest and sha256(path) != digest):
        stage = name.split("/")[0]
        raise NotAsWritten(f"{paths.shown(path.parent)}: {path.name} is not what {stage} wrote: run {stage} again")
    return path


def written_folder(run: str, name: str) -> Path:
    """The path of a folder of a finished stage, such as "04_compensation/condensed", that holds what the stage wrote.

    StageMissing when the stage is not finished, NotAsWritten for files that the manifest does not list, and for listed
    ones that are missing or others. Linked folders are entered, and hidden files do not count, as by a set's readers.
    """
    stage, inner = name.split("/", 1)
    folder, manifest = paths.RUNS / run / name, read_manifest(run, stage)
    if manifest is None:
        raise StageMissing(f"run {run!r} has no finished {stage}: run notebooks/{stage}.ipynb first")
    prefix = f"{inner}/"
    outputs = manifest["outputs"].items()
    wanted = {file.removeprefix(prefix): digest for file, digest in outputs if file.startswith(prefix)}
    held = set(paths.files_below(folder))
    if others := held - wanted.keys():
        raise NotAsWritten(
            f"{paths.shown(folder)} holds {len(others)} files that {stage} did not write ({_some(others)}): remove them"
        )
    changed = [file for file, digest in wanted.items() if file not in held or sha256(folder / file) != digest]
    if changed:
        raise NotAsWritten(
            f"{paths.shown(folder)} has changed since {stage} wrote it ({_some(changed)}): run {stage} again"
        )
    return folder


def _some(files: Iterable[str]) -> str:
    names = sorted(map(printable, files))
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
