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
import yaml
from PIL import Image

from dc3 import condensed, students
from dc3.images import scenes
from dc3.images.image_set import ImageSet
from dc3.machine import paths
from dc3.machine.files import new_folder, sha256
from dc3.models import checkpoints
from dc3.models.evaluation import predict
from dc3.runs import results
from dc3.runs.parameters import declared
from dc3.runs.stage import StageMissing
from dc3.strategies import METHODS

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
    found = results.manifests(run)
    if STAGE not in found:
        raise StageMissing(f"RUN = {run!r} has no finished {STAGE}, whose images are exported: dc3 run it first")
    settings, folder = results.settings(run), paths.RUNS / run / STAGE / "condensed"
    classes = settings["classes"]
    images = condensed.load(folder, tuple(classes), settings["load"]["image_size"], parameter="RUN")
    table = pd.read_parquet(folder / condensed.PROVENANCE)
    _check_files(folder, images, table)
    logits = None
    if soft_labels:
        logits = predict(checkpoints.load(paths.RUNS / run / TEACHER).model, images, amp=False).numpy()
    as_written = True
    if "editor" in table:
        editors = table["editor"].map(results.without_machine_paths)
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
    params = results.parameters({name: found[name] for name in found if name <= STAGE})
    load = settings["load"] | {"data_dir": results.without_machine_paths(settings["load"]["data_dir"])}
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
        "temperature": params["temperature"] or students.TEMPERATURE[params["mix"]],
    }


def _of_the_project(value: Any) -> Any:
    return results.without_machine_paths(value) if isinstance(value, str) else value


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


FILL_IN = "**Fill this in before you publish the set.**"
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
READING = {
    "hf": """from datasets import ClassLabel, load_dataset

data = load_dataset("imagefolder", data_dir="this folder", split="train")
data = data.cast_column("label", ClassLabel(names=CLASSES))   # the list below; without it labels are plain numbers""",
    "npz": """import json
import numpy as np

data = np.load("condensed.npz")
data["images"], data["labels"]          # uint8 (n, H, W, 3), int64 (n,)
data["class_names"], data["sources"]    # of the labels 0, 1, …; of the images
json.loads(str(data["provenance"]))""",
    "webdataset": """import webdataset

data = webdataset.WebDataset("train-000000.tar").decode("rgb8").to_tuple("png", "cls", "json")
# uint8 (H, W, 3), number of the class, a dictionary; further shards are train-000001.tar …""",
}
SOFT_PLACES = {
    "hf": "column `teacher_logits` (read as float64, which holds them exactly)",
    "npz": "array `teacher_logits`",
    "webdataset": '`npy` of each sample (`to_tuple(…, "npy")`)',
}


def card(facts: dict[str, Any], to: str) -> str:
    """The card of a set with these facts in a format of READING, with the YAML header of the hub."""
    parts = [
        f"---\n{yaml.safe_dump(_header(facts, to), sort_keys=False, allow_unicode=True)}---",
        f"# {_title(facts)}\n\n{_introduction(facts)}",
        f"## Reading it\n\n```python\n{READING[to]}\n```",
        _classes(facts),
        _soft_labels(facts, to),
        _provenance(facts),
        f"## Licences\n\n{_licences(facts)}",
        f"## Citation\n\n{_citation()}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _header(facts: dict[str, Any], to: str) -> dict[str, Any]:
    size = next((told for limit, told in SIZE_CATEGORIES.items() if facts["images"] < limit), "n>1M")
    header: dict[str, Any] = {"pretty_name": _title(facts), "license": "unknown"}
    header["task_categories"] = ["image-classification"]
    if facts["source_data_set"]["dataset"] == "scenes10":
        header |= {"license": "other", "license_name": "one-of-each-photograph", "license_link": "README.md"}
    header |= {"tags": ["dataset-condensation", "dataset-distillation", "dc3"], "size_categories": [size]}
    if to == "hf":
        header["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": "train/**"}]}]
    return header


def _title(facts: dict[str, Any]) -> str:
    data_set = facts["source_data_set"]
    name = data_set["dataset"] if data_set["dataset"] != "imagefolder" else data_set["data_dir"].rsplit("/", 1)[-1]
    return f"{name}, condensed to {facts['images_per_class']} images per class ({facts['method_name']})"


