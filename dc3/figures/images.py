"""The figures of the stages. Each function takes arrays or tables and returns a matplotlib Figure.

Their look is in style.mplstyle, their files in dc3.figures.style; figures of accuracies are in dc3.figures.accuracy,
those of 06 in dc3.figures.color.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import radians, sin

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import MaxNLocator

from dc3.figures.names import LONGEST_TITLE, readable, width, wrapped
from dc3.figures.style import colors_of

WIDTH = 6.5  # inches: the text column of TMLR, which the style's font sizes fit
MAX_CLASSES = 10  # in figures with one panel or row per class
MAX_NAMES = 25  # classes with names on an axis
MAX_CELLS = 250  # rows of a confusion matrix, which have about three pixels each
LETTER = 4.6  # points: slightly more than the average width of a letter at 7 points
SLANTED_LETTERS = 14  # in a line of a slanted heading
GAP = 2  # pixels between the images of a mosaic
MUTED = (  # ten colours that colour-blind people can distinguish (Paul Tol's "muted"), for the bins of a class
    "#332288", "#88CCEE", "#DDCC77", "#117733", "#CC6677", "#AA4499", "#44AA99", "#999933", "#882255", "#BBBBBB",
)  # fmt: skip
EDGE = "#222222"
IMAGE_MARK = Line2D([], [], marker="o", color="#BBBBBB", markersize=3, linestyle="none", label="image (colour: bin)")
PICK_STYLE = {"marker": "*", "color": "white", "markersize": 7, "markeredgecolor": EDGE, "markeredgewidth": 0.6}
PICK_MARK = Line2D([], [], linestyle="none", label="pick", **PICK_STYLE)
MARKERS = "o^sD"  # the next ten bins have the same colours and another mark


def mosaic(images: np.ndarray, columns: int, gap: int = GAP) -> np.ndarray:
    """uint8 (n, H, W, 3) → one uint8 image with `columns` images per row, white between them."""
    rows = -(-len(images) // columns)
    height, width = images.shape[1] + gap, images.shape[2] + gap
    canvas = np.full((rows * height - gap, columns * width - gap, 3), 255, np.uint8)
    for k, image in enumerate(images):
        top, left = k // columns * height, k % columns * width
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def show_rows(ax: Axes, rows: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Rows of images, each uint8 (≤ columns, S, S, 3), with their names at the left."""
    columns = max(len(row) for row in rows)
    blank = np.full((1, *rows[0].shape[1:]), 255, np.uint8)
    filled = [np.concatenate([row, *[blank] * (columns - len(row))]) for row in rows]
    ax.imshow(mosaic(np.concatenate(filled), columns), interpolation="nearest")
    step = rows[0].shape[1] + GAP
    ax.set_yticks(np.arange(len(rows)) * step + step / 2, readable(names))
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def class_samples(images: np.ndarray, labels: np.ndarray, classes: Sequence[str], per_class: int = 12) -> Figure:
    """The first images of each class, one row per class: uint8 (n, S, S, 3), labels (n,)."""
    shown = range(min(len(classes), MAX_CLASSES))
    return _row_figure([images[labels == label][:per_class] for label in shown], [classes[label] for label in shown])


def _row_figure(rows: Sequence[np.ndarray], names: Sequence[str]) -> Figure:
    columns = max(len(row) for row in rows)
    figure, ax = plt.subplots(figsize=(WIDTH, min(WIDTH * 0.8 * len(rows) / columns + 0.3, 9)))
    show_rows(ax, rows, names)
    return figure


def image_rows(rows: Mapping[str, np.ndarray], headings: Sequence[str] = ()) -> Figure:
    """Named rows of images: {name: uint8 (n, H, W, 3)}, with headings over the images."""
    figure = _row_figure(list(rows.values()), list(rows))
    if headings:
        set_headings(figure, headings, next(iter(rows.values())).shape[2] + GAP)
    return figure


def set_headings(figure: Figure, names: Sequence[str], step: int) -> None:
    """Headings over images, wrapped to the width of an image; slanted if a word is longer."""
    ax = figure.axes[0]
    figure.draw_without_rendering()  # settles the layout, and so the width of an image
    room = ax.get_window_extent().width / figure.dpi * 72 * step / ax.get_xlim()[1]
    letters = max(1, int(room / LETTER))
    headings = [wrapped(name, letters) for name in readable(names)]
    slanted = _longest_line(headings) > letters
    if slanted:
        headings = [wrapped(name, SLANTED_LETTERS) for name in readable(names)]
    style = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
    height = 2 * max(map(len, headings)) + slanted * sin(radians(40)) * _longest_line(headings)
    figure.set_figheight(figure.get_figheight() + LETTER * height / 72)
    ax.xaxis.tick_top()
    ax.set_xticks(np.arange(len(names)) * step + step / 2, list(map("\n".join, headings)), **style)
    ax.spines[:].set_visible(False)


