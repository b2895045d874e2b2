"""How figures look and are written: two formats, small, the same bytes, readable, told apart by colour-blind people."""

import logging
import re
from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from skimage.color import rgb2lab

from dc3 import figures
from dc3.figures import accuracy
from dc3.figures import style as figure_files
from dc3.machine.files import sha256

# Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def curves():
    return figures.gain_curves({"GraphCut": np.array([3.0, 2.0, 1.0])})


def photographs(n=24, side=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def test_one_call_writes_a_png_and_a_pdf(tmp_path):
    figures.save(curves(), tmp_path / "gains.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gains.pdf", "gains.png"]
    assert Image.open(tmp_path / "gains.png").width > 500
    assert (tmp_path / "gains.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_the_same_figure_is_the_same_file(tmp_path, suffix):
    for name in ("one", "two"):
        figures.save(curves(), tmp_path / f"{name}.png")
    assert sha256(tmp_path / f"one{suffix}") == sha256(tmp_path / f"two{suffix}")
    assert b"CreationDate" not in (tmp_path / "one.pdf").read_bytes()


def test_text_of_a_pdf_stays_text(tmp_path):
    figures.save(curves(), tmp_path / "gains.png")
    content = (tmp_path / "gains.pdf").read_bytes()
    assert b"/TrueType" in content or b"/CIDFontType2" in content
    assert b"/Subtype /Image" not in content, "lines are no raster"


def test_photographs_are_reduced_until_they_fit_and_the_log_says_so(tmp_path, caplog, monkeypatch):
    rows = {f"row {k}": photographs(12, seed=k) for k in range(4)}
    figure = figures.image_rows(rows)
    before = figure.axes[0].images[0].get_array().copy()
    monkeypatch.setattr(figure_files, "LIMIT", 150_000)
    with caplog.at_level(logging.INFO, "dc3.figures.style"):
        figures.save(figure, tmp_path / "noise.png")
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"noise{suffix}").stat().st_size <= 150_000
        assert re.search(rf"noise\{suffix}: reduced to \d+ dpi and 256 colours to stay below 150 kB", caplog.text)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), before)


def test_a_small_figure_is_not_reduced(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "dc3.figures.style"):
        figures.save(figures.image_rows({"a": photographs(3)}), tmp_path / "few.png")
    assert caplog.text == ""


def test_a_figure_that_cannot_be_reduced_is_kept_and_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(figure_files, "LIMIT", 2000)
    figures.save(curves(), tmp_path / "gains.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gains.pdf", "gains.png"]
    assert re.search(r"gains.png takes \d+ kB, more than 2 kB", caplog.text)


@pytest.mark.parametrize(
    ("count", "limit"), [(5_000, 90_000), pytest.param(100_000, figure_files.LIMIT, marks=pytest.mark.slow)]
)
def test_a_pdf_of_very_many_marks_becomes_a_raster_and_its_text_stays_text(tmp_path, monkeypatch, count, limit):
    monkeypatch.setattr(figure_files, "LIMIT", limit)
    figure, ax = plt.subplots()
    marks = ax.scatter(*np.random.default_rng(0).random((2, count)), c=np.linspace(0, 1, count), s=4)
    figures.save(figure, tmp_path / "marks.png")
    content = (tmp_path / "marks.pdf").read_bytes()
    assert len(content) <= limit and b"/Subtype /Image" in content
    assert b"/TrueType" in content or b"/CIDFontType2" in content
    assert not marks.get_rasterized(), "the figure itself stays as it was drawn"


@pytest.mark.parametrize("classes", [10, 25, 100, 200, 1000])
def test_a_confusion_matrix_of_any_number_of_classes_is_a_small_file(tmp_path, classes):
    matrix = np.random.default_rng(0).integers(0, 50, (classes, classes))
    figures.save(figures.confusion(matrix, [f"class {k}" for k in range(classes)]), tmp_path / "confusion.png")
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"confusion{suffix}").stat().st_size <= figure_files.LIMIT


