"""A thousand classes through all the real notebooks: nothing that grows with them ends a run, or fills a page."""

import os
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from workshop import home_at

from dc3.figures.style import LIMIT, MAX_ROWS
from dc3.runs.export import export
from dc3.runs.report import write_report

pytestmark = [pytest.mark.slow, pytest.mark.process]

CLASSES, SIZE = 1000, 16
STAGES = ["00_teacher", "01_features", "02_binning", "03_sampling", "04_compensation", "05_validation"]
STAGES += ["06_color_and_fid", "07_finetuning"]
LONGEST = 80  # lines of a notebook's output: a screen or two
QUICK = {
    **{"run": "many", "dataset": "imagefolder", "image_size": SIZE, "encode_size": SIZE, "edit_size": SIZE},
    **{"teacher_width": 8, "teacher_epochs": 1, "teacher_min_accuracy": 0, "bins": 2, "map_images": 4},
    **{"ipc": 1, "compared": ["random"], "edit_steps": 1, "student_network": "conv3", "student_width": 8},
    **{"student_epochs": 1, "student_seeds": [0], "baselines": ["dc3_plain"], "smaller_ipcs": []},
    **{"cross_networks": [], "ranking_scores": False, "color_beside": ["dc3_plain"], "nearest": 1},
    **{"finetune_beside": [], "dit_width": 12, "dit_depth": 1, "dit_steps": 1, "lora_rank": 1, "lora_steps": 1},
    **{"images_generated": 1, "dit_generate_steps": 1, "lora_generate_steps": 1, "generate_batch_size": 100},
    **{"dit_guidance": 1.0, "lora_guidance": 1.0},
}


def name_of(label):
    """A name without digits, for which the shipped editor's tokenizer has no tokens."""
    return "kind " + "".join(chr(ord("a") + label // 26**place % 26) for place in (2, 1, 0))


def write_images(folder):
    """Four training images and a test image of each class: its own stripes in its own two colours, with noise."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        colors, width = rng.integers(0, 256, (2, 3)), rng.integers(2, 8)
        for split, count in (("train", 4), ("val", 1)):
            of_class = folder / split / name_of(label)
            of_class.mkdir(parents=True)
            for number in range(count):
                stripes = (np.arange(SIZE) + rng.integers(SIZE)) // width % 2
                pixels = colors[stripes][:, None] + rng.normal(0, 12, (SIZE, SIZE, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(of_class / f"{number}.png")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The home of a run from 00 to 07."""
    folder = tmp_path_factory.mktemp("many")
    write_images(folder / "set")
    params = folder / "many.yaml"
    params.write_text(yaml.dump(QUICK | {"data_dir": str(folder / "set")}), encoding="utf-8")
    environment = os.environ | {"DC3_HOME": str(folder), "DC3_PROGRESS": "0"}
    command = [sys.executable, "-m", "dc3.cli", "run", str(params)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


def test_the_chain_ends_with_an_image_of_every_class(finished):
    table = pd.read_parquet(finished / "runs/many/04_compensation/condensed/provenance.parquet")
    assert table["label"].tolist() == list(range(CLASSES))
    scores = pd.read_csv(finished / "figures/many/finetuning_scores.csv")
    assert set(scores["generator"]) == {"DiT", "LoRA", "real images"} and set(scores["images"]) == {CLASSES}


def test_every_picture_is_there_and_small(finished):
    pictures = sorted((finished / "figures/many").glob("*.p??"))
    expected = {"teacher_confusion", "compensation_set", "validation_classes", "color_and_fid_moves"}
    assert expected | {"finetuning_samples_dit"} <= {path.stem for path in pictures}
    assert [path.name for path in pictures if path.stat().st_size > LIMIT] == []


def test_a_table_of_classes_shows_the_first_and_its_csv_has_all(finished):
    whole = pd.read_csv(finished / "figures/many/validation_classes.csv")
    assert whole.groupby("method")["class"].nunique().tolist() == [CLASSES, CLASSES]
    for path in (finished / "figures/many").glob("*.csv"):
        text = path.with_suffix(".md").read_text(encoding="utf-8")
        assert text.count("\n|") <= MAX_ROWS + 1, path.name
    text = (finished / "figures/many/validation_classes.md").read_text(encoding="utf-8")
    assert f"The first {MAX_ROWS} of {2 * CLASSES:,} rows; validation_classes.csv has all." in text


@pytest.mark.parametrize("stage", STAGES)
def test_no_output_of_a_notebook_is_longer_than_a_screen_or_two(finished, stage):
    notebook = nbformat.read(finished / f"runs/many/notebooks/{stage}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    assert max(text.count("\n") for text in texts) <= LONGEST
    tables = [output.get("data", {}).get("text/html", "") for output in outputs]
    assert max(table.count("<tr") for table in tables) <= LONGEST


def test_report_and_export_hold_every_class(finished):
    with home_at(finished):
        assert "1000 classes" in write_report("many").read_text(encoding="utf-8")
        with np.load(export("many", "npz") / "condensed.npz") as arrays:
            assert arrays["class_names"].tolist() == [name_of(label) for label in range(CLASSES)]
            assert arrays["labels"].tolist() == list(range(CLASSES))
