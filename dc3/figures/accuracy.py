"""Figures of accuracies: over epochs, IPC, classes and students, and next to published numbers."""

from collections.abc import Callable, Mapping
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from dc3.figures.images import MAX_NAMES, WIDTH
from dc3.figures.names import LONGEST, readable
from dc3.figures.style import BLACK, BLUE, colors_of

ROW = 0.2  # inches: the height of a row of a dot plot
LONG = 60  # columns of a name that says a training set and its settings
LONG_BESIDE = 36  # the same where two panels stand side by side


def student_curves(runs: pd.DataFrame, chance: float) -> Figure:
    """Test accuracy over epochs, one line per method, a band over seeds; columns method, seed, epoch, top1."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.7, 3))
    percent = _readable(runs.dropna(subset=["top1"]), "method").assign(accuracy=lambda table: 100 * table["top1"])
    sets = {"hue": "method", "style": "method", "palette": colors_of(percent["method"])}
    one = percent["epoch"].nunique() == 1  # a line through one epoch would not be seen
    sns.lineplot(percent, x="epoch", y="accuracy", **sets, markers=one, errorbar=("pi", 100), ax=ax)
    _chance_line(ax, chance)
    ax.set(xlabel="epoch", ylabel="test accuracy (%)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(title="", loc="center right")
    return figure


def _chance_line(ax: Axes, chance: float | None) -> None:
    """A labelled line at the accuracy of guessing, a fraction; None: no line."""
    if chance is None:
        return
    ax.axhline(100 * chance, color="grey", linestyle=":", linewidth=1)
    beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (2, 3)}
    ax.annotate("chance", (0, 100 * chance), **beside, fontsize=7, color="grey")


def network_points(table: pd.DataFrame, chance: float | None = None) -> Figure:
    """Test accuracy of student networks, one colour per training set, bars of one deviation where there are seeds.

    Columns method, network, top1_mean, and top1_std (NaN for one seed), if any.
    """
    table = _readable(table, "method")
    palette, networks = colors_of(table["method"]), list(table["network"].drop_duplicates())
    figure, ax = plt.subplots(figsize=(0.5 * WIDTH + 0.3 * len(networks), 2.6))
    shift = np.linspace(-0.15, 0.15, table["method"].nunique())
    for move, (name, part) in zip(shift, table.groupby("method", sort=False), strict=True):
        places = [networks.index(network) + move for network in part["network"]]
        spread = 100 * part.get("top1_std", pd.Series(0.0, part.index)).fillna(0)
        style = {"label": name, "color": palette[name], "markersize": 5, "capsize": 2}
        ax.errorbar(places, 100 * part["top1_mean"], spread, fmt="o", **style)
    ax.set_xticks(range(len(networks)), networks)
    ax.set(xlabel="student", ylabel="test accuracy (%)", xlim=(-0.5, len(networks) - 0.5))
    _chance_line(ax, chance)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def class_accuracy(table: pd.DataFrame) -> Figure:
    """Accuracy of each class, one mark per training set; columns class, method, accuracy (fractions).

    Above MAX_NAMES classes, names do not fit: then one line per training set, from its worst class up.
    """
    percent = _readable(table, "method").assign(accuracy=100 * table["accuracy"])
    palette, names = colors_of(percent["method"]), percent["class"].nunique()
    if names > MAX_NAMES:
        figure, ax = plt.subplots(figsize=(WIDTH * 0.7, 2.6))
        for method, part in percent.groupby("method", sort=False):
            ax.plot(np.arange(1, names + 1), np.sort(part["accuracy"]), label=method, color=palette[method])
        ax.set(xlabel="classes, each set's worst first", ylabel="test accuracy (%)", ylim=(-2, 102))
        ax.legend()
        return figure
    figure, ax = plt.subplots(figsize=(WIDTH * 0.8, 0.7 + 0.22 * names))
    sets = {"hue": "method", "palette": palette, "dodge": 0.4}
    sns.stripplot(_readable(percent, "class", LONGEST), x="accuracy", y="class", **sets, jitter=False, size=5, ax=ax)
    ax.set(xlabel="test accuracy (%)", ylabel="", xlim=(-2, 102))
    ax.grid(axis="x")
    ax.legend(title="", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def methods_by_ipc(table: pd.DataFrame, chance: float | None = None) -> Figure:
    """Test accuracy over IPC, one line per method; columns method, ipc, top1_mean, top1_std (NaN for one seed)."""
    table = _readable(table, "method")
    figure, ax = plt.subplots(figsize=(WIDTH * 0.75, 3.2))
    shift, palette = np.linspace(-0.04, 0.04, table["method"].nunique()), colors_of(table["method"])
    for move, (name, part) in zip(shift, table.groupby("method", sort=False), strict=True):
        x, spread = part["ipc"] * 10**move, 100 * part["top1_std"].fillna(0)
        style = {"label": name, "color": palette[name], "marker": "o", "markersize": 4, "capsize": 2}
        ax.errorbar(x, 100 * part["top1_mean"], spread, **style)
    _logarithmic(ax, table["ipc"], "images per class (IPC)")
    _chance_line(ax, chance)
    return figure


class Plain(LogFormatter):
    """Ticks as plain numbers: matplotlib's own write formulas, which the style does not read, or 0.75 as 8e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The text of a tick, "" where LogFormatter has none."""
        return f"{x:g}" if super().__call__(x, pos) else ""


