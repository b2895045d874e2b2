"""The README.md of an exported condensed set: what it is, how it is read, where it comes from, under which licences."""

from typing import Any

import yaml

from dc3.images import scenes
from dc3.machine import paths

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
