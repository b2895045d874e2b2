"""`dc3 export`: a run's condensed set for use elsewhere, as a Hugging Face folder or an .npz.

Each format gets its own folder with README.md (the dataset card) and provenance.json.
"""

import importlib.metadata
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from huggingface_hub import DatasetCard, DatasetCardData

from dc3 import condensed, students
from dc3.images import scenes
from dc3.images.image_set import ImageSet
from dc3.machine import paths
from dc3.machine.files import new_folder
from dc3.machine.markup import fenced, literal
from dc3.models import checkpoints
from dc3.models.evaluation import predict
from dc3.runs import results
from dc3.runs.manifests import (
    COMPENSATION,
    TEACHER,
    TEACHER_FILE,
    VALIDATION,
    StageMissing,
    written,
    written_folder,
)
from dc3.runs.parameters import declared
from dc3.strategies import METHODS

LOGITS = "teacher_logits"
OTHER_COLUMNS = ["file", "label", "class"]  # of the provenance table; `Exported.rows` writes its own
CARD = Path(__file__).with_name("dataset_card.md")
FILL_IN = "**Fill this in before you publish the set.**"
SAFE_FOLDER = re.compile(r"[^\W_][\w .,()+=-]*")
WINDOWS_DEVICE = re.compile(r"(?i:con|prn|aux|nul|com\d|lpt\d)(\..*)?")
LONGEST_FOLDER = 100  # bytes: some systems take paths of 260 characters only
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


