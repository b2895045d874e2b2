"""The runner and the stages, on a chain of two tiny notebooks; a few times with real kernels, as users start them."""

import json
import shutil

import nbformat
import pytest
from workshop import TOTAL, Workshop, executed, stages_run, write_notebook

from dc3.machine import fingerprints
from dc3.runs.parameters import ParameterError
from dc3.runs.runner import StageFailed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workshop = Workshop(tmp_path_factory.mktemp("finished"))
    workshop.run()
    return workshop


@pytest.fixture
def workshop(finished, tmp_path):
    """A copy of the finished run, to change at will."""
    return finished.copy(tmp_path / "copy")


@pytest.mark.process
def test_a_run_executes_the_stages_in_order_and_names_its_figures(tmp_path):
    workshop = Workshop(tmp_path)
    result = workshop.dc3("run", workshop.params)
    assert result.returncode == 0, result.stderr
    assert stages_run(result) == ["00_count", "01_total"] and workshop.read("01_total/total.txt") == "12"
    assert "\nfigures and tables: figures/tiny\n" in result.stdout and "dc3 report tiny" in result.stdout
    notebook = nbformat.read(tmp_path / "runs/tiny/notebooks/01_total.ipynb", as_version=4)
    assert all(cell.execution_count for cell in notebook.cells)
    manifest = json.loads(workshop.read("01_total/manifest.json"))
    assert manifest["params"] == {"run": "tiny", "factor": 2} and "00_count/numbers.txt" in manifest["inputs"]
    assert manifest["versions"]["torch"] and manifest["wall_seconds"] >= 0
    assert workshop.run() == {"00_count": "up to date", "01_total": "up to date"}


@pytest.mark.process
def test_two_runs_at_once_do_not_hear_each_other(workshop):
    options = "--until", "00", "-p", "n"
    twins = [workshop.begin("run", workshop.params, "-p", "run", f"twin{n}", *options, n) for n in (5, 6)]
    for n, process in zip((5, 6), twins, strict=True):
        _, errors = process.communicate()
        assert process.returncode == 0 and "Invalid" not in errors, errors
        assert workshop.read("00_count/numbers.txt", f"twin{n}") == ",".join(map(str, range(n)))


@pytest.mark.process
def test_a_failing_cell_is_shown_with_its_notebook_and_what_was_done_stays(workshop):
    broken = [*TOTAL[:2], TOTAL[2].replace("sum(map(int, numbers))", '1 / int("0")')]
    write_notebook(workshop.notebooks, "01_total", broken)
    result = workshop.dc3("run", workshop.params)
    assert result.returncode == 1
    assert "01_total.ipynb, cell [3]: ZeroDivisionError: division by zero" in result.stderr
    assert "stage.output" in result.stderr, "the traceback shows the failing line"
    assert workshop.read("00_count/numbers.txt") == "0,1,2,3"
    write_notebook(workshop.notebooks, "01_total", TOTAL)
    assert executed(workshop.run()) == ["01_total"]


def test_finished_stages_are_skipped_and_only_what_a_change_reaches_is_redone(workshop):
    assert workshop.run() == {"00_count": "up to date", "01_total": "up to date"}
    assert workshop.run(factor=3) == {"00_count": "up to date", "01_total": "running (changed: factor)"}
    assert workshop.read("01_total/total.txt") == "18"
    assert executed(workshop.run(factor=3, n=5)) == ["00_count", "01_total"]
    assert workshop.read("01_total/total.txt") == "30"


def test_a_stage_whose_inputs_come_out_the_same_is_not_redone(workshop):
    assert workshop.run(shift=1) == {"00_count": "running (changed: shift)", "01_total": "up to date"}


def test_changed_code_is_redone_and_a_changed_comment_is_not(workshop):
    write_notebook(workshop.notebooks, "01_total", [*TOTAL[:2], "# a remark\n" + TOTAL[2]])
    assert executed(workshop.run()) == []
    write_notebook(workshop.notebooks, "01_total", [*TOTAL[:2], TOTAL[2].replace("factor *", "10 * factor *")])
    assert executed(workshop.run()) == ["01_total"] and workshop.read("01_total/total.txt") == "120"


