"""The panels over bins and picks, driven without a browser."""

import base64
import io
import re
from html import unescape

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dc3 import panels, sampling
from dc3.images.image_set import in_memory
from dc3.machine.paths import HEADLESS

PER_CLASS, SIZE = 6, 16


@pytest.fixture
def images():
    labels = np.repeat([0, 1], PER_CLASS)
    shades = np.linspace(0, 250, len(labels)).astype(np.uint8)  # one shade an image: JPEG keeps it
    return in_memory("toys", "train", ["cat", "dog"], labels, np.tile(shades[:, None, None, None], (1, SIZE, SIZE, 3)))


@pytest.fixture
def table(images):
    x, y = np.random.default_rng(0).normal(size=(2, len(images)))
    bins = np.arange(len(images)) % 3
    return pd.DataFrame({"index": np.arange(len(images)), "label": images.labels, "bin": bins, "x": x, "y": y})


@pytest.fixture
def factors(images):
    rng = np.random.default_rng(1)
    return rng.normal(size=(len(images), 2)).astype(np.float32), rng.normal(size=(len(images), 4)).astype(np.float32)


@pytest.fixture
def picks():
    return pd.DataFrame(
        {"index": [3, 1, 8, 10], "label": [0, 0, 1, 1], "bin": [0, 1, 2, 1], "rank": [0, 1, 0, 1],
         "gain": [2.5, 1.0, np.nan, np.nan]}
    )  # fmt: skip


def shades(picture, columns, side):
    """The shade of each image of a mosaic, row by row; None where there is none."""
    pixels = np.asarray(Image.open(io.BytesIO(picture.value)))
    step = side // SIZE * SIZE + 4
    return [pixels[top + side // 2, left + side // 2, 0] for top in range(0, len(pixels), step)
            for left in range(0, pixels.shape[1], step)]  # fmt: skip


def test_each_point_of_the_map_holds_its_image_and_says_which_it_is(images, table):
    panel = panels.BinPanel(images, table)
    panel.of_class.value = 1
    points = re.findall(r'<g class="p".*?</g></g>', panel.map.value)
    assert len(points) == PER_CLASS
    for point, index in zip(points, range(PER_CLASS, 2 * PER_CLASS), strict=True):
        assert f"image {index}, bin {index % 3}" in point
        small = base64.b64decode(re.search(r"base64,([^\"]+)", point)[1])
        assert (np.asarray(Image.open(io.BytesIO(small))) == images.pixels[index]).all(), "small images are exact"
    assert "<script" not in panel.map.value and ":hover" in panel.map.value and ":focus" in panel.map.value


def test_a_chosen_bin_is_shown_and_the_others_are_pale(images, table):
    panel = panels.BinPanel(images, table)
    assert panel.bin.options == ("all", 0, 1, 2) and "p pale" not in panel.map.value
    assert shades(panel.picture, 3, panels.SMALL)[:3] == [images.pixels[k, 0, 0, 0] for k in (0, 1, 2)]
    panel.bin.value = 2
    classes = re.findall(r'<g class="(p[^"]*)"', panel.map.value)
    assert classes == ["p pale"] * 4 + ["p"] * 2, "the chosen ones are drawn last, on top"
    assert panel.caption.value == "bin 2: 2 of its 2 images"
    assert shades(panel.picture, 2, panels.SMALL)[:2] == [images.pixels[k, 0, 0, 0] for k in (2, 5)]
    panel.of_class.value = 1
    assert panel.bin.value == "all", "another class begins with all of its bins"


def test_the_slider_goes_through_the_picks_of_a_class(images, picks, factors):
    panel = panels.PickPanel(images, picks, *factors)
    assert panel.rank.max == 1 and panel.caption.value.startswith("framed: image 3, the pick, bin 0, gain 2.5;")
    panel.rank.value = 1
    assert panel.caption.value.startswith("framed: image 1, the pick, bin 1, gain 1;")
    assert shades(panel.picture, 6, 96)[0] == images.pixels[1, 0, 0, 0]
    panel.of_class.value = 1
    assert panel.rank.value == 0 and panel.caption.value.startswith("framed: image 8, the pick, bin 2; after it")


def test_a_pick_is_shown_with_the_images_most_like_it(images, picks, factors):
    panel = panels.PickPanel(images, picks, *factors)
    nearest, similarity = panel.nearest(3)
    kernel = sampling.gradient_kernel(factors[0][:PER_CLASS], factors[1][:PER_CLASS])[3]
    expected = [k for k in np.argsort(-kernel, kind="stable") if k != 3]
    assert nearest.tolist() == expected and np.abs(similarity - kernel[expected]).max() < 1e-6
    assert shades(panel.picture, 6, 96)[1] == images.pixels[expected[0], 0, 0, 0]


def test_without_a_screen_there_are_no_panels(images, table, picks, factors, monkeypatch):
    monkeypatch.setenv(HEADLESS, "1")
    assert panels.bin_panel(images, table) is None
    assert panels.pick_panel(images, picks, *factors) is None
    monkeypatch.delenv(HEADLESS)
    assert panels.bin_panel(images, table) is not None
    assert panels.pick_panel(images, picks, *factors) is not None


def unreadable(self, indices):
    raise ValueError("cannot read $1_vs_$5/<b>.png")


def test_errors_of_a_control_are_shown_in_the_panel_as_they_are(images, table, picks, factors, monkeypatch):
    bins, chosen = panels.BinPanel(images, table), panels.PickPanel(images, picks, *factors)
    with monkeypatch.context() as patched:
        patched.setattr(type(images), "images", unreadable)
        bins.bin.value, chosen.of_class.value = 1, 1
    for caption in (bins.hint, chosen.caption):
        assert (
            caption._view_name == "HTMLView" and unescape(caption.value) == "ValueError: cannot read $1_vs_$5/<b>.png"
        )
    bins.bin.value = 2
    assert bins.hint.value == panels.HINT, "gone once it works again"


def test_the_map_has_a_legend_of_its_bins_and_something_before_the_first_pointing(images, table):
    panel = panels.BinPanel(images, table)
    counts = table.loc[table["label"] == 0, "bin"].value_counts().sort_index()
    assert re.findall(r">(bin \d+ \(\d+\))</text>", panel.map.value) == [f"bin {k} ({n})" for k, n in counts.items()]
    assert ">Point at an image.</text>" in panel.map.value


def test_the_pick_is_framed_and_its_neighbours_are_not(images, picks, factors):
    panel = panels.PickPanel(images, picks, *factors)
    pixels = np.asarray(Image.open(io.BytesIO(panel.picture.value)))
    corners = [pixels[0, left].tolist() for left in range(0, pixels.shape[1], 96 + 4)]
    assert corners[0] == list(panels.FRAME) and list(panels.FRAME) not in corners[1:]
    assert panel.picture.layout.max_width == "100%"
