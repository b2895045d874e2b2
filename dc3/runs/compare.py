"""Two runs side by side: what was set differently, and what came of it (`dc3 compare`)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dc3.figures.style import save, save_table
from dc3.machine import paths
from dc3.runs import results
from dc3.runs.results import Manifests

COLORS, DISTANCES, SAMPLING = "color_and_fid_colors", "color_and_fid_distances", "03_sampling"
COLOR_STAGE = "06_color_and_fid"
BY_SPLIT = {"train": "their picks cannot be compared", "test": "their accuracies and distances are of different tests"}
NOT_MEASURED = r"^(?:set|images|read)$|, (?:low|high)$|±$"  # columns of 06's tables that are no measures
BY_A_NETWORK = r"^(?:FID|KID|IS)-|^(?:precision|recall|density|coverage|class named)$"


@dataclass
class Comparison:
    """Tables of two runs, None or empty where a run lacks the stage; `remarks` say so, and what does not compare.

    `parameters`: parameter, and a column a run; `accuracy`: training set, student, in percent mean and deviation of
    either run, difference (second less first) and its standard error; `measures`: set, measure, either run, difference;
    `picks`: class, picks of either run, in common, Jaccard (0 to 1); `times`: stage, seconds of either run.
    """

    first: str
    second: str
    parameters: pd.DataFrame
    times: pd.DataFrame
    accuracy: pd.DataFrame | None = None
    measures: pd.DataFrame | None = None
    picks: pd.DataFrame | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Those that there are, in the order in which they are told."""
        names = ("parameters", "accuracy", "measures", "picks", "times")
        return {name: table for name in names if (table := getattr(self, name)) is not None}


def compare(first: str, second: str) -> Comparison:
    """Lays two runs side by side. ValueError when one is not there, or both are the same."""
    if first == second:
        raise ValueError(f"RUN_A = RUN_B = {first!r}: give two different runs")
    runs = {first: results.manifests(first), second: results.manifests(second)}
    compared = Comparison(first, second, _parameters(runs), _times(runs))
    for run, found in runs.items():
        if lacking := results.missing(found):
            compared.remarks.append(f"{run} has no finished {', '.join(lacking)}")
    settings = [results.settings(run) for run in runs]
    same = {split: _same(settings, split) for split in BY_SPLIT}
    compared.remarks += [
        f"the {split} images of the two runs are not the same: {what}"
        for split, what in BY_SPLIT.items()
        if not same[split]
    ]
    compared.accuracy = _accuracy(runs)
    compared.measures = _measures(runs, compared.remarks)
    if same["train"]:
        compared.picks = _picks(runs, settings[0]["classes"])
    return compared


def write(compared: Comparison) -> Path:
    """Writes tables (.csv, .md) and the figure (.png, .pdf) to figures/compare-A-B/; returns that folder."""
    from dc3.figures.accuracy import differences

    folder = paths.FIGURES / f"compare-{compared.first}-{compared.second}"
    for name, table in compared.tables.items():
        save_table(table, folder / f"compare_{name}")
    save(differences(compared.tables, compared.first, compared.second), folder / "compare_differences.png")
    return folder


def _same(settings: list[dict], split: str) -> bool:
    prints = [found.get("fingerprints", {}).get(split) for found in settings]
    return prints[0] is not None and prints[0] == prints[1]


def _parameters(runs: dict[str, Manifests]) -> pd.DataFrame:
    """Of the stages that both have finished; a key that only one declares is of another version of its notebook."""
    one, other = runs.values()
    values = [
        results.parameters({name: found[name] for name in found if name in one and name in other})
        for found in (one, other)
    ]
    keys = [key for key in dict.fromkeys([*values[0], *values[1]]) if values[0].get(key) != values[1].get(key)]
    columns = {
        run: [results.shown(of_run[key]) if key in of_run else "not declared" for key in keys]
        for run, of_run in zip(runs, values, strict=True)
    }
    return pd.DataFrame({"parameter": keys} | columns)


def _times(runs: dict[str, Manifests]) -> pd.DataFrame:
    """Seconds of the stages that either run has finished."""
    tables = {run: results.stages(found).set_index("stage")["seconds"] for run, found in runs.items()}
    table = pd.DataFrame(tables).dropna(how="all")
    return table.assign(difference=table.iloc[:, 1] - table.iloc[:, 0]).reset_index()


def _accuracy(runs: dict[str, Manifests]) -> pd.DataFrame | None:
    tables = [table for run, found in runs.items() if (table := results.accuracies(run, found)) is not None]
    if len(tables) < len(runs):
        return None
    keyed = [table.set_index(["method", "network"]) for table in _with_own(*tables)]
    order = dict.fromkeys([*keyed[0].index, *keyed[1].index])
    one, other = (side.reindex(pd.MultiIndex.from_tuples(order, names=["training set", "student"])) for side in keyed)
    columns: dict[str, pd.Series] = {}
    for run, side in zip(runs, (one, other), strict=True):
        columns |= {run: 100 * side["top1_mean"], f"{run}, ±": 100 * side["top1_std"]}
    columns["difference"] = 100 * (other["top1_mean"] - one["top1_mean"])
    error = np.sqrt(one["top1_std"] ** 2 / one["seeds"] + other["top1_std"] ** 2 / other["seeds"])
    return pd.DataFrame(columns | {"difference, s.e.": 100 * error}).reset_index()


