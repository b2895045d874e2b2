import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dc3.runs.kernels import WIDGET, strip_noise, take_outputs


def write(path, *cells):
    nbformat.write(new_notebook(cells=list(cells), metadata={"widgets": {"state": {}}, "papermill": {"x": 1}}), path)
    return path


def executed_cell(source, *outputs):
    return new_code_cell(source, outputs=list(outputs), execution_count=1, metadata={"papermill": {"duration": 1}})


def test_progress_bars_timings_and_widget_state_go_and_results_stay(tmp_path):
    text = new_output("stream", name="stdout", text="100 picks\n")
    bar = new_output("stream", name="stderr", text="10%|#")
    widget = new_output("display_data", data={WIDGET: {"model_id": "x"}, "text/plain": "0%"})
    source = write(tmp_path / "in.ipynb", executed_cell("work()", bar, widget, text))
    strip_noise(source, tmp_path / "out.ipynb")
    cleaned = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert cleaned.cells[0].outputs == [text]
    assert cleaned.cells[0].metadata == {} and set(cleaned.metadata) == {"kernelspec"}


def test_outputs_are_taken_back_into_the_notebook_they_came_from(tmp_path):
    source = write(tmp_path / "00_a.ipynb", new_markdown_cell("Its text, edited since."), new_code_cell("1 + 1"))
    result = new_output("execute_result", data={"text/plain": "2"}, execution_count=1)
    ran = write(tmp_path / "ran.ipynb", new_markdown_cell("Its text."), executed_cell("1 + 1", result))
    take_outputs(ran, source)
    text, code = nbformat.read(source, as_version=4).cells
    assert code.outputs == [result] and code.execution_count == 1 and text.source == "Its text, edited since."


def test_a_copy_with_other_parameters_is_refused(tmp_path):
    source = write(tmp_path / "00_a.ipynb", new_code_cell("n = 1"))
    ran = write(tmp_path / "ran.ipynb", executed_cell("n = 1"), executed_cell("n = 2"))
    with pytest.raises(ValueError, match="code or parameters"):
        take_outputs(ran, source)
