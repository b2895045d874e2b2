import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from dc3 import figures
from dc3.figures import accuracy, images
from dc3.figures.style import colors_of


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def texts(figure):
    return {text.get_text().strip() for text in figure.findobj(Text)}


def lies_inside(figure):
    """Whether nothing that is drawn, names included, is cut off when the figure is saved."""
    figure.canvas.draw()
    drawn = figure.get_tightbbox()
    width, height = figure.get_size_inches() + 0.1
    return drawn.x0 > -0.1 and drawn.y0 > -0.1 and drawn.x1 < width and drawn.y1 < height


def test_a_mosaic_has_each_image_where_it_belongs():
    shades = np.stack([np.full((3, 4, 3), value, np.uint8) for value in (10, 20, 30)])
    canvas = images.mosaic(shades, columns=2, gap=1)
    assert canvas.shape == (7, 9, 3)
    assert (canvas[:3, :4] == 10).all() and (canvas[:3, 5:] == 20).all() and (canvas[4:, :4] == 30).all()
    assert (canvas[3] == 255).all() and (canvas[4:, 4:] == 255).all()


def test_tables_are_saved_in_full_and_to_read(tmp_path):
    table = pd.DataFrame({"set": ["a"], "value": [1 / 3], "told": ["64.0"]})
    figures.save_table(table, tmp_path / "table")
    assert pd.read_csv(tmp_path / "table.csv", dtype={"told": str}).equals(table)
    assert "0.333" in (tmp_path / "table.md").read_text(encoding="utf-8") and "64.0" in (
        tmp_path / "table.md"
    ).read_text(encoding="utf-8")


def test_student_curves_draw_one_line_per_method_in_percent():
    runs = pd.DataFrame(
        [(m, s, e, e / 10) for m in ("DC3", "random") for s in (0, 1) for e in (1, 2, 3)],
        columns=["method", "seed", "epoch", "top1"],
    )
    ax = accuracy.student_curves(runs, chance=0.1).axes[0]
    assert ax.get_lines()[0].get_ydata().max() == pytest.approx(30)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["DC3", "random"]


def test_students_tested_once_are_points_beside_chance():
    runs = pd.DataFrame({"method": ["DC3", "random"], "seed": 0, "epoch": 5, "top1": [0.2, 0.3]})
    figure = accuracy.student_curves(runs, chance=0.1)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    assert all(line.get_marker() not in (None, "None", "") for line in ax.get_lines()[:2])
    assert ax.bbox.contains(*ax.texts[0].get_window_extent().min), "chance is named within the axes"


def test_bytes_are_plain_numbers_however_near_to_each_other():
    students = pd.DataFrame({"method": ["a", "b"], "ipc": 1, "top1_mean": 0.5, "top1_std": 0.1})
    for stored in ([700, 800], [700, 80_000], [12_300, 55_000]):
        figure = accuracy.accuracy_by_bytes(students.assign(stored_bytes=stored))
        figure.draw_without_rendering()
        shown = [tick.get_text() for tick in figure.axes[0].get_xticklabels(which="both") if tick.get_text()]
        assert len(shown) == len(set(shown)) > 1 and all(text == f"{float(text):g}" for text in shown)


def test_compensation_has_a_panel_for_each_table_and_names_only_what_is_unusual():
    rows = [("DC3", 10, 300, -0.03), ("DC3", 50, 300, 0.01), ("gaps", 10, 1500, 0.02)]
    small = pd.DataFrame(rows, columns=["name", "ipc", "epochs", "difference"]).assign(deviation=0.01)
    one, two = accuracy.compensation_dots({"32 px": small, "64 px": small.iloc[[0]]}).axes
    assert [one.get_title(), two.get_title()] == ["32 px", "64 px"]
    names = [tick.get_text() for tick in one.get_yticklabels()]
    assert names == ["DC3", "DC3, IPC 50", "gaps, 1500 epochs"], "upwards, from the largest loss"
    assert np.allclose(one.lines[0].get_xdata(), [-3, 1, 2]) and np.allclose(two.lines[0].get_xdata(), [-3])
    assert two.get_xlabel().endswith("IPC 10 and 300 epochs unless named")


