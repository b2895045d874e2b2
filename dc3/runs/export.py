"""The condensed set of a run for use elsewhere: `dc3 export`, as a Hugging Face folder, an .npz or WebDataset shards.

Every format lies in a folder of its own with README.md, the dataset card, and provenance.json.
"""

import importlib.metadata
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from dc3 import condensed, protocol
from dc3.images.image_set import ImageSet
from dc3.machine import paths
from dc3.machine.files import new_folder, sha256
from dc3.methods import METHODS
from dc3.models import checkpoints
from dc3.models.evaluation import predict
from dc3.runs import run_summary
from dc3.runs.dataset_card import card
from dc3.runs.parameters import declared
from dc3.runs.stage import StageMissing

STAGE, VALIDATION = "04_compensation", "05_validation"
TEACHER = "00_teacher/teacher.safetensors"
LOGITS = "teacher_logits"
SHARD_IMAGES = 5000  # of a WebDataset shard
TABLE_LEFT_OUT = ["file", "label", "class"]  # said otherwise


@dataclass(frozen=True)
class Exported:
    """What is exported: images, provenance a row an image in their order, facts of the whole set, soft labels.

    `logits`: float32 (n, C), what the run's teacher answers to the images as they are, before any softmax; or None.
    `as_written`: whether the run's PNGs are passed on byte by byte, with their history; else it names a folder of this
    machine (that of the editor), and their pixels alone are.
    """

    images: ImageSet
    classes: list[str]
    provenance: pd.DataFrame
    facts: dict[str, Any]
    logits: np.ndarray | None
    as_written: bool = True

    def rows(self) -> list[dict[str, Any]]:
        """A dictionary of plain values an image: label, class, provenance, and the logits where there are any."""
        kept = self.provenance.drop(columns=TABLE_LEFT_OUT).to_dict("records")
        rows = []
        for number, (row, label) in enumerate(zip(kept, self.images.labels.tolist(), strict=True)):
            rows.append({"label": label, "class": self.classes[label]} | {key: plain(row[key]) for key in row})
            if self.logits is not None:
                rows[-1][LOGITS] = [float(str(value)) for value in self.logits[number]]  # the shortest exact decimals
        return rows

    def png(self, number: int) -> bytes:
        """The PNG of an image."""
        if self.as_written and self.images.root is not None:
            return (self.images.root / self.images.sources[number]).read_bytes()
        stream = io.BytesIO()
        Image.fromarray(self.images.images([number])[0]).save(stream, format="PNG")
        return stream.getvalue()


def export(run: str, to: str, out: Path | None = None, soft_labels: bool = False) -> Path:
    """Writes the condensed set of a run, in a format of FORMATS, to the new folder `out`, complete or not at all.

    out: by default runs/<run>/export-<to>. Returns that folder. Raises ValueError for an unknown format or run and for
    images that are not those the run wrote, StageMissing without a finished 04_compensation, FileExistsError when
    `out` is there already.
    """
    if to not in FORMATS:
        raise ValueError(f"--to = {to!r}: expected one of {', '.join(FORMATS)}")
    out = out or paths.RUNS / run / f"export-{to}"
    exported = gather(run, soft_labels)
    with new_folder(out) as folder:
        FORMATS[to](exported, folder)
        (folder / "README.md").write_text(card(exported.facts, to))
        (folder / "provenance.json").write_text(json.dumps(exported.facts, indent=1))
    return out


def gather(run: str, soft_labels: bool = False) -> Exported:
    """Reads the condensed set of a run; raises as `export`."""
    found = run_summary.manifests(run)
    if STAGE not in found:
        raise StageMissing(f"RUN = {run!r} has no finished {STAGE}, whose images are exported: dc3 run it first")
    settings, folder = run_summary.settings(run), paths.RUNS / run / STAGE / "condensed"
    classes = settings["classes"]
    images = condensed.load(folder, tuple(classes), settings["load"]["image_size"], parameter="RUN")
    table = pd.read_parquet(folder / condensed.PROVENANCE)
    _check_files(folder, images, table)
    logits = None
    if soft_labels:
        logits = predict(checkpoints.load(paths.RUNS / run / TEACHER).model, images, amp=False).numpy()
    as_written = True
    if "editor" in table:
        editors = table["editor"].map(run_summary.without_machine_paths)
        as_written = editors.equals(table["editor"])
        table = table.assign(editor=editors).drop(columns=[] if as_written else ["sha256"])
    return Exported(images, classes, table, _facts(run, found, settings, table, soft_labels), logits, as_written)


