"""The figure of `dc3 compare`; tables are those of `dc3.runs.compare.Comparison`."""

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dc3.figures.images import MAX_NAMES, WIDTH

ROW = 0.21  # inches
FRAME = 0.75  # inches of a panel without its rows
APART = 0.17  # of a row, by which the two runs' marks are moved
Panel = tuple[str, pd.DataFrame, Callable[[Axes, pd.DataFrame], None]]


def differences(tables: Mapping[str, pd.DataFrame], first: str, second: str) -> Figure:
    """A panel for each thing that can be compared: accuracy, colourfulness, FID, picks in common, time."""
    panels = _panels(tables, first, second)
    columns = min(2, len(panels))
    beside = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [FRAME + ROW * max(len(table) for _, table, _ in row) for row in beside]
    size = (WIDTH * (columns + 1) / 3, sum(heights) + 0.3)
    figure, axes = plt.subplots(len(beside), columns, figsize=size, squeeze=False, height_ratios=heights)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, table, draw) in zip(axes.flat, panels, strict=False):
        draw(ax, table)
        ax.set_title(title)
        ax.set_ylim(len(table) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", linewidth=0.4)
        ax.set_axisbelow(True)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    return figure


def _panels(tables: Mapping[str, pd.DataFrame], first: str, second: str) -> list[Panel]:
    def pairs(unit: str, names: list[str], label: str) -> Callable[[Axes, pd.DataFrame], None]:
        return lambda ax, table: _pairs(ax, table, (first, second), unit, names, label)

    panels: list[Panel] = []
    if "accuracy" in tables:
        named = tables["accuracy"].assign(name=lambda table: table["training set"] + ", " + table["student"])
        panels.append(("Test accuracy", named, pairs("±", list(named["name"]), "test accuracy (%)")))
    for measure, title in (("colourfulness M", "Colourfulness"), ("FID", "FID")):
        part = tables["measures"] if "measures" in tables else pd.DataFrame({"measure": []})
        part = part[part["measure"].astype(str).str.startswith(measure)]
        if len(part) and part["difference"].notna().any():
            panels.append((title, part, pairs("", list(part["set"]), part["measure"].iloc[0])))
    if "picks" in tables:
        panels.append(("Picks in common", _fewer(tables["picks"]), _shares))
    times = tables["times"]
    panels.append(("Time", times, pairs("", list(times["stage"]), "wall time (s)")))
    return panels


def _pairs(ax: Axes, table: pd.DataFrame, runs: tuple[str, str], spread: str, names: list[str], label: str) -> None:
    """A row a name, a mark a run, bars of one deviation where the table has them."""
    places = np.arange(len(table))
    for run, shift, mark in zip(runs, (-APART, APART), "os", strict=True):
        error = table[f"{run}, {spread}"].fillna(0) if spread else None
        ax.errorbar(table[run], places + shift, xerr=error, fmt=mark, markersize=4, capsize=2, label=run)
    ax.set_yticks(places, names)
    ax.set_xlabel(label)


def _shares(ax: Axes, table: pd.DataFrame) -> None:
    places = np.arange(len(table))
    ax.barh(places, table["Jaccard"], color="C2", height=0.6)
    for place, share in enumerate(table["Jaccard"]):
        ax.text(share + 0.02, place, f"{share:.2f}", va="center", fontsize=7)
    ax.set_yticks(places, table["class"])
    ax.set(xlabel="in common / picked by either (Jaccard)", xlim=(0, 1.15))


def _fewer(picks: pd.DataFrame) -> pd.DataFrame:
    """All classes, or as many as have room, from the least in common to the most."""
    if len(picks) <= MAX_NAMES:
        return picks
    ordered = picks.sort_values("Jaccard", kind="stable").reset_index(drop=True)
    return ordered.iloc[np.unique(np.linspace(0, len(ordered) - 1, MAX_NAMES).astype(int))]
