"""Stages: one folder per run and stage, with a manifest that marks it complete and records its dependencies.

A notebook begins its stage, reads files of earlier stages through `Stage.input`, writes its own, and ends with
`Stage.finish`, which writes the manifest last. A stage is current when its parameters, code and inputs have not changed
since and its outputs are the bytes it wrote. Inputs are recorded while the stage runs, so there is no table of
dependencies. `why_different` decides whether a stage is skipped, taken over from another run, or continued after a
kill.
"""

import importlib.metadata
import itertools
import logging
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from dc3.machine import files, paths
from dc3.machine.files import remove, sha256
from dc3.machine.fingerprints import is_unchanged, notebook_fingerprint, path_fingerprint
from dc3.machine.paths import Place
from dc3.runs import workspace
from dc3.runs.manifests import (
    BEGUN,
    MANIFEST,
    SMALL,
    Record,
    listed,
    read_begun,
    read_manifest,
    read_record,
    write_json,
    written,
)
from dc3.runs.parameters import check, decisive, declared, notebook_names

log = logging.getLogger(__name__)

LAYOUT = 2  # of dc3's modules, in manifests; older ones, of flat modules, have none
EARLIER = ".earlier"  # in a run: stages of an earlier layout, never removed
LOCKS = ".locks"
ORPHAN_SECONDS = 10  # a kernel whose runner was killed ends within a second or two
LIBRARIES = ("torch", "torchvision", "diffusers", "transformers", "peft", "scikit-learn", "numpy")


class StageFailed(RuntimeError):
    """A stage's notebook failed; the message ends with the notebook and cell, after the traceback."""


@dataclass
class Stage:
    """A stage under way: its parameters and recorded inputs."""

    name: str
    run: str
    params: dict[str, Any]
    code: str
    inputs: dict[str, str] = field(default_factory=dict)  # "02_binning/bins.parquet" → SHA-256
    external: dict[str, str] = field(default_factory=dict)  # files and folders outside the run → their fingerprint
    started: float = field(default_factory=time.monotonic)  # wall time may jump

    @property
    def folder(self) -> Path:
        """Where the files of the stage go."""
        return paths.RUNS / self.run / self.name

    @property
    def figures(self) -> Path:
        """Where the figures of the run go."""
        return paths.FIGURES / self.run

    def input(self, name: str) -> Path:
        """The path of an earlier stage's file, such as "02_binning/bins.parquet".

        StageMissing when the stage is not finished, NotAsWritten when the file is not the one that it wrote.
        """
        self.inputs[name] = listed(self.run, name)
        return written(self.run, name, largest=SMALL)

    def use(self, path: Path | str) -> Place:
        """Records that the stage depends on a file or folder outside the run (data, weights); returns its place."""
        place = paths.located(str(path))
        self.external[paths.relative_in_workspace(place)] = path_fingerprint(place)
        if begun := read_begun(self.folder):
            write_json(self.folder / BEGUN, begun | {"external": begun["external"] | self.external})
        return place

    def use_model(self, name: str) -> str:
        """The argument of `from_pretrained` for a model's parameter; the stage depends on a local model.

        Hub ids and names of torchvision's weights are returned unchanged.
        """
        location = paths.model_location(name)
        if Path(location).is_absolute() and Path(location).exists():
            self.use(location)
        return location

    def use_models(self, *names: str) -> None:
        """`use_model` for each."""
        for name in names:
            self.use_model(name)

    def output(self, name: str) -> Path:
        """The path for one of the stage's own files; write it through `dc3.machine.files.replacing`."""
        return self.folder / name

    def finish(self, **facts: Any) -> None:
        """Writes the manifest, with facts for readers (accuracies, counts), and so completes the stage."""
        self._remove_superseded()
        outputs = {
            name: sha256(self.folder / name)
            for name in paths.files_below(self.folder)
            if (self.folder / name).is_file() and PurePosixPath(name).name not in (MANIFEST, BEGUN)
        }
        figures = {path.name: sha256(path) for path in figures_of(self.figures, self.name)}
        manifest = {
            "layout": LAYOUT,
            "stage": self.name,
            "run": self.run,
            "params": self.params,
            "code": self.code,
            "inputs": self.inputs,
            "external": self.external,
            "outputs": outputs,
            "figures": figures,
            "facts": facts,
            "wall_seconds": round(time.monotonic() - self.started, 2),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "git_commit": git_commit(),
            "versions": {"python": platform.python_version()}
            | {library: importlib.metadata.version(library) for library in LIBRARIES},
        }
        write_json(self.folder / MANIFEST, manifest)
        files.release_lock(stage_lock(self.run, self.name))

    def _remove_superseded(self) -> None:
        """Removes the figures of before that the stage has not written anew."""
        superseded = (read_begun(self.folder) or {"superseded": {}})["superseded"]
        for figure in figures_of(self.figures, self.name):
            if superseded.get(figure.name) == figure.stat().st_mtime_ns:
                figure.unlink()


