"""Results of runs, read from their folders: parameters, stages, students, and tables over a sweep's runs.

Nothing here opens an image set or a model, so any machine can read a run.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd

from dc3.machine import paths
from dc3.machine.markup import literal
from dc3.runs.manifests import TEACHER, VALIDATION, read_manifest, read_settings, written
from dc3.runs.parameters import all_declared, notebook_names

RESULTS = "results.parquet"
POSIX_PATH = re.compile(r"(?<![\w.:/<~…-])(?:/[\w.@+%~-]+){2,}/?")
WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\[^\s'\"<>|]+")
Manifests = dict[str, dict[str, Any]]


def manifests(run: str) -> Manifests:
    """Stage name → manifest of the finished stages, in order.

    ValueError for an unknown run, or one without finished stages; it names the runs that have some.
    """
    found = {name: manifest for name in notebook_names() if (manifest := read_manifest(run, name))}
    if not found:
        state = "no finished stage" if (paths.RUNS / run).is_dir() else "no such run"
        runs = sorted({path.parent.parent.name for path in paths.RUNS.glob("*/[0-9][0-9]_*/manifest.json")})
        others = ", ".join(runs) or "none"
        raise ValueError(f"RUN = {run!r}: {state} in {paths.shown(paths.RUNS)}; runs with finished stages: {others}")
    return found


def missing(found: Manifests) -> list[str]:
    """The stages that are not finished."""
    return [name for name in notebook_names() if name not in found]


def parameters(found: Manifests) -> dict[str, Any]:
    """The parameters of all finished stages without the run's name; the latest stage's value counts."""
    values = {key: value for manifest in found.values() for key, value in manifest["params"].items()}
    return {key: value for key, value in values.items() if key != "run"}


def not_default(found: Manifests) -> pd.DataFrame:
    """Parameters that differ from the notebooks' defaults: columns parameter, value, default, help."""
    declared = all_declared()
    rows = [
        (key, shown(value), shown(declared[key].default), declared[key].help)
        for key, value in parameters(found).items()
        if key in declared and value != declared[key].default
    ]
    return pd.DataFrame(rows, columns=["parameter", "value", "default", "help"])


def stages(found: Manifests) -> pd.DataFrame:
    """One row per stage: columns stage, state, seconds (NaN: not finished), device, finished, commit."""
    columns = ["stage", "state", "seconds", "device", "finished", "commit"]
    rows = {name: (name, "not finished", np.nan, "", "", "") for name in notebook_names()}
    for name, manifest in found.items():
        device, commit = manifest["facts"].get("device", ""), manifest["git_commit"] or ""
        rows[name] = (name, "finished", manifest["wall_seconds"], device, manifest["finished"], commit)
    return pd.DataFrame(rows.values(), columns=columns)


def versions(found: Manifests) -> dict[str, str]:
    """Library → version, or versions in the order of the stages."""
    seen: dict[str, dict[str, None]] = {}
    for manifest in found.values():
        for name, version in manifest["versions"].items():
            seen.setdefault(name, {})[version] = None
    return {name: ", ".join(found_versions) for name, found_versions in seen.items()}


def settings(run: str) -> dict[str, Any]:
    """00_teacher's settings: seed, image_size, load (arguments of `datasets.load`), classes …; {} before it is done.

    NotAsWritten (a ValueError) when the file is not what 00_teacher wrote.
    """
    if read_manifest(run, TEACHER) is None:
        return {}
    return read_settings(written(run, f"{TEACHER}/settings.json")) or {}


def shown(value: Any) -> str:
    """A parameter's value for people, without the folders of this machine."""
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    return without_folders(str(value)) or '""'


def without_folders(value: str) -> str:
    """A value that is one absolute path, with any characters, cut to its last part; else `without_machine_paths`."""
    path = PureWindowsPath(value) if WINDOWS_PATH.match(value) else PurePosixPath(value)
    return f"…/{path.name}" if path.is_absolute() and path.name else without_machine_paths(value)


def without_machine_paths(text: str) -> str:
    """Absolute paths cut to their last part: "/data/images/pets" becomes "…/pets"."""
    text = POSIX_PATH.sub(lambda path: "…/" + path[0].rstrip("/").rsplit("/", 1)[1], text)
    return WINDOWS_PATH.sub(lambda path: "…/" + path[0].rstrip("\\").rsplit("\\", 1)[1], text)


SCORES = ["top1", "top5", "best_top1"]
VIEW = ["entropy", "recognised", "agreement"]  # of `validation.teachers_view`
Sizes = Mapping[str, tuple[int, float, float]]  # method → `condensed.Size`: images, pixels and bytes per class