def _with_own(*tables: pd.DataFrame) -> list[pd.DataFrame]:
    """Where the runs condensed by different methods, their own sets, the first ones, have a row together, too."""
    own = [table["method"].iloc[0] for table in tables]
    if own[0] == own[1]:
        return list(tables)
    mine = [table[table["method"] == name] for table, name in zip(tables, own, strict=True)]
    both = set(mine[0]["network"]) & set(mine[1]["network"])
    named = [part[part["network"].isin(both)].assign(method=f"own set ({own[0]} | {own[1]})") for part in mine]
    return [pd.concat(pair) for pair in zip(named, tables, strict=True)]


def _measures(runs: dict[str, Manifests], remarks: list[str]) -> pd.DataFrame | None:
    """Colour and distances by set and measure; distances by different networks have no difference."""
    sides = [side for run, found in runs.items() if (side := _measured(run, found)) is not None]
    if len(sides) < len(runs):
        return None
    table = pd.concat(sides, axis="columns", keys=list(runs)).rename_axis(["set", "measure"])
    table["difference"] = table.iloc[:, 1] - table.iloc[:, 0]
    judges = [_judge(found[COLOR_STAGE]) for found in runs.values()]
    if judges[0] != judges[1]:
        by_network = table.index.get_level_values("measure").str.contains(BY_A_NETWORK)
        table.loc[by_network, "difference"] = np.nan
        remarks.append("FID, KID and the like are by another network in each run: they do not compare")
    return table.reset_index()


def _measured(run: str, found: Manifests) -> pd.Series | None:
    long = []
    for name in (COLORS, DISTANCES):
        table = results.figure_table(run, found, COLOR_STAGE, name)
        if table is None:
            return None
        measured = table.columns[~table.columns.str.contains(NOT_MEASURED)]
        long.append(table.set_index("set")[measured].stack())
    return pd.concat(long)


def _judge(manifest: dict) -> tuple:
    """By what 06 measured distances: the network's name and, where that is the run's teacher, its weights."""
    network = manifest["params"]["feature_network"]
    teacher = manifest["inputs"].get("00_teacher/teacher.safetensors") if network == "teacher" else ""
    return network, manifest["params"]["feature_weights"], teacher


def _picks(runs: dict[str, Manifests], classes: list[str]) -> pd.DataFrame | None:
    """How many source images the two runs' picks of each class share."""
    if any(SAMPLING not in found for found in runs.values()):
        return None
    sides = [_picked(run, found) for run, found in runs.items()]
    rows = []
    for label, name in enumerate(classes):
        one, other = (side.get(label, set()) for side in sides)
        counts = dict(zip(runs, (len(one), len(other)), strict=True))
        common, either = len(one & other), len(one | other)
        rows.append({"class": name} | counts | {"in common": common, "Jaccard": common / max(either, 1)})
    return pd.DataFrame(rows)


def _picked(run: str, found: Manifests) -> dict[int, set[int]]:
    """The sources of the condensed images, by label."""
    from dc3.strategies import METHODS  # brings torch

    method = results.parameters(found).get("method", "dc3")
    picks = pd.read_parquet(paths.RUNS / run / SAMPLING / METHODS[method].picks_file)
    return {int(label): set(part["index"]) for label, part in picks.groupby("label")}


CLASSES_SHOWN = 20
HEADINGS = {
    "parameters": "Parameters that differ",
    "accuracy": "Test accuracy (%)",
    "measures": "Colour and distance from the test images",
    "picks": "Picks in common",
    "times": "Time (s)",
}
DECIMALS = {"accuracy": 1, "measures": 3, "picks": 2, "times": 1}


def told(compared: Comparison) -> str:
    """Tables and remarks, as lines."""
    return "\n".join(_lines(compared))


def _lines(compared: Comparison) -> Iterator[str]:
    yield f"{compared.first} | {compared.second}; difference: {compared.second} less {compared.first}"
    yield from (f"note: {remark}" for remark in compared.remarks)
    for name, table in compared.tables.items():
        yield f"\n{HEADINGS[name]}"
        yield from _table(name, table)


def _table(name: str, table: pd.DataFrame) -> Iterator[str]:
    if table.empty:
        yield "none"
        return
    shown = table
    if name == "measures":
        shown = table[table["difference"] != 0]
        yield f"the same in both: {len(table) - len(shown)} of {len(table)} measures"
    if name == "picks":
        common = table["in common"].sum()
        yield f"{common:,} in all classes; mean Jaccard {table['Jaccard'].mean():.2f}"
        if len(table) > CLASSES_SHOWN:
            half = CLASSES_SHOWN // 2
            ordered = table.sort_values("Jaccard", kind="stable")
            shown = pd.concat([ordered.head(half), ordered.tail(half)])
            yield f"the {half} classes with the least and the {half} with the most in common:"
    if shown.empty:
        return
    places = DECIMALS.get(name, 3)
    yield shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:,.{places}f}")
