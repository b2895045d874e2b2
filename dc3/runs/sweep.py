"""Sweeps: the runs of a grid one after another, and one table of their students' results.

Runs take over common stages from each other. A restarted sweep resumes, because each of its runs does.
"""

import itertools
import json
import logging
import math
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from dc3.machine import files, paths
from dc3.machine.files import replacing
from dc3.runs.checks import check_inputs
from dc3.runs.manifests import VALIDATION, NotAsWritten, read_manifest
from dc3.runs.parameters import (
    LONGEST_NAME,
    ParameterError,
    all_declared,
    as_declared,
    check,
    decisive,
    notebook_names,
    read_file,
)
from dc3.runs.results import SCORES, VIEW, of_run, read_results, whole_sets
from dc3.runs.runner import StageFailed, run_notebooks
from dc3.runs.written import shown, shown_name

log = logging.getLogger(__name__)

Values = dict[str, Any]
Block = dict[str, list]
MOST_RUNS = 10_000
STUDENT = {"method": "training_set", "seed": "student_seed"}  # columns whose names a grid's key may have
RESULTS = ["training_set", "network", "student_seed", "ipc", "stored_bytes", "epochs", *SCORES, *VIEW]
RESULTS += ["teacher_accuracy", "wall_seconds"]
SLOW_TO_CHECK = [  # the parameter that triggers a check in check_inputs, then the others that it needs
    (
        *("dataset", "data_dir", "image_size", "images_per_class", "ipc", "sure_share", "compared", "crops_per_side"),
        *("crop_tries", "crop_images", "teacher", "teacher_network", "teacher_width", "allow_pickle"),
        *("condensed_dir", "condensed_out", "stored_format"),
    ),
    ("vae", "vae_revision", "encode_size"),
    ("editor", "editor_revision", "edit_size"),
]


@dataclass(frozen=True)
class Sweep:
    """A sweep's name, the keys of its grid, and the parameters of each run by its name.

    `repeated`: names of grid points that are left out → the run with the same parameters.
    """

    name: str
    keys: list[str]
    runs: dict[str, Values]
    repeated: dict[str, str]


def read_sweep(path: Path | str) -> Sweep:
    """Reads and checks a sweep's file. Grid points with the same parameters are one run, named by the first.

    ParameterError, naming run and key, for a malformed file, two runs with one name, or refused values.
    """
    path = Path(path)
    parameters = all_declared()
    base, blocks = _content(path)
    name = path.stem.removesuffix("_sweep")
    points = [as_declared(point, parameters) for block in blocks for point in _points(block)]
    named = _named(name, as_declared(base, parameters), points)
    runs = for_each(named, lambda values: check(values, parameters))
    repeated = _repeated(runs)
    keys = list(dict.fromkeys(key for block in blocks for key in block))
    return Sweep(name, keys, {run: values for run, values in runs.items() if run not in repeated}, repeated)


def _content(path: Path) -> tuple[Values, list[Block]]:
    content = read_file(path)
    base, grid = content.get("base") or {}, content.get("grid")
    if unknown := content.keys() - {"base", "grid"}:
        names = ", ".join(map(shown_name, sorted(unknown)))
        raise ParameterError(f"{path}: {names}: only base and grid are allowed; put keys of all runs below base")
    if not isinstance(base, dict):
        raise ParameterError(f"{path}: base = {shown(base)}: expected `key: value` lines below it, as in a params file")
    if not isinstance(grid, list) or not grid or not all(isinstance(block, dict) and block for block in grid):
        raise ParameterError(f"{path}: grid = {shown(grid)}: expected a list of blocks, such as `- {{ipc: [1, 10]}}`")
    if any("run" in values for values in (base, *grid)):
        raise ParameterError(f"{path}: run: remove it, because the grid names the runs of a sweep")
    blocks = [_block(path, block) for block in grid]
    if (count := sum(math.prod(map(len, block.values())) for block in blocks)) > MOST_RUNS:
        raise ParameterError(f"{path}: grid has {count:,} runs, {MOST_RUNS:,} are allowed: give fewer values")
    return base, blocks


