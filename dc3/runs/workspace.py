"""Workspaces, folders with notebooks, params and teachers of one's own, and how they differ from what came with dc3."""

import importlib.metadata
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dc3.machine import paths
from dc3.runs.manifests import read_manifest
from dc3.runs.parameters import ParameterError, declared, declared_in, notebook_names

FOLDERS = ("notebooks", "params", "teachers")
SHARE = ("share", "dc3")  # where pip puts them, below the environment's root
NOTE = "A workspace of dc3, made by `dc3 init`: below this folder dc3 uses its notebooks, params, runs and figures.\n"


def create(folder: Path) -> Path:
    """Makes a new or empty folder a workspace and returns its absolute path.

    ParameterError when the folder has files, FileNotFoundError when nothing to copy came with dc3.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParameterError(f"FOLDER = {str(folder)!r}: it is there and not empty; name a new folder")
    source = _source()
    for name in FOLDERS:
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns(".*"))
    (folder / paths.MARKER).write_text(NOTE, encoding="utf-8")
    return folder


def check_is_here(params_file: Path) -> None:
    """ParameterError when a params file lies in a workspace that dc3 was not called in."""
    other = paths.workspace_of(params_file.resolve())
    if other not in (None, paths.WORKSPACE):
        raise ParameterError(
            f"{params_file} is of the workspace {other}: call dc3 in there: cd {shlex.quote(str(other))}"
        )


def _source() -> Path:
    """The folder of the notebooks, params and teachers that came with dc3: the clone, or what pip installed."""
    if _is_clone():
        return paths.REPOSITORY
    for file in importlib.metadata.files("dc3") or []:
        if file.parts[-4:-1] == (*SHARE, "notebooks"):
            return Path(str(file.locate())).resolve().parents[1]
    raise FileNotFoundError("no notebooks came with dc3: install it from a clone, by `pip install .`")


def _is_clone() -> bool:
    return (paths.REPOSITORY / "pyproject.toml").is_file()


def as_it_came(notebook: str) -> dict[str, Any] | None:
    """The defaults of a notebook's parameters as committed (git's HEAD), or as installed.

    None where neither can be told: a clone without git, a notebook of one's own.
    """
    try:
        if (paths.REPOSITORY / ".git").exists():
            return _defaults(notebook, _committed(f"notebooks/{notebook}.ipynb"))
        original = _source() / "notebooks" / f"{notebook}.ipynb"
        return None if original.parent == paths.NOTEBOOKS else _defaults(notebook, original.read_text(encoding="utf-8"))
    except (OSError, subprocess.CalledProcessError):
        return None


def _committed(file: str) -> str:
    command = ["git", "show", f"HEAD:./{file}"]
    shown = subprocess.run(command, cwd=paths.REPOSITORY, capture_output=True, check=True)
    return shown.stdout.decode("utf-8")


def _defaults(notebook: str, text: str) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in declared_in(text, notebook).items()}


def differing(values: Mapping[str, Any], notebook: str) -> dict[str, tuple[Any, Any]] | None:
    """The values of a notebook's parameters that are not the defaults it came with: name → (value, default).

    None where those cannot be told.
    """
    if (came := as_it_came(notebook)) is None:
        return None
    return {name: (values[name], came[name]) for name in values.keys() & came if values[name] != came[name]}


def changed_cells() -> list[str]:
    """One line per notebook whose parameters cell has other defaults than it came with."""
    lines = []
    for notebook in notebook_names():
        now = {name: parameter.default for name, parameter in declared(notebook).items()}
        if found := differing(now, notebook):
            cell = f"the parameters cell of {notebook} has {listed(found)}"
            lines.append(f"note: {cell}: every run takes that by default")
    return lines


def listed(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Values and defaults as text: "ipc = 5 (it came with 10), lam = 2.0 (it came with 1.0)"."""
    return ", ".join(f"{name} = {now!r} (it came with {came!r})" for name, (now, came) in sorted(found.items()))


def what_changes(stage: str, params: dict[str, Any], is_changed: bool) -> str:
    """One line, for the cell that begins the stage; `is_changed`: its result will not be the one that is there."""
    said = [f"{stage} writes run {params['run']} ({paths.shown(paths.RUNS / params['run'])})."]
    unusual = differing({name: value for name, value in params.items() if name != "run"}, stage)
    if unusual is not None:
        said.append(f"Parameters: {listed(unusual) or 'all as they came'}.")
    stale = dependents(params["run"], stage) if is_changed else []
    said.append(f"Stale now: {', '.join(stale)}." if stale else "No later stage is stale.")
    return " ".join(said)


def dependents(run: str, stage: str) -> list[str]:
    """The finished stages of a run that have read what `stage` wrote, directly or through others."""
    reached = [stage]
    for later in notebook_names():
        inputs = (read_manifest(run, later) or {"inputs": []})["inputs"]
        if any(file.split("/")[0] in reached for file in inputs):
            reached.append(later)
    return reached[1:]
