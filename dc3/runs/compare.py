"""Two runs side by side: tables of their parameters and results, shown by compare.ipynb."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dc3.machine import paths
from dc3.runs import results
from dc3.runs.manifests import TEACHER_FILE, written
from dc3.runs.results import Manifests

NOTEBOOK = Path(__file__).with_name("compare.ipynb")
PICK_STAGE, COLOR_STAGE = "03_sampling", "06_color_and_fid"
COLORS, DISTANCES = "colors.parquet", "distances.parquet"
SAME_IMAGES = {"train": "their picks cannot be compared", "test": "their accuracies and distances cannot be compared"}
NOT_A_MEASURE = r"^(?:set|images|read)$|, (?:low|high)$|±$"  # columns of 06's tables
BY_A_NETWORK = r"^(?:FID|KID|IS)-|^(?:precision|recall|density|coverage|class named)$"


@dataclass
class Comparison:
    """The tables of two runs by name, where both have the stage; `remarks` say what is missing.

    `parameters`: parameter, one column per run; `accuracy`: training set, student, per run the mean and deviation in
    percent, images and stored bytes per class, then the difference (second − first) and its standard error;
    `measures`: set, measure, one column per run, difference; `picks`: class, number of picks per run, in common,
    Jaccard (0 to 1); `times`: stage, seconds per run, difference.
    """

    first: str
    second: str
    tables: dict[str, pd.DataFrame]
    remarks: list[str]

    @property
    def folder(self) -> Path:
        """Where tables, figure and page go."""
        return paths.FIGURES / f"compare~{self.first}~{self.second}"  # no run's name has a ~


def compare(first: str, second: str) -> Comparison:
    """Compares two runs. ValueError when one is missing, a file is not what its stage wrote, or both are the same."""
    if first == second:
        raise ValueError(f"RUN_A = RUN_B = {first!r}: give two different runs")
    runs = {first: results.manifests(first), second: results.manifests(second)}
    settings = [results.settings(run) for run in runs]
    prints = {split: {of_run.get("fingerprints", {}).get(split) for of_run in settings} for split in SAME_IMAGES}
    different = [split for split, found in prints.items() if len(found) > 1 or None in found]
    tables = {
        "parameters": _parameters(runs),
        "accuracy": _accuracy(runs),
        "measures": _measures(runs),
        "picks": _picks(runs, settings[0]["classes"]) if "train" not in different else None,
        "times": _times(runs),
    }
    present = {name: table for name, table in tables.items() if table is not None}
    return Comparison(first, second, present, list(_remarks(runs, different, "measures" in present)))


def _remarks(runs: dict[str, Manifests], different: list[str], measured: bool) -> Iterator[str]:
    for run, found in runs.items():
        if missing := results.missing(found):
            yield f"{run} has no finished {', '.join(missing)}"
        if COLOR_STAGE in found and not _has_measures(found):
            yield f"{run} has no {COLORS} (an earlier version): run 06 again to compare colours and distances"
    for split in different:
        yield f"the two runs have different {split} images: {SAME_IMAGES[split]}"
    if measured and not _same_network(runs):
        yield "FID, KID and the like use different networks in the two runs: they cannot be compared"


def _parameters(runs: dict[str, Manifests]) -> pd.DataFrame:
    """Differing parameters of the stages that both have finished; versions of a notebook may declare others."""
    one, other = runs.values()
    both = [name for name in one if name in other]
    values = {run: results.parameters({name: found[name] for name in both}) for run, found in runs.items()}
    first, second = values.values()
    keys = [key for key in first | second if first.get(key) != second.get(key)]
    table = {run: [results.shown(own.get(key, "not declared")) for key in keys] for run, own in values.items()}
    return pd.DataFrame({"parameter": keys} | table)


def _times(runs: dict[str, Manifests]) -> pd.DataFrame:
    """Seconds of the stages that at least one run has finished."""
    tables = {run: results.stages(found).set_index("stage")["seconds"] for run, found in runs.items()}
    return _with_difference(pd.DataFrame(tables).dropna(how="all")).reset_index()


def _with_difference(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(difference=table.iloc[:, 1] - table.iloc[:, 0])


def _accuracy(runs: dict[str, Manifests]) -> pd.DataFrame | None:
    students = [results.of_run(run) for run in runs]
    if any(table is None for table in students):
        return None
    summaries = [results.summary(results.whole_sets(table)) for table in students]
    one, other = (table.set_index(["method", "network"]) for table in _with_own_sets(*summaries))
    rows = one.index.append(other.index).drop_duplicates().set_names(["training set", "student"])
    sides = dict(zip(runs, (one.reindex(rows), other.reindex(rows)), strict=True))
    columns: dict[str, pd.Series] = {}
    for run, side in sides.items():
        columns |= {run: 100 * side["top1_mean"], f"{run}, ±": 100 * side["top1_std"]}
        columns |= {f"{run}, images per class": side["ipc"], f"{run}, bytes per class": side["stored_bytes"]}
    one, other = sides.values()
    columns["difference"] = 100 * (other["top1_mean"] - one["top1_mean"])
    error = np.sqrt(one["top1_std"] ** 2 / one["seeds"] + other["top1_std"] ** 2 / other["seeds"])
    return pd.DataFrame(columns | {"difference, s.e.": 100 * error}).reset_index()


def _with_own_sets(one: pd.DataFrame, other: pd.DataFrame) -> list[pd.DataFrame]:
    """When the runs condensed by different methods, adds rows that compare their own sets, which come first."""
    own = [table["method"].iloc[0] for table in (one, other)]
    if own[0] == own[1]:
        return [one, other]
    first, second = (table[table["method"] == name] for table, name in zip((one, other), own, strict=True))
    name, networks = f"own set ({own[0]} | {own[1]})", set(first["network"]) & set(second["network"])
    own_sets = (side[side["network"].isin(networks)].assign(method=name) for side in (first, second))
    return [pd.concat(pair) for pair in zip(own_sets, (one, other), strict=True)]


def _measures(runs: dict[str, Manifests]) -> pd.DataFrame | None:
    """Colour and distances by set and measure; without differences between different networks' distances."""
    if not all(_has_measures(found) for found in runs.values()):
        return None
    sides = {run: pd.concat([_long(run, name) for name in (COLORS, DISTANCES)]) for run in runs}
    table = _with_difference(pd.concat(sides, axis="columns").rename_axis(["set", "measure"]))
    if not _same_network(runs):
        by_network = table.index.get_level_values("measure").str.contains(BY_A_NETWORK)
        table.loc[by_network, "difference"] = np.nan
    return table.reset_index()


