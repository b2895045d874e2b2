"""Every figure of the notebooks. Each function takes arrays or tables and returns a matplotlib Figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from skimage.color import lab2rgb

from dc3.files import replacing

WIDTH = 7.0  # inches: the width of a page's text
MAX_CLASSES = 10  # shown in figures that have a panel or row a class
HEADING_LENGTH = 10  # characters a line, over an image
GAP = 2  # pixels between the images of a mosaic
CHANNELS = {"red": "#d62728", "green": "#2ca02c", "blue": "#1f77b4"}

sns.set_theme(context="paper", style="ticks", palette="colorblind")
plt.rcParams.update(
    {
        "figure.dpi": 110,
        "savefig.dpi": 100,
        "savefig.bbox": "tight",
        "figure.constrained_layout.use": True,
        "legend.frameon": False,
    }
)


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG, complete or not at all; without a date in it, so that the same picture is the same file."""
    with replacing(path) as partial:
        figure.savefig(partial, metadata={"Software": None})


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as path.csv (full precision) and path.md (to read)."""
    with replacing(path.with_suffix(".csv")) as partial:
        table.to_csv(partial, index=False)
    with replacing(path.with_suffix(".md")) as partial:
        partial.write_text(table.to_markdown(index=False, floatfmt=".3g") + "\n")


def mosaic(images: np.ndarray, columns: int, gap: int = GAP) -> np.ndarray:
    """uint8 (n, H, W, 3) → one uint8 image with `columns` images a row, white between them."""
    rows = -(-len(images) // columns)
    height, width = images.shape[1] + gap, images.shape[2] + gap
    canvas = np.full((rows * height - gap, columns * width - gap, 3), 255, np.uint8)
    for k, image in enumerate(images):
        top, left = k // columns * height, k % columns * width
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def show_rows(ax: Axes, rows: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Rows of images, each row with its name at the left."""
    columns = max(len(row) for row in rows)
    blank = np.full((1, *rows[0].shape[1:]), 255, np.uint8)
    filled = [np.concatenate([row, *[blank] * (columns - len(row))]) for row in rows]
    ax.imshow(mosaic(np.concatenate(filled), columns), interpolation="nearest")
    step = rows[0].shape[1] + GAP
    ax.set_yticks(np.arange(len(rows)) * step + step / 2, names)
    ax.set_xticks([])
    ax.tick_params(length=0)
    sns.despine(ax=ax, left=True, bottom=True)


def class_samples(images: np.ndarray, labels: np.ndarray, classes: Sequence[str], per_class: int = 12) -> Figure:
    """The first images of each class, a row a class."""
    shown = range(min(len(classes), MAX_CLASSES))
    return _row_figure([images[labels == label][:per_class] for label in shown], [classes[label] for label in shown])


def _row_figure(rows: Sequence[np.ndarray], names: Sequence[str], title: str = "") -> Figure:
    columns = max(len(row) for row in rows)
    figure, ax = plt.subplots(figsize=(WIDTH, min(WIDTH * 0.8 * len(rows) / columns + 0.3, 9)))
    show_rows(ax, rows, names)
    ax.set_title(title)
    return figure


def image_rows(rows: Mapping[str, np.ndarray], columns: Sequence[str] = ()) -> Figure:
    """Named rows of images: {name: uint8 (n, H, W, 3)}; `columns` are headings over the images."""
    figure = _row_figure(list(rows.values()), list(rows))
    if columns:
        step = next(iter(rows.values())).shape[2] + GAP
        ax = figure.axes[0]
        headings = ["\n".join(wrap(column.replace("_", " "), HEADING_LENGTH)) for column in columns]
        ax.set_xticks(np.arange(len(columns)) * step + step / 2, headings, fontsize=6.5)
        ax.xaxis.tick_top()
    return figure


def training_curve(history: pd.DataFrame, chance: float) -> Figure:
    """Loss and accuracies of the teacher over epochs; columns epoch, loss, train_accuracy, test_accuracy."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.4))
    left.plot(history["epoch"], history["loss"], marker="o")
    left.set(xlabel="epoch", ylabel="training loss (nats)")
    right.plot(history["epoch"], 100 * history["train_accuracy"], marker="o", label="training crops")
    tested = history.dropna(subset=["test_accuracy"])
    right.plot(tested["epoch"], 100 * tested["test_accuracy"], marker="s", label="test")
    right.axhline(100 * chance, color="grey", linestyle=":", label="chance")
    right.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 101))
    right.legend()
    sns.despine(figure)
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Counts, true class down, predicted class across."""
    figure, ax = plt.subplots(figsize=(4.6, 3.8))
    sns.heatmap(
        matrix, annot=len(classes) <= MAX_CLASSES, fmt="d", cmap="Blues", cbar=False, ax=ax, annot_kws={"size": 7}
    )
    ax.set(xlabel="predicted class", ylabel="true class")
    if len(classes) <= MAX_CLASSES:
        ax.set_xticks(np.arange(len(classes)) + 0.5, classes, rotation=60, ha="right")
        ax.set_yticks(np.arange(len(classes)) + 0.5, classes, rotation=0)
    return figure


