"""Executed notebooks as documents: removes noise from outputs, copies outputs into the committed notebooks."""

from pathlib import Path
from typing import TYPE_CHECKING

from dc3.machine.files import replacing

if TYPE_CHECKING:
    from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def strip_noise(executed: Path, target: Path) -> None:
    """Writes `executed` to `target` without progress bars, widget state, timings and log lines of libraries."""
    import nbformat  # half a second

    notebook = nbformat.read(executed, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_noise(output, cell)]
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("papermill", None)
    notebook.metadata["kernelspec"] = KERNELSPEC
    with replacing(target) as partial:
        nbformat.write(notebook, partial)


def _is_noise(output: "NotebookNode", cell: "NotebookNode") -> bool:
    """Whether an output is a progress bar; a cell tagged `keep-widget` keeps its widget."""
    if "keep-widget" in cell.metadata.get("tags", []):
        return False
    return WIDGET in output.get("data", {}) or (output.output_type == "stream" and output.name == "stderr")


def take_outputs(executed: Path, source: Path) -> None:
    """Puts the outputs of an executed copy into the committed notebook it came from; its prose may have changed since.

    ValueError when the copy has other code, or parameters that are not the defaults.
    """
    import nbformat

    copy, notebook = nbformat.read(executed, as_version=4), nbformat.read(source, as_version=4)
    ran, kept = ([cell for cell in each.cells if cell.cell_type == "code"] for each in (copy, notebook))
    if [cell.source for cell in ran] != [cell.source for cell in kept]:
        raise ValueError(f"{executed.name}: its code or parameters are not the notebook's: execute it again")
    for cell, executed_cell in zip(kept, ran, strict=True):
        cell.outputs, cell.execution_count = executed_cell.outputs, executed_cell.execution_count
    notebook.metadata = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    with replacing(source) as partial:
        nbformat.write(notebook, partial)
