"""The method in one picture: from the images of a class to its condensed images."""

from dataclasses import dataclass
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from dc3.figures.images import WIDTH, mosaic, scatter_bins

CROWD = 25  # images of the class that are shown, a square of them
HEADINGS = (
    "the images of a class",
    "latents in bins,\nstars: picks",
    "picks",
    "warm and cold\nedits",
    "condensed\nimages",
)


@dataclass(frozen=True)
class Steps:
    """What became of one class: uint8 images (n, H, W, 3) of every step, the picks in the same order in all of them.

    `bin_map` has the columns index, bin, x, y of the class's images; `picked` are the indices of all its picks.
    """

    crowd: np.ndarray
    bin_map: pd.DataFrame
    picked: pd.Series
    picks: np.ndarray
    warm: np.ndarray
    cold: np.ndarray
    condensed: np.ndarray


def overview(steps: Steps) -> Figure:
    """Five panels with arrows between them, left to right in the order of the method."""
    figure, axes = plt.subplots(1, 5, figsize=(WIDTH, 2.5), width_ratios=[5, 5, 1.25, 2.5, 1.25])
    crowd, bins, *columns = axes
    show(crowd, mosaic(steps.crowd[:CROWD], columns=5))
    bin_panel(bins, steps.bin_map, steps.picked)
    pairs = np.stack([steps.warm, steps.cold], axis=1).reshape(-1, *steps.warm.shape[1:])
    for ax, images, wide in zip(columns, (steps.picks, pairs, steps.condensed), (1, 2, 1), strict=True):
        show(ax, mosaic(images, columns=wide))
    for ax, heading in zip(axes, HEADINGS, strict=True):
        ax.set_title(heading, fontsize=7)
    figure.draw_without_rendering()  # settles the layout: where the panels are
    for left, right in pairwise(axes):
        arrow(figure, left, right)
    return figure


def show(ax: Axes, image: np.ndarray) -> None:
    """An image in its own proportions, without axes."""
    ax.imshow(image, interpolation="nearest")
    ax.set_axis_off()


def bin_panel(ax: Axes, table: pd.DataFrame, picked: pd.Series) -> None:
    """The map of a class, a colour a bin, its picks as stars."""
    scatter_bins(ax, table)
    stars = table[table["index"].isin(picked)]
    ax.scatter(stars["x"], stars["y"], marker="*", s=60, c="white", edgecolors="black", linewidths=0.7)
    ax.set(xticks=[], yticks=[])
    ax.set_box_aspect(1)
    ax.spines[:].set_visible(True)


def arrow(figure: Figure, left: Axes, right: Axes) -> None:
    """An arrow across the gap between two panels, at the middle of their height."""
    start, end = left.get_position().x1, right.get_position().x0
    figure.add_artist(
        FancyArrowPatch(
            (start, 0.42), (end, 0.42), transform=figure.transFigure, arrowstyle="-|>", mutation_scale=8, color="0.3"
        )
    )