def students(history: pd.DataFrame, sizes: Sizes) -> pd.DataFrame:
    """One row per student, from `validation.validate`'s row per epoch; `sizes` by `condensed.sizes`.

    Columns method, ipc, stored_bytes (per class; of what is stored), network, seed, epochs, top1 and top5 after the
    last epoch, best_top1 over the tested epochs; accuracies are fractions.
    """
    tested = history.dropna(subset="top1").sort_values("epoch", kind="stable")
    groups = tested.groupby(["method", "network", "seed"], sort=False)
    table = groups[["epoch", "top1", "top5"]].last().assign(best_top1=groups["top1"].max())
    table = table.rename(columns={"epoch": "epochs"}).reset_index()
    ipc, _, stored = zip(*(sizes[name] for name in table["method"]), strict=True)
    table.insert(1, "ipc", ipc)
    table.insert(2, "stored_bytes", stored)
    return table


def of_run(run: str) -> pd.DataFrame | None:
    """A run's `students`, in the order of training; None when 05_validation is not finished.

    NotAsWritten (a ValueError) for a file that 05_validation did not write so.
    A run of an earlier version has histories instead of results.parquet, without the students of smaller_ipcs and
    without stored bytes (NaN).
    """
    manifest = read_manifest(run, VALIDATION)
    if manifest is None:
        return None
    if RESULTS in manifest["outputs"]:
        return pd.read_parquet(written(run, f"{VALIDATION}/{RESULTS}"))
    histories = [name for name in ("history.parquet", "networks.parquet") if name in manifest["outputs"]]
    files = [written(run, f"{VALIDATION}/{name}") for name in histories]
    history = pd.concat(map(pd.read_parquet, files)).drop_duplicates(["method", "network", "seed", "epoch"])
    ipc = (read_manifest(run, "03_sampling") or {"params": {}})["params"].get("ipc", np.nan)
    return students(history, dict.fromkeys(history["method"], (ipc, np.nan, np.nan)))


def whole_sets(results: pd.DataFrame) -> pd.DataFrame:
    """The students of whole training sets, without those of smaller_ipcs."""
    return results[~(results["ipc"] < results.groupby("method")["ipc"].transform("max"))]


def summary(results: pd.DataFrame, by: Sequence[str] = ("method", "ipc", "network")) -> pd.DataFrame:
    """One row per group of `by`, in the table's order: number of seeds, stored bytes, and the scores over the seeds.

    Columns seeds, stored_bytes, and for top1, top5 and best_top1 <score>_mean and <score>_std, the sample standard
    deviation (NaN for one seed).
    """
    groups = results.groupby(list(by), sort=False, dropna=False)
    table = groups[SCORES].agg(["mean", "std"])
    table.columns = ["_".join(pair) for pair in table.columns]
    table.insert(0, "seeds", groups.size())
    table.insert(1, "stored_bytes", groups["stored_bytes"].mean())
    return table.reset_index()


def accuracy(mean: float, deviation: float) -> str:
    """Percent: "50.2 ± 0.6", or "50.2" for one seed."""
    return f"{100 * mean:.1f}" + ("" if np.isnan(deviation) else f" ± {100 * deviation:.1f}")


def in_words(table: pd.DataFrame) -> str:
    """Each set of a `summary` against each one below it, of the same size and network, as a list in Markdown.

    Differences are in points. One within its deviation, that of a difference of independent means, is called none;
    single students have no deviation.
    """
    lines = []
    for (ipc, _), group in table.groupby(["ipc", "network"], sort=False):
        for one, other in itertools.combinations(group.to_dict("records"), 2):
            points = 100 * (one["top1_mean"] - other["top1_mean"])
            deviation = 100 * np.hypot(one["top1_std"], other["top1_std"])
            size = "single students" if np.isnan(deviation) else f"± {deviation:.1f}"
            none = ", so no difference" if abs(points) <= deviation else ""
            pair = f"{literal(one['method'])} against {literal(other['method'])}"
            lines.append(f"- {pair}, IPC {ipc}: {points:+.1f} points ({size}){none}")
    return "\n".join(lines)


AXES = ("training_set", "network", "ipc", "epochs", "student_epochs")  # not part of a setting's name
NO_SETTING = ["run", "method", "seed", "student_seed", "student_seeds", "evaluate_every", "compared", "baselines"]
NO_SETTING += ["cross_networks", "stored_bytes", "teacher_accuracy", "wall_seconds", *SCORES, *VIEW]
EDIT_PARAMETERS = [
    *("guidance_scale", "image_guidance_scale", "edit_steps", "edit_strength", "blend_mode"),
    *("sampler", "guidance_from", "guidance_until", "edit_by", "coloring", "gap_margin"),
    *("edit_size", "edit_batch_size"),
    "edit_candidates",  # of earlier versions, whose results are still read
]


