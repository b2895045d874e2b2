"""What a sweep came to: its students by setting, and the report of `dc3 sweep` (notebooks/sweep_report.ipynb)."""

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
from traitlets.config import Config

from dc3.machine import paths
from dc3.runs.notebooks import strip_noise
from dc3.runs.report import write_page
from dc3.runs.runner import kernel_channel
from dc3.runs.stage import read_manifest

NOTEBOOK = paths.REPOSITORY / "notebooks" / "sweep_report.ipynb"
MEASURED = ["top1", "top5", "best_top1", "teacher_accuracy", "wall_seconds"]
AXES = ("training_set", "network", "ipc", "epochs", "student_epochs")  # a name does not tell them
NO_SETTING = ["run", "method", "student_seed", "student_seeds", "evaluate_every", "compared", "baselines"]
NO_SETTING += ["cross_networks", *MEASURED]
STATISTICS = ["seeds", "top1_mean", "top1_std", "top5_mean", "best_top1"]
OF_EDITS = ["guidance_scale", "image_guidance_scale", "edit_steps", "edit_strength", "edit_candidates", "blend_mode"]


def read(path: Path | str) -> pd.DataFrame:
    """A sweep's results, .parquet or .csv, as `dc3.runs.sweep.results` gives them. ValueError when it has no rows."""
    path = paths.resolve(str(path))
    table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    if table.empty:
        raise ValueError(f"{path}: no run of the sweep is finished: there is nothing to report")
    return table


def by_setting(results: pd.DataFrame) -> pd.DataFrame:
    """A row a training set and setting: the settings, seeds, mean and standard deviation over them of top1 and top5.

    Settings are the keys of the grid, the student's network and its epochs; `name` is the training set with those of
    its settings that are not the commonest ("DC3, edit_strength 0.5"). Accuracies are fractions after the last epoch;
    `best_top1` is the mean of the best tested epochs; the deviation of one seed is NaN. A student that two runs trained
    counts once. In the results' order.
    """
    keys = [column for column in results if column not in NO_SETTING]
    groups = results.drop_duplicates([*keys, "student_seed"]).groupby(keys, sort=False, dropna=False)
    table = groups.agg(
        seeds=("student_seed", "nunique"),
        top1_mean=("top1", "mean"),
        top1_std=("top1", "std"),
        top5_mean=("top5", "mean"),
        best_top1=("best_top1", "mean"),
    ).reset_index()
    telling = [key for key in keys if key not in AXES and table[key].nunique(dropna=False) > 1]
    usual = {key: table[key].mode(dropna=False).iloc[0] for key in telling}
    named = table["training_set"].copy()
    for key in telling:
        named += [f", {key} {value}" if value != usual[key] else "" for value in table[key]]
    table.insert(0, "name", named)
    return table


def compensation(settings: pd.DataFrame, compensated: str, plain: str) -> pd.DataFrame:
    """What compensation is worth: a row for each of `by_setting` whose picks were trained on without it too.

    `compensated` and `plain` are the two training sets. Columns name, network, ipc, epochs, plain, compensated,
    difference, deviation: fractions; the last is of the difference of two independent means, NaN where one has none.
    """
    same = [key for key in settings if key not in ("name", "training_set", *OF_EDITS, *STATISTICS)]
    scores = ["top1_mean", "top1_std"]
    ours, base = (settings[settings["training_set"] == name] for name in (compensated, plain))
    pairs = ours.merge(base[same + scores], on=same, suffixes=("", "_plain"))
    return pd.DataFrame(
        {
            **{key: pairs[key] for key in ("name", "network", "ipc", "epochs") if key in pairs},
            "plain": pairs["top1_mean_plain"],
            "compensated": pairs["top1_mean"],
            "difference": pairs["top1_mean"] - pairs["top1_mean_plain"],
            "deviation": np.hypot(pairs["top1_std"], pairs["top1_std_plain"]),
        }
    )


def main_network(settings: pd.DataFrame) -> pd.DataFrame:
    """The rows of the student that most settings were trained with."""
    return settings[settings["network"] == settings["network"].mode()[0]]


def across_networks(settings: pd.DataFrame) -> pd.DataFrame | None:
    """Rows of the sets that every network was trained on, `method` their names: None where there is one network."""
    networks = settings["network"].nunique()
    keys = [key for key in ("name", "ipc", "epochs") if key in settings]
    every = settings.groupby(keys, sort=False)["network"].transform("nunique") == networks
    return settings[every].assign(method=settings["name"]) if networks > 1 and every.any() else None


def accuracy(mean: float, deviation: float) -> str:
    """Percent: "50.2 ± 0.6", or "50.2" for one seed."""
    return f"{100 * mean:.1f}" + ("" if np.isnan(deviation) else f" ± {100 * deviation:.1f}")


def accuracy_table(settings: pd.DataFrame) -> pd.DataFrame:
    """A row a name of `by_setting`, a column an IPC and number of epochs, in percent: what a paper would print."""
    columns = [key for key in ("ipc", "epochs") if key in settings]
    shown = settings.assign(accuracy=[accuracy(*row) for row in settings[["top1_mean", "top1_std"]].to_numpy()])
    table = shown.pivot_table(index="name", columns=columns, values="accuracy", aggfunc=", ".join, sort=False)
    table = table.sort_index(axis="columns").fillna("")
    words = {"ipc": "IPC {}", "epochs": "{} epochs"}
    values = [value if isinstance(value, tuple) else (value,) for value in table.columns]
    named = [", ".join(words[key].format(one) for key, one in zip(columns, value, strict=True)) for value in values]
    return table.set_axis(named, axis="columns")


def over(settings: pd.DataFrame, key: str) -> pd.DataFrame | None:
    """The rows that lie on curves over `key`, "ipc" or "epochs", at the value of the other that has the longest ones.

    A name with a single value of `key` there is no curve. None when there are no curves.
    """
    other = {"ipc": "epochs", "epochs": "ipc"}[key]
    if key not in settings:
        return None
    if other in settings:
        settings = settings[settings[other] == settings.groupby(other)[key].nunique().idxmax()]
    on_curves = settings[settings.groupby("name")[key].transform("nunique") > 1]
    return on_curves if len(on_curves) else None


def write_report(results: Path) -> Path | None:
    """Executes the report's notebook over a sweep's results.parquet; returns the path of the page (HTML, in one file).

    Notebook and page lie beside the results, pictures and tables in figures/<sweep>. None when no run is finished.
    """
    table = pd.read_parquet(results)
    if table.empty:
        return None
    executed = results.with_name("report.ipynb")
    partial = executed.with_suffix(".partial.ipynb")
    values = {"sweep": results.parent.stem, "results": str(results), "published_as": _published_as(table)}
    with kernel_channel() as channel:
        config = Config({"KernelManager": channel})
        papermill.execute_notebook(
            str(NOTEBOOK), str(partial), values, kernel_name="python3", cwd=str(NOTEBOOK.parent), config=config
        )
    strip_noise(partial, executed)
    partial.unlink()
    page = executed.with_suffix(".html")
    write_page(nbformat.read(executed, 4), page, f"DC3: sweep {values['sweep']}")
    return page


def _published_as(table: pd.DataFrame) -> str:
    """The name in the literature of the image set of the first run, as its 05_validation was told."""
    manifest = read_manifest(table["run"].iloc[0], "05_validation")
    return (manifest or {"params": {}})["params"].get("published_as", "")
