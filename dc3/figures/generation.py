"""Figures of generators: their losses, samples and scores."""

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dc3.figures.images import GAP, MAX_CLASSES, WIDTH, set_headings, show_rows
from dc3.figures.names import readable
from dc3.figures.style import colors_of

SMOOTHED = 0.05  # of the steps: window of the running mean of a loss curve
LEAST_SMOOTHED = 10  # steps in that window, or a quarter of fewer steps: the loss of one batch is mostly noise
BETTER = {"FID": "lower is better", "KID": "lower is better", "IS": "higher is better"}  # by the score's first word


def loss_curves(history: pd.DataFrame) -> Figure:
    """Training loss over steps, one panel per generator, one line per set, seeds as a band; table: `loss_history`."""
    history, generators = history.assign(set=readable(history["set"])), history["generator"].drop_duplicates()
    figure, axes = plt.subplots(1, len(generators), figsize=(WIDTH, 2.6), squeeze=False)
    for ax, generator in zip(axes[0], generators, strict=True):
        part = history[history["generator"] == generator].copy()
        steps = part["step"].max()
        window = max(1, min(LEAST_SMOOTHED, steps // 4), round(SMOOTHED * steps))
        smooth = part.groupby(["set", "seed"])["loss"].rolling(window).mean()
        part["loss"] = smooth.droplevel(["set", "seed"])
        part = part.dropna(subset=["loss"])
        sets = {"hue": "set", "style": "set", "palette": colors_of(part["set"])}
        one = part["step"].nunique() == 1  # a line through one step would not be seen
        sns.lineplot(part, x="step", y="loss", **sets, markers=one, errorbar=("pi", 100), ax=ax)
        ax.set(title=f"{generator}, running mean of {window} steps", xlabel="training step", ylabel="denoising loss")
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_above(figure, axes[0])
    sns.despine(figure)
    return figure


def sample_rows(
    sets: Mapping[str, tuple[np.ndarray, np.ndarray]], classes: Sequence[str], per_class: int = 2, title: str = ""
) -> Figure:
    """{name: (images uint8 (n, S, S, 3), labels)}: `per_class` rows of each set, one column per class."""
    shown = range(min(len(classes), MAX_CLASSES))
    rows, names = [], []
    for name, (images, labels) in sets.items():
        of_class = [np.flatnonzero(labels == label)[:per_class] for label in shown]
        for k in range(min(len(found) for found in of_class)):
            rows.append(np.stack([images[found[k]] for found in of_class]))
            names.append(name if k == 0 else "")
    figure, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.8 * WIDTH * len(rows) / len(shown) * 0.9))
    show_rows(ax, rows, names)
    set_headings(figure, [classes[label] for label in shown], rows[0].shape[2] + GAP)
    ax.set_title(title)
    return figure


def score_points(table: pd.DataFrame, scores: Sequence[str]) -> Figure:
    """One panel per score, sets down, one mark per generator, with a bar of one deviation over seeds if there are some.

    Columns generator, set and the scores.
    """
    table = table.assign(set=readable(table["set"]))
    figure, axes = plt.subplots(
        1, len(scores), figsize=(WIDTH, 1.4 + 0.3 * table["set"].nunique()), sharey=True, squeeze=False
    )
    dodge = 0.4 if table["generator"].nunique() > 1 else False
    marks = {"hue": "generator", "dodge": dodge, "linestyle": "none", "markersize": 4, "errorbar": "sd", "capsize": 0.1}
    for ax, score in zip(axes[0], scores, strict=True):
        sns.pointplot(table, x=score, y="set", **marks, err_kws={"linewidth": 1}, ax=ax, legend=ax is axes[0][0])
        better = BETTER.get(re.split(r"\W", score)[0], "")
        ax.set(xlabel=f"{score}\n({better})" if better else score, ylabel="")
        ax.grid(axis="x", alpha=0.4)
    _legend_above(figure, axes[0])
    sns.despine(figure)
    return figure


def _legend_above(figure: Figure, axes: Sequence[Axes]) -> None:
    """The legend of the first panel, above the figure, for all panels."""
    handles, names = axes[0].get_legend_handles_labels()
    for ax in axes:
        if legend := ax.get_legend():
            legend.remove()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