def test_panels_of_accuracy_have_a_line_for_each_set_in_one_colour_and_ticks_where_there_are_values():
    rows = [("DC3", 256, 0.4), ("DC3", 32, 0.5), ("RDED", 32, 0.6)]
    sizes = pd.DataFrame(rows, columns=["training_set", "stored_size", "top1_mean"]).assign(top1_std=0.01)
    epochs = pd.DataFrame({"training_set": ["RDED"] * 2, "epochs": [300, 2000], "top1_mean": 0.6, "top1_std": np.nan})
    panels = {"factor 1": (sizes, "stored_size", "pixels"), "more time": (epochs, "epochs", "epochs")}
    one, two = accuracy.accuracy_in_panels(panels).axes
    assert [one.get_title(), two.get_title()] == list(panels)
    lines = {container.get_label(): container[0] for container in one.containers}
    assert lines["DC3"].get_ydata().tolist() == [50, 40], "from the smallest size up"
    assert {name: line.get_color() for name, line in lines.items()} == dict(colors_of(["DC3", "RDED"]))
    assert two.containers[0][0].get_color() == lines["RDED"].get_color()
    assert np.allclose(lines["DC3"].get_xdata(), [32, 256], rtol=0.08)
    assert [tick.get_text() for tick in two.get_xticklabels()] == ["300", "2000"]
    assert one.get_legend() is None and [text.get_text() for text in two.get_legend().get_texts()] == ["DC3", "RDED"]


def test_a_confusion_matrix_of_a_thousand_classes_shows_every_image():
    count = 1003
    ax = figures.confusion(np.eye(count, dtype=int), [f"c{k}" for k in range(count)]).axes[0]
    cells = ax.collections[0].get_array().reshape(201, 201)
    assert (np.diag(cells)[:-1] == 5).all() and cells[-1, -1] == 3 and cells.sum() == count
    assert "(cells: images of 5 × 5 classes)" in ax.get_xlabel()
    whole = figures.confusion(np.eye(200, dtype=int), [f"c{k}" for k in range(200)]).axes[0]
    assert whole.collections[0].get_array().size == 200**2 and "(cells: images)" in whole.get_xlabel()


def test_a_training_set_keeps_its_colour_in_every_figure():
    alone, beside = colors_of(["DC3"]), colors_of(["random", "mine", "DC3", "yours", "random"])
    assert alone["DC3"] == beside["DC3"] and list(beside) == ["random", "mine", "DC3", "yours"]
    assert len(set(beside.values())) == 4, "no colour twice"
    settings = colors_of(["DC3 picks, plain, sure_share 0.1", "DC3, IPC 10", "DC3, IPC 50", "RDED"])
    assert settings["DC3, IPC 10"] == alone["DC3"] and len(set(settings.values())) == 4
    assert settings["DC3 picks, plain, sure_share 0.1"] == colors_of(["DC3 picks, plain"])["DC3 picks, plain"]


def test_rows_of_different_lengths_and_many_classes_fit():
    images = np.zeros((30, 8, 8, 3), np.uint8)
    labels = np.repeat(np.arange(15), 2)
    samples = figures.class_samples(images, labels, [f"class_{k}" for k in range(15)], per_class=2)
    rows = figures.image_rows({"long": images[:5], "short": images[:2]}, ["a", "b", "c", "d", "e"])
    assert lies_inside(samples) and lies_inside(rows)
    assert {"class_0", f"class_{min(15, figures.MAX_CLASSES) - 1}"} <= texts(samples) and {
        "long",
        "short",
        "a",
        "e",
    } <= texts(rows)


def test_too_many_classes_for_names_become_lines():
    table = pd.DataFrame({"method": "DC3", "class": [f"c{k}" for k in range(40)], "accuracy": np.linspace(1, 0, 40)})
    ax = accuracy.class_accuracy(table).axes[0]
    assert (np.diff(ax.get_lines()[0].get_ydata()) > 0).all()
    few = accuracy.class_accuracy(table.head(3)).axes[0]
    assert [label.get_text() for label in few.get_yticklabels()] == ["c0", "c1", "c2"]


def test_bins_beyond_ten_have_another_mark():
    table = pd.DataFrame({"index": range(20), "label": 0, "bin": range(20), "x": range(20), "y": range(20)})
    ax = figures.bin_maps(table, ["cat"], picks=[3]).axes[0]
    assert len(ax.collections) == 3  # bins 0 to 9, bins 10 to 19, the pick
    assert ax.collections[2].get_offsets().tolist() == [[3, 3]]
