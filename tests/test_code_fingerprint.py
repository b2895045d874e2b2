"""What changes the fingerprint of a notebook's code, and what does not."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dc3.machine.fingerprints import PACKAGE, imported_files, module_fingerprint, notebook_fingerprint
from dc3.machine.paths import NOTEBOOKS

CELLS = ["x = 1", "stage.output('a')", "stage.finish(x=x)", "panel"]


def fingerprint(folder, cells):
    nbformat.write(new_notebook(cells=cells), folder / "01_x.ipynb")
    return notebook_fingerprint("01_x", folder)


@pytest.fixture
def known(tmp_path):
    return fingerprint(tmp_path, [new_code_cell(source) for source in CELLS])


@pytest.mark.parametrize(
    "place, cell",
    [
        (1, new_markdown_cell("words")),
        (1, new_code_cell("# a comment alone")),
        (1, new_code_cell("print(x)", metadata={"tags": ["scratch"]})),
        (1, new_code_cell("x = 2", metadata={"tags": ["injected-parameters"]})),
        (4, new_code_cell("print(x)")),
        (4, new_code_cell("half a thought (")),
    ],
)
def test_looking_around_changes_nothing(tmp_path, known, place, cell):
    cells = [new_code_cell(source) for source in CELLS]
    cells.insert(place, cell)
    assert fingerprint(tmp_path, cells) == known


@pytest.mark.parametrize("line", ["x = 2", "!nvidia-smi", "%matplotlib inline"])
def test_a_line_before_the_stage_is_finished_is_code_of_any_kind(tmp_path, known, line):
    cells = [new_code_cell(source) for source in CELLS]
    cells.insert(1, new_code_cell(line))
    assert fingerprint(tmp_path, cells) != known


def test_a_saved_cell_that_is_no_python_is_named(tmp_path):
    with pytest.raises(SyntaxError, match=r"01_x.ipynb, cell \[1\]: the saved source is not Python"):
        fingerprint(tmp_path, [new_code_cell("x = 1"), new_code_cell("half a thought (")])


def package(folder):
    """A package like dc3: a room within a room, and a notebook's cell that imports a module two levels down."""
    (folder / "machine/disk").mkdir(parents=True)
    for room in ("machine", "machine/disk"):
        (folder / room / "__init__.py").write_text('"""A room."""\n', encoding="utf-8")
    (folder / "machine/disk/files.py").write_text("from dc3.arrays import rows\nx = 1\n", encoding="utf-8")
    (folder / "machine/disk/locks.py").write_text("y = 1\n", encoding="utf-8")
    (folder / "arrays.py").write_text("rows = 1\n", encoding="utf-8")
    return folder


IMPORTS = [
    "import dc3.machine.disk.files",
    "from dc3.machine.disk import files",
    "from dc3.machine.disk.files import x",
    "def late():\n    from dc3.machine.disk.files import x",
]


@pytest.mark.parametrize("imported", IMPORTS)
@pytest.mark.parametrize("edited", ["machine/disk/files.py", "arrays.py", "machine/disk/__init__.py"])
def test_an_edit_two_levels_down_changes_the_stages_code(tmp_path, imported, edited):
    dc3 = package(tmp_path / "dc3")
    cells = [new_code_cell(imported), new_code_cell("stage.finish()")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "01_x.ipynb")
    before = notebook_fingerprint("01_x", tmp_path, dc3)
    (dc3 / edited).write_text((dc3 / edited).read_text(encoding="utf-8") + "z = 2\n", encoding="utf-8")
    assert notebook_fingerprint("01_x", tmp_path, dc3) != before


def test_an_edit_of_what_is_not_imported_changes_nothing(tmp_path):
    dc3 = package(tmp_path / "dc3")
    before = module_fingerprint("machine.disk.files", dc3)
    (dc3 / "machine/disk/locks.py").write_text("y = 2\n", encoding="utf-8")
    assert module_fingerprint("machine.disk.files", dc3) == before


def test_a_figures_style_is_code(tmp_path):
    dc3 = package(tmp_path / "dc3")
    before = module_fingerprint("machine.disk.files", dc3)
    (dc3 / "machine/disk/files.mplstyle").write_text("font.size: 8\n", encoding="utf-8")
    assert module_fingerprint("machine.disk.files", dc3) != before


def test_every_module_of_the_package_is_found_by_its_name():
    for file in PACKAGE.rglob("*.py"):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            assert file in imported_files(f"import dc3.{name}"), file


STAGE = """
from typing import TYPE_CHECKING
from dc3 import always
if TYPE_CHECKING:
    from dc3 import types_alone

class NotebookStage:
    def train(self):
        from dc3 import images
        return self.settings()
    def settings(self):
        from dc3 import devices
    def show(self):
        from dc3 import figures
"""


def test_what_a_stage_imports_counts_where_its_notebook_uses_it(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/__init__.py").write_text("from dc3.runs.notebook_stage import begin\n", encoding="utf-8")
    (tmp_path / "runs/notebook_stage.py").write_text(STAGE, encoding="utf-8")
    for name in ("always", "types_alone", "images", "devices", "figures"):
        (tmp_path / f"{name}.py").write_text("", encoding="utf-8")
    found = {file.stem for file in imported_files("from dc3 import runs\nstage.train()", tmp_path)}
    assert found == {"__init__", "notebook_stage", "always", "images", "devices"}


@pytest.mark.parametrize("notebook", ["00_teacher", "01_features", "02_binning"])
def test_an_early_stage_does_not_depend_on_the_code_of_later_ones(notebook):
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    source = code[: code.index("stage.finish(")]
    names = {file.relative_to(PACKAGE).as_posix() for file in imported_files(source)}
    assert {"images/datasets.py", "runs/notebook_stage.py", "figures/style.py"} <= names
    assert not names & {"condensed.py", "compensation.py", "strategies.py", "students.py", "fidelity.py"}
