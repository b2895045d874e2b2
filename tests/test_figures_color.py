import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation

from dc3 import figures
from dc3.figures import color

SETS = ["full set", "random", "DC3 picks, plain", "DC3", "beside: distilled"]


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def roses():
    return color.hue_roses({name: np.array([4.0, 1.0, 0.0, 0.0]) for name in SETS})


def moves():
    table = pd.DataFrame({"label": [0, 0, 1, 1], "bin": [0, 1, 0, 0], "x": [0.0, 1, 2, 3], "y": [0.0, 1, 2, 3]})
    return color.displacement_maps(table.assign(to_x=[5, np.nan, 6, 7], to_y=[5, np.nan, 6, 7]), ["cat", "dog"])


def test_the_area_of_a_petal_is_its_share():
    radii = [bar.get_height() for bar in roses().axes[0].patches if hasattr(bar, "get_height")][:4]
    assert np.square(radii) == pytest.approx([0.8, 0.2, 0, 0])
    color.hue_roses({"grey": np.zeros(4)})


def test_a_palette_fills_its_bar_with_its_own_colors():
    colors = np.array([[200, 0, 0], [0, 0, 200]], np.uint8)
    bars = color.palettes({"one": (colors, np.array([0.7, 0.3])), "two": (colors, np.array([0.5, 0.5]))})
    first = bars.axes[0].patches[:2]
    assert [bar.get_width() for bar in first] == pytest.approx([70, 30])
    assert [bar.get_x() for bar in first] == pytest.approx([0, 70])
    assert first[0].get_facecolor()[:3] == pytest.approx((200 / 255, 0, 0))


def test_an_arrow_leads_from_each_pick_to_its_condensed_image():
    panels = moves().axes
    arrows = [[a for a in ax.texts if isinstance(a, Annotation)] for ax in panels]
    assert [len(found) for found in arrows[:2]] == [1, 2]
    assert (arrows[0][0].xyann, arrows[0][0].xy) == ((0, 0), (5, 5))


def test_every_figure_is_as_wide_as_a_text_column_with_text_of_seven_points():
    grid = np.linspace(0, 1, 5)
    drawn = {
        "roses": roses(),
        "moves": moves(),
        "curves": color.rgb_curves({name: (grid, np.ones((3, 5))) for name in SETS}),
        "one curve": color.rgb_curves({"full set": (grid, np.ones((3, 5)))}),
        "palettes": color.palettes({"one": (np.zeros((1, 3), np.uint8), np.ones(1))}),
    }
    for name, figure in drawn.items():
        assert figure.get_figwidth() <= figures.WIDTH, name
        shown = [text for text in figure.findobj(plt.Text) if text.get_text() and text.get_visible()]
        assert shown and min(text.get_fontsize() for text in shown) >= 7, name