@dataclass(frozen=True)
class Exported:
    """What is exported: images, one row of provenance per image, facts about the whole set, soft labels.

    `logits`: float32 (n, C), the run's teacher on the unaugmented images, before softmax; or None.
    `as_written`: whether the run's files are copied byte by byte, with their history; False when that names a folder of
    this machine (the editor's): then only their pixels are.
    """

    images: ImageSet
    classes: list[str]
    provenance: pd.DataFrame
    facts: dict[str, Any]
    logits: np.ndarray | None
    as_written: bool = True

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary of plain values per image: label, class, provenance, and logits if any."""
        kept = self.provenance.drop(columns=OTHER_COLUMNS).to_dict("records")
        rows = []
        for number, (row, label) in enumerate(zip(kept, self.images.labels.tolist(), strict=True)):
            rows.append({"label": label, "class": self.classes[label]} | {key: plain(row[key]) for key in row})
            if self.logits is not None:
                rows[-1][LOGITS] = [float(str(value)) for value in self.logits[number]]  # the shortest exact decimals
        return rows

    def file(self, number: int) -> bytes:
        """The file of an image."""
        content = self.images.file(number).read_bytes()
        return content if self.as_written else condensed.without_history(content)


def export(run: str, to: str, out: Path | None = None, soft_labels: bool = False) -> Path:
    """Writes the condensed set of a run, in a format of FORMATS, to the new folder `out`, complete or not at all.

    out: by default runs/<run>/export-<to>. Returns that folder. Raises ValueError for an unknown format or run and for
    files that the run's stages did not write so, StageMissing without a finished 04_compensation, FileExistsError when
    `out` exists.
    """
    if to not in FORMATS:
        raise ValueError(f"--to = {to!r}: expected one of {', '.join(FORMATS)}")
    out = out or paths.RUNS / run / f"export-{to}"
    exported = gather(run, soft_labels)
    with new_folder(out) as folder:
        metadata = FORMATS[to](exported, folder)
        (folder / "README.md").write_text(f"{card(exported.facts, to, **metadata)}\n", encoding="utf-8")
        (folder / "provenance.json").write_text(json.dumps(exported.facts, indent=1), encoding="utf-8")
    return out


def gather(run: str, soft_labels: bool = False) -> Exported:
    """Reads the condensed set of a run, and only files that their manifests list; raises like `export`."""
    found = results.manifests(run)
    for stage in (COMPENSATION, TEACHER):
        if stage not in found:
            raise StageMissing(f"RUN = {run!r} has no finished {stage}: dc3 run it first")
    settings, folder = results.settings(run), written_folder(run, f"{COMPENSATION}/condensed")
    classes = settings["classes"]
    images = condensed.load(folder, tuple(classes), parameter="RUN")
    table = pd.read_parquet(folder / condensed.PROVENANCE)
    logits = None
    if soft_labels:
        teacher = checkpoints.load(written(run, TEACHER_FILE)).model
        logits = predict(teacher, images.as_tested(settings["image_size"]), amp=False).numpy()
    as_written = True
    if "editor" in table:
        editors = table["editor"].map(results.without_folders)
        as_written = editors.equals(table["editor"])
        table = table.assign(editor=editors).drop(columns=[] if as_written else ["sha256"])
    facts = _facts(run, found, settings, images, table, soft_labels)
    return Exported(images, classes, table, facts, logits, as_written)


def _facts(
    run: str, found: dict, settings: dict, images: ImageSet, table: pd.DataFrame, soft_labels: bool
) -> dict[str, Any]:
    """Facts about the whole set as JSON values, without paths of this machine."""
    manifest = found[COMPENSATION]
    params = results.parameters({name: found[name] for name in found if name <= COMPENSATION})
    load = settings["load"] | {"data_dir": results.without_folders(settings["load"]["data_dir"])}
    facts = {
        "run": run,
        "method": params["method"],
        "method_name": METHODS[params["method"]].name,
        "edits": METHODS[params["method"]].edits,
        "classes": settings["classes"],
        "images": len(table),
        "images_per_class": len(table) // len(settings["classes"]),
        "image_size": settings["image_size"],
        "stored_size": images.side,
        "seed": settings["seed"],
        "source_data_set": load | {"sha256_of_training_set": settings["fingerprints"]["train"]},
        "editor": table["editor"].iloc[0] if "editor" in table else None,
        "editor_sha256": table["editor_sha256"].iloc[0] if "editor_sha256" in table else None,
        "parameters": {key: _without_folders(value) for key, value in params.items()},
        "dc3_version": importlib.metadata.version("dc3"),
        "git_commit": manifest["git_commit"],
        "versions": manifest["versions"],
        "finished": manifest["finished"],
    }
    return facts | {"soft_labels": _soft_label_facts(found) if soft_labels else None}


def _soft_label_facts(found: dict) -> dict[str, Any]:
    """The teacher of the logits, and the temperature at which the run's students learn."""
    defaults = {name: parameter.default for name, parameter in declared(VALIDATION).items()}
    params = found.get(VALIDATION, {}).get("params", defaults)
    return {
        "column": LOGITS,
        "teacher_sha256": found[TEACHER]["outputs"][TEACHER_FILE.split("/")[1]],
        "teacher_network": found[TEACHER]["params"]["teacher_network"],
        "teacher_accuracy": found[TEACHER]["facts"].get("accuracy"),
        "temperature": params["temperature"] or students.TEMPERATURE[params["mix"]],
    }


def _without_folders(value: Any) -> Any:
    return results.without_folders(value) if isinstance(value, str) else value


def plain(value: Any) -> Any:
    """numpy values and arrays, also nested ones, as JSON values; NaN as None."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(inner) for inner in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and np.isnan(value) else value


def _write_hf(exported: Exported, folder: Path) -> dict[str, Any]:
    """Writes train/<folder>/<rank>.png, or .jpg, and train/metadata.jsonl; returns the card's `configs`."""
    lines, rows, folders = [], exported.rows(), class_folders(exported.classes)
    for number, row in enumerate(rows):
        own = folders[row["label"]]
        name = f"{own}/{row['rank']:05d}{Path(exported.images.source(number)).suffix}"
        (folder / "train" / own).mkdir(parents=True, exist_ok=True)
        (folder / "train" / name).write_bytes(exported.file(number))
        lines.append(json.dumps({"file_name": name} | row))
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = {str(label): Quoted(name) for label, name in enumerate(exported.classes)}
    columns = [{"name": column.name} | feature(column.type) for column in pa.Table.from_pylist(rows).schema]
    label = {"name": "label", "dtype": {"class_label": {"names": names}}}
    features = [{"name": "image", "dtype": "image"}, label, *(c for c in columns if c["name"] != "label")]
    files = [{"split": "train", "path": "train/**"}]
    return {"configs": [{"config_name": "default", "data_files": files, "features": features}]}


