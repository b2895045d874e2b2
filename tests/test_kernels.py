"""Kernels that start ahead: the next notebook's imports are done before its turn, by the code that it is to run."""

import nbformat
import psutil
import pytest
from workshop import Workshop

from dc3.runs.kernels import Kernels
from dc3.runs.runner import StageFailed
from dc3.runs.stage import executed_copy

IMPORTED = """
import os
with open({file!r}, "a", encoding="utf-8") as file:
    print(os.getpid(), file=file)
"""
WAIT = """
import time
from pathlib import Path
import psutil
file, give_up = Path({file!r}), time.monotonic() + 60
while not (file.exists() and file.read_text(encoding="utf-8").endswith("\\n")):
    assert time.monotonic() < give_up, "the next notebook's kernel has not done its imports"
    time.sleep(0.05)
"""
CHANGE = """
second = Path("01_second.ipynb")
changed = second.read_text(encoding="utf-8").replace("= 1", "= 2")
second.write_text(changed, encoding="utf-8")
"""
KILL = "psutil.Process(int(file.read_text(encoding='utf-8'))).kill()"
OWN_HISTORY = "\nassert get_ipython().history_manager.hist_file == ':memory:', 'not in the history of the user'"
PARAMETERS = 'name: str = "tiny"  # the parameters cell'
NAMES = ["00_first", "01_second"]


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Executes two notebooks, the first of which waits for the second's imports and then does something.

    Returns the processes that have done the second's imports, and the one that executed it.
    """
    file, home = str(tmp_path / "imported.txt"), tmp_path / "home"
    home.mkdir()
    (tmp_path / "marking_module.py").write_text(IMPORTED.format(file=file), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    def execute(then):
        first = ["import os" + OWN_HISTORY, PARAMETERS, WAIT.format(file=file) + then]
        second = ["import marking_module\nnever_ahead = 1", PARAMETERS, "print(marking_module.os.getpid())"]
        workshop = Workshop(home, dict(zip(NAMES, (first, second), strict=True)))
        with workshop.entered(), Kernels(NAMES) as kernels:
            for name in NAMES:
                kernels.execute(name, "tiny", {})
            own = nbformat.read(executed_copy("tiny", "01_second"), 4).cells[-1].outputs[0].text
        return (tmp_path / "imported.txt").read_text(encoding="utf-8").split(), own.strip()

    return execute


@pytest.fixture(autouse=True)
def no_kernel_stays():
    yield
    left = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert not [command for command in left if "ipykernel" in command]


@pytest.mark.process
def test_the_next_notebook_is_executed_where_its_imports_are_already_done(executed):
    imported, own = executed("")
    assert imported == [own]


@pytest.mark.process
@pytest.mark.parametrize("then", [CHANGE, KILL], ids=["the code has changed", "the kernel was killed"])
def test_a_kernel_that_is_of_no_use_any_more_is_replaced(executed, then):
    imported, own = executed(then)
    assert len(imported) == 2 and imported[1] == own


@pytest.mark.process
def test_a_failure_ends_the_next_kernel_too(executed):
    with pytest.raises(StageFailed, match="ZeroDivisionError"):
        executed("1 / 0")
