"""Names from outside are text in every figure and table: literal, legible, and different where they differ."""

import re
import warnings
from html import unescape

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from mistune import create_markdown

from dc3 import figures
from dc3.figures import accuracy, color, generation
from dc3.figures.names import LONGEST, readable, width, wrapped
from dc3.figures.style import LIMIT, MAX_ROWS
from dc3.machine.markup import fenced, literal, one_line

AWKWARD = ["$1_vs_$5", "$5_bill$^", "a|b", "猫", "🐱 हिन्दी", "cafe\u0301", "-o rm *", ".hidden"]
AWKWARD += ["x" * 200, "two\nlines"]


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_names_that_a_font_has_are_shown_as_they_are():
    names = ["$1_vs_$5", "Žluťoučký kůň", "Ωμέγα", "قط", r"\alpha", "_private"]
    assert readable(names) == names


def test_letters_without_a_font_are_transliterated_and_control_characters_written_out():
    assert readable(["Tiger 虎", "हिन्दी", "two\nlines", "\x1b[31mred", "\u202eabc"])[2:] == [
        r"two\nlines", r"\x1b[31mred", r"\u202eabc"]  # fmt: skip
    assert all(text.isprintable() for text in readable(["Tiger 虎", "\ue000", "   "]))


def test_names_that_differ_stay_different_in_figures_and_within_their_width():
    names = ["x" * 200, "x" * 100 + "y" + "x" * 99, "cafe\u0301", "café", "猫" * 50, "x" * 200 + "z", "x"]
    texts = readable(names)
    assert len(set(texts)) == len(names) and max(map(width, texts)) <= LONGEST
    assert readable(["b", "a", "b"]) == ["b", "a", "b"]


def test_a_heading_is_wrapped_after_spaces_and_underscores_and_keeps_them():
    assert wrapped("motorcycle_left side", 12) == ["motorcycle_", "left side"]
    assert wrapped("immunohistochemistry", 5) == ["immunohistochemistry"]


def drawn_with(names):
    """Every figure that shows names from outside."""
    count = len(names)
    photographs, labels = np.zeros((count, 8, 8, 3), np.uint8), np.arange(count)
    spots = pd.DataFrame({"index": labels, "label": labels, "bin": 0, "x": labels, "y": labels})
    top1 = np.linspace(0.1, 0.9, count)
    students = pd.DataFrame({"method": names, "network": "conv3", "ipc": 1, "epochs": 9, "epoch": 1, "seed": 0})
    students = students.assign(name=names, top1=top1, top1_mean=top1, top1_std=0.1)
    losses = pd.DataFrame({"generator": "DiT", "set": names, "seed": 0, "step": 1, "loss": top1})
    grid, density = np.linspace(0, 1, 5), np.ones((3, 5))
    times = pd.DataFrame({"stage": ["00_teacher"], "a": [1.0], "_b": [2.0]})
    picks = pd.DataFrame({"class": names, "Jaccard": top1})
    by_class = pd.DataFrame({"method": "DC3", "class": names, "accuracy": top1})
    sets = dict.fromkeys(names, photographs)
    return {
        "samples": figures.class_samples(photographs, labels, names),
        "headings": figures.image_rows({"source": photographs}, names),
        "rows": figures.image_rows(dict.fromkeys(names, photographs[:2])),
        "confusion": figures.confusion(np.eye(count, dtype=int), names),
        "maps": figures.bin_maps(spots, names),
        "similarity": figures.similarity_matrix(np.eye(3), np.zeros(3, int), names[0]),
        "classes": accuracy.class_accuracy(by_class),
        "moves": color.displacement_maps(spots.assign(to_x=0, to_y=0), names),
        "samples made": generation.sample_rows({"set": (photographs, labels)}, names),
        "differences": accuracy.differences({"picks": picks, "times": times}, "a", "_b"),
        "violins": figures.colorfulness_violins(dict.fromkeys(names, np.arange(9.0))),
        "roses": color.hue_roses(dict.fromkeys(names, np.ones(4))),
        "curves": color.rgb_curves(dict.fromkeys(names, (grid, density))),
        "palettes": color.palettes(dict.fromkeys(names, (np.zeros((1, 3), np.uint8), np.ones(1)))),
        "students": accuracy.student_curves(students, 0.1),
        "networks": accuracy.network_points(students),
        "by ipc": accuracy.methods_by_ipc(students),
        "by bytes": accuracy.accuracy_by_bytes(students.assign(stored_bytes=2e3 * (1 + np.arange(count)))),
        "in panels": accuracy.accuracy_in_panels({"": (students.assign(training_set=names), "epochs", "epochs")}),
        "settings": accuracy.settings_dots(students),
        "compensation": accuracy.compensation_dots({"": students.assign(difference=top1, deviation=0.1)}),
        "by epochs": accuracy.accuracy_by_epochs(students),
        "losses": generation.loss_curves(losses),
        "scores": generation.score_points(pd.DataFrame({"generator": "DiT", "set": list(sets), "FID": top1}), ["FID"]),
    }


