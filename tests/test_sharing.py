"""Taking over a stage from another run: once by the runner, its conditions on stages made by hand."""

import errno
import json
import os

import pytest
from workshop import Workshop, executed

from dc3.machine import files, paths
from dc3.runs import runner
from dc3.runs import stage as runs

STAGE = "01_total"
PARAMS = {"factor": 2}


def test_a_run_takes_over_what_another_has_made_the_same_way(tmp_path):
    workshop = Workshop(tmp_path)
    workshop.run(until="00")
    other = workshop.run(run="other", factor=3)
    assert other["00_count"] == "shared from run tiny" and executed(other) == ["01_total"]
    assert workshop.read("01_total/total.txt", "other") == "18"
    assert (tmp_path / "runs/other/notebooks/00_count.ipynb").exists()
    assert set(workshop.run(run="other", factor=3).values()) == {"up to date"}
    assert executed(workshop.run(run="other", force=True, until="00")) == ["00_count"]


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Runs "mine", with the first stage, and "twin", with both."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    for module in (runner, runs):
        monkeypatch.setattr(module, "notebook_fingerprint", lambda name: "the code")
    for run in ("mine", "twin"):
        make_count(run)
    (tmp_path / "weights").write_text("weights", encoding="utf-8")
    make_total("twin", tmp_path / "weights")
    return tmp_path


def make_count(run, numbers="0,1"):
    stage = runs.Stage("00_count", run, {"run": run}, "the code")
    stage.folder.mkdir(parents=True, exist_ok=True)
    stage.output("numbers.txt").write_text(numbers, encoding="utf-8")
    stage.finish()


def make_total(run, weights):
    stage = runs.Stage(STAGE, run, PARAMS | {"run": run}, "the code")
    stage.input("00_count/numbers.txt")
    stage.use(weights)
    written = [stage.output(name) for name in ("total.txt", "deep/er/table.txt", ".hidden", "begun.json")]
    for path in (*written, stage.figures / "total_curve.png", runs.executed_copy(run, STAGE)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name, encoding="utf-8")
    runs.executed_copy(run, STAGE).write_text('{"cells": []}', encoding="utf-8")
    stage.finish(count=2)


def take_over(params=PARAMS):
    return runner.take_over("mine", STAGE, params | {"run": "mine"})


def why_not_current():
    return runs.why_not_current("mine", STAGE, PARAMS | {"run": "mine"})


def cut(path):
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")


def climbing(manifest):
    """A manifest with a file outside the stage's folder, whose bytes are as it says."""
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["outputs"]["../../../weights"] = files.sha256(manifest.parents[3] / "weights")
    manifest.write_text(json.dumps(content), encoding="utf-8")


def of_earlier_layout(manifest):
    """Manifests of dc3's flat modules had no layout."""
    manifest.write_text(
        json.dumps({k: v for k, v in json.loads(manifest.read_text(encoding="utf-8")).items() if k != "layout"}),
        encoding="utf-8",
    )


def half_finish(house):
    folder = house / "runs/mine" / STAGE
    folder.mkdir()
    (folder / "begun.json").write_text('{"layout": 2}', encoding="utf-8")
    (folder / "half.txt").write_text("half", encoding="utf-8")
    return folder


def test_the_stage_is_current_and_replaces_what_lay_there(house):
    folder = half_finish(house)
    others = "figures/mine/validation_curve.png"
    stale = "figures/mine/total_of_other_parameters.png"
    for leftover in ("runs/mine/.01_total.shared/outputs/total.txt", "figures/mine/total_curve.png", stale, others):
        (house / leftover).parent.mkdir(parents=True, exist_ok=True)
        (house / leftover).write_text("of a take-over that was killed, or of other parameters", encoding="utf-8")
    assert take_over() == "twin" and why_not_current() is None
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "manifest.json", "table.txt", "total.txt"]  # fmt: skip
    assert sorted(path.name for path in (house / "runs/mine").iterdir()) == ["00_count", STAGE, "notebooks"]
    assert not (house / stale).exists() and (house / others).exists()
    for shared in (f"runs/*/{STAGE}/deep/er/table.txt", "figures/*/total_curve.png", f"runs/*/notebooks/{STAGE}.ipynb"):
        mine, twin = sorted(house.glob(shared))
        assert mine.samefile(twin)