def _block(path: Path, block: Values) -> Block:
    """The block with a list per key."""
    for key, value in block.items():
        if value == []:
            raise ParameterError(f"{path}: grid: {key} = [] has no values; write [[]] for an empty list as a value")
    return {key: value if isinstance(value, list) else [value] for key, value in block.items()}


def _points(block: Block) -> Iterator[Values]:
    return (dict(zip(block, values, strict=True)) for values in itertools.product(*block.values()))


def _named(sweep: str, base: Values, points: list[Values]) -> dict[str, Values]:
    runs: dict[str, Values] = {}
    for point in points:
        name = run_name(sweep, point)
        values = base | point | {"run": name}
        if runs.setdefault(name, values) != values:
            raise ParameterError(
                f"grid: two runs would be named {name!r}, the second with {point}: a name keeps letters, digits, '_', "
                "'.' and '-' of the values; choose values that differ in those, or write two sweep files"
            )
    return runs


def run_name(sweep: str, point: Values) -> str:
    """cifar10.method-dc3.ipc-10: the sweep, then key-value from the grid. ParameterError when it is too long."""
    name = ".".join([sweep, *(f"{key}-{_text(value)}" for key, value in point.items())])
    if (size := len(name.encode())) > LONGEST_NAME:
        raise ParameterError(
            f"grid: the run's name {shown(name)} has {size} bytes, {LONGEST_NAME} are allowed: "
            "sweep over fewer keys or shorter values"
        )
    return name


def _text(value: Any) -> str:
    text = "_".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^\w.-]", "_", text)


def _repeated(runs: dict[str, Values]) -> dict[str, str]:
    """Runs with the parameters of an earlier run → that run."""
    first: dict[str, str] = {}
    same = {run: first.setdefault(json.dumps(values | {"run": ""}), run) for run, values in runs.items()}
    return {run: other for run, other in same.items() if run != other}


def for_each(runs: dict[str, Values], function: Callable[[Values], Any]) -> dict[str, Any]:
    """Run → `function` of its values. One ParameterError for all refusals, each reason with its runs."""
    answers: dict[str, Any] = {}
    refused: dict[str, list[str]] = {}
    for name, values in runs.items():
        try:
            answers[name] = function(values)
        except ParameterError as error:
            refused.setdefault(str(error), []).append(name)
    if refused:
        reasons = (f"run {', '.join(names)}:\n{textwrap.indent(reason, '  ')}" for reason, names in refused.items())
        raise ParameterError("\n".join(reasons))
    return answers


def results(path: Path | str) -> pd.DataFrame:
    """Results of the sweep's finished runs: one row per run, training set, network and student's seed.

    Columns: run; the grid's keys with the run's values (lists as JSON); training_set, network, student_seed and the
    others of `dc3.runs.results.students`, for whole training sets; teacher_accuracy; wall_seconds of 05_validation.
    ParameterError when a value of the file is refused.
    """
    return _collect(read_sweep(path))


def run_sweep(
    path: Path | str, part: str = "1/1", force: bool = False, known: Path | str | None = None
) -> tuple[dict[str, str], Path]:
    """Executes the runs of a part ("1/2": every second) up to 05, and writes the table of all finished runs.

    known: results of the same sweep from elsewhere, whose runs are not executed and are in the table as they are.
    Returns the failed runs with the last line of their messages, and the table's path. ParameterError, before anything
    runs, when any run of any part has a refused value or lacks data or a model, or `known` is no table of this sweep.
    """
    sweep = read_sweep(path)
    elsewhere = _known(sweep, known) if known else pd.DataFrame({"run": []})
    names = [name for name in _part(part, list(sweep.runs)) if name not in set(elsewhere["run"])]
    for_each(sweep.runs, preflight())
    for name, other in sweep.repeated.items():
        log.info("%s has the same parameters as %s and is skipped", name, other)
    failures = {}
    for k, name in enumerate(names, 1):
        log.info("\nrun %d of %d: %s", k, len(names), name)
        try:
            run_notebooks(sweep.runs[name], force=force, until=VALIDATION, preflight=False)
        except (StageFailed, ParameterError, files.Busy) as error:
            failures[name] = str(error).rstrip().splitlines()[-1]
            log.info("failed: %s", failures[name])
    return failures, _write_results(sweep, elsewhere)


