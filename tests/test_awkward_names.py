"""The demo's images under ten awkward class names, through all notebooks: names stay as they are, to the end."""

import csv
import json
import os
import re
import subprocess
import sys
import zlib
from html import unescape

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard
from mistune import create_markdown
from PIL import Image
from workshop import home_at

from dc3.figures.names import LONGEST, LONGEST_TITLE, readable
from dc3.images import datasets
from dc3.runs.export import export
from dc3.runs.report import write_report

pytestmark = [pytest.mark.slow, pytest.mark.process]

LONG = "a very long name of a class " * 7 + "end."  # 200 letters
CLASSES = sorted(
    ["$1_vs_$5", "$5_bill$^", "a|b", "<b>x & y", "*_star_*", "日本語", "عربي", "naïve café 🐱", "-100% #1", LONG]
)
LATIN = [name for name in CLASSES if all(ord(letter) < 256 for letter in name) and name != LONG]
QUICK = {
    **{"run": "odd", "dataset": "imagefolder", "teacher_width": 16, "teacher_epochs": 2, "teacher_min_accuracy": 0},
    **{"bins": 3, "map_images": 12, "ipc": 2, "compared": ["random"], "edit_steps": 2, "student_width": 8},
    **{"student_epochs": 2, "evaluate_every": 1, "student_seeds": [0], "cross_networks": [], "smaller_ipcs": []},
    **{"baselines": ["dc3_plain"], "ranking_scores": False, "color_beside": ["dc3_plain"], "nearest": 2},
    **{"finetune_beside": [], "dit_steps": 2, "dit_width": 12, "dit_depth": 1, "lora_steps": 1, "lora_rank": 1},
    **{"images_generated": 2, "dit_generate_steps": 1, "lora_generate_steps": 1},
}
TITLED = ["binning_tsne", "sampling_tsne", "color_and_fid_moves", "teacher_confusion"]  # at most LONGEST_TITLE columns
NAMED = ["teacher_samples", "features_reconstructions", "compensation_set", "validation_classes"]
NAMED += ["finetuning_samples_dit", "finetuning_samples_lora"]
TABLES = {"validation_classes": 2, "color_and_fid_moves": 1}  # tables with a row for each class: how many


def write_images(folder):
    """Twelve training images and four test images of each of scenes10's classes, in folders of other names."""
    for split, to, count in (("train", "train", 12), ("test", "val", 4)):
        images = datasets.load("scenes10", split, images_per_class=count)
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            file = folder / to / CLASSES[label] / f"$ {number:03d}|.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The home of a run from 00 to 07."""
    folder = tmp_path_factory.mktemp("odd")
    write_images(folder / "set #1")
    params = folder / "odd.yaml"
    params.write_text(yaml.dump(QUICK | {"data_dir": str(folder / "set #1")}), encoding="utf-8")
    environment = os.environ | {"DC3_HOME": str(folder), "DC3_PROGRESS": "0"}
    command = [sys.executable, "-m", "dc3.cli", "run", str(params)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


def drawn_text(pdf):
    """The Latin text of a PDF of matplotlib, without spaces: it writes each letter in two bytes."""
    shown = []
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf.read_bytes(), re.DOTALL):
        try:
            content = zlib.decompress(stream)
        except zlib.error:
            continue
        for string in re.findall(rb"\(((?:\\.|[^\\()])*)\)", content, re.DOTALL):
            shown.append(re.sub(rb"\\(.)", rb"\1", string, flags=re.DOTALL).decode("utf-16-be", "ignore"))
    return re.sub(r"\s", "", "".join(shown))


@pytest.mark.parametrize("figure", [*NAMED, *TITLED])
def test_a_figure_shows_the_names_as_they_are(finished, figure):
    text = drawn_text(finished / f"figures/odd/{figure}.pdf")
    shown = readable(CLASSES, LONGEST_TITLE if figure in TITLED else LONGEST)
    assert [name for name in LATIN if re.sub(r"\s", "", name) not in text] == []
    assert [name for name in shown if name in LATIN] == LATIN, "none of them is spelled in another way"
    start = shown[CLASSES.index(LONG)].split("…")[0]
    assert re.sub(r"\s", "", start) in text


@pytest.mark.parametrize("table", TABLES)
def test_a_table_holds_the_names_as_they_are(finished, table):
    place = finished / "figures/odd" / table
    with open(place.with_suffix(".csv"), encoding="utf-8", newline="") as file:
        rows = [row["class"] for row in csv.DictReader(file) if row["class"] != "all"]
    assert sorted(rows) == sorted(CLASSES * TABLES[table])
    html = create_markdown(plugins=["table", "strikethrough"])(place.with_suffix(".md").read_text(encoding="utf-8"))
    cells = [unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", html, re.DOTALL)]
    assert all(cells.count(name) == TABLES[table] for name in CLASSES)


def test_the_report_shows_the_names_as_they_are(finished):
    with home_at(finished):
        html = write_report("odd").read_text(encoding="utf-8")
    assert "10 classes" in html and "MathJax" not in html
    cells = {unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", html, re.DOTALL)}
    assert set(CLASSES) - {LONG} <= cells


def test_card_and_exports_read_back_as_they_are(finished):
    import datasets as hugging_face

    hugging_face.disable_progress_bars()
    with home_at(finished):
        folder = export("odd", "hf")
        data = hugging_face.load_dataset(str(folder), split="train", cache_dir=str(finished / "cache"))
        assert data.features["label"].names == CLASSES
        assert data["class"][:] == [name for name in CLASSES for _ in range(QUICK["ipc"])]
        (line,) = re.findall(r"^CLASSES = (.*)$", DatasetCard.load(folder / "README.md").text, re.MULTILINE)
        assert eval(line, {}) == CLASSES
        with np.load(export("odd", "npz") / "condensed.npz") as arrays:
            assert arrays["class_names"].tolist() == CLASSES
            assert json.loads(str(arrays["provenance"]))["classes"] == CLASSES
