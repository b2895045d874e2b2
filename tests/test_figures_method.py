"""dc3.figures.images: the picture of the method shows what it was given, step by step."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from dc3.edit_strips import Steps
from dc3.figures import images


def shades(*values):
    return np.stack([np.full((8, 8, 3), value, np.uint8) for value in values])


def test_the_steps_stand_from_left_to_right_with_the_edits_in_pairs():
    table = pd.DataFrame({"index": [4, 5, 6], "label": 1, "bin": [0, 0, 1], "x": [0, 1, 2], "y": [2, 1, 0]})
    steps = Steps(
        shades(*range(25)), table, pd.Series([6]), shades(1, 2), shades(11, 12), shades(21, 22), shades(31, 32)
    )
    figure = images.overview(*steps)
    crowd, bins, picks, edits, condensed = (ax for ax in figure.axes)
    assert crowd.images[0].get_array().shape[:2] == (48, 48), "five by five"
    assert bins.collections[-1].get_offsets().tolist() == [[2, 0]], "the star of the pick"
    edit_shades = edits.images[0].get_array()[[0, 0, 10, 10], [0, 10, 0, 10], 0]
    assert edit_shades.tolist() == [11, 21, 12, 22], "warm beside cold, a row a pick"
    assert picks.images[0].get_array()[0, 0, 0] == 1 and condensed.images[0].get_array()[-1, 0, 0] == 32
    assert len([artist for artist in figure.artists if hasattr(artist, "get_arrowstyle")]) == 4
    plt.close(figure)
