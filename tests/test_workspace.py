"""A folder of one's own by `dc3 init`, and what is said of parameters cells and of notebooks opened by hand."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from workshop import TOTAL, Workshop, command, execute_here, executed, write_notebook

from dc3.machine import paths
from dc3.runs import workspace
from dc3.runs.runner import StageFailed

PLACES = "from dc3.machine import paths; print(paths.HOME, paths.NOTEBOOKS, paths.resolve('teachers'), sep='\\n')"


@pytest.fixture
def folder(tmp_path):
    assert command("init", tmp_path / "play").exit_code == 0
    return tmp_path / "play"


def names(root):
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


def test_init_gives_notebooks_params_and_teachers_of_ones_own(folder):
    assert names(folder) == ["notebooks", "params", "teachers"]
    for each in workspace.FOLDERS:
        assert names(folder / each) == names(paths.REPOSITORY / each)


@pytest.mark.parametrize("inside", [".", "notebooks", "params/editor"])
def test_in_it_and_below_it_dc3_uses_its_places(folder, inside):
    python = [sys.executable, "-c", PLACES]
    said = subprocess.run(python, cwd=folder / inside, capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(folder), str(folder / "notebooks"), str(folder / "teachers")]


def test_a_folder_with_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    refused = command("init", tmp_path)
    assert refused.exit_code == 2 and "not empty; name a new folder" in refused.stderr
    assert names(tmp_path) == ["mine.txt"]


def test_a_params_file_of_another_workspace_runs_nothing_here(folder):
    refused = command("run", folder / "params/demo.yaml")
    assert refused.exit_code == 2 and f"cd {folder}" in refused.stderr


def test_without_notebooks_every_command_says_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    for arguments in (["params"], ["run", paths.REPOSITORY / "params/demo.yaml"], ["report", "demo"]):
        refused = command(*arguments)
        assert refused.exit_code == 2 and "dc3 init FOLDER" in refused.stderr, arguments


def set_default(folder, notebook, old, new):
    path = folder / f"{notebook}.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A finished run in a clone whose notebooks are committed; notebooks are executed as by hand."""
    (tmp_path / "clone").mkdir()
    workshop = Workshop(tmp_path / "clone")
    (workshop.root / "pyproject.toml").touch()
    git(workshop.root, "init")
    git(workshop.root, "add", "notebooks")
    git(workshop.root, "commit", "-m", "notebooks")
    monkeypatch.setattr(paths, "REPOSITORY", workshop.root)
    monkeypatch.delenv(paths.HEADLESS, raising=False)
    workshop.run(n=3)
    return workshop


def opened_by_hand(workshop, name, capsys, **values):
    """What a notebook prints whose cells are executed one after another."""
    capsys.readouterr()
    with workshop.entered():
        execute_here(name, "tiny", values)
    return capsys.readouterr().out.splitlines()


def test_a_notebook_opened_by_hand_says_in_a_line_what_it_changes(clone, capsys):
    [same] = opened_by_hand(clone, "00_count", capsys)
    assert same == "00_count writes run tiny (runs/tiny). Parameters: all as they came. No later stage is stale."
    set_default(clone.notebooks, "00_count", "PositiveInt = 3", "PositiveInt = 5")
    [changed] = opened_by_hand(clone, "00_count", capsys)
    assert changed == (
        "00_count writes run tiny (runs/tiny). Parameters: n = 5 (it came with 3). Stale now: 01_total."
    )
    assert executed(clone.run(n=5)) == ["01_total"], "the stage that was finished by hand counts"
    [last] = opened_by_hand(clone, "01_total", capsys, factor=7)
    assert "factor = 7 (it came with 2). No later stage" in last


def test_without_git_nothing_is_said_of_what_was_committed(clone, capsys):
    shutil.rmtree(clone.root / ".git")
    [line] = opened_by_hand(clone, "00_count", capsys, n=5)
    assert line == "00_count writes run tiny (runs/tiny). Stale now: 01_total."