def test_a_palette_of_an_image_is_near_it():
    gradient = np.stack(np.meshgrid(np.arange(0, 256, 4), np.arange(0, 256, 4)), -1)
    image = np.concatenate([gradient, gradient[..., :1] // 2], axis=-1).astype(np.uint8)
    reduced = figure_files.quantised(image, 256)
    assert len(np.unique(reduced.reshape(-1, 3), axis=0)) <= 256
    assert np.abs(reduced.astype(int) - image).mean() < 8


@pytest.mark.parametrize("kind", [DEUTERANOPIA, PROTANOPIA])
@pytest.mark.parametrize("count", [4])
def test_the_first_line_colors_differ_for_color_blind_eyes(kind, count):
    colors = [to_rgb(style["color"]) for style in plt.rcParams["axes.prop_cycle"]][:count]
    seen = rgb2lab(_encode(np.clip(_decode(np.array(colors)) @ np.array(kind).T, 0, 1))[None])[0]
    nearest = min(np.linalg.norm(a - b) for a, b in combinations(seen, 2))
    assert nearest > 12, "CIELAB units; 2.3 is just noticeable"


def _decode(srgb):
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _encode(linear):
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _of_every_kind():
    rng = np.random.default_rng(0)
    history = pd.DataFrame(
        {"epoch": [1, 2], "loss": [2.0, 1.0], "train_accuracy": [0.2, 0.5], "test_accuracy": [0.1, 0.4]}
    )
    classes = ["immunohistochemistry", "motorcycle_left", "cat"]
    spots = pd.DataFrame(
        {
            "index": range(30),
            "label": np.arange(30) % 3,
            "bin": np.arange(30) % 14,
            "x": rng.random(30),
            "y": rng.random(30),
        }
    )
    students = pd.DataFrame(
        [(m, s, e, e / 10) for m in ("DC3", "random") for s in (0, 1) for e in (1, 2)],
        columns=["method", "seed", "epoch", "top1"],
    )
    means = pd.DataFrame(
        {"method": ["a", "b"], "network": "conv3", "ipc": [1, 10], "top1_mean": [0.2, 0.3], "top1_std": [0.1, 0.1]}
    )
    by_class = pd.DataFrame({"method": "DC3", "class": classes, "accuracy": [0.1, 0.2, 0.3]})
    many = pd.DataFrame({"method": "DC3", "class": [f"c{k}" for k in range(40)], "accuracy": rng.random(40)})
    return {
        "curve": figures.training_curve(history, 0.1),
        "confusion": figures.confusion(np.eye(3, dtype=int), classes),
        "bins": figures.bin_maps(spots, classes, picks=[1, 2]),
        "similarity": figures.similarity_matrix(np.eye(6), np.arange(6) // 2, "cat"),
        "coverage": figures.coverage_bars(pd.DataFrame({"selection": ["a"], "bins": [0.5], "similarity": [0.7]})),
        "students": accuracy.student_curves(students, 0.1),
        "networks": accuracy.network_points(means),
        "classes": accuracy.class_accuracy(by_class),
        "many classes": accuracy.class_accuracy(many),
        "ipc": accuracy.methods_by_ipc(means),
        "violins": figures.colorfulness_violins({"a": rng.random(9), "b": rng.random(9)}),
        "rows": figures.image_rows({"a": photographs(3)}, ["golden hour, underwater", "immunohistochemistry", "x"]),
        "gains": curves(),
    }


def test_every_figure_is_as_wide_as_a_text_column_with_text_of_seven_points():
    for name, figure in _of_every_kind().items():
        assert figure.get_figwidth() <= figures.WIDTH, name
        shown = [text for text in figure.findobj(plt.Text) if text.get_text() and text.get_visible()]
        assert shown and min(text.get_fontsize() for text in shown) >= 7, name


def test_headings_over_images_do_not_run_into_each_other():
    for columns in (["golden hour, underwater"] * 12, ["immunohistochemistry", "motorcycle_left"] * 6):
        figure = figures.image_rows({"astronaut": photographs(12)}, columns)
        figure.draw_without_rendering()
        labels = figure.axes[0].get_xticklabels()
        slanted = labels[0].get_rotation() > 0
        boxes = [label.get_window_extent() for label in labels]
        assert slanted or all(a.x1 <= b.x0 + 1 for a, b in pairwise(boxes))