def _introduction(facts: dict[str, Any]) -> str:
    made = "Each was picked and then recoloured by an image editor: warm and cold versions of a pick, blended into one."
    kept = "Each is an image of the source data set, or a mosaic of its crops; no editor changed it."
    return (
        f"A condensed training set: {facts['images']:,} images of {len(facts['classes']):,} classes at "
        f"{facts['image_size']} px, made by DC3 to stand for a whole training set. {made if facts['edits'] else kept} "
        "Test with the test images of the source data set; there are none here. `index` and `source` say which source "
        "image each comes from, and the other columns how it was made; a PNG as its run wrote it carries the "
        "same in its text chunk `dc3`. The whole set's parameters are in `provenance.json`."
    )


def _classes(facts: dict[str, Any]) -> str:
    return f"## Classes\n\nIn the order of the labels 0, 1, …:\n\n```python\nCLASSES = {facts['classes']!r}\n```"


def _soft_labels(facts: dict[str, Any], to: str) -> str:
    soft = facts["soft_labels"]
    if soft is None:
        return ""
    accuracy = f", {soft['teacher_accuracy']:.1%} of the test images right" if soft["teacher_accuracy"] else ""
    return (
        f"## Soft labels\n\n{SOFT_PLACES[to]}: float32 logits, one a class, of the run's teacher "
        f"({soft['teacher_network']}{accuracy}; SHA-256 of its file `{soft['teacher_sha256']}`) for each image as "
        f"it is. The run's students learn from softmax(logits / {soft['temperature']:g}). They see the teacher's "
        "answers to *mixed and augmented* images, which only the teacher itself can give: training on these fixed "
        "answers is a weaker protocol."
    )


def _provenance(facts: dict[str, Any]) -> str:
    data_set = facts["source_data_set"]
    rows = {
        "method": f"{facts['method_name']} (`method: {facts['method']}`)",
        "source data set": f"{data_set['dataset']} {data_set['data_dir']}".strip(),
        "fingerprint of the training images": data_set["sha256_of_training_set"],
        "seed": facts["seed"],
        "editor": facts["editor"] or "none",
        "SHA-256 of the editor's weights": facts["editor_sha256"] or "–",
        "dc3 version, git commit": f"{facts['dc3_version']}, {facts['git_commit'] or 'unknown'}",
        "made": facts["finished"],
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    table = "\n".join(["| what | value |", "| --- | --- |", *lines])
    parameters = yaml.safe_dump(facts["parameters"], sort_keys=False, allow_unicode=True, width=100)
    return f"## Provenance\n\n{table}\n\nParameters:\n\n```yaml\n{parameters}```"


def _licences(facts: dict[str, Any]) -> str:
    parts = [_source_licence(facts["source_data_set"])]
    if facts["edits"]:
        parts.append(_editor_licence(facts["editor"]))
    return "\n\n".join(parts)


def _source_licence(data_set: dict[str, Any]) -> str:
    name = data_set["dataset"]
    if name == "scenes10":
        lines = [f"| {of} | {licence} | {whose} |" for of, (licence, whose) in scenes.LICENCES.items()]
        table = "\n".join(["| class | licence | of |", "| --- | --- | --- |", *lines])
        return (
            "The images are crops of ten photographs that scikit-image and scikit-learn distribute, changed as "
            f"said above. What these packages state of them:\n\n{table}"
        )
    if name in ("cifar10", "cifar100"):
        return (
            f"Of the source images: unknown. The data set's page, {CIFAR_PAGE}, states no licence and asks "
            "to cite A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009; the images were "
            f"collected from the web. {FILL_IN}"
        )
    return (
        "Of the source images: unknown. They were read from a folder, and DC3 cannot tell under which licence they "
        f"are. {FILL_IN} Say in the header (`license:`) and here: the licence of the source images, who made them, and "
        "whether it allows changed versions to be passed on."
    )


def _editor_licence(editor: str) -> str:
    if editor == paths.SHIPPED_EDITOR.name:
        return f"The editor, `{editor}`, is part of DC3 (MIT licence)."
    asked = "Its model card says whether its licence binds what is made with it."
    return f"The editor, `{editor}`: unknown. {asked} {FILL_IN}"


def _citation() -> str:
    return (
        "H. Wu, D. Su, J. Hou, G. Li: *Dataset Condensation with Color Compensation*, Transactions on Machine Learning "
        "Research, 2025, https://arxiv.org/abs/2508.01139; and the source data set."
    )
