"""A workshop for tests of the runner: tiny notebooks, whose cells are executed here or by the dc3 command as users do.

`Workshop.run` executes them in this process, which takes a moment. `Workshop.dc3` and `begin` start the command in a
process of its own, with real kernels, which takes seconds. `Workshop.command` is the command in this process, for what
executes no notebook.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import nbformat
import pytest
from IPython.display import display
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner

from dc3.cli import app, joined_pairs
from dc3.machine import paths
from dc3.runs.runner import StageFailed, run_notebooks
from dc3.runs.stage import executed_copy

PARAMETERS = 'run: RunName = "tiny"  # name of the run\n'
COUNT = [
    "from pathlib import Path\nfrom dc3 import runs\nfrom dc3.runs.parameters import PositiveInt, RunName",
    PARAMETERS + "n: PositiveInt = 3  # how far to count\nshift: int = 0  # has no effect on the output",
    'stage = runs.begin("00_count", globals())\n'
    'stage.output("numbers.txt").write_text(",".join(map(str, range(n))))\n'
    "stage.finish(count=n)",
]
TOTAL = [
    "from dc3 import runs\nfrom dc3.runs.parameters import PositiveInt, RunName",
    PARAMETERS + "factor: PositiveInt = 2  # what the total is multiplied with",
    'stage = runs.begin("01_total", globals())\n'
    'numbers = stage.input("00_count/numbers.txt").read_text().split(",")\n'
    'stage.output("total.txt").write_text(str(factor * sum(map(int, numbers))))\n'
    '(stage.figures / "total_figure.txt").write_text("a figure")\n'
    "stage.finish()",
]
SAID = re.compile(r"stage \d+ of \d+: (\w+) +(.*)")
TINY = MappingProxyType({"00_count": COUNT, "01_total": TOTAL})


def write_notebook(folder, name, cells):
    code = [new_code_cell(source) for source in cells]
    code[1].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=code, metadata=metadata), folder / f"{name}.ipynb")


def execute_here(name, run, params):
    """The cells of a notebook in this process, as papermill has a kernel execute them. StageFailed when one raises."""
    notebook = nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    namespace = {"display": display}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        cell.outputs = []
        try:
            exec(cell.source, namespace)
        except Exception as error:
            raise StageFailed(f"{name}.ipynb, cell [{number}]: {type(error).__name__}: {error}") from error
        if "parameters" in cell.metadata.get("tags", []):
            namespace |= params
    executed_copy(run, name).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, executed_copy(run, name))


class Workshop:
    """A folder with notebooks, runs, and a params file that sets n to 4."""

    def __init__(self, root: Path, notebooks=TINY):
        self._lies_in(root)
        self.notebooks.mkdir()
        self.params.write_text("n: 4\n", encoding="utf-8")
        for name, cells in notebooks.items():
            write_notebook(self.notebooks, name, cells)

    def _lies_in(self, root):
        self.root, self.notebooks, self.params = root, root / "notebooks", root / "tiny.yaml"

    def copy(self, root: Path) -> "Workshop":
        """The same, to change at will."""
        copy = object.__new__(type(self))
        copy._lies_in(shutil.copytree(self.root, root))
        return copy

    def read(self, name, run="tiny"):
        return (self.root / "runs" / run / name).read_text(encoding="utf-8")

    def entered(self):
        """Runs, figures and notebooks of this process are those of the workshop."""
        return home_at(self.root, self.notebooks)

    def run(self, start="", force=False, until="", **values) -> dict[str, str]:
        """What the runner said of each stage before its end: "up to date", "running (…)" or "shared from run …"."""
        with self.entered(), heard() as lines:
            run_notebooks({"run": "tiny", "n": 4} | values, start, force, until, execute=execute_here)
        return dict(found.groups() for line in lines if (found := SAID.match(line)))

    def command(self, *arguments):
        """The dc3 command in this process: .exit_code, .stdout, .stderr."""
        with self.entered():
            return command(*arguments)

    def begin(self, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) -> subprocess.Popen:
        """The dc3 command in a process of its own, in the background."""
        environment = os.environ | {"DC3_HOME": str(self.root), "DC3_NOTEBOOKS": str(self.notebooks)}
        command = [sys.executable, "-m", "dc3.cli", *map(str, arguments)]
        return subprocess.Popen(
            command,
            env=environment,
            cwd=self.root,
            stdout=stdout,
            stderr=stderr,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )

    def dc3(self, *arguments) -> subprocess.CompletedProcess:
        """The dc3 command in a process of its own, to its end."""
        process = self.begin(*arguments)
        output, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@contextmanager
def home_at(folder: Path, notebooks: Path = paths.NOTEBOOKS) -> Iterator[None]:
    """What DC3_HOME and DC3_NOTEBOOKS do for other processes, for this one."""
    places = {"HOME": folder, "RUNS": folder / "runs", "FIGURES": folder / "figures", "NOTEBOOKS": notebooks}
    places["FEATURES"] = folder / "runs/.features"
    with pytest.MonkeyPatch.context() as patch:
        for name, place in places.items():
            patch.setattr(paths, name, place)
        yield


def command(*arguments):
    """The dc3 command in this process: .exit_code, .stdout, .stderr."""
    return CliRunner().invoke(app, joined_pairs([str(argument) for argument in arguments]))


@contextmanager
def heard() -> Iterator[list[str]]:
    """The lines that dc3 logs."""
    lines: list[str] = []
    handler, log = logging.Handler(), logging.getLogger("dc3")
    handler.emit = lambda record: lines.append(record.getMessage())
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def executed(said: dict[str, str]) -> list[str]:
    """The stages that were executed, of what the runner said of all."""
    return [name for name, what in said.items() if what.startswith("running")]


def stages_run(result: subprocess.CompletedProcess) -> list[str]:
    """The same, of what the command printed."""
    said = filter(None, map(SAID.match, result.stdout.splitlines()))
    return [found[1] for found in said if found[2].startswith("running (")]
