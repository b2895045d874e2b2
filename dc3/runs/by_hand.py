"""What a notebook says that a person opened: the run it writes, its unusual parameters, what is stale."""

from typing import Any

from dc3.machine import paths
from dc3.runs.manifests import read_manifest
from dc3.runs.parameters import notebook_names
from dc3.runs.workspace import differing, listed


def first_line(stage: str, params: dict[str, Any], is_changed: bool) -> str:
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
