"""The runner and the stages, on a chain of two tiny notebooks, in processes of their own as users start them."""

import json
import shutil

import nbformat
import pytest
from workshop import TOTAL, Workshop, stages_run, write_notebook

from dc3.machine import fingerprints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workshop = Workshop(tmp_path_factory.mktemp("finished"))
    workshop.first = workshop.run()
    return workshop


@pytest.fixture
def workshop(finished, tmp_path):
    """A copy of the finished run, to change at will."""
    copy = object.__new__(Workshop)
    shutil.copytree(finished.root, tmp_path / "copy")
    copy.root, copy.notebooks, copy.params = tmp_path / "copy", tmp_path / "copy/notebooks", tmp_path / "copy/tiny.yaml"
    return copy


def test_a_run_executes_the_stages_in_order_and_names_its_figures(finished):
    assert finished.first.returncode == 0, finished.first.stderr
    assert stages_run(finished.first) == ["00_count", "01_total"]
    assert finished.read("01_total/total.txt") == "12"
    assert finished.first.stdout.rstrip().endswith("figures/tiny/total_figure.txt")
    executed = nbformat.read(finished.root / "runs/tiny/notebooks/01_total.ipynb", as_version=4)
    assert all(cell.execution_count for cell in executed.cells)
    manifest = json.loads(finished.read("01_total/manifest.json"))
    assert manifest["params"] == {"run": "tiny", "factor": 2} and "00_count/numbers.txt" in manifest["inputs"]
    assert manifest["versions"]["torch"] and manifest["wall_seconds"] >= 0


def test_finished_stages_are_skipped_and_only_what_a_change_reaches_is_redone(workshop):
    again = workshop.run()
    assert again.returncode == 0 and stages_run(again) == [] and again.stdout.count("up to date") == 2
    later = workshop.run("-p", "factor", "3")
    assert stages_run(later) == ["01_total"] and workshop.read("01_total/total.txt") == "18"
    earlier = workshop.run("-p", "factor", "3", "-p", "n", "5")
    assert stages_run(earlier) == ["00_count", "01_total"] and workshop.read("01_total/total.txt") == "30"


def test_changed_code_is_redone_and_a_changed_comment_is_not(workshop):
    write_notebook(workshop.notebooks, "01_total", [*TOTAL[:2], "# a remark\n" + TOTAL[2]])
    assert stages_run(workshop.run()) == []
    write_notebook(workshop.notebooks, "01_total", [*TOTAL[:2], TOTAL[2].replace("factor *", "10 * factor *")])
    assert stages_run(workshop.run()) == ["01_total"] and workshop.read("01_total/total.txt") == "120"


def test_an_output_changed_behind_the_runners_back_is_redone(workshop):
    (workshop.root / "runs/tiny/01_total/total.txt").write_text("99")
    result = workshop.run()
    assert "total.txt is not what the stage wrote" in result.stdout
    assert stages_run(result) == ["01_total"] and workshop.read("01_total/total.txt") == "12"


def test_two_runs_at_once_do_not_hear_each_other(workshop):
    runs = [workshop.start("-p", "run", f"twin{k}", "-p", "n", k + 5) for k in range(2)]
    for k, process in enumerate(runs):
        _, errors = process.communicate()
        assert process.returncode == 0 and "Invalid" not in errors, errors
        total = (workshop.root / f"runs/twin{k}/01_total/total.txt").read_text()
        assert total == str(2 * sum(range(k + 5)))


def test_from_and_force_redo_what_they_say(workshop):
    assert stages_run(workshop.run("--from", "01")) == ["01_total"]
    assert stages_run(workshop.run("--force")) == ["00_count", "01_total"]
    assert stages_run(workshop.run("--force", "--until", "00")) == ["00_count"]
    unknown = workshop.run("--from", "07")
    assert unknown.returncode == 2 and "00_count, 01_total" in unknown.stderr
    assert "00_count" in workshop.run("--from", "01", "--until", "00").stderr


COSTLY = TOTAL[2].replace(
    "stage.finish()",
    'steps = stage.output("steps.txt")\n'
    'steps.write_text((steps.read_text() if steps.exists() else "") + "x")\n'
    'if (paths.HOME / "die").exists():\n'
    "    os._exit(1)\n"
    "stage.finish()",
)


def test_what_is_asked_for_takes_over_nothing_and_goes_on_after_a_kill(workshop):
    write_notebook(
        workshop.notebooks, "01_total", ["import os\nfrom dc3.machine import paths\n" + TOTAL[0], TOTAL[1], COSTLY]
    )
    assert stages_run(workshop.run()) == ["01_total"] and workshop.read("01_total/steps.txt") == "x"
    (workshop.root / "die").touch()
    assert workshop.run("--from", "01").returncode == 1 and workshop.read("01_total/steps.txt") == "x"
    (workshop.root / "die").unlink()
    assert stages_run(workshop.run()) == ["01_total"] and workshop.read("01_total/steps.txt") == "xx"


def test_a_failing_cell_is_shown_with_its_notebook_and_what_was_done_stays(workshop):
    broken = [*TOTAL[:2], TOTAL[2].replace("sum(map(int, numbers))", '1 / int("0")')]
    write_notebook(workshop.notebooks, "01_total", broken)
    result = workshop.run()
    assert result.returncode == 1
    assert "01_total.ipynb, cell [3]: ZeroDivisionError: division by zero" in result.stderr
    assert "stage.output" in result.stderr, "the traceback shows the failing line"
    assert workshop.read("00_count/numbers.txt") == "0,1,2,3"
    write_notebook(workshop.notebooks, "01_total", TOTAL)
    assert stages_run(workshop.run()) == ["01_total"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-p", "factr", "3"], "factr: no notebook declares this parameter; did you mean factor?"),
        (["-p", "n", "0"], "n = 0 is not allowed: must be greater than 0"),
        (["-p", "n", "many"], "n = 'many' is not allowed"),
    ],
)
def test_refused_parameters_run_nothing(workshop, arguments, named):
    shutil.rmtree(workshop.root / "runs")
    result = workshop.run(*arguments)
    assert result.returncode == 2 and named in result.stderr
    assert not (workshop.root / "runs").exists()


def test_a_stage_opened_before_the_one_it_needs_says_which(workshop):
    shutil.rmtree(workshop.root / "runs/tiny/00_count")
    result = workshop.run("--from", "01")
    assert result.returncode == 1
    assert "run 'tiny' has no finished 00_count: run notebooks/00_count.ipynb first" in result.stderr


def test_a_notebook_that_never_finishes_its_stage_is_an_error(workshop):
    write_notebook(workshop.notebooks, "01_total", [*TOTAL[:2], TOTAL[2].replace("stage.finish()", "")])
    result = workshop.run()
    assert result.returncode == 1 and "never calls stage.finish()" in result.stderr


def test_dc3_params_lists_name_type_default_and_help(finished):
    listed = finished.dc3("params").stdout
    assert "n: PositiveInt = 3  [00]" in listed and "how far to count" in listed
    assert "run: RunName = 'tiny'  [00, 01]" in listed


def test_the_code_of_a_stage_includes_the_modules_it_imports_at_second_hand(tmp_path):
    (tmp_path / "near.py").write_text("from dc3 import far\n")
    (tmp_path / "far.py").write_text("x = 1\n")
    (tmp_path / "other.py").write_text("y = 1\n")
    found = fingerprints.imported_files("from dc3.near import f", tmp_path)
    assert found == {tmp_path / "near.py", tmp_path / "far.py"}
