"""What a run came to, read from its folder: parameters, stages, accuracies and the tables beside its figures.

Nothing here opens the image set or a model, so that a run can be looked at where neither is.
"""

import re
from typing import Any

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
