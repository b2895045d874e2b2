"""Stages begun and finished in this process, without their notebooks."""

import json

import pytest

from dc3.machine import files
from dc3.runs import stage as runs
from dc3.runs.parameters import declared

STAGE = "04_compensation"


@pytest.fixture
def begin(home, monkeypatch):
    """Begins the stage as its notebook does, with some other values."""
    monkeypatch.setattr(runs, "notebook_fingerprint", lambda name: "the code")
    defaults = {key: p.default for key, p in declared(STAGE).items()} | {"run": "tiny"}
    yield lambda **values: runs.begin(STAGE, defaults | values)
    files.release_lock(runs.stage_lock("tiny", STAGE))


def manifest(stage):
    stage.finish()
    return json.loads((stage.folder / "manifest.json").read_text())


def test_pictures_and_tables_of_other_parameters_are_not_taken_for_the_stages_own(begin, home):
    for name in ("compensation_strips.png", "compensation_strips.csv", "validation_curves.png"):
        (begin().figures / name).touch()
    assert list(manifest(begin())["figures"]) == ["compensation_strips.csv", "compensation_strips.png"]
    (begin(method="rded").figures / "compensation_set.png").touch()
    assert list(manifest(begin(method="rded"))["figures"]) == ["compensation_set.png"]
    assert (home / "figures/tiny/validation_curves.png").exists(), "another stage's"


def test_a_stage_is_finished_without_git(begin, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert manifest(begin())["git_commit"] is None
