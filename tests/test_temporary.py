"""The short-lived folders of kernels: short paths, and nothing left by killed processes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import pytest
from workshop import Workshop

from dc3.machine import temporary
from dc3.machine.files import replacing
from dc3.machine.temporary import LONGEST_SOCKET, PREFIX, temporary_folder
from dc3.runs.kernels import kernel_channel

HOLD = """
import sys, time
from dc3.machine.temporary import temporary_folder
with temporary_folder() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""

KILLED = """
import os, signal, sys
from contextlib import ExitStack
from dc3.machine.files import new_folder, replacing
with ExitStack() as half:
    for path in sys.argv[1:]:
        name = os.path.basename(path)
        written = half.enter_context(replacing(path) if "." in name else new_folder(path))
        (written if "." in name else written / "train.parquet").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def long_folder(tmp_path, monkeypatch):
    """A TMPDIR of more than 100 characters."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_sockets_of_a_kernel_fit_where_tmpdir_is_long(long_folder):
    with kernel_channel() as channel, socket.socket(socket.AF_UNIX) as one:
        path = f"{channel['ip']}-1"
        assert not path.startswith(str(long_folder)) and len(path) <= LONGEST_SOCKET
        one.bind(path)


def test_where_no_short_folder_can_be_written_to_tmpdir_is_named(long_folder, monkeypatch):
    monkeypatch.setattr(temporary, "COMMON", (str(long_folder),))
    with pytest.raises(OSError, match=r"TMPDIR = '.*longlong.*': too long a path for sockets; set TMPDIR"):
        temporary.short_base(20)


@pytest.mark.process
def test_the_folder_of_a_killed_process_is_removed_by_the_next_and_that_of_a_living_one_stays(tmp_path, monkeypatch):
    base = tempfile.mkdtemp(dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", base)
    command = [sys.executable, "-c", HOLD]
    options = {"stdout": subprocess.PIPE, "text": True, "env": os.environ | {"TMPDIR": base}}
    killed, living = (subprocess.Popen(command, **options) for _ in range(2))
    try:
        folders = [process.stdout.readline().strip() for process in (killed, living)]
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        with temporary_folder() as own:
            left = {str(path) for path in own.parent.glob(f"{PREFIX}*")}
            assert left == {folders[1], str(own)}
    finally:
        living.kill()
        living.communicate()
        shutil.rmtree(base)


def test_what_killed_runners_left_in_a_run_is_removed_at_the_next_start(tmp_path):
    workshop = Workshop(tmp_path)
    workshop.run()
    notebooks = tmp_path / "runs/tiny/notebooks"
    for left in ("01_total.partial.ipynb", ".01_total.7.partial.ipynb"):
        (notebooks / left).write_text("{", encoding="utf-8")
    (tmp_path / "runs/tiny/.00_count.shared").mkdir()
    assert workshop.run() == {"00_count": "up to date", "01_total": "up to date"}
    assert sorted(path.name for path in notebooks.iterdir()) == ["00_count.ipynb", "01_total.ipynb"]
    assert not list((tmp_path / "runs/tiny").glob("*.shared"))


def test_what_killed_exports_reports_and_caches_left_is_removed_and_what_is_being_written_stays(tmp_path):
    workshop = Workshop(tmp_path)
    workshop.run()
    writing = ["runs/tiny/report.html", "runs/tiny/export-hf", "figures/tiny/README.md", "runs/.features/0a1b.npz"]
    subprocess.run([sys.executable, "-c", KILLED, *(str(tmp_path / path) for path in writing)])
    assert len(list(tmp_path.rglob(".*.partial*"))) == 4
    with replacing(tmp_path / "runs/tiny/report.html") as living:
        living.write_text("a page that another process writes", encoding="utf-8")
        workshop.run()
        assert list(tmp_path.rglob(".*.partial*")) == [living]
