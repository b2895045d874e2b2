"""The runner: brings the stages of a run up to date, in order.

A current stage is skipped. A stage that another run has finished with the same parameters, code and inputs is taken
over from it, as hard links; that is safe because stages never change a file in place (`dc3.machine.files.replacing`).
The notebook of any other stage is executed through papermill.
"""

import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dc3.machine import files, paths
from dc3.machine.files import flush_to_disk, remove, replacing, sha256
from dc3.machine.fingerprints import notebook_fingerprint
from dc3.machine.markup import literal
from dc3.runs.checks import check_inputs
from dc3.runs.manifests import MANIFEST, Record, read_manifest, write_json
from dc3.runs.parameters import Parameter, ParameterError, all_declared, check, notebook_names
from dc3.runs.stage import (
    StageFailed,
    busy_message,
    discard,
    executed_copy,
    figures_of,
    is_notebook,
    run_lock,
    set_aside_earlier_layout,
    stage_lock,
    why_different,
    why_not_current,
)

log = logging.getLogger(__name__)

Execute = Callable[[str, str, dict[str, Any]], None]  # stage, run, values to inject; leaves the executed copy
README = "README.md"  # in the folder of a run's figures
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # faults of this run's disk, not of another run's files
BUSY = "another process is executing run {run!r}: wait for it to end, or choose another name (-p run NAME)"


class Stopped(KeyboardInterrupt):
    """A signal stopped a run in a stage, which the next run continues."""

    def __init__(self, stage: str, signal: KeyboardInterrupt) -> None:
        super().__init__(*signal.args)
        self.stage = stage


def run_notebooks(
    values: dict[str, Any],
    start: str = "",
    force: bool = False,
    until: str = "",
    preflight: bool = True,
    execute: Execute | None = None,
) -> str:
    """Runs every stage that is not current, and writes the README of the run's figures; returns the run's name.

    `start` ("03") redoes from that stage on and leaves the earlier ones; `until` ends after that stage; `force` redoes
    all. Redone stages start from nothing. `preflight=False` is for callers that have called `check_inputs`. `execute`
    runs one notebook (default: in a kernel, with the notebook's progress bars on a terminal).
    ParameterError before anything runs when a value is refused or data or a model is missing; StageFailed when a cell
    raises; files.Busy when another process executes the same run; Stopped after SIGINT or SIGTERM.
    """
    parameters = all_declared()
    checked = check(values, parameters)
    every = notebook_names()
    names = _between(start, until, every)
    run, redo = checked["run"], force or bool(start)
    with files.locked(run_lock(run), BUSY.format(run=run)), ExitStack() as opened:
        _remove_leftovers(run)
        for name in names:
            stage = f"stage {every.index(name) + 1} of {len(every)}: {name:<18}"
            own = {key: value for key, value in checked.items() if name in parameters[key].notebooks}
            reason = "forced" if redo else why_not_current(run, name, own)
            if reason is None:
                log.info("%s up to date", stage)
                continue
            execute = execute or _in_kernels(opened, names, name, redo)
            if preflight:
                check_inputs(checked)
                preflight = False
            with _stopped_in(name):
                with _failing(f"{name}: another run's result cannot be taken over"):
                    other = None if redo else take_over(run, name, own)
                log.info("%s %s", stage, f"shared from run {other}" if other else f"running ({reason})")
                if other is None:
                    seconds = _redo(run, name, _to_inject(values, own, parameters), redo, execute)
                    if sys.stdout.isatty():  # elsewhere a line a stage is enough
                        log.info("%s done in %.0f s", stage, seconds)
        write_figures_readme(paths.FIGURES / run, notebook_names())
    return run


def _in_kernels(opened: ExitStack, names: Sequence[str], first: str, redo: bool) -> Execute:
    """Executes in kernels, until `opened` closes; the first starts now, and does its imports during the checks."""
    from dc3.runs.kernels import Kernels  # brings jupyter_client, which a run that only skips can do without

    kernels = opened.enter_context(Kernels(names))
    if redo or not any(paths.RUNS.glob(f"*/{first}/{MANIFEST}")):  # there is none to take over
        kernels.start_ahead(first)
    return kernels.execute


def _remove_leftovers(run: str) -> None:
    """Removes what killed runners, exports and reports left; the caller holds the run's lock."""
    notebooks = paths.RUNS / run / "notebooks"
    for path in (*notebooks.glob("*.partial.ipynb"), *notebooks.glob(".*.partial.ipynb")):
        path.unlink(missing_ok=True)
    for folder in (paths.RUNS / run).glob(".*.shared"):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (paths.RUNS / run, paths.FIGURES / run, paths.FEATURES):
        files.remove_abandoned(folder)


