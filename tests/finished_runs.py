"""Finished runs for tests of what looks at runs: made by dc3's own functions in a moment, without its notebooks."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbformat.v4 import writes as notebook_text

from dc3.compensation import copy
from dc3.condensed import Storage
from dc3.images.image_set import in_memory
from dc3.machine import paths
from dc3.machine.files import sha256
from dc3.models import checkpoints, networks
from dc3.runs import results
from dc3.runs import stage as runs
from dc3.runs.manifests import read_json, write_json
from dc3.runs.notebook_stage import NotebookStage
from dc3.runs.parameters import declared

CLASSES = ("cat", "dog", "owl")
SIZE, IPC, PER_CLASS = 16, 2, 8
STAGES = ("00_teacher", "03_sampling", "04_compensation", "05_validation", "06_color_and_fid")
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
FOLDER_OF_THE_MACHINE = "/home/somebody/images/pets"


def make_run(name, picks_from=0, until="06", top1=0.5, **changed):
    """A run of three classes at IPC 2 up to a stage; picks begin at image `picks_from` of each class."""
    images = image_set()
    values = {"run": name, "ipc": IPC, "image_size": SIZE, "method": "dc3_plain"}
    values |= {"device": "cpu", "dataset": "scenes10", "images_per_class": 1} | changed
    for stage_name in STAGES:
        if stage_name[:2] <= until:
            with mock.patch.object(runs, "notebook_fingerprint", return_value="not asked for"):  # it takes a second
                stage = runs.begin(
                    stage_name, {key: p.default for key, p in declared(stage_name).items()} | values, NotebookStage
                )
            MAKERS[stage_name](SimpleNamespace(stage=stage, images=images, first=picks_from, top1=top1))
            write_notebook(stage)
    return paths.RUNS / name


def record(stage):
    """The manifest in this folder of a stage lists what lies in it now, as if the stage had written it."""
    manifest = read_json(stage / "manifest.json")
    files = (path for path in stage.rglob("*") if path.is_file() and path.name not in ("manifest.json", "begun.json"))
    outputs = {path.relative_to(stage).as_posix(): sha256(path) for path in files}
    write_json(stage / "manifest.json", manifest | {"outputs": outputs})


def image_set():
    labels = np.repeat(np.arange(len(CLASSES)), PER_CLASS)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), SIZE, SIZE, 3), dtype=np.uint8)
    return in_memory("toys", "train", CLASSES, labels, pixels)


def write_notebook(stage):
    outputs = [new_output("stream", text=f"read {FOLDER_OF_THE_MACHINE}/cat\n")]
    outputs.append(new_output("display_data", {"image/png": PNG}))
    code = new_code_cell(f"open('{FOLDER_OF_THE_MACHINE}')", outputs=outputs, execution_count=1)
    path = runs.executed_copy(stage.run, stage.name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        notebook_text(new_notebook(cells=[new_markdown_cell(f"# Page of {stage.name}"), code])), encoding="utf-8"
    )


def _teacher(made):
    with mock.patch.dict(
        made.stage.params, data_dir=""
    ):  # settling opens the images; those of `data_dir` are not there
        made.stage.settle()
    content = read_json(made.stage.output("settings.json"))
    fingerprints = {"train": made.images.fingerprint(), "test": "of the test images"}
    write_json(made.stage.output("settings.json"), content | {"classes": CLASSES, "fingerprints": fingerprints})
    model = networks.create("conv3", len(CLASSES), SIZE, width=8, seed=0)
    checkpoints.save(model, made.stage.output("teacher.safetensors"), network="conv3", classes=CLASSES, image_size=SIZE)
    made.stage.finish(accuracy=0.9, device="cpu")


def _sampling(made):
    picks = pd.DataFrame(
        [
            {"index": PER_CLASS * label + made.first + rank, "label": label, "bin": 0, "rank": rank, "gain": 1.0}
            for label in range(len(CLASSES))
            for rank in range(IPC)
        ]
    )
    picks.to_parquet(made.stage.output("selection.parquet"))
    made.stage.finish(picks=len(picks))


def _compensation(made):
    picks = pd.read_parquet(made.stage.input("03_sampling/selection.parquet"))
    copy(made.images, picks, made.stage.output("condensed"), Storage(SIZE))
    made.stage.finish(images=len(picks), device="cpu")


def _validation(made):
    made.stage.input("00_teacher/teacher.safetensors")
    rows = [
        {"method": method, "network": "conv3", "seed": seed, "epoch": 1, "loss": 1.0, "lr": 0.1, "per_class": None,
         "top1": made.top1 + lift + 0.1 * seed, "top5": 1.0}
        for method, lift in (("DC3 picks, plain", 0.1), ("random", 0.0))
        for seed in (0, 1)
    ]  # fmt: skip
    rows.append(rows[-2] | {"network": "conv4", "top1": made.top1 - 0.1})
    sizes = {"DC3 picks, plain": (IPC, 9.0, 1500.0), "random": (IPC, 9.0, 1600.0)}
    results.students(pd.DataFrame(rows), sizes).to_parquet(made.stage.output("results.parquet"))
    made.stage.finish(teacher=0.9, device="cpu")


def _colors(made):
    made.stage.input("00_teacher/teacher.safetensors")
    colors = {"set": ["full set", "random"], "images": [18, 6], "colourfulness M": [40.0, 30 + 10 * made.top1]}
    pd.DataFrame(colors).to_parquet(made.stage.output("colors.parquet"))
    distances = {"set": ["random"], "images": [6], "read": ["KID-teacher"], "FID-teacher": [made.top1]}
    pd.DataFrame(distances).to_parquet(made.stage.output("distances.parquet"))
    made.stage.finish(device="cpu")


MAKERS = {
    "00_teacher": _teacher, "03_sampling": _sampling, "04_compensation": _compensation,
    "05_validation": _validation, "06_color_and_fid": _colors,
}  # fmt: skip
