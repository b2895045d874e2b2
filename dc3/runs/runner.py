"""The runner: executes the notebooks of a run in order through papermill.

Stages that are current are skipped, those that another run has made the same way are taken over from it.
"""

import logging
import os
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import papermill
from nbclient.exceptions import DeadKernelError
from nbformat.reader import NotJSONError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from dc3.machine import files, paths
from dc3.runs.checks import check_inputs
from dc3.runs.notebooks import strip_noise
from dc3.runs.parameters import Parameter, ParameterError, all_declared, check, notebook_names
from dc3.runs.sharing import adopt
from dc3.runs.stage import discard, executed_copy, read_manifest, run_lock, why_not_current

log = logging.getLogger(__name__)

BUSY = "another process is running run {run!r}: wait for it to end, or give this one another name (-p run NAME)"


class StageFailed(RuntimeError):
    """A stage's notebook did not come to its end; the message has the traceback and, last, the notebook and cell."""


def run_notebooks(
    values: dict[str, Any], start: str = "", force: bool = False, until: str = "", preflight: bool = True
) -> list[Path]:
    """Runs every stage that is not current; returns the paths of the run's figures and tables.

    `start` ("03") redoes from that stage on and takes the earlier ones as they are; `until` ends after that stage;
    `force` redoes all; neither takes over anything of what the stages left before. `preflight=False` is for callers
    that have asked `check_inputs` themselves. ParameterError before anything runs when a value is refused or data or a
    model is not there; StageFailed when a cell raises; files.Busy when another process is running the same run.
    """
    parameters = all_declared()
    checked = check(values, parameters)
    names = _between(start, until, notebook_names())
    if preflight:
        check_inputs(checked)
    run = checked["run"]
    with files.locked(run_lock(run), BUSY.format(run=run)):
        for name in names:
            own = {key: value for key, value in checked.items() if name in parameters[key].notebooks}
            _bring_up_to_date(run, name, own, _given(values, own, parameters), asked=force or bool(start))
        from dc3.runs import report  # which imports the runner

        report.write_figures_readme(paths.FIGURES / run, notebook_names())
    return sorted((paths.FIGURES / run).iterdir())


def _bring_up_to_date(run: str, name: str, own: dict[str, Any], given: dict[str, Any], asked: bool) -> None:
    """Skips, takes over or executes one stage; `asked` for, it is executed from nothing.

    A kill on the way loses what was asked for of the later stages only: this one is then under way, and goes on.
    """
    reason = "asked for" if asked else _reason_to_run(run, name, own)
    if reason is None:
        log.info("%-18s up to date", name)
        return
    if not asked and (other := _adopted(run, name, own)):
        log.info("%-18s shared from run %s", name, other)
        return
    log.info("%-18s running (%s)", name, reason)
    if asked:
        _discarded(run, name)
    _execute(name, run, given)
    manifest = read_manifest(run, name)
    if manifest is None:
        raise StageFailed(f"{name}.ipynb ran to its end without finishing its stage: it never calls stage.finish()")
    log.info("%-18s done in %.0f s", name, manifest["wall_seconds"])


def _adopted(run: str, name: str, params: dict[str, Any]) -> str | None:
    try:
        return adopt(run, name, params)
    except (OSError, files.Busy) as error:
        raise StageFailed(f"{name}: what another run has of it cannot be taken over: {error}") from None


def _discarded(run: str, name: str) -> None:
    try:
        discard(run, name)
    except (OSError, files.Busy) as error:
        raise StageFailed(f"{name}: what is there of it cannot be removed: {error}") from None


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
        raise ParameterError(f"{option} {stage}: no such stage; there are {', '.join(names)}")
    return found[0]


def _reason_to_run(run: str, name: str, params: dict[str, Any]) -> str | None:
    if not executed_copy(run, name).exists():
        return "no executed notebook"
    return why_not_current(run, name, params)


def _given(values: dict[str, Any], own: dict[str, Any], parameters: dict[str, Parameter]) -> dict[str, Any]:
    """What papermill injects: the values that somebody set; a notebook's defaults stay where they stand."""
    return {key: own[key] for key in values if key in own and own[key] != parameters[key].default}


def _execute(name: str, run: str, params: dict[str, Any]) -> None:
    """One notebook in a fresh kernel; its executed copy stays in the run, a failed one too."""
    target = executed_copy(run, name)
    partial = target.with_suffix(".partial.ipynb")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ[paths.HEADLESS] = "1"
    started = time.monotonic()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with kernel_channel() as channel:
            papermill.execute_notebook(
                str(paths.NOTEBOOKS / f"{name}.ipynb"),
                str(partial),
                params,
                kernel_name="python3",
                cwd=str(paths.NOTEBOOKS),
                progress_bar=True,
                autosave_cell_every=0,
                config=Config({"KernelManager": channel}),
            )
    except PapermillExecutionError as error:
        raise StageFailed(_failure(name, error)) from None
    except DeadKernelError:
        raise StageFailed(f"{name}.ipynb: its kernel was killed, most often for want of memory") from None
    except OSError as error:
        raise StageFailed(f"{name}.ipynb: its executed copy {paths.shown(target)} cannot be written: {error}") from None
    finally:
        _keep_copy(partial, target)
    log.debug("%s: %.1f s with the kernel's start", name, time.monotonic() - started)


def _keep_copy(partial: Path, target: Path) -> None:
    """The executed notebook under its name; one that a full disk cut short is removed, its stage redone later."""
    try:
        if partial.exists():
            strip_noise(partial, target)
    except (OSError, NotJSONError):
        log.warning("%s could not be written whole and is not kept", paths.shown(target))
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def kernel_channel() -> Iterator[dict[str, str]]:
    """How to talk to the kernel: no ports to race for, and sockets in a folder of their own.

    Left to itself, jupyter_client puts them into the working directory under one name, where two runs on a machine
    would hear each other.
    """
    if os.name != "posix":
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="dc3-") as folder:
        yield {"transport": "ipc", "ip": str(Path(folder) / "kernel")}


def _failure(name: str, error: PapermillExecutionError) -> str:
    trace = "\n".join(error.traceback) if error.traceback else "".join(traceback.format_exception(error))
    return f"{trace}\n\n{name}.ipynb, cell [{error.exec_count}]: {error.ename}: {error.evalue}"
