"""Figures of a sweep's report (notebooks/sweep_report.ipynb); tables are those of `dc3.runs.sweep_report`."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dc3.figures.accuracy import ROW
from dc3.figures.images import WIDTH
from dc3.figures.set_colors import colors_of


def settings_dots(settings: pd.DataFrame, axes: Sequence[str]) -> Figure:
    """Test accuracy of every row, the best on top, bars of one standard deviation; `axes` are told beside its name."""
    table = settings.sort_values("top1_mean", kind="stable").reset_index(drop=True)
    told = [", ".join([row["name"], *(f"{key} {row[key]}" for key in axes)]) for _, row in table.iterrows()]
    figure, ax = plt.subplots(figsize=(WIDTH, 0.8 + ROW * len(table)))
    spread = 100 * table["top1_std"].fillna(0)
    ax.errorbar(100 * table["top1_mean"], range(len(table)), xerr=spread, fmt="o", capsize=2, markersize=4)
    ax.set_yticks(range(len(table)), told)
    ax.set(xlabel="test accuracy (%)", ylim=(-0.8, len(table) - 0.2))
    ax.grid(axis="x", linewidth=0.4)
    sns.despine(figure, left=True)
    return figure


def accuracy_by_epochs(settings: pd.DataFrame) -> Figure:
    """Test accuracy over the epochs of the students' training, a line a name."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.75, 2.8))
    palette = colors_of(settings["name"])
    for name, part in settings.sort_values("epochs").groupby("name", sort=False):
        style = {"label": name, "color": palette[name], "marker": "o", "markersize": 4, "capsize": 2}
        ax.errorbar(part["epochs"], 100 * part["top1_mean"], 100 * part["top1_std"].fillna(0), **style)
    ticks = np.unique(settings["epochs"])
    ax.set(xscale="log", xlabel="epochs", ylabel="test accuracy (%)")
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    return figure


def compensation_dots(table: pd.DataFrame) -> Figure:
    """What compensation adds to the accuracy of the same picks, in points; table: of `sweep_report.compensation`.

    A row a setting, sorted by the difference; bars of one standard deviation where there are several students.
    """
    table = table.sort_values("difference", kind="stable").reset_index(drop=True)
    told = [f"{row['name']}, IPC {row['ipc']}, {row['epochs']} epochs" for _, row in table.iterrows()]
    figure, ax = plt.subplots(figsize=(WIDTH, 0.8 + ROW * len(table)))
    spread = 100 * table["deviation"].fillna(0)
    ax.errorbar(100 * table["difference"], range(len(table)), xerr=spread, fmt="o", capsize=2, markersize=4)
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.set_yticks(range(len(table)), told)
    ax.set(xlabel="compensated minus plain, test accuracy (points)", ylim=(-0.8, len(table) - 0.2))
    ax.grid(axis="x", linewidth=0.4)
    sns.despine(figure, left=True)
    return figure