def test_the_manifest_says_whose_it_is_and_where_it_comes_from(house):
    take_over()
    mine, twin = (
        json.loads((house / "runs" / run / STAGE / "manifest.json").read_text(encoding="utf-8"))
        for run in ("mine", "twin")
    )
    assert mine == twin | {"run": "mine", "params": PARAMS | {"run": "mine"}, "shared_from": "twin"}
    assert list(mine["outputs"]) == ["deep/er/table.txt", "total.txt"] and mine["facts"] == {"count": 2}


@pytest.mark.parametrize(
    "damage",
    [
        lambda house: (house / f"runs/twin/{STAGE}/total.txt").write_text("99", encoding="utf-8"),
        lambda house: (house / f"runs/twin/{STAGE}/deep/er/table.txt").unlink(),
        lambda house: (house / f"runs/twin/{STAGE}/manifest.json").unlink(),
        lambda house: cut(house / f"runs/twin/{STAGE}/manifest.json"),
        lambda house: (house / f"runs/twin/{STAGE}/manifest.json").write_text(
            '{"layout": 2, "params": 3}', encoding="utf-8"
        ),
        lambda house: (house / f"runs/twin/{STAGE}/manifest.json").write_text("[" * 100_000, encoding="utf-8"),
        lambda house: climbing(house / f"runs/twin/{STAGE}/manifest.json"),
        lambda house: (house / f"runs/twin/notebooks/{STAGE}.ipynb").write_text('{"cells": [', encoding="utf-8"),
        lambda house: of_earlier_layout(house / f"runs/twin/{STAGE}/manifest.json"),
        lambda house: (house / "figures/twin/total_curve.png").write_text("painted over", encoding="utf-8"),
        lambda house: (house / f"runs/twin/notebooks/{STAGE}.ipynb").unlink(),
        lambda house: (house / "weights").write_text("other weights", encoding="utf-8"),
        lambda house: (house / "weights").unlink(),
        lambda house: make_count("mine", "0,1,2"),
    ],
    ids=[
        "output",
        "missing output",
        "unfinished",
        "cut manifest",
        "manifest without its parts",
        "manifest of brackets",
        "manifest that leads out of its folder",
        "cut notebook",
        "earlier layout",
        "figure",
        "no notebook",
        "weights",
        "no weights",
        "other input",
    ],
)
def test_what_is_damaged_or_made_of_other_things_is_not_taken(house, damage):
    folder = half_finish(house)
    damage(house)
    assert take_over() is None
    assert sorted(path.name for path in folder.iterdir()) == ["begun.json", "half.txt"], "the stage can go on from it"
    assert not list((house / "runs/mine").glob(".*"))


def test_other_parameters_and_other_code_are_not_taken(house, monkeypatch):
    assert take_over({"factor": 3}) is None
    assert take_over(PARAMS | {"new": 1}) is None
    monkeypatch.setattr(runner, "notebook_fingerprint", lambda name: "other code")
    assert take_over() is None


def test_a_twin_that_cannot_be_read_is_no_concern_of_this_run(house, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(runner, "sha256", refuse)
    assert take_over() is None


def test_a_full_disk_is_not_the_other_runs_fault(house, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(runner, "link", full)
    with pytest.raises(OSError, match="No space left"):
        take_over()


def test_a_damaged_twin_does_not_hide_a_sound_one(house):
    make_count("zwilling")
    make_total("zwilling", house / "weights")
    (house / f"runs/twin/{STAGE}/total.txt").write_text("99", encoding="utf-8")
    assert take_over() == "zwilling" and why_not_current() is None


def test_the_twins_upstream_may_have_moved_on(house):
    make_count("twin", "7,8,9")
    assert take_over() == "twin" and why_not_current() is None


def test_files_are_copied_where_they_cannot_be_linked(house, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert take_over() == "twin" and why_not_current() is None
    mine, twin = sorted(house.glob(f"runs/*/{STAGE}/total.txt"))
    assert mine.read_bytes() == twin.read_bytes() and not mine.samefile(twin)


def test_what_an_earlier_layout_made_is_kept_when_another_runs_stage_takes_its_place(house):
    make_total("mine", house / "weights")
    of_earlier_layout(house / f"runs/mine/{STAGE}/manifest.json")
    assert take_over() == "twin" and why_not_current() is None
    kept = house / f"runs/mine/.earlier/{STAGE}"
    assert (kept / "total.txt").exists() and (kept / "figures/total_curve.png").exists()
