import os
import signal
import subprocess
import sys

import pytest
from filelock import FileLock

from dc3.machine import files

HOLDER = """
import sys, time
from pathlib import Path
from dc3.machine import files
files.take_lock(Path(sys.argv[1]), "busy")
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/lock."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_that_another_process_holds_is_refused_until_that_process_is_killed(holder, tmp_path):
    with pytest.raises(files.Busy, match="wait for it"):
        files.take_lock(tmp_path / "lock", "wait for it")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with files.locked(tmp_path / "lock", "wait for it"):
        files.take_lock(tmp_path / "lock", "taken by this process already: nothing happens")


def test_what_is_released_can_be_taken_again_and_what_is_not_held_is_left_alone(tmp_path):
    lock = tmp_path / "deep" / "lock"
    for _ in range(2):
        files.take_lock(lock, "busy")
        files.release_lock(lock)
        with FileLock(lock).acquire(timeout=0):  # as another process would
            pass
    files.release_lock(tmp_path / "lock")


def test_a_place_where_no_lock_can_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(files.Busy, match=r"the lock file .*file/lock cannot be created"):
        files.take_lock(tmp_path / "file" / "lock", "busy")