def class_folders(classes: Sequence[str]) -> list[str]:
    """A folder's name for each class, which every file system and `datasets` take: the classes' own, if all are safe.

    Else numbers, 00000, 00001 …, as in the run: then no name leads elsewhere, is hidden, or is another's in lower case.
    """
    alone = len({name.casefold() for name in classes}) == len(classes)
    if alone and all(map(is_safe_folder, classes)):
        return list(classes)
    return [f"{label:05d}" for label in range(len(classes))]


def is_safe_folder(name: str) -> bool:
    """Whether a name is a folder's in every system: letters, digits and a few marks, and no device of Windows."""
    is_plain = SAFE_FOLDER.fullmatch(name) and name[-1] not in " ." and len(name.encode()) <= LONGEST_FOLDER
    return bool(is_plain) and unicodedata.is_normalized("NFC", name) and not WINDOWS_DEVICE.fullmatch(name)


class Quoted(str):
    """Text that YAML reads back as it is: PyYAML writes U+0085 bare, and reads it as a space."""


yaml.add_representer(Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def feature(kind: pa.DataType) -> dict[str, Any]:
    """A column's type in the card's YAML, from which `datasets` makes its features."""
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name} | feature(field.type) for field in kind]}
    if pa.types.is_list(kind):
        item = feature(kind.value_type)
        return {"list": item.get("struct") or item.get("dtype") or item}
    return {"dtype": "float64" if pa.types.is_floating(kind) else str(kind)}


def _write_npz(exported: Exported, folder: Path) -> dict[str, Any]:
    """Writes condensed.npz, without pickles."""
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
    return {}


FORMATS: dict[str, Callable[[Exported, Path], dict[str, Any]]] = {"hf": _write_hf, "npz": _write_npz}


def card(facts: dict[str, Any], to: str, **metadata: Any) -> DatasetCard:
    """The dataset card for these facts and a format of FORMATS; `metadata` goes into its header."""
    size = next((category for limit, category in SIZE_CATEGORIES.items() if facts["images"] < limit), "n>1M")
    licence: dict[str, Any] = {"license": "unknown"}
    if facts["source_data_set"]["dataset"] == "scenes10":
        licence = {"license": "other", "license_name": "one-of-each-photograph", "license_link": "README.md"}
    header = DatasetCardData(
        pretty_name=_title(facts),
        task_categories=["image-classification"],
        tags=["dataset-condensation", "dataset-distillation", "dc3"],
        size_categories=[size],
        **licence,
        **metadata,
    )
    made = DatasetCard.from_template(
        header,
        template_path=str(CARD),
        **facts,
        format=to,
        title=literal(_title(facts)),
        literal=literal,
        numbered=class_folders(facts["classes"]) != facts["classes"],
        code=fenced(f"CLASSES = {facts['classes']!r}", "python"),
        parameters_yaml=fenced(
            yaml.safe_dump(facts["parameters"], sort_keys=False, allow_unicode=True, width=100), "yaml"
        ),
        photographs=scenes.LICENCES,
        shipped_editor=paths.SHIPPED_EDITOR.name,
        fill_in=FILL_IN,
    )
    made.data = header  # the template's was read back from text, so its `Quoted` are plain again
    return made


def _title(facts: dict[str, Any]) -> str:
    data_set = facts["source_data_set"]
    name = data_set["dataset"] if data_set["dataset"] != "imagefolder" else data_set["data_dir"].rsplit("/", 1)[-1]
    return f"{name}, condensed to {facts['images_per_class']} images per class ({facts['method_name']})"
