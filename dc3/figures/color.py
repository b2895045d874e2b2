"""The figures of 06: the colours of image sets, and where compensation moves an image within its class."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from skimage.color import lab2rgb

from dc3.figures.images import EDGE, IMAGE_MARK, PICK_MARK, WIDTH, class_panels, scatter_bins
from dc3.figures.names import LONGEST_TITLE, readable

CHANNELS = {"red": ("#D55E00", "-"), "green": ("#009E73", "--"), "blue": ("#0072B2", "-.")}
PER_ROW = 4  # sets side by side
HUE_NAMES = {0: "red", 90: "yellow", 180: "green", 270: "blue"}  # what CIELAB's hue angles look like
RINGS = (0.05, 0.2)  # shares of the chroma at the rings of a rose


def rgb_curves(densities: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Density of the three channels, one panel per set; {name: (grid (g,) in 0…1, density (3, g))}."""
    figure, axes = _panels(list(densities), 1.75)
    for ax, (grid, density) in zip(axes, densities.values(), strict=True):
        for values, (channel, (color, dash)) in zip(density, CHANNELS.items(), strict=True):
            ax.plot(grid, values, color=color, linestyle=dash, label=channel)
        ax.set(xlim=(0, 1), ylim=(0, None), xticks=(0, 0.5, 1))
    for ax in axes[::PER_ROW]:
        ax.set_ylabel("density")
    figure.supxlabel("pixel value (1: brightest)", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def hue_roses(histograms: Mapping[str, np.ndarray]) -> Figure:
    """Share of chroma per CIELAB hue angle, one rose per set, petals in their own hue; {name: (bins,) chroma sums}.

    The area of a petal is the share, so its radius is the root; the rings show shares.
    """
    figure, axes = _panels(list(histograms), 1.95, projection="polar")
    for ax, chroma in zip(axes, histograms.values(), strict=True):
        angles = (np.arange(len(chroma)) + 0.5) * 2 * np.pi / len(chroma)
        hues = lab2rgb(np.stack([np.full_like(angles, 65), 45 * np.cos(angles), 45 * np.sin(angles)], axis=-1))
        share = chroma / max(chroma.sum(), np.finfo(float).tiny)
        ax.bar(angles, np.sqrt(share), width=2 * np.pi / len(chroma), color=hues, edgecolor="none")
        _, names = ax.set_thetagrids(list(HUE_NAMES), HUE_NAMES.values())
        for name, side in zip(names, ("left", "center", "right", "center"), strict=True):
            name.set_horizontalalignment(side)
        ax.tick_params(axis="x", pad=-6)
        ax.set_axisbelow(True)
        ax.set_rgrids(np.sqrt(RINGS), [f"{ring:.0%}" for ring in RINGS], angle=135)
    return figure


def palettes(found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """The main colours of each set, one bar per set, by their share of the pixels; {name: (uint8 (k, 3), (k,))}."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.85, 0.55 + 0.34 * len(found)))
    for row, (colors, share) in enumerate(found.values()):
        starts = 100 * (np.cumsum(share) - share)
        ax.barh(row, 100 * share, left=starts, color=colors / 255, height=0.75, edgecolor="white", linewidth=0.5)
    ax.set_yticks(range(len(found)), readable(found))
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="share of the pixels (%)")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return figure


def displacement_maps(table: pd.DataFrame, classes: list[str] | tuple[str, ...]) -> Figure:
    """One t-SNE map per class, with an arrow from each pick to its condensed image.

    Columns label, bin, x, y, and to_x, to_y: the place of the condensed image, or NaN.
    """
    figure, panels = class_panels(table, classes)
    for label, ax in panels.items():
        part = table[table["label"] == label]
        scatter_bins(ax, part, alpha=0.55)
        _draw_arrows(ax, part.dropna(subset=["to_x"]))
    marks = {"markeredgecolor": EDGE, "markeredgewidth": 0.6, "linestyle": "none"}
    handles = [
        *(IMAGE_MARK, PICK_MARK),
        Line2D([], [], marker="D", color="#E69F00", markersize=3.5, label="its condensed image", **marks),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _draw_arrows(ax: Axes, moved: pd.DataFrame) -> None:
    arrow = {"arrowstyle": "-", "color": EDGE, "alpha": 0.5, "lw": 0.5, "shrinkA": 0, "shrinkB": 0}
    for row in moved.itertuples():
        ax.annotate("", (row.to_x, row.to_y), (row.x, row.y), arrowprops=arrow)
    ax.scatter(moved["x"], moved["y"], marker="*", s=38, c="white", edgecolors=EDGE, linewidths=0.6, zorder=3)
    ax.scatter(moved["to_x"], moved["to_y"], marker="D", s=10, c="#E69F00", edgecolors=EDGE, linewidths=0.5, zorder=4)


def _panels(titles: list[str], height: float, **axes_style: str) -> tuple[Figure, list[Axes]]:
    """One panel per set, PER_ROW in a row, each `height` inches high."""
    rows = -(-len(titles) // PER_ROW)
    columns = min(len(titles), PER_ROW)
    size = (WIDTH * columns / PER_ROW + 0.2 * (columns < PER_ROW), height * rows + 0.3)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True, subplot_kw=axes_style
    )
    for ax in axes.flat[len(titles) :]:
        ax.set_axis_off()
    for ax, title in zip(axes.flat, readable(titles, LONGEST_TITLE), strict=False):
        ax.set_title(title)
    return figure, list(axes.flat[: len(titles)])