def bin_maps(table: pd.DataFrame, classes: Sequence[str], picks: Sequence[int] = ()) -> Figure:
    """A t-SNE map a class, a colour a bin, picks marked; columns index, label, bin, x, y."""
    shown = sorted(table["label"].unique())[:MAX_CLASSES]
    rows = -(-len(shown) // 5)
    figure, axes = plt.subplots(rows, 5, figsize=(WIDTH, 1.55 * rows), squeeze=False)
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    for ax, label in zip(axes.flat, shown, strict=False):
        part = table[table["label"] == label]
        ax.scatter(part["x"], part["y"], c=part["bin"], cmap="tab10" if part["bin"].max() < 10 else "tab20", s=3, lw=0)
        picked = part[part["index"].isin(picks)]
        ax.scatter(picked["x"], picked["y"], marker="*", s=45, c="white", edgecolors="black", linewidths=0.7)
        ax.set_title(classes[label], fontsize=8)
        ax.set(xticks=[], yticks=[])
    return figure


def similarity_matrix(kernel: np.ndarray, bins: np.ndarray, name: str) -> Figure:
    """Gradient similarity of one class's images, ordered by bin, with lines between the bins."""
    order = np.argsort(bins, kind="stable")
    edges = np.flatnonzero(np.diff(bins[order])) + 0.5
    figure, ax = plt.subplots(figsize=(4.2, 3.6))
    picture = ax.imshow(kernel[np.ix_(order, order)], cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    for edge in edges:
        ax.axhline(edge, color="white", linewidth=0.5)
        ax.axvline(edge, color="white", linewidth=0.5)
    ax.set(title=name, xlabel="image, ordered by bin", ylabel="image, ordered by bin")
    figure.colorbar(picture, label="0.5 + 0.5 cos (gradients)")
    return figure


def gain_curves(gains: Mapping[str, np.ndarray], ylabel: str = "gain of the pick / images") -> Figure:
    """Marginal gains in pick order, a line a function or strategy."""
    figure, ax = plt.subplots(figsize=(WIDTH / 2 + 0.6, 2.6))
    for name, values in gains.items():
        ax.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=3, label=name)
    ax.set(xlabel="pick", ylabel=ylabel)
    ax.legend()
    sns.despine(figure)
    return figure


def coverage_bars(table: pd.DataFrame) -> Figure:
    """Two panels over strategies; columns selection, bins, similarity."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.4))
    labels = {"bins": "bins with a pick (share)", "similarity": "similarity to the closest pick"}
    for ax, (column, label) in zip(axes, labels.items(), strict=True):
        sns.barplot(table, x=column, y="selection", ax=ax, color="C0")
        ax.bar_label(ax.containers[0], fmt="%.2f", padding=2, fontsize=8)
        ax.set(xlabel=label, ylabel="", xlim=(0, 1.12))
    sns.despine(figure)
    return figure


def student_curves(runs: pd.DataFrame, chance: float) -> Figure:
    """Test accuracy over epochs, a line a method, seeds as a band; columns method, seed, epoch, top1 (fractions)."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.7, 3))
    percent = runs.dropna(subset=["top1"]).assign(accuracy=lambda table: 100 * table["top1"])
    sns.lineplot(percent, x="epoch", y="accuracy", hue="method", style="method", errorbar=("pi", 100), ax=ax)
    ax.axhline(100 * chance, color="grey", linestyle=":", linewidth=1)
    ax.annotate("chance", (0, 100 * chance), textcoords="offset points", xytext=(2, 3), fontsize=7, color="grey")
    ax.set(xlabel="epoch", ylabel="test accuracy (%)")
    ax.legend(title="", loc="lower right")
    sns.despine(figure)
    return figure


def network_heatmap(table: pd.DataFrame) -> Figure:
    """Test accuracy in percent, training sets down, student networks across; columns method, network, top1_mean."""
    wide = 100 * table.pivot(index="method", columns="network", values="top1_mean")
    wide = wide.loc[table["method"].drop_duplicates(), table["network"].drop_duplicates()]
    figure, ax = plt.subplots(figsize=(1.7 + 1.1 * wide.shape[1], 0.7 + 0.45 * wide.shape[0]))
    sns.heatmap(wide, annot=True, fmt=".1f", cmap="viridis", ax=ax, cbar_kws={"label": "test accuracy (%)"})
    ax.set(xlabel="student", ylabel="")
    return figure


def class_accuracy(table: pd.DataFrame) -> Figure:
    """Accuracy of each class, a mark a training set; columns class, method, accuracy (fractions)."""
    figure, ax = plt.subplots(figsize=(WIDTH, 2.8))
    percent = table.assign(accuracy=100 * table["accuracy"])
    sns.stripplot(percent, x="class", y="accuracy", hue="method", dodge=0.4, jitter=False, size=6, ax=ax)
    ax.set(xlabel="", ylabel="test accuracy (%)", ylim=(0, 101))
    ax.tick_params(axis="x", rotation=35)
    ax.grid(axis="y", alpha=0.4)
    ax.legend(title="", fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    sns.despine(figure)
    return figure


def methods_by_ipc(table: pd.DataFrame) -> Figure:
    """Test accuracy over IPC, a line a method; columns method, ipc, top1_mean, top1_std (NaN for one seed)."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.75, 3.2))
    shift = np.linspace(-0.04, 0.04, table["method"].nunique())
    for move, (name, part) in zip(shift, table.groupby("method", sort=False), strict=True):
        x, spread = part["ipc"] * 10**move, 100 * part["top1_std"].fillna(0)
        published = name.endswith("published")
        style = {"linestyle": ":", "marker": "x"} if published else {"linestyle": "-", "marker": "o"}
        ax.errorbar(x, 100 * part["top1_mean"], spread, label=name, capsize=2, markersize=4, **style)
    ax.set(xscale="log", xlabel="images per class (IPC)", ylabel="test accuracy (%)")
    ticks = sorted(table["ipc"].unique())
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    return figure


def rgb_curves(densities: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Density of the three channels, a panel a set; {name: (grid (g,) in 0…1, density (3, g))}."""
    figure, axes = plt.subplots(1, len(densities), figsize=(WIDTH, 2.2), sharey=True, squeeze=False)
    for ax, (name, (grid, density)) in zip(axes[0], densities.items(), strict=True):
        for values, (channel, color), dash in zip(density, CHANNELS.items(), ("-", "--", "-."), strict=True):
            ax.plot(grid, values, color=color, linestyle=dash, label=channel)
        ax.set(title=name, xlabel="pixel value", xlim=(0, 1))
    axes[0, 0].set_ylabel("density")
    axes[0, -1].legend(fontsize=7)
    sns.despine(figure)
    return figure


def colorfulness_violins(values: Mapping[str, np.ndarray]) -> Figure:
    """Distribution of the Hasler–Süsstrunk colourfulness M over the images of each set."""
    table = pd.concat([pd.DataFrame({"set": name, "M": array}) for name, array in values.items()])
    figure, ax = plt.subplots(figsize=(WIDTH * 0.7, 2.6))
    sns.violinplot(table, x="M", y="set", hue="set", inner="quart", cut=0, ax=ax, legend=False, linewidth=0.8)
    ax.set(xlabel="colourfulness M (Hasler–Süsstrunk)", ylabel="")
    sns.despine(figure)
    return figure


def hue_roses(histograms: Mapping[str, np.ndarray]) -> Figure:
    """Share of chroma per CIELAB hue angle, a rose a set, petals in their own hue; {name: (bins,) chroma sums}."""
    figure, axes = plt.subplots(
        1, len(histograms), figsize=(WIDTH, 2.2), subplot_kw={"projection": "polar"}, squeeze=False, sharey=True
    )
    for ax, (name, chroma) in zip(axes[0], histograms.items(), strict=True):
        angles = (np.arange(len(chroma)) + 0.5) * 2 * np.pi / len(chroma)
        hues = lab2rgb(np.stack([np.full_like(angles, 65), 45 * np.cos(angles), 45 * np.sin(angles)], axis=-1))
        ax.bar(angles, chroma / chroma.sum(), width=2 * np.pi / len(chroma), color=hues, edgecolor="none")
        ax.set_title(name, fontsize=8)
        ax.set(xticklabels=[], yticklabels=[])
    return figure