@contextmanager
def _stopped_in(name: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as signal:
        raise Stopped(name, signal) from None


def _redo(run: str, name: str, injected: dict[str, Any], from_nothing: bool, execute: Execute) -> float:
    """Executes one stage and returns its seconds. After a kill the next run continues it."""
    if from_nothing:
        with _failing(f"{name}: its earlier result cannot be removed"):
            discard(run, name)
    execute(name, run, injected)
    manifest = read_manifest(run, name)
    if manifest is None:
        raise StageFailed(f"{name}.ipynb ended without finishing its stage: call stage.finish() in it")
    return manifest["wall_seconds"]


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """StageFailed, naming `what`, where a file or a lock fails."""
    try:
        yield
    except (OSError, files.Busy) as error:
        raise StageFailed(f"{what}: {error}") from None


def _between(start: str, until: str, names: list[str]) -> list[str]:
    """The stages from `start` to `until`, both included; "" stands for the first and the last."""
    first = _place("--from", start, names) if start else 0
    last = _place("--until", until, names) if until else len(names) - 1
    if first > last:
        raise ParameterError(f"--from {start} --until {until}: {names[first]} comes after {names[last]}")
    return names[first : last + 1]


def _place(option: str, stage: str, names: list[str]) -> int:
    found = [k for k, name in enumerate(names) if name.startswith(stage)]
    if not found:
        raise ParameterError(f"{option} {stage}: no such stage; choose one of {', '.join(names)}")
    return found[0]


def _to_inject(values: dict[str, Any], own: dict[str, Any], parameters: dict[str, Parameter]) -> dict[str, Any]:
    """The values that papermill injects: those that were set and differ from the notebook's defaults."""
    return {key: own[key] for key in values if key in own and own[key] != parameters[key].default}


def take_over(run: str, name: str, params: dict[str, Any]) -> str | None:
    """Takes over a stage with the same result from another run; returns that run's name, or None.

    `params` are the stage's. Outputs, figures and executed notebook are gathered and verified beside the stage's folder
    before its content is removed; the manifest is written last. files.Busy when the stage is under way.
    """
    code = notebook_fingerprint(name)
    gathered = paths.RUNS / run / f".{name}.shared"
    for path in sorted(paths.RUNS.glob(f"*/{name}/{MANIFEST}")):
        other = path.parent.parent.name
        manifest = _manifest_of_another(other, name) if other != run else None
        if manifest is None:
            continue
        shared = manifest | {"run": run, "params": manifest["params"] | {"run": run}, "shared_from": other}
        if why_different(shared, run, params, code):
            continue
        try:
            if _gather(other, name, manifest, gathered):
                with files.locked(stage_lock(run, name), busy_message(run, name)):
                    _move_in(gathered, run, name)
                    write_json(paths.RUNS / run / name / MANIFEST, shared | {"params": params})
                return other
        finally:
            remove(gathered)
    return None


def _manifest_of_another(run: str, name: str) -> Record | None:
    """Another run's manifest; None also when it cannot be read, which is that run's concern."""
    try:
        return read_manifest(run, name)
    except OSError as error:
        log.warning("%s of run %s is not shared: %s", name, run, error)
        return None


def _gather(run: str, name: str, manifest: Record, gathered: Path) -> bool:
    """Links a stage's files into the folder `gathered`; False when they differ from the manifest or cannot be read."""
    remove(gathered)
    sources = {"outputs": paths.RUNS / run / name, "figures": paths.FIGURES / run}
    try:
        link(executed_copy(run, name), gathered / "notebook.ipynb")
        for kind, folder in sources.items():
            (gathered / kind).mkdir()
            for file in manifest[kind]:
                link(folder / file, gathered / kind / file)
        files_of = ((gathered / kind / file, digest) for kind in sources for file, digest in manifest[kind].items())
        return is_notebook(gathered / "notebook.ipynb") and all(sha256(f) == digest for f, digest in files_of)
    except FileNotFoundError:  # deleted, or just restarted by its own run
        return False
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        log.warning("%s of run %s is not shared: %s", name, run, error)
        return False


def _move_in(gathered: Path, run: str, name: str) -> None:
    """Replaces the stage's files, figures and notebook by the gathered ones."""
    stage, figures, notebook = paths.RUNS / run / name, paths.FIGURES / run, executed_copy(run, name)
    set_aside_earlier_layout(run, name)
    remove(stage)
    for folder in (figures, notebook.parent):
        folder.mkdir(parents=True, exist_ok=True)
    (gathered / "outputs").rename(stage)
    superseded = set(figures_of(figures, name))
    for figure in (gathered / "figures").iterdir():
        superseded.discard(figure.replace(figures / figure.name))
    for figure in superseded:
        figure.unlink()
    (gathered / "notebook.ipynb").replace(notebook)
    for folder in (stage.parent, figures, notebook.parent):
        flush_to_disk(folder)


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where links are impossible. FileNotFoundError when `source` is missing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)
        flush_to_disk(target)


def write_figures_readme(folder: Path, stages: Sequence[str]) -> Path | None:
    """Writes the README of the stages' figures in `folder`; None when there are none yet."""
    sections = [section for stage in stages if (section := _section(folder, stage))]
    if not sections:
        return None
    written_by = "Written by `dc3 run`, which also writes a PDF of each picture."
    heading = f"# Figures and tables of run {literal(folder.name)}\n\n{written_by}"
    with replacing(folder / README) as partial:
        partial.write_text("\n\n".join([heading, *sections]) + "\n", encoding="utf-8")
    return folder / README


def _section(folder: Path, stage: str) -> str:
    number, name = stage.split("_", 1)
    found = [path for path in figures_of(folder, stage) if path.suffix in (".png", ".md")]
    parts = [_figure(path, path.stem.removeprefix(f"{name}_").replace("_", " ")) for path in found]
    return "\n\n".join([f"## {number} {name.replace('_', ' ')}", *parts]) if parts else ""


def _figure(path: Path, title: str) -> str:
    if path.suffix == ".png":
        return f"**{title}**\n\n![{title}]({path.name})"
    return f"**{title}** ([csv]({path.with_suffix('.csv').name}))\n\n{path.read_text(encoding='utf-8').strip()}"