def _check_files(folder: Path, images: ImageSet, table: pd.DataFrame) -> None:
    files = [Path(source).relative_to(folder.name).as_posix() for source in images.sources]
    changed = sorted(set(files) ^ set(table["file"]))
    changed += [row.file for row in table.itertuples() if not changed and sha256(folder / row.file) != row.sha256]
    if changed or files != table["file"].tolist():
        raise ValueError(
            f"{paths.shown(folder)} is not as {STAGE} left it ({', '.join(changed[:5]) or 'another order'}): "
            "run 04_compensation again"
        )


def _facts(run: str, found: dict, settings: dict, table: pd.DataFrame, soft_labels: bool) -> dict[str, Any]:
    """Of the whole set, as JSON has it; no paths of this machine."""
    manifest = found[STAGE]
    params = run_summary.parameters({name: found[name] for name in found if name <= STAGE})
    load = settings["load"] | {"data_dir": run_summary.without_machine_paths(settings["load"]["data_dir"])}
    facts = {
        "run": run,
        "method": params["method"],
        "method_name": METHODS[params["method"]].name,
        "edits": METHODS[params["method"]].edits,
        "classes": settings["classes"],
        "images": len(table),
        "images_per_class": len(table) // len(settings["classes"]),
        "image_size": load["image_size"],
        "seed": settings["seed"],
        "source_data_set": load | {"sha256_of_training_set": settings["fingerprints"]["train"]},
        "editor": table["editor"].iloc[0] if "editor" in table else None,
        "editor_sha256": table["editor_sha256"].iloc[0] if "editor_sha256" in table else None,
        "parameters": {key: _of_the_project(value) for key, value in params.items()},
        "dc3_version": importlib.metadata.version("dc3"),
        "git_commit": manifest["git_commit"],
        "versions": manifest["versions"],
        "finished": manifest["finished"],
    }
    return facts | {"soft_labels": _soft_label_facts(found) if soft_labels else None}


def _soft_label_facts(found: dict) -> dict[str, Any]:
    """What the logits are of, and the temperature by which the run's students learn from them."""
    defaults = {name: parameter.default for name, parameter in declared(VALIDATION).items()}
    params = found.get(VALIDATION, {}).get("params", defaults)
    return {
        "column": LOGITS,
        "teacher_sha256": found["00_teacher"]["outputs"][TEACHER.split("/")[1]],
        "teacher_network": found["00_teacher"]["params"]["teacher_network"],
        "teacher_accuracy": found["00_teacher"]["facts"].get("accuracy"),
        "temperature": params["temperature"] or protocol.TEMPERATURE[params["mix"]],
    }


def _of_the_project(value: Any) -> Any:
    return run_summary.without_machine_paths(value) if isinstance(value, str) else value


def plain(value: Any) -> Any:
    """Numpy's values, arrays and nested ones as JSON has them; NaN as None."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(inner) for inner in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and np.isnan(value) else value


def _write_hf(exported: Exported, folder: Path) -> None:
    """train/<class>/<rank>.png, and train/metadata.jsonl with a line an image."""
    lines = []
    for number, row in enumerate(exported.rows()):
        name = f"{row['class']}/{row['rank']:05d}.png"
        (folder / "train" / row["class"]).mkdir(parents=True, exist_ok=True)
        (folder / "train" / name).write_bytes(exported.png(number))
        lines.append(json.dumps({"file_name": name} | row))
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def _write_npz(exported: Exported, folder: Path) -> None:
    """condensed.npz: no pickles in it."""
    arrays = {
        "images": exported.images.images(),
        "labels": exported.images.labels.astype(np.int64),
        "class_names": np.array(exported.classes),
        "sources": exported.provenance["source"].to_numpy(str),
        "provenance": np.array(json.dumps(exported.facts)),
    }
    if exported.logits is not None:
        arrays[LOGITS] = exported.logits
    np.savez_compressed(folder / "condensed.npz", **arrays)


def _write_webdataset(exported: Exported, folder: Path) -> None:
    """Shards of png, cls and json (and npy, the logits); all classes by turns, so that a stream is mixed."""
    rows = exported.rows()
    order = sorted(range(len(rows)), key=lambda number: (rows[number]["rank"], rows[number]["label"]))
    for shard, start in enumerate(range(0, len(order), SHARD_IMAGES)):
        with tarfile.open(folder / f"train-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in order[start : start + SHARD_IMAGES]:
                row = dict(rows[number])
                parts = {"png": exported.png(number), "cls": str(row["label"]).encode()}
                if exported.logits is not None:
                    del row[LOGITS]
                    parts["npy"] = _npy(exported.logits[number])
                parts["json"] = json.dumps(row).encode()
                for suffix, content in parts.items():
                    member = tarfile.TarInfo(f"{row['label']:05d}-{row['rank']:05d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


FORMATS: dict[str, Callable[[Exported, Path], None]] = {
    "hf": _write_hf,
    "npz": _write_npz,
    "webdataset": _write_webdataset,
}