def _longest_line(headings: Sequence[Sequence[str]]) -> int:
    return max(width(line) for lines in headings for line in lines)


def training_curve(history: pd.DataFrame, chance: float) -> Figure:
    """Loss and accuracies of the teacher over epochs; columns epoch, loss, train_accuracy, test_accuracy."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.4))
    left.plot(history["epoch"], history["loss"], marker="o")
    left.set(xlabel="epoch", ylabel="training loss (nats)")
    left.set_ylim(bottom=0)
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.plot(history["epoch"], 100 * history["train_accuracy"], marker="o", label="training crops")
    tested = history.dropna(subset=["test_accuracy"])
    right.plot(tested["epoch"], 100 * tested["test_accuracy"], marker="s", label="test")
    right.axhline(100 * chance, color="grey", linestyle=":", label="chance")
    right.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 101))
    right.legend()
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Counts (C, C) from `evaluation.confusion_matrix`, true class down, predicted class across.

    Up to MAX_CLASSES classes have counts in their cells, up to MAX_NAMES have names; more are a raster with a colour
    bar, because 200 classes of vector cells take megabytes. Above MAX_CELLS classes, a cell is the sum over a block of
    neighbouring classes: smaller cells would fall between the pixels.
    """
    block = -(-len(classes) // MAX_CELLS)
    figure, ax = plt.subplots(figsize=(4.6, 3.8))
    few = len(classes) <= MAX_CLASSES
    cells = {"annot": few, "fmt": "d", "annot_kws": {"size": 7}, "cbar": not few, "cmap": "Blues"}
    sns.heatmap(_in_blocks(matrix, block), **cells, xticklabels=False, yticklabels=False, ax=ax, rasterized=not few)
    ax.set(xlabel="predicted class (cells: images)", ylabel="true class")
    if len(classes) <= MAX_NAMES:
        names = readable(classes, LONGEST_TITLE)
        ax.set_xticks(np.arange(len(classes)) + 0.5, names, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(np.arange(len(classes)) + 0.5, names, rotation=0)
    else:
        of = f" of {block} × {block} classes" if block > 1 else ""
        ax.set(xlabel=f"predicted class, in the order of the classes (cells: images{of})", ylabel="true class")
    return figure


def _in_blocks(matrix: np.ndarray, side: int) -> np.ndarray:
    """The sums of (C, C) over blocks of `side` × `side`; the last blocks may be smaller."""
    starts = np.arange(0, len(matrix), side)
    return np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)


def bin_maps(table: pd.DataFrame, classes: Sequence[str], picks: Sequence[int] = ()) -> Figure:
    """One t-SNE map per class, one colour per bin, stars on picks; columns index, label, bin, x, y."""
    figure, panels = class_panels(table, classes)
    for label, ax in panels.items():
        part = table[table["label"] == label]
        scatter_bins(ax, part)
        picked = part[part["index"].isin(picks)]
        ax.scatter(picked["x"], picked["y"], marker="*", s=45, c="white", edgecolors="black", linewidths=0.7)
    figure.legend(handles=[IMAGE_MARK, PICK_MARK][: 2 if len(picks) else 1], loc="outside upper center", ncols=2)
    return figure


def class_panels(table: pd.DataFrame, classes: Sequence[str]) -> tuple[Figure, dict[int, Axes]]:
    """An empty panel for the map of each of the first classes in the table's column label: {label: axes}."""
    shown = sorted(table["label"].unique())[:MAX_CLASSES]
    rows = -(-len(shown) // 5)
    figure, axes = plt.subplots(rows, 5, figsize=(WIDTH, 1.5 * rows + 0.2), squeeze=False)
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    panels = dict(zip(shown, axes.flat, strict=False))
    for name, ax in zip(readable((classes[label] for label in shown), LONGEST_TITLE), panels.values(), strict=True):
        ax.set_title(name, fontsize=7)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(True)
    figure.supxlabel("first t-SNE axis (no unit)", fontsize=7)
    figure.supylabel("second t-SNE axis (no unit)", fontsize=7)
    return figure, panels


def scatter_bins(ax: Axes, part: pd.DataFrame, **style: float) -> None:
    """The images of a class, columns bin, x, y: one colour per bin, another mark after every ten bins."""
    for tens, group in part.groupby(part["bin"] // len(MUTED)):
        colors = [MUTED[number % len(MUTED)] for number in group["bin"]]
        marker = MARKERS[int(tens) % len(MARKERS)]
        ax.scatter(group["x"], group["y"], c=colors, marker=marker, s=4, lw=0, rasterized=True, **style)


def similarity_matrix(kernel: np.ndarray, bins: np.ndarray, name: str) -> Figure:
    """Gradient similarity (n, n) of one class's images, ordered by their bins (n,), with lines between the bins."""
    order = np.argsort(bins, kind="stable")
    edges = np.flatnonzero(np.diff(bins[order])) + 0.5
    figure, ax = plt.subplots(figsize=(4.2, 3.6))
    picture = ax.imshow(kernel[np.ix_(order, order)], cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    for edge in edges:
        ax.axhline(edge, color="white", linewidth=0.5)
        ax.axvline(edge, color="white", linewidth=0.5)
    ax.set(title=readable([name])[0], xlabel="image, ordered by bin", ylabel="image, ordered by bin")
    figure.colorbar(picture, label="0.5 + 0.5 cos (gradients)")
    return figure


def gain_curves(gains: Mapping[str, np.ndarray], ylabel: str = "gain of the pick / images") -> Figure:
    """Marginal gains (picks,) in pick order, one line per function or strategy."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.55, 2.4))
    for name, values in gains.items():
        ax.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=3, label=name)
    ax.set(xlabel="pick", ylabel=ylabel)
    ax.legend()
    return figure


def coverage_bars(table: pd.DataFrame) -> Figure:
    """Two panels over strategies; columns selection, bins, similarity."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.4))
    labels = {"bins": "bins with a pick (share)", "similarity": "similarity to the closest pick"}
    for ax, (column, label) in zip(axes, labels.items(), strict=True):
        sns.barplot(table, x=column, y="selection", ax=ax, color="C0")
        ax.bar_label(ax.containers[0], fmt="%.2f", padding=2, fontsize=7)
        ax.set(xlabel=label, ylabel="", xlim=(0, 1.12))
    return figure


def colorfulness_violins(values: Mapping[str, np.ndarray]) -> Figure:
    """Distribution of the Hasler–Süsstrunk colourfulness M over the images of each set."""
    named = dict(zip(readable(values), values.values(), strict=True))
    table = pd.concat([pd.DataFrame({"set": name, "M": array}) for name, array in named.items()])
    figure, ax = plt.subplots(figsize=(WIDTH * 0.7, 0.7 + 0.42 * len(values)))
    sets = {"hue": "set", "palette": colors_of(named), "legend": False}
    sns.violinplot(table, x="M", y="set", **sets, inner="quart", cut=0, ax=ax, linewidth=0.8)
    ax.set(xlabel="colourfulness M (Hasler–Süsstrunk)", ylabel="")
    return figure


HEADINGS = (
    "the images of a class",
    "latents in bins,\nstars: picks",
    "picks",
    "warm and cold\nedits",
    "condensed\nimages",
)


def overview(
    crowd: np.ndarray,
    bin_map: pd.DataFrame,
    picked: pd.Series,
    picks: np.ndarray,
    warm: np.ndarray,
    cold: np.ndarray,
    condensed: np.ndarray,
) -> Figure:
    """The steps of the method from left to right: five panels with arrows between them."""
    figure, axes = plt.subplots(1, 5, figsize=(WIDTH, 2.5), width_ratios=[5, 5, 1.25, 2.5, 1.25])
    first, bins, *columns = axes
    show(first, mosaic(crowd, columns=5))
    bin_panel(bins, bin_map, picked)
    pairs = np.stack([warm, cold], axis=1).reshape(-1, *warm.shape[1:])
    for ax, images, wide in zip(columns, (picks, pairs, condensed), (1, 2, 1), strict=True):
        show(ax, mosaic(images, columns=wide))
    for ax, heading in zip(axes, HEADINGS, strict=True):
        ax.set_title(heading, fontsize=7)
    figure.draw_without_rendering()  # settles the layout, and so the places of the panels
    for left, right in pairwise(axes):
        arrow(figure, left, right)
    return figure


def show(ax: Axes, image: np.ndarray) -> None:
    """An image in its own proportions, without axes."""
    ax.imshow(image, interpolation="nearest")
    ax.set_axis_off()


def bin_panel(ax: Axes, table: pd.DataFrame, picked: pd.Series) -> None:
    """The map of a class, one colour per bin, its picks as stars."""
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
