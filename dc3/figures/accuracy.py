"""Figures of what training sets are worth: accuracies over epochs, IPC, classes, students, and the literature's."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dc3.figures.images import MAX_NAMES, WIDTH
from dc3.figures.set_colors import BLACK, BLUE, colors_of

ROW = 0.2  # inches a row of a dot plot


def student_curves(runs: pd.DataFrame, chance: float) -> Figure:
    """Test accuracy over epochs, a line a method, seeds as a band; columns method, seed, epoch, top1 (fractions)."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.7, 3))
    percent = runs.dropna(subset=["top1"]).assign(accuracy=lambda table: 100 * table["top1"])
    sets = {"hue": "method", "style": "method", "palette": colors_of(percent["method"])}
    sns.lineplot(percent, x="epoch", y="accuracy", **sets, errorbar=("pi", 100), ax=ax)
    ax.axhline(100 * chance, color="grey", linestyle=":", linewidth=1)
    ax.annotate("chance", (0, 100 * chance), textcoords="offset points", xytext=(2, 3), fontsize=7, color="grey")
    ax.set(xlabel="epoch", ylabel="test accuracy (%)")
    ax.legend(title="", loc="center right")
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
    """Accuracy of each class, a mark a training set; columns class, method, accuracy (fractions).

    More than MAX_NAMES classes have no room for their names: then a line a training set, from its worst class up.
    """
    percent, palette = table.assign(accuracy=100 * table["accuracy"]), colors_of(table["method"])
    names = percent["class"].nunique()
    if names > MAX_NAMES:
        figure, ax = plt.subplots(figsize=(WIDTH * 0.7, 2.6))
        for method, part in percent.groupby("method", sort=False):
            ax.plot(np.arange(1, names + 1), np.sort(part["accuracy"]), label=method, color=palette[method])
        ax.set(xlabel="classes, each set's worst first", ylabel="test accuracy (%)", ylim=(0, 101))
        ax.legend()
        return figure
    figure, ax = plt.subplots(figsize=(WIDTH * 0.8, 0.7 + 0.22 * names))
    sets = {"hue": "method", "palette": palette, "dodge": 0.4}
    sns.stripplot(percent, x="accuracy", y="class", **sets, jitter=False, size=5, ax=ax)
    ax.set(xlabel="test accuracy (%)", ylabel="", xlim=(0, 102))
    ax.grid(axis="x")
    ax.legend(title="", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def methods_by_ipc(table: pd.DataFrame) -> Figure:
    """Test accuracy over IPC, a line a method; columns method, ipc, top1_mean, top1_std (NaN for one seed)."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.75, 3.2))
    shift, palette = np.linspace(-0.04, 0.04, table["method"].nunique()), colors_of(table["method"])
    for move, (name, part) in zip(shift, table.groupby("method", sort=False), strict=True):
        x, spread = part["ipc"] * 10**move, 100 * part["top1_std"].fillna(0)
        style = {"label": name, "color": palette[name], "marker": "o", "markersize": 4, "capsize": 2}
        ax.errorbar(x, 100 * part["top1_mean"], spread, **style)
    ax.set(xscale="log", xlabel="images per class (IPC)", ylabel="test accuracy (%)")
    ticks = sorted(table["ipc"].unique())
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def beside_published(table: pd.DataFrame) -> Figure:
    """A panel an IPC, methods down, ours filled, published numbers hollow; table: of `published.beside`."""
    ipcs = sorted(table["ipc"].unique())
    means = table.groupby("method", sort=False)["top1_mean"].mean()
    order = [*means[means.index.str.endswith("here")].index, *means[means.index.str.endswith("published")].index][::-1]
    rows = {name: row for row, name in enumerate(order)}
    size = (WIDTH, 0.9 + ROW * len(rows))
    figure, axes = plt.subplots(1, len(ipcs), figsize=size, sharey=True, squeeze=False)
    for ax, ipc in zip(axes[0], ipcs, strict=True):
        for name, part in table[table["ipc"] == ipc].groupby("method"):
            ours = name.endswith("here")
            style = {"color": BLUE if ours else BLACK, "markerfacecolor": BLUE if ours else "white", "markersize": 4.5}
            spread = 100 * part["top1_std"].fillna(0)
            ax.errorbar(100 * part["top1_mean"], [rows[name]] * len(part), xerr=spread, fmt="o", capsize=2, **style)
        ax.set(title=f"IPC {ipc}", ylim=(-0.7, len(rows) - 0.3))
        ax.grid(axis="both", linewidth=0.4)
        ax.set_axisbelow(True)
    axes[0][0].set_yticks(range(len(rows)), order)
    figure.supxlabel("test accuracy (%)", fontsize=8)
    return figure
