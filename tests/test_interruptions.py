"""Runs that are killed, doubled, cut short or have a wrong clock: the next run ends in the same bytes."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workshop import COUNT, TOTAL, Workshop, executed

from dc3.machine.files import Busy, sha256
from dc3.runs import stage as runs

SLOW_TOTAL = [
    "import os\nimport time\n" + TOTAL[0] + "\nfrom dc3.machine import paths\nfrom dc3.machine.files import replacing",
    TOTAL[1],
    'stage = runs.begin("01_total", globals())\n'
    'numbers = stage.input("00_count/numbers.txt").read_text().split(",")\n'
    'with replacing(stage.output("total.txt")) as partial:\n'
    '    partial.write_text("half")\n'
    '    (paths.HOME / "kernel.pid").write_text(str(os.getpid()))\n'
    '    if (paths.HOME / "slow").exists():\n'
    "        time.sleep(600)\n"
    "    partial.write_text(str(factor * sum(map(int, numbers))))\n"
    "stage.finish()",
]
PATIENCE = 1200  # seconds, on a machine that has other things to do


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workshop = Workshop(tmp_path_factory.mktemp("undisturbed"), {"00_count": COUNT, "01_total": SLOW_TOTAL})
    workshop.run()
    return workshop


@pytest.fixture
def workshop(undisturbed, tmp_path):
    return undisturbed.copy(tmp_path / "copy")


def outputs(workshop):
    stages = (workshop.root / "runs/tiny").glob("0*")
    found = (path for stage in stages for path in stage.rglob("*") if path.is_file())
    return {str(path.relative_to(workshop.root)): sha256(path) for path in found if "json" not in path.suffix}


def start_and_wait_until_it_writes(workshop):
    """The runner and the kernel of 01_total, which is in the middle of a write and would sleep for ten minutes."""
    shutil.rmtree(workshop.root / "runs/tiny/01_total")
    (workshop.root / "kernel.pid").unlink()
    (workshop.root / "slow").touch()
    runner = workshop.begin("run", workshop.params)
    give_up = time.monotonic() + PATIENCE
    while not (workshop.root / "kernel.pid").exists() or not (workshop.root / "kernel.pid").read_text(encoding="utf-8"):
        assert runner.poll() is None and time.monotonic() < give_up, runner.communicate()
        time.sleep(0.05)
    (workshop.root / "slow").unlink()  # whoever runs the cell anew does not sleep
    return runner, int((workshop.root / "kernel.pid").read_text(encoding="utf-8"))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.process
def test_a_second_runner_is_refused_and_one_that_was_killed_holds_no_lock(workshop, undisturbed):
    runner, kernel = start_and_wait_until_it_writes(workshop)
    try:
        with pytest.raises(Busy, match="'tiny'"):
            workshop.run()
        refused = workshop.command("run", workshop.params)
        assert refused.exit_code == 2 and "'tiny'" in refused.stderr
    finally:
        runner.kill()
        runner.communicate()
    assert list((workshop.root / "runs/tiny/01_total").glob(".total.*.partial.txt")), "it was in the middle of a write"
    assert executed(workshop.run()) == ["01_total"]
    assert outputs(workshop) == outputs(undisturbed), "nothing half written is left"
    assert not is_running(kernel)


@pytest.mark.process
def test_a_killed_kernel_is_reported_and_the_next_run_goes_on(workshop, undisturbed):
    runner, kernel = start_and_wait_until_it_writes(workshop)
    os.kill(kernel, signal.SIGKILL)
    _, errors = runner.communicate(timeout=PATIENCE)
    assert runner.returncode == 1
    assert "01_total.ipynb" in errors and "kernel was killed" in errors
    assert workshop.read("00_count/numbers.txt") == "0,1,2,3"
    assert executed(workshop.run()) == ["01_total"]
    assert outputs(workshop) == outputs(undisturbed)


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_a_run_with_the_line_that_goes_on(workshop, undisturbed, number):
    runner, kernel = start_and_wait_until_it_writes(workshop)
    runner.send_signal(number)
    _, errors = runner.communicate(timeout=PATIENCE)
    assert runner.returncode == 128 + number
    said = errors.splitlines()[-1]
    assert said == f"stopped; `{shlex.join(['dc3', 'run', str(workshop.params)])}` goes on from 01"
    assert not is_running(kernel)
    assert executed(workshop.run()) == ["01_total"]
    assert outputs(workshop) == outputs(undisturbed)


def test_a_file_cut_short_is_made_again_and_what_follows_from_it_stays(workshop, undisturbed):
    os.truncate(workshop.root / "runs/tiny/00_count/numbers.txt", 3)
    said = workshop.run()
    assert "numbers.txt" in said["00_count"]
    assert executed(said) == ["00_count"] and said["01_total"] == "up to date"
    assert outputs(workshop) == outputs(undisturbed)


def test_a_clock_that_jumps_by_years_between_stages_changes_nothing(workshop, undisturbed, monkeypatch):
    shutil.rmtree(workshop.root / "runs")
    year, now = 365 * 86400, time.time
    monkeypatch.setattr(time, "time", lambda: now() + 20 * year)
    assert executed(workshop.run(until="00")) == ["00_count"]
    monkeypatch.setattr(time, "time", lambda: now() - 20 * year)
    assert executed(workshop.run()) == ["01_total"]
    for path in (workshop.root / "runs/tiny").rglob("*"):
        age = year if "01_total" in str(path) else -year  # what was made from a file is older than the file
        os.utime(path, (now() - age, now() - age))
    assert executed(workshop.run()) == []
    assert outputs(workshop) == outputs(undisturbed)


def test_a_clock_that_jumps_within_a_stage_does_not_make_it_shorter_than_nothing(home, monkeypatch):
    stage = runs.Stage("00_count", "tiny", {}, "code")
    stage.folder.mkdir(parents=True)
    before = time.time()
    monkeypatch.setattr(time, "time", lambda: before - 86400)
    stage.finish()
    assert 0 <= json.loads((stage.folder / "manifest.json").read_text(encoding="utf-8"))["wall_seconds"] < 60


@pytest.mark.process
@pytest.mark.parametrize("kills", [12, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_in_the_middle_of_writing_a_table_an_array_a_picture_the_old_or_the_new_is_there(tmp_path, kills):
    script = Path(__file__).with_name("killing_writes.py")
    result = subprocess.run([sys.executable, str(script), str(tmp_path), str(kills)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["kills"] == kills and found["damaged"] == []
    assert found["cut_short"] > kills // 8, "most kills should fall into the middle of a write"