def test_under_the_runner_a_stage_says_nothing(clone, capsys, monkeypatch):
    monkeypatch.setenv(paths.HEADLESS, "1")
    assert opened_by_hand(clone, "00_count", capsys, n=5) == []


@pytest.mark.parametrize("arguments", [["params"], ["run", "tiny.yaml", "--until", "00"]])
def test_parameters_cells_that_are_not_as_committed_are_named(clone, arguments, monkeypatch):
    monkeypatch.chdir(clone.root)
    monkeypatch.setattr("dc3.runs.kernels.Kernels.execute", lambda kernels, *stage: execute_here(*stage))
    monkeypatch.setattr("dc3.runs.kernels.Kernels.start_ahead", lambda kernels, name: None)
    assert "note:" not in clone.command(*arguments).stdout
    set_default(clone.notebooks, "00_count", "PositiveInt = 3", "PositiveInt = 5")
    note = "note: the parameters cell of 00_count has n = 5 (it came with 3): every run takes that by default"
    assert note in clone.command(*arguments).stdout


def test_an_installed_dc3_compares_with_the_notebooks_that_came_with_it(folder, monkeypatch):
    monkeypatch.setattr(paths, "NOTEBOOKS", folder / "notebooks")
    monkeypatch.setattr(workspace, "_committed", lambda file: (paths.REPOSITORY / file).read_text(encoding="utf-8"))
    assert workspace.changed_cells() == []
    set_default(folder / "notebooks", "03_sampling", "ipc: PositiveInt = 10", "ipc: PositiveInt = 5")
    [note] = workspace.changed_cells()
    assert "03_sampling has ipc = 5 (it came with 10)" in note


def figures(workshop):
    return {path.name: path.read_text(encoding="utf-8") for path in (workshop.root / "figures/tiny").glob("total_*")}


BROKEN = TOTAL[2].replace("stage.finish()", 'raise RuntimeError("killed")')


def test_figures_stay_until_their_successors_are_there(clone):
    old = Path(clone.root / "figures/tiny/total_old.txt")
    old.write_text("of an earlier version", encoding="utf-8")
    write_notebook(clone.notebooks, "01_total", [*TOTAL[:2], BROKEN.replace("a figure", "a new figure")])
    with pytest.raises(StageFailed, match="killed"):
        clone.run(n=3)
    assert figures(clone) == {"total_figure.txt": "a new figure", "total_old.txt": "of an earlier version"}
    write_notebook(clone.notebooks, "01_total", TOTAL)
    clone.run(n=3)
    assert figures(clone) == {"total_figure.txt": "a figure"}
    assert list(json.loads(clone.read("01_total/manifest.json"))["figures"]) == ["total_figure.txt"]


def test_figures_of_an_attempt_before_a_kill_are_no_longer_those_of_the_next(clone):
    write_notebook(clone.notebooks, "01_total", [*TOTAL[:2], BROKEN])
    for _ in range(2):  # the second goes on from what the first left
        with pytest.raises(StageFailed):
            clone.run(n=3, factor=9)
    nothing_drawn = TOTAL[2].replace('(stage.figures / "total_figure.txt")', '(stage.folder / "no_figure.txt")')
    write_notebook(clone.notebooks, "01_total", [*TOTAL[:2], nothing_drawn])
    clone.run(n=3, factor=9)
    assert figures(clone) == {}


def test_a_finished_stage_without_its_executed_notebook_is_not_done_again(clone):
    shutil.rmtree(clone.root / "runs/tiny/notebooks")
    assert clone.run(n=3) == {"00_count": "up to date", "01_total": "up to date"}


def test_notebooks_of_a_workspace_keep_their_outputs(folder):
    cells = nbformat.read(folder / "notebooks/03_sampling.ipynb", as_version=4).cells
    assert any(cell.get("outputs") for cell in cells), "a newcomer sees what to expect"
