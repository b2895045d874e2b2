"""Runs that are killed, doubled, cut short or have a wrong clock: the next run ends in the same bytes.

Two tiny notebooks, in processes of their own as users start them.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workshop import COUNT, TOTAL, Workshop, stages_run

from dc3.machine import paths
from dc3.machine.files import sha256
from dc3.runs import stage as runs

pytestmark = pytest.mark.slow

SLOW_TOTAL = [
    "import os\nimport time\nfrom pathlib import Path\n" + TOTAL[0] + "\nfrom dc3.machine.files import replacing",
    TOTAL[1],
    'stage = runs.begin("01_total", globals())\n'
    'numbers = stage.input("00_count/numbers.txt").read_text().split(",")\n'
    'with replacing(stage.output("total.txt")) as partial:\n'
    '    partial.write_text("half")\n'
    '    home = Path(os.environ["DC3_HOME"])\n'
    '    (home / "kernel.pid").write_text(str(os.getpid()))\n'
    '    if (home / "slow").exists():\n'
    "        time.sleep(600)\n"
    "    partial.write_text(str(factor * sum(map(int, numbers))))\n"
    "stage.finish()",
]
PATIENCE = 1200  # seconds, on a machine that has other things to do


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workshop = Workshop(tmp_path_factory.mktemp("undisturbed"), {"00_count": COUNT, "01_total": SLOW_TOTAL})
    result = workshop.run()
    assert result.returncode == 0, result.stderr
    return workshop


@pytest.fixture
def workshop(undisturbed, tmp_path):
    """A run of which 01_total is under way, writing, and would sleep for ten minutes."""
    copy = object.__new__(Workshop)
    copy.root = shutil.copytree(undisturbed.root, tmp_path / "copy")
    copy.notebooks, copy.params = copy.root / "notebooks", copy.root / "tiny.yaml"
    return copy


def outputs(workshop):
    stages = (workshop.root / "runs/tiny").glob("0*")
    found = (path for stage in stages for path in stage.rglob("*") if path.is_file())
    return {str(path.relative_to(workshop.root)): sha256(path) for path in found if "json" not in path.suffix}


def start_and_wait_until_it_writes(workshop):
    shutil.rmtree(workshop.root / "runs/tiny/01_total")
    (workshop.root / "kernel.pid").unlink()
    (workshop.root / "slow").touch()
    runner = workshop.start()
    give_up = time.monotonic() + PATIENCE
    while not (workshop.root / "kernel.pid").exists() or not (workshop.root / "kernel.pid").read_text():
        assert runner.poll() is None and time.monotonic() < give_up, runner.communicate()
        time.sleep(0.05)
    (workshop.root / "slow").unlink()  # whoever runs the cell anew does not sleep
    return runner, int((workshop.root / "kernel.pid").read_text())


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_second_runner_is_refused_and_one_that_was_killed_holds_no_lock(workshop, undisturbed):
    runner, kernel = start_and_wait_until_it_writes(workshop)
    try:
        second = workshop.run()
        assert second.returncode == 2
        assert "another process is running run 'tiny': wait for it to end" in second.stderr
    finally:
        runner.kill()
        runner.communicate()
    assert list((workshop.root / "runs/tiny/01_total").glob(".total.*.partial.txt")), "it was in the middle of a write"
    after = workshop.run()
    assert after.returncode == 0 and stages_run(after) == ["01_total"], after.stderr
    assert outputs(workshop) == outputs(undisturbed), "nothing half written is left"
    assert not is_running(kernel)


def test_a_killed_kernel_is_said_and_the_next_run_goes_on(workshop, undisturbed):
    runner, kernel = start_and_wait_until_it_writes(workshop)
    os.kill(kernel, signal.SIGKILL)
    _, errors = runner.communicate(timeout=PATIENCE)
    assert runner.returncode == 1
    assert "01_total.ipynb: its kernel was killed, most often for want of memory" in errors
    assert workshop.read("00_count/numbers.txt") == "0,1,2,3"
    after = workshop.run()
    assert after.returncode == 0 and stages_run(after) == ["01_total"], after.stderr
    assert outputs(workshop) == outputs(undisturbed)


def test_a_file_cut_short_is_made_again_and_what_follows_from_it_stays(workshop, undisturbed):
    path = workshop.root / "runs/tiny/00_count/numbers.txt"
    os.truncate(path, 3)
    result = workshop.run()
    assert "00_count           running (numbers.txt is not what the stage wrote)" in result.stdout
    assert stages_run(result) == ["00_count"] and "01_total           up to date" in result.stdout
    assert outputs(workshop) == outputs(undisturbed)


CLOCK = """
import os, time
real = time.time
time.time = lambda: real() + float(os.environ["CLOCK_IS_OFF_BY"])
"""


def test_a_clock_that_jumps_by_years_between_stages_changes_nothing(workshop, undisturbed, monkeypatch, tmp_path):
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(CLOCK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "clock"), os.environ.get("PYTHONPATH", "")]))
    shutil.rmtree(workshop.root / "runs")
    year = 365 * 86400
    monkeypatch.setenv("CLOCK_IS_OFF_BY", str(20 * year))
    assert stages_run(workshop.run("--until", "00")) == ["00_count"]
    monkeypatch.setenv("CLOCK_IS_OFF_BY", str(-20 * year))
    assert stages_run(workshop.run()) == ["01_total"]
    for path in (workshop.root / "runs/tiny").rglob("*"):
        age = year if "01_total" in str(path) else -year  # what was made from a file is older than the file
        os.utime(path, (time.time() - age, time.time() - age))
    assert stages_run(workshop.run()) == []
    assert outputs(workshop) == outputs(undisturbed)


def test_a_clock_that_jumps_within_a_stage_does_not_make_it_shorter_than_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    stage = runs.Stage("00_count", "tiny", {}, "code")
    stage.folder.mkdir(parents=True)
    before = time.time()
    monkeypatch.setattr(time, "time", lambda: before - 86400)
    stage.finish()
    assert 0 <= json.loads((stage.folder / "manifest.json").read_text())["wall_seconds"] < 60


def test_killed_in_the_middle_of_writing_a_table_an_array_a_picture_the_old_or_the_new_is_there(tmp_path):
    script = Path(__file__).with_name("killing_writes.py")
    result = subprocess.run([sys.executable, str(script), str(tmp_path), "40"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["kills"] == 40 and told["damaged"] == []
    assert told["cut_short"] > 5, "most kills should fall into the middle of a write"
