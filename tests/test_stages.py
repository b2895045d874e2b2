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
    return json.loads((stage.folder / "manifest.json").read_text(encoding="utf-8"))


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


def why_not_current(stage):
    return runs.why_not_current("tiny", STAGE, stage.params)


def finished(begin):
    """The stage, with an output, a figure and its executed notebook."""
    stage = begin()
    notebook = runs.executed_copy("tiny", STAGE)
    notebook.parent.mkdir(parents=True)
    for path in (stage.output("table.txt"), stage.figures / "compensation_set.png"):
        path.write_text("computed for weeks", encoding="utf-8")
    notebook.write_text('{"cells": ["computed for weeks"]}', encoding="utf-8")
    stage.finish()
    return stage


def of_earlier_layout(*records):
    """Manifests of dc3's flat modules had no layout."""
    for path in records:
        path.write_text(
            json.dumps({k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k != "layout"}),
            encoding="utf-8",
        )


@pytest.mark.parametrize("renew", [lambda begin: begin(), lambda begin: runs.discard("tiny", STAGE)])
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_stage_of_an_earlier_layout_is_said_and_set_aside_never_removed(begin, home, renew, is_finished):
    stage = finished(begin)
    of_earlier_layout(stage.folder / "manifest.json", stage.folder / "begun.json")
    if not is_finished:
        (stage.folder / "manifest.json").unlink()
    assert why_not_current(stage) == f"made by an earlier layout of dc3: kept in runs/tiny/.earlier/{STAGE}"
    assert runs.read_manifest("tiny", STAGE) is None or "table.txt" in runs.read_manifest("tiny", STAGE)["outputs"]
    renew(begin)
    kept = home / "runs/tiny/.earlier" / STAGE
    for name in ("table.txt", "figures/compensation_set.png", f"figures/{STAGE}.ipynb"):
        assert "computed for weeks" in (kept / name).read_text(encoding="utf-8")
    assert not stage.output("table.txt").exists() and why_not_current(stage) == "not done yet"
    begin().finish()
    assert why_not_current(stage) is None and (kept / "table.txt").exists()


def test_what_is_set_aside_twice_is_there_twice(begin, home):
    for _ in range(2):
        stage = begin()
        stage.output("table.txt").touch()
        of_earlier_layout(stage.folder / "begun.json")
    begin()
    kept = sorted(path.name for path in (home / "runs/tiny/.earlier").iterdir())
    assert kept == [STAGE, f"{STAGE}-2"]


@pytest.mark.parametrize("content", ["", '{"layout": 2, "para', "[]", b"\xff\xfe"])
def test_a_damaged_manifest_has_the_stage_made_again(begin, content):
    stage = finished(begin)
    content = content if isinstance(content, bytes) else content.encode()
    (stage.folder / "manifest.json").write_bytes(content)
    assert runs.read_manifest("tiny", STAGE) is None
    assert why_not_current(stage) == "manifest.json is not what the stage wrote"
    begin().finish()
    assert why_not_current(stage) is None


@pytest.mark.parametrize("content", ["", '{"cells": [', "[]", '{"cells": 3}'])
def test_a_cut_executed_notebook_has_the_stage_made_again_from_what_it_had_kept(begin, content):
    stage, notebook = finished(begin), runs.executed_copy("tiny", STAGE)
    notebook.write_text(content, encoding="utf-8")
    assert why_not_current(stage) == f"{STAGE}.ipynb is not what the stage wrote"
    assert begin().output("table.txt").exists(), "nothing that was computed is lost"
    begin().finish()
    notebook.unlink()
    assert why_not_current(stage) is None, "a notebook that is missing, as after work by hand, is no reason"


def test_a_damaged_begun_json_is_nothing_to_go_on_from(begin):
    stage = begin()
    stage.output("half.txt").touch()
    (stage.folder / "begun.json").write_text('{"layout": 2, "pa', encoding="utf-8")
    assert not begin().output("half.txt").exists()


def test_the_same_parameters_and_code_go_on_and_others_begin_from_nothing(begin, monkeypatch):
    begin().output("half.txt").touch()
    assert begin(condensed_out="/somewhere/else").output("half.txt").exists(), "a copy of the set is no other set"
    assert not begin(method="rded").output("half.txt").exists()
    begin().output("half.txt").touch()
    monkeypatch.setattr(runs, "notebook_fingerprint", lambda name: "other code")
    assert not begin().output("half.txt").exists()


def test_hidden_files_and_folders_of_systems_are_no_outputs(begin):
    stage = begin()
    for name in ("numbers.txt", ".DS_Store", ".ipynb_checkpoints/numbers.txt", "inner/@eaDir/x.txt", "inner/y.txt"):
        (path := stage.folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sorted(manifest(stage)["outputs"]) == ["inner/y.txt", "numbers.txt"]
