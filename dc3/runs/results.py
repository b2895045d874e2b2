"""What a run came to, read from its folder: parameters, stages, accuracies and the tables beside its figures.

Nothing here opens the image set or a model, so that a run can be looked at where neither is.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dc3.machine import paths
from dc3.runs.parameters import all_declared, notebook_names
from dc3.runs.stage import read_json, read_manifest

VALIDATION = "05_validation"
ONE_RUN_ALONE = ("run",)  # parameters that say nothing of what was computed
POSIX_PATH = re.compile(r"(?<![\w.:/<~-])(?:/[\w.@+%~-]+){2,}/?")
WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\[^\s'\"<>|]+")
Manifests = dict[str, dict[str, Any]]


def manifests(run: str) -> Manifests:
    """Stage name → manifest of the stages that are finished, in order.

    Raises ValueError when there is no such run, or none of its stages is finished; it names the runs there are.
    """
    found = {name: manifest for name in notebook_names() if (manifest := read_manifest(run, name))}
    if not found:
        state = "no stage of it is finished" if (paths.RUNS / run).is_dir() else "there is no such run"
        others = ", ".join(_runs()) or "none"
        raise ValueError(f"RUN = {run!r}: {state} below {paths.shown(paths.RUNS)}; runs with finished stages: {others}")
    return found


def _runs() -> list[str]:
    return sorted({path.parent.parent.name for path in paths.RUNS.glob("*/[0-9][0-9]_*/manifest.json")})


def missing(found: Manifests) -> list[str]:
    """The stages that are not finished."""
    return [name for name in notebook_names() if name not in found]


def parameters(found: Manifests) -> dict[str, Any]:
    """The values of all finished stages; of a parameter that several declare, the latest stage's."""
    return {
        key: value
        for manifest in found.values()
        for key, value in manifest["params"].items()
        if key not in ONE_RUN_ALONE
    }


def not_default(found: Manifests) -> pd.DataFrame:
    """Parameters that differ from the notebooks' defaults: columns parameter, value, default, help."""
    declared = all_declared()
    rows = [
        {"parameter": key, "value": shown(value), "default": shown(declared[key].default), "help": declared[key].help}
        for key, value in parameters(found).items()
        if key in declared and value != declared[key].default
    ]
    return pd.DataFrame(rows, columns=["parameter", "value", "default", "help"])


def stages(found: Manifests) -> pd.DataFrame:
    """A row a stage, finished or not: columns stage, state, seconds (NaN: not finished), device, finished, commit."""
    rows = []
    for name in notebook_names():
        manifest = found.get(name)
        row = {"stage": name, "state": "finished" if manifest else "not finished", "seconds": float("nan")}
        if manifest:
            row |= {"seconds": manifest["wall_seconds"], "device": manifest["facts"].get("device", "")}
            row |= {"finished": manifest["finished"], "commit": manifest["git_commit"] or ""}
        rows.append(row)
    columns = ["stage", "state", "seconds", "device", "finished", "commit"]
    return pd.DataFrame(rows, columns=columns).fillna({"device": "", "finished": "", "commit": ""})


def versions(found: Manifests) -> dict[str, str]:
    """Library → version; several, in the order of the stages, where stages ran with different ones."""
    seen: dict[str, dict[str, None]] = {}
    for manifest in found.values():
        for name, version in manifest["versions"].items():
            seen.setdefault(name, {})[version] = None
    return {name: ", ".join(all_of) for name, all_of in seen.items()}


def settings(run: str) -> dict[str, Any]:
    """What 00_teacher settled: seed, load (arguments of `data.load`), classes, fingerprints; {} before it is done."""
    return read_json(paths.RUNS / run / "00_teacher" / "settings.json") or {}


def accuracies(run: str, found: Manifests) -> pd.DataFrame | None:
    """A row a training set and student: method, network, seeds, top1_mean, top1_std, best_top1_mean, fractions.

    Students of other networks (`cross_networks`) are of one seed. None when 05_validation is not finished.
    """
    from dc3.validation import summary  # brings torch

    if VALIDATION not in found:
        return None
    table = summary(pd.read_parquet(paths.RUNS / run / VALIDATION / "history.parquet"))
    others = figure_table(run, found, VALIDATION, "validation_networks")
    if others is not None:
        table = pd.concat([table, others[~others["network"].isin(table["network"])].assign(seeds=1)])
    return table.reset_index(drop=True)


def figure_table(run: str, found: Manifests, stage: str, name: str) -> pd.DataFrame | None:
    """A table that a finished stage wrote beside its figures; None when it did not, or it is gone."""
    path = paths.FIGURES / run / f"{name}.csv"
    written = found.get(stage, {}).get("figures", {})
    return pd.read_csv(path) if path.name in written and path.is_file() else None


def shown(value: Any) -> str:
    """A parameter's value for people, without the folders of this machine."""
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    return without_machine_paths(str(value)) or '""'


def without_machine_paths(text: str) -> str:
    """Absolute paths cut to their last part: "/data/images/pets" becomes "…/pets"."""
    text = POSIX_PATH.sub(lambda path: "…/" + path[0].rstrip("/").rsplit("/", 1)[1], text)
    return WINDOWS_PATH.sub(lambda path: "…/" + path[0].rstrip("\\").rsplit("\\", 1)[1], text)


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
