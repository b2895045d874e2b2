"""Sharing: a stage that another run has finished with the same parameters, code and inputs is taken over, not redone.

Files are taken over as hard links. That is safe because stages never change a file in place: they write a new one
beside it and rename (`dc3.machine.files.replacing`).
"""

import os
import shutil
from pathlib import Path
from typing import Any

from dc3.machine import files, paths
from dc3.machine.files import flush_to_disk, sha256
from dc3.machine.fingerprints import is_as_listed, notebook_fingerprint
from dc3.runs.parameters import decisive
from dc3.runs.stage import MANIFEST, at_work, executed_copy, figures_of, read_manifest, stage_lock, write_json


def adopt(run: str, name: str, params: dict[str, Any]) -> str | None:
    """Takes over the stage of another run that would come out the same; its run's name, or None when there is none.

    `params` are the stage's. Outputs, figures and executed notebook are gathered and verified beside the stage's folder
    before anything that lies in it is given up; the manifest is written last. files.Busy when the stage is under way.
    """
    code = notebook_fingerprint(name)
    gathered = paths.RUNS / run / f".{name}.shared"
    for path in sorted(paths.RUNS.glob(f"*/{name}/{MANIFEST}")):
        other = path.parent.parent.name
        manifest = read_manifest(other, name)
        if other == run or manifest is None or not _is_twin(manifest, run, params, code):
            continue
        try:
            if _gather(other, manifest, gathered):
                with files.locked(stage_lock(run, name), at_work(run, name)):
                    _move_in(gathered, run, name)
                    shared = manifest | {"run": run, "params": params, "shared_from": other}
                    write_json(paths.RUNS / run / name / MANIFEST, shared)
                return other
        finally:
            shutil.rmtree(gathered, ignore_errors=True)
    return None


def _is_twin(manifest: dict[str, Any], run: str, params: dict[str, Any], code: str) -> bool:
    """Whether the stage, made in `run` now, would be the one of this manifest."""
    return (
        decisive(manifest["params"]) | {"run": run} == decisive(params)
        and manifest["code"] == code
        and all(_made_in(run, file) == digest for file, digest in manifest["inputs"].items())
        and all(is_as_listed(paths.located(path), digest) for path, digest in manifest["external"].items())
    )


def _made_in(run: str, file: str) -> str | None:
    """The SHA-256 of a stage's file, such as "02_binning/bins.parquet", by this run's manifest."""
    stage, output = file.split("/", 1)
    return (read_manifest(run, stage) or {"outputs": {}})["outputs"].get(output)


def _gather(run: str, manifest: dict[str, Any], gathered: Path) -> bool:
    """Links what a run's stage left into a folder of its own; False when that is not what the manifest says."""
    name = manifest["stage"]
    shutil.rmtree(gathered, ignore_errors=True)
    sources = {"outputs": paths.RUNS / run / name, "figures": paths.FIGURES / run}
    try:
        link(executed_copy(run, name), gathered / "notebook.ipynb")
        for kind, folder in sources.items():
            (gathered / kind).mkdir()
            for file in manifest[kind]:
                link(folder / file, gathered / kind / file)
    except FileNotFoundError:  # deleted, or begun anew by its own run at this moment
        return False
    return all(sha256(gathered / kind / file) == digest for kind in sources for file, digest in manifest[kind].items())


def _move_in(gathered: Path, run: str, name: str) -> None:
    """Puts what was gathered where the stage would have written it, in the place of what lies there."""
    stage, figures, notebook = paths.RUNS / run / name, paths.FIGURES / run, executed_copy(run, name)
    shutil.rmtree(stage, ignore_errors=True)
    for folder in (figures, notebook.parent):
        folder.mkdir(parents=True, exist_ok=True)
    (gathered / "outputs").rename(stage)
    for figure in figures_of(figures, name):
        figure.unlink()
    for figure in (gathered / "figures").iterdir():
        figure.replace(figures / figure.name)
    (gathered / "notebook.ipynb").replace(notebook)
    for folder in (stage.parent, figures, notebook.parent):
        flush_to_disk(folder)


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none. FileNotFoundError when `source` is not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)
        flush_to_disk(target)