def _has_measures(found: Manifests) -> bool:
    outputs = found.get(COLOR_STAGE, {"outputs": {}})["outputs"]
    return {COLORS, DISTANCES} <= outputs.keys()


def _long(run: str, name: str) -> pd.Series:
    table = pd.read_parquet(written(run, f"{COLOR_STAGE}/{name}")).set_index("set")
    return table.loc[:, ~table.columns.str.contains(NOT_A_MEASURE)].stack()


def _same_network(runs: dict[str, Manifests]) -> bool:
    """Whether 06 used the same network in both runs; for a run's teacher, the same weights."""
    networks = set()
    for found in runs.values():
        stage = found[COLOR_STAGE]
        network, weights = stage["params"]["feature_network"], stage["params"]["feature_weights"]
        teacher = stage["inputs"].get(TEACHER_FILE) if network == "teacher" else ""
        networks.add((network, weights, teacher))
    return len(networks) == 1


def _picks(runs: dict[str, Manifests], classes: list[str]) -> pd.DataFrame | None:
    """How many source images the two runs share in each class."""
    if any(PICK_STAGE not in found for found in runs.values()):
        return None
    one, other = (_picked(run, found) for run, found in runs.items())
    rows = []
    for label, name in enumerate(classes):
        first, second = one.get(label, set()), other.get(label, set())
        common = len(first & second)
        rows.append((name, len(first), len(second), common, common / max(len(first | second), 1)))
    return pd.DataFrame(rows, columns=["class", *runs, "in common", "Jaccard"])


def _picked(run: str, found: Manifests) -> dict[int, set[int]]:
    """The source indices of the condensed images, by label."""
    from dc3.strategies import METHODS  # brings torch

    method = results.parameters(found).get("method", "dc3")
    picks = pd.read_parquet(written(run, f"{PICK_STAGE}/{METHODS[method].picks_file}"))
    return {int(label): set(part["index"]) for label, part in picks.groupby("label")}


def write(compared: Comparison) -> Path:
    """Executes compare.ipynb for the two runs; returns the folder with tables, figure and page."""
    from dc3.runs.report import write_executed

    runs = {"run_a": compared.first, "run_b": compared.second}
    title = f"DC3: {compared.first} and {compared.second}"
    for earlier in compared.folder.glob("compare_*"):  # of tables that there may be no longer
        earlier.unlink()
    write_executed(NOTEBOOK, runs, compared.folder / "compare.ipynb", title)
    return compared.folder
