"""A stage on Ray whose runner, or an actor of which, is killed in the middle: through dc3 run, in a tiny notebook."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from slow_making import BATCH, IMAGES, PICKS, STAMP, STORAGE, Inverted
from workshop import PARAMETERS, Workshop

from dc3 import condensed
from dc3.machine.files import sha256

pytestmark = [pytest.mark.process, pytest.mark.ray]
PATIENCE = 600  # seconds, on a machine that has other things to do

MAKE = [
    "import os\nfrom pathlib import Path\nfrom slow_making import BATCH, IMAGES, PICKS, STORAGE, STAMP, Inverted\n"
    "from dc3 import condensed, runs\nfrom dc3.machine.engine import Engine\n"
    "from dc3.runs.parameters import PositiveInt, RunName",
    PARAMETERS + "n: PositiveInt = 3  # has no effect",
    'stage = runs.begin("00_make", globals())\n'
    'home, where = Path(os.environ["DC3_HOME"]), Engine("ray", actors=1)\n'
    '(home / "kernel.pid").write_text(str(os.getpid()))\n'
    'make = Inverted(home / "lingering")\n'
    'condensed.fill(stage.output("condensed"), IMAGES, PICKS, STORAGE, STAMP, make, BATCH, where)\n'
    "where.stop()\n"
    "stage.finish()",
]


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="pip install 'dc3[ray]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    workshop = Workshop(tmp_path, {"00_make": MAKE})
    (tmp_path / "lingering").touch()
    return workshop


def made(workshop):
    folder = workshop.root / "runs/tiny/00_make/condensed"
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("[!.]*") if path.is_file()}


def start_and_wait_for_two_batches(workshop):
    """The runner, and every process of its stage by name: the kernel, Ray's own, the actor."""
    runner = workshop.begin("run", workshop.params)
    give_up = time.monotonic() + PATIENCE
    while len(made(workshop)) < 2 * BATCH:
        assert runner.poll() is None and time.monotonic() < give_up, runner.communicate()
        time.sleep(0.1)
    kernel = psutil.Process(int((workshop.root / "kernel.pid").read_text(encoding="utf-8")))
    return runner, [kernel, *kernel.children(recursive=True)]


def still_alive(processes):
    """Those that go on after two minutes (Ray's agents take one to see that it is gone), not what nobody has reaped."""
    give_up = time.monotonic() + 120
    while (alive := [process for process in processes if not has_ended(process)]) and time.monotonic() < give_up:
        time.sleep(0.5)
    return alive


def has_ended(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def undisturbed(folder):
    condensed.fill(folder, IMAGES, PICKS, STORAGE, STAMP, Inverted(folder / "nothing"), BATCH)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_runner_that_is_killed_leaves_no_ray_behind_and_the_next_goes_on_to_the_same_bytes(workshop, tmp_path):
    runner, processes = start_and_wait_for_two_batches(workshop)
    names = {process.name() for process in processes}
    assert {"gcs_server", "raylet"} <= names and any("MapWorker" in name for name in names)
    kept = {path: path.stat().st_mtime_ns for path in made(workshop).values()}
    runner.kill()
    runner.communicate()
    (workshop.root / "lingering").unlink()
    again = workshop.dc3("run", workshop.params)
    assert again.returncode == 0, again.stderr
    assert not still_alive(processes)
    assert {name: sha256(path) for name, path in made(workshop).items()} == undisturbed(tmp_path / "undisturbed")
    assert len(kept) == 2 * BATCH and all(path.stat().st_mtime_ns == at for path, at in kept.items())


@pytest.mark.slow
def test_an_actor_that_is_killed_is_replaced_and_the_stage_ends_in_the_same_bytes(workshop, tmp_path):
    runner, processes = start_and_wait_for_two_batches(workshop)
    (actor,) = [process for process in processes if "MapWorker" in process.name()]
    (workshop.root / "lingering").unlink()
    os.kill(actor.pid, signal.SIGKILL)
    _, errors = runner.communicate(timeout=PATIENCE)
    assert runner.returncode == 0, errors
    assert {name: sha256(path) for name, path in made(workshop).items()} == undisturbed(tmp_path / "undisturbed")