def read_results(path: Path | str) -> pd.DataFrame:
    """A sweep's results, .parquet or .csv, with the columns of `sweep.results`. ValueError when there are no rows."""
    path = paths.resolve(str(path))
    table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    if table.empty:
        raise ValueError(f"results = {path}: no run of the sweep is finished; finish one first")
    return table


def by_setting(results: pd.DataFrame) -> pd.DataFrame:
    """One row per training set and setting of a sweep, with the `summary` of its students.

    Settings are the grid's keys, the student's network and its epochs; `name` is the training set with its unusual
    settings ("DC3, edit_strength 0.5"). A student that two runs trained counts once. Runs with other seeds, the key
    `seed`, are other draws of one setting: the deviation holds draws and students.
    """
    keys = [column for column in results if column not in NO_SETTING]
    known = {"stored_bytes": np.nan} if "stored_bytes" not in results else {}  # a sweep of an earlier version
    draws = [column for column in ("seed", "student_seed") if column in results]
    table = summary(results.assign(**known).drop_duplicates([*keys, *draws]), keys)
    names = table["training_set"].copy()
    for key in keys:
        if key not in AXES and table[key].nunique(dropna=False) > 1:
            usual = table[key].mode(dropna=False).iloc[0]
            names += [f", {key} {value}" if value != usual else "" for value in table[key]]
    table.insert(0, "name", names)
    return table


def compensation(settings: pd.DataFrame, compensated: str, plain: str) -> pd.DataFrame:
    """The gain from compensation: one row per setting of `by_setting` that has both training sets.

    `compensated` and `plain` name the two sets. Columns name, network, ipc, epochs, plain, compensated, difference,
    deviation: fractions; the last is that of a difference of independent means, NaN when either is missing.
    """
    measured = settings.columns[settings.columns.get_loc("seeds") :]
    same = settings.columns.difference(["name", "training_set", *EDIT_PARAMETERS, *measured], sort=False).to_list()
    edited, base = (settings[settings["training_set"] == name] for name in (compensated, plain))
    pairs = edited.merge(base[[*same, "top1_mean", "top1_std"]], on=same, suffixes=("", "_plain"))
    table = pairs[["name", "network", "ipc", "epochs"]].assign(plain=pairs["top1_mean_plain"])
    table["compensated"] = pairs["top1_mean"]
    table["difference"] = pairs["top1_mean"] - pairs["top1_mean_plain"]
    return table.assign(deviation=np.hypot(pairs["top1_std"], pairs["top1_std_plain"]))


def main_network(settings: pd.DataFrame) -> pd.DataFrame:
    """The rows of the network that trained on most settings."""
    return settings[settings["network"] == settings["network"].mode()[0]]


def across_networks(settings: pd.DataFrame) -> pd.DataFrame | None:
    """Rows of the sets that every network trained on, with `method` as their name; None with a single network."""
    networks = settings["network"].nunique()
    every = settings.groupby(["name", "ipc", "epochs"], sort=False)["network"].transform("nunique") == networks
    return settings[every].assign(method=settings["name"]) if networks > 1 and every.any() else None


def accuracy_table(settings: pd.DataFrame) -> pd.DataFrame:
    """The table of a paper, in percent: one row per name of `by_setting`, one column per IPC and number of epochs."""
    texts = settings.assign(accuracy=list(map(accuracy, settings["top1_mean"], settings["top1_std"])))
    table = texts.pivot_table(index="name", columns=["ipc", "epochs"], values="accuracy", aggfunc=", ".join, sort=False)
    table = table.sort_index(axis="columns").fillna("")
    return table.set_axis([f"IPC {ipc}, {epochs} epochs" for ipc, epochs in table.columns], axis="columns")


def curves_over(settings: pd.DataFrame, key: str) -> pd.DataFrame | None:
    """The rows for curves over `key`, "ipc" or "epochs", at the value of the other that has most points.

    A name needs two values of `key` to be a curve. None when there are no curves.
    """
    other = {"ipc": "epochs", "epochs": "ipc"}[key]
    settings = settings[settings[other] == settings.groupby(other)[key].nunique().idxmax()]
    on_curves = settings[settings.groupby("name")[key].transform("nunique") > 1]
    return on_curves if len(on_curves) else None