def accuracy_by_bytes(table: pd.DataFrame) -> Figure:
    """Test accuracy over the bytes that a set takes per class, one point per row; an image of 256 px counts as many.

    Columns method, ipc, stored_bytes (per class), top1_mean, top1_std (NaN for one seed). A number beside a point is
    its IPC.
    """
    table = _readable(table, "method")
    figure, ax = plt.subplots(figsize=(WIDTH * 0.75, 3.2))
    palette = colors_of(table["method"])
    for name, part in table.groupby("method", sort=False):
        kilobytes, spread = part["stored_bytes"] / 1000, 100 * part["top1_std"].fillna(0)
        style = {"label": name, "color": palette[name], "markersize": 4, "capsize": 2}
        ax.errorbar(kilobytes, 100 * part["top1_mean"], spread, fmt="o", **style)
        for x, y, ipc in zip(kilobytes, 100 * part["top1_mean"], part["ipc"], strict=True):
            ax.annotate(f"{ipc}", (x, y), textcoords="offset points", xytext=(5, -2), fontsize=6, color="grey")
    ax.set(xscale="log", xlabel="stored kB per class (beside a point: its IPC)", ylabel="test accuracy (%)")
    ax.xaxis.set_major_formatter(Plain())
    ax.xaxis.set_minor_formatter(Plain(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


Curves = tuple[pd.DataFrame, str, str]  # rows, the column of the x axis, its label


def accuracy_in_panels(panels: Mapping[str, Curves]) -> Figure:
    """Test accuracy over stored size or epochs: a panel for each title, two in a row, and a line for each set.

    Rows have the columns training_set, top1_mean, top1_std (NaN for one seed) and that of their x axis, which is
    logarithmic with ticks at its values.
    """
    tables = {title: _readable(table, "training_set") for title, (table, _, _) in panels.items()}
    palette = colors_of(pd.concat(tables.values())["training_set"])
    shift = dict(zip(palette, 10 ** np.linspace(-0.03, 0.03, len(palette)), strict=True))
    lines = -(-len(panels) // 2)
    figure, axes = plt.subplots(lines, 2, figsize=(WIDTH, 0.4 + 2.3 * lines), sharey=True, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, (_, x, label)) in zip(axes.flat, panels.items(), strict=False):
        for name, part in tables[title].sort_values(x).groupby("training_set", sort=False):
            style = {"label": name, "color": palette[name], "marker": "o", "markersize": 4, "capsize": 2}
            ax.errorbar(part[x] * shift[name], 100 * part["top1_mean"], 100 * part["top1_std"].fillna(0), **style)
        _logarithmic(ax, tables[title][x], label)
        ax.set(title=title, ylabel="test accuracy (%)" if ax in axes[:, 0] else "")
        ax.get_legend().remove()
    marks = {mark.get_label(): mark for ax in axes.flat for mark in ax.containers}
    axes[0][-1].legend([marks[name] for name in palette], palette, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _readable(table: pd.DataFrame, column: str, longest: int = LONG_BESIDE) -> pd.DataFrame:
    """The table with this column of names as text for figures."""
    return table.assign(**{column: readable(table[column], longest)})


def _logarithmic(ax: Axes, values: pd.Series, xlabel: str) -> None:
    """A logarithmic x axis with ticks at `values`, and the legend at the right."""
    ticks = np.unique(values)
    ax.set(xscale="log", xlabel=xlabel, ylabel="test accuracy (%)")
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def beside_published(table: pd.DataFrame) -> Figure:
    """One panel per IPC, methods down, ours filled, published numbers hollow; table from `published.beside`."""
    table, ipcs = _readable(table, "method", LONG), sorted(table["ipc"].unique())
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


def settings_dots(settings: pd.DataFrame) -> Figure:
    """Test accuracy of every row, the best at the top; columns name, ipc, epochs, top1_mean, top1_std.

    The commonest IPC and number of epochs stand below the axis, others in the names.
    """
    names, common = _short_names(settings)
    table = settings.assign(name=names).sort_values("top1_mean", kind="stable")
    figure, ax = plt.subplots(figsize=(WIDTH, 0.8 + ROW * len(table)))
    _dots(ax, table, "top1_mean", "top1_std")
    ax.set(xlabel=f"test accuracy (%), {common}")
    return figure


def _short_names(table: pd.DataFrame) -> tuple[pd.Series, str]:
    """Names with their IPC and epochs where these are not the commonest, and the commonest ones as a text."""
    names, common = table["name"].copy(), []
    for key, text in (("ipc", "IPC {}"), ("epochs", "{} epochs")):
        usual = table[key].mode().iloc[0]
        names += ["" if value == usual else f", {text.format(value)}" for value in table[key]]
        common.append(text.format(usual))
    unless = "" if names.equals(table["name"]) else " unless named"
    return names, " and ".join(common) + unless


def _dots(ax: Axes, table: pd.DataFrame, value: str, deviation: str) -> None:
    """One row per name, upwards, with bars of one standard deviation."""
    spread = 100 * table[deviation].fillna(0)
    ax.errorbar(100 * table[value], range(len(table)), xerr=spread, fmt="o", capsize=2, markersize=4)
    ax.set_yticks(range(len(table)), readable(table["name"], LONG))
    ax.set_ylim(-0.8, len(table) - 0.2)
    ax.grid(axis="x", linewidth=0.4)
    sns.despine(ax=ax, left=True)


def accuracy_by_epochs(settings: pd.DataFrame) -> Figure:
    """Test accuracy over the epochs of the students' training, one line per name."""
    settings = _readable(settings, "name")
    figure, ax = plt.subplots(figsize=(WIDTH * 0.75, 2.8))
    palette = colors_of(settings["name"])
    for name, part in settings.sort_values("epochs").groupby("name", sort=False):
        style = {"label": name, "color": palette[name], "marker": "o", "markersize": 4, "capsize": 2}
        ax.errorbar(part["epochs"], 100 * part["top1_mean"], 100 * part["top1_std"].fillna(0), **style)
    _logarithmic(ax, settings["epochs"], "epochs")
    sns.despine(figure)
    return figure


PANEL = 0.75  # inches: the height of a panel without its rows


def compensation_dots(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """The accuracy that compensation adds to the same picks, in points; tables from `results.compensation` by title."""
    names, common = _short_names(pd.concat(panels.values(), ignore_index=True))
    lengths = [len(table) for table in panels.values()]
    size = (WIDTH, sum(PANEL + ROW * length for length in lengths))
    figure, axes = plt.subplots(len(panels), 1, figsize=size, sharex=True, squeeze=False, height_ratios=lengths)
    starts = np.cumsum([0, *lengths])
    for ax, start, (title, table) in zip(axes.flat, starts, panels.items(), strict=False):
        table = table.assign(name=names.to_numpy()[start : start + len(table)])
        _dots(ax, table.sort_values("difference", kind="stable"), "difference", "deviation")
        ax.axvline(0, color="0.4", linewidth=0.8)
        ax.set_title(title)
    axes.flat[-1].set_xlabel(f"compensated minus plain, test accuracy (points), {common}")
    return figure


OFFSET = 0.17  # of a row: the marks of the two runs are moved up and down by it
Panel = tuple[str, pd.DataFrame, Callable[[Axes, pd.DataFrame], None]]  # title, rows, function that draws them


def differences(tables: Mapping[str, pd.DataFrame], first: str, second: str) -> Figure:
    """Two runs: one panel each for accuracy, colourfulness, FID, common picks and time, if `tables` has them.

    `tables` are those of `dc3.runs.compare.Comparison`.
    """
    panels = _panels(tables, (first, second))
    columns = min(2, len(panels))
    lengths = [len(table) for _, table, _ in panels]
    heights = [PANEL + ROW * max(lengths[start : start + columns]) for start in range(0, len(panels), columns)]
    size = (WIDTH * (columns + 1) / 3, sum(heights) + 0.3)
    figure, axes = plt.subplots(len(heights), columns, figsize=size, squeeze=False, height_ratios=heights)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, table, draw) in zip(axes.flat, panels, strict=False):
        draw(ax, table)
        ax.set(title=title, ylim=(len(table) - 0.4, -0.6))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", linewidth=0.4)
        ax.set_axisbelow(True)
    marks = axes.flat[len(panels) - 1].containers  # of the last panel, which compares times and has both runs
    figure.legend(marks, readable((first, second)), loc="outside upper center", ncols=2)
    return figure


def _panels(tables: Mapping[str, pd.DataFrame], runs: tuple[str, str]) -> list[Panel]:
    panels: list[Panel] = []
    if "accuracy" in tables:
        named = tables["accuracy"].assign(name=lambda table: table["training set"] + ", " + table["student"])
        panels.append(("Test accuracy", named, partial(_marks, runs, "name", "test accuracy (%)")))
    if "measures" in tables:
        measures = tables["measures"]
        for prefix, title in (("colourfulness M", "Colourfulness"), ("FID", "FID")):
            part = measures[measures["measure"].str.startswith(prefix)]
            if part["difference"].notna().any():
                panels.append((title, part, partial(_marks, runs, "set", part["measure"].iloc[0])))
    if "picks" in tables:
        panels.append(("Picks in common", _fewer(tables["picks"]), _shares))
    return [*panels, ("Time", tables["times"], partial(_marks, runs, "stage", "wall time (s)"))]


def _marks(runs: tuple[str, str], names: str, label: str, ax: Axes, table: pd.DataFrame) -> None:
    """One row per name, one mark per run, bars of one deviation if the table has them."""
    places = np.arange(len(table))
    for run, offset, mark in zip(runs, (-OFFSET, OFFSET), "os", strict=True):
        error = table[f"{run}, ±"].fillna(0) if f"{run}, ±" in table else None
        ax.errorbar(table[run], places + offset, xerr=error, fmt=mark, markersize=4, capsize=2)
    ax.set_yticks(places, readable(table[names], LONG_BESIDE))
    ax.set_xlabel(label)


def _shares(ax: Axes, table: pd.DataFrame) -> None:
    bars = ax.barh(readable(table["class"]), table["Jaccard"], color="C2", height=0.6)
    ax.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
    ax.set(xlabel="in common / picked by either (Jaccard)", xlim=(0, 1.15))


def _fewer(picks: pd.DataFrame) -> pd.DataFrame:
    """At most MAX_NAMES classes, spread evenly from the least to the most in common."""
    if len(picks) <= MAX_NAMES:
        return picks
    ordered = picks.sort_values("Jaccard", kind="stable")
    return ordered.iloc[np.unique(np.linspace(0, len(ordered) - 1, MAX_NAMES).astype(int))]