def _known(sweep: Sweep, path: Path | str) -> pd.DataFrame:
    try:
        table = read_results(path)
    except (OSError, ValueError) as error:
        raise ParameterError(f"--known {path}: {error}") from None
    if strangers := sorted(set(table.get("run", ["no column run"])) - set(sweep.runs)):
        raise ParameterError(f"--known {path}: results of another sweep or version, such as {strangers[0]}")
    return table


def _part(part: str, names: list[str]) -> list[str]:
    numbers = re.fullmatch(r"(\d+)/(\d+)", part)
    k, n = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= k <= n:
        raise ParameterError(f"--part {part}: expected k/n with k from 1 to n, such as 1/2 here and 2/2 elsewhere")
    return names[k - 1 :: n]


def preflight() -> Callable[[Values], None]:
    """A `check_inputs` for many runs up to 05, which does slow checks once per set of parameters."""
    later = {key for key, parameter in all_declared().items() if parameter.notebooks[0] > VALIDATION}

    @cache
    def refusal(params: str) -> str:
        try:
            check_inputs(json.loads(params))
        except ParameterError as error:
            return str(error)
        return ""

    def check_run(params: Values) -> None:
        params = {key: value for key, value in params.items() if key not in {"run", *later}}
        slow = [{key: params[key] for key in keys if key in params} for keys in SLOW_TO_CHECK]
        first = [keys[0] for keys in SLOW_TO_CHECK]
        quick = {key: value for key, value in params.items() if key not in first}
        refusals = dict.fromkeys(refusal(json.dumps(part)) for part in (quick, *slow))
        if any(refusals):
            raise ParameterError("\n".join(filter(None, refusals)))

    return check_run


def _write_results(sweep: Sweep, elsewhere: pd.DataFrame) -> Path:
    own = _collect(sweep)
    tables = [elsewhere, own[~own["run"].isin(elsewhere["run"])]]
    table = pd.concat([table for table in tables if len(table)] or [own], ignore_index=True)
    path = paths.RUNS / f"{sweep.name}.sweep" / "results.parquet"
    with replacing(path) as partial:
        table.to_parquet(partial, index=False)
    log.info("\n%d of %d runs of sweep %s are finished", table["run"].nunique(), len(sweep.runs), sweep.name)
    return path


def _collect(sweep: Sweep) -> pd.DataFrame:
    finished = {run: manifest for run, params in sweep.runs.items() if (manifest := _finished(run, params))}
    tables = [table for run, manifest in finished.items() if (table := _students(sweep, run, manifest)) is not None]
    columns = list(dict.fromkeys(["run", *sweep.keys, *RESULTS]))
    return pd.concat(tables or [pd.DataFrame()], ignore_index=True).reindex(columns=columns)


def _finished(run: str, params: Values) -> Values | None:
    """The manifest of 05_validation; None unless it and all earlier stages are done with these parameters.

    Newer code or new parameters do not invalidate results.
    """
    manifests = {name: read_manifest(run, name) for name in notebook_names() if name <= VALIDATION}
    done = all(
        manifest and all(params.get(key, value) == value for key, value in decisive(manifest["params"]).items())
        for manifest in manifests.values()
    )
    return manifests.get(VALIDATION) if done else None


def _students(sweep: Sweep, run: str, manifest: Values) -> pd.DataFrame | None:
    """The rows of a run; None, with a warning, when its results are not what 05_validation wrote."""
    keys = {key: sweep.runs[run][key] for key in sweep.keys}
    values = {key: json.dumps(value) if isinstance(value, list) else value for key, value in keys.items()}
    values |= {"teacher_accuracy": manifest["facts"].get("teacher"), "wall_seconds": manifest["wall_seconds"]}
    try:
        students = of_run(run)
    except NotAsWritten as error:
        log.warning("left out: %s", error)
        return None
    assert students is not None, "05_validation is finished"
    return whole_sets(students).rename(columns=STUDENT).assign(run=run, **values)
