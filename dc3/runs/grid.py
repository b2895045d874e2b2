"""The file of a sweep: parameters that all its runs have, and a grid of those in which they differ.

base:                                             # flat keys for every run, as in a params file
  dataset: imagefolder
grid:                                             # blocks; a block is the product of its lists
  - {method: [random, dc3], ipc: [1, 10]}         # four runs
  - {method: dc3, ipc: 50, student_seeds: [[0]]}  # one: a scalar is a list of one, a list as a value is in a list
"""

import itertools
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dc3.runs.parameters import ParameterError, all_declared, check, read_file

Values = dict[str, Any]
Block = dict[str, list]
LONGEST_NAME = 200  # characters; file systems give a folder's name 255 bytes


@dataclass(frozen=True)
class Sweep:
    """A sweep's name, the keys of its grid, and its runs by name: what the file sets, and the same over all defaults.

    `repeated` are the grid points that are left out: the name each would have → the run that has its parameters.
    """

    name: str
    keys: list[str]
    runs: dict[str, Values]
    checked: dict[str, Values]
    repeated: dict[str, str]


def read_sweep(path: Path | str) -> Sweep:
    """Reads and checks a sweep's file. Grid points that come to the same parameters are one run, named by the first.

    ParameterError when the file has another form, two runs get one name, or values are refused; it names run and key.
    """
    path = Path(path)
    base, blocks = _content(path)
    name = path.stem.removesuffix("_sweep")
    runs = _named(name, base, [point for block in blocks for point in _points(block)])
    parameters = all_declared()
    checked = for_each(runs, lambda values: check(values, parameters))
    repeated = _repeated(checked)
    runs, checked = ({run: kind[run] for run in kind if run not in repeated} for kind in (runs, checked))
    return Sweep(name, list(dict.fromkeys(key for block in blocks for key in block)), runs, checked, repeated)


def _content(path: Path) -> tuple[Values, list[Block]]:
    content = read_file(path)
    base, grid = content.get("base") or {}, content.get("grid")
    if strangers := content.keys() - {"base", "grid"}:
        names = ", ".join(sorted(map(str, strangers)))
        raise ParameterError(f"{path}: {names}: a sweep's file has base and grid; keys of all runs go below base")
    if not isinstance(base, dict):
        raise ParameterError(f"{path}: base = {base!r}: expected `key: value` lines below it, as in a params file")
    if not isinstance(grid, list) or not grid or not all(isinstance(block, dict) and block for block in grid):
        raise ParameterError(f"{path}: grid = {grid!r}: expected a list of blocks, such as `- {{ipc: [1, 10]}}`")
    if any("run" in values for values in (base, *grid)):
        raise ParameterError(f"{path}: run: the runs of a sweep are named by its grid: leave run out")
    return base, [_block(path, block) for block in grid]


def _block(path: Path, block: Values) -> Block:
    """The block with a list for each key."""
    for key, value in block.items():
        if value == []:
            raise ParameterError(f"{path}: grid: {key} = [] has no values; an empty list as a value is [[]]")
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
    """cifar10.method-dc3.ipc-10: the sweep, and key-value as the grid has them. ParameterError when it is too long."""
    name = ".".join([sweep, *(f"{key}-{_text(value)}" for key, value in point.items())])
    if len(name) > LONGEST_NAME:
        raise ParameterError(
            f"grid: the run's name {name!r} has {len(name)} characters, {LONGEST_NAME} are allowed: "
            "sweep over fewer keys or shorter values, and put the others into base"
        )
    return name


def _text(value: Any) -> str:
    text = "_".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^\w.-]", "_", text)


def _repeated(checked: dict[str, Values]) -> dict[str, str]:
    """Runs whose parameters another before them has → that run."""
    first: dict[str, str] = {}
    same = {run: first.setdefault(json.dumps(values | {"run": ""}), run) for run, values in checked.items()}
    return {run: other for run, other in same.items() if run != other}


def for_each(runs: dict[str, Values], ask: Callable[[Values], Any]) -> dict[str, Any]:
    """What `ask` answers for each run's values. One ParameterError for all refusals: each reason with its runs."""
    answers: dict[str, Any] = {}
    refused: dict[str, list[str]] = {}
    for name, values in runs.items():
        try:
            answers[name] = ask(values)
        except ParameterError as error:
            refused.setdefault(str(error), []).append(name)
    if refused:
        named = (f"run {', '.join(names)}:\n{textwrap.indent(reason, '  ')}" for reason, names in refused.items())
        raise ParameterError("\n".join(named))
    return answers