S = TypeVar("S", bound=Stage)


def begin(name: str, namespace: dict[str, Any], kind: type[S] = Stage) -> S:  # type: ignore[assignment]
    """Begins a stage with the parameters its notebook declares, taken from the notebook's `globals()`.

    Files of an interrupted stage with the same parameters, code, data and weights are kept, and the stage resumes from
    them; otherwise its files are removed now, and those of its figures that it does not write anew when it finishes.
    Unless a runner executes the notebook, it prints a line on what it changes. ParameterError when a value is refused,
    files.Busy when another process works on the stage.
    """
    parameters = declared(name)
    params = check({key: namespace[key] for key in parameters}, parameters)
    stage = kind(name, params["run"], params, notebook_fingerprint(name))
    files.take_lock(stage_lock(stage.run, name), busy_message(stage.run, name), ORPHAN_SECONDS)
    set_aside_earlier_layout(stage.run, name)
    if not paths.is_headless():
        manifest = read_manifest(stage.run, name)
        is_changed = manifest is None or why_different(manifest, stage.run, params, stage.code) is not None
        print(workspace.what_changes(name, params, is_changed))
    images_of = {key: value for key, value in decisive(params).items() if key != "condensed_out"}  # where a copy goes
    begun = {"layout": LAYOUT, "params": images_of, "code": stage.code, "external": {}}
    left = read_begun(stage.folder)
    if left is None or why_different(left, stage.run, images_of, stage.code):
        figures = figures_of(stage.figures, name)
        left = begun | {"superseded": {figure.name: figure.stat().st_mtime_ns for figure in figures}}
        remove(stage.folder)
    (stage.folder / MANIFEST).unlink(missing_ok=True)
    write_json(stage.folder / BEGUN, left | begun | {"external": left["external"]})
    stage.figures.mkdir(parents=True, exist_ok=True)
    _remove_half_written(stage)
    return stage


def run_lock(run: str) -> Path:
    """The lock that a runner holds while it executes the run."""
    return paths.RUNS / LOCKS / f"{run}.lock"


def stage_lock(run: str, name: str) -> Path:
    """The lock that a process holds from `begin` to `finish`."""
    return paths.RUNS / LOCKS / f"{run}~{name}.lock"  # no run's name has a ~


def busy_message(run: str, name: str) -> str:
    """The message of files.Busy for a stage."""
    return (
        f"another process is working on {name} of run {run!r}: wait for it to end; if an open notebook began the stage "
        "and did not finish it, shut down its kernel"
    )


def discard(run: str, name: str) -> None:
    """Removes a stage's files, finished or not, so that its notebook starts from nothing.

    Files of an earlier layout are set aside. files.Busy when another process works on the stage, OSError when a file
    cannot be removed.
    """
    folder = paths.RUNS / run / name
    with files.locked(stage_lock(run, name), busy_message(run, name), ORPHAN_SECONDS):
        set_aside_earlier_layout(run, name)
        for mark in (BEGUN, MANIFEST):  # first, so that no stage resumes from half of it
            (folder / mark).unlink(missing_ok=True)
        remove(folder)


def set_aside_earlier_layout(run: str, name: str) -> None:
    """Moves a stage of an earlier layout of dc3, with its figures and notebook, to `.earlier` in the run."""
    if not is_of_earlier_layout(run, name):
        return
    folder, target = paths.RUNS / run / name, _earlier_folder(run, name)
    log.info("%-18s %s", name, _why_earlier(run, name))
    (folder / "figures").mkdir(exist_ok=True)
    for path in (*figures_of(paths.FIGURES / run, name), executed_copy(run, name)):
        if path.exists():
            shutil.move(path, folder / "figures" / path.name)
    target.parent.mkdir(exist_ok=True)
    folder.rename(target)  # last: after a kill before it, the next call continues


def is_of_earlier_layout(run: str, name: str) -> bool:
    """Whether an earlier layout of dc3 began or finished the stage."""
    folder = paths.RUNS / run / name
    record = read_record(folder / MANIFEST) or read_record(folder / BEGUN)
    return record is not None and _is_earlier(record)


