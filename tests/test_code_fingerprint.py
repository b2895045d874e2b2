"""What changes the fingerprint of a notebook's code, and what does not."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dc3.code_fingerprint import notebook_fingerprint

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
    with pytest.raises(SyntaxError, match=r"01_x.ipynb, cell \[1\] as it was saved is not Python"):
        fingerprint(tmp_path, [new_code_cell("x = 1"), new_code_cell("half a thought (")])
