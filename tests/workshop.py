"""A workshop for tests of the runner: tiny notebooks, and the dc3 command in processes of its own as users start it."""

import os
import subprocess
import sys
from types import MappingProxyType

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

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


def write_notebook(folder, name, cells):
    code = [new_code_cell(source) for source in cells]
    code[1].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=code, metadata=metadata), folder / f"{name}.ipynb")


class Workshop:
    """A folder with notebooks, params file and runs, and the dc3 command in it."""

    def __init__(self, root, notebooks=MappingProxyType({"00_count": COUNT, "01_total": TOTAL})):
        self.root, self.notebooks = root, root / "notebooks"
        self.notebooks.mkdir()
        self.params = root / "tiny.yaml"
        self.params.write_text("n: 4\n")
        for name, cells in notebooks.items():
            write_notebook(self.notebooks, name, cells)

    def dc3(self, *arguments):
        process = self.begin(*arguments)
        output, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def begin(self, *arguments):
        environment = os.environ | {"DC3_HOME": str(self.root), "DC3_NOTEBOOKS": str(self.notebooks)}
        command = [sys.executable, "-m", "dc3.cli", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=environment, cwd=self.root, **pipes)

    def start(self, *arguments):
        """The runner in the background."""
        return self.begin("run", self.params, *arguments)

    def run(self, *arguments):
        return self.dc3("run", self.params, *arguments)

    def read(self, name, run="tiny"):
        return (self.root / "runs" / run / name).read_text()


def stages_run(result):
    return [line.split()[0] for line in result.stdout.splitlines() if " running (" in line]