def _is_earlier(record: Record) -> bool:
    layout = record.get("layout", 1)
    return isinstance(layout, int) and layout < LAYOUT


def _why_earlier(run: str, name: str) -> str:
    return f"made by an earlier layout of dc3: kept in {paths.shown(_earlier_folder(run, name))}"


def _earlier_folder(run: str, name: str) -> Path:
    """The first free folder to keep a stage of an earlier layout."""
    folder = paths.RUNS / run / EARLIER
    candidates = (folder / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(candidate for candidate in candidates if not candidate.exists())


def _remove_half_written(stage: Stage) -> None:
    """Removes partial files of killed processes, perhaps gigabytes that nothing would overwrite."""
    for path in (*stage.folder.rglob(".*.partial*"), *stage.figures.glob(f".{noun(stage.name)}_*.partial*")):
        remove(path)


def why_not_current(run: str, name: str, params: dict[str, Any]) -> str | None:
    """None when the stage is current, else the reason in a few words."""
    if is_of_earlier_layout(run, name):
        return _why_earlier(run, name)
    manifest = read_manifest(run, name)
    if manifest is None:
        is_there = (paths.RUNS / run / name / MANIFEST).exists()
        return f"{MANIFEST} is not what the stage wrote" if is_there else "not done yet"
    return (
        why_different(manifest, run, params, notebook_fingerprint(name))
        or _damage(paths.RUNS / run / name, manifest["outputs"])
        or _damage(paths.FIGURES / run, manifest["figures"])
        or _damaged_copy(run, name)
    )


def why_different(record: Record, run: str, params: dict[str, Any], code: str) -> str | None:
    """Why a stage with this manifest or begun.json, of any run, would differ in `run` now; None when it would not.

    Inputs are compared with the outputs of this run's stages.
    """
    if _is_earlier(record):
        return "made by an earlier layout of dc3"
    made_with, params = decisive(record["params"]), decisive(params)
    changed = [key for key in params if made_with.get(key) != params[key]]
    if changed or made_with.keys() != params.keys():
        return "changed: " + (", ".join(changed) or "the declared parameters")
    if record["code"] != code:
        return "its code changed"
    for file, digest in record.get("inputs", {}).items():
        if _written(run, file) != digest:
            return f"its input {file} changed"
    for path, fingerprint in record["external"].items():
        if not is_unchanged(paths.located(path), fingerprint):
            return f"{path} changed"
    return None


def _written(run: str, file: str) -> str | None:
    """The SHA-256 of a stage's file, such as "02_binning/bins.parquet", from this run's manifest."""
    stage, output = file.split("/", 1)
    return (read_manifest(run, stage) or {"outputs": {}})["outputs"].get(output)


def _damage(folder: Path, files: dict[str, str]) -> str | None:
    for file, digest in files.items():
        if not (folder / file).exists():
            return f"{file} is missing"
        if sha256(folder / file) != digest:
            return f"{file} is not what the stage wrote"
    return None


def _damaged_copy(run: str, name: str) -> str | None:
    """None also where there is no executed notebook, as after work by hand."""
    path = executed_copy(run, name)
    return f"{path.name} is not what the stage wrote" if path.exists() and not is_notebook(path) else None


def executed_copy(run: str, name: str) -> Path:
    """The path of a stage's executed notebook."""
    return paths.RUNS / run / "notebooks" / f"{name}.ipynb"


def is_notebook(path: Path) -> bool:
    """Whether a file reads as a notebook. It has no SHA-256 in the manifest, because it is written after it."""
    content = read_record(path)
    return content is not None and isinstance(content.get("cells"), list)


def git_commit() -> str | None:
    """The repository's commit, with + for uncommitted changes; None outside a checkout, or without git."""
    if not (paths.REPOSITORY / ".git").exists():  # installed, perhaps inside somebody's repository
        return None
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=paths.REPOSITORY, capture_output=True, text=True)
    except OSError:
        return None
    return answer.stdout.strip() or None


def figures_of(folder: Path, stage: str) -> list[Path]:
    """A stage's files in `folder`: their names begin with the stage's, without its number.

    The longest stage name counts: color_and_fid_hues.png does not belong to a stage "color".
    """
    own = noun(stage)
    longer = tuple(f"{other}_" for other in map(noun, notebook_names()) if other.startswith(f"{own}_"))
    found = (path for path in folder.glob(f"{own}_*") if path.is_file() and not path.name.startswith(longer))
    return sorted(found)


def noun(stage: str) -> str:
    """A stage's name without its number: "sampling"."""
    return stage.split("_", 1)[1]