def test_an_output_changed_behind_the_runners_back_is_redone(workshop):
    (workshop.root / "runs/tiny/01_total/total.txt").write_text("99", encoding="utf-8")
    assert "total.txt" in workshop.run()["01_total"] and workshop.read("01_total/total.txt") == "12"


def test_from_and_force_redo_what_they_say(workshop):
    assert executed(workshop.run(start="01")) == ["01_total"]
    assert executed(workshop.run(force=True)) == ["00_count", "01_total"]
    assert executed(workshop.run(force=True, until="00")) == ["00_count"]
    with pytest.raises(ParameterError, match="--from 01 --until 00"):
        workshop.run(start="01", until="00")
    unknown = workshop.command("run", workshop.params, "--from", "07")
    assert unknown.exit_code == 2 and "00_count, 01_total" in unknown.stderr


COSTLY = TOTAL[2].replace(
    "stage.finish()",
    'steps = stage.output("steps.txt")\n'
    'steps.write_text((steps.read_text() if steps.exists() else "") + "x")\n'
    'if (paths.HOME / "die").exists():\n'
    "    raise KeyboardInterrupt\n"
    "stage.finish()",
)


def test_a_stage_redone_on_request_takes_over_nothing_and_goes_on_after_an_interruption(workshop):
    write_notebook(workshop.notebooks, "01_total", ["from dc3.machine import paths\n" + TOTAL[0], TOTAL[1], COSTLY])
    assert executed(workshop.run()) == ["01_total"] and workshop.read("01_total/steps.txt") == "x"
    (workshop.root / "die").touch()
    with pytest.raises(KeyboardInterrupt):
        workshop.run(start="01")
    assert workshop.read("01_total/steps.txt") == "x"
    (workshop.root / "die").unlink()
    assert executed(workshop.run()) == ["01_total"] and workshop.read("01_total/steps.txt") == "xx"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-p", "factr", "3"], ["factr:", "did you mean factor?"]),
        (["-p", "n", "0"], ["n = 0", "greater than 0"]),
        (["-p", "n", "many"], ["n = 'many'"]),
    ],
)
def test_refused_parameters_run_nothing(workshop, arguments, named):
    shutil.rmtree(workshop.root / "runs")
    result = workshop.command("run", workshop.params, *arguments)
    assert result.exit_code == 2 and all(part in result.stderr for part in named), result.stderr
    assert not (workshop.root / "runs").exists()


def test_a_stage_opened_before_the_one_it_needs_says_which(workshop):
    shutil.rmtree(workshop.root / "runs/tiny/00_count")
    with pytest.raises(StageFailed, match=r"StageMissing: run 'tiny' .*00_count"):
        workshop.run(start="01")


def test_a_notebook_that_never_finishes_its_stage_is_an_error(workshop):
    write_notebook(workshop.notebooks, "01_total", [*TOTAL[:2], TOTAL[2].replace("stage.finish()", "")])
    with pytest.raises(StageFailed, match=r"01_total\.ipynb .*stage\.finish\(\)"):
        workshop.run()


def test_dc3_params_lists_name_type_default_and_help(finished):
    listed = finished.command("params").stdout
    assert "n: PositiveInt = 3  [00]" in listed and "how far to count" in listed
    assert "run: RunName = 'tiny'  [00, 01]" in listed


def test_the_code_of_a_stage_includes_the_modules_it_imports_at_second_hand(tmp_path):
    (tmp_path / "near.py").write_text("from dc3 import far\n", encoding="utf-8")
    (tmp_path / "far.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "other.py").write_text("y = 1\n", encoding="utf-8")
    found = fingerprints.imported_files("from dc3.near import f", tmp_path)
    assert found == {tmp_path / "near.py", tmp_path / "far.py"}