def texts(figure):
    return {text.get_text().replace("\n", "") for text in figure.findobj(Text) if text.get_visible()}


def test_every_figure_shows_awkward_names_literally_and_without_a_warning():
    with warnings.catch_warnings(), plt.rc_context({"figure.max_open_warning": 0}):
        warnings.simplefilter("error")
        for kind, figure in drawn_with(AWKWARD).items():
            figure.draw_without_rendering()  # where matplotlib warns of letters that no font has
            shown = " ".join(texts(figure))
            expected = ["$1_vs_$5"] if kind == "similarity" else ["$1_vs_$5", "$5_bill$^", "a|b", r"two\nlines"]
            assert all(name in shown for name in expected), kind
            assert "mathdefault" not in shown, f"{kind}: a formula of matplotlib's own, which is not read"
            assert not any(text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text()), kind
            plt.close(figure)


def test_a_run_whose_name_begins_with_an_underscore_is_in_the_legend():
    times = pd.DataFrame({"stage": ["00_teacher"], "a": [1.0], "_b": [2.0]})
    assert {"a", "_b"} <= texts(accuracy.differences({"times": times}, "a", "_b"))


@pytest.mark.parametrize("count", [pytest.param(count, marks=pytest.mark.slow) for count in (10, 100, 200)] + [1000])
def test_figures_and_tables_have_a_form_for_any_number_of_classes(tmp_path, count):
    names = [f"class {k:04d} of a data set with very long names, of which there are {count}" for k in range(count)]
    images, labels = np.zeros((count, 8, 8, 3), np.uint8), np.arange(count)
    spots = pd.DataFrame({"index": labels, "label": labels, "bin": 0, "x": labels, "y": labels, "to_x": 0, "to_y": 0})
    table = pd.DataFrame({"method": "DC3", "class": names, "accuracy": np.linspace(0, 1, count)})
    times = pd.DataFrame({"stage": ["00_teacher"], "a": [1.0], "b": [2.0]})
    picks = {"picks": pd.DataFrame({"class": names, "Jaccard": table["accuracy"]}), "times": times}
    drawn = {
        "samples": figures.class_samples(images, labels, names),
        "confusion": figures.confusion(np.eye(count, dtype=int), names),
        "maps": figures.bin_maps(spots, names),
        "moves": color.displacement_maps(spots, names),
        "classes": accuracy.class_accuracy(table),
        "differences": accuracy.differences(picks, "a", "b"),
        "samples made": generation.sample_rows({"set": (images, labels)}, names),
    }
    for kind, figure in drawn.items():
        figure.savefig(tmp_path / f"{kind}.pdf")
        assert (tmp_path / f"{kind}.pdf").stat().st_size <= LIMIT, kind
        wide, high = figure.get_tightbbox().size
        assert wide < 1.2 * figures.WIDTH and high < 11, f"{kind} fits on a page"
    figures.save_table(table, tmp_path / "classes")
    assert len(pd.read_csv(tmp_path / "classes.csv")) == count
    lines = (tmp_path / "classes.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 2 + MAX_ROWS + 2 and (count <= MAX_ROWS) == (lines[-1].startswith("|"))


def as_html(markdown):
    return create_markdown(plugins=["table", "strikethrough", "url"])(markdown)


def test_a_table_in_markdown_shows_names_literally(tmp_path):
    names = [*AWKWARD, "__init__", "[x](http://x)", "<b>&amp;", "~~no~~", "a\\|b", "`x`"]
    figures.save_table(pd.DataFrame({"class": names, "value": 1.5}), tmp_path / "table")
    assert pd.read_csv(tmp_path / "table.csv")["class"].tolist() == names
    page = as_html((tmp_path / "table.md").read_text(encoding="utf-8"))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)
    assert [unescape(cell) for cell in cells] == [text for name in names for text in (one_line(name), "1.5")]


def test_dollar_signs_in_markdown_begin_no_formula():
    assert literal("$1_vs_$5") == r"\$1_vs\_\$5"


def test_tables_that_a_notebook_shows_are_no_formulas():
    assert "mathjax_ignore" in pd.DataFrame({"class": ["$1_vs_$5"]})._repr_html_()


def test_a_code_block_cannot_be_closed_by_what_it_holds():
    text = "a: |\n  ```\n  # heading\n  `````"
    assert as_html(fenced(text, "yaml")).count("<pre>") == 1 and "<h1>" not in as_html(fenced(text, "yaml"))
