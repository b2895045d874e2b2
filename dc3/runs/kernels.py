"""Kernels: each notebook is executed in a process of its own, and the next one's starts while this one works.

Starting a kernel and importing torch and diffusers takes as long as many a stage of a small run.
"""

import ast
import json
import logging
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync

from dc3.machine import paths
from dc3.machine.files import replacing
from dc3.machine.fingerprints import notebook_fingerprint
from dc3.machine.progress import Relay, relay
from dc3.machine.temporary import temporary_folder
from dc3.runs.stage import StageFailed, executed_copy

if TYPE_CHECKING:
    from jupyter_client.client import KernelClient
    from nbformat import NotebookNode
    from papermill.exceptions import PapermillExecutionError

log = logging.getLogger(__name__)

SOCKET = "kernel"  # jupyter_client appends -1 … -5
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
NO_HISTORY = "--HistoryManager.hist_file=:memory:"  # the user's IPython history is their own
START_SECONDS = 600  # for a kernel and its imports, from a slow disk


class Kernel(AsyncKernelManager):
    """A kernel for one notebook, the client that executes it, and whether there is nothing that it should still do."""

    opened: "KernelClient | None" = None
    idle: bool = True

    def client(self, **options: Any) -> Any:
        """The client that nbclient asks for; `started` closes it."""
        self.opened = super().client(**options)
        return self.opened


@contextmanager
def started(imports: str = "") -> Iterator[Kernel]:
    """A kernel in a process of its own, which executes the `imports` at once, and ends with the block.

    A process that failed may clean up, which takes seconds. Others are killed, so that their memory is free at once.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ[paths.HEADLESS] = "1"
    with kernel_channel() as channel:
        kernel = Kernel(kernel_name="python3", **channel)
        arguments = [NO_HISTORY, *([f"--IPKernelApp.exec_lines={imports}"] if imports else [])]
        folder = str(paths.NOTEBOOKS)  # in the workspace, by which the kernel finds its places
        run_sync(kernel.start_kernel)(extra_arguments=arguments, cwd=folder)
        try:
            yield kernel
        finally:
            if lives(kernel):
                run_sync(kernel.shutdown_kernel)(now=kernel.idle)
            run_sync(kernel.cleanup_resources)()
            if kernel.opened:
                kernel.opened.stop_channels()


def lives(kernel: Kernel) -> bool:
    """Whether the kernel's process runs."""
    return kernel.has_kernel and run_sync(kernel.is_alive)()


def execute_notebook(
    source: Path, target: Path, params: dict[str, Any], bars: Relay | None = None, kernel: Kernel | None = None
) -> None:
    """Executes a notebook with these parameters into `target`, in the folder of notebooks.

    bars: shows the progress bars of the notebook. kernel: a fresh one, which is used up; None: one is started.
    """
    import papermill  # two seconds

    with ExitStack() as own:
        kernel = kernel or own.enter_context(started())
        kernel.idle = False
        papermill.execute_notebook(
            _unformatted(source),
            _unformatted(target),
            params,
            kernel_name="python3",
            progress_bar=False,  # it counts cells, most of which take a moment and one an hour
            stderr_file=bars,
            autosave_cell_every=0,
            start_timeout=START_SECONDS,
            km=kernel,
        )
        kernel.idle = True


def _unformatted(path: Path) -> str:
    """A path for papermill, which fills names in braces with parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextmanager
def failing(name: str, target: Path) -> Iterator[None]:
    """StageFailed where the execution of the notebook `name` into `target` fails."""
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        yield
    except PapermillExecutionError as error:
        raise StageFailed(_failure(name, error)) from None
    except DeadKernelError:
        raise StageFailed(f"{name}.ipynb: its kernel was killed, most often because memory ran out") from None
    except OSError as error:
        message = f"{name}.ipynb: its executed copy {paths.shown(target)} cannot be written: {error}"
        raise StageFailed(message) from None


class _Ahead(NamedTuple):
    """A kernel that has been started for a notebook, and the fingerprint of the code that it imports."""

    name: str
    kernel: Kernel
    code: str
    until: ExitStack


class Kernels:
    """Executes the notebooks of a run, in the order of `names`; a context manager, which leaves no process."""

    def __init__(self, names: Sequence[str]) -> None:
        self._following = dict(pairwise(names))
        self._ahead: _Ahead | None = None

    def __enter__(self) -> "Kernels":
        return self

    def __exit__(self, *raised: object) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead:
            ahead.until.close()

    def execute(self, name: str, run: str, params: dict[str, Any]) -> None:
        """Executes one notebook in a fresh kernel; its executed copy stays in the run, even after a StageFailed."""
        target = executed_copy(run, name)
        partial = target.with_suffix(".partial.ipynb")
        began = time.monotonic()
        try:
            with failing(name, target):
                target.parent.mkdir(parents=True, exist_ok=True)
                with relay() as bars, self._kernel_for(name) as kernel:
                    if following := self._following.get(name):
                        self.start_ahead(following)
                    execute_notebook(paths.NOTEBOOKS / f"{name}.ipynb", partial, params, bars, kernel)
        finally:
            _keep_copy(partial, target)
        log.debug("%s: %.1f s with the kernel's start", name, time.monotonic() - began)

    def start_ahead(self, name: str) -> None:
        """Starts the kernel of a notebook, which does its imports while the caller goes on."""
        code = notebook_fingerprint(name)
        with suppress(OSError), ExitStack() as until:  # `execute` tries again, and then it counts
            kernel = until.enter_context(started(_imports(paths.NOTEBOOKS / f"{name}.ipynb")))
            self._ahead = _Ahead(name, kernel, code, until.pop_all())

    @contextmanager
    def _kernel_for(self, name: str) -> Iterator[Kernel]:
        """The kernel that was started ahead for this notebook, if its code is still the same; else a new one."""
        ahead, self._ahead = self._ahead, None
        if ahead and not (ahead.name == name and ahead.code == notebook_fingerprint(name) and lives(ahead.kernel)):
            ahead.until.close()
            ahead = None
        with ahead.until if ahead else ExitStack() as until:
            yield ahead.kernel if ahead else until.enter_context(started())


def _imports(notebook: Path) -> str:
    """The import statements at the top of a notebook: those of its first code cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = next(("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"), "")
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # the notebook's own concern, when it is executed
        return ""
    return "\n".join(ast.unparse(each) for each in statements if isinstance(each, (ast.Import, ast.ImportFrom)))


def _keep_copy(partial: Path, target: Path) -> None:
    """Moves the executed notebook to its name, or removes it when a full disk truncated it."""
    from nbformat.reader import NotJSONError

    try:
        if partial.exists():
            strip_noise(partial, target)
    except (OSError, NotJSONError):
        log.warning("%s could not be written completely: it is not kept", paths.shown(target))
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def kernel_channel() -> Iterator[dict[str, str]]:
    """Settings for the kernel's connection: no ports to race for, and sockets in their own folder.

    By default jupyter_client puts sockets into the working directory, where two runs would share them.
    """
    if os.name != "posix":
        yield {}
        return
    with temporary_folder(room=len(f"/{SOCKET}-12345")) as folder:
        yield {"transport": "ipc", "ip": str(folder / SOCKET)}


def _failure(name: str, error: "PapermillExecutionError") -> str:
    trace = "\n".join(error.traceback) if error.traceback else "".join(traceback.format_exception(error))
    return f"{trace}\n\n{name}.ipynb, cell [{error.exec_count}]: {error.ename}: {error.evalue}"


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
