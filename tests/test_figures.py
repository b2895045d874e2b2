import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dc3 import figures
from dc3.files import sha256


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_a_mosaic_has_each_image_where_it_belongs():
    shades = np.stack([np.full((3, 4, 3), value, np.uint8) for value in (10, 20, 30)])
    canvas = figures.mosaic(shades, columns=2, gap=1)
    assert canvas.shape == (7, 9, 3)
    assert (canvas[:3, :4] == 10).all() and (canvas[:3, 5:] == 20).all() and (canvas[4:, :4] == 30).all()
    assert (canvas[3] == 255).all() and (canvas[4:, 4:] == 255).all()


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("one", "two"):
        curves = figures.gain_curves({"GraphCut": np.array([3.0, 2.0, 1.0])})
        figures.save(curves, tmp_path / f"{name}.png")
    assert sha256(tmp_path / "one.png") == sha256(tmp_path / "two.png")


def test_tables_are_saved_in_full_and_to_read(tmp_path):
    table = pd.DataFrame({"set": ["a"], "value": [1 / 3]})
    figures.save_table(table, tmp_path / "table")
    assert pd.read_csv(tmp_path / "table.csv").equals(table)
    assert "0.333" in (tmp_path / "table.md").read_text()


def test_student_curves_draw_a_line_a_method_in_percent():
    runs = pd.DataFrame(
        [(m, s, e, e / 10) for m in ("DC3", "random") for s in (0, 1) for e in (1, 2, 3)],
        columns=["method", "seed", "epoch", "top1"],
    )
    ax = figures.student_curves(runs, chance=0.1).axes[0]
    assert ax.get_lines()[0].get_ydata().max() == pytest.approx(30)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["DC3", "random"]


def test_rows_of_different_lengths_and_many_classes_fit():
    images = np.zeros((30, 8, 8, 3), np.uint8)
    labels = np.repeat(np.arange(15), 2)
    figures.class_samples(images, labels, [f"class_{k}" for k in range(15)], per_class=2)
    figures.image_rows({"long": images[:5], "short": images[:2]}, ["a", "b", "c", "d", "e"])
