"""Odd names of classes and files through the drawing functions of 00, tables, report, card and exports."""

import csv
import json
import os
import re
import tempfile
import unicodedata
from html import unescape
from pathlib import Path
from unittest import mock

import finished_runs
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from finished_runs import IPC, PER_CLASS, SIZE, make_run
from huggingface_hub import DatasetCard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from mistune import create_markdown
from nbformat.v4 import new_code_cell, new_notebook, new_output
from workshop import home_at

from dc3 import figures
from dc3.figures.names import LONGEST, readable, width
from dc3.images.image_set import in_memory
from dc3.machine.markup import one_line
from dc3.runs.export import export
from dc3.runs.report import page, write_report

ODD = "$|*_`<>&[](){}#~^\\'\"-. =+:;!?%@\n\t\x1b\u202e猫हिé🐱\u0301\u200dقΩ0aZ"
LETTERS = st.one_of(st.sampled_from(ODD), st.characters(exclude_characters="/\0", exclude_categories=["Cs"]))
NAMES = (
    st.text(LETTERS, min_size=1, max_size=200)
    .map(lambda name: unicodedata.normalize("NFC", name))  # as class names are
    .filter(lambda name: name not in (".", "..") and len(name.encode()) < 256)  # as the names of folders
)
THREE = st.lists(NAMES, min_size=3, max_size=3, unique=True)
AWKWARD = ["$1_vs_$5", "a|b\\c", "../../x"]
TIMES = int(os.environ.get("DC3_EXAMPLES", "1"))  # `make test-all` draws more, and others each time


def drawing(examples):
    """Hypothesis' settings for so many examples, or TIMES as many."""
    return settings(
        max_examples=examples * TIMES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=TIMES == 1,
    )


@given(THREE)
@example(AWKWARD)
@example(["猫" * 80, "猫" * 79 + "犬", "   "])
@drawing(4)
def test_the_figures_of_00_are_drawn_with_any_names(names):
    images, labels = np.zeros((3, SIZE, SIZE, 3), np.uint8), np.arange(3)
    for figure in (figures.class_samples(images, labels, names), figures.confusion(np.eye(3, dtype=int), names)):
        figure.draw_without_rendering()
        shown = {text.get_text() for text in figure.findobj(Text)}
        assert len(set(readable(names)) & shown) == 3 or len(set(readable(names, 20)) & shown) == 3
    plt.close("all")


@given(st.lists(NAMES, max_size=6, unique=True))
@drawing(60)
def test_text_of_a_figure_is_on_one_line_within_its_width_and_distinct(names):
    texts = readable(names)
    assert len(set(texts)) == len(names) and all(width(text) <= LONGEST and "\n" not in text for text in texts)


@given(THREE)
@example(AWKWARD)
@example(["0", "\r", "00"])
@drawing(20)
def test_tables_hold_any_names(names):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        figures.save_table(pd.DataFrame({"class": names, "value": 1.5}), path)
        with open(path.with_suffix(".csv"), encoding="utf-8", newline="") as file:
            assert [row[0] for row in csv.reader(file)][1:] == names
        html = create_markdown(plugins=["table", "strikethrough"])(path.with_suffix(".md").read_text(encoding="utf-8"))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html, re.DOTALL)
    assert [unescape(cell) for cell in cells[::2]] == [one_line(name).strip() for name in names]


def plain(text):
    """The text without line ends and spaces, which pandas writes as \\n and \\t."""
    return re.sub(r"\\[nrt]|\s", "", text)


@given(THREE)
@example(AWKWARD)
@drawing(4)
def test_a_table_in_a_report_shows_any_names(names):
    with pd.option_context("display.max_colwidth", None):
        table = new_output("execute_result", {"text/html": pd.DataFrame({"class": names})._repr_html_()})
    html = page(new_notebook(cells=[new_code_cell("", outputs=[table])]), "names")
    cells = [unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", html, re.DOTALL)]
    assert [plain(cell) for cell in cells] == [plain(name) for name in names]


def made_with(names, file):
    """A finished run of three classes and files of these names."""
    labels = np.repeat(np.arange(3), PER_CLASS)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), SIZE, SIZE, 3), dtype=np.uint8)
    sources = [f"train/{names[label]}/{k}{file}" for k, label in enumerate(labels)]
    images = in_memory("odd", "train", names, labels, pixels, sources)
    with mock.patch.multiple(finished_runs, CLASSES=tuple(names), image_set=lambda: images):
        make_run("toy", until="04")
    return pixels, sources


@given(THREE, NAMES)
@example(AWKWARD, "$`|.png")
@example([".hidden", "CON", "con"], "\n")
@example(["0", "\x85", "a\x85\u2028b"], "0")
@drawing(2)
def test_exports_of_any_names_read_back_as_they_are(names, file):
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder, home_at(Path(folder)):
        pixels, sources = made_with(names, file)
        picked = [PER_CLASS * label + rank for label in range(3) for rank in range(IPC)]
        data = datasets.load_dataset(str(export("toy", "hf")), split="train", cache_dir=f"{folder}/cache")
        assert data.features["label"].names == names
        assert data["class"][:] == [name for name in names for _ in range(IPC)]
        assert data["source"][:] == [sources[index] for index in picked]
        assert (np.stack([np.asarray(image) for image in data["image"]]) == pixels[picked]).all()
        with np.load(export("toy", "npz") / "condensed.npz") as arrays:
            assert arrays["class_names"].tolist() == names and (arrays["images"] == pixels[picked]).all()
            assert json.loads(str(arrays["provenance"]))["classes"] == names
        text = DatasetCard.load(Path(folder) / "runs/toy/export-hf/README.md").text
        (classes,) = re.findall(r"^CLASSES = (.*)$", text, re.MULTILINE)
        assert eval(classes, {}) == names
        assert "3 classes" in write_report("toy").read_text(encoding="utf-8")
